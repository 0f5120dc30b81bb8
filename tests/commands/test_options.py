"""Options that several tools have are called alike."""

import os
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
    parse = import_module(f"mmsalmask.commands.{tool}").parse_arguments
    for name in ("--work-dir", "--out"):
        assert parse([*FOLDERS[tool], name, "there"]).work_dir == Path("there")


@pytest.mark.parametrize("tool", FILES)
def test_a_file_is_called_o_or_out(tool):
    parse = import_module(f"mmsalmask.commands.{tool}").parse_arguments
    for name in ("-o", "--out"):
        assert parse([*FILES[tool], name, "there.png"]).out == Path("there.png")


@pytest.mark.parametrize(
    ("tool", "words"),
    [
        ("pretrain", ["--data", "photos", "--work-dir", "there"]),
        ("knn", ["config.py", "last.pth", "--train", "a", "--test", "b"]),
    ],
)
def test_overrides_keep_their_spaces_and_need_a_value(tool, words, capsys):
    parse = import_module(f"mmsalmask.commands.{tool}").parse_arguments
    options = parse([*words, "--cfg-options", "a.b=my photos, [1, 2]"])
    assert options.cfg_options == {"a.b": ["my photos", [1, 2]]}
    with pytest.raises(SystemExit, match="2"):
        parse([*words, "--cfg-options", "a.b"])
    assert "'a.b' is not of the form KEY=VALUE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("launcher", "variable"),
    [("slurm", "SLURM_LOCALID"), ("mpi", "OMPI_COMM_WORLD_LOCAL_RANK"), ("none", None)],
)
def test_a_process_learns_from_its_launcher_which_one_of_the_machine_it_is(
    monkeypatch, launcher, variable
):
    """mmengine gives each the GPU of this number, and only the first prints an error."""
    monkeypatch.setenv("LOCAL_RANK", "unset")
    monkeypatch.delenv("LOCAL_RANK")
    for name in ("SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK"):
        monkeypatch.setenv(name, "3" if name == variable else "5")
    parse = import_module("mmsalmask.commands.train").parse_arguments
    parse(["config.py", "--launcher", launcher])
    assert os.environ["LOCAL_RANK"] == ("0" if variable is None else "3")


def test_a_misspelt_option_is_told_before_the_one_that_it_was_meant_to_be(capsys):
    parse = import_module("mmsalmask.commands.knn").parse_arguments
    browse = import_module("mmsalmask.commands.browse_masks").parse_arguments
    with pytest.raises(SystemExit, match="2"):
        browse(["config.py", "photo.jpg", "--rwos", "3"])
    assert "there is no option --rwos; did you mean --rows?" in capsys.readouterr().err
    for words, told in (
        (["--trian=a", "--test", "b"], "there is no option --trian; did you mean --train?"),
        (["--test", "b"], "the following arguments are required: --train"),
        (["--zzz"], "there is no option --zzz\n"),
    ):
        with pytest.raises(SystemExit, match="2"):
            parse(["config.py", "last.pth", *words])
        assert told in capsys.readouterr().err
    assert parse(["config.py", "last.pth", "--train=a", "--tes", "b"]).test == "b"
