"""Look at what a config masks: a picture, and how much of foreground and background is masked.

Images pass through the config's own training pipeline and preprocessor, on the CPU. Without IMAGES
they are those of its training data. Files keep their order; the images of a folder are shuffled by
--seed. Where a batch needs more images than there are, they are used again, in other views.

    mmsalmask masks CONFIG photo.jpg more/photos -o masks.png --batches 5
    mmsalmask masks CONFIG more/photos --cfg-options \\
        model.data_preprocessor.masker.strategy.type=mmsalmask.StrongBlur

ADIOS learns where to mask: with a checkpoint of its training, the picture shows the slots.

    mmsalmask masks mmsalmask::demo/adios-mocov2_resnet18_demo.py more/photos \\
        --checkpoint work_dirs/adios/epoch_12.pth
"""

import argparse
import os
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import set_random_seed
from torch import Tensor, nn

from mmsalmask.algorithms import MaskingDataPreprocessor
from mmsalmask.checkpoint import check_matches, load_checkpoint
from mmsalmask.cli import Parser, config_arguments, report_errors, with_progress
from mmsalmask.config import check_config, load_config
from mmsalmask.data import ImageFolder, fingerprint
from mmsalmask.data.image_folder import image_folders
from mmsalmask.data.loading import BrokenImage
from mmsalmask.engine.hooks.slots import draw_slots
from mmsalmask.engine.paths import fetch_checkpoints
from mmsalmask.errors import InputError
from mmsalmask.masking import MaskedViews
from mmsalmask.registry import DATASETS, MODELS
from mmsalmask.saliency import Frozen
from mmsalmask.visualization.gallery import draw_gallery
from mmsalmask.visualization.mask_shares import Areas, Ratios


@torch.no_grad()
def browse_masks(
    config: str,
    images: Sequence[str] = (),
    out: str | Path = "masks.png",
    rows: int = 6,
    batches: int = 1,
    seed: int = 0,
    checkpoint: str | None = None,
    localizer_map: bool = False,
    cfg_options: Mapping[str, Any] | None = None,
) -> str:
    """Draw what a config masks, and count what its masks cover.

    Args:
        config: a config file with a masker or, with ``checkpoint``, of an ADIOS training.
        images: files and folders; none for the images of the config's training data.
        out: the picture, a PNG.
        rows: images that it shows.
        batches: of the config's size, whose masks are counted; the picture shows the first.
        seed: of images, views and masks.
        checkpoint: of an ADIOS training, whose mask net masks.
        localizer_map: show the localizer's own map instead of its mean over each patch.
        cfg_options: overrides of config keys, dotted path → value.

    Returns:
        What the masks cover, in a line.

    Raises:
        InputError: the config masks nothing, no image can be read, or ``out`` cannot be written.

    Example::

        print(browse_masks("mmsalmask::demo/mocov2-salmask-mean_resnet18_demo.py", ["photos"]))
    """
    given, out = config, Path(out)
    config = load_config(given, cfg_options)
    check_config(config)
    fetch_checkpoints(config)
    MMLogger.get_instance("browse_masks", log_level="WARNING")
    DefaultScope.get_instance(
        "browse_masks", scope_name=config.get("default_scope") or "mmpretrain"
    )
    set_random_seed(seed)
    net = build_mask_net(config, given, checkpoint)
    preprocessor = build_preprocessor(config, given, masks=net is None)
    localizer = getattr(preprocessor.masker, "localizer", None)
    if localizer_map and localizer is None:
        raise InputError(f"--localizer-map: {given} masks without a localizer")
    loader = config.get("train_dataloader") or {}
    dataset = loader.get("dataset") or {}
    while "pipeline" not in dataset and "dataset" in dataset:  # InMemory and other wrappers
        dataset = dataset["dataset"]
    if not dataset.get("pipeline"):
        raise InputError(f"{given} has no train_dataloader.dataset.pipeline for the views")
    if localizer is not None and localizer.needs == "crops":
        check_cache(localizer, dataset, images, localizer_map)
    found = find_images(images, dataset, seed)
    broken, told, seen = {}, Ratios() if net is None else Areas(), []
    (preprocessor.masker if net is None else net).register_forward_hook(
        lambda _, plain, masked: seen.append((plain, masked))
    )
    drawn = draw_batches(found, Compose(dataset.pipeline), loader.get("batch_size") or 64, broken)
    steps = range(batches)
    if batches > 1:
        steps = with_progress(steps, "masking")
    for step in steps:
        views = preprocessor(next(drawn), training=True)["inputs"]
        if net is not None:
            net(views[0])
        plain, masked = seen.pop()
        told.add(masked)
        if step == 0:
            if localizer_map:
                masked = replace(masked, query_saliency=localizer(plain[0]))
            draw(plain, masked, preprocessor, out, rows)
    if broken:
        some = "; ".join(f"{path}: {reason}" for path, reason in list(broken.items())[:5])
        print(f"{len(broken)} broken images skipped ({some}{' …' if len(broken) > 5 else ''})")
    return told.line()


