"""Look at what a config masks: a picture, and how much of foreground and background is masked.

Images pass through the config's own training pipeline and preprocessor, on the CPU. Without IMAGES
they are those of its training data. Files keep their order; the images of a folder are shuffled by
--seed. Where a batch needs more images than there are, they are used again, in other views.

    python tools/browse_masks.py CONFIG photo.jpg more/photos -o masks.png --batches 5
    python tools/browse_masks.py CONFIG more/photos --cfg-options \\
        model.data_preprocessor.masker.strategy.type=mmsalmask.StrongBlur

ADIOS learns where to mask: with a checkpoint of its training, the picture shows the slots.

    python tools/browse_masks.py configs/demo/adios-mocov2_resnet18_demo.py more/photos \\
        --checkpoint work_dirs/adios/epoch_12.pth
"""

import argparse
import os
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import set_random_seed
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from mmsalmask.algorithms import MaskingDataPreprocessor
from mmsalmask.checkpoint import check_matches, load_checkpoint
from mmsalmask.cli import config_arguments, report_errors
from mmsalmask.config import check_config, load_config
from mmsalmask.data import ImageFolder, fingerprint
from mmsalmask.data.image_folder import image_folders
from mmsalmask.data.loading import BrokenImage
from mmsalmask.engine.hooks.slots import draw_slots
from mmsalmask.engine.paths import fetch_checkpoints
from mmsalmask.errors import InputError
from mmsalmask.masking import MaskedViews, mask_ratios, to_pixels
from mmsalmask.registry import DATASETS, MODELS
from mmsalmask.saliency import Frozen
from mmsalmask.visualization.gallery import draw_gallery


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    config_arguments(parser)
    parser.add_argument("images", nargs="*", metavar="IMAGES", help="files and folders of images")
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="FILE",
        default=Path("masks.png"),
        help="the picture (%(default)s)",
    )
    parser.add_argument("--rows", type=int, default=6, help="images shown (%(default)s)")
    parser.add_argument(
        "--batches",
        type=int,
        default=1,
        help="batches, of the config's size, whose masks are counted (%(default)s); the picture "
        "shows the first",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of images, views and masks (%(default)s)"
    )
    parser.add_argument("--checkpoint", help="of an ADIOS training, whose mask net masks")
    parser.add_argument(
        "--localizer-map",
        action="store_true",
        help="show the localizer's own map instead of its mean over each patch",
    )
    options = parser.parse_intermixed_args(arguments)
    if min(options.rows, options.batches) < 1:
        parser.error("--rows and --batches must be at least 1")
    if not 0 <= options.seed < 2**32:
        parser.error("--seed must lie between 0 and 2**32 - 1")
    if options.out.suffix.lower() != ".png":
        parser.error(f"--out {options.out}: the picture is a PNG, name it so")
    return options


def find_images(given: list[str], dataset: Config, seed: int) -> list[dict]:
    """What a pipeline starts from, a dict with ``img_path`` per image."""
    files, others = [], []
    for path in given:
        if os.path.isdir(path):
            others += listed(ImageFolder(path))
        elif os.path.exists(path):
            files.append({"img_path": path})
        else:
            raise InputError(f"image {path} does not exist")
    if not given:
        others = listed(DATASETS.build({**dataset, "pipeline": []}))
    random.Random(seed).shuffle(others)
    return files + others


def listed(dataset) -> list[dict]:
    for folder in image_folders(dataset):
        folder.tell(MMLogger.get_current_instance())
    return [dataset.get_data_info(index) for index in range(len(dataset))]


def draw_batches(
    images: list[dict], pipeline: Callable, size: int, broken: dict[str, str]
) -> Iterator[dict]:
    """Batches without end, of at most ``size`` different images; note in ``broken`` the others."""
    waiting = deque(images)
    while True:
        items = []
        while len(items) < min(size, len(waiting)):
            image = waiting.popleft()
            try:
                items.append(pipeline(dict(image)))
            except BrokenImage as error:
                broken[error.path] = error.reason
                continue
            waiting.append(image)
        if not items:
            path, reason = next(iter(broken.items()))
            raise InputError(
                f"none of the {len(broken)} images can be read ({path}: {reason}): give others"
            )
        yield default_collate(items)


