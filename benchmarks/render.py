"""Render the tables of the README and of docs/ from the data they show.

A table stands between ``<!-- table: name -->`` and ``<!-- end -->``; figures come from
benchmarks/results, published ones from mmsalmask/downstream/published, and what a method does from
the metafiles. These and the tables of configs/*/README.md come from the configs, by
benchmarks/recipes.py. Run without arguments to rewrite the files, with --check to fail if one is
not up to date.
"""

import argparse
import csv
import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import mean, stdev

from recipes import ROOT, metafiles, models, render_metafile, render_readme

from mmsalmask.downstream.tables import PUBLISHED

BLOCK = re.compile(r"(<!-- table: ([a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
# In code, the marks are an example.
CODE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FILES = [page for page in DOCS if BLOCK.search(CODE.sub("", page.read_text()))]
# Rows of the study, of our own.
CROPS, PLAIN_CROPS = "high-pass filter, local crops on the object", "local crops on the object"
ONE_CROP = "high-pass filter, one local crop on the object"
SIMCLR_CROPS = "SimCLR, high-pass filter, local crops on the object"
# What a recipe's method is called in the study, in the price list and in the paper.
CALLED = {
    "mocov2": ("plain MoCo v2", "plain", "baseline"),
    "mocov2-filtered": ("high-pass filter, no masks", None, None),
    "mocov2-mscn": ("MSCN", "MSCN", "MSCN"),
    "mocov2-salmask-highpass": (
        "high-pass",
        "high-pass, weight-free, hard negative",
        "Saliency (high-pass filtering)",
    ),
    "mocov2-salmask-blur": (
        "blur",
        "blur, weight-free, hard negative",
        "Saliency (strong blurring)",
    ),
    "mocov2-salmask-mean": ("mean", "mean, weight-free, hard negative", "Saliency (mean filling)"),
    "mocov2-objectcrops-highpass": (CROPS, "object crops, weight-free", None),
    "mocov2-objectcrops": (PLAIN_CROPS, None, None),
    "mocov2-mixmask": ("MixMask", None, None),
    "adios-s-mocov2": ("ADIOS-s", "ADIOS-s", "ADIOS"),
}


def result(name: str) -> dict:
    return json.loads((ROOT / "benchmarks" / "results" / name).read_text())


def markdown(header: list[str], rows: list[list[str]], words: int = 1) -> str:
    """A table whose first columns are words, left-aligned, and whose others are figures."""
    rule = ["---"] * words + ["---:"] * (len(header) - words)
    return "".join("| " + " | ".join(row) + " |\n" for row in (header, rule, *rows))


def origin(data: dict) -> str:
    parts = (
        f"`{data['command']}`",
        f"commit {data['commit']}",
        data["hardware"],
        f"torch {data['torch']}",
    )
    return "\n" + ", ".join(parts) + ".\n"


def published_table(name: str) -> list[dict[str, str]]:
    with open(PUBLISHED / name, newline="") as file:
        return list(csv.DictReader(file))


def published(file: str, columns: dict[str, str]) -> str:
    """A published table: its columns in the file, and what they are called."""
    table = [[row[column] for column in columns] for row in published_table(file)]
    return markdown(list(columns.values()), table, words=2 if "framework" in columns else 1)


LINEAR = dict(imagenet100_top1="ImageNet-100", caltech101_top1="Caltech-101")
LINEAR |= dict(flowers102_top1="Flowers-102")
DETECTION = dict(voc_ap="VOC AP", voc_ap50="AP50", voc_ap75="AP75", coco_box_ap="COCO box AP")
DETECTION |= dict(coco_mask_ap="COCO mask AP")
DEPTH = dict(abs_rel="AbsRel ↓", sq_rel="SqRel ↓", rmse="RMSE ↓", d1="δ < 1.25 ↑")
LEARNER = dict(framework="learner", method="masks")


def versions() -> str:
    """What the tests have run on: an entry is added to the file for each run of them."""
    keys = ("date", "commit", "python", "torch", "torchvision", "stack", "tests")
    counts = ("passed", "failed", "skipped")
    runs = result("versions.json")["runs"]
    rows = [[*(run[key] for key in keys), *(f"{run[key]:,}" for key in counts)] for run in runs]
    return markdown([*keys, *counts], rows, words=len(keys))


def every_model() -> list[dict]:
    """The entries of all metafiles, in the order of the model index."""
    return [model for metafile in metafiles() for model in models(metafile)]


def figures() -> str:
    """Methods on MoCo v2: what they mask, how they did here, what a step costs, the paper's."""
    study, large = result("study_small.json")["results"], whole_runs_128()
    prices = result("pretrain_cost_gpu_crops.json")["results"]
    prices |= result("pretrain_cost_gpu.json")["results"]
    paper = {
        row["method"]: row["imagenet100_top1"]
        for row in published_table("table1_linear.csv")
        if row["framework"] == "MoCov2"
    }
    told = {model["Name"].partition("_")[0]: model for model in reversed(every_model())}
    rows = []
    for method, (in_study, in_prices, in_paper) in CALLED.items():
        runs = list(study.get(in_study, {}).values())
        price, whole = prices.get(in_prices), large.get(in_study)
        rows.append(
            [
                f"[{method}]({told[method]['Config']})",
                told[method]["Metadata"]["Masks"],
                over_seeds(runs, "top1"),
                over_seeds(runs, "linear_top1"),
                "–" if whole is None else f"{whole['knn_top1']:.1f}",
                "–" if price is None else f"{price['ratio']:.2f}",
                paper.get(in_paper, "–"),
            ]
        )
    header = ["method", "masked; filled with", "kNN top-1 %", "linear top-1 %", "128 px: kNN %"]
    return markdown([*header, "step", "paper: linear %"], rows, words=2)


def whole_runs_128() -> dict[str, dict]:
    """The last run of each row at 128 px that was trained to its end, as it was evaluated."""
    return {
        name: runs["0"]
        for data in result("imagenette_128.json")
        for name, runs in data["results"].items()
        if "knn_top1" in runs["0"]
    }


def over_seeds(runs: list[dict], key: str, absent: str = "–") -> str:
    """Mean over seeds, ± their standard deviation where there are several."""
    values = [run[key] for run in runs if key in run]
    spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean(values):.1f}{spread}" if values else absent


