"""Take a pretrained backbone through every downstream task that the data on disk allows.

    python tools/transfer.py work_dirs/mine/epoch_200.pth --data-root data
    python tools/transfer.py work_dirs/mine/epoch_20.pth --schedule small \\
        --data caltech101=photos/caltech coco=photos/coco voc=photos/VOCdevkit

Tasks: linear and knn on ImageNet-100, Caltech-101 and Flowers-102; voc and coco, detection; seg,
segmentation of VOC and Cityscapes. Below --data-root the datasets are expected as imagenet,
caltech101, flowers102, VOCdevkit, coco and cityscapes (tools/prepare_data.py looks at them); --data
says where one lies elsewhere. A task without data is left out, or refused if --tasks names it.

The backbone is exported once. One that learned from high-pass filtered images gets the recipes with
the filter. Each task is a process of its own, one per GPU at a time, or one after the other on a
CPU. Started again with the same command, the tool goes on where it stopped. It ends with report.md
and report.html: the published tables with a row for this backbone, and pictures.

The schedule full is that of the recipes; small is for two CPU cores, and for no comparison.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config
from mmpretrain.datasets import Flowers102
from rich.console import Console
from rich.markdown import Markdown
from torch import Tensor

from mmsalmask.checkpoint import (
    describe,
    find_backbone,
    load_checkpoint,
    local_file,
    save_backbone,
)
from mmsalmask.cli import report_errors, work_dir_argument
from mmsalmask.data import ImageNet100
from mmsalmask.downstream.boxes import average_precisions
from mmsalmask.downstream.report import (
    compose,
    detection_evaluations,
    draw_pictures,
    tables_only,
    write_report,
)
from mmsalmask.downstream.tasks import (
    count_images,
    downstream_config,
    keep_predictions,
    resnet_depth,
    segmentation_truth,
)
from mmsalmask.engine.resume.safe_checkpoint import run_checkpoints
from mmsalmask.errors import InputError
from mmsalmask.evaluation.features import labelled_folders
from mmsalmask.jobs import Place, call, claim, run_all, visible_gpus, wait_for
from mmsalmask.provenance import provenance, write_result
from mmsalmask.visualization.embedding import embed

TOOLS = Path(__file__).resolve().parent
CONFIGS = TOOLS.parent / "configs"
FOLDERS = {
    name: "VOCdevkit" if name == "voc" else name
    for name in ("imagenet", "caltech101", "flowers102", "voc", "coco", "cityscapes")
}
LINEAR_COLUMNS = {
    "imagenet": "imagenet100_top1",
    "caltech101": "caltech101_top1",
    "flowers102": "flowers102_top1",
}
TASKS = ("linear", "knn", "voc", "coco", "seg")


class Recipe(NamedTuple):
    """What is trained on a dataset: a config, and the images of one step in all."""

    task: str
    data: str
    config: str
    batch: int


RECIPES = {
    "linear-imagenet": Recipe(
        "linear", "imagenet", "linear/{method}_resnet50_4xb64-{schedule}-100e_in100.py", 256
    ),
    "linear-caltech101": Recipe(
        "linear", "caltech101", "linear/{method}_resnet50_1xb256-{schedule}-100e_caltech101.py", 256
    ),
    "linear-flowers102": Recipe(
        "linear", "flowers102", "linear/{method}_resnet50_1xb256-{schedule}-100e_flowers102.py", 256
    ),
    "voc": Recipe("voc", "voc", "detection/faster-rcnn_r50-c4{filter}_8xb2-24k_voc0712.py", 16),
    "coco": Recipe("coco", "coco", "detection/mask-rcnn_r50-c4{filter}_8xb1-180k_coco.py", 8),
    "seg-voc": Recipe(
        "seg", "voc", "segmentation/fcn_r50-d8{filter}_4xb4-20k_voc12aug-512x512.py", 16
    ),
    "seg-cityscapes": Recipe(
        "seg", "cityscapes", "segmentation/fcn_r50-d8{filter}_4xb2-40k_cityscapes-769x769.py", 8
    ),
}


class Backbone(NamedTuple):
    """A checkpoint's backbone, its facts, and how recipes depend on it."""

    name: str
    state: dict[str, Tensor]
    facts: dict[str, str]
    left_over: str
    depth: int
    file: Path

    def recipe(self, name: str) -> Path:
        """The config of a recipe, with or without filter, for MoCo or for SimCLR."""
        filtered = "-highpass" if self.facts["high_pass"] == "true" else ""
        simclr = "simclr" in self.facts["model"].lower()
        method = ("simclr" if simclr else "mocov2") + "-linear" + filtered
        schedule = "coslr" if simclr else "steplr"
        return CONFIGS / name.format(filter=filtered, method=method, schedule=schedule)


