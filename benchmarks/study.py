"""The study: does saliency masking learn better, and why?

Methods × seeds under one recipe, pretrained without labels on the photos of --train and evaluated
on those of --test by kNN and by a linear classifier; then the localizers, and what their masks
hide. By default the photos are Imagenette's, in its official split.

    python benchmarks/study.py --scale small --jobs 2                  # 64 px, quarter width
    python benchmarks/study.py --scale gpu --jobs 3                    # 128 px, 200 epochs
    python benchmarks/study.py --tune --epochs 20                      # choose the small recipe
    python benchmarks/study.py --train mine/train --test mine/test --rows all

The recipe is chosen on training photos alone: --tune pretrains plain MoCo v2 and the high-pass
strategy on nine tenths of them under each of the recipes in TRIALS, and evaluates on the tenth that
tools/ablate.py holds out; --rows names others. Constants that are not of the scale are given by
--recipe.

Started again with the same command, it goes on where it stopped. Everything lies in --work-dir: a
folder per run with its log, masks, checkpoint and ``result.json``, pictures, and page.md. Runs that
the file of --json holds stay in it, so that rows and seeds may come from several machines.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import yaml
from localizers import MOBILENET, SIDE, measure, on_grid, unpacked_photos
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mmengine.config import DictAction
from mmengine.registry import DefaultScope
from photos import find_photos, unpack
from PIL import Image, ImageOps
from render import (
    CROPS,
    ONE_CROP,
    PLAIN_CROPS,
    SIMCLR_CROPS,
    markdown,
    study_grids,
    study_hidden,
    study_localizers,
    study_rows,
)
from torch import Tensor

from mmsalmask.algorithms.heads import HardNegativeContrastiveHead
from mmsalmask.algorithms.localizers import backbone_saliency
from mmsalmask.cli import report_errors
from mmsalmask.commands.linear import linear
from mmsalmask.config import load_config
from mmsalmask.errors import InputError
from mmsalmask.jobs import call
from mmsalmask.masking import MeanFill, SaliencyMasker
from mmsalmask.provenance import provenance, write_result
from mmsalmask.registry import MODELS
from mmsalmask.saliency import (
    BoundaryPriorSaliency,
    Frozen,
    SpectralResidualSaliency,
    foreground,
    pool_to_grid,
)
from mmsalmask.visualization.gallery import Column, draw_columns, to_photos

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "configs" / "demo"
PENALTY = HardNegativeContrastiveHead().penalty


def scale(recipe: str, **run: Any) -> dict[str, Any]:
    """What every row of a scale shares: constants of a recipe of plain MoCo v2, how it is run."""
    config, masked = (
        load_config(str(ROOT / "configs" / "imagenette" / f"{method}_{recipe}.py"))
        for method in ("mocov2", "mocov2-salmask-highpass")
    )
    model, loader = config.model, config.train_dataloader
    view, optimizer = model.data_preprocessor.augment.view, config.optim_wrapper.optimizer
    return {
        "size": view.size,
        "stored": loader.dataset.dataset.pipeline[0].size,
        "width": model.backbone.base_channels,
        "epochs": config.train_cfg.max_epochs,
        "batch": loader.batch_size,
        "lr": optimizer.lr,
        "weight_decay": optimizer.weight_decay,
        "temperature": model.head.temperature,
        "penalty": masked.model.head.get("penalty", PENALTY),
        "queue": model.queue_len,
        "momentum": model.momentum,
        "neck": model.neck.type,
        "hidden": model.neck.hid_channels,
        "crop_area": list(view.crop_area),
        "zero_init": model.backbone.zero_init_residual,
        "symmetric": model.get("symmetric", False),
        "bn_splits": model.get("bn_splits", 1),
        "k": config.custom_hooks[-1].metric.k,
        **run,
    }


# "small" comes from a pilot of plain MoCo v2, --tune is to confirm it. "gpu" is what lightly
# publishes for Imagenette.
SCALES = {
    "small": scale(
        "resnet18-w16_1xb128-coslr-50e_imagenette-64px", seeds=[0, 1, 2], jobs=2, amp=None
    ),
    "gpu": scale("resnet18_1xb256-coslr-200e_imagenette-128px", seeds=[0], jobs=2, amp="bfloat16"),
}
# Recipes that --tune compares: what they change in the scale's.
TRIALS = {
    "as the scale": {},
    "no zero init": {"zero_init": False},
    "BatchNorm of the whole batch": {"bn_splits": 1},
    "BatchNorm in eight groups": {"bn_splits": 8},
    "τ 0.1, lr 0.06": {"temperature": 0.1, "lr": 0.06},
    "symmetric": {"symmetric": True},
    "lr 0.3": {"lr": 0.3},
}
HELD_OUT = 0.1  # of the training photos, for --tune
PER_CLASS = 30  # labelled photos of the set that is transferred to, as is usual for Caltech-101
BASELINE, UNTRAINED = "plain MoCo v2", "untrained"
NET_CROPS = "high-pass filter, local crops on the object by MobileNetV2"
# Trained at commit cadda0e, whose localizer for it is not kept.
OVERLAP_CROPS = "high-pass filter, local crops on what both views show"
RANDOM = "MSCN"  # the masks of saliency have to beat random ones
# Rows minus rows, by the name that the pairs have in the file of --json.
PAIRS = {
    # What object crops are to beat: the paper's strategies, what they do without crops, and
    # without saliency.
    "object_crops": {
        CROPS: (
            "high-pass",
            "blur",
            "mean",
            "high-pass filter, no masks",
            "high-pass filter, local crops anywhere",
            "high-pass filter, local crops near the centre",
            OVERLAP_CROPS,
        ),
        ONE_CROP: ("high-pass", "blur", "mean", "high-pass filter, no masks", CROPS),
        PLAIN_CROPS: ("high-pass", "blur", "mean", BASELINE, "local crops anywhere"),
        "high-pass filter, views on the object": (
            "high-pass filter, no masks",
            "high-pass filter, views near the centre",
        ),
        NET_CROPS: (
            CROPS,
            "high-pass filter, local crops anywhere",
            "high-pass filter, local crops near the centre",
        ),
    },
    # Each strategy's own random-patch twin, alike in all else.
    "random_twins": {
        "high-pass": ("high-pass, random patches",),
        "high-pass, no hard negatives": (RANDOM,),
        "blur": ("blur, random patches",),
        "mean": ("mean, random patches",),
        "low-pass": ("low-pass, random patches",),
    },
    "simclr": {
        "SimCLR, high-pass": (
            "SimCLR",
            "SimCLR, high-pass filter, no masks",
            "SimCLR, high-pass, random patches",
        ),
        "SimCLR, high-pass filter, no masks": ("SimCLR",),
        SIMCLR_CROPS: (
            "SimCLR, high-pass filter, no masks",
            "SimCLR, high-pass filter, local crops anywhere",
            "SimCLR, high-pass filter, local crops near the centre",
        ),
    },
}
MASKER = "model.data_preprocessor.masker"
AUGMENT = "model.data_preprocessor.augment"
STRATEGY = f"{MASKER}.strategy"
# Name → demo recipe, overrides.
ROWS: dict[str, tuple[str, list[str]]] = {
    UNTRAINED: ("mocov2", []),
    BASELINE: ("mocov2", []),
    "MSCN": ("mocov2-mscn", []),
    "high-pass": ("mocov2-salmask-highpass", []),
    "blur": ("mocov2-salmask-blur", []),
    "mean": ("mocov2-salmask-mean", []),
    # fills that are not of the paper
    "low-pass": ("mocov2-salmask-lowpass", []),
    "feathered mean": ("mocov2-salmask-feathered", []),
    "MixMask": ("mocov2-mixmask", []),
    "ADIOS-s": ("adios-s-mocov2", []),
    "ADIOS-s, simultaneous": ("adios-s-mocov2", ["model.simultaneous=true"]),
    # what each ingredient does: of the high-pass strategy, the best, and of the mean
    "high-pass filter, no masks": ("mocov2-filtered", []),
    "high-pass, no hard negatives": ("mocov2-salmask-highpass", [f"{MASKER}.hard_negatives=0"]),
    "high-pass, ρ = 1": ("mocov2-salmask-highpass", ["model.head.penalty=1.0"]),
    "high-pass, patches of the background alone": (
        "mocov2-salmask-highpass",
        [
            f"{MASKER}.patches=background",
            f"{MASKER}.query_ratio=[0.3,0.7]",
            f"{MASKER}.hard_negatives=0",
        ],
    ),
    # uses of saliency that hide nothing, and the same without saliency
    "high-pass filter, views on the object": (
        "mocov2-filtered",
        [f"{AUGMENT}.localizer.type=mmsalmask.BoundaryPriorSaliency"],
    ),
    "high-pass filter, views near the centre": (
        "mocov2-filtered",
        [f"{AUGMENT}.localizer.type=mmsalmask.CentrePriorSaliency"],
    ),
    "views on the object": (
        "mocov2",
        [f"{AUGMENT}.localizer.type=mmsalmask.BoundaryPriorSaliency"],
    ),
    CROPS: ("mocov2-objectcrops-highpass", []),
    "high-pass filter, local crops anywhere": (
        "mocov2-objectcrops-highpass",
        [f"{MASKER}.localizer=None", f"{MASKER}.patches=random"],
    ),
    "high-pass filter, local crops near the centre": (
        "mocov2-objectcrops-highpass",
        [f"{MASKER}.localizer.type=mmsalmask.CentrePriorSaliency"],
    ),
    ONE_CROP: ("mocov2-objectcrops-highpass", [f"{MASKER}.local_crops=1"]),
    PLAIN_CROPS: ("mocov2-objectcrops", []),
    "local crops anywhere": (
        "mocov2-objectcrops",
        [f"{MASKER}.localizer=None", f"{MASKER}.patches=random"],
    ),
    "one local crop on the object": ("mocov2-objectcrops", [f"{MASKER}.local_crops=1"]),
    "mean, no hard negatives": ("mocov2-salmask-mean", [f"{MASKER}.hard_negatives=0"]),
    "blur, no hard negatives": ("mocov2-salmask-blur", [f"{MASKER}.hard_negatives=0"]),
    "mean, random patches, no hard negatives": (
        "mocov2-salmask-mean",
        [f"{MASKER}.patches=random", f"{MASKER}.hard_negatives=0"],
    ),
    "high-pass, filter scaled": (
        "mocov2-salmask-highpass",
        [
            f"{MASKER}.hard_negatives=0",
            f"{STRATEGY}.kernel_size=5",
            f"{STRATEGY}.sigma=1.43",
        ],
    ),
    "mean, random patches": ("mocov2-salmask-mean", [f"{MASKER}.patches=random"]),
    "blur, random patches": ("mocov2-salmask-blur", [f"{MASKER}.patches=random"]),
    "low-pass, random patches": ("mocov2-salmask-lowpass", [f"{MASKER}.patches=random"]),
    "high-pass, random patches": ("mocov2-salmask-highpass", [f"{MASKER}.patches=random"]),
    "mean, both views": ("mocov2-salmask-mean", [f"{MASKER}.masked_views=both"]),
    "mean, ρ = 1": ("mocov2-salmask-mean", ["model.head.penalty=1.0"]),
    "mean, ρ = 3": ("mocov2-salmask-mean", ["model.head.penalty=3.0"]),
    "mean, two hard negatives": ("mocov2-salmask-mean", [f"{MASKER}.hard_negatives=2"]),
    "mean, grid 4": ("mocov2-salmask-mean", [f"{MASKER}.grid=4"]),
    "mean, grid 14": ("mocov2-salmask-mean", [f"{MASKER}.grid=14"]),
    "mean, larger masks": ("mocov2-salmask-mean", [f"{MASKER}.query_ratio=[0.2,0.5]"]),
    "mean, purer foreground": ("mocov2-salmask-mean", [f"{MASKER}.offset=-0.6"]),
    "SimCLR": ("simclr", []),
    "SimCLR, high-pass": ("simclr-salmask-highpass", []),
    "SimCLR, high-pass, random patches": (
        "simclr-salmask-highpass",
        [f"{MASKER}.patches=random"],
    ),
    "SimCLR, high-pass filter, no masks": ("simclr-filtered", []),
    SIMCLR_CROPS: ("simclr-objectcrops-highpass", []),
    "SimCLR, high-pass filter, local crops anywhere": (
        "simclr-objectcrops-highpass",
        [f"{MASKER}.localizer=None", f"{MASKER}.patches=random"],
    ),
    "SimCLR, high-pass filter, local crops near the centre": (
        "simclr-objectcrops-highpass",
        [f"{MASKER}.localizer.type=mmsalmask.CentrePriorSaliency"],
    ),
}
# Rows whose localizer is a net that runs once on whole photos, with their demo recipes: the study's
# own plain MoCo v2 backbone, or MobileNetV2, which ImageNet's labels have trained.
BOOTSTRAPPED = "mean, bootstrapped localizer"
CACHED = {
    BOOTSTRAPPED: "mocov2-salmask-mean",
    "high-pass, localizer MobileNetV2": "mocov2-salmask-highpass",
    NET_CROPS: "mocov2-objectcrops-highpass",
}
LABELLED_NET = dict(backbone=dict(type="MobileNetV2"), checkpoint=MOBILENET), SIDE
MAIN = [UNTRAINED, BASELINE, "MSCN", "high-pass", "blur", "mean"]
CHOICES = {"small": MAIN, "gpu": MAIN, "all": [*ROWS, *CACHED]}
PICTURED = ("n02102040", "n03028079", "n03445777")  # a dog, a church, a golf ball
GRIDS, DRAWS = (4, 7, 14), 20
FINE = 56  # cells of a side, a multiple of every grid


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--train", type=Path, help="folder <class>/<image> (Imagenette's)")
    parser.add_argument("--test", type=Path, help="folder <class>/<image> (Imagenette's)")
    parser.add_argument("--tune", action="store_true", help="compare recipes, on --train alone")
    parser.add_argument(
        "--rows",
        nargs="+",
        metavar="ROW",
        help=f"by default those of the scale; 'all', or of: {'; '.join(CHOICES['all'])}; with "
        f"--tune of: {'; '.join(TRIALS)}",
    )
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--epochs", type=int)
    parser.add_argument(
        "--recipe", nargs="+", default=[], metavar="KEY=VALUE", help="constants for all rows"
    )
    parser.add_argument(
        "--finished", action="store_true", help="train nothing: the page of the runs that are done"
    )
    parser.add_argument("--jobs", type=int, help="runs side by side")
    parser.add_argument("--workers", type=int, default=2, help="processes of each that decode")
    parser.add_argument("--points", type=int, default=5, help="of the kNN curve (%(default)s)")
    parser.add_argument(
        "--work-dir", "--out", dest="out", type=Path, help="work_dirs/study_<scale>"
    )
    parser.add_argument(
        "--transfer",
        type=Path,
        help=f"folder <class>/<image>, {PER_CLASS} of each class to learn from (Caltech-101's)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    options = parser.parse_args()
    scale = SCALES[options.scale]
    for pair in options.recipe:
        key, _, value = pair.partition("=")
        if key not in scale:
            parser.error(f"--recipe: there is no constant {key!r}, but {', '.join(scale)}")
        setattr(options, key, yaml.safe_load(value))
    for name, value in scale.items():
        if getattr(options, name, None) is None:
            setattr(options, name, value)
    if (options.train is None) != (options.test is None) and not options.tune:
        parser.error("give both --train and --test, or neither for Imagenette")
    kind = "tuning" if options.tune else "study"
    options.out = options.out or Path("work_dirs") / f"{kind}_{options.scale}"
    known = list(trials()) if options.tune else CHOICES["all"]
    chosen = [row for row in known if row not in ROWS] if options.tune else CHOICES[options.scale]
    options.rows = options.rows or chosen
    if options.rows == ["all"]:
        options.rows = known
    if unknown := [row for row in options.rows if row not in known]:
        parser.error(f"--rows: there is no row {unknown[0]!r}, but {'; '.join(known)}")
    return options


def trials() -> dict[str, tuple[str, list[str], dict]]:
    """Name → demo recipe, overrides and changed constants of every row of --tune."""
    methods = {BASELINE: "mocov2", "high-pass": "mocov2-salmask-highpass"}
    recipes = {
        f"{method}, {name}": (recipe, [], changed)
        for method, recipe in methods.items()
        for name, changed in TRIALS.items()
    }
    return recipes | {row: (*made, {}) for row, made in ROWS.items()}


# ---------------------------------------------------------------------------------------- the data


def photo_sides(options: argparse.Namespace) -> tuple[Path, Path | None]:
    """The folders to train on and to test on."""
    if options.train is not None:
        return options.train, options.test
    folder = unpack_once("imagenette_112", options.out)
    return folder / "train", folder / "val"


def unpack_once(name: str, out: Path) -> Path:
    """A set of photos, unpacked where it is not yet."""
    folder = out / name
    if not folder.exists():
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out) as part:
            unpack(name, part).rename(folder)
    return folder


# ---------------------------------------------------------------------------------------- the runs


def settings(recipe: str, constants: Mapping[str, Any], overrides: Sequence[str] = ()) -> dict:
    """What the study changes in a demo recipe: the same for all rows but for ``constants``."""
    c = SimpleNamespace(**constants)
    config = load_config(_config(recipe), parsed(overrides))
    hooks = [dict(hook) for hook in config.custom_hooks]
    for hook in hooks:
        if hook["type"] in ("mmsalmask.MaskGalleryHook", "mmsalmask.SlotGalleryHook"):
            hook["interval"] = c.epochs
    pipeline = [
        dict(type="mmsalmask.LoadWhole", size=c.stored),
        dict(type="mmsalmask.PackWhole"),
    ]
    photos = dict(type="mmsalmask.ImageFolder", data_root="data/demo/train", pipeline=pipeline)
    model = {
        "data_preprocessor": {"augment": {"view": dict(size=c.size, crop_area=c.crop_area)}},
        "backbone": {
            "base_channels": c.width,
            "stem_channels": c.width,
            "zero_init_residual": c.zero_init,
        },
        "neck": neck(c.neck, 8 * c.width, c.hidden),
        "head": {"temperature": c.temperature},
    }
    masker = config.model.data_preprocessor.get("masker")
    if c.penalty != PENALTY and masker and masker.get("hard_negatives", 1):
        model["head"]["penalty"] = c.penalty  # refused where there are none
    if not recipe.startswith("simclr"):
        model |= {"queue_len": c.queue, "momentum": c.momentum}
        # Options of MaskedMoCo that ADIOS, whose step has two phases, does not have.
        if not recipe.startswith("adios"):
            model |= {"symmetric": c.symmetric, "bn_splits": c.bn_splits}
    if recipe.startswith("adios"):
        model["mask_net"] = {"size": c.size}
    return {
        "model": model,
        "train_dataloader": {
            "batch_size": c.batch,
            "num_workers": 1,
            "dataset": dict(
                _delete_=True, type="mmsalmask.InMemory", resident=True, dataset=photos
            ),
        },
        "optim_wrapper": {"optimizer": {"lr": c.lr, "weight_decay": c.weight_decay}},
        "train_cfg": {"max_epochs": c.epochs},
        "default_hooks": {"checkpoint": {"interval": max(1, c.epochs // 5), "max_keep_ckpts": 1}},
        "custom_hooks": [*hooks, dict(type="mmsalmask.ResidentImagesHook")],
    }


def neck(kind: str, channels: int, hidden: int) -> dict:
    """The projection: MoCo v2's, or one with BatchNorm.

    The embeddings of a new net nearly agree, and MoCo v2's neck takes longer to spread them than
    the small scale lasts. Until then keys are told by their age, not by their photo.
    """
    found = dict(_delete_=True, type=kind, in_channels=channels, hid_channels=hidden)
    found |= dict(out_channels=128, with_avg_pool=True)
    if kind == "NonLinearNeck":
        found |= dict(num_layers=2, with_bias=False, with_last_bn_affine=False)
        found |= dict(norm_cfg=dict(type="BN1d"))
    return found


def trunk(width: int) -> dict:
    """A localizer's backbone that stays at the resolution of its second stage, for small views."""
    channels = dict(base_channels=width, stem_channels=width)
    return dict(type="ResNet", depth=18, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), **channels)


