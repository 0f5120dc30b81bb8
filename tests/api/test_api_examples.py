"""Every example of the public docstrings runs, and gives what it says."""

import doctest

import pytest
import torch
from api_photos import draw

import mmsalmask as sm

PUBLIC = [name for name in sm.__all__ if name != "__version__"]
EXAMPLES = [
    test
    for name in PUBLIC
    for test in doctest.DocTestFinder(recurse=False).find(getattr(sm, name), name)
    if test.examples
]


def test_there_are_examples_of_what_one_calls():
    named = {test.name for test in EXAMPLES}
    assert {
        "pretrain",
        "get_model",
        "embed",
        "evaluate",
        "diagnose",
        "show_masks",
        "export",
    } <= named


@pytest.fixture(scope="module")
def names(tmp_path_factory, run) -> dict:
    """What the examples take as given."""
    folder = tmp_path_factory.mktemp("examples")
    for kind in ("a", "b"):
        draw(folder / "labelled" / kind, 8, seed=ord(kind))
        draw(folder / "held_out" / kind, 4, seed=1 + ord(kind))
    return {
        "photos": str(draw(folder / "photos", 6)),
        "many_photos": str(draw(folder / "many", 20)),
        "labelled": str(folder / "labelled"),
        "held_out": str(folder / "held_out"),
        "model": sm.get_model("mocov2_resnet18-w16_1xb128-coslr-50e_imagenette-64px"),
        "run": run,
        "torch": torch,
    }


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda test: test.name)
def test_the_example_runs(example, names, tmp_path):
    example.globs = {**names, "out": str(tmp_path)}
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    told = []
    runner.run(example, out=told.append)
    assert not runner.failures, "".join(told)
