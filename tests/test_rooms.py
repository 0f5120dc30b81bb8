"""Imports run down the rooms of the package, and no circle stands between two of them."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mmsalmask"

# From the bottom to the top. A room imports those of lower rows, and of its own row those that do
# not import it.
ROWS = [
    {"compat", "checks", "device", "errors", "files", "parts", "provenance", "registry", "shipped"},
    {"jobs", "torchrun", "cli"},
    {"saliency", "masking", "losses", "augmentation"},
    {"checkpoint", "config"},
    {"algorithms", "data"},
    {"evaluation"},
    {"visualization"},
    {"engine"},
    {"ablation", "downstream", "depth"},
    {"api"},
    {"commands"},
]
ROW = {room: number for number, rooms in enumerate(ROWS) for room in rooms}
# The package's own files stand outside: its version and lazy names, and its command.
FRONT = ("__init__", "__main__")


def imports(source: str, file: Path) -> set[str]:
    """The rooms that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("mmsalmask.")}
    return found


def rooms() -> dict[str, dict[str, set[str]]]:
    """The imports of each room: room → the files that import it."""
    found: dict[str, dict[str, set[str]]] = {}
    for file in PACKAGE.rglob("*.py"):
        if ".mim" in file.parts:
            continue
        path = file.relative_to(PACKAGE)
        room = path.parts[0].removesuffix(".py")
        for other in imports(file.read_text(encoding="utf-8"), path) - {room}:
            found.setdefault(room, {}).setdefault(other, set()).add(str(path))
    return {room: others for room, others in found.items() if room not in FRONT}


def is_room(name: str) -> bool:
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()


def test_every_room_has_its_place():
    found = {path.name.removesuffix(".py") for path in PACKAGE.iterdir()}
    found -= {*FRONT, "__pycache__", ".mim"}
    assert {name for name in found if is_room(name)} - set(ROW) - {"py.typed"} == set()


def test_no_import_runs_upward():
    upward = {
        f"{room} imports {other}: {sorted(files)}"
        for room, others in rooms().items()
        for other, files in others.items()
        if is_room(other) and ROW[other] > ROW[room]
    }
    assert upward == set()


def test_no_circle_stands_between_rooms():
    graph = {
        room: {other for other in others if is_room(other)} for room, others in rooms().items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the rooms


@pytest.mark.parametrize(
    "line",
    [
        "import mmsalmask.engine.launch",
        "from mmsalmask.engine import launch",
        "from mmsalmask import engine",
        "def f():\n    from mmsalmask.engine.hooks import knn",
    ],
)
def test_every_kind_of_import_is_seen(line):
    assert imports(line, Path("here.py")) == {"engine"}


def test_library_code_imports_neither_tools_nor_benchmarks():
    names = {
        path.stem
        for folder in ("tools", "benchmarks")
        for path in (PACKAGE.parent / folder).glob("*.py")
    }
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.module.split(".")[0] not in names, f"{file}:{node.lineno}"
