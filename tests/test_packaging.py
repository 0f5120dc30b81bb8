"""What gets installed, and when ``make`` installs anything."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from importlib.metadata import distributions, version
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
    tools -= {"mmsalmask/.mim/tools/install.sh"}
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
    scripts = {path.stem for path in (ROOT / "tools").glob("*.py")}
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


@pytest.mark.skipif(
    not list(distributions(name="onedl-mmengine")),
    reason="beside the original distributions, which requirements-original.txt names exactly",
)
def test_tests_run_on_versions_the_ranges_admit():
    for requirement in listed("requirements.txt") + listed("requirements-dev.txt"):
        assert requirement.specifier.contains(version(requirement.name)), requirement


def test_pre_commit_formats_with_the_ruff_that_make_test_checks_with():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    pinned = {line for hook in hooks for line in hook.get("additional_dependencies", [])}
    assert pinned == {str(r) for r in listed("requirements-dev.txt") if r.name == "ruff"}


# ------------------------------------------------------------------------- when make installs

# uv itself installs in these tests, from empty packages in a folder instead of the index.
BACKEND = """\
import sys
sys.path += {path!r}
from setuptools.build_meta import *
"""


def empty_wheel(folder: Path, name: str, number: str) -> str:
    """Add a package of one module to an index in a folder; returns its line for a lock."""
    project = folder / name.replace("_", "-")
    project.mkdir(exist_ok=True)
    file = project / f"{name}-{number}-py3-none-any.whl"
    info = f"{name}-{number}.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{name}.py", f"number = {number!r}\n")
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any"
        )
        archive.writestr(f"{info}/RECORD", "")
    links = (f'<a href="{each.name}">{each.name}</a>' for each in project.glob("*.whl"))
    (project / "index.html").write_text("".join(links))
    hashed = hashlib.sha256(file.read_bytes()).hexdigest()
    return f"{name}=={number} --hash=sha256:{hashed}\n"


class Checkout:
    """A checkout small enough to install in a second."""

    def __init__(self, folder: Path):
        self.root, self.wheels, self.home = (folder / n for n in ("checkout", "wheels", "home"))
        for made in (
            self.wheels,
            self.root / "configs",
            self.root / "tools",
            self.root / "weights",
        ):
            made.mkdir(parents=True)
        (self.root / "mmsalmask").mkdir()
        for name in (*PACKAGE_FILES, "Makefile", "tools/install.sh", "mmsalmask/__init__.py"):
            shutil.copy2(ROOT / name, self.root / name)
        (self.root / "backend.py").write_text(BACKEND.format(path=sys.path))
        project = (ROOT / "pyproject.toml").read_text()
        project = re.sub(r"requires = .+", 'requires = []\nbackend-path = ["."]', project)
        project = project.replace("setuptools.build_meta", "backend")
        (self.root / "pyproject.toml").write_text(project)
        (uv,) = (str(r) for r in listed("requirements-dev.txt") if r.name == "uv")
        (self.root / "requirements-dev.txt").write_text(f"tool\n{uv}\n")
        (self.root / "requirements.txt").write_text("torch\ntorchvision\nonedl-mmcv\n")
        (self.root / "requirements-original.txt").write_text("mmcv\n")
        packages = ("torch", "torchvision", "tool", "onedl_mmcv")
        lines = [empty_wheel(self.wheels, name, "1.0") for name in packages]
        lines.append(empty_wheel(self.wheels, *uv.split("==")))
        (self.root / "requirements.lock").write_text("".join(lines))
        # The uv that make would fetch first.
        program = self.root / ".venv.uv" / "bin"
        program.mkdir(parents=True)
        (program / "uv").symlink_to(Path(sysconfig.get_path("scripts")) / "uv")
        (program / "python").symlink_to(sys.executable)

    def command(self, target: str, **settings: str) -> dict:
        """Make as from a bare shell: what ``make test VENV=...`` hands down to its children would
        otherwise lead this make to the very environment the tests run in."""
        pair = {"TORCH": "1.0", "TORCHVISION": "1.0", "VENV": ".venv", "PYTHON": sys.executable}
        words = [f"{name}={value}" for name, value in {**pair, **settings}.items()]
        bare = {"PATH": os.environ["PATH"], "HOME": str(self.home), "PIP_CONFIG_FILE": os.devnull}
        bare["UV_DEFAULT_INDEX"] = self.wheels.as_uri()
        options = dict(cwd=self.root, env=bare, stdout=-1, stderr=-1, text=True)
        return {"args": ["make", target, *words], **options}

    def make(self, target: str, **settings: str) -> subprocess.CompletedProcess:
        return subprocess.run(**self.command(target, **settings))

    def install(self, **settings: str) -> str:
        """What uv says of it."""
        done = self.make("install", **settings)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def ask(self, expression: str, *modules: str) -> str:
        """What an expression is in the environment, in another folder."""
        program = f"import {', '.join(modules)}; print({expression})"
        command = [self.root / ".venv" / "bin" / "python", "-I", "-c", program]
        return subprocess.run(command, cwd="/", check=True, stdout=-1, text=True).stdout.strip()

    def site(self) -> Path:
        return Path(self.ask("sysconfig.get_path('purelib')", "sysconfig"))


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_second_install_installs_nothing_and_a_changed_lock_is_followed(checkout):
    checkout.install()
    assert checkout.ask("tool.number", "tool") == "1.0"
    where = checkout.ask("importlib.util.find_spec('mmsalmask').origin", "importlib.util")
    assert where == str(checkout.root / "mmsalmask" / "__init__.py")
    assert (checkout.root / "mmsalmask" / ".mim" / "configs").resolve() == checkout.root / "configs"
    second = checkout.install()
    assert "Checked 6 packages" in second
    assert "Installed" not in second
    lock = checkout.root / "requirements.lock"
    kept = [line for line in lock.read_text().splitlines(True) if not line.startswith("tool")]
    lock.write_text("".join(kept) + empty_wheel(checkout.wheels, "tool", "2.0"))
    assert "tool==2.0" in checkout.install()
    assert checkout.ask("tool.number", "tool") == "2.0"


def test_a_package_that_is_not_what_was_locked_is_refused(checkout):
    lock = checkout.root / "requirements.lock"
    lock.write_text(re.sub("(tool.+sha256:).{8}", r"\g<1>" + "0" * 8, lock.read_text()))
    refused = checkout.make("install")
    assert refused.returncode != 0
    assert "Hash mismatch" in refused.stderr
    assert "run make again" in refused.stderr


def test_an_installation_that_was_broken_off_is_mended(checkout):
    checkout.install()
    unfinished = checkout.root / ".venv" / "unfinished"
    assert not unfinished.exists()
    unfinished.touch()
    assert "Checked 6 packages" in checkout.install()  # it had not come to the packages
    unfinished.touch()
    os.utime(unfinished, (1, 1))
    (checkout.site() / "tool.py").unlink()
    assert "Installed 6 packages" in checkout.install()
    assert checkout.ask("tool.number", "tool") == "1.0"
    assert not unfinished.exists()


def test_an_environment_whose_python_is_gone_is_made_anew(checkout):
    checkout.install()
    python = checkout.root / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python")
    assert "Installed 6 packages" in checkout.install()


def test_another_torch_and_the_other_stack_are_resolved_beside_the_lock(checkout):
    lock = (checkout.root / "requirements.lock").read_text()
    for name, number in (("torch", "2.0"), ("mmcv", "2.1"), ("tool", "2.0")):
        empty_wheel(checkout.wheels, name, number)
    checkout.install(TORCH="2.0")
    assert checkout.ask("torch.number, tool.number", "torch", "tool") == "2.0 1.0"
    assert checkout.ask("torchvision.number, onedl_mmcv", "torchvision", "onedl_mmcv")
    checkout.install(TORCH="2.0", STACK="original")
    assert checkout.ask("mmcv.number", "mmcv") == "2.1"
    wanted = (checkout.root / ".venv" / "requirements.lock").read_text()
    assert "onedl" not in wanted
    assert "--hash=sha256:" in wanted
    assert (checkout.root / "requirements.lock").read_text() == lock


def test_package_is_installed_again_from_a_moved_checkout_and_where_its_links_are_gone(checkout):
    checkout.install()
    shutil.rmtree(checkout.root / "mmsalmask" / ".mim")
    assert "Installed 1 package" in checkout.install()
    assert (checkout.root / "mmsalmask" / ".mim" / "configs").is_dir()
    checkout.root = checkout.root.rename(checkout.root.with_name("moved"))
    assert "mmsalmask" in checkout.install()
    where = checkout.ask("importlib.util.find_spec('mmsalmask').origin", "importlib.util")
    assert where == str(checkout.root / "mmsalmask" / "__init__.py")


def test_two_installs_at_once_take_turns(checkout):
    runs = [subprocess.Popen(**checkout.command("install")) for _ in range(2)]
    told = [run.communicate()[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], told
    assert sum("Installed 6 packages" in each for each in told) == 1
    assert sum("Checked 6 packages" in each for each in told) == 1


def test_without_a_suitable_python_install_says_what_to_name(checkout):
    refused = checkout.make("install", PYTHON="/nowhere/python3.11")
    assert refused.returncode != 0
    assert "/nowhere/python3.11" in refused.stderr
    assert "PYTHON=/path/to/python3.11" in refused.stderr


def test_install_leaves_a_folder_alone_that_is_no_environment(checkout, tmp_path):
    precious = tmp_path / "photos" / "me.jpg"
    precious.parent.mkdir()
    precious.touch()
    (tmp_path / "photos.uv").symlink_to(checkout.root / ".venv.uv")
    refused = checkout.make("install", VENV=str(precious.parent))
    assert refused.returncode != 0
    assert "Name another place" in refused.stderr
    assert precious.exists()
    assert checkout.make("clean", VENV=str(precious.parent)).returncode == 0
    assert precious.exists()


# ------------------------------------------------------------------------------------- the lock


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12"])
def test_the_lock_satisfies_the_requirements_with_hashes_on_every_python(python):
    text = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    there = {"python_version": python, "python_full_version": f"{python}.5"}
    there |= {"sys_platform": "linux", "platform_machine": "x86_64"}
    locked = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            requirement = Requirement(line.partition("--hash")[0])
            assert "--hash=sha256:" in line, requirement
            if requirement.marker is None or requirement.marker.evaluate(there):
                assert requirement.name not in locked, requirement
                locked[requirement.name] = str(requirement.specifier).removeprefix("==")
    for requirement in listed("requirements.txt") + listed("requirements-dev.txt"):
        assert locked.get(requirement.name, "none") in requirement.specifier, "run make lock"
    makefile = (ROOT / "Makefile").read_text()
    for name in ("torch", "torchvision"):
        assert f"\n{name.upper()} ?= {locked[name]}\n" in makefile, "run make lock"
