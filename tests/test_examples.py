"""The example in plain PyTorch learns on photos, and imports no library of OpenMMLab."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from photos import find_photos
from torchvision.models import resnet18

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "plain_pytorch.py"
RUN = """
import json, runpy, sys
import torch
torch.set_num_threads(1)
main, losses = runpy.run_path({example!r})["main"], []
for words in {runs!r}:
    torch.manual_seed(0)
    losses.append(main(words))
families = sorted({{name.partition(".")[0] for name in sys.modules}})
print(json.dumps(dict(losses=losses, libraries=families)))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    archive = find_photos("caltech101_112")
    if archive is None:
        pytest.skip("caltech101_112.tar is not here; set MMSALMASK_PHOTOS to the folder it lies in")
    place = tmp_path_factory.mktemp("photos")
    with tarfile.open(archive) as tar:
        images = [member for member in tar.getmembers() if member.name.endswith(".jpg")]
        for member in images[:: len(images) // 64][:64]:
            tar.extract(member, place, filter="data")
    return place


def run(*runs: list[str]) -> subprocess.CompletedProcess:
    script = [sys.executable, "-c", RUN.format(example=str(EXAMPLE), runs=runs)]
    return subprocess.run(script, capture_output=True, text=True, cwd=ROOT)


def test_it_learns_on_photos_without_openmmlab(folder, tmp_path):
    out = tmp_path / "encoder.pth"
    small = [str(folder), "--batch-size", "16", "--size", "32", "--queue", "32", "--out", str(out)]
    done = run([*small, "--epochs", "2", "--lr", "1e-9"], [*small, "--epochs", "4"])
    assert done.returncode == 0, done.stderr
    *epochs, told = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in epochs] == [f"epoch {n}" for n in (1, 2, 1, 2, 3, 4)]
    told = json.loads(told)
    untrained, trained = (np.reshape(losses, (-1, 4)).mean(1) for losses in told["losses"])
    assert np.isfinite(trained).all()
    # In the first epoch the queue still holds noise, from which keys are told easily.
    assert trained[-1] < trained[1] - 0.1
    assert trained[-1] < untrained[-1] - 0.4
    others = {name for name in told["libraries"] if name.startswith("mm")} - {"mmap", "mmsalmask"}
    assert others == set()
    state, net = torch.load(out, weights_only=True), resnet18()
    missing, unexpected = net.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["fc.weight", "fc.bias"], [])


def test_a_folder_with_too_few_images_is_refused_in_a_sentence(tmp_path):
    done = run([str(tmp_path)])
    assert done.returncode == 2
    assert "holds 0 images, fewer than a batch" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_can_be_read_in_one_sitting():
    assert len(EXAMPLE.read_text().splitlines()) <= 125
