"""What a notebook shows of a pretraining: a real kernel is asked."""

import os

import pytest

pytest.importorskip("ipykernel")

from api_photos import TINY
from jupyter_client.manager import start_new_kernel


@pytest.fixture
def kernel(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    manager, client = start_new_kernel(env=dict(os.environ))
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def shown(client, code: str) -> list[str]:
    """The lines that a cell's output ends up as."""
    text = []

    def take(message: dict) -> None:
        if message["msg_type"] == "stream":
            text.append(message["content"]["text"])

    reply = client.execute_interactive(code, output_hook=take, timeout=300)
    assert reply["content"]["status"] == "ok", reply
    return [line.rpartition("\r")[2].rstrip() for line in "".join(text).split("\n")]


def test_a_training_is_one_bar(kernel, images, tmp_path):
    lines = shown(
        kernel,
        "import mmsalmask as sm\n"
        f"run = sm.pretrain({str(images)!r}, {str(tmp_path / 'run')!r}, backbone='resnet18', "
        f"size=32, epochs=3, batch_size=12, overrides={TINY!r})",
    )
    assert lines[0].startswith("lr 0.0")  # and nothing of how layers are initialised
    (bar,) = [line for line in lines if "epoch" in line and "loss" in line]
    assert bar.startswith("████████████████████ 100%  epoch 3/3  2/2  loss ")
    assert len(bar) <= 100
    assert lines[lines.index(bar) + 1].startswith("done after ")
