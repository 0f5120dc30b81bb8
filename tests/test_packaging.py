"""What gets installed, and when ``make`` installs anything."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version
from PIL import Image

from mmsalmask.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
INSTALL_FILES = ("setup.py", "pyproject.toml", "requirements.txt", "requirements-dev.txt")
PACKAGE_FILES = ("LICENSE", "MANIFEST.in", "model-index.yml", *INSTALL_FILES)
FOLDERS = ("mmsalmask", "configs", "tools", "weights", "tests", "benchmarks")
LEFTOVERS = shutil.ignore_patterns("__pycache__", ".mim", "results")


def relative_files(folder: Path) -> set[str]:
    """Files below a folder as paths from it, without what Python leaves behind."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in paths if "__pycache__" not in path.parts}


def listed(file: str) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines())
    return [Requirement(line) for line in lines if line]


# ---------------------------------------------------------------------------------- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built offline from a copy of the checkout in which an earlier build left a config."""
    checkout = tmp_path_factory.mktemp("checkout")
    for name in PACKAGE_FILES:
        shutil.copy2(ROOT / name, checkout)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, checkout / name, ignore=LEFTOVERS)
    stale = checkout / "build/lib/mmsalmask/.mim/configs/moco/removed-since.py"
    stale.parent.mkdir(parents=True)
    stale.touch()
    target = tmp_path_factory.mktemp("wheel")
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    command = [sys.executable, "-m", "pip", "wheel", *offline, "--wheel-dir", target, checkout]
    subprocess.run(command, check=True)
    (built,) = target.glob("mmsalmask-*-py3-none-any.whl")
    return built


def test_wheel_holds_every_config_tool_and_class_list_and_nothing_else_of_the_checkout(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {f"mmsalmask/.mim/configs/{file}" for file in relative_files(ROOT / "configs")}
    tools = {f"mmsalmask/.mim/tools/{file}" for file in relative_files(ROOT / "tools")}
    tools -= {f"mmsalmask/.mim/tools/{name}" for name in ("install.sh", "environment.py")}
    assert configs
    assert tools
    index = {"mmsalmask/.mim/model-index.yml"}
    weights = {f"mmsalmask/.mim/weights/{file}" for file in relative_files(ROOT / "weights")}
    assert weights
    assert {name for name in names if "/.mim/" in name} == configs | tools | weights | index
    modules = relative_files(ROOT / "mmsalmask")
    kinds = (".py", ".txt", ".csv", "py.typed")
    wanted = {f"mmsalmask/{file}" for file in modules if file.endswith(kinds)}
    assert wanted <= names
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"mmsalmask"}