def parsed(overrides: Sequence[str]) -> dict[str, Any]:
    """Overrides KEY=VALUE as load_config takes them, read as the command line reads them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="*", action=DictAction, default={})
    return parser.parse_args(["--cfg-options", *overrides]).cfg_options


def _config(recipe: str) -> str:
    return str(DEMO / f"{recipe}_resnet18_demo.py")


def plan(options: argparse.Namespace) -> Path:
    """The rows without those of a cache, as tools/ablate.py reads them."""
    rows = []
    for name in options.rows:
        if name in CACHED:
            continue
        recipe, overrides, changed = trials()[name] if options.tune else (*ROWS[name], {})
        made = settings(recipe, {**vars(options), **changed}, overrides)
        row = {"name": name, "config": _config(recipe), "overrides": overrides}
        rows.append({**row, "settings": made, "pretrain": name != UNTRAINED})
    return _write(options.out / "plan.yml", rows)


def cached_plan(options: argparse.Namespace, row: str, train: Path, net: dict, size: int) -> Path:
    """A row whose saliency is that of a net, made here once for whole photos.

    Args:
        net: its ``backbone`` and ``checkpoint``.
        size: pixels of the square that the photos are resized to for it.
    """
    recipe, changed = CACHED[row], settings(CACHED[row], vars(options))
    made = dict(_delete_=True, type="mmsalmask.BackboneSaliency", **net)
    preprocessor = changed["model"]["data_preprocessor"]
    preprocessor["masker"] = {"localizer": made}
    stem = options.out / row.replace(", ", "_").replace(" ", "-")
    cache, child = (stem.with_suffix(suffix) for suffix in (".safetensors", ".py"))
    lines = [f"_base_ = {_config(recipe)!r}", *(f"{key} = {changed[key]!r}" for key in changed)]
    child.parent.mkdir(parents=True, exist_ok=True)
    child.write_text("\n".join(lines) + "\n")
    call("cache", child, *("-o", cache, "--size", size, "--cfg-options", f"data_root={train}"))
    preprocessor["saliency_cache"] = str(cache)
    made = {"name": row, "config": _config(recipe), "settings": changed}
    return _write(stem.with_suffix(".yml"), [made])


def _write(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(plain({"rows": rows}), allow_unicode=True, sort_keys=False)
    path.write_text(text, encoding="utf-8")
    return path


def plain(value: Any) -> Any:
    """As JSON reads it again: lists for tuples, which YAML does not have either."""
    return json.loads(json.dumps(value))


def run_rows(options: argparse.Namespace, plan_: Path, sides: tuple[Path, Path]) -> dict:
    """Results by row and seed."""
    figures = options.out / f"{plan_.stem}.json"
    judge = ["--holdout", HELD_OUT] if options.tune else ["--test", sides[1]]
    words = ["--data", sides[0], *judge, "--size", options.size, "--linear", "-k", options.k]
    words += ["--curve", max(1, options.epochs // options.points), "--jobs", options.jobs]
    words += ["--workers", options.workers]
    words += ["--work-dir", options.out / "runs", "--json", figures, "--seeds", *options.seeds]
    call("ablate", plan_, *words, *(["--amp", options.amp] if options.amp else []))
    return json.loads(figures.read_text())["results"]


def finished_runs(options: argparse.Namespace) -> dict:
    """Results by row and seed of the runs that are done, whoever started them."""
    results: dict[str, dict] = {row: {} for row in options.rows}
    for file in sorted((options.out / "runs").glob("*/seed_*/result.json")):
        result, run = (json.loads(path.read_text()) for path in (file, file.with_name("run.json")))
        if "top1" in result and run["name"] in results and run["seed"] in options.seeds:
            results[run["name"]][str(run["seed"])] = {**result, "amp": run["amp"]}
    found = {row: runs for row, runs in results.items() if runs}
    if not found:
        raise InputError(
            f"{options.out / 'runs'} holds no finished run of these rows and seeds: train them "
            "without --finished, or give their --work-dir"
        )
    return found


def constants(options: argparse.Namespace) -> dict[str, Any]:
    """The recipe of all rows, and how it is run."""
    return {key: getattr(options, key) for key in ("scale", *SCALES[options.scale])}


def earlier_study(options: argparse.Namespace) -> dict:
    """What the file of --json holds, whose runs are to stay in it; no results where it is none."""
    if options.json is None or not options.json.is_file():
        return {"results": {}}
    data = json.loads(options.json.read_text())
    free = dict.fromkeys(("seeds", "jobs", "amp"))  # each run tells its own precision
    if {**data["recipe"], **free} != {**plain(constants(options)), **free}:
        raise InputError(f"{options.json} holds runs of another recipe: give another file")
    return data


def with_baseline(options: argparse.Namespace, earlier: dict) -> list[str]:
    """The rows to run: every other one is compared with the baseline of the same seed.

    The baseline need not run where the file of --json holds its seeds. The bootstrapped localizer
    is made of a checkpoint of it.
    """
    held = all(str(seed) in earlier["results"].get(BASELINE, {}) for seed in options.seeds)
    added = set() if held and BOOTSTRAPPED not in options.rows else {BASELINE}
    return [row for row in CHOICES["all"] if row in {*options.rows, *added}]


def joined(earlier: dict, results: dict) -> dict:
    """Both by row and seed, in the order of the study's rows; of a run in both, the latter."""
    rows = [row for row in (*CHOICES["all"], *results, *earlier) if row in earlier | results]
    both = {row: {**earlier.get(row, {}), **results.get(row, {})} for row in dict.fromkeys(rows)}
    return {
        row: dict(sorted(runs.items(), key=lambda run: int(run[0]))) for row, runs in both.items()
    }