class Job(NamedTuple):
    """A task on a dataset: what it depends on, and the function that does it at a place."""

    folder: Path
    identity: dict
    run: Callable[[Place], dict]


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", help="of a pretraining, or an exported backbone")
    parser.add_argument("--tasks", metavar="TASK,…", help=f"of {','.join(TASKS)} (all with data)")
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="(%(default)s)")
    parser.add_argument(
        "--data", nargs="+", default=[], metavar="NAME=FOLDER", help="where datasets lie elsewhere"
    )
    parser.add_argument("--schedule", choices=["full", "small"], default="full")
    parser.add_argument(
        "--train-per-class",
        type=int,
        default=30,
        metavar="N",
        help="split Caltech-101, of which N images of each class are for training (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0)
    work_dir_argument(parser, "work_dirs/transfer/<folder>-<checkpoint>-<schedule>")
    options = parser.parse_args(arguments)
    options.named = options.tasks is not None
    options.tasks = options.tasks.split(",") if options.named else list(TASKS)
    if unknown := [task for task in options.tasks if task not in TASKS]:
        parser.error(f"--tasks: no task {unknown[0]!r}; there are {', '.join(TASKS)}")
    given = dict(word.partition("=")[::2] for word in options.data)
    if unknown := [name for name in given if name not in FOLDERS or not given[name]]:
        parser.error(f"--data: give NAME=FOLDER with a NAME of {', '.join(FOLDERS)}")
    options.data = {
        name: Path(given.get(name, options.data_root / folder)).resolve()
        for name, folder in FOLDERS.items()
    }
    return options


# ------------------------------------------------------------------------------------ the backbone


def read_backbone(checkpoint: str, out: Path | None, schedule: str) -> Backbone:
    """Find the backbone in a checkpoint, and say which file it shall be exported to.

    Raises:
        InputError: for a checkpoint without backbone, and one that the recipes are not for.
    """
    source = local_file(checkpoint)
    content = load_checkpoint(source)
    found, facts = find_backbone(content), describe(content, source)
    depth = resnet_depth(found.state, checkpoint)
    if facts["style"] == "caffe":
        raise InputError(
            f"the backbone in {checkpoint} is a ResNet of style 'caffe', the recipes are for style "
            "'pytorch': its weights would fit and compute something else"
        )
    folder = source.resolve().parent.name
    out = out or Path("work_dirs/transfer") / f"{folder}-{source.stem}-{schedule}"
    name, file = f"{folder}/{source.name}", out.resolve() / "backbone.pth"
    told = f"{found.listing()} (names of {found.whose})"
    return Backbone(name, found.state, facts, told, depth, file)


# ---------------------------------------------------------------------------------------- the plan


def plan(
    backbone: Backbone, out: Path, options: argparse.Namespace
) -> tuple[dict[str, Job], list[str]]:
    """All jobs whose data is there, checked, and a sentence for each that cannot be.

    Raises:
        InputError: a task that --tasks names has no data, or none has.
    """
    jobs, skipped = {}, []
    for task in options.tasks:
        found, reasons = {}, []
        for name, recipe in recipes_of(task).items():
            try:
                found[name] = plan_job(task, recipe, backbone, out / name, options)
            except InputError as error:
                reasons.append(f"{name}: {error}")
        if options.named and not found:
            raise InputError(f"--tasks {task}: {'; '.join(reasons)}")
        jobs |= found
        skipped += reasons
    if not jobs:
        raise InputError(
            f"there is no data for any task below {options.data_root}: see tools/prepare_data.py, "
            "or say with --data where it lies"
        )
    return jobs, skipped


def recipes_of(task: str) -> dict[str, Recipe]:
    """The recipes of a task by the names of their jobs; kNN takes the encoder of the linear one."""
    wanted = "linear" if task == "knn" else task
    found = {name: recipe for name, recipe in RECIPES.items() if recipe.task == wanted}
    return {name.replace("linear", task): recipe for name, recipe in found.items()}


def plan_job(
    task: str, recipe: Recipe, backbone: Backbone, folder: Path, options: argparse.Namespace
) -> Job:
    """Check data and config of a task on a dataset.

    Raises:
        InputError: the data is not there, or not as expected.
    """
    root = options.data[recipe.data]
    if not root.is_dir():
        raise InputError(f"there is no folder {root}")
    file, small = backbone.recipe(recipe.config), options.schedule == "small"
    same = {"schedule": options.schedule, "recipe": file.name, "seed": options.seed}
    facts = {"task": task, "dataset": recipe.data, **same}
    identity = {"source_sha256": backbone.facts["source_sha256"], "data": str(root), **same}
    if recipe.task == "linear":
        identity["train_per_class"] = options.train_per_class
        words, shown, counts = labelled(recipe.data, root, folder.parent / "links", options)
    of_features = task == "knn" or (task == "linear" and small)
    config = downstream_config(
        file,
        backbone.file,
        backbone.depth,
        where(recipe, root, options),
        recipe.batch,
        small and not of_features,
        options.seed,
    )
    if of_features:
        words += [f"--size={64 if small else 224}", f"--seed={options.seed}"]
        run = partial(run_features, config, backbone, folder, words, shown, {**facts, **counts})
    else:
        if task != "linear":
            keep_predictions(config, folder / "found")
        run = partial(run_training, config, folder, {**facts, **count_images(config)})
    return Job(folder, identity, run)


def where(recipe: Recipe, root: Path, options: argparse.Namespace) -> dict:
    """Options that say where a recipe's data lies, and how it is split where a seed does that."""
    if recipe.config.startswith("segmentation") and recipe.data == "voc":
        root = root / "VOC2012"
    found = {"data_root": str(root)}
    if recipe.data == "caltech101":
        for loader in ("train", "val", "test"):
            found[f"{loader}_dataloader.dataset.train_per_class"] = options.train_per_class
            found[f"{loader}_dataloader.dataset.seed"] = options.seed
    return found


def labelled(
    name: str, root: Path, links: Path, options: argparse.Namespace
) -> tuple[list[str], Path, dict[str, int]]:
    """Words by which tools/knn.py and tools/linear.py find a dataset; a folder of it to show; and
    its numbers of images.

    ImageNet-100 and Flowers-102 are no folders ``<class>/<image>``: links make them such.
    """
    train, test, per_class = root, None, None
    if name == "caltech101":
        per_class = options.train_per_class
    else:
        train, test = (links / name / split for split in ("train", "test"))
        link = link_imagenet100 if name == "imagenet" else link_flowers102
        link(root, train, test)
    sets = labelled_folders(
        str(train), str(test) if test else None, per_class, options.seed, size=64
    )
    source = f"--test={test}" if test else f"--train-per-class={per_class}"
    counts = {"train_images": len(sets[0]), "test_images": len(sets[1])}
    return [f"--train={train}", source], test or train, counts


def link_imagenet100(root: Path, train: Path, test: Path) -> None:
    for split, folder in (("train", train), ("val", test)):
        for wnid in ImageNet100(str(root), split, lazy_init=True).metainfo["classes"]:
            link_once(folder / wnid, root / split / wnid)


def link_flowers102(root: Path, train: Path, test: Path) -> None:
    for name in ("jpg", "setid.mat", "imagelabels.mat"):
        if not (root / name).exists():
            raise InputError(f"there is no {root / name}")
    for split, folder in (("trainval", train), ("test", test)):
        for image in Flowers102(str(root), split).load_data_list():
            path = Path(image["img_path"])
            link_once(folder / f"{image['gt_label']:03d}" / path.name, path)


def link_once(link: Path, target: Path) -> None:
    if not link.is_symlink():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)