def model_zoo() -> str:
    """The models whose metafile entry has weights, with its results."""
    rows = []
    for model in every_model():
        if "Weights" not in model:
            continue
        told, results = model["Metadata"], model.get("Results") or []
        tops = {each["Task"]: each["Metrics"].get("Top 1 Accuracy") for each in results}
        file = ROOT / model["Weights"]
        size = f"{file.stat().st_size / 1e6:.1f} MB" if file.is_file() else "weights"
        rows.append(
            [
                f"[{model['Name']}]({model['Config']})",
                told["Training Data"],
                str(told["Epochs"]),
                *(
                    "–" if tops.get(task) is None else f"{tops[task]:.1f}"
                    for task in ("kNN Classification", "Linear Evaluation")
                ),
                f"[{size}]({model['Weights']})",
            ]
        )
    header = ["model", "trained on", "epochs", "kNN top-1 %", "linear top-1 %", "file"]
    return markdown(header, rows, words=2)


def masking() -> str:
    data = result("masking.json")
    rows = [
        [name, f"{row['copies']:.1f}", f"{row['copies_beyond_filter']:.1f}"]
        for name, row in data["results"].items()
        if row["copies_beyond_filter"] is not None
    ]
    return markdown(["masking of one view", "copies", "beyond the filter"], rows) + origin(data)


def methods() -> str:
    """What a step of each method takes beyond its plain algorithm, as its metafile says."""
    parts = ("encoder with gradient", "encoder without gradient", "localizer", "mask net")
    rows = []
    for model in every_model():
        told = model["Metadata"]
        if "Extra Forwards" in told:
            method = f"[{model['Name'].partition('_')[0]}]({model['Config']})"
            extra = [str(told["Extra Forwards"].get(part, "")) for part in parts]
            rows.append([method, *extra])
    return markdown(["method", *(f"+ {part}" for part in parts)], rows)


def cached_saliency() -> str:
    data = result("cached_saliency.json")
    rows = [
        [name, way, f"{row['iou']:.2f}", f"{row['score']:.3f}"]
        for name, ways in data["results"]["val"].items()
        for way, row in ways.items()
    ]
    header = ["localizer", "foreground found", "IoU", "ROC AUC"]
    return markdown(header, rows, words=2) + origin(data)


def pipeline() -> str:
    """Images per second of one core, and what they are of mmpretrain's pipeline."""
    data = result("pipeline.json")
    ways = list(next(iter(data["results"].values()))["images_per_second"])
    rows = []
    for name, row in data["results"].items():
        cells = []
        for way in ways:
            speed, times = row["images_per_second"][way], row["times_mmpretrain"][way]
            cells.append(f"{speed:,.0f}" + ("" if way == "mmpretrain" else f" ({times:,.1f}×)"))
        rows.append([f"{name}, {row['size']} px", *cells])
    return markdown(["photos, views", *ways], rows) + origin(data)


