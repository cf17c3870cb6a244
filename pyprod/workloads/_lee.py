"""The Lee corpora: short English news texts, 50 of them compared in pairs by people."""

from __future__ import annotations

from pyprod.workloads import _assets, _sources

_DATA = "gensim/test/test_data/"
LEE = _assets.Asset(
    name="gensim-4.4.0",
    files={
        "lee.cor": "a878f9a58f6743c32985c56c2f2f75988386216b38a4023a01fd3bcf7884d93e",
        "lee_background.cor": "5d78d6dafd953bbf65797bef09a9ffb9ec430583381be705f8fd460000f370fb",
        "similarities0-1.txt": "23762bc6b728897144dda3d324a2c032dc1e059e1009806226d64b6dd123ed79",
    },
    size=27_809_988,
    sources=(
        _sources.package(
            "gensim==4.4.0",
            "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
            (_DATA + "lee.cor", _DATA + "lee_background.cor", _DATA + "similarities0-1.txt"),
            # Only texts are read, so one machine's wheel serves every machine: the digest is always the same.
            ("--only-binary=:all:", "--platform=manylinux_2_28_x86_64", "--python-version=3.11", "--abi=cp311"),
        ),
    ),
)


def texts(name: str) -> list[str]:
    """The texts of one corpus, a line each: "lee.cor" (50, rated) or "lee_background.cor" (300 others)."""
    return (_assets.fetch(LEE) / name).read_text(encoding="latin-1").splitlines()
