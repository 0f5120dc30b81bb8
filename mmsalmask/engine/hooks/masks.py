"""Hooks that look at what the masker does, from outside: statistics and pictures."""

from pathlib import Path

import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook

from mmsalmask.checks import check_integer
from mmsalmask.engine.models import unwrapped
from mmsalmask.masking import MaskedViews, mask_ratios
from mmsalmask.registry import HOOKS
from mmsalmask.visualization.gallery import draw_gallery


class _MaskerHook(Hook):
    """Keeps the plain and the masked views of an iteration that :meth:`wants` asks for."""

    def before_train(self, runner) -> None:
        model = unwrapped(runner.model)
        self.preprocessor = model.data_preprocessor
        self.masker = getattr(self.preprocessor, "masker", None)
        self._wanted, self._seen = False, None
        if self.masker is not None:
            self._handle = self.masker.register_forward_hook(self._keep)

    def after_train(self, runner) -> None:
        if self.masker is not None:
            self._handle.remove()

    def wants(self, runner, batch_idx: int) -> bool:
        raise NotImplementedError

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        self._wanted = self.wants(runner, batch_idx)

    def _keep(self, masker, plain: tuple, masked: MaskedViews) -> None:
        if self._wanted:
            self._seen = (plain, masked)

    def _take(self) -> tuple[tuple, MaskedViews] | None:
        seen, self._seen = self._seen, None
        return seen


@HOOKS.register_module()
class TrainingStatisticsHook(_MaskerHook):
    """Add ``images_per_second`` and the actual mask ratios to the log.

    Ratios are percentages of foreground and background pixels that the query's mask and the hard
    negative's mask cover in the logged iteration, means over the images that have that side, and
    the share of the view that is foreground. Patches of a query cover the same share of both sides
    on average over iterations; focal masks more of the background.

    Args:
        interval: iterations between log lines, that of the ``LoggerHook``; the last iteration of an
            epoch counts too, since a short epoch is logged there. Between them nothing is computed
            and nothing waits for the device.
    """

    priority = "NORMAL"  # before the LoggerHook, which is BELOW_NORMAL

    def __init__(self, interval: int = 50) -> None:
        self.interval = check_integer("interval", interval)

    def wants(self, runner, batch_idx: int) -> bool:
        return self.every_n_inner_iters(batch_idx, self.interval) or self.end_of_epoch(
            runner.train_dataloader, batch_idx
        )

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if not self.wants(runner, batch_idx):
            return
        hub = runner.message_hub
        seconds = hub.get_scalar("train/time").mean(self.interval)
        views = data_batch["inputs"]
        images = len(views[0] if isinstance(views, (list, tuple)) else views) * get_world_size()
        hub.update_scalar("train/images_per_second", images / seconds)
        if (seen := self._take()) is not None:
            for name, value in _ratios(seen[1]).items():
                hub.update_scalar(f"train/{name}", value)


def _ratios(views: MaskedViews) -> dict[str, float]:
    masks = {"query": (views.query_mask, views.query_foreground)}
    if views.hard_negative_masks:
        masks["hard"] = (views.hard_negative_masks[0], views.key_foreground)
    ratios = {}
    for name, (mask, where) in masks.items():
        if mask is None:
            continue
        if where is None:
            ratios[f"{name}_masked%"] = mask.float().mean()
        else:
            ratios[f"{name}_masked_fg%"], ratios[f"{name}_masked_bg%"] = mask_ratios(mask, where)
    if views.query_foreground is not None:
        ratios["foreground%"] = views.query_foreground.float().mean()
    if not ratios:
        return {}
    values = torch.stack(list(ratios.values())).mul(100).tolist()
    return {name: value for name, value in zip(ratios, values, strict=True) if value == value}


@HOOKS.register_module()
class MaskGalleryHook(_MaskerHook):
    """Draw the masks of a training batch to ``work_dir/masks/epoch_<n>.png``.

    Args:
        interval: epochs between pictures; the first epoch always has one.
        images: how many images of the batch to show.
    """

    priority = "LOW"

    def __init__(self, interval: int = 10, images: int = 6) -> None:
        self.interval = check_integer("interval", interval)
        self.images = check_integer("images", images)

    def wants(self, runner, batch_idx: int) -> bool:
        return is_main_process() and batch_idx == 0 and runner.epoch % self.interval == 0

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if (seen := self._take()) is None:
            return
        (query, key), masked = seen
        path = Path(runner.work_dir) / "masks" / f"epoch_{runner.epoch + 1}.png"
        draw_gallery(query, key, masked, self.preprocessor, path, self.images)