def study(options: argparse.Namespace, sides: tuple[Path, Path]) -> dict:
    """Run all rows, those of a cache last; results by row and seed of what is finished."""
    if not options.finished:
        cached = [row for row in options.rows if row in CACHED]
        results = {}
        if len(cached) < len(options.rows):
            results = run_rows(options, plan(options), sides)
        for row in cached:
            net, size = LABELLED_NET
            if row == BOOTSTRAPPED:
                checkpoint = results[BASELINE][str(options.seeds[0])]["checkpoint"]
                net = dict(backbone=trunk(options.width), checkpoint=checkpoint)
                size = 2 * options.size
            run_rows(options, cached_plan(options, row, sides[0], net, size), sides)
    transfer(options)
    return finished_runs(options)


def transfer(options: argparse.Namespace) -> None:
    """Accuracies of the finished runs' frozen backbones on another set, into their result files."""
    folder = options.transfer
    if folder is None and find_photos("caltech101_112") is None:
        print("nothing is transferred: MMSALMASK_PHOTOS names no folder with caltech101_112.tar")
        return
    folder = folder or unpack_once("caltech101_112", options.out)
    for file in sorted((options.out / "runs").glob("*/seed_*/result.json")):
        result, run = (json.loads(path.read_text()) for path in (file, file.with_name("run.json")))
        if "top1" not in result or result.get("transfer", {}).get("data") == folder.name:
            continue
        found = linear(
            str(next(file.parent.parent.glob("*.py"))),
            result["checkpoint"],
            str(folder),
            train_per_class=PER_CLASS,
            size=options.size,
            knn=options.k,
            each=True,
            seed=0,  # the same photos for all
            workers=options.workers,
            cfg_options=parsed(run["overrides"]),
        )
        told = {"data": folder.name, "top1": found["knn"]["top1"], "linear_top1": found["top1"]}
        print(f"{file.parent.relative_to(options.out)}: {told}")
        told |= {key: found[key] for key in ("right", "test_images")}
        write_result(file, {**result, "transfer": told})