def published_cost() -> dict[str, float]:
    """The paper's minutes per epoch over plain MoCo v2's, by the names of the price list.

    What it calls ADIOS with 6 slots is in all likelihood ADIOS-s: see configs/adios/README.md.
    """
    rows = published_table("cost.csv")
    return {row["price_list"]: float(row["ratio_to_mocov2"]) for row in rows}


def paper_ratio(name: str) -> float | None:
    """The published ratio of a row of the price list.

    The paper has none without hard negatives, nor of ADIOS by one pass.
    """
    if "no hard negative" in name or "simultaneous" in name:
        return None
    return published_cost().get(name.split(",")[0])


def price_list(where: str) -> str:
    return price_rows(result(f"pretrain_cost_{where}.json"))


def price_rows(data: dict) -> str:
    """A line per method; one that is published but not measured yet has the published figure."""
    measured = any(row["peak_memory_mb"] for row in data["results"].values())
    told = {name.split(",")[0] for name in data["results"]}
    rows = [
        [name, "–", f"{ratio:.2f}", "–", *(["–"] if measured else []), "", "", ""]
        for name, ratio in published_cost().items()
        if name not in told
    ]
    for name, row in data["results"].items():
        paper, shares = paper_ratio(name), row["shares"] or {}
        masking = shares.get("localizer", 0) + shares.get("fill", 0)
        rows.append(
            [
                name,
                f"{row['ratio']:.2f}",
                "" if paper is None else f"{paper:.2f}",
                f"{row['images_per_second']:.0f}",
                *([f"{row['peak_memory_mb']:,.0f}"] if measured else []),
                *(f"{shares[part]:.1%}" if shares else "" for part in ("localizer", "fill")),
                f"{masking:.1%}" if shares else "",
            ]
        )

    def place(row: list[str]) -> tuple[bool, ...]:
        """First plain MoCo v2 and the other methods without saliency, of them ADIOS last."""
        adios = row[0].startswith("ADIOS")
        return "," in row[0] and not adios, row[0] != "plain", adios

    rows.sort(key=place)
    header = ["method", "step", "paper", "images/s", *(["peak MB"] if measured else [])]
    header += ["localizer", "fill", "together"]
    return markdown(header, rows) + origin(data)


def traffic() -> str:
    """Kernels, GB and the least GB of each stage, a column per method."""
    data = result("traffic.json")
    rows = []
    for stage in max(data["results"].values(), key=len):
        cells = [
            "{kernels} · {:.2f} ({:.2f})".format(
                row[stage]["bytes"] / 1e9, row[stage]["least"] / 1e9, **row[stage]
            )
            if stage in row
            else ""
            for row in data["results"].values()
        ]
        rows.append([stage, *cells])
    return markdown(["stage: kernels · GB (least)", *data["results"]], rows) + origin(data)


def predictions() -> str:
    """Milliseconds of a step that the counts predict, by method and GPU."""
    data = result("traffic.json")
    rows = []
    for name, stages in data["results"].items():
        sums = {}
        for row in stages.values():
            for gpu, seconds in row["predicted"].items():
                sums[gpu] = sums.get(gpu, 0) + 1000 * seconds
        rows.append([name, *(f"{sum_:.0f}" for sum_ in sums.values())])
    return markdown(["predicted ms of a step", *sums], rows) + origin(data)


def traffic_on_a_gpu() -> str:
    """Milliseconds of each stage, as predicted and as measured there, by method."""
    data = result("traffic_gpu.json")
    names = [*data["results"]]
    shown = {name: data["results"][name] for name in (names[0], names[-1])}
    rows = []
    for stage in shown[names[-1]]:
        told = [stages.get(stage) for stages in shown.values()]
        pairs = [(one["predicted"]["H100"], one["measured"]) if one else () for one in told]
        cells = [[f"{1000 * seconds:.1f}" for seconds in pair] or ["", ""] for pair in pairs]
        rows.append([stage, *chain.from_iterable(cells)])
    header = [f"{name}: {word} ms" for name in shown for word in ("predicted", "measured")]
    return markdown(["stage", *header], rows) + origin(data)