# ---------------------------------------------------------------------------------------- the jobs


def run_job(job: Job, origin: dict, place: Place) -> dict:
    """Do a job, or read what an earlier call finished."""
    finished = job.folder / "result.json"
    if not finished.exists():
        result = job.run(place)
        write_result(finished, {**origin, **result})
    return json.loads(finished.read_text())


def run_features(
    config: Config,
    backbone: Backbone,
    folder: Path,
    words: list[str],
    shown: Path,
    facts: dict,
    place: Place,
) -> dict:
    """kNN, or linear classifiers on features extracted once; a few of the features laid out."""
    start, task = time.perf_counter(), facts["task"]
    config.dump(folder / "config.py")
    if task == "knn":
        ks = [str(k) for k in (20, 200) if k <= facts["train_images"]]
        words = [*words, "-k", *(ks or [str(facts["train_images"])])]
    words = [str(folder / "config.py"), str(backbone.file), *words, f"--json={folder / task}.json"]
    call(TOOLS / f"{task}.py", words, folder / f"{task}.log", place)
    found = json.loads((folder / f"{task}.json").read_text())
    if task == "knn":
        layout = embed(config, str(backbone.file), str(shown), found["size"], facts["seed"])
        kept = {"figures": {}, "by_k": found["by_k"], "embedding": layout}
    else:
        kept = {"figures": {LINEAR_COLUMNS[facts["dataset"]]: found["top1"]}}
        kept |= {key: found[key] for key in ("mean_per_class", "learning_rate")}
    return {**facts, **kept, "seconds": round(time.perf_counter() - start), "resumed": False}


