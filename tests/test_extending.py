"""The code on the pages about extending the package runs as it stands there."""

import re
import sys
from importlib import import_module
from pathlib import Path

import pytest
from mmengine.registry import DefaultScope

from mmsalmask.config import check_config, load_config
from mmsalmask.parts import Part
from mmsalmask.registry import MODELS

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLOCK = re.compile(r"^```python\n# (\w+\.py)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", ["add_a_fill", "add_a_localizer"])
def test_the_example_of_a_page_runs(page, tmp_path, monkeypatch):
    text = (DOCS / f"{page}.md").read_text()
    files = dict(BLOCK.findall(text))
    assert len(files) == text.count("```python")
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    before, parts = set(sys.modules), set(Part.registered())
    try:
        (tests,) = (import_module(Path(name).stem) for name in files if name.startswith("test_"))
        ran = [test() for name, test in vars(tests).items() if name.startswith("test_")]
        assert ran
        import_module("try_it")
        config = load_config(str(tmp_path / "recipe.py"))
        check_config(config)
        masker = MODELS.build(config.model.data_preprocessor).masker
        (new,) = set(Part.registered()) - parts
        assert new in (type(masker.strategy).__name__, type(masker.localizer.module).__name__)
    finally:
        for module in set(sys.modules) - before:
            if getattr(sys.modules[module], "__file__", None) in map(str, tmp_path.iterdir()):
                del sys.modules[module]


def test_the_configs_of_a_repository_of_ones_own_are_complete(tmp_path, monkeypatch):
    for name, content in BLOCK.findall((DOCS / "own_repository.md").read_text()):
        (tmp_path / name).write_text(content)
    fill = dict(BLOCK.findall((DOCS / "add_a_fill.md").read_text()))["row_mean.py"]
    (tmp_path / "mypkg").mkdir()
    (tmp_path / "mypkg" / "row_mean.py").write_text(fill.replace("RowMean", "RowMeanOfMine"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    recipe = tmp_path / "mine.py"
    recipe.write_text(recipe.read_text().replace("RowMean", "RowMeanOfMine"))
    config = load_config(str(recipe))
    check_config(config)
    assert config.train_dataloader.dataset.data_root == "/data/photos"
    for name in ("detector.py", "detector18.py"):
        config = load_config(str(tmp_path / name))
        check_config(config)
        assert "VOCdevkit" in str(config.train_dataloader.dataset)
        assert "data/VOCdevkit" not in str(config).replace("/data/VOCdevkit", "")
    with DefaultScope.overwrite_default_scope("mmdet"):
        detector = MODELS.build(config.model)
    assert detector.roi_head.shared_head.layer4[0].conv1.in_channels == 256
