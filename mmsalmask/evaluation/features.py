"""Features of labelled images by a frozen backbone, on which kNN and linear classifiers are fitted.

Every image is seen as the encoder saw images in pretraining: resized, cut out at the centre,
normalised by the config's preprocessor and, after the high-pass strategy, filtered.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader

from mmsalmask.checkpoint import (
    backbone_state,
    check_matches,
    is_high_pass,
    load_checkpoint,
    typed_parts,
    warn_if_filter_differs,
)
from mmsalmask.checks import check_device, check_integer
from mmsalmask.cli import with_progress
from mmsalmask.config import check_config, load_config
from mmsalmask.data import ImageFolder, PerClassSplit, read_image
from mmsalmask.data.bands import BAND_EXTENSIONS, read_bands
from mmsalmask.data.image_folder import check_folder
from mmsalmask.data.loading import EXTENSIONS
from mmsalmask.data.storage import file_identity
from mmsalmask.errors import InputError
from mmsalmask.registry import MODELS, TRANSFORMS


def cut_centre(image: Image.Image, size: int) -> Tensor:
    """The centre of an RGB image as uint8 (3, S, S), its shorter side being resized to 8/7·S."""
    short = round(size * 8 / 7) / min(image.size)
    width, height = (max(size, round(side * short)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    image = image.crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


class CentreCrops:
    """The last transform of an :class:`ImageFolder`: a uint8 RGB crop (3, S, S) and its class.

    The shorter side is resized to 8/7 of ``size`` (256 for 224), then the centre is cut out. With
    ``channels`` the image is read with all of its depth, as ``mmsalmask.LoadBands`` does, and the
    crop is float32 (channels, S, S).
    """

    def __init__(self, size: int, channels: int | None = None) -> None:
        self.size = check_integer("size", size)
        self.channels = channels
        self.extensions = EXTENSIONS if channels is None else BAND_EXTENSIONS

    def __call__(self, results: dict) -> tuple[Tensor, int]:
        if self.channels is not None:
            return self._cut_bands(results["img_path"]), results["gt_label"]
        image = Image.fromarray(read_image(results["img_path"])[..., ::-1])
        return cut_centre(image, self.size), results["gt_label"]

    def _cut_bands(self, path: str) -> Tensor:
        pixels = torch.from_numpy(read_bands(path, self.channels)).permute(2, 0, 1)
        short = round(self.size * 8 / 7) / min(pixels.shape[1:])
        rows, columns = (max(self.size, round(side * short)) for side in pixels.shape[1:])
        top, left = (rows - self.size) // 2, (columns - self.size) // 2
        resized = F.interpolate(pixels[None], (rows, columns), mode="bilinear", antialias=True)[0]
        return resized[:, top : top + self.size, left : left + self.size].contiguous()


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


def labelled_folders(
    train: str,
    test: str | None,
    train_per_class: int | None,
    seed: int,
    size: int,
    channels: int | None = None,
) -> tuple[ImageFolder, ImageFolder]:
    """Centre crops of two folders of one set, or of one folder that ``seed`` splits.

    Args:
        train: folder ``<class>/<image>``.
        test: another with the same classes; ``None`` to split ``train``.
        train_per_class: training images of each class if ``train`` is split.
        size: of the crops, in pixels.
        channels: see :class:`CentreCrops`.

    Raises:
        InputError: for folders that cannot be read so, or cannot be split so.
    """
    options = dict(pipeline=[CentreCrops(size, channels)], test_mode=True)
    if test is not None:
        return tuple(ImageFolder(root, with_label=True, **options) for root in (train, test))
    return tuple(
        PerClassSplit(train, split, train_per_class, seed, **options) for split in ("train", "test")
    )


def count_classes(train: ImageFolder, test: ImageFolder) -> int:
    """The number of classes, which must be the same in both.

    Raises:
        InputError: if they are not, or images have no labels.
    """
    for side in (train, test):
        if "classes" not in side.metainfo:
            raise InputError(f"the images of {side.data_root} have no labels: set with_label=True")
    classes = train.metainfo["classes"]
    if different := set(classes) ^ set(test.metainfo["classes"]):
        raise InputError(
            f"{train.data_root} and {test.data_root} do not have the same classes; only one of "
            f"them has {sorted(different)[0]!r} ({len(different)} such): give two folders of one "
            "set"
        )
    return len(classes)


def count_shared(train: ImageFolder, test: ImageFolder) -> int:
    """Count the test images that are also training images, links resolved."""
    known = set(_files(train))
    return sum(file in known for file in _files(test))


def _files(side: ImageFolder) -> Iterator[tuple]:
    """What its storage knows each image by; dangling links are told when they are read."""
    for index in range(len(side)):
        with suppress(OSError):
            yield file_identity(side.get_data_info(index)["img_path"])


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
    """
    loader = DataLoader(ConcatDataset(sets), batch_size, num_workers=workers)
    features, labels = extract_features(backbone, with_progress(loader, "encoding"), device, view)
    number = len(sets[0])
    return LabelledFeatures(features[:number], labels[:number], features[number:], labels[number:])


def features_for(
    config: str,
    checkpoint: str,
    train: str,
    test: str | None = None,
    train_per_class: int | None = None,
    size: int = 64,
    seed: int = 0,
    batch_size: int = 100,
    workers: int = 2,
    device: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> tuple[LabelledFeatures, dict]:
    """Features of labelled images by a checkpoint, and the facts that they depend on.

    Args:
        config: a config file with ``model.backbone``.
        checkpoint: see :func:`load_backbone`.
        train: folder ``<class>/<image>`` to learn from.
        test: one to classify; ``None`` to split ``train``.
        train_per_class: images of each class to learn from if ``train`` is split.
        size: of the crops, in pixels.
        seed: of the split and the untrained backbone.
        batch_size: images that the backbone gets at once.
        workers: processes that decode.
        device: where the backbone runs; ``None`` for the GPU if there is one, else the CPU.
        cfg_options: overrides of config keys, dotted path → value.

    Raises:
        InputError: for a config, checkpoint, folder or device that will not do.
    """
    cfg = load_config(config, cfg_options)
    check_config(cfg)
    # The initialisation of every layer is logged at level INFO, which is no news here.
    logger = MMLogger.get_instance("evaluation", log_level="WARNING")
    DefaultScope.get_instance("evaluation", scope_name=cfg.get("default_scope") or "mmpretrain")
    for option, folder in (("train", train), ("test", test)):
        if folder is not None:
            check_folder(folder, f"give --{option} a folder <class>/<image>")
    sets = labelled_folders(train, test, train_per_class, seed, size, bands_of(cfg))
    for side in sets:
        side.tell(logger)
    shared = count_shared(*sets)
    if shared:
        logger.warning(
            f"{shared} of the {len(sets[1])} test images ARE TRAINING IMAGES, too: the accuracies "
            "will be far too high; give --test images that --train does not have"
        )
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
