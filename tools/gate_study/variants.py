"""Edits of this project: some that change no computation, some that add counted work to several benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ACTIVATION, NORM = "csrc/activation_quantize/ops.cpp", "csrc/norm/ops.cpp"
LINEAR, GEMM, WRAPPER = "pyprod/nn/linear.py", "pyprod/kernels/gemm.py", "pyprod/kernels/norm.py"


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
        counts: by benchmark that is slower, how many units of work its call does again; empty for an edit that changes
            nothing.
    """

    name: str
    edits: Sequence[Edit]
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def null(self) -> bool:
        return not self.counts


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


@dataclass(frozen=True)
class Work:
    """Work that one benchmark's call can do again, counted in units.

    Attributes:
        unit: what is done again.
        counts: units for each of `LEVELS`, about so many percent of the call on the machine where they were chosen.
        whole: units that take half as long as the call or more: what one costs is learned from so many.
        again: the edit that does so many units again.
        touches: other benchmarks that it slows down a little.
    """

    benchmark: str
    unit: str
    counts: Sequence[int]
    whole: int
    again: Callable[[int], Edit]
    touches: Sequence[str] = ()


def _gelu(count: int) -> Edit:
    statement = "      kernel(row, y);\n"
    return Edit(ACTIVATION, statement, f"{statement}      if (m < {count} && k == 1536) kernel(row, y);\n")


def _norm(count: int) -> Edit:
    statement = "      kernel(norm, row, floats);\n"
    return Edit(NORM, statement, f"{statement}      if (m < {count} && norm.k == 384) kernel(norm, row, floats);\n")


def _glue(count: int) -> Edit:
    statement = '    refuse_gradient("rms_norm_quantize", x, weight)\n'
    return Edit(WRAPPER, statement, statement + "    isinstance(x, Tensor)\n" * count)


def _layer(count: int) -> Edit:
    statement = "        packed = PackedWeight(self.weight, self.out_features, self.in_features)\n"
    again = "            torch.ops.pyprod.quantize_per_token.default(x)\n" * count
    return Edit(LINEAR, statement, f"{statement}        if self.in_features == 384 and len(x) == 128:\n{again}")


#: Percent that a level's work is about.
LEVELS = (1, 2, 3, 5, 10)
WORKS = (
    Work("gelu_quantize/128x1536", "row in C++", (1, 3, 4, 7, 13), 128, _gelu),
    Work("layer_norm_quantize/128x384", "row in C++", (2, 3, 5, 8, 17), 128, _norm, ("mlp_fused/128",)),
    Work("rms_norm_quantize/1x4096", "check in Python", (2, 3, 5, 9, 17), 200, _glue),
    Work("mlp/128", "quantization in a layer", (1, 2, 4, 6, 12), 60, _layer, ("mlp/1",)),
)
#: The variant of `Work.whole`.
WHOLE = "all the work again"


def _injection(name: str, counts: Sequence[int]) -> Variant:
    edits = [work.again(count) for work, count in zip(WORKS, counts, strict=True)]
    return Variant(name, edits, {work.benchmark: count for work, count in zip(WORKS, counts, strict=True)})


def _square(row: int) -> Variant:
    """Each variant adds another level to each benchmark: a Latin square."""
    levels = [(row + column) % len(LEVELS) for column in range(len(WORKS))]
    shares = ", ".join(f"{LEVELS[level]}%" for level in levels)
    return _injection(f"about {shares}", [work.counts[level] for work, level in zip(WORKS, levels, strict=True)])


INJECTIONS = (*map(_square, range(len(LEVELS))), _injection(WHOLE, [work.whole for work in WORKS]))
VARIANTS = {variant.name: variant for variant in (*NULLS, *INJECTIONS)}