# ------------------------------------------------------------------------------------ the analysis


def differences(
    results: dict[str, dict[str, dict]], subtracted: str = BASELINE, seed: int = 0
) -> dict[str, dict]:
    """Linear top-1 minus that of one row: mean over seeds and test photos, and a 95 % interval.

    Both are drawn anew, with replacement, 2,000 times (a bootstrap of a paired difference): photos
    alone where there is one seed. Points of percent. All rows have the same draws: a row's interval
    does not depend on which others there are.
    """
    found = {}
    baseline = {key: _right(run) for key, run in results.get(subtracted, {}).items()}
    for name, runs in results.items():
        shared = [key for key in runs if key in baseline]
        if name == subtracted or not shared:
            continue
        gain = np.stack([_right(runs[key]) - baseline[key] for key in shared])
        random, means = np.random.default_rng(seed), []
        for _ in range(2000):
            seeds = random.integers(len(gain), size=len(gain))
            photos = random.integers(gain.shape[1], size=gain.shape[1])
            means.append(gain[seeds].mean(0)[photos].mean())
        low, high = np.percentile(means, [2.5, 97.5])
        figures = {"mean": gain.mean(), "low": low, "high": high}
        found[name] = {key: round(100 * float(value), 2) for key, value in figures.items()}
    return found


