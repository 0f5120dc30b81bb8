"""How far predicted depth and motion are from the truth (Eigen et al. 2014; Garg et al. 2016)."""

from collections import defaultdict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from torch import Tensor

from mmsalmask.errors import InputError
from mmsalmask.registry import METRICS

#: The seven figures in their usual order; the last three are shares, the higher the better.
FIGURES = ("abs_rel", "sq_rel", "rmse", "rmse_log", "d1", "d2", "d3")

# Rows from the first to the second share of the height, columns likewise.
_GARG_ROWS = (0.40810811, 0.99189189)
_GARG_COLUMNS = (0.03594771, 0.96405229)


def garg_crop(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Bool (H, W), true where Garg et al. evaluate: what of KITTI's image the laser sees."""
    rows = torch.zeros(height, dtype=torch.bool, device=device)
    columns = torch.zeros(width, dtype=torch.bool, device=device)
    rows[int(_GARG_ROWS[0] * height) : int(_GARG_ROWS[1] * height)] = True
    columns[int(_GARG_COLUMNS[0] * width) : int(_GARG_COLUMNS[1] * width)] = True
    return rows[:, None] & columns


def valid_pixels(truth: Tensor, nearest: float, farthest: float, crop: bool) -> Tensor:
    """Bool (N, H, W): where a truth between ``nearest`` and ``farthest`` lies inside the crop."""
    valid = (truth > nearest) & (truth < farthest)
    if crop:
        valid = valid & garg_crop(*truth.shape[-2:], device=truth.device)
    return valid


def masked_median(values: Tensor, valid: Tensor) -> Tensor:
    """The median (N,) of each row's valid values (N, P); between two middle ones their mean."""
    ordered = values.masked_fill(~valid, torch.inf).sort(1).values
    count = valid.sum(1)
    middle = torch.stack([(count - 1).clamp(min=0) // 2, count // 2], dim=1)
    return ordered.gather(1, middle.clamp(max=values.shape[1] - 1)).mean(1)


def depth_errors(
    predicted: Tensor,
    truth: Tensor,
    nearest: float = 1e-3,
    farthest: float = 80.0,
    crop: bool = True,
    median_scaling: bool = True,
) -> tuple[Tensor, Tensor]:
    """The seven figures of each image.

    Over the valid pixels, with d the prediction (scaled so that its median is the truth's, then
    clamped to [nearest, farthest]) and t the truth: mean |d − t|/t, mean (d − t)²/t,
    √mean (d − t)², √mean (log d − log t)², and the shares of pixels with max(d/t, t/d) under 1.25,
    1.25² and 1.25³. Computed in float64.

    Args:
        predicted: (N, H, W) depths, positive.
        truth: (N, H, W) in metres, 0 where unknown.
        nearest, farthest: pixels count whose truth lies strictly between these, in metres.
        crop: count the pixels in the crop of Garg et al. only.
        median_scaling: monocular depth has no scale of its own; take it from the truth.

    Returns:
        (N, 7) in the order of :data:`FIGURES`, and the factors (N,) that the predictions were
        multiplied by. A row without a valid pixel is NaN.

    Raises:
        InputError: for shapes that differ.
    """
    if predicted.shape != truth.shape or truth.dim() != 3:
        raise InputError(
            f"predicted and true depths must both be (N, H, W), got {tuple(predicted.shape)} and "
            f"{tuple(truth.shape)}"
        )
    valid = valid_pixels(truth, nearest, farthest, crop).flatten(1)
    predicted, truth = predicted.double().flatten(1), truth.double().flatten(1)
    factor = predicted.new_ones(len(predicted))
    if median_scaling:
        factor = masked_median(truth, valid) / masked_median(predicted, valid)
    predicted = (predicted * factor[:, None]).clamp(nearest, farthest)
    # Unknown pixels must not divide by 0, and weigh nothing.
    truth = torch.where(valid, truth, torch.ones_like(truth))
    predicted = torch.where(valid, predicted, torch.ones_like(predicted))
    count = valid.sum(1)

    def mean(values: Tensor) -> Tensor:
        return (values * valid).sum(1) / count

    difference = predicted - truth
    ratio = torch.maximum(predicted / truth, truth / predicted)
    figures = [
        mean(difference.abs() / truth),
        mean(difference**2 / truth),
        mean(difference**2).sqrt(),
        mean((predicted.log() - truth.log()) ** 2).sqrt(),
        *(mean((ratio < 1.25**power).double()) for power in (1, 2, 3)),
    ]
    return torch.stack(figures, dim=1), factor


def constant_depth_errors(
    truth: Tensor, nearest: float = 1e-3, farthest: float = 80.0, crop: bool = True
) -> Tensor:
    """AbsRel (N,) of the best constant depth for each image: what a network must beat.

    Mean |c/t − 1| over the valid pixels is least where c is a median of the truth in which every
    pixel weighs 1/t. The constant is not median scaled: it may be chosen better than that.

    Args:
        truth: (N, H, W) in metres, 0 where unknown.
        nearest, farthest, crop: as in :func:`depth_errors`.
    """
    valid = valid_pixels(truth, nearest, farthest, crop).flatten(1)
    truth = truth.double().flatten(1)
    ordered = truth.masked_fill(~valid, torch.inf).sort(1).values
    weight = torch.where(ordered.isinf(), torch.zeros_like(ordered), 1 / ordered).cumsum(1)
    place = (weight >= weight[:, -1:] / 2).double().argmax(1, keepdim=True)
    constant = ordered.gather(1, place)
    error = torch.where(valid, (constant / truth - 1).abs(), torch.zeros_like(truth))
    return error.sum(1) / valid.sum(1)


@METRICS.register_module()
class DepthMetric(BaseMetric):
    """The seven figures of :func:`depth_errors`, averaged over the images.

    Samples have ``pred_inverse_depth`` (h, w), which is brought to the size of ``gt_depth`` (H, W)
    bilinearly before it is inverted, as published figures are. ``constant_abs_rel``, the AbsRel of
    each image's best constant depth, stands beside them, and ``scale_spread``, the standard
    deviation of the median-scaling factors over their median: small where the network keeps one
    unit of length.

    Args:
        nearest, farthest, crop, median_scaling: as in :func:`depth_errors`.
        collect_device: as in mmengine.
        prefix: put before the names of the figures.

    Raises:
        InputError: for samples without prediction or truth, and if an image has no valid pixel.
    """

    default_prefix = "depth"

    def __init__(
        self,
        nearest: float = 1e-3,
        farthest: float = 80.0,
        crop: bool = True,
        median_scaling: bool = True,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if not 0 <= nearest < farthest:
            raise InputError(f"depths count from nearest to farthest, got {nearest} to {farthest}")
        self.nearest = nearest
        self.farthest = farthest
        self.crop = crop
        self.median_scaling = median_scaling

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Measure a batch; images of one size together."""
        by_size = defaultdict(list)
        for sample in data_samples:
            if "gt_depth" not in sample or "pred_inverse_depth" not in sample:
                raise InputError(
                    "DepthMetric needs gt_depth and pred_inverse_depth: put LoadTrueDepth into the "
                    "test pipeline and set ground_truth in the dataset"
                )
            shapes = (sample["gt_depth"].shape, sample["pred_inverse_depth"].shape)
            by_size[shapes].append(sample)
        for group in by_size.values():
            truth = torch.stack([sample["gt_depth"] for sample in group])
            inverse = torch.stack([sample["pred_inverse_depth"] for sample in group]).float()
            inverse = F.interpolate(
                inverse[:, None], truth.shape[-2:], mode="bilinear", align_corners=False
            )[:, 0]
            counted = (self.nearest, self.farthest, self.crop)
            figures, factor = depth_errors(1 / inverse, truth, *counted, self.median_scaling)
            constant = constant_depth_errors(truth, *counted)
            rows = torch.cat([figures, factor[:, None], constant[:, None]], dim=1)
            self.results.extend(rows.cpu())

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float]:
        """Means over the images."""
        rows = torch.stack(list(results))
        empty = int(rows[:, 0].isnan().sum())
        if empty:
            raise InputError(
                f"{empty} of {len(rows)} images have no true depth between {self.nearest} and "
                f"{self.farthest} m where it is evaluated: leave them out of the split"
            )
        measures = dict(zip(FIGURES, rows[:, :7].mean(0).tolist(), strict=True))
        factor = rows[:, 7]
        measures["constant_abs_rel"] = rows[:, 8].mean().item()
        measures["scale_spread"] = (factor / factor.median()).std(correction=0).item()
        return measures


def direction_errors(predicted: Tensor, truth: Tensor) -> Tensor:
    """Angles in degrees, [0, 180], between the translations of motions (…, 4, 4); scale is free."""
    first, second = (motion[..., :3, 3].double() for motion in (predicted, truth))
    # atan2 is exact also where the cosine is flat.
    sine = torch.linalg.cross(first, second).norm(dim=-1)
    return torch.rad2deg(torch.atan2(sine, (first * second).sum(-1)))


@METRICS.register_module()
class TranslationMetric(BaseMetric):
    """Angle between predicted and true translation, in degrees: mean, median and largest.

    Samples have ``pred_motions`` and ``gt_motions`` (2, 4, 4), to the previous and the next frame.

    Args:
        collect_device, prefix: as in :class:`DepthMetric`.

    Raises:
        InputError: for samples without motions.
    """

    default_prefix = "translation"

    def __init__(self, collect_device: str = "cpu", prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Measure a batch."""
        if any("pred_motions" not in s or "gt_motions" not in s for s in data_samples):
            raise InputError(
                "TranslationMetric needs pred_motions and gt_motions: set neighbours=True and "
                "with_motion=True in the test dataset"
            )
        predicted, truth = (
            torch.stack([sample[name] for sample in data_samples])
            for name in ("pred_motions", "gt_motions")
        )
        self.results.extend(direction_errors(predicted, truth).cpu())

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float]:
        """Over all frames and both directions."""
        angles = torch.cat(list(results))
        return {
            "mean_deg": angles.mean().item(),
            "median_deg": angles.median().item(),
            "max_deg": angles.max().item(),
        }
