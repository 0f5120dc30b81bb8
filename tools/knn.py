"""kNN accuracy of a backbone, pretrained or untrained, on labelled image folders.

Give a folder of training and one of test images (--train, --test), each with a subfolder per class;
or one folder (--train) of which --train-per-class images of every class, drawn by --seed, are the
neighbours and the others are classified.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from mmsalmask.checkpoint import backbone_state, check_matches, load_checkpoint
from mmsalmask.cli import config_arguments, report_errors
from mmsalmask.config import check_config, load_config
from mmsalmask.datasets import ImageFolder, read_image
from mmsalmask.errors import InputError
from mmsalmask.evaluation import extract_features, knn_accuracy, knn_classify
from mmsalmask.registry import MODELS


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    config_arguments(parser)
    parser.add_argument(
        "checkpoint", help="a checkpoint, or 'none' for the untrained net of --seed"
    )
    parser.add_argument("--train", required=True, help="folder <class>/<image> of the neighbours")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--test", help="folder <class>/<image> of the images to classify")
    source.add_argument(
        "--train-per-class", type=int, metavar="N", help="split --train: N neighbours of each class"
    )
    parser.add_argument("--size", type=int, default=64, help="pixels of the crop (%(default)s)")
    parser.add_argument("-k", type=int, default=20, help="neighbours that vote (%(default)s)")
    parser.add_argument(
        "--temperature", type=float, default=0.07, help="of their votes (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of split and untrained net")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument(
        "--workers", type=int, default=2, help="processes that decode (%(default)s)"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here, too")
    return parser.parse_args(arguments)


class CentreCrops:
    """A transform of :class:`ImageFolder` that ends it: uint8 RGB crop (3, S, S) and class.

    The shorter side is resized to 8/7 of ``size`` (256 for 224), then the centre is cut out.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise InputError(f"--size is {size}; give a positive number of pixels")
        self.size = size

    def __call__(self, results: dict) -> tuple[Tensor, int]:
        image = Image.fromarray(read_image(results["img_path"])[..., ::-1])
        short = round(self.size * 8 / 7) / min(image.size)
        width, height = (max(self.size, round(side * short)) for side in image.size)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        image = image.crop((left, top, left + self.size, top + self.size))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1), results["gt_label"]


def load_datasets(options: argparse.Namespace) -> tuple[Dataset, Dataset, int]:
    """Neighbours, images to classify, and the number of classes."""
    crops = [CentreCrops(options.size)]
    train = ImageFolder(options.train, pipeline=crops, with_label=True, test_mode=True)
    classes = train.metainfo["classes"]
    if options.test is None:
        return *split_per_class(train, options.train_per_class, options.seed), len(classes)
    test = ImageFolder(options.test, pipeline=crops, with_label=True, test_mode=True)
    if different := set(classes) ^ set(test.metainfo["classes"]):
        raise InputError(
            f"{options.train} and {options.test} do not have the same classes; only one of them "
            f"has {sorted(different)[0]!r} ({len(different)} such): give two folders of one set"
        )
    return train, test, len(classes)


def split_per_class(dataset: ImageFolder, count: int, seed: int) -> tuple[Subset, Subset]:
    """``count`` images of each class, drawn by ``seed``, and all others.

    Raises:
        InputError: If a class would have no image left on either side.
    """
    labels = np.array([dataset.get_data_info(i)["gt_label"] for i in range(len(dataset))])
    smallest = np.bincount(labels).argmin()
    if not 1 <= count < (labels == smallest).sum():
        raise InputError(
            f"--train-per-class {count} does not leave images on both sides: class "
            f"{dataset.metainfo['classes'][smallest]!r} has {(labels == smallest).sum()}"
        )
    # RandomState's streams are frozen by NumPy, so a split stays the same for good.
    order = np.random.RandomState(seed).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    starts = np.searchsorted(labels[by_class], labels[by_class])
    is_train = np.arange(len(labels)) - starts < count
    return tuple(Subset(dataset, sorted(by_class[side].tolist())) for side in (is_train, ~is_train))


def build_backbone(config: Config, checkpoint: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    backbone = MODELS.build(config.model.backbone)
    if checkpoint == "none":
        backbone.init_weights()
        return backbone
    state = backbone_state(load_checkpoint(checkpoint))
    check_matches(backbone, state, checkpoint)
    backbone.load_state_dict(state, strict=False)
    return backbone


class Normalised:
    """Batches of a loader as the config's encoder sees images: normalised, maybe high-pass."""

    def __init__(self, loader: DataLoader, config: Config, device: torch.device) -> None:
        settings = config.model.get("data_preprocessor") or config.get("data_preprocessor") or {}
        self.loader, self.device = loader, device
        self.rgb = settings.get("to_rgb", False) or settings.get("bgr_to_rgb", False)
        self.mean, self.std = (
            None if settings.get(name) is None else torch.tensor(settings[name]).view(-1, 1, 1)
            for name in ("mean", "std")
        )
        strategy = (settings.get("masker") or {}).get("strategy")
        self.strategy = None if strategy is None else MODELS.build(strategy)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in _batches(self.loader):
            images = images.to(self.device).float()
            if not self.rgb:
                images = images.flip(1)
            if self.mean is not None:
                images = (images - self.mean.to(self.device)) / self.std.to(self.device)
            yield images if self.strategy is None else self.strategy.see(images), labels


def _batches(loader: DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
    try:
        yield from loader
    except InputError as error:
        # From another process it comes as one text, the traceback before the sentence.
        sentence = str(error).rpartition("mmsalmask.errors.InputError: ")[2]
        raise InputError(sentence.strip()) from error


def evaluate(options: argparse.Namespace) -> dict:
    """Features of both sets, votes, and the accuracy with all that it depends on."""
    config = load_config(options.config, options.cfg_options)
    check_config(config)
    if config.get("model", {}).get("backbone") is None:
        raise InputError(f"{options.config} has no model.backbone to evaluate")
    # The initialisation of every layer is logged at level INFO, which is no news here.
    MMLogger.get_instance("knn", log_level="WARNING")
    DefaultScope.get_instance("knn", scope_name=config.get("default_scope") or "mmpretrain")
    device = torch.device(options.device)
    train, test, num_classes = load_datasets(options)
    backbone = build_backbone(config, options.checkpoint, options.seed).to(device)
    (bank, bank_labels), (queries, labels) = (
        extract_features(
            backbone,
            Normalised(
                DataLoader(dataset, options.batch_size, num_workers=options.workers), config, device
            ),
            device,
        )
        for dataset in (train, test)
    )
    predicted = knn_classify(
        bank, bank_labels, queries, options.k, options.temperature, num_classes
    )
    top1, per_class = knn_accuracy(predicted, labels)
    return {
        "top1": top1,
        "mean_per_class": per_class,
        "checkpoint": options.checkpoint,
        "config": options.config,
        "train_images": len(train),
        "test_images": len(test),
        "classes": num_classes,
        "size": options.size,
        "k": options.k,
        "temperature": options.temperature,
        "seed": options.seed,
    }


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    with report_errors():
        result = evaluate(options)
        print(
            f"kNN top-1 {result['top1']:.1f} %, mean per class {result['mean_per_class']:.1f} % "
            f"(k={options.k}, {result['train_images']} train and {result['test_images']} test "
            f"images, {result['classes']} classes, {options.checkpoint})"
        )
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
