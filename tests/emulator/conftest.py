from pathlib import Path

import pytest

from tests.emulator.library import compile_library


@pytest.fixture(scope="session")
def emulator_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_library(tmp_path_factory.mktemp("emulator"))