def ahead(results: dict, ours: str, rivals: Sequence[str]) -> dict[str, dict]:
    """:func:`differences` of one row to each of its rivals that has run."""
    pairs = {row: {key: results.get(key, {}) for key in (ours, row)} for row in rivals}
    found = {row: differences(pair, row) for row, pair in pairs.items()}
    return {row: one[ours] for row, one in found.items() if ours in one}


def transferred(results: dict) -> dict[str, dict]:
    """:func:`differences` on the set that is transferred to."""
    moved = {
        row: {
            key: run["transfer"] for key, run in runs.items() if "right" in run.get("transfer", {})
        }
        for row, runs in results.items()
    }
    return differences(moved)


def _right(run: dict) -> np.ndarray:
    """Which test photos the linear classifier gets right, 0.0 or 1.0 each."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(run["right"]), np.uint8))
    return bits[: run["test_images"]].astype(float)


def analyse(checkpoint: str, width: int, seed: int = 0) -> tuple[dict, dict]:
    """Scores of the localizers on coco-mini, and what masks made by them hide of true objects.

    The latter by grid. Nothing where coco-mini is not at hand: photos with labels alone do not say
    where objects are.
    """
    if find_photos("coco-mini") is None:
        print("localizers are not scored: MMSALMASK_PHOTOS names no folder with coco-mini.tar")
        return {}, {}
    images, objects = unpacked_photos()
    localizers = {
        "BoundaryPriorSaliency": Frozen(BoundaryPriorSaliency()),
        "SpectralResidualSaliency": Frozen(SpectralResidualSaliency()),
        "bootstrapped": Frozen(backbone_saliency(trunk(width), checkpoint)),
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


def group_of(name: str) -> str:
    """The panel of the curves in which a row is drawn."""
    return "SimCLR" if name.startswith("SimCLR") else "crops" if "crop" in name else "masks"


def draw_curves(results: dict, picture: Path) -> None:
    """Loss and kNN accuracy over epochs, the means of all seeds, in a column per group of rows."""
    groups = list(dict.fromkeys(map(group_of, results)))
    figure = Figure(figsize=(1 + 4 * len(groups), 8), dpi=110, layout="constrained")
    axes = figure.subplots(2, len(groups), squeeze=False, sharey="row")
    for column, group in enumerate(groups):
        above, below = axes[:, column]
        shown = (name for name in results if name not in (UNTRAINED, BASELINE))
        # A reference in each column; the losses of two algorithms are no comparison.
        _draw_mean(above, results.get(BASELINE, {}), "knn_top1", color="0.3", lw=2.2)
        if group != "SimCLR":
            _draw_mean(below, results.get(BASELINE, {}), "loss", color="0.3", lw=2.2)
        for number, name in enumerate(name for name in shown if group_of(name) == group):
            style = dict(color=f"C{number % 10}", ls="-" if number < 10 else "--", lw=1.4)
            _draw_mean(above, results[name], "knn_top1", label=name, **style)
            _draw_mean(below, results[name], "loss", **style)
        for run in list(results.get(UNTRAINED, {}).values())[:1]:
            above.axhline(run["top1"], color="0.6", lw=1, ls=":")
        above.set_title(f"{group}: kNN top-1 on test photos, %", fontsize=10)
        below.set_title("loss", fontsize=10)
        below.set_xlabel("epoch (thick grey: plain MoCo v2; dotted: untrained)", fontsize=8)
        below.legend(
            *above.get_legend_handles_labels(),
            fontsize=8,
            frameon=False,
            loc="upper left",
            bbox_to_anchor=(0, -0.16),
        )
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture)


def _draw_mean(axis: Axes, runs: dict, key: str, **style: Any) -> None:
    """The mean of a curve over the seeds of a row; nothing if none of them has it."""
    curves = [run["curves"] for run in runs.values() if "curves" in run]
    points = [np.array(curve[key]).T for curve in curves if curve[key]]
    if points:
        # Seeds of another machine may have been followed at other epochs.
        epochs = points[0][0]
        axis.plot(epochs, np.mean([np.interp(epochs, *each) for each in points], axis=0), **style)


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
        config = load_config(_config(recipe), parsed(overrides))
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
            filtered=masker.strategy.filters,
        )
        columns = [] if masked.query_mask is None else [Column("query", show(masked.query))]
        columns += [Column("hard negative", show(view)) for view in masked.hard_negatives]
        if masked.local_crops is not None:
            crops = masked.local_crops.split(len(views[0]))
            columns += [Column(f"crop {i}", show(part)) for i, part in enumerate(crops, 1)]
        groups.append((name, columns))
    draw_columns(groups, (size, size), picture, "", dpi=90)


def write_page(data: dict, folder: Path) -> None:
    """All tables and pictures as Markdown."""
    recipe = [[key, str(value)] for key, value in data["recipe"].items()]
    parts = ["# The study\n", study_rows(data), "![learning curves](curves.png)\n"]
    if "differences" in data:
        parts.append("![masks](masks.png)\n")
    if data.get("localizers"):
        parts += ["## Localizers on coco-mini\n", study_localizers(data)]
        parts += ["## What masks hide of the true objects of coco-mini\n", study_hidden(data)]
        parts += ["## The same by the number of patches\n", study_grids(data)]
    parts += ["## The recipe of all rows\n", markdown(["", ""], recipe, words=2)]
    (folder / "page.md").write_text("\n".join(parts), encoding="utf-8")


def main() -> None:
    options = parse_arguments()
    origin, earlier = provenance(), earlier_study(options)
    sides = photo_sides(options)
    if options.tune:
        done = finished_runs(options)
        if not options.finished:
            done = run_rows(options, plan(options), sides)
    else:
        options.rows = with_baseline(options, earlier)
        done = study(options, sides)
    results = joined(earlier["results"], done)
    seeds = sorted({int(seed) for runs in results.values() for seed in runs})
    data = {**earlier, **origin, "seed": seeds, "recipe": constants(options), "results": results}
    if options.tune:
        data["trials"] = TRIALS
    else:
        data["differences"] = differences(results)
        data["beyond_random"] = differences(results, RANDOM)
        data["transferred"] = transferred(results)
        for pairs, rivals in PAIRS.items():
            found = {ours: ahead(results, ours, rivals[ours]) for ours in rivals}
            data[pairs] = {ours: gains for ours, gains in found.items() if gains}
    first = done.get(BASELINE, {}).get(str(options.seeds[0]))
    if first is not None and not options.tune:
        data["localizers"], data["hidden"] = analyse(first["checkpoint"], options.width)
    for file in filter(None, (options.out / "study.json", options.json)):
        write_result(file, data)
    draw_curves(results, options.out / "curves.png")
    if not options.tune:
        drawn = [row for row in (*MAIN, CROPS) if row in results]
        draw_masks(drawn, sides[1], options.size, options.out / "masks.png")
    write_page(data, options.out)
    print(f"page: {options.out / 'page.md'}")


if __name__ == "__main__":
    with report_errors():
        main()