def test_wheel_states_version_python_and_the_requirements_of_requirements_txt(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    source = (ROOT / "mmsalmask" / "__init__.py").read_text()
    assert f'__version__ = "{metadata["Version"]}"' in source
    python = Requirement(f"python{metadata['Requires-Python']}").specifier
    assert [minor for minor in range(8, 15) if f"3.{minor}.2" in python] == [10, 11, 12]
    stated = [Requirement(line) for line in metadata.get_all("Requires-Dist")]
    required = {str(requirement) for requirement in stated if requirement.marker is None}
    assert required == {str(requirement) for requirement in listed("requirements.txt")}
    extras = {requirement.name for requirement in stated if requirement.marker is not None}
    assert extras >= {"timm", "onnx", "onnxruntime", "onnxscript"}
    assert extras <= {requirement.name for requirement in listed("requirements-dev.txt")}


# Run in a foreign folder against the installed package. Building matters: mmengine marks what comes
# from ``mmsalmask::`` with that scope, and types of mmpretrain have to be found from there as well.
INHERIT = """
import mmsalmask
from mmengine import Config
from mmengine.hub import get_config
from mmengine.registry import MODELS, TRANSFORMS, init_default_scope

assert mmsalmask.__file__.startswith({site!r}), mmsalmask.__file__
assert len(Config.fromfile("own_block.py")) > 1
own = Config.fromfile("own_recipe.py")
assert own.own_word == 1
direct = get_config("mmsalmask::{recipe}")
assert own.model.type == direct.model.type
init_default_scope(own.default_scope)
MODELS.build(own.model)
for transform in own.train_dataloader.dataset.pipeline:
    TRANSFORMS.build(transform)
"""


def test_configs_of_the_installed_package_serve_as_bases_in_another_folder(wheel, tmp_path):
    """``_base_ = 'mmsalmask::...'`` works for a recipe and for a building block alike."""
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    metafile = yaml.safe_load((ROOT / "configs/demo/metafile.yml").read_text())
    recipe = metafile["Models"][0]["Config"].removeprefix("configs/")
    block = min((ROOT / "configs/_base_").rglob("*.py")).relative_to(ROOT / "configs").as_posix()
    for name, base in {"own_recipe": recipe, "own_block": block}.items():
        (tmp_path / f"{name}.py").write_text(f"_base_ = 'mmsalmask::{base}'\nown_word = 1\n")
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    program = INHERIT.format(site=str(site), recipe=recipe)
    command = [sys.executable, "-W", "ignore", "-c", program]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def mmsalmask(wheel, tmp_path_factory):
    """Runs the command of the installed wheel in an empty folder, which it returns as well."""
    site, elsewhere = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("elsewhere")
    offline = ["--no-deps", "--no-index", "--quiet", "--target", site]
    subprocess.run([sys.executable, "-m", "pip", "install", *offline, wheel], check=True)
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}

    def run(*words: object) -> subprocess.CompletedProcess:
        command = [site / "bin" / "mmsalmask", *map(str, words)]
        options = dict(cwd=elsewhere, env=environment, capture_output=True, text=True)
        return subprocess.run(command, **options)

    run.folder = elsewhere
    return run


def test_the_installed_command_lists_its_tools_and_names_them_when_one_is_misspelt(mmsalmask):
    helped = mmsalmask()
    assert helped.returncode == 0, helped.stderr
    scripts = {path.stem for path in (ROOT / "tools").glob("*.py")} - {"environment"}
    assert set(COMMANDS.values()) == scripts
    lines = [line.split()[0] for line in helped.stdout.splitlines() if line.startswith("  ")]
    assert lines == list(COMMANDS)
    wrong = mmsalmask("trian")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: no command 'trian': give one of demo, train, ")


def test_the_installed_command_works_in_another_folder_on_a_config_of_the_package(mmsalmask):
    for split, number in (("train", 3), ("test", 1)):
        for label, colour in enumerate(("red", "blue")):
            folder = mmsalmask.folder / split / f"class_{label}"
            folder.mkdir(parents=True)
            for image in range(number):
                Image.new("RGB", (20 + image, 20), colour).save(folder / f"{image}.png")
    config = "mmsalmask::demo/mocov2_resnet18_demo.py"
    words = ("none", "--train", "train", "--test", "test", "--size", 32, "--workers", 0)
    judged = mmsalmask("linear", config, *words, "--epochs", 1, "--knn", 1, "--json", "out.json")
    assert judged.returncode == 0, judged.stderr
    result = json.loads((mmsalmask.folder / "out.json").read_text())
    assert (result["config"], result["knn"]["top1"]) == (config, 100)
    assert result["command"].startswith(f"mmsalmask linear {config} none --train train")