def traffic_on_a_cpu() -> str:
    """Milliseconds of each stage on a CPU by method, and the whole step over its encoder."""
    data = result("traffic_cpu.json")
    measured = [
        {stage: row["measured"] for stage, row in stages.items()}
        for stages in data["results"].values()
    ]
    rows = [
        [stage, *(f"{1000 * one[stage]:.0f}" if stage in one else "" for one in measured)]
        for stage in measured[-1]
    ]
    whole = [f"{sum(one.values()) / one['encoder']:.2f}" for one in measured]
    rows.append(["whole step / encoder", *whole])
    return markdown(["stage", *(f"{name}: ms" for name in data["results"])], rows) + origin(data)


def two_processes() -> str:
    data = result("two_processes.json")
    speeds = data["images_per_second"]
    rows = [
        ["1", f"{speeds['1']:.0f}", ""],
        ["2", f"{speeds['2']:.0f}", f"{data['efficiency']:.0%}"],
    ]
    header = ["processes", f"images/s, {data['batch_of_a_process']} in each step", "efficiency"]
    return markdown(header, rows) + origin(data)


def kills() -> str:
    data = result("reliability.json")["kills"]
    rows = []
    for case in data["cases"]:
        during = [kill["during"] for kill in case["kills"]]
        inside = [f"{during.count(kind)} in {kind}" for kind in ("a save", "an evaluation")]
        inside = ", ".join(text for text in inside if text[0] != "0")
        stop = f"{case['stop']['signal']}, {case['stop']['seconds']:.1f} s"
        row = [case["method"], case["saving"], str(case["workers"]), str(len(during)), inside, stop]
        rows.append([*row, "the same" if not case["different"] else "different"])
    header = ["run", "checkpoints", "workers", "SIGKILL", "of them", "stopped by", "result"]
    return markdown(header, rows, words=7) + origin(data)


def processes() -> str:
    data = result("reliability.json")["processes"]
    same = "the same" if not data["different"] else "different"
    rows = [
        ["SIGTERM to one of two processes", f"both saved and left in {data['stop_seconds']:.1f} s"],
        ["resumed on two processes", same],
        ["resumed on one process", data["on_one_process"]],
        [
            "SIGKILL to one of two processes",
            f"the other ended after {data['seconds_to_end_after_a_death']:.1f} s",
        ],
    ]
    return markdown(["what happened", "what came of it"], rows, words=2) + origin(data)


def bad_files() -> str:
    data = result("reliability.json")["files"]
    rows = [[kind, outcome] for kind, outcome in data["files"].items()]
    return markdown(["file", "what became of it"], rows, words=2) + origin(data)


def study_rows(data: dict) -> str:
    """A line per row of benchmarks/study.py: means over seeds, ± their standard deviation."""
    rows = []
    for name, runs in data["results"].items():
        every = list(runs.values())
        cells = [over_seeds(every, key, "failed") for key in ("linear_top1", "top1")]
        for kind in ("differences", "beyond_random"):
            cells.append(interval(data.get(kind, {}).get(name)))
        rows.append([name, str(len(runs)), *cells])
    header = ["pretraining", "seeds", "linear top-1 %", "kNN top-1 %", "linear − plain [95 %]"]
    return markdown([*header, "linear − MSCN [95 %]"], rows) + origin(data) + _runs_origin(data)


def study_seeds(data: dict) -> str:
    """kNN top-1 by seed, and the difference to plain MoCo v2 with the same seed."""
    baseline, rows = data["results"]["plain MoCo v2"], []
    for name, runs in data["results"].items():
        paired = [f"{runs[s]['top1'] - baseline[s]['top1']:+.1f}" for s in runs if s in baseline]
        each = ", ".join(f"{run['top1']:.1f}" for run in runs.values())
        minutes = mean([run["pretraining_seconds"] / 60 for run in runs.values()] or [0])
        told = ", ".join(paired) if runs is not baseline else ""
        rows.append([name, each, told, f"{minutes:.0f}" if minutes else ""])
    return markdown(["pretraining", "kNN top-1 % by seed", "− plain", "minutes"], rows)


def small_objects(data: dict) -> str:
    """Accuracies on photos with small objects anywhere, and of the same backbones without."""
    rows = []
    for name, by_seed in data["results"].items():
        runs = list(by_seed.values())
        each = ", ".join(f"{run['top1']:.1f}" for run in runs)
        moved = [run["transfer"] for run in runs]
        whole = [over_seeds(moved, key) for key in ("linear_top1", "top1")]
        rows.append([name, over_seeds(runs, "linear_top1"), each, *whole])
    header = ["pretraining", "linear top-1 %", "kNN top-1 % by seed"]
    header += ["photos as they are: linear", "kNN"]
    return markdown(header, rows) + origin(data) + _runs_origin(data)


