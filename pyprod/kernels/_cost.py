"""What a call must do at least, for rooflines."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cost:
    """The least that a call does, whoever implements it.

    Attributes:
        ops: integer multiplications and additions of the matrix product, 2 M N K; 0 where there is none.
        bytes: read once plus written once, none of it cached.
    """

    ops: int
    bytes: int
