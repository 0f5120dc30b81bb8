"""The heart, where saliency, masks, losses and views are, needs PyTorch and nothing else."""

import ast
import doctest
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import mmsalmask

PACKAGE = Path(mmsalmask.__file__).parent
ROOMS = ("augmentation", "losses", "masking", "saliency")
FILES = ("checks", "device", "errors", "parts")
MODULES = sorted(
    [PACKAGE / f"{name}.py" for name in FILES]
    + [file for room in ROOMS for file in (PACKAGE / room).rglob("*.py")]
)


def name_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imported(file: Path) -> set[str]:
    """Every module that a file imports, inside of functions, too."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add(node.module)
    return names


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_a_module_of_the_heart_imports_torch_the_standard_library_and_the_heart(file):
    for name in imported(file):
        top, *rest = name.split(".")
        own = top == "mmsalmask" and rest[0] in (*ROOMS, *FILES)
        assert own or top == "torch" or top in sys.stdlib_module_names, name


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_the_examples_in_its_docstrings_run(file):
    assert doctest.testmod(import_module(name_of(file))).failed == 0


ALONE = """
import sys
import torch
before = set(sys.modules)
for name in {names!r}:
    __import__(name)
print(*sorted({{name.partition(".")[0] for name in set(sys.modules) - before}}))
"""


def test_importing_the_heart_imports_no_other_library():
    script = ALONE.format(names=[name_of(file) for file in MODULES])
    run = [sys.executable, "-c", script]
    done = subprocess.run(run, capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    found = done.stdout.split()
    assert "mmsalmask" in found
    # What torch itself imports when a part of it is first used is torch's.
    assert set(found) - set(sys.stdlib_module_names) <= {"mmsalmask", "torch"}
