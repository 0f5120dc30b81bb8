"""Installs mmsalmask with its configs and tools inside the package.

mmengine looks for ``mmsalmask::moco/...`` under ``mmsalmask/.mim``. A wheel gets a copy there; an
editable install gets links, so that an edited config counts at once.
"""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SHIPPED = ("configs", "tools", "weights", "model-index.yml")
# What `pip install 'mmsalmask[timm]'` adds: backbones of timm; encoders as ONNX, checked by its
# runtime; images of Hugging Face datasets. requirements-dev.txt has the same ranges.
EXTRAS = {
    "datasets": ["datasets>=3,<5"],
    "mlflow": ["mlflow>=3.17,<4"],
    "timm": ["timm>=1.0,<1.1"],
    "wandb": ["wandb>=0.31,<0.32"],
    "onnx": ["onnx>=1.18,<2", "onnxruntime>=1.21,<2", "onnxscript>=0.3,<1"],
}
# Set-up of a checkout, of no use in an installed package; and what Python leaves behind.
LEFT_OUT = shutil.ignore_patterns("install.sh", "__pycache__", "*.pyc")


class BuildWithConfigs(build_py):
    """Puts configs, tools and the model index where mmengine and mim look for them."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            link_into(ROOT / "mmsalmask" / ".mim")
        else:
            copy_into(Path(self.build_lib) / "mmsalmask" / ".mim")


def link_into(folder: Path) -> None:
    """Link what is shipped, relatively, so that a moved checkout keeps its links."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in SHIPPED:
        (folder / name).symlink_to(Path("..", "..", name))


def copy_into(folder: Path) -> None:
    """Copy what is shipped; an earlier build's copy goes first, lest removed configs live on."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in SHIPPED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=LEFT_OUT)
        else:
            shutil.copy2(ROOT / name, folder / name)


def version() -> str:
    """The version as the source states it, read without importing (that would need torch)."""
    source = (ROOT / "mmsalmask" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE).group(1)


def requirements() -> list[str]:
    """The lines of requirements.txt without comments."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    bare = (line.split("#")[0].strip() for line in lines)
    return [line for line in bare if line]


def readme() -> str:
    file = ROOT / "README.md"
    return file.read_text(encoding="utf-8") if file.exists() else ""


setup(
    name="mmsalmask",
    version=version(),
    description="Saliency-guided masking for contrastive self-supervised learning of ConvNets",
    long_description=readme(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    install_requires=requirements(),
    extras_require=EXTRAS,
    packages=find_packages(include=["mmsalmask", "mmsalmask.*"]),
    package_data={"mmsalmask": ["py.typed", "**/*.txt", "**/*.csv"]},
    entry_points={"console_scripts": ["mmsalmask = mmsalmask.__main__:main"]},
    include_package_data=False,
    zip_safe=False,
    cmdclass={"build_py": BuildWithConfigs},
)
