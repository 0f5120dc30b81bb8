"""Datasets of a few drawn images, for tests of downstream tasks.

Every task has a file ``tests/downstream/test_<name>_task.py`` with a function ``draw_example``,
which draws a dataset of it where the task looks for it below a folder.
"""

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
from PIL import Image

from mmsalmask.downstream.backbone import Backbone
from mmsalmask.downstream.task import Setting, known_datasets

ROOT = Path(__file__).resolve().parents[1]
SIZE = (64, 48)
BOX = (10, 8, 40, 36)  # x1, y1, x2, y2
XML = """<annotation><size><width>64</width><height>48</height></size><object><name>cat</name>
<difficult>0</difficult><bndbox><xmin>10</xmin><ymin>8</ymin><xmax>40</xmax><ymax>36</ymax></bndbox>
</object></annotation>"""


def draw(path: Path, color: tuple[int, int, int]) -> None:
    """A box of a colour on noise."""
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (*SIZE[::-1], 3), np.uint8)
    pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = color
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def draw_classes(root: Path) -> None:
    """Eight images of each of three classes."""
    for label, color in enumerate([(220, 20, 20), (20, 220, 20), (20, 20, 220)]):
        for i in range(8):
            draw(root / f"class_{label}" / f"{'i' * (i + 1)}.jpg", color)


def draw_voc(root: Path) -> None:
    """Four images of either year; those of the test of 2012 were trained on."""
    for year in (2007, 2012):
        home, names = root / f"VOC{year}", [f"{year}_{i}" for i in range(4)]
        for name in names:
            draw(home / "JPEGImages" / f"{name}.jpg", (200, 30, 30))
            (home / "Annotations").mkdir(exist_ok=True)
            (home / "Annotations" / f"{name}.xml").write_text(XML)
            labels = np.zeros(SIZE[::-1], np.uint8)
            labels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 8
            for folder in ("SegmentationClass", "SegmentationClassAug"):
                (home / folder).mkdir(exist_ok=True)
                Image.fromarray(labels).save(home / folder / f"{name}.png")
        for use, lists in (("Main", ("trainval", "test")), ("Segmentation", ("train", "aug"))):
            (home / "ImageSets" / use).mkdir(parents=True, exist_ok=True)
            for part, of_list in zip(lists, (names[:2], names[2:]), strict=True):
                (home / "ImageSets" / use / f"{part}.txt").write_text("\n".join(of_list))
        (home / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(names[1:3]))


def draw_coco(root: Path) -> None:
    """Three images to train on and four to test on, with a cat in each."""
    from mmdet.datasets import CocoDataset

    classes = CocoDataset.METAINFO["classes"]
    x, y, right, bottom = BOX
    box = {"bbox": [x, y, right - x, bottom - y], "area": (right - x) * (bottom - y)}
    box |= {"segmentation": [[x, y, right, y, right, bottom, x, bottom]], "iscrowd": 0}
    for split, count in (("train", 3), ("val", 4)):
        images = [
            {"id": i, "file_name": f"{split}{i}.jpg", "width": 64, "height": 48}
            for i in range(count)
        ]
        for image in images:
            draw(root / f"{split}2017" / image["file_name"], (30, 30, 200))
        content = {
            "info": {},
            "images": images,
            "categories": [{"id": i, "name": name} for i, name in enumerate(classes, 1)],
            "annotations": [
                {**box, "id": i + 1, "image_id": i, "category_id": 17} for i in range(count)
            ],
        }
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))


def draw_example(task: str, data_root: Path) -> None:
    """Draw what the test file of a task draws for it below a folder."""
    file = ROOT / "tests" / "downstream" / f"test_{task}_task.py"
    needed = f"the task {task!r} needs {file.relative_to(ROOT)} with draw_example(data_root)"
    assert file.is_file(), needed
    spec = spec_from_file_location(f"example_of_{task}", file)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert hasattr(module, "draw_example"), needed
    module.draw_example(data_root)


def setting(root: Path, **options) -> Setting:
    """A transfer of an untrained ResNet-50 on the datasets below a folder, into ``root/out``."""
    facts = {"high_pass": "unknown", "model": "unknown", "source_sha256": "0"}
    facts |= options.pop("facts", {})
    depth, file = options.pop("depth", 50), options.pop("file", Path("backbone.pth"))
    backbone = Backbone("name", {}, facts, "nothing", depth, file)
    data = {name: root / each.folder for name, each in known_datasets().items()}
    return Setting(backbone, {**data, **options.pop("data", {})}, root / "out", **options)
