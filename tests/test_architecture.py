"""The package's structure: imports point one way, files and functions stay short, dependencies are declared."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "l2l_lightning"

# A room may import from rooms of a lower level only. The package's root imports nothing that it does not hand out.
LEVELS = (
    {"core"},
    {"kernels"},
    {"rules"},
    {"files"},
    {"optimizees", "evaluation", "learned_optimizer"},
    {"data"},
    {"training", "testing"},
    {"cli"},
)

MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60

# torch brings triton along where there is a GPU; kernels import it inside functions.
UNDECLARED = {"triton"}


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {file: ast.parse(file.read_text("utf-8")) for file in sorted(PACKAGE.rglob("*.py"))}
MODULES = {module_name(file): tree for file, tree in TREES.items()}


def imported(tree: ast.Module) -> Iterator[str]:
    """Every module that an import statement names, wherever it stands; ``from package import module`` is the module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, "imports are absolute"
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


def own_imports() -> dict[str, set[str]]:
    """Module -> the modules of this package that it imports."""
    return {
        name: {found for found in imported(tree) if found.partition(".")[0] == PACKAGE.name}
        for name, tree in MODULES.items()
    }


def level(module: str) -> int:
    room = f"{module}.".split(".")[1]
    [found] = [number for number, rooms in enumerate(LEVELS) if room in rooms] if room else [len(LEVELS)]
    return found


def test_no_import_circle() -> None:
    try:
        TopologicalSorter(own_imports()).prepare()
    except CycleError as error:
        pytest.fail(f"import circle: {' <- '.join(error.args[1])}")


def test_every_room_has_a_level() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert rooms - {"__init__"} == set().union(*LEVELS)


def test_imports_point_one_way() -> None:
    def same_room(module: str, other: str) -> bool:
        return f"{module}.".split(".")[1] == f"{other}.".split(".")[1]

    backwards = [
        f"{module} -> {other}"
        for module, others in own_imports().items()
        for other in sorted(others)
        if not same_room(module, other) and level(module) <= level(other)
    ]
    assert not backwards


def test_files_are_short() -> None:
    lengths = {file: len(file.read_text("utf-8").splitlines()) for file in TREES}
    long = {file.relative_to(PACKAGE).as_posix() for file, lines in lengths.items() if lines > MOST_LINES}
    assert long == set()


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the body without its docstring; the signature does not count."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_functions_are_short() -> None:
    long = {
        f"{file.relative_to(PACKAGE).as_posix()}: {node.name}"
        for file, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and body_lines(node) > MOST_LINES_OF_A_FUNCTION
    }
    assert long == set()


def test_direct_imports_are_declared() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[\[<>=~!; ]", line)[0].lower() for line in declared}
    names = {{"pyyaml": "yaml"}.get(name, name) for name in names}
    used = {found.partition(".")[0] for tree in TREES.values() for found in imported(tree)}
    assert used - names - set(sys.stdlib_module_names) - {PACKAGE.name} == UNDECLARED
