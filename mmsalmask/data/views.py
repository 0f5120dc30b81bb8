"""mmpretrain's two-view transforms, which also say what part of the image each view shows.

They draw the same random numbers and give the same pixels as those of the same names there.
"""

import copy

import mmcv
import torch
from mmcv.image.geometric import cv2_interp_codes, pillow_interp_codes
from mmpretrain.datasets import transforms as mmpretrain_transforms

from mmsalmask.checks import check_integer, check_part, check_positive_range, check_sides
from mmsalmask.errors import InputError
from mmsalmask.registry import TRANSFORMS

_MOST_PIXELS = 2**26


@TRANSFORMS.register_module()
class RandomResizedCrop(mmpretrain_transforms.RandomResizedCrop):
    """mmpretrain's, and records its box.

    Added key: ``crop_box``, four floats x0, y0, x1, y1 as shares of the image's width and height.

    Args:
        scale: height and width of the view in pixels, or one number for both; at most 2²⁶ pixels.
        crop_ratio_range: of the crop's share of the image, in (0, 1].
        aspect_ratio_range: of the crop's width / height.
        max_attempts: draws of a crop before the largest centred one is taken.
        interpolation: ``nearest``, ``bilinear``, ``bicubic``, ``area`` or ``lanczos``.
        backend: ``cv2`` or ``pillow``.

    Raises:
        InputError: for anything else.
    """

    def __init__(
        self,
        scale: int | tuple[int, int],
        crop_ratio_range: tuple[float, float] = (0.08, 1.0),
        aspect_ratio_range: tuple[float, float] = (3 / 4, 4 / 3),
        max_attempts: int = 10,
        interpolation: str = "bilinear",
        backend: str = "cv2",
    ) -> None:
        kernels = {"cv2": cv2_interp_codes, "pillow": pillow_interp_codes}
        if backend not in tuple(kernels):
            raise InputError(f"backend must be 'cv2' or 'pillow', got {backend!r}")
        if interpolation not in (known := tuple(kernels[backend])):
            raise InputError(
                f"interpolation of {backend} must be one of {', '.join(known)}, got "
                f"{interpolation!r}"
            )
        rows, columns = check_sides("scale", scale, 1)
        if rows * columns > _MOST_PIXELS:  # Pillow would fill the memory until the system kills it
            raise InputError(
                f"scale is the size of a view in pixels, at most {_MOST_PIXELS:,} in all, got "
                f"{rows}x{columns}"
            )
        super().__init__(
            (rows, columns),
            check_positive_range("crop_ratio_range", crop_ratio_range, 1),
            check_positive_range("aspect_ratio_range", aspect_ratio_range),
            check_integer("max_attempts", max_attempts, 0),
            interpolation,
            backend,
        )

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

    Args:
        transforms: lists of transforms.
        num_views: how many views each of them makes; one number where there is one list.

    Raises:
        InputError: for anything else; later, for a view that is flipped upside down.
    """

    def __init__(self, transforms: list[list], num_views: int | list[int]) -> None:
        counts = [num_views] if isinstance(num_views, int) else num_views
        for name, value in (("transforms", transforms), ("num_views", counts)):
            if not isinstance(value, list) or not value:
                raise InputError(f"{name} of MultiView must be a list, got {value!r}")
        for count in counts:
            check_integer("num_views", count)
        if len(counts) != len(transforms):
            raise InputError(
                f"MultiView has {len(transforms)} lists of transforms, but num_views for "
                f"{len(counts)}: give each list its number of views"
            )
        for pipeline in transforms:
            if not isinstance(pipeline, list):
                raise InputError(
                    f"transforms of MultiView must be a list of lists, got {pipeline!r} in it"
                )
            for transform in pipeline:
                if not callable(transform):
                    check_part("a transform of MultiView", transform)
        super().__init__(transforms, counts)

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
            f"a view is flipped in direction '{direction}', but a saliency cache supports only "
            "horizontal flips: use RandomFlip with direction='horizontal'"
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
