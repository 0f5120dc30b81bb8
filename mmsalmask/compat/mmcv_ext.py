"""The module ``mmcv._ext`` of an mmcv that came without compiled operators.

It holds the two operators that the recipes of ``configs/`` reach, NMS and RoIAlign: same names,
same arguments and same in-place results as mmcv's own extension, computed by torchvision's kernels
(CPU and CUDA, forward and backward). Half precision is computed in float32 and rounded at the end.
Every other operator exists, since mmcv looks for its name, and raises ``NotImplementedError`` when
called.

This file is loaded under the name ``mmcv._ext`` by :class:`mmsalmask.compat.OperatorFinder`.
"""

from functools import reduce

import torch
from torch import Tensor

_HOW_TO_COMPILE = (
    "install a prebuilt onedl-mmcv wheel for your torch, CUDA and Python from "
    "https://mmwheels.onedl.ai, or build it where torch, a C++17 compiler and, for CUDA, nvcc are "
    "installed, with `pip install --no-build-isolation --no-cache-dir --no-deps --force-reinstall "
    "--no-binary onedl-mmcv onedl-mmcv`"
)


def __getattr__(name: str):
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def missing(*args, **kwargs):
        raise NotImplementedError(
            f"The operator {name!r} needs mmcv's compiled operators, which this installation "
            f"lacks: {_HOW_TO_COMPILE}"
        )

    return missing


def _kernels():
    """``torch.ops.torchvision``, filled by importing torchvision."""
    import torchvision  # noqa: F401

    return torch.ops.torchvision


def _widen(*tensors: Tensor) -> list[Tensor]:
    """All tensors in their common dtype, at least float32; torchvision wants them alike."""
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)
    return [tensor.to(dtype) for tensor in tensors]


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices (K,) of the boxes (N, 4) kept by greedy NMS, by falling score (N,).

    ``offset`` 1 counts a box as x2 − x1 + 1 wide, as if its corners were pixels.
    """
    boxes, scores = _widen(boxes, scores)
    if offset:
        boxes = torch.cat((boxes[:, :2], boxes[:, 2:] + offset), dim=1)
    return _kernels().nms(boxes, scores, iou_threshold)


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoIAlign of features (N, C, H, W) at rois (R, 5) into ``output`` (R, C, h, w)."""
    _refuse_max_pooling(pool_mode)
    size = (aligned_height, aligned_width)
    wide = _widen(input, rois)
    output.copy_(_kernels().roi_align(*wide, spatial_scale, *size, sampling_ratio, aligned))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Adds the gradient of :func:`roi_align_forward` to ``grad_input`` (N, C, H, W)."""
    _refuse_max_pooling(pool_mode)
    size = (aligned_height, aligned_width)
    grad = _kernels()._roi_align_backward(
        *_widen(grad_output, rois),
        spatial_scale,
        *size,
        *grad_input.shape,
        sampling_ratio,
        aligned,
    )
    grad_input.add_(grad)


def _refuse_max_pooling(pool_mode: int) -> None:
    if pool_mode == 0:
        raise NotImplementedError(
            "RoIAlign with pool_mode='max' needs mmcv's compiled operators, since torchvision's "
            f"RoIAlign averages only: use pool_mode='avg', or {_HOW_TO_COMPILE}"
        )
