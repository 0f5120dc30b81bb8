"""Images per second of a whole pretraining, by the runner, from JPEG files to updated weights.

Plain MoCo v2 with ResNet-50 at 224 px. Photos are coco-mini's, resized to ImageNet's usual size and
encoded anew, under as many names as the steps take, so that a disk's speed is left out. The ways:

- two views of random pixels that lie on the device: pretrain_cost.py's steps, the fastest there is;
- photos that lie on the device, decoded once (``InMemory``), views made there;
- JPEG files: workers decode, views are made on the device;
- with --compile: photos on the device and compiled encoders.

    python benchmarks/end_to_end.py --workers 14 --json benchmarks/results/end_to_end.json
    python benchmarks/end_to_end.py --device cpu --steps 12 --warm-up 4 --size 64 --batch 16
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

import torch
from mmengine.logging import MMLogger
from photos import ROOT
from pipeline import enlarge, unpack
from pretrain_cost import Method, batch, methods
from rich.table import Table

from mmsalmask.cli import print_table, report_errors
from mmsalmask.jobs import call
from mmsalmask.provenance import provenance, write_result

RECIPE = ROOT / "configs" / "moco" / "mocov2_resnet50_1xb128-coslr-200e_folder.py"
RANDOM, RESIDENT, FILES = "random views on the device", "photos on the device", "JPEG files"
COMPILED = f"{RESIDENT}, compiled"
LOGGED = 10  # steps of a log line


def random_views(options: argparse.Namespace) -> float:
    """Images per second of steps on views that are there, with no wait between them."""
    method, views = Method(options, *methods()["plain"]), batch(options, 0)
    method.step(views, options.warm_up)
    return options.batch / method.step(views, options.steps)


def trained(options: argparse.Namespace, way: str, photos: Path, folder: Path) -> dict:
    """Images per second of a training by the runner, and the share of its time without data."""
    child, work = folder / f"{way}.py".replace(" ", "_"), folder / f"runs/{way}"
    pipeline = [
        dict(type="mmsalmask.LoadWhole", size=round(options.size * 9 / 7)),
        dict(type="mmsalmask.PackWhole"),
    ]
    dataset = dict(type="mmsalmask.ImageFolder", data_root=str(photos), pipeline=pipeline)
    hooks = "_base_.custom_hooks"
    if way != FILES:
        dataset = dict(type="mmsalmask.InMemory", resident=True, dataset=dataset)
        hooks = f"[*{hooks}, dict(type='mmsalmask.ResidentImagesHook')]"
    steps = options.warm_up + options.steps
    loader = dict(batch_size=options.batch, num_workers=options.workers)
    loader |= dict(persistent_workers=options.workers > 0, dataset=dict(_delete_=True, **dataset))
    view = dict(size=options.size)
    child.write_text(
        f"_base_ = {str(RECIPE)!r}\n"
        f"model = dict(data_preprocessor=dict(augment=dict(view={view})))\n"
        f"train_dataloader = {loader}\n"
        f"train_cfg = dict(_delete_=True, by_epoch=False, max_iters={steps})\n"
        f"default_hooks = dict(logger=dict(interval={LOGGED}), checkpoint=dict(interval={steps}))\n"
        f"log_processor = dict(window_size={LOGGED}, by_epoch=False)\n"
        f"custom_hooks = [hook for hook in {hooks} if 'Gallery' not in hook['type']]\n"
        f"param_scheduler = []\n"
        f"compile_encoders = {way == COMPILED}\n"
    )
    precision = ["--amp", options.amp] if options.amp else []
    call("train", child, "--work-dir", work, *precision)
    log = next(work.glob("*/vis_data/scalars.json"))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    lines = [line for line in lines if line.get("step", 0) > options.warm_up and "time" in line]
    seconds = sum(line["time"] for line in lines) / len(lines)
    waited = sum(line["data_time"] for line in lines) / len(lines)
    return {"images_per_second": options.batch / seconds, "waits_for_data": waited / seconds}


def links(files: list[str], folder: Path, number: int) -> Path:
    """A folder with so many names of these files."""
    folder.mkdir()
    for index in range(number):
        os.link(files[index % len(files)], folder / f"{index:06d}.jpg")
    return folder


def measure(options: argparse.Namespace) -> dict[str, dict]:
    """Images per second by way, and what they are of the first."""
    results = {RANDOM: {"images_per_second": random_views(options), "waits_for_data": 0.0}}
    if options.device.startswith("cuda"):
        torch.cuda.empty_cache()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = enlarge(sorted(map(str, unpack("coco-mini", folder).rglob("*.jpg"))), folder / "500")
        few = links(made, folder / "few", 8 * options.batch)
        # One epoch, as ImageNet's are long: workers are never started anew.
        many = links(made, folder / "many", (options.warm_up + options.steps) * options.batch)
        for way in [RESIDENT, FILES, *([COMPILED] if options.compile else [])]:
            results[way] = trained(options, way, many if way == FILES else few, folder)
    best = results[RANDOM]["images_per_second"]
    for row in results.values():
        row["of_random"] = row["images_per_second"] / best
    return results


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1) - 2))
    parser.add_argument("--steps", type=int, default=100, help="timed (%(default)s)")
    parser.add_argument("--warm-up", type=int, default=50, help="steps before (%(default)s)")
    parser.add_argument("--size", type=int, default=224, help="pixels of a view (%(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="images (%(default)s)")
    parser.add_argument("--amp", choices=["float16", "bfloat16"], help="of a GPU: bfloat16")
    parser.add_argument("--compile", action="store_true", help="also with compiled encoders")
    parser.add_argument("--json", help="write the figures here")
    parser.set_defaults(depth=50, queue=65536, plain_step=False)
    options = parser.parse_args()
    if options.amp is None and options.device.startswith("cuda"):
        options.amp = "bfloat16"
    return options


def main() -> None:
    options = parse_arguments()
    MMLogger.get_instance("end_to_end", log_level="WARNING")
    results = measure(options)
    table = Table(title=f"ResNet-50, {options.size} px, batch {options.batch}, {options.device}")
    for column in ("way", "images/s", "of random views", "waits for data"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for way, row in results.items():
        shares = (f"{row[key]:.0%}" for key in ("of_random", "waits_for_data"))
        table.add_row(way, f"{row['images_per_second']:.0f}", *shares)
    print_table(table)
    if options.json:
        settings = ("device", "workers", "steps", "size", "batch", "amp")
        told = {key: getattr(options, key) for key in settings}
        write_result(options.json, {**provenance(seed=0), "settings": told, "results": results})


if __name__ == "__main__":
    with report_errors():
        main()