def study_pairs(data: dict, pairs: str) -> str:
    """How far some rows are ahead of others, paired by seed."""
    rows = []
    for ours, rivals in data.get(pairs, {}).items():
        mine = data["results"][ours]
        for rival, found in rivals.items():
            runs = data["results"][rival].items()
            gains = [mine[seed]["top1"] - run["top1"] for seed, run in runs if seed in mine]
            each = ", ".join(f"{gain:+.1f}" for gain in gains)
            rows.append([ours, rival, each, interval(found)])
    return markdown(["", "minus", "kNN by seed", "linear [95 %]"], rows, words=2)


def _runs_origin(data: dict) -> str:
    """Where the runs themselves come from, which need not be where their page was made."""
    runs = [run for by_seed in data["results"].values() for run in by_seed.values()]
    found = defaultdict(set)
    for run in runs:
        if run.get("pretraining_seconds") and "commit" in run:
            precision = f", {run['amp'] or 'float32'}" if "amp" in run else ""
            place = f"{run['hardware']}, torch {run['torch']}{precision}"
            found[place].add(run["commit"])
    told = (f"{', '.join(sorted(commits))} on {place}" for place, commits in sorted(found.items()))
    return f"Trained at commits {'; '.join(told)}.\n" if found else ""


def study_transfer(data: dict) -> str:
    """Accuracies of the same frozen backbones on another set: means over seeds.

    A difference is over the seeds that plain MoCo v2 has, too; "paired" says how many these are.
    """
    moved = {
        name: {seed: run["transfer"] for seed, run in runs.items() if "transfer" in run}
        for name, runs in data["results"].items()
    }
    # Only runs whose right photos were kept can be paired, as in transferred() of study.py.
    told = {name: {seed for seed in runs if "right" in runs[seed]} for name, runs in moved.items()}
    rows = []
    for name, runs in moved.items():
        if runs:
            cells = [over_seeds(list(runs.values()), key) for key in ("linear_top1", "top1")]
            apart = interval(data["transferred"].get(name))
            paired = str(len(told[name] & told["plain MoCo v2"])) if apart else ""
            rows.append([name, str(len(runs)), *cells, paired, apart])
    header = ["pretraining", "seeds", "linear top-1 %", "kNN top-1 %"]
    return markdown([*header, "paired", "linear − plain [95 %]"], rows)


def interval(found: dict | None) -> str:
    """A difference in points and its 95 % interval; nothing where there is none."""
    return "{mean:+.1f} [{low:+.1f}, {high:+.1f}]".format(**found) if found else ""


def mask_probe() -> str:
    """What pretrained features tell of masks: means over seeds, ± their standard deviation."""
    data = result("mask_probe.json")
    keys = ("query", "hard", "qk", "qh", "kh", "nearer_to_key")
    rows = []
    for name, runs in data["results"].items():
        for state in next(iter(runs.values())):
            every = [run[state] for run in runs.values()]
            cells = [over_seeds(every, key) for key in keys[:2]]
            means = [[one[key] for one in every if key in one] for key in keys[2:5]]
            cells += [f"{mean(values):.2f}" if values else "–" for values in means]
            rows.append([f"{name}, {state}", str(len(every)), *cells, over_seeds(every, keys[5])])
    header = ["encoder", "seeds", "masked or clean?", "hardened or clean?", "q·k", "q·h", "k·h"]
    return markdown([*header, "nearer to key %"], rows) + origin(data)


def adios_modes() -> str:
    """ADIOS-s by two phases and by one pass: how they learn, and how large slots were."""
    data, rows = result("adios_modes.json"), []
    for name, runs in data["results"].items():
        every = runs.values()
        knn, linear = (
            ", ".join(f"{run[key]:.1f}" for run in every) for key in ("top1", "linear_top1")
        )
        areas = [area for run in every for area in run.get("areas", ())]
        rows.append([name, knn, linear, f"{min(areas):.2f} … {max(areas):.2f}" if areas else ""])
    header = ["pretraining", "kNN top-1 % by seed", "linear top-1 % by seed", "area of a slot"]
    return markdown(header, rows) + origin(data)


