"""The study: does saliency masking learn better, and why?

Methods × seeds under one recipe, pretrained without labels on one part of a set of photos and
evaluated on the rest by kNN and by a linear classifier; then the localizers, and what their masks
hide. Nothing is tuned for one method; learning rate and neck of the small scale were chosen for
plain MoCo v2.

    python benchmarks/study.py --scale small                       # two cores, within the hour
    python benchmarks/study.py --scale gpu --jobs 4                # one GPU
    python benchmarks/study.py --scale gpu --rows all --data photos/   # <class>/<image>, your own

Started again with the same command, it goes on where it stopped. Everything lies in --out: the
photos split (--train-per-class of each class, drawn by seed 0, are the training part: the only ones
that pretraining sees, without labels, and that the classifiers learn from; all others are the
test), a folder per run with its log, masks, checkpoint and ``result.json``, pictures, and page.md.
--tune compares learning rates, necks and the like on a held-out tenth of the training part instead.
"""

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
import yaml
from localizers import coco_photos, measure, on_grid
from matplotlib.figure import Figure
from mmengine.registry import DefaultScope
from photos import find_photos
from PIL import Image, ImageOps
from render import markdown, study_grids, study_hidden, study_localizers, study_rows
from torch import Tensor

from mmsalmask.cli import report_errors
from mmsalmask.config import load_config
from mmsalmask.datasets import link_split, split_per_class
from mmsalmask.engine.gallery import Column, draw_columns, to_photos
from mmsalmask.errors import InputError
from mmsalmask.masking import HighPassNoise, MeanFill, SaliencyMasker
from mmsalmask.models.localizers import backbone_saliency
from mmsalmask.provenance import provenance, write_result
from mmsalmask.registry import MODELS
from mmsalmask.saliency import (
    BoundaryPriorSaliency,
    Frozen,
    SpectralResidualSaliency,
    foreground,
    pool_to_grid,
)

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "configs" / "demo"
# One recipe for all rows; ``lr`` for ``batch``.
SCALES = {
    "small": {
        "size": 64,
        "epochs": 6,
        "batch": 32,
        "queue": 512,
        "lr": 0.03,
        "neck": "NonLinearNeck",
        "seeds": [0],
        "jobs": 2,
        "amp": None,
    },
    "gpu": {
        "size": 96,
        "epochs": 300,
        "batch": 128,
        "queue": 2048,
        "lr": 0.06,
        "neck": "MoCoV2Neck",
        "seeds": [0, 1, 2],
        "jobs": 4,
        "amp": "bfloat16",
    },
}
# With BatchNorm: the embeddings of a new net nearly agree, and MoCo v2's neck takes longer to
# spread them than the small scale lasts. Until then keys are told by their age, not by their photo.
NORMALISED_NECK = dict(
    _delete_=True,
    type="NonLinearNeck",
    in_channels=512,
    hid_channels=512,
    out_channels=128,
    num_layers=2,
    with_bias=False,
    with_avg_pool=True,
    with_last_bn_affine=False,
    norm_cfg=dict(type="BN1d"),
)
BASELINE, UNTRAINED = "plain MoCo v2", "untrained"
MASKER = "model.data_preprocessor.masker"
# Name → demo recipe, overrides.
ROWS: dict[str, tuple[str, list[str]]] = {
    UNTRAINED: ("mocov2", []),
    BASELINE: ("mocov2", []),
    "MSCN": ("mocov2-mscn", []),
    "ADIOS": ("adios-mocov2", []),
    "high-pass": ("mocov2-salmask-highpass", []),
    "blur": ("mocov2-salmask-blur", []),
    "mean": ("mocov2-salmask-mean", []),
    # two fills that are not of the paper
    "low-pass": ("mocov2-salmask-lowpass", []),
    "feathered mean": ("mocov2-salmask-feathered", []),
    # the ingredients, of the mean
    "mean, random patches": ("mocov2-salmask-mean", [f"{MASKER}.patches=random"]),
    "mean, both views": ("mocov2-salmask-mean", [f"{MASKER}.masked_views=both"]),
    "mean, no hard negatives": ("mocov2-salmask-mean", [f"{MASKER}.hard_negatives=0"]),
    "mean, ρ = 1": ("mocov2-salmask-mean", ["model.head.penalty=1.0"]),
    "mean, ρ = 3": ("mocov2-salmask-mean", ["model.head.penalty=3.0"]),
    "mean, grid 14": ("mocov2-salmask-mean", [f"{MASKER}.grid=14"]),
    "SimCLR": ("simclr", []),
    "SimCLR, mean": ("simclr-salmask-mean", []),
}
# The mean with saliency from the study's own plain MoCo v2 backbone.
BOOTSTRAPPED = "mean, bootstrapped localizer"
CHOICES = {
    "small": [UNTRAINED, BASELINE, "MSCN", "high-pass", "blur", "mean"],
    "gpu": [UNTRAINED, BASELINE, "MSCN", "ADIOS", "high-pass", "blur", "mean"],
    "all": [*ROWS, BOOTSTRAPPED],
}
# Keeps the resolution of the second stage to the end, so that small views have a map.
TRUNK = dict(type="ResNet", depth=18, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))
PICTURED = ("elephant", "sunflower", "panda")
GRIDS, DRAWS = (4, 7, 14), 20
FINE = 56  # cells of a side, a multiple of every grid


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--data", type=Path, help="folder <class>/<image> (caltech101_112.tar)")
    parser.add_argument("--train-per-class", type=int, default=30, metavar="N")
    parser.add_argument(
        "--rows",
        nargs="+",
        metavar="ROW",
        help=f"by default those of the scale; 'all', or of: {'; '.join(CHOICES['all'])}",
    )
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--lr", type=float, help="of all rows")
    parser.add_argument("--neck", choices=["MoCoV2Neck", "NonLinearNeck"], help="of all MoCo v2's")
    parser.add_argument(
        "--tune",
        action="store_true",
        help="compare the rows on a held-out tenth of the training part, and end: a recipe is "
        "chosen by this, for the test part has to be new to it",
    )
    parser.add_argument("--jobs", type=int, help="runs side by side")
    parser.add_argument("--out", type=Path, help="work_dirs/study_<scale>")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    options = parser.parse_args()
    for name, value in SCALES[options.scale].items():
        if getattr(options, name, None) is None:
            setattr(options, name, value)
    name = f"study_{options.scale}" + ("_tune" if options.tune else "")
    options.out = options.out or Path("work_dirs") / name
    options.rows = options.rows or CHOICES[options.scale]
    if options.rows == ["all"]:
        options.rows = CHOICES["all"]
    if unknown := [row for row in options.rows if row not in CHOICES["all"]]:
        parser.error(f"--rows: there is no row {unknown[0]!r}, but {'; '.join(CHOICES['all'])}")
    # Every other row is compared with it, and the bootstrapped localizer is made of it.
    options.rows = [row for row in CHOICES["all"] if row in {*options.rows, BASELINE}]
    return options


