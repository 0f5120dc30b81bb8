"""Fixtures shared by all tests."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

# Results to the last bit are promised for CPUs: a GPU is hidden from all tests but those marked
# ``gpu``, which `make test-gpu` runs.
if "MMSALMASK_TEST_GPU" not in os.environ:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest
import torch
from mmengine.registry import DefaultScope

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
sys.path.insert(0, str(ROOT / "tests"))

from photos import find_photos  # noqa: E402

import mmsalmask  # noqa: E402, F401  before any test imports mmcv, which looks for its operators

torch.set_num_threads(1)  # pytest-xdist runs a process per core


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a GPU: `make test-gpu` where there is one")


@pytest.fixture(autouse=True)
def _own_scope(monkeypatch):
    """A runner sets the default scope for the whole process: no test may lean on another's."""
    monkeypatch.setattr(DefaultScope, "_instance_dict", DefaultScope._instance_dict.copy())


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Unpack a set of real photos by name and return its folder; skip the test where it is absent.

    ``photos("coco-mini")`` → the folder that holds what ``coco-mini.tar`` contains.
    """
    unpacked = {}

    def get(name: str) -> Path:
        if name not in unpacked:
            archive = find_photos(name)
            if archive is None:
                pytest.skip(
                    f"{name}.tar is not here; set MMSALMASK_PHOTOS to the folder it lies in"
                )
            target = tmp_path_factory.mktemp(name)
            with tarfile.open(archive) as tar:
                tar.extractall(target, filter="data")
            unpacked[name] = target
        return unpacked[name]

    return get


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own with two megabytes of room."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount here")
    if done.returncode:
        pytest.skip("no right to mount a small disk here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