class Ratios:
    """What every mask of a run covers, image by image, since not all have both sides."""

    def __init__(self) -> None:
        self.shares: dict[str, list[Tensor]] = {}
        self.object_shares: list[Tensor] = []
        self.views = self.plain = 0

    def add(self, views: MaskedViews) -> None:
        self.views += len(views.query)
        masks = [
            ("query", views.query_mask, views.query_foreground),
            ("key", views.key_mask, views.key_foreground),
            *(("hard negatives", m, views.key_foreground) for m in views.hard_negative_masks),
        ]
        for name, mask, where in masks:
            if mask is not None:
                self.shares.setdefault(name, []).extend(shares(mask, where))
        if views.query_foreground is not None:
            pixels = to_pixels(views.query_foreground[:, None], views.query.shape[-2:])
            self.object_shares += pixels.float().mean((1, 2, 3))
            self.plain += (~views.query_foreground.flatten(1).any(1)).sum().item()

    def line(self) -> str:
        """Means over the images of the run that have the side in question."""
        parts = []
        for name, rows in self.shares.items():
            means = torch.stack(rows).nanmean(0).mul(100).tolist()
            sides = ("the view",) if len(means) == 1 else ("foreground", "background")
            told = [f"{m:.1f} % of {s}" for m, s in zip(means, sides, strict=True) if m == m]
            parts.append(f"{name}: {', '.join(told)}{'' if parts else ' masked'}")
        line = "; ".join(parts)
        if self.object_shares:
            line += f"; foreground {100 * torch.stack(self.object_shares).mean():.0f} % of the view"
        if self.plain:
            line += f", {self.plain} views without any, masked at random"
        return f"{line} ({self.views} views)"


def shares(mask: Tensor, where: Tensor | None) -> list[Tensor]:
    """Per image the masked share of foreground and background, or, without them, of the view."""
    if where is None:
        return list(mask.float().mean((1, 2, 3))[:, None])
    pairs = zip(mask.split(1), where.split(1), strict=True)
    return [torch.stack(mask_ratios(*pair)) for pair in pairs]


class Areas:
    """The mean area of each slot of an ADIOS mask net over a run."""

    def __init__(self) -> None:
        self.areas: list[Tensor] = []

    def add(self, masks: Tensor) -> None:
        self.areas += masks.mean((2, 3))

    def line(self) -> str:
        means = torch.stack(self.areas).mean(0).mul(100).tolist()
        told = ", ".join(f"{number}: {mean:.1f} %" for number, mean in enumerate(means, 1))
        return f"mean area of each slot: {told} ({len(self.areas)} views)"


def build_mask_net(config: Config, options: argparse.Namespace) -> nn.Module | None:
    """The mask net of an ADIOS config with the weights of a checkpoint; ``None`` of another's."""
    settings = (config.get("model") or {}).get("mask_net")
    if settings is None:
        if options.checkpoint:
            raise InputError(
                f"--checkpoint: {options.config} has no mask net (model.mask_net), its masks need "
                "no checkpoint"
            )
        return None
    if not options.checkpoint:
        raise InputError(
            f"{options.config} masks by a net that learns where: give a checkpoint of its training "
            "with --checkpoint, such as work_dirs/…/epoch_12.pth"
        )
    weights = load_checkpoint(options.checkpoint)
    state = {
        name.removeprefix("mask_net."): value
        for name, value in weights.get("state_dict", weights).items()
        if name.startswith("mask_net.")
    }
    if not state:
        raise InputError(
            f"{options.checkpoint} holds no mask net: give a checkpoint of an ADIOS training"
        )
    net = MODELS.build(settings)
    check_matches(net, state, options.checkpoint)
    net.load_state_dict(state)
    return net.eval()


