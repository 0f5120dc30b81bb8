"""Transforms of a frame with its neighbours in time, for depth from video.

A pipeline is LoadFrames, ResizeFrames, FlipFrames, JitterFrames, PackFrames. ``frames`` are the
images as filmed, in the order target, previous, next; views are synthesised from them.
``jittered`` are what the pose network sees, and ``img`` is what the encoder sees: the target,
jittered. A ``mmsalmask.HighPassFilter`` just before PackFrames is all that an encoder pretrained
on high-pass filtered images needs; it changes ``img`` alone.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.structures import BaseDataElement
from PIL import Image
from torchvision.transforms.v2 import functional as colours

from mmsalmask.data.loading import BrokenImage, read_image
from mmsalmask.depth.kitti_files import read_laser_depth
from mmsalmask.errors import InputError
from mmsalmask.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadFrames(BaseTransform):
    """Read the target, and its neighbours where the dataset names them.

    Required keys: ``img_path``, and ``neighbour_paths`` of the previous and the next frame. Added
    keys: ``frames`` (list of (H, W, 3) uint8 BGR), ``img``, ``img_shape``, ``ori_shape``.

    Raises:
        BrokenImage: a frame cannot be read, or a neighbour has another size than the target.
    """

    def transform(self, results: dict) -> dict:
        paths = [results["img_path"], *results.get("neighbour_paths", [])]
        frames = [read_image(path) for path in paths]
        for path, frame in zip(paths, frames, strict=True):
            if frame.shape != frames[0].shape:
                raise BrokenImage(
                    path, f"is {_size(frame)}, but its neighbour {paths[0]} is {_size(frames[0])}"
                )
        results["frames"] = frames
        results["img"] = frames[0]
        results["img_shape"] = results["ori_shape"] = frames[0].shape[:2]
        return results


@TRANSFORMS.register_module()
class ResizeFrames(BaseTransform):
    """Bring all frames to one size, with a Lanczos filter that does not alias.

    Intrinsics are fractions of the image and stay.

    Args:
        scale: (width, height) in pixels, multiples of 32 from 64 up: the decoder doubles maps five
            times and reflects the smallest, too, at its border.

    Raises:
        InputError: for other sides.
    """

    def __init__(self, scale: tuple[int, int]) -> None:
        pair = isinstance(scale, Sequence) and len(scale) == 2
        if not pair or any(side < 64 or side % 32 for side in scale):
            raise InputError(
                "the scale of ResizeFrames is (width, height), both multiples of 32 from 64 up, "
                f"got {scale}"
            )
        self.scale = tuple(scale)

    def transform(self, results: dict) -> dict:
        results["frames"] = [
            np.asarray(Image.fromarray(frame).resize(self.scale, Image.Resampling.LANCZOS))
            for frame in results["frames"]
        ]
        results["img"] = results["frames"][0]
        results["img_shape"] = results["img"].shape[:2]
        return results


@TRANSFORMS.register_module()
class FlipFrames(BaseTransform):
    """Mirror all frames, left and right, with their camera and true motions.

    Args:
        prob: share of the samples that are mirrored.
    """

    def __init__(self, prob: float = 0.5) -> None:
        _check_share(prob)
        self.prob = prob

    def transform(self, results: dict) -> dict:
        if np.random.rand() >= self.prob:
            return results
        results["frames"] = [np.ascontiguousarray(frame[:, ::-1]) for frame in results["frames"]]
        results["img"] = results["frames"][0]
        fx, fy, cx, cy = results["intrinsics"]
        results["intrinsics"] = (fx, fy, 1 - cx, cy)
        if "motions" in results:
            mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
            results["motions"] = mirror @ results["motions"] @ mirror
        return results


@TRANSFORMS.register_module()
class JitterFrames(BaseTransform):
    """Change brightness, contrast, saturation and hue, alike in all frames, in random order.

    ``frames`` stay as they are: added key ``jittered``, changed key ``img``.

    Args:
        prob: share of the samples that are changed.
        strength: factors of the first three are drawn from 1 ± strength.
        hue: turn of the hue is drawn from ± this share of the circle.
    """

    def __init__(self, prob: float = 0.5, strength: float = 0.2, hue: float = 0.1) -> None:
        _check_share(prob)
        _check_share(strength)
        if not 0 <= hue <= 0.5:
            raise InputError(f"hue is a share of the colour circle, in [0, 0.5], got {hue}")
        self.prob = prob
        self.strength = strength
        self.hue = hue

    def transform(self, results: dict) -> dict:
        if np.random.rand() >= self.prob:
            return results
        frames = torch.from_numpy(np.stack(results["frames"])[..., ::-1].copy())
        frames = frames.permute(0, 3, 1, 2)
        factors = np.random.uniform(1 - self.strength, 1 + self.strength, 3)
        changes = [
            lambda x: colours.adjust_brightness(x, factors[0]),
            lambda x: colours.adjust_contrast(x, factors[1]),
            lambda x: colours.adjust_saturation(x, factors[2]),
        ]
        turn = np.random.uniform(-self.hue, self.hue)
        changes.append(lambda x: colours.adjust_hue(x, turn))
        for index in np.random.permutation(len(changes)):
            frames = changes[index](frames)
        results["jittered"] = list(frames.permute(0, 2, 3, 1).numpy()[..., ::-1])
        results["img"] = np.ascontiguousarray(results["jittered"][0])
        return results


@TRANSFORMS.register_module()
class LoadTrueDepth(BaseTransform):
    """Read the true depth map of the target.

    Required key: ``depth_path``, a 16-bit PNG in 1/256 m or a ``.npy`` of float metres; or
    ``laser`` with a scan to project (see :func:`mmsalmask.depth.kitti_files.laser_depth`). Added
    key: ``depth`` (H, W) float32 in metres, 0 where it is not known.

    Raises:
        BrokenImage: the file cannot be read as such.
    """

    def transform(self, results: dict) -> dict:
        if "laser" in results:
            results["depth"] = read_laser_depth(**results["laser"], size=results["ori_shape"])
        elif "depth_path" in results:
            results["depth"] = _read_depth(results["depth_path"])
        else:
            raise InputError(
                "LoadTrueDepth has nothing to read: set ground_truth='velodyne' or 'prepared' in "
                "the dataset"
            )
        return results


@TRANSFORMS.register_module()
class PackFrames(BaseTransform):
    """Turn what the pipeline made into what ``mmsalmask.DepthDataPreprocessor`` takes.

    ``inputs`` holds ``img`` (3, H, W), the intrinsics K (3, 3) float32 in pixels, and with
    neighbours ``frames`` (jittered) and ``plain``, both (3, 3, H, W) uint8. ``data_samples`` has,
    where they are loaded, the true ``gt_depth`` (H', W') and ``gt_motions`` (2, 4, 4).
    """

    def transform(self, results: dict) -> dict:
        height, width = results["img"].shape[:2]
        fx, fy, cx, cy = results["intrinsics"]
        inputs = {
            "img": _to_tensor(results["img"]),
            # Fractions count from the image's edge, pixels from the first pixel's centre.
            "intrinsics": torch.tensor(
                [[fx * width, 0, cx * width - 0.5], [0, fy * height, cy * height - 0.5], [0, 0, 1]],
                dtype=torch.float32,
            ),
        }
        if len(results["frames"]) > 1:
            plain = torch.stack([_to_tensor(frame) for frame in results["frames"]])
            jittered = results.get("jittered")
            inputs["plain"] = plain
            inputs["frames"] = (
                plain if jittered is None else torch.stack([_to_tensor(f) for f in jittered])
            )
        sample = BaseDataElement(metainfo={"img_path": results["img_path"]})
        if "depth" in results:
            sample.set_field(torch.from_numpy(results["depth"]), "gt_depth")
        if "motions" in results:
            motions = torch.from_numpy(np.asarray(results["motions"], dtype=np.float32))
            sample.set_field(motions, "gt_motions")
        return {"inputs": inputs, "data_samples": sample}


def _to_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def _check_share(value: float) -> None:
    if not 0 <= value <= 1:
        raise InputError(f"a share or strength lies in [0, 1], got {value}")


def _read_depth(path: str) -> np.ndarray:
    try:
        if path.endswith(".npy"):
            depth = np.load(path, allow_pickle=False).astype(np.float32)
        else:
            depth = cv2.imread(path, cv2.IMREAD_UNCHANGED)
            if depth is not None and depth.dtype == np.uint16:
                depth = depth.astype(np.float32) / 256
            else:
                depth = None
    except (OSError, ValueError) as error:
        raise BrokenImage(path, str(error)) from error
    if depth is None or depth.ndim != 2:
        raise BrokenImage(path, "is no 16-bit PNG or .npy map of depths")
    return depth