def test_a_command_of_the_installed_package_runs_others_in_another_folder(mmsalmask):
    """Pretraining and kNN are processes of their own; workers and the plan's configs are found."""
    for label, colour in enumerate(((200, 30, 30), (30, 30, 200))):
        folder = mmsalmask.folder / "photos" / f"class_{label}"
        folder.mkdir(parents=True)
        for image in range(6):
            Image.new("RGB", (20 + image, 20), colour).save(folder / f"{image}.png")
    row = {
        "name": "untrained",
        "pretrain": False,
        "config": "mmsalmask::demo/mocov2_resnet18_demo.py",
    }
    (mmsalmask.folder / "plan.yml").write_text(yaml.safe_dump({"rows": [row]}))
    words = ("--data", "photos", "--holdout", 0.4, "--size", 32, "-k", 1, "--workers", 1)
    done = mmsalmask("ablate", "plan.yml", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((mmsalmask.folder / "work_dirs/plan/results.json").read_text())
    assert results["results"]["untrained"]["0"]["top1"] == 100
    drawn = mmsalmask(
        *("masks", "mmsalmask::demo/mocov2-salmask-mean_resnet18_demo.py", "photos"),
        *("--rows", 1, "--cfg-options", "train_dataloader.batch_size=2"),
    )
    assert drawn.returncode == 0, drawn.stderr
    assert Image.open(mmsalmask.folder / "masks.png").size[0] > 100


def test_entry_scripts_are_the_commands_and_hold_no_code():
    for name, module in COMMANDS.items():
        source = (ROOT / "tools" / f"{module}.py").read_text()
        assert f"from mmsalmask.commands.{module} import main\n" in source, name
        assert len(source.splitlines()) <= 6


def test_the_commands_are_listed_without_importing_torch():
    program = "import sys; sys.argv = ['mmsalmask', '--help']; from mmsalmask.__main__ import main"
    program += "; main(); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)


def test_the_installed_command_has_the_published_tables(mmsalmask):
    config = "mmsalmask::depth/monodepth2_resnet18_rendered.py"
    asked = mmsalmask("depth", config, "none.pth", "--images", 0)
    # The table is read first.
    assert (asked.returncode, asked.stderr) == (2, "error: --images is 0: give at least 1\n")


# ------------------------------------------------------------------------------ requirements


def test_requirement_ranges_admit_the_tested_pairs_and_not_the_broken_one():
    ranges = {requirement.name: requirement.specifier for requirement in listed("requirements.txt")}
    for torch, torchvision in [("2.4.0", "0.19.0"), ("2.11.0", "0.26.0"), ("2.15.0", "0.29.2")]:
        assert torch in ranges["torch"]
        assert torchvision in ranges["torchvision"]
    assert "2.13.0" not in ranges["torch"]
    assert "2.13.0+cpu" not in ranges["torch"]
    assert "0.28.0" not in ranges["torchvision"]


def test_pins_of_the_makefile_lie_in_the_ranges():
    makefile = (ROOT / "Makefile").read_text()
    for requirement in listed("requirements.txt")[:2]:
        pin = re.search(rf"^{requirement.name.upper()} \?= (.+)$", makefile, re.MULTILINE)[1]
        assert pin in requirement.specifier


def test_hosted_ci_runs_the_oldest_and_the_newest_torch_of_the_ranges_on_every_python():
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["test"]
    matrix = job["strategy"]["matrix"]
    assert matrix["python"] == ["3.10", "3.11", "3.12"]
    for requirement in listed("requirements.txt")[:2]:
        oldest, newest = (Version(pair[requirement.name]) for pair in matrix["torch"])
        bounds = {
            each.operator: Version(each.version)
            for each in requirement.specifier
            if each.operator in (">=", "<")
        }
        assert oldest == bounds[">="]
        assert (newest.major, newest.minor + 1) == bounds["<"].release[:2]
        assert oldest in requirement.specifier
        assert newest in requirement.specifier
    commands = [step["run"].split()[:2] for step in job["steps"] if "run" in step]
    assert commands == [["make", "install"], ["make", "test"]]


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    source = (ROOT / "mmsalmask" / "__init__.py").read_text()
    assert f'__version__ = "{citation["version"]}"' in source
    assert len(citation["preferred-citation"]["authors"]) == 5


def test_tests_run_on_versions_the_ranges_admit():
    for requirement in listed("requirements.txt") + listed("requirements-dev.txt"):
        assert requirement.specifier.contains(version(requirement.name)), requirement


def test_pre_commit_formats_with_the_ruff_that_make_test_checks_with():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    pinned = {line for hook in hooks for line in hook.get("additional_dependencies", [])}
    assert pinned == {str(r) for r in listed("requirements-dev.txt") if r.name == "ruff"}


# ------------------------------------------------------------------------- when make installs

# Stands in for an interpreter: environments it makes hold itself, its pip writes down what it was
# asked for and "installs" only the package; all else is the real Python's business.
FAKE_PYTHON = """\
#!/usr/bin/env bash
case "$1 $2 $3" in
"-m venv "*) mkdir -p "$3/bin"; touch "$3/pyvenv.cfg"; cp "$0" "$3/bin/python" ;;
"-m pip --version") ;;
"-m pip install")
    echo "$*" >> {calls}
    [ ! -f {broken} ] || {{ cat {broken}; exit 1; }}
    case "$*" in *--editable*)
        mkdir -p {site}/mmsalmask-0.dist-info mmsalmask/.mim
        ln -sfn "$PWD/mmsalmask" {site}/mmsalmask
        ln -sfn ../../configs mmsalmask/.mim/configs
        printf '[console_scripts]\\nmmsalmask = mmsalmask.__main__:main\\n' \\
            > {site}/mmsalmask-0.dist-info/entry_points.txt
        line=$(grep ^__version__ mmsalmask/__init__.py)
        printf 'Name: mmsalmask\\nVersion: %s\\n' "$(cut -d'"' -f2 <<<"$line")" \\
            > {site}/mmsalmask-0.dist-info/METADATA ;;
    esac ;;
"-I tools/environment.py "*)
    see_site="import runpy, sys; sys.path.insert(0, '{site}'); sys.argv.pop(0)"
    exec {python} -I -c "$see_site; runpy.run_path(sys.argv[0], run_name='__main__')" "${{@:2}}" ;;
*) exec {python} "$@" ;;
esac
"""


class Checkout:
    """A checkout small enough to install in a second, with a Python whose pip downloads nothing."""

    def __init__(self, folder: Path):
        self.calls, self.broken, self.site = (folder / n for n in ("calls", "broken", "site"))
        self.site.mkdir()
        self.python = folder / "python"
        names = {"calls": self.calls, "broken": self.broken, "site": self.site}
        self.python.write_text(FAKE_PYTHON.format(python=sys.executable, **names))
        self.python.chmod(0o755)
        self.root = folder / "checkout"
        for name in ("tools", "mmsalmask", "configs"):
            (self.root / name).mkdir(parents=True)
        for name in (
            "Makefile",
            "tools/install.sh",
            "tools/environment.py",
            "mmsalmask/__init__.py",
        ):
            shutil.copy2(ROOT / name, self.root / name)
        (self.root / "requirements.txt").write_text("packaging>=20\n")
        (self.root / "requirements-dev.txt").write_text("pytest\n")

    def install(self, **settings: str) -> subprocess.CompletedProcess:
        """Run ``make install``; the settings are make's. Every run starts with no pip calls."""
        self.calls.write_text("")
        pair = {f"{name.upper()}": version(name) for name in ("torch", "torchvision")}
        return self.make("install", **{"PYTHON": str(self.python), **pair, **settings})

    def make(self, target: str, **settings: str) -> subprocess.CompletedProcess:
        """Run make as from a bare shell: what ``make test VENV=...`` hands down to its children
        would otherwise lead this make to the very environment the tests run in."""
        settings = {"VENV": ".venv", **settings}
        command = ["make", target, *(f"{name}={value}" for name, value in settings.items())]
        bare = {"PATH": os.environ["PATH"]}
        return subprocess.run(command, cwd=self.root, env=bare, capture_output=True, text=True)

    def asked(self) -> list[str]:
        """What the last run asked pip for, in order."""
        kinds = {"--editable": "package", "-r requirements": "requirements", " torch ": "torch"}
        calls = self.calls.read_text().splitlines()
        return [next(kind for sign, kind in kinds.items() if sign in call) for call in calls]


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_second_install_installs_nothing_and_a_changed_requirement_does(checkout):
    first = checkout.install()
    assert first.returncode == 0, first.stderr
    assert checkout.asked() == ["torch", "requirements", "package"]
    second = checkout.install()
    assert (second.returncode, second.stdout, checkout.asked()) == (0, "", [])
    for file in ("requirements.txt", "requirements-dev.txt"):
        with open(checkout.root / file, "a") as requirements:
            requirements.write("pyyaml\n")
        assert checkout.install().returncode == 0
        assert checkout.asked() == ["torch", "requirements"]
    assert checkout.install().stdout == ""


def test_install_goes_by_content_of_the_requirements_not_by_their_date(checkout):
    checkout.install()
    for file in ("requirements.txt", "requirements-dev.txt"):
        (checkout.root / file).touch()
    checkout.install()
    assert checkout.asked() == []


def test_install_notices_another_torch_and_pins_the_one_asked_for(checkout):
    checkout.install()
    other = checkout.install(TORCH="2.4.0")
    assert checkout.asked() == ["torch", "requirements"]
    pins = (checkout.root / ".venv/mmsalmask-constraints.txt").read_text().split()
    assert pins == ["torch==2.4.0", f"torchvision=={version('torchvision')}"]
    # The stand-in pip did not install it, and that must not pass as success.
    assert other.returncode != 0
    assert f"torch==2.4.0 is wanted, {version('torch')} is installed" in other.stderr


def test_package_is_installed_again_where_its_command_is_missing(checkout):
    checkout.install()
    (checkout.site / "mmsalmask-0.dist-info" / "entry_points.txt").unlink()
    assert checkout.install().returncode == 0
    assert checkout.asked() == ["package"]


def test_package_is_installed_again_from_a_moved_checkout(checkout):
    checkout.install()
    checkout.root = checkout.root.rename(checkout.root.with_name("moved"))
    assert checkout.install().returncode == 0
    assert checkout.asked() == ["package"]


def test_failed_install_names_step_reason_and_log_and_is_done_again(checkout):
    checkout.broken.write_text("ERROR: [Errno 28] No space left on device\n")
    failed = checkout.install()
    assert failed.returncode != 0
    assert "step 'torch " in failed.stderr
    assert "[Errno 28] No space left on device" in failed.stderr
    assert ".venv/install.log" in failed.stderr
    assert "free some space" in failed.stderr
    checkout.broken.unlink()
    assert checkout.install().returncode == 0
    assert checkout.asked() == ["torch", "requirements", "package"]


def test_without_a_suitable_python_install_lists_what_it_found(checkout, tmp_path):
    shims = tmp_path / "shims"
    shims.mkdir()
    scripts = {
        "python3.12": 'echo "pyenv: python3.12: command not found" >&2; exit 127',
        "python3": 'case "$2" in *python_version*) echo 3.8.2 ;; *) exit 1 ;; esac',
    }
    for name, script in scripts.items():
        (shims / name).write_text(f"#!/bin/sh\n{script}\n")
        (shims / name).chmod(0o755)
    for name in ("bash", "dirname", "flock", "head", "mkdir", "ls", "rm", "sh", "touch"):
        if shutil.which(name):
            (shims / name).symlink_to(shutil.which(name))
    environment = {"PATH": str(shims), "TORCH": "2.11.0", "TORCHVISION": "0.26.0"}
    result = subprocess.run(
        ["tools/install.sh"], cwd=checkout.root, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert f"{shims}/python3.12 does not run: pyenv: python3.12: command not found" in result.stderr
    assert f"{shims}/python3, 3.8.2" in result.stderr
    assert "python3.11: not found" in result.stderr
    assert "make PYTHON=/path/to/python3.11" in result.stderr


def test_install_leaves_a_folder_alone_that_is_no_environment(checkout, tmp_path):
    precious = tmp_path / "photos" / "me.jpg"
    precious.parent.mkdir()
    precious.touch()
    result = checkout.install(VENV=str(precious.parent))
    assert result.returncode != 0
    assert "is no virtual environment" in result.stderr
    assert precious.exists()
    assert checkout.make("clean", VENV=str(precious.parent)).returncode == 0
    assert precious.exists()
