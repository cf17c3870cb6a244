"""Our own kernels: a file each, with fake, reference twin and cost model; the compiled side is a room in ``csrc/``.

A file lists its public names in ``__all__``; they are public here too: ``pyprod.kernels.int8_linear``. Type checkers
see them in their own files: ``from pyprod.kernels.linear import int8_linear``.

Importing this package loads the compiled library.

Raises:
    Unavailable: the library is not built, does not load, or can't run on this CPU as asked by PYPROD_ISA.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pyprod import discover
from pyprod.kernels._library import isa, load

load()

__all__ = ["isa"]
for _name in discover.names(__name__):
    _module = importlib.import_module(f"{__name__}.{_name}")
    globals().update({public: getattr(_module, public) for public in _module.__all__})
    __all__ += _module.__all__

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