def imagenette_128() -> str:
    """kNN by epoch of the runs at 128 px, those of each machine beneath each other."""
    measured = result("imagenette_128.json")
    runs = [
        (f"{name}, {data['hardware'].split()[1]}", by_seed["0"])
        for data in measured
        for name, by_seed in data["results"].items()
    ]
    epochs = sorted({epoch for _, run in runs for epoch, _ in run["curves"]["knn_top1"]})
    rows = []
    for name, run in runs:
        curve = dict(run["curves"]["knn_top1"])
        cells = [f"{curve[epoch]:.1f}" if epoch in curve else "–" for epoch in epochs]
        whole = [f"{run[key]:.1f}" if key in run else "–" for key in ("knn_top1", "linear_top1")]
        rows.append([name, str(run["last_epoch"]), *cells, *whole])
    header = ["pretraining, GPU", "last epoch", *(f"kNN at {epoch}" for epoch in epochs)]
    return markdown([*header, "kNN", "linear"], rows) + "".join(map(origin, measured))


def spread_128() -> str:
    """How far the embeddings of the runs at 128 px that logged it spread, by epoch."""
    curves = {
        name: dict(runs["0"]["curves"]["embedding_spread"])
        for data in result("imagenette_128.json")
        for name, runs in data["results"].items()
        if "embedding_spread" in runs["0"]["curves"]
    }
    epochs = [epoch for epoch in next(iter(curves.values())) if epoch % 20 in (0, 1)]
    rows = [
        [name, *(f"{curve[epoch]:.2f}" if epoch in curve else "–" for epoch in epochs)]
        for name, curve in curves.items()
    ]
    return markdown(["pretraining", *(f"epoch {epoch}" for epoch in epochs)], rows)


def hard_weight() -> str:
    """What a trial made of two weights of its hard negatives."""
    rows = []
    for name, runs in result("hard_weight_trials.json")["results"].items():
        (run,) = runs.values()
        spread = dict(run["curves"]["embedding_spread"])
        told = [f"{spread[epoch]:.2f}" for epoch in (10, 15, 20)]
        rows.append([name, *told, f"{run['knn_top1']:.1f}", f"{run['linear_top1']:.1f}"])
    header = ["hard negatives", *(f"spread in epoch {epoch}" for epoch in (10, 15, 20))]
    return markdown([*header, "kNN", "linear"], rows)


def study_tuning(file: str) -> str:
    """kNN and linear top-1 of the recipes on held-out training photos, by seed."""
    data = result(file)
    rows = []
    for name, runs in data["results"].items():
        cells = [name]
        for key in ("top1", "linear_top1"):
            values = [run[key] for run in runs.values()]
            each = ", ".join(f"{value:.1f}" for value in values)
            cells.append(f"{mean(values):.1f} ± {stdev(values):.1f} ({each})")
        minutes = mean(run["pretraining_seconds"] for run in runs.values()) / 60
        rows.append([*cells, f"{minutes:.0f}"])
    header = ["recipe", "kNN top-1 % by seed", "linear top-1 % by seed", "minutes, shared core"]
    return markdown(header, rows) + origin(data)


def study_localizers(data: dict) -> str:
    rows = [[name, f"{row['score']:.3f}"] for name, row in data["localizers"].items()]
    return markdown(["localizer", "ROC AUC on coco-mini"], rows)


def study_hidden(data: dict) -> str:
    rows = [
        [name, *(f"{row[key]:.1f}" for key in ("object", "rest", "most", "spread"))]
        for name, row in data["hidden"]["7"].items()
    ]
    header = ["masks", "of the object, %", "of the rest, %", "most of it gone, % of masks"]
    return markdown([*header, "± over draws"], rows)


def study_grids(data: dict) -> str:
    rows = []
    for name in data["hidden"]["7"]:
        keys = ("spread",) if name.startswith("query") else ("object", "rest")
        cells = [
            " / ".join(f"{by_kind[name][key]:.0f}" for key in keys)
            for by_kind in data["hidden"].values()
        ]
        rows.append([f"{name}: {' / '.join(keys)}", *cells])
    return markdown(["masks", *(f"{grid} × {grid}" for grid in data["hidden"])], rows)


def mask_shares() -> str:
    data = result("mask_shares.json")
    rows = []
    for row in data["results"]:
        sides = [
            f"{row[f'{role}_{side}']:.1f}" for role in ("query", "hard") for side in ("fg", "bg")
        ]
        rows.append([f"{row['grid']}×{row['grid']}", row["masks"], row["shares"], *sides])
    header = ["grid", "masks", "shares", "query: foreground", "background"]
    header += ["hard negative: foreground", "background"]
    return markdown(header, rows, words=3) + origin(data)


