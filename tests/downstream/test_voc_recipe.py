"""What the VOC recipe makes of annotations that would ruin a training."""

from pathlib import Path

import numpy as np
import pytest
from mmdet.registry import DATASETS
from mmengine.registry import DefaultScope
from PIL import Image

from mmsalmask.config import load_config

RECIPE = (
    Path(__file__).resolve().parents[2]
    / "configs"
    / "detection"
    / "faster-rcnn_r50-c4_8xb2-24k_voc0712.py"
)
PHOTO = """<annotation><size><width>64</width><height>48</height><depth>3</depth></size>
<object><name>person</name><difficult>0</difficult>
<bndbox><xmin>5</xmin><ymin>6</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>
<object><name>person</name><difficult>1</difficult>
<bndbox><xmin>10</xmin><ymin>2</ymin><xmax>20</xmax><ymax>12</ymax></bndbox></object>
<object><name>person</name><difficult>1</difficult>
<bndbox><xmin>32</xmin><ymin>12</ymin><xmax>32</xmax><ymax>20</ymax></bndbox></object>
</annotation>"""


@pytest.fixture
def config(tmp_path):
    """The recipe on a devkit of one photo, which two of three objects are difficult in."""
    for year in (2007, 2012):
        devkit = tmp_path / f"VOC{year}"
        for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (devkit / folder).mkdir(parents=True)
        Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(devkit / "JPEGImages" / "a.jpg")
        (devkit / "Annotations" / "a.xml").write_text(PHOTO)
        for part in ("trainval", "test"):
            (devkit / "ImageSets" / "Main" / f"{part}.txt").write_text("a\n")
    return load_config(str(RECIPE), {"data_root": f"{tmp_path}/"})


def test_difficult_objects_are_learned_from_and_boxes_without_area_are_not(config):
    with DefaultScope.overwrite_default_scope("mmdet"):
        dataset = DATASETS.build(config.train_dataloader.dataset.dataset)
    for n in range(2):
        seen = dataset[n]
        kept = ~seen["gt_ignore_flags"]
        boxes = [[4, 5, 29, 39], [9, 1, 19, 11]]
        assert seen["gt_bboxes"].tensor[kept.tolist()].tolist() == boxes
        assert len(kept) == 3


def test_difficult_objects_are_told_from_others_in_a_test(config):
    with DefaultScope.overwrite_default_scope("mmdet"):
        (sample,) = DATASETS.build(config.test_dataloader.dataset)
    assert sample["data_samples"].gt_instances.bboxes.tensor.tolist() == [[4, 5, 29, 39]]
    assert len(sample["data_samples"].ignored_instances) == 2