def find_images(given: Sequence[str], dataset: Config, seed: int) -> list[dict]:
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


def build_mask_net(config: Config, given: str, checkpoint: str | None) -> nn.Module | None:
    """The mask net of an ADIOS config with the weights of a checkpoint; ``None`` of another's."""
    settings = (config.get("model") or {}).get("mask_net")
    if settings is None:
        if checkpoint:
            raise InputError(
                f"--checkpoint: {given} has no mask net (model.mask_net), its masks need "
                "no checkpoint"
            )
        return None
    if not checkpoint:
        raise InputError(
            f"{given} masks by a net that learns where: give a checkpoint of its training "
            "with --checkpoint, such as work_dirs/…/epoch_12.pth"
        )
    weights = load_checkpoint(checkpoint)
    state = {
        name.removeprefix("mask_net."): value
        for name, value in weights.get("state_dict", weights).items()
        if name.startswith("mask_net.")
    }
    if not state:
        raise InputError(f"{checkpoint} holds no mask net: give a checkpoint of an ADIOS training")
    net = MODELS.build(settings)
    check_matches(net, state, checkpoint)
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


def check_cache(cache: Frozen, dataset: Config, images: Sequence[str], localizer_map: bool) -> None:
    """Refuse what a cache cannot show: images that are not its own, and maps beside the crops."""
    if images:
        raise InputError(
            f"{cache.module.name} knows the images of the training data alone: give no IMAGES, or "
            "set model.data_preprocessor.saliency_cache=None to run the localizer on these"
        )
    if localizer_map:
        raise InputError(
            "--localizer-map: a saliency cache is cut to the patch grid and has no map of a view"
        )
    cache.check_source(dataset=fingerprint(DATASETS.build({**dataset, "pipeline": []})))


def draw(
    plain: tuple[Tensor, ...], masked: MaskedViews | Tensor, preprocessor, out: Path, rows: int
) -> None:
    """Draw what a masker made of two views, or a mask net of one."""
    try:
        if isinstance(masked, Tensor):
            draw_slots(plain[0][:rows], masked[:rows], preprocessor, out)
        else:
            draw_gallery(*plain, masked, preprocessor, out, rows)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror})") from error


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
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
    options = parser.parse_intermixed_args(words)
    if min(options.rows, options.batches) < 1:
        parser.error("--rows and --batches must be at least 1")
    if not 0 <= options.seed < 2**32:
        parser.error("--seed must lie between 0 and 2**32 - 1")
    if options.out.suffix.lower() != ".png":
        parser.error(f"--out {options.out}: the picture is a PNG, name it so")
    return options


def main(words: list[str] | None = None) -> None:
    options = parse_arguments(words)
    with report_errors():
        print(browse_masks(**vars(options)))
        print(options.out)
