"""What the VOC recipe makes of annotations that would ruin a training."""

from pathlib import Path

import numpy as np
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
<object><name>person</name><difficult>0</difficult>
<bndbox><xmin>32</xmin><ymin>12</ymin><xmax>32</xmax><ymax>20</ymax></bndbox></object>
</annotation>"""


def test_boxes_without_area_are_not_learned(tmp_path):
    for year in (2007, 2012):
        devkit = tmp_path / f"VOC{year}"
        for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (devkit / folder).mkdir(parents=True)
        Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(devkit / "JPEGImages" / "a.jpg")
        (devkit / "Annotations" / "a.xml").write_text(PHOTO)
        (devkit / "ImageSets" / "Main" / "trainval.txt").write_text("a\n")
    config = load_config(str(RECIPE), {"data_root": f"{tmp_path}/"})
    with DefaultScope.overwrite_default_scope("mmdet"):
        dataset = DATASETS.build(config.train_dataloader.dataset.dataset)
    for n in range(2):
        seen = dataset[n]
        kept = ~seen["gt_ignore_flags"]
        assert seen["gt_bboxes"].tensor[kept.tolist()].tolist() == [[4, 5, 29, 39]]
