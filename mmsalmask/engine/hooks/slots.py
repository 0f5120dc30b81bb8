"""Pictures of what ADIOS's mask net does, taken from outside."""

from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from torch import Tensor, nn

from mmsalmask.checks import check_integer
from mmsalmask.engine.models import unwrapped
from mmsalmask.errors import InputError
from mmsalmask.registry import HOOKS
from mmsalmask.visualization.gallery import Column, draw_columns, to_photos


@HOOKS.register_module()
class SlotGalleryHook(Hook):
    """Draw slots of a training batch to ``work_dir/masks/slots_epoch_<n>.png``.

    A row per image: the view, then per slot its soft mask (white is hidden) and the masked view.

    Args:
        interval: epochs between pictures; the first epoch always has one.
        images: how many images of the batch to show.

    Raises:
        InputError: at the start of training, for a model without a mask net.
    """

    priority = "LOW"

    def __init__(self, interval: int = 10, images: int = 6) -> None:
        self.interval = check_integer("interval", interval)
        self.images = check_integer("images", images)

    def before_train(self, runner) -> None:
        model = unwrapped(runner.model)
        if not hasattr(model, "mask_net"):
            raise InputError(
                f"SlotGalleryHook draws the slots of ADIOS's mask net, and {type(model).__name__} "
                "has none: remove it from custom_hooks"
            )
        self.preprocessor = model.data_preprocessor
        self._wanted, self._seen = False, None
        self._handle = model.mask_net.register_forward_hook(self._keep)

    def after_train(self, runner) -> None:
        self._handle.remove()

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        self._wanted = is_main_process() and batch_idx == 0 and runner.epoch % self.interval == 0

    def _keep(self, mask_net: nn.Module, views: tuple[Tensor], masks: Tensor) -> None:
        if self._wanted:
            self._seen = views[0][: self.images], masks.detach()[: self.images]

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if self._seen is None:
            return
        (views, masks), self._seen = self._seen, None
        path = Path(runner.work_dir) / "masks" / f"slots_epoch_{runner.epoch + 1}.png"
        draw_slots(views, masks, self.preprocessor, path)


def draw_slots(views: Tensor, masks: Tensor, preprocessor, path: str | Path) -> None:
    """Draw views, slot masks and masked views as a PNG.

    Args:
        views: normalised, (N, 3, H, W).
        masks: soft masks (N, S, H, W), in [0, 1].
        preprocessor: gives mean, std and order of the channels.
        path: of the PNG; folders are made.
    """
    groups = [("", [Column("view", to_photos(views, preprocessor))])]
    for number, mask in enumerate(masks.float().unbind(1), 1):
        white = mask[..., None].expand(-1, -1, -1, 3).cpu().numpy()
        hidden = to_photos(views * (1 - mask[:, None]), preprocessor)
        title = f"slot {number}, {mask.mean().item():.0%}".replace("%", " %")
        groups.append(("", [Column(title, white), Column("masked view", hidden)]))
    legend = "ADIOS   ·   white is hidden   ·   per cent: mean area of the slot in these images"
    draw_columns(groups, tuple(views.shape[-2:]), path, legend)
