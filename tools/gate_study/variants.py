"""Edits of this project: some that change no computation, some that add a known share of work to one benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ACTIVATION, NORM = "csrc/activation_quantize/ops.cpp", "csrc/norm/ops.cpp"
LINEAR, GEMM = "pyprod/nn/linear.py", "pyprod/kernels/gemm.py"


@dataclass(frozen=True)
class Edit:
    """Replace `old`, which must occur, by `new` in a file."""

    path: str
    old: str
    new: str

    def apply(self, root: Path) -> None:
        """Change the file.

        Raises:
            LookupError: the text is not there: the study is older than the code.
        """
        path = root / self.path
        text = path.read_text()
        if self.old not in text:
            raise LookupError(f"{self.path} has no {self.old!r} any more: mend tools/gate_study/variants.py")
        path.write_text(text.replace(self.old, self.new, 1))


@dataclass(frozen=True)
class Variant:
    """A HEAD to be gated against the unchanged BASE.

    Attributes:
        benchmark: the one that is slower; empty for an edit that changes nothing.
        share: by how much, counted; 0.03 is 3%.
    """

    name: str
    edits: Sequence[Edit]
    benchmark: str = ""
    share: float = 0.0

    @property
    def null(self) -> bool:
        return not self.benchmark


#: A function that nobody calls: what the linker puts behind it moves.
_UNUSED = """
namespace pyprod::activation_quantize {
__attribute__((visibility("default"), used)) int never_called(int n) {
  int sum = 0;
  for (int i = 0; i < n; ++i) sum = sum * 31 + i * i;
  return sum;
}
}  // namespace pyprod::activation_quantize

namespace pyprod::activation_quantize {
namespace {
"""

NULLS = (
    Variant("comment", [Edit(path, "\nnamespace {\n", "\n// A remark.\nnamespace {\n") for path in (ACTIVATION, NORM)]),
    Variant("unused function", [Edit(ACTIVATION, "\nnamespace pyprod::activation_quantize {\nnamespace {\n", _UNUSED)]),
    Variant("link order", [Edit("setup.py", 'sources("*.cpp", "*.cu") if', 'reversed(sources("*.cpp", "*.cu")) if')]),
    Variant(
        "import order",
        [
            Edit(
                GEMM, "\nimport torch\n", "\nimport decimal  # noqa: F401\nimport json  # noqa: F401\n\nimport torch\n"
            ),
            Edit(LINEAR, "\nimport torch\n", "\nimport fractions  # noqa: F401\n\nimport torch\n"),
        ],
    ),
    Variant("docstring", [Edit(LINEAR, '"""A linear layer with', '"""In other words, a linear layer with')]),
)

#: Both benchmarks have so many rows; of so many of them the work is done twice.
ROWS, REPEATED = 128, (2, 4, 6, 13)


def _repeat_activation(rows: int) -> Variant:
    again = f"      kernel(row, y);\n      if (m < {rows} && k == 1536) kernel(row, y);\n"
    edit = Edit(ACTIVATION, "      kernel(row, y);\n", again)
    return Variant(f"gelu_quantize +{rows}/{ROWS}", [edit], f"gelu_quantize/{ROWS}x1536", rows / ROWS)


def _repeat_norm(rows: int) -> Variant:
    return Variant(
        f"layer_norm_quantize +{rows}/{ROWS}", [_norm_edit(rows)], f"layer_norm_quantize/{ROWS}x384", rows / ROWS
    )


def _norm_edit(rows: int) -> Edit:
    """The norm's rows are run by one statement; see csrc/norm/ops.cpp."""
    statement = "      kernel(norm, row, floats);\n"
    return Edit(NORM, statement, f"{statement}      if (m < {rows} && norm.k == 384) kernel(norm, row, floats);\n")


INJECTIONS = (*map(_repeat_activation, REPEATED), *map(_repeat_norm, REPEATED))
VARIANTS = {variant.name: variant for variant in (*NULLS, *INJECTIONS)}
