"""Mask R-CNN C4 learns two photos by heart: labels, boxes and masks reach it as they are."""

from argparse import Namespace

import pytest

import mmsalmask  # noqa: F401  serves mmcv's operators where they are not compiled

pytest.importorskip("mmdet")
from overfit_detection import choose, learn

from mmsalmask.errors import InputError


@pytest.mark.slow
def test_two_photos_are_learned_by_heart(tmp_path, photos):
    options = Namespace(count=2, size=128, batch=2, rois=8, steps=64, lr=0.02, seed=0)
    result = learn(photos("coco-mini") / "coco-mini", tmp_path, options)
    assert result["objects"] == 3
    # Seen: 0.73 and, for masks, 0.47; all three objects at an overlap of 0.5.
    assert result["bbox_mAP"] > 0.5, result
    assert result["segm_mAP_50"] > 0.6, result


def annotations(*boxes: list[float], crowd: int = 0) -> dict:
    """Two photos of 100×50 px, of which the second shows nothing."""
    images = [{"id": i, "width": 100, "height": 50} for i in (7, 3)]
    objects = [{"image_id": 7, "bbox": box, "iscrowd": crowd} for box in boxes]
    return {"images": images, "annotations": objects, "categories": ["kept"]}


def test_photos_with_a_few_large_objects_are_chosen():
    large, small = [0, 0, 20, 20], [0, 0, 20, 12]
    chosen = choose(annotations(large, large), 1)
    assert [image["id"] for image in chosen["images"]] == [7]
    assert len(chosen["annotations"]) == 2
    assert chosen["categories"] == ["kept"]
    for unsuited in (
        annotations(large, small),
        annotations(large, crowd=1),
        annotations(*6 * [large]),
    ):
        with pytest.raises(InputError, match="the set has only 0 suitable photos"):
            choose(unsuited, 1)
