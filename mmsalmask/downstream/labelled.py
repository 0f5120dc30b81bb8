"""Tasks on images that have a class each, by features of the frozen backbone."""

import json
from pathlib import Path
from typing import Any, ClassVar

from mmengine.config import Config
from mmpretrain.datasets import Flowers102

from mmsalmask import jobs
from mmsalmask.data import ImageNet100
from mmsalmask.downstream.task import Dataset, Task
from mmsalmask.errors import InputError
from mmsalmask.evaluation.labelled import labelled_folders

IMAGENET = Dataset("imagenet", "ImageNet-100", "imagenet")
CALTECH101 = Dataset("caltech101", "Caltech-101", "caltech101")
FLOWERS102 = Dataset("flowers102", "Flowers-102", "flowers102")


class LabelledTask(Task):
    """What a tool of the task's name, ``tools/<name>.py``, measures on labelled image folders.

    The tool sees centre crops, by the encoder of the recipe of linear evaluation. A folder
    ``<class>/<image>`` is split; links make such folders of datasets with a test set of their own.
    """

    recipes: ClassVar = {
        IMAGENET: "linear/{method}_resnet50_4xb64-{schedule}-100e_in100.py",
        CALTECH101: "linear/{method}_resnet50_1xb256-{schedule}-100e_caltech101.py",
        FLOWERS102: "linear/{method}_resnet50_1xb256-{schedule}-100e_flowers102.py",
    }

    @property
    def size(self) -> int:
        """Pixels of the crops."""
        return 64 if self.small else 224

    def options(self) -> dict[str, Any]:
        found = super().options()
        if self.dataset == CALTECH101:
            for loader in ("train", "val", "test"):
                found[f"{loader}_dataloader.dataset.train_per_class"] = self.setting.train_per_class
                found[f"{loader}_dataloader.dataset.seed"] = self.setting.seed
        return found

    def widths(self, config: Config, res4: int, res5: int) -> dict[str, Any]:
        return {"head.in_channels": res5}

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "train_per_class": self.setting.train_per_class}

    def check(self) -> dict[str, int]:
        train, test, per_class = self.root, None, None
        if link := _LINKS.get(self.dataset):
            train, test = self.folder / "links" / "train", self.folder / "links" / "test"
            link(self.root, train, test)
        else:
            per_class = self.setting.train_per_class
        source = f"--test={test}" if test else f"--train-per-class={per_class}"
        self.words, self.shown = [f"--train={train}", source], test or train
        self.sets = labelled_folders(
            str(train), test and str(test), per_class, self.setting.seed, self.size
        )
        return dict(zip(("train_images", "test_images"), map(len, self.sets), strict=True))

    def measure(self, place: jobs.Place, *more: str) -> dict[str, Any]:
        """What the tool writes with ``--json``, given further words."""
        recipe, file = self.folder / "config.py", self.folder / f"{self.name}.json"
        self.config.dump(recipe)
        words = [str(recipe), str(self.setting.backbone.file), *self.words]
        words += [f"--size={self.size}", f"--seed={self.setting.seed}", *more, f"--json={file}"]
        jobs.call(self.name, *words, log=self.folder / f"{self.name}.log", place=place)
        return json.loads(file.read_text())


def _link_imagenet100(root: Path, train: Path, test: Path) -> None:
    for split, folder in (("train", train), ("val", test)):
        for wnid in ImageNet100(str(root), split, lazy_init=True).metainfo["classes"]:
            _link_once(folder / wnid, root / split / wnid)


def _link_flowers102(root: Path, train: Path, test: Path) -> None:
    for name in ("jpg", "setid.mat", "imagelabels.mat"):
        if not (root / name).exists():
            raise InputError(f"there is no {root / name}")
    for split, folder in (("trainval", train), ("test", test)):
        for image in Flowers102(str(root), split).load_data_list():
            path = Path(image["img_path"])
            _link_once(folder / f"{image['gt_label']:03d}" / path.name, path)


def _link_once(link: Path, target: Path) -> None:
    if not target.exists():
        raise InputError(f"there is no {target}: complete the data, see `mmsalmask data`")
    if not link.is_symlink():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)


_LINKS = {IMAGENET: _link_imagenet100, FLOWERS102: _link_flowers102}
