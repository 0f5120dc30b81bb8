"""Options that several tools have are called alike."""

from importlib import import_module
from pathlib import Path

import pytest

FOLDERS = {
    "ablate": ["plan.yml", "--data", "photos"],
    "transfer": ["last.pth"],
    "depth_report": ["config.py", "last.pth"],
}
FILES = {
    "export_backbone": ["last.pth"],
    "browse_masks": ["config.py"],
    "cache_saliency": ["config.py"],
}


@pytest.mark.parametrize("tool", FOLDERS)
def test_a_folder_is_called_work_dir_and_may_be_called_out_as_before(tool):
    moved = tool in ("transfer", "depth_report")
    parse = import_module(f"mmsalmask.commands.{tool}" if moved else tool).parse_arguments
    for name in ("--work-dir", "--out"):
        assert parse([*FOLDERS[tool], name, "there"]).work_dir == Path("there")


@pytest.mark.parametrize("tool", FILES)
def test_a_file_is_called_o_or_out(tool):
    parse = import_module(tool).parse_arguments
    for name in ("-o", "--out"):
        assert parse([*FILES[tool], name, "there.png"]).out == Path("there.png")