def run_training(config: Config, folder: Path, facts: dict, place: Place) -> dict:
    """Train, or go on with it, then test."""
    start = time.perf_counter()
    recipe, trained = folder / "config.py", folder / "train" / "last_checkpoint"
    config.dump(recipe)
    wait_for(folder / "train.log")  # a kill of this tool alone leaves training going
    resumed = bool(run_checkpoints(folder / "train"))
    if not (folder / "trained").exists():
        words = [str(recipe), "--verbose", f"--work-dir={folder / 'train'}"]
        words += ["--resume"] if resumed else []
        call(TOOLS / "train.py", words, folder / "train.log", place)
        (folder / "trained").touch()
    words = [str(recipe), trained.read_text().strip(), f"--work-dir={folder / 'test'}"]
    call(TOOLS / "test.py", words, folder / "test.log", place)
    newest = max((folder / "test").glob("*/*.json"), key=lambda file: file.stat().st_mtime)
    found = FINDINGS[facts["task"]](json.loads(newest.read_text()), config, folder / "found", facts)
    seconds = round(time.perf_counter() - start)
    return {**facts, **found, "seconds": seconds, "resumed": resumed}


def linear_findings(figures: dict, config: Config, found: Path, facts: dict) -> dict:
    return {
        "figures": {LINEAR_COLUMNS[facts["dataset"]]: figures["accuracy/top1"]},
        "mean_per_class": figures["mean_per_class/recall"],
    }


def voc_findings(figures: dict, config: Config, found: Path, facts: dict) -> dict:
    """AP by VOC's rules, as published, and the boxes to draw."""
    files = {
        "truth": str(found / "found.gt.json"),
        "found": {"bbox": str(found / "found.bbox.json")},
        "images": "/",
    }
    names = {"voc_ap": "mAP", "voc_ap50": "AP50", "voc_ap75": "AP75"}
    return {
        "figures": {key: 100 * figures[f"pascal_voc/{name}"] for key, name in names.items()},
        "coco_style": {key: figures[f"coco_style/{key}"] for key in ("AP", "AP50", "AP75")},
        **files,
    }


