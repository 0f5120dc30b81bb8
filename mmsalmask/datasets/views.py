"""mmpretrain's two-view transforms, which also say what part of the image each view shows.

They draw the same random numbers and give the same pixels as those of the same names there.
"""

import copy

import mmcv
import torch
from mmpretrain.datasets import transforms as mmpretrain_transforms

from mmsalmask.errors import InputError
from mmsalmask.registry import TRANSFORMS


@TRANSFORMS.register_module()
class RandomResizedCrop(mmpretrain_transforms.RandomResizedCrop):
    """mmpretrain's, and records its box.

    Added key: ``crop_box``, four floats x0, y0, x1, y1 as shares of the image's width and height.
    Arguments as in mmpretrain.
    """

    def transform(self, results: dict) -> dict:
        image = results["img"]
        top, left, height, width = self.rand_crop_params(image)
        rows, columns = image.shape[:2]
        results["crop_box"] = (
            left / columns,
            top / rows,
            (left + width) / columns,
            (top + height) / rows,
        )
        results["img"] = mmcv.imresize(
            image[top : top + height, left : left + width],
            tuple(self.scale[::-1]),
            interpolation=self.interpolation,
            backend=self.backend,
        )
        results["img_shape"] = results["img"].shape
        return results


@TRANSFORMS.register_module()
class MultiView(mmpretrain_transforms.MultiView):
    """mmpretrain's, and collects where the views were cut from.

    Added key, where every view has a ``crop_box``: ``crops``, a dict of

    - ``image``: the image's position in its dataset (``sample_idx``), −1 for one of no dataset;
    - ``box``: (V, 4) float32, see :class:`mmsalmask.saliency.Crops`;
    - ``flip``: (V,) bool, whether ``RandomFlip`` mirrored the view.

    Of what moves pixels, views may hold one :class:`RandomResizedCrop` and, after it, one
    ``RandomFlip``: a rotation, say, is recorded by nobody.

    Raises:
        InputError: for a view that is flipped upside down.
    """

    def transform(self, results: dict) -> dict:
        views = [transform(copy.deepcopy(results)) for transform in self.transforms]
        if all("crop_box" in view for view in views):
            results["crops"] = {
                "image": results.get("sample_idx", -1),
                "box": torch.tensor([view["crop_box"] for view in views], dtype=torch.float32),
                "flip": torch.tensor([_is_mirrored(view) for view in views]),
            }
        results["img"] = [view["img"] for view in views]
        return results


def _is_mirrored(view: dict) -> bool:
    direction = view.get("flip_direction")
    if direction not in (None, "horizontal"):
        raise InputError(
            f"a view is flipped in direction '{direction}', which its crop cannot tell a saliency "
            "cache: use RandomFlip with direction='horizontal'"
        )
    return direction is not None


@TRANSFORMS.register_module()
class PackInputs(mmpretrain_transforms.PackInputs):
    """mmpretrain's, and hands on ``crops`` beside ``inputs`` and ``data_samples``.

    Arguments as in mmpretrain. Items with ``crops`` are for ``mmsalmask.MaskingDataPreprocessor``.
    """

    def transform(self, results: dict) -> dict:
        packed = super().transform(results)
        if "crops" in results:
            packed["crops"] = results["crops"]
        return packed
