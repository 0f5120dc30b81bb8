"""Pretraining on images with thirteen bands: the loss, and kNN accuracy before and after.

    python benchmarks/bands.py --work-dir work_dirs/bands [--epochs 12] [--json FILE]

The set is drawn (``mmsalmask.data.demo_bands``): 16-bit TIFF with 13 bands, ten classes that
differ by their objects' shape and by where in the infrared they absorb. Mean and standard deviation
are computed over it as ``mmsalmask data stats`` does; then a narrow ResNet-18 is trained by MoCo v2
with the saliency-guided mean fill, views on the device, on one thread. kNN is of centre crops of
the test images.
"""

import argparse
import json
from pathlib import Path

import torch
from mmengine.registry import DefaultScope
from photos import ROOT

from mmsalmask.cli import report_errors
from mmsalmask.config import load_config
from mmsalmask.data import ImageFolder, channel_statistics
from mmsalmask.data.bands import BAND_EXTENSIONS
from mmsalmask.data.demo_bands import draw_band_set
from mmsalmask.engine.launch import build_runner
from mmsalmask.evaluation.features import EncoderView, bands_of, extract_both, load_backbone
from mmsalmask.evaluation.knn import knn_classify
from mmsalmask.evaluation.labelled import labelled_folders
from mmsalmask.provenance import provenance, write_result

BANDS, SIZE, WIDTH, NEIGHBOURS = 13, 48, 16, 20
RECIPE = ROOT / "configs" / "demo" / "mocov2-salmask-mean_resnet18_demo.py"
CONFIG = """
_base_ = {recipe!r}
model = dict(
    backbone=dict(in_channels={bands}, base_channels={width}, stem_channels={width}),
    neck=dict(in_channels={features}, hid_channels={features}),
    data_preprocessor=dict(
        mean={mean},
        std={std},
        to_rgb=False,
        shown_bands=[12, 5, 3],
        augment=dict(view=dict(size={size}))))
train_dataloader = dict(
    num_workers=1,
    dataset=dict(
        data_root={root!r},
        pipeline=[
            dict(type='mmsalmask.LoadBands', channels={bands}, size={stored}),
            dict(type='mmsalmask.PackWhole'),
        ]))
train_cfg = dict(max_epochs={epochs})
"""


def knn(config, checkpoint: str, root: Path) -> float:
    """Accuracy in percent on the test images, by neighbours among the training images."""
    sets = labelled_folders(
        str(root / "train"), str(root / "test"), None, 0, SIZE, bands_of(config)
    )
    backbone = load_backbone(config, checkpoint, 0)
    found = extract_both(backbone, EncoderView(config), sets, "cpu", workers=0)
    classes = knn_classify(found.train, found.train_labels, found.test, NEIGHBOURS)
    return 100 * (classes == found.test_labels).float().mean().item()


def losses(work: Path) -> list[float]:
    """Of all log lines of the run, in order."""
    (curves,) = work.rglob("scalars.json")
    lines = map(json.loads, curves.read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work-dir", type=Path, required=True, help="for the set and the run")
    parser.add_argument("--images-per-class", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    DefaultScope.get_instance("bands", scope_name="mmpretrain")
    root, work = options.work_dir / "set", options.work_dir / "run"
    draw_band_set(root, options.images_per_class, size=SIZE)
    images = ImageFolder(str(root / "train"), extensions=BAND_EXTENSIONS)
    measured = channel_statistics(images, BANDS)
    file = options.work_dir / "config.py"
    file.write_text(
        CONFIG.format(
            recipe=str(RECIPE),
            bands=BANDS,
            width=WIDTH,
            features=8 * WIDTH,
            mean=measured.mean,
            std=measured.std,
            size=SIZE,
            stored=SIZE,
            root=str(root / "train"),
            epochs=options.epochs,
        )
    )
    config = load_config(str(file))
    config.work_dir = str(work)
    before = knn(config, "none", root)
    build_runner(config, quiet=True).train()
    after = knn(config, str(work / f"epoch_{options.epochs}.pth"), root)
    curve = losses(work)
    result = {
        "images": measured.images,
        "epochs": options.epochs,
        "loss": {"first": curve[0], "highest": max(curve), "last": curve[-1]},
        "knn_untrained": before,
        "knn": after,
    }
    print(result)
    if options.json:
        write_result(options.json, {**provenance(0), **result})


if __name__ == "__main__":
    with report_errors():
        main()