def crop_shares() -> str:
    data = result("crop_shares.json")
    rows = [
        [photos, place, *(f"{found[part]:.1f}" for part in ("object", "key", "both"))]
        for photos, places in data["results"].items()
        for place, found in places.items()
    ]
    header = ["photos", "windows", "of the object, %", "of what the key shows, %", "of both, %"]
    return markdown(header, rows, words=2) + origin(data)


def twin(data: dict) -> str:
    """A line per way of benchmarks/twin.py: kNN over seeds, and paired differences from ours."""
    rows, ours = [], data["results"].get("runner", {})
    for way, runs in data["results"].items():
        values = [run["top1"] for run in runs.values()]
        spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
        gaps = [run["top1"] - ours[seed]["top1"] for seed, run in runs.items() if seed in ours]
        gap = f"{mean(gaps):+.1f}" if gaps and way not in ("runner", "untrained") else ""
        ends = [run["losses"][-1] for run in runs.values() if run["losses"]]
        minutes = f"{mean(run['seconds'] for run in runs.values()) / 60:.1f}" if ends else ""
        loss = f"{mean(ends):.2f}" if ends else ""
        rows.append([way, str(len(runs)), f"{mean(values):.1f}{spread}", gap, loss, minutes])
    header = ["trained by", "seeds", "kNN top-1 %", "− runner", "last loss", "minutes"]
    return markdown(header, rows) + origin(data)


def twin_and_study() -> str:
    """The table of twin.py, its runner's line being the study's runs, of the same recipe."""
    data = result("twin.json")
    seeds = {seed for runs in data["results"].values() for seed in runs}
    runs = {
        seed: {
            "top1": run["top1"],
            "losses": [loss for _, loss in run["curves"]["loss"]],
            "seconds": run["pretraining_seconds"],
        }
        for seed, run in result("study_small.json")["results"]["plain MoCo v2"].items()
        if seed in seeds
    }
    return twin({**data, "results": {"runner": runs, **data["results"]}})


def of_the_study(table: Callable[[dict], str]) -> Callable[[], str]:
    return lambda: table(result("study_small.json"))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def endurance() -> str:
    data = result("reliability.json")["endurance"]
    throughput, machine = data["throughput_last_over_first"], data["machine_last_over_first"]
    rows = [
        ["trained", f"{data['minutes']:.0f} minutes, {data['iterations']:,} iterations"],
        [
            "memory of the process and its workers",
            f"{data['memory_mb']:,.0f} MB, {data['memory_mb_per_hour']:+.1f} MB per hour",
        ],
        [
            "open files",
            f"{data['open_files']}, {round(data['open_files_per_hour'], 1) + 0:+.1f} per hour",
        ],
        ["throughput of the last tenth over that of the first", _percent(throughput)],
        ["the machine's own speed, by a fixed piece of work", _percent(machine)],
        ["throughput by the machine's speed", _percent(throughput / machine)],
    ]
    return markdown(["what", "found"], rows, words=2) + origin(data)


def precision() -> str:
    parts = result("reliability.json")
    found = [parts[name] for name in ("precision float16", "precision bfloat16") if name in parts]
    rows = [
        [
            data["dtype"],
            data["device"],
            f"{data['steps']:,}",
            str(data["batch"]),
            str(data["not_finite"]),
            f"{data['loss_first']:.2f} → {data['loss_last']:.2f}",
            "" if data["loss_scale"] is None else f"{data['loss_scale']:,.0f}",
        ]
        for data in found
    ]
    header = ["dtype", "device", "steps", "images each", "not finite"]
    header += ["loss, first and last 50", "loss scale"]
    return markdown(header, rows, words=2) + "".join(origin(data) for data in found)


def first_sentence(part: type) -> str:
    return " ".join(part.__doc__.partition("\n\n")[0].split()).replace("|", "\\|")


def source(part: type) -> str:
    """A link to the file of a class."""
    return f"[`{part.__name__}`]({part.__module__.replace('.', '/')}.py)"


def of_the_package(family: type) -> list[type]:
    return [p for p in family.registered().values() if p.__module__.startswith("mmsalmask.")]


