"""The module ``mmcv._ext`` of an mmcv that came without compiled operators.

Same names, same arguments and same in-place results as mmcv's own extension, computed by
torchvision's kernels (CPU and CUDA, forward and backward); soft NMS is plain PyTorch. Half
precision is computed in float32 and rounded at the end. An operator that torchvision cannot stand
in for exists, since mmcv looks for its name, and raises ``NotImplementedError`` when called.

This file is loaded under the name ``mmcv._ext`` by :class:`mmsalmask.compat.OperatorFinder`.
Its buffers ``columns`` and ``ones``, and ``im2col_step``, steer mmcv's own kernels only; they
change no result and are left alone.
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


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft NMS (Bodla et al., ICCV 2017) of boxes (N, 4) with scores (N,) on the CPU.

    Takes the best box, decays the scores of the others by their overlap with it, drops those
    whose score fell below ``min_score``, and repeats. Method 0 sets the score of an overlap of at
    least ``iou_threshold`` to 0, method 1 multiplies it with 1 − overlap, method 2 multiplies
    every score with exp(−overlap² / sigma).

    Returns the indices (K,) in the order taken, and writes box and decayed score to ``dets[:K]``.
    """
    candidates = torch.cat((boxes, scores[:, None].to(boxes.dtype)), dim=1)
    indices = torch.arange(len(boxes), device=boxes.device)
    taken = []
    while len(indices):
        best = candidates[:, 4].argmax()
        dets[len(taken)] = candidates[best]
        taken.append(indices[best])
        # Equal scores are taken in the order in which mmcv's swaps leave the boxes: the first box
        # moves to the place of the best one, and later the last one to that of a dropped one.
        rest = torch.arange(len(indices), device=boxes.device)
        rest[best] = 0
        overlap = _overlap(candidates[best], candidates[rest[1:]], offset)
        candidates, indices = candidates[rest[1:]], indices[rest[1:]]
        candidates[:, 4] *= _decay(overlap, method, iou_threshold, sigma)
        left = _fill_from_the_end(~(candidates[:, 4] < min_score))
        candidates, indices = candidates[left], indices[left]
    return torch.stack(taken) if taken else indices


def _overlap(box: Tensor, others: Tensor, offset: int) -> Tensor:
    """Intersection over union (N,) of one box (≥4,) with others (N, ≥4)."""
    low = box[:2].maximum(others[:, :2])
    high = box[2:4].minimum(others[:, 2:4])
    shared = (high - low + offset).clamp(min=0).prod(dim=1)
    size = (box[2:4] - box[:2] + offset).prod()
    sizes = (others[:, 2:4] - others[:, :2] + offset).prod(dim=1)
    return shared / (size + sizes - shared)


def _decay(overlap: Tensor, method: int, iou_threshold: float, sigma: float) -> Tensor:
    if method == 2:
        return torch.exp(-overlap.square() / sigma)
    reduced = 1 - overlap if method == 1 else torch.zeros_like(overlap)
    return torch.where(overlap >= iou_threshold, reduced, 1)


def _fill_from_the_end(keep: Tensor) -> Tensor:
    """Positions of the kept, the gaps among the first of them filled from the end backwards."""
    count = int(keep.sum())
    places = torch.arange(count, device=keep.device)
    places[~keep[:count]] = count + keep[count:].nonzero()[:, 0].flip(0)
    return places


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


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """RoIPool of features (N, C, H, W) at rois (R, 5) into ``output`` (R, C, h, w).

    torchvision rounds a RoI to pixels before it divides it into bins, mmcv does not. So the bins
    are laid out here, and each goes to torchvision as a RoI of its own with a single bin.
    ``argmax`` gets the place of each maximum in its channel, −1 for an empty bin, whose value is 0.
    """
    input, rois = _widen(input, rois)
    bins, empty = _roi_bins(rois, input.shape[2:], (pooled_height, pooled_width), spatial_scale)
    maxima, places = _kernels().roi_pool(input, bins.flatten(0, 2), 1.0, 1, 1)

    def arrange(per_bin: Tensor, if_empty: int) -> Tensor:
        per_bin = per_bin.view(*empty.shape, input.shape[1])
        return per_bin.masked_fill(empty[..., None], if_empty).permute(0, 3, 1, 2)

    output.copy_(arrange(maxima, 0))
    argmax.copy_(arrange(places, -1))


