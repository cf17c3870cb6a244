"""What every op owes: a fake, an opcheck, a public function with its reference and its cost. Functions of a tree."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

#: A schema that takes or gives tensors; strings may be broken over lines.
SCHEMA = re.compile(r'\bm\.def\(\s*"(\w+)\(([^;]*?)\)\s*;', re.DOTALL)


def ops(root: Path) -> list[str]:
    """Ops that csrc/ declares, but for those that take no tensor or give nothing: no graph holds them."""
    sources = sorted((root / "csrc").rglob("*.cpp"))
    declared = [match for source in sources for match in SCHEMA.findall(source.read_text())]
    return sorted({name for name, rest in declared if "Tensor" in rest and "-> ()" not in rest})


def used(node: ast.AST) -> set[str]:
    """Names ``x`` of ``torch.ops.pyprod.x`` and ``OPS.x`` anywhere in `node`."""
    attributes = (n for n in ast.walk(node) if isinstance(n, ast.Attribute))
    return {n.attr for n in attributes if ast.unparse(n.value) in ("torch.ops.pyprod", "OPS")}


def called(function: ast.FunctionDef, tree: ast.Module) -> set[str]:
    """Ops that `function` calls, by their own names or by those that the module gave them (``_op = ...``)."""
    given = {
        target.id: used(statement.value)
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    names = {n.id for n in ast.walk(function) if isinstance(n, ast.Name)}
    return used(function).union(*(given[name] for name in names & given.keys()))


def faces(root: Path) -> Iterator[tuple[Path, ast.Module, set[str]]]:
    """Files of pyprod/kernels with what they publish."""
    for path in sorted((root / "pyprod/kernels").glob("[a-z]*.py")):
        tree = ast.parse(path.read_text())
        lists = (n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__")
        yield path, tree, {name for value in lists for name in ast.literal_eval(value)}


def without_fake(root: Path) -> list[str]:
    """Ops that can't be traced."""
    decorated = {
        decorator.args[0].value
        for _, tree, _ in faces(root)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for decorator in function.decorator_list
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "fake"
        if isinstance(decorator.args[0], ast.Constant)
    }
    return [
        f'{op} has no fake: decorate its shape function with @fake("{op}")' for op in ops(root) if op not in decorated
    ]


def without_opcheck(root: Path) -> list[str]:
    """Ops that no test file with an ``opcheck`` names."""
    checked: set[str] = set()
    for path in sorted((root / "tests/kernels").glob("test_*.py")):
        text = path.read_text()
        if "opcheck(" in text:
            checked |= used(ast.parse(text))
    return [f"{op} has no torch.library.opcheck in tests/kernels" for op in ops(root) if op not in checked]


def is_twin(function: str, name: str, twin: str) -> bool:
    """Whether `name` is the twin of `function`, or of its family: ``norm_cost`` will do for ``add_rms_norm``."""
    words = iter(function.split("_"))
    return name.endswith(f"_{twin}") and all(word in words for word in name.removesuffix(f"_{twin}").split("_"))


def without_twins(root: Path) -> list[str]:
    """Ops that no public function calls, and public functions around an op without reference or cost."""
    wrong = []
    declared, reached = set(ops(root)), set[str]()
    for path, tree, public in faces(root):
        for function in (n for n in tree.body if isinstance(n, ast.FunctionDef)):
            found = called(function, tree) & declared
            if not found or function.name not in public:
                continue
            reached |= found
            for twin in ("reference", "cost"):
                if not any(is_twin(function.name, name, twin) for name in public):
                    wrong.append(f"{path.relative_to(root)}: {function.name} has no public {function.name}_{twin}")
    return [f"{op} is called by no public function of pyprod/kernels" for op in sorted(declared - reached)] + wrong
