"""Features of labelled images by a frozen backbone, on which kNN and linear classifiers are fitted.

Every image is seen as the encoder saw images in pretraining: resized, cut out at the centre,
normalised by the config's preprocessor and, after the high-pass strategy, filtered.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader

from mmsalmask.checkpoint import (
    backbone_state,
    check_matches,
    is_high_pass,
    load_checkpoint,
    typed_parts,
    view_size,
    warn_if_filter_differs,
)
from mmsalmask.checks import check_device, check_integer
from mmsalmask.cli import with_progress
from mmsalmask.config import check_config, load_config
from mmsalmask.data import ImageFolder
from mmsalmask.data.image_folder import check_folder
from mmsalmask.errors import InputError
from mmsalmask.evaluation.knn import check_neighbours
from mmsalmask.evaluation.labelled import count_classes, labelled_folders, warn_of_shared
from mmsalmask.masking import Strategy
from mmsalmask.registry import MODELS, TRANSFORMS


def bands_of(config: Config) -> int | None:
    """The channels that a config's training images are read with, ``None`` for usual colours."""
    for part in typed_parts(config.get("train_dataloader")):
        if part["type"] == "mmsalmask.LoadBands":
            return part["channels"]
    return None


class EncoderView:
    """What the encoder of a config sees of RGB images (N, 3, H, W): float32 of that shape.

    Images with another number of channels are left in their order.

    They are normalised as the data preprocessor of the config does it, and filtered as the strategy
    of its masker does it, or a transform of its training pipeline that says that it ``filters``.
    """

    def __init__(self, config: Config) -> None:
        settings = config.model.get("data_preprocessor") or config.get("data_preprocessor") or {}
        self.rgb = settings.get("to_rgb", False) or settings.get("bgr_to_rgb", False)
        self.mean, self.std = (
            None if settings.get(name) is None else torch.tensor(settings[name]).view(-1, 1, 1)
            for name in ("mean", "std")
        )
        self.filter = _filter(settings, config)

    def __call__(self, images: Tensor) -> Tensor:
        turned = images.shape[1] == 3 and not self.rgb
        images = images.float().flip(1) if turned else images.float()
        if self.mean is not None:
            images = (images - self.mean.to(images.device)) / self.std.to(images.device)
        return images if self.filter is None else self.filter(images)


def _filter(settings: dict, config: Config) -> Callable[[Tensor], Tensor] | None:
    strategy = (settings.get("masker") or {}).get("strategy")
    if strategy is not None:
        if strategy["type"].rpartition(".")[2] not in Strategy.registered():
            raise InputError(
                f"the encoder sees images as {strategy['type']} shows them, a class that is not "
                "here: import the module that defines it first, or evaluate it by its config, "
                "whose custom_imports name that module"
            )
        return MODELS.build(strategy).see
    TRANSFORMS.import_from_location()
    for part in typed_parts(config.get("train_dataloader")):
        transform = TRANSFORMS.module_dict.get(part["type"].rpartition(".")[2])
        if getattr(transform, "filters", False):
            return TRANSFORMS.build(part).see
    return None


def load_backbone(config: Config, checkpoint: str, seed: int) -> nn.Module:
    """The backbone of a config with the weights of a checkpoint, or untrained.

    Args:
        config: with ``model.backbone``.
        checkpoint: a run's, an exported backbone, any that
            :func:`mmsalmask.checkpoint.backbone_state` understands; or ``"none"``.
        seed: of the untrained backbone's weights.

    Raises:
        InputError: for a config without backbone and a checkpoint that does not fit it.
    """
    if config.get("model", {}).get("backbone") is None:
        raise InputError(f"{config.filename} has no model.backbone to evaluate")
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope(config.get("default_scope") or "mmpretrain"):
        backbone = MODELS.build(config.model.backbone)
    if checkpoint == "none":
        backbone.init_weights()
        return backbone
    content = load_checkpoint(checkpoint)
    warn_if_filter_differs(content, checkpoint, {"this evaluation": is_high_pass(config)})
    state = backbone_state(content)
    check_matches(backbone, state, checkpoint)
    backbone.load_state_dict(state, strict=False)  # num_batches_tracked may be absent
    return backbone