# ---------------------------------------------------------------------------------------- the data


def split(options: argparse.Namespace) -> tuple[Path, Path]:
    """Folders ``<class>/<image>`` of links to the photos: the training part and the test."""
    drawn = {"train_per_class": options.train_per_class}
    choose = partial(split_per_class, count=options.train_per_class, seed=0)
    data = options.data or unpack(options.out)
    return link_split(data, options.out / "photos", ("train", "test"), choose, drawn)


def unpack(out: Path) -> Path:
    """Caltech-101, unpacked once."""
    folder = out / "caltech101_112"
    if folder.exists():
        return folder
    archive = find_photos("caltech101_112")
    if archive is None:
        raise InputError(
            "caltech101_112.tar is not here: set MMSALMASK_PHOTOS to the folder it lies in, or "
            "give --data a folder <class>/<image>"
        )
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as part, tarfile.open(archive) as tar:
        tar.extractall(part, filter="data")
        (Path(part) / folder.name).rename(folder)
    return folder


# ---------------------------------------------------------------------------------------- the runs


def settings(recipe: str, options: argparse.Namespace) -> dict:
    """What the study changes in a demo recipe: the same for all rows."""
    hooks = [dict(hook) for hook in load_config(_config(recipe)).custom_hooks]
    for hook in hooks:
        if hook["type"] in ("mmsalmask.MaskGalleryHook", "mmsalmask.SlotGalleryHook"):
            hook["interval"] = options.epochs
    size = options.size
    pipeline = [
        dict(type="mmsalmask.LoadWhole", size=size * 4 // 3),
        dict(type="mmsalmask.PackWhole"),
    ]
    photos = dict(type="mmsalmask.ImageFolder", data_root="data/demo/train", pipeline=pipeline)
    view = dict(type="mmsalmask.RandomView", size=size)
    model = {"data_preprocessor": {"augment": dict(type="mmsalmask.DeviceAugmentation", view=view)}}
    if not recipe.startswith("simclr"):
        model["queue_len"] = options.queue
        if options.neck == "NonLinearNeck":
            model["neck"] = NORMALISED_NECK
    if recipe.startswith("adios"):
        model["mask_net"] = {"size": size}
    return {
        "model": model,
        "train_dataloader": {
            "batch_size": options.batch,
            "num_workers": 1,
            "dataset": dict(
                _delete_=True, type="mmsalmask.InMemory", resident=True, dataset=photos
            ),
        },
        "optim_wrapper": {"optimizer": {"lr": options.lr}},
        "train_cfg": {"max_epochs": options.epochs},
        "default_hooks": {"checkpoint": {"interval": max(1, options.epochs // 5)}},
        "custom_hooks": [*hooks, dict(type="mmsalmask.ResidentImagesHook")],
    }


def _config(recipe: str) -> str:
    return str(DEMO / f"{recipe}_resnet18_demo.py")


def plan(options: argparse.Namespace) -> Path:
    """The rows without the bootstrapped one, as tools/ablate.py reads them."""
    rows = []
    for name in options.rows:
        if name == BOOTSTRAPPED:
            continue
        recipe, overrides = ROWS[name]
        row = {"name": name, "config": _config(recipe), "overrides": overrides}
        rows.append({**row, "settings": settings(recipe, options), "pretrain": name != UNTRAINED})
    return _write(options.out / "plan.yml", rows)


def bootstrapped_plan(options: argparse.Namespace, train: Path, checkpoint: str) -> Path:
    """The row whose saliency is that of the plain run's backbone, cached for whole photos."""
    recipe = "mocov2-salmask-mean"
    localizer = dict(
        _delete_=True, type="mmsalmask.BackboneSaliency", backbone=TRUNK, checkpoint=checkpoint
    )
    changed = settings(recipe, options)
    changed["model"]["data_preprocessor"]["masker"] = {"localizer": localizer}
    cache, child = options.out / "bootstrapped.safetensors", options.out / "bootstrapped.py"
    lines = [f"_base_ = {_config(recipe)!r}", *(f"{key} = {changed[key]!r}" for key in changed)]
    child.write_text("\n".join(lines) + "\n")
    tool("cache_saliency", child, "-o", cache, "--size", 2 * options.size, data_root=train)
    changed["model"]["data_preprocessor"]["saliency_cache"] = str(cache)
    row = {"name": BOOTSTRAPPED, "config": _config(recipe), "settings": changed}
    return _write(options.out / "bootstrapped.yml", [row])


def _write(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = json.loads(json.dumps({"rows": rows}))  # tuples are none of YAML's kinds
    path.write_text(yaml.safe_dump(plain, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return path


def tool(name: str, *words: object, **overrides: object) -> None:
    """Run a tool of this project where its progress can be watched."""
    command = [sys.executable, str(ROOT / "tools" / f"{name}.py"), *map(str, words)]
    if overrides:
        command += ["--cfg-options", *(f"{key}={value}" for key, value in overrides.items())]
    if status := subprocess.run(command).returncode:
        raise InputError(f"tools/{name}.py ended with status {status}; see its output above")


def run_rows(options: argparse.Namespace, plan_: Path, sides: tuple[Path, Path]) -> dict:
    """Results by row and seed."""
    figures = options.out / f"{plan_.stem}.json"
    judge = ["--holdout", 0.1] if options.tune else ["--test", sides[1]]
    words = ["--data", sides[0], *judge, "--size", options.size, "--linear"]
    words += ["--curve", max(2, options.epochs // 10), "--jobs", options.jobs]
    words += ["--out", options.out / "runs", "--json", figures, "--seeds", *options.seeds]
    tool("ablate", plan_, *words, *(["--amp", options.amp] if options.amp else []))
    return json.loads(figures.read_text())["results"]


# ------------------------------------------------------------------------------------ the analysis


def differences(results: dict[str, dict[str, dict]], seed: int = 0) -> dict[str, dict]:
    """Linear top-1 minus the baseline's: mean over seeds and test photos, and a 95 % interval.

    Both are drawn anew, with replacement, 2,000 times (a bootstrap of a paired difference): photos
    alone where there is one seed. Points of percent.
    """
    random, found = np.random.default_rng(seed), {}
    baseline = {key: _right(run) for key, run in results[BASELINE].items()}
    for name, runs in results.items():
        shared = [key for key in runs if key in baseline]
        if name == BASELINE or not shared:
            continue
        gain = np.stack([_right(runs[key]) - baseline[key] for key in shared])
        means = []
        for _ in range(2000):
            seeds = random.integers(len(gain), size=len(gain))
            photos = random.integers(gain.shape[1], size=gain.shape[1])
            means.append(gain[seeds].mean(0)[photos].mean())
        low, high = np.percentile(means, [2.5, 97.5])
        figures = {"mean": gain.mean(), "low": low, "high": high}
        found[name] = {key: round(100 * float(value), 2) for key, value in figures.items()}
    return found


def _right(run: dict) -> np.ndarray:
    """Which test photos the linear classifier gets right, 0.0 or 1.0 each."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(run["right"]), np.uint8))
    return bits[: run["test_images"]].astype(float)


def analyse(checkpoint: str, seed: int = 0) -> tuple[dict, dict]:
    """Scores of the localizers on coco-mini, and what masks made by them hide of true objects.

    The latter by grid. Nothing where coco-mini is not at hand: photos with labels alone do not say
    where objects are.
    """
    archive = find_photos("coco-mini")
    if archive is None:
        print("localizers are not scored: MMSALMASK_PHOTOS names no folder with coco-mini.tar")
        return {}, {}
    with tempfile.TemporaryDirectory() as folder, tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
        images, objects = coco_photos(Path(folder) / "coco-mini", "val")
    localizers = {
        "BoundaryPriorSaliency": Frozen(BoundaryPriorSaliency()),
        "SpectralResidualSaliency": Frozen(SpectralResidualSaliency()),
        "bootstrapped": Frozen(backbone_saliency(TRUNK, checkpoint)),
    }
    truth = on_grid(objects)
    scores = {name: measure(localizer, images, truth) for name, localizer in localizers.items()}
    both = truth.flatten(1).any(1) & (~truth).flatten(1).any(1)
    shares = hidden(localizers, images[both], objects[both], seed)
    return scores, shares


@torch.no_grad()
def hidden(localizers: dict, images: Tensor, objects: Tensor, seed: int) -> dict[str, dict]:
    """Shares of the true object and of the rest that masks cover, over draws, in percent.

    Args:
        objects: bool (N, H, W).

    Returns:
        Grid → kind of mask → ``object``, ``rest``; ``most``, how often more than half of the object
        is gone; ``spread`` of the object's share over draws.
    """
    maps = {name: localizer(images) for name, localizer in localizers.items()}
    # Of as many pixels as all grids divide: masks of larger views hide the same shares.
    views, objects = images.new_zeros(len(images), 3, FINE, FINE), on_grid(objects, FINE)
    found = {}
    for grid in GRIDS:
        where_by = {"random": None, "true objects": on_grid(objects, grid)}
        where_by |= {name: foreground(pool_to_grid(map_, grid)) for name, map_ in maps.items()}
        found[str(grid)] = {}
        for name, where in where_by.items():
            patches = "random" if where is None else "balanced"
            masker = SaliencyMasker(MeanFill(), torch.nn.Identity(), grid, patches=patches)
            makers = {"query": masker.mask, "hard negative": masker.harden}
            for kind in ("query",) if where is None else makers:
                generator = torch.Generator().manual_seed(seed)
                drawn = [makers[kind](views, where, generator)[1][:, 0] for _ in range(DRAWS)]
                found[str(grid)][f"{kind}, {name}"] = _covered(torch.stack(drawn), objects)
    return found


def _covered(masks: Tensor, objects: Tensor) -> dict[str, float]:
    """What masks (draws, N, H, W) hide of objects (N, H, W) and of what is none."""
    gone, rest = (
        (masks & part).sum((2, 3)) / part.sum((1, 2)).clamp(min=1) for part in (objects, ~objects)
    )
    shares = {"object": gone, "rest": rest, "most": (gone > 0.5).float(), "spread": gone.std(0)}
    return {name: round(100 * share.mean().item(), 1) for name, share in shares.items()}


# ---------------------------------------------------------------------------------------- the page


def draw_curves(results: dict, picture: Path) -> None:
    """Loss and kNN accuracy over epochs, the means of all seeds."""
    figure = Figure(figsize=(11, 4), dpi=120, layout="constrained")
    axes = figure.subplots(1, 2)
    colours = ["#4c4c4c", "#d1603d", "#e9b44c", "#3a7ca5", "#6a994e", "#8e6c8a", "#2a9d8f"]
    for number, (name, runs) in enumerate(results.items()):
        curves = [run["curves"] for run in runs.values() if "curves" in run]
        for axis, key in zip(axes, ("loss", "knn_top1"), strict=True):
            points = np.array([curve[key] for curve in curves])
            if points.size:
                style = "-" if number < len(colours) else "--"
                colour = colours[number % len(colours)]
                axis.plot(*points.mean(0).T, style, color=colour, label=name, lw=1.4)
    for run in list(results.get(UNTRAINED, {}).values())[:1]:
        axes[1].axhline(run["top1"], color="0.7", lw=1, ls=":", label=UNTRAINED)
    axes[0].set(title="loss (not comparable between methods)", xlabel="epoch")
    axes[1].set(title="kNN top-1 on test photos, %", xlabel="epoch")
    handles = axes[1].get_legend_handles_labels()
    figure.legend(*handles, fontsize=8, frameon=False, loc="outside right upper")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture)


def draw_masks(rows: list[str], photos: Path, size: int, picture: Path, seed: int = 1) -> None:
    """What each masking row shows its encoders of the same photos."""
    files = [file for name in PICTURED for file in sorted(photos.glob(f"{name}/*"))[:1]]
    files = files or sorted(photos.glob("*/*"))[:: max(1, len(list(photos.glob("*/*"))) // 3)][:3]
    images = [ImageOps.fit(Image.open(file).convert("RGB"), (size, size)) for file in files]
    batch = torch.from_numpy(np.stack(images)[..., ::-1].copy()).permute(0, 3, 1, 2)
    DefaultScope.get_instance("study", scope_name="mmpretrain")
    groups = []
    for name in rows:
        recipe, overrides = ROWS.get(name, ("mocov2", []))
        options = dict(pair.split("=", 1) for pair in overrides)
        config = load_config(_config(recipe), {k: yaml.safe_load(v) for k, v in options.items()})
        preprocessor = MODELS.build(config.model.data_preprocessor)
        views = preprocessor({"inputs": batch, "data_samples": None})["inputs"]
        if not groups:
            groups.append(("", [Column("view", to_photos(views, preprocessor))]))
        if (masker := preprocessor.masker) is None:
            continue
        torch.manual_seed(seed)
        masked = masker(views, views)
        show = partial(
            to_photos,
            preprocessor=preprocessor,
            filtered=isinstance(masker.strategy, HighPassNoise),
        )
        columns = [Column("query", show(masked.query))]
        columns += [Column("hard negative", show(view)) for view in masked.hard_negatives]
        groups.append((name, columns))
    draw_columns(groups, (size, size), picture, "", dpi=90)


def write_page(data: dict, folder: Path) -> None:
    """All tables and pictures as Markdown."""
    recipe = [[key, str(value)] for key, value in data["recipe"].items()]
    parts = ["# The study\n", study_rows(data)]
    parts += ["![learning curves](curves.png)\n", "![masks](masks.png)\n"]
    if data["localizers"]:
        parts += ["## Localizers on coco-mini\n", study_localizers(data)]
        parts += ["## What masks hide of the true objects of coco-mini\n", study_hidden(data)]
        parts += ["## The same by the number of patches\n", study_grids(data)]
    parts += ["## The recipe of all rows\n", markdown(["", ""], recipe, words=2)]
    (folder / "page.md").write_text("\n".join(parts), encoding="utf-8")


def main() -> None:
    options = parse_arguments()
    origin = provenance()
    sides = split(options)
    results = run_rows(options, plan(options), sides)
    if options.tune:
        return
    checkpoint = results[BASELINE][str(options.seeds[0])]["checkpoint"]
    if BOOTSTRAPPED in options.rows:
        results |= run_rows(options, bootstrapped_plan(options, sides[0], checkpoint), sides)
    scores, shares = analyse(checkpoint)
    recipe = ("scale", *SCALES[options.scale], "train_per_class")
    data = {
        **origin,
        "seed": options.seeds,
        "recipe": {key: getattr(options, key) for key in recipe},
        "results": results,
        "differences": differences(results),
        "localizers": scores,
        "hidden": shares,
    }
    for file in filter(None, (options.out / "study.json", options.json)):
        write_result(file, data)
    draw_curves(results, options.out / "curves.png")
    draw_masks(options.rows, sides[1], options.size, options.out / "masks.png")
    write_page(data, options.out)
    print(f"page: {options.out / 'page.md'}")


if __name__ == "__main__":
    with report_errors():
        main()