def build_preprocessor(config: Config, given: str, masks: bool) -> MaskingDataPreprocessor:
    """That of a config; ``masks``: it has to have a masker."""
    settings = config.get("model", {}).get("data_preprocessor") or config.get("data_preprocessor")
    if settings is None or (masks and settings.get("masker") is None):
        raise InputError(
            f"{given} masks nothing: its data_preprocessor has no masker; use a config that has "
            "one, e.g. configs/demo/mocov2-salmask-mean_resnet18_demo.py"
        )
    return MODELS.build(settings)


def check_cache(cache: Frozen, dataset: Config, options: argparse.Namespace) -> None:
    """Refuse what a cache cannot show: images that are not its own, and maps beside the crops."""
    if options.images:
        raise InputError(
            f"{cache.module.name} knows the images of the training data alone: give no IMAGES, or "
            "set model.data_preprocessor.saliency_cache=None to run the localizer on these"
        )
    if options.localizer_map:
        raise InputError(
            "--localizer-map: a saliency cache is cut to the patch grid and has no map of a view"
        )
    cache.check_source(dataset=fingerprint(DATASETS.build({**dataset, "pipeline": []})))


@torch.no_grad()
def browse(options: argparse.Namespace) -> None:
    config = load_config(options.config, options.cfg_options)
    check_config(config)
    fetch_checkpoints(config)
    MMLogger.get_instance("browse_masks", log_level="WARNING")
    DefaultScope.get_instance(
        "browse_masks", scope_name=config.get("default_scope") or "mmpretrain"
    )
    set_random_seed(options.seed)
    net = build_mask_net(config, options)
    preprocessor = build_preprocessor(config, options.config, masks=net is None)
    localizer = getattr(preprocessor.masker, "localizer", None)
    if options.localizer_map and localizer is None:
        raise InputError(f"--localizer-map: {options.config} masks without a localizer")
    loader = config.get("train_dataloader") or {}
    dataset = loader.get("dataset") or {}
    while "pipeline" not in dataset and "dataset" in dataset:  # InMemory and other wrappers
        dataset = dataset["dataset"]
    if not dataset.get("pipeline"):
        raise InputError(f"{options.config} has no train_dataloader.dataset.pipeline for the views")
    if localizer is not None and localizer.needs == "crops":
        check_cache(localizer, dataset, options)
    images = find_images(options.images, dataset, options.seed)
    broken, told, seen = {}, Ratios() if net is None else Areas(), []
    (preprocessor.masker if net is None else net).register_forward_hook(
        lambda _, plain, masked: seen.append((plain, masked))
    )
    batches = draw_batches(
        images, Compose(dataset.pipeline), loader.get("batch_size") or 64, broken
    )
    steps = range(options.batches)
    if options.batches > 1:
        steps = track(steps, "masking", console=Console(stderr=True), transient=True)
    for step in steps:
        views = preprocessor(next(batches), training=True)["inputs"]
        if net is not None:
            net(views[0])
        plain, masked = seen.pop()
        told.add(masked)
        if step == 0:
            if options.localizer_map:
                masked = replace(masked, query_saliency=localizer(plain[0]))
            draw(plain, masked, preprocessor, options)
    if broken:
        some = "; ".join(f"{path}: {reason}" for path, reason in list(broken.items())[:5])
        print(f"{len(broken)} broken images skipped ({some}{' …' if len(broken) > 5 else ''})")
    print(told.line())
    print(options.out)


def draw(plain: tuple[Tensor, ...], masked: MaskedViews | Tensor, preprocessor, options) -> None:
    """Draw what a masker made of two views, or a mask net of one."""
    rows, out = options.rows, options.out
    try:
        if isinstance(masked, Tensor):
            draw_slots(plain[0][:rows], masked[:rows], preprocessor, out)
        else:
            draw_gallery(*plain, masked, preprocessor, out, rows)
    except OSError as error:
        raise InputError(f"{options.out} cannot be written ({error.strerror})") from error


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    with report_errors():
        browse(options)


if __name__ == "__main__":
    main()