def fills() -> str:
    from mmsalmask.masking import Strategy

    rows = []
    for part in of_the_package(Strategy):
        told = {"filters": part.filters, "any shape of mask": part.any_shape}
        told |= {"needs the foreground": part.needs_foreground, "mixes images": part.mixes}
        words = ", ".join(name for name, said in told.items() if said)
        rows.append([source(part), first_sentence(part), words])
    return markdown(["strategy", "what the encoder sees", "says of itself"], rows, words=3)


def localizers() -> str:
    from mmsalmask.saliency import Localizer

    data, rows = result("localizers.json"), []
    for part in of_the_package(Localizer):
        found = [data["results"][split].get(part.__name__) for split in ("train", "val")]
        scores = ["" if one is None else f"{one['score']:.3f}" for one in found]
        rows.append([source(part), first_sentence(part), part.needs, *scores])
    header = ["localizer", "where the object is", "looks at", "score, train", "val"]
    return markdown(header, rows, words=3) + origin(data)


TABLES: dict[str, Callable[[], str]] = {
    "fills": fills,
    "localizers": localizers,
    "cached saliency": cached_saliency,
    "pipeline": pipeline,
    "price list": lambda: price_list("cpu"),
    "price list on a gpu": lambda: price_list("gpu"),
    "price list on a gpu in a row": lambda: price_list("gpu_in_a_row"),
    "price of object crops": lambda: price_list("gpu_crops"),
    "figures": figures,
    "model zoo": model_zoo,
    "published linear": lambda: published("table1_linear.csv", LEARNER | LINEAR),
    "published detection": lambda: published("table2_detection.csv", LEARNER | DETECTION),
    "published depth": lambda: published("table3_depth.csv", dict(method="encoder") | DEPTH),
    "masking": masking,
    "methods": methods,
    "kills": kills,
    "processes": processes,
    "traffic": traffic,
    "predictions": predictions,
    "traffic on a gpu": traffic_on_a_gpu,
    "traffic on a cpu": traffic_on_a_cpu,
    "two processes": two_processes,
    "versions": versions,
    "bad files": bad_files,
    "study": of_the_study(study_rows),
    "study in groups": lambda: study_rows(result("study_small_groups.json")),
    "study seeds": of_the_study(study_seeds),
    "study crops": of_the_study(partial(study_pairs, pairs="object_crops")),
    "small objects": lambda: small_objects(result("study_small_objects.json")),
    "small object pairs": lambda: study_pairs(result("study_small_objects.json"), "object_crops"),
    "study twins": of_the_study(partial(study_pairs, pairs="random_twins")),
    "study simclr": of_the_study(partial(study_pairs, pairs="simclr")),
    "study transfer": of_the_study(study_transfer),
    "study tuning": partial(study_tuning, "study_tuning.json"),
    "study tuning of small batches": partial(study_tuning, "study_tuning_batch32.json"),
    "mask probe": mask_probe,
    "study localizers": of_the_study(study_localizers),
    "study hidden": of_the_study(study_hidden),
    "study grids": of_the_study(study_grids),
    "endurance": endurance,
    "precision": precision,
    "imagenette at full size": imagenette_128,
    "adios modes": adios_modes,
    "spread at full size": spread_128,
    "weight of hard negatives": hard_weight,
    "mask shares": mask_shares,
    "crop shares": crop_shares,
    "twin": twin_and_study,
}


def render(text: str, up: str = "") -> str:
    """The text with every marked table rendered anew.

    Args:
        text: of a page.
        up: what leads from the page's folder to the root of the repository, where links begin.
    """

    def table(block: re.Match) -> str:
        return block[1] + re.sub(r"\]\((?!\w+:)", f"]({up}", TABLES[block[2]]()) + block[3]

    parts = CODE.split(text)
    parts[::2] = [BLOCK.sub(table, part) for part in parts[::2]]
    return "".join(parts)


def rendered(file: Path) -> str:
    """The text of a page with its tables rendered anew."""
    return render(file.read_text(), "" if file.parent == ROOT else "../")


# Metafiles first: tables are made of them.
PAGES: dict[Path, Callable[[Path], str]] = {
    **dict.fromkeys(metafiles(), render_metafile),
    **{file.with_name("README.md"): render_readme for file in metafiles()},
    **dict.fromkeys(FILES, rendered),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    for file, as_it_has_to_be in PAGES.items():
        text = as_it_has_to_be(file)
        if text == file.read_text():
            continue
        if check:
            sys.exit(f"{file} is not up to date: run python benchmarks/render.py")
        file.write_text(text)
        print(file)


if __name__ == "__main__":
    main()