class LabelledFeatures(NamedTuple):
    """Features (M, D) and (Q, D) of training and test images, float32, and their classes, int64."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


@torch.no_grad()
def extract_features(
    backbone: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    device: torch.device | str,
    view: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Global average of the backbone's last feature map, for every image of ``loader``.

    The backbone runs in eval mode and is handed back with every submodule in the mode it had.

    Args:
        backbone: Maps images (N, 3, H, W) to a feature map (N, D, h, w), or to a sequence of them
            of which the last counts, as mmpretrain's backbones do. It must be on ``device``.
        loader: Yields images (N, 3, H, W) and their classes (N,).
        device: Where the images are sent.
        view: What the backbone is given of them, computed there; ``None`` for the images as they
            are.

    Returns:
        Features (M, D), float32, and classes (M,), int64, both on ``device``, in the given order.

    Raises:
        InputError: If the loader yields nothing.
    """
    modes = [(module, module.training) for module in backbone.modules()]
    backbone.eval()
    features, labels = [], []
    try:
        for images, classes in loader:
            images = images.to(device, non_blocking=True)
            maps = backbone(images if view is None else view(images))
            last = maps[-1] if isinstance(maps, (tuple, list)) else maps
            features.append(last.float().mean(dim=(2, 3)))
            labels.append(classes.to(device, torch.int64))
    finally:
        for module, training in modes:
            module.training = training
    if not features:
        raise InputError("There are no images to take features from.")
    return torch.cat(features), torch.cat(labels)


def extract_both(
    backbone: nn.Module,
    view: EncoderView,
    sets: tuple[ImageFolder, ImageFolder],
    device: torch.device | str,
    batch_size: int = 100,
    workers: int = 2,
) -> LabelledFeatures:
    """Features of training and test images.

    Args:
        sets: as :func:`labelled_folders` makes them.
        workers: processes that decode.

    Raises:
        InputError: for a batch size or a number of workers that is none.
    """
    loader = DataLoader(
        ConcatDataset(sets),
        check_integer("batch_size", batch_size),
        num_workers=check_integer("workers", workers, 0),
    )
    features, labels = extract_features(backbone, with_progress(loader, "encoding"), device, view)
    number = len(sets[0])
    return LabelledFeatures(features[:number], labels[:number], features[number:], labels[number:])


def features_for(
    config: str,
    checkpoint: str,
    train: str,
    test: str | None = None,
    train_per_class: int | None = None,
    size: int | None = None,
    seed: int = 0,
    batch_size: int = 100,
    workers: int = 2,
    device: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    ks: Sequence[int] = (),
) -> tuple[LabelledFeatures, dict]:
    """Features of labelled images by a checkpoint, and the facts that they depend on.

    Args:
        config: a config file with ``model.backbone``.
        checkpoint: see :func:`load_backbone`.
        train: folder ``<class>/<image>`` to learn from.
        test: one to classify; ``None`` to split ``train``.
        train_per_class: images of each class to learn from if ``train`` is split.
        size: of the crops, in pixels; ``None`` for that of the views that the config trains with.
        seed: of the split and the untrained backbone.
        batch_size: images that the backbone gets at once.
        workers: processes that decode.
        device: where the backbone runs; ``None`` for the GPU if there is one, else the CPU.
        cfg_options: overrides of config keys, dotted path → value.
        ks: numbers of neighbours that there must be images for.

    Raises:
        InputError: for a config, checkpoint, folder, number or device that will not do.
    """
    cfg = load_config(config, cfg_options)
    check_config(cfg)
    # The initialisation of every layer is logged at level INFO, which is no news here.
    logger = MMLogger.get_instance("evaluation", log_level="WARNING")
    DefaultScope.get_instance("evaluation", scope_name=cfg.get("default_scope") or "mmpretrain")
    for option, folder in (("train", train), ("test", test)):
        if folder is not None:
            check_folder(folder, f"give --{option} a folder <class>/<image>")
    size = view_size(cfg) if size is None else size
    sets = labelled_folders(train, test, train_per_class, seed, size, bands_of(cfg))
    for side in sets:
        side.tell(logger)
    check_neighbours(ks, len(sets[0]))
    shared = warn_of_shared(sets, logger)
    facts = {
        "checkpoint": checkpoint,
        "config": config,
        "train_images": len(sets[0]),
        "test_images": len(sets[1]),
        "classes": count_classes(*sets),
        "shared_images": shared,
        "size": size,
        "seed": seed,
    }
    place = check_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    backbone = load_backbone(cfg, checkpoint, seed).to(place)
    return extract_both(backbone, EncoderView(cfg), sets, place, batch_size, workers), facts