def _roi_bins(
    rois: Tensor, feature_size: tuple[int, int], pooled_size: tuple[int, int], scale: float
) -> tuple[Tensor, Tensor]:
    """Pixels that each bin covers: (R, h, w, 5) as RoIs with inclusive ends; empty: (R, h, w)."""
    low = rois[:, 1:3].flip(1) * scale  # y, x
    high = (rois[:, 3:5].flip(1) + 1) * scale
    starts, stops = [], []
    for axis, (pixels, count) in enumerate(zip(feature_size, pooled_size, strict=True)):
        step = (high[:, axis] - low[:, axis])[:, None] / count
        edges = torch.arange(count + 1, device=rois.device) * step + low[:, axis, None]
        starts.append(edges[:, :-1].floor().clamp(0, pixels))
        stops.append(edges[:, 1:].ceil().clamp(0, pixels))
    y1, x1 = torch.broadcast_tensors(starts[0][:, :, None], starts[1][:, None])
    y2, x2 = torch.broadcast_tensors(stops[0][:, :, None], stops[1][:, None])
    image = rois[:, 0, None, None].expand_as(x1)
    malformed = (high <= low).any(dim=1)[:, None, None]
    return torch.stack((image, x1, y1, x2 - 1, y2 - 1), -1), (x2 <= x1) | (y2 <= y1) | malformed


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Adds the gradient of :func:`roi_pool_forward` to ``grad_input`` (N, C, H, W)."""
    grad = _kernels()._roi_pool_backward(
        *_widen(grad_output, rois),
        argmax,
        spatial_scale,
        pooled_height,
        pooled_width,
        *grad_input.shape,
    )
    grad_input.add_(grad)


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Deformable convolution (Dai et al., ICCV 2017) into ``output`` (N, O, H', W').

    Input (N, C, H, W); weight (O, C/group, kH, kW); offset (N, 2·deformable_group·kH·kW, H', W'),
    y before x.
    """
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    output.copy_(_deform_conv(input, weight, offset, None, None, geometry))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Adds the gradient of :func:`deform_conv_forward` to ``gradInput``; writes ``gradOffset``."""
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    grads = _deform_conv_grads(gradOutput, input, weight, offset, None, None, geometry)
    gradInput.add_(grads[0])
    gradOffset.copy_(grads[2])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Adds ``scale`` times the gradient of :func:`deform_conv_forward` to ``gradWeight``."""
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    # The weight's own gradient does not depend on the weight, of which only the shape is known.
    weight = torch.zeros_like(gradWeight)
    grads = _deform_conv_grads(gradOutput, input, weight, offset, None, None, geometry)
    gradWeight.add_(grads[1], alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Modulated deformable convolution (Zhu et al., CVPR 2019) into ``output`` (N, O, H', W').

    As :func:`deform_conv_forward`, each sample weighed by the mask
    (N, deformable_group·kernel_h·kernel_w, H', W'), plus the bias (O,).
    """
    geometry = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    bias = bias if with_bias else None
    output.copy_(_deform_conv(input, weight, offset, mask, bias, geometry))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Gradient of :func:`modulated_deform_conv_forward`.

    Added to ``grad_input``, ``grad_weight`` and ``grad_bias``, written to ``grad_offset`` and
    ``grad_mask``.
    """
    geometry = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    bias = bias if with_bias else None
    grads = _deform_conv_grads(grad_output, input, weight, offset, mask, bias, geometry)
    grad_input.add_(grads[0])
    grad_weight.add_(grads[1])
    grad_offset.copy_(grads[2])
    grad_mask.copy_(grads[3])
    if with_bias:
        grad_bias.add_(grads[4])


def _deform_conv(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: tuple[int, ...],
) -> Tensor:
    operands = _deform_conv_operands(input, weight, offset, mask, bias)
    return _kernels().deform_conv2d(*operands, *geometry, mask is not None)


def _deform_conv_grads(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: tuple[int, ...],
) -> tuple[Tensor, ...]:
    """Gradients of input, weight, offset, mask and bias."""
    operands = _deform_conv_operands(input, weight, offset, mask, bias)
    grad_output = grad_output.to(operands[0].dtype)
    return _kernels()._deform_conv2d_backward(grad_output, *operands, *geometry, mask is not None)


def _deform_conv_operands(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None
) -> list[Tensor]:
    """What torchvision takes; it wants a mask and a bias even where it ignores them."""
    mask = input.new_zeros((len(input), 1)) if mask is None else mask
    bias = input.new_zeros(len(weight)) if bias is None else bias
    return _widen(input, weight, offset, mask, bias)