def coco_findings(figures: dict, config: Config, found: Path, facts: dict) -> dict:
    """AP of boxes and masks, which mmdet rounds, from the detections themselves."""
    dataset = config.test_dataloader.dataset
    files = {
        "truth": str(config.test_evaluator.ann_file),
        "found": {kind: str(found / f"found.{kind}.json") for kind in ("bbox", "segm")},
        "images": str(Path(dataset.data_root, dataset.data_prefix.img)),
    }
    evaluations = detection_evaluations({**facts, **files})
    unrounded = {
        f"coco_{name}_{key.lower()}": value
        for name, kind in (("box", "bbox"), ("mask", "segm"))
        for key, value in average_precisions(evaluations[kind]).items()
    }
    return {"figures": unrounded, **files}


def segmentation_findings(figures: dict, config: Config, found: Path, facts: dict) -> dict:
    """mIoU, and four maps to draw."""
    truth = segmentation_truth(config, 4)
    maps = [str(found / f"{Path(photo).stem}.png") for photo in truth["photos"]]
    figures = {key: figures[key] for key in ("mIoU", "mAcc", "aAcc")}
    return {"figures": figures, "shown": {**truth, "found": maps}}


FINDINGS = {
    "linear": linear_findings,
    "voc": voc_findings,
    "coco": coco_findings,
    "seg": segmentation_findings,
}


# ---------------------------------------------------------------------------------------- the tool


def report(
    backbone: Backbone, results: dict, skipped: list[str], out: Path, options: argparse.Namespace
) -> str:
    """Draw, write report.md and report.html, and return the text."""
    origin, known = provenance(options.seed), backbone.facts
    facts = {
        "name": backbone.name,
        "backbone": f"ResNet-{backbone.depth}",
        "pretrained by": known["model"],
        "epoch": known["epoch"],
        "left over of the checkpoint": backbone.left_over,
        "high-pass filtered images": {"true": "yes", "false": "no"}.get(
            known["high_pass"], "unknown, taken for no"
        ),
        "checkpoint's SHA-256": known["source_sha256"][:16],
        "schedule": options.schedule,
        **{key: origin[key] for key in ("command", "commit", "hardware", "torch", "seed")},
    }
    pictures = draw_pictures(results, out / "pictures")
    text = compose(facts, results, skipped, pictures, out)
    write_report(text, out)
    return text


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    # A log file bears wider tables than the 80 columns that are taken for it.
    console = Console(width=None if sys.stdout.isatty() else 140)
    with report_errors():
        backbone = read_backbone(options.checkpoint, options.work_dir, options.schedule)
        out = backbone.file.parent
        jobs, skipped = plan(backbone, out, options)
        for job in jobs.values():
            claim(job.folder, job.identity)
        save_backbone(backbone.state, backbone.file, "openmmlab", backbone.facts)
        origin = provenance(options.seed)
        for sentence in skipped:
            console.print(f"left out: {sentence}", markup=False, highlight=False)
        pending = {name: partial(run_job, job, origin) for name, job in jobs.items()}
        results, failures = {}, []
        console.print(f"{len(pending)} jobs: {', '.join(pending)}", markup=False, highlight=False)
        for name, result in run_all(pending, max(1, len(visible_gpus()))):
            if isinstance(result, str):
                failures.append(f"{name}: {result}")
                console.print(f"failed: {failures[-1]}", markup=False, highlight=False)
                continue
            results[name] = result
            console.print(f"done: {name}, {result['seconds']} s", highlight=False)
        results = {name: results[name] for name in jobs if name in results}
        write_result(out / "results.json", {**origin, "results": results})
        text = report(backbone, results, [*skipped, *failures], out, options)
        console.print(Markdown(tables_only(text)))
        print(f"report: {out / 'report.html'}  and  {out / 'report.md'}")
        if failures:
            raise InputError(f"{len(failures)} of the jobs failed: " + "; ".join(failures))


if __name__ == "__main__":
    main()
