"""docs/add_a_task.md: its code is run as it stands there, on drawn images."""

import re
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from drawn import draw_classes
from mmpretrain.models import ResNet

from mmsalmask.downstream import task as tasks

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "mmsalmask.downstream.tasks.means"


@pytest.fixture
def blocks(tmp_path, monkeypatch) -> dict[str, str]:
    """The page's Python code by the files' names, written into the current folder."""
    page = (ROOT / "docs" / "add_a_task.md").read_text()
    found = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", page, re.DOTALL))
    assert len(found) == page.count("```python")
    for name, code in found.items():
        (tmp_path / name).write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(tasks, "_REGISTERED", dict(tasks._REGISTERED))
    yield found
    for name in ("means", PACKAGE, "test_means_task"):
        sys.modules.pop(name, None)


def test_the_task_of_the_page_runs_from_a_checkpoint_to_its_report(blocks, capsys):
    torch.manual_seed(0)
    Path("work_dirs/mine").mkdir(parents=True)
    state = {f"backbone.{name}": value for name, value in ResNet(18).state_dict().items()}
    torch.save({"state_dict": state}, "work_dirs/mine/epoch_200.pth")
    draw_classes(Path("photos/flowers"))
    names = {}
    exec(compile(blocks["run.py"], "run.py", "exec"), names)
    (result,) = names["results"].values()
    assert (result["train_images"], result["test_images"]) == (15, 9)
    counts = torch.tensor(result["confusion"])
    assert counts.sum() == 9
    assert result["figures"]["top1"] == pytest.approx(100 * counts.diagonal().sum().item() / 9)
    assert result["figures"]["top1"] > 60, "the classes have colours of their own"
    text = Path("work_dirs/flowers/report.md").read_text()
    assert f"| My flowers | {result['figures']['top1']:.2f} | " in text
    assert "## Nearest class mean" in text
    assert "![Confusion of My flowers](pictures/means-flowers.png)" in text
    assert "data:image/png" in Path("work_dirs/flowers/report.html").read_text()
    assert str(result["figures"]) in capsys.readouterr().out


def test_the_test_of_the_page_passes(blocks, tmp_path):
    sys.modules[PACKAGE] = import_module("means")
    module = import_module("test_means_task")
    module.test_the_folder_is_split_by_class(tmp_path)
    module.test_a_row_of_the_report()
