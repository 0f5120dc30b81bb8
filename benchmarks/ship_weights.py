"""Take backbones of benchmarks/study.py into weights/: half precision, with their figures.

    python benchmarks/ship_weights.py work_dirs/study_small
    python benchmarks/render.py

Takes the run of seed 0 of each row below, whatever the other seeds gave. Accuracies are those of
the written file, measured here; they go into its .json, beside the run's curves, and the metafile.
"""

import argparse
import json
from pathlib import Path

import yaml
from render import CROPS, PLAIN_CROPS, SIMCLR_CROPS

from mmsalmask.checkpoint import describe, find_backbone, load_checkpoint, save_backbone
from mmsalmask.cli import report_errors
from mmsalmask.commands.linear import linear
from mmsalmask.provenance import write_result

ROOT = Path(__file__).resolve().parent.parent
METAFILE = ROOT / "configs" / "imagenette" / "metafile.yml"
RECIPE = "{}_resnet18-w16_1xb128-coslr-50e_imagenette-64px"
METHODS = {
    "plain MoCo v2": "mocov2",
    "high-pass filter, no masks": "mocov2-filtered",
    "SimCLR, high-pass filter, no masks": "simclr-filtered",
    "MSCN": "mocov2-mscn",
    "high-pass": "mocov2-salmask-highpass",
    "blur": "mocov2-salmask-blur",
    "mean": "mocov2-salmask-mean",
    "high-pass, no hard negatives": "mocov2-salmask-highpass-nohard",
    CROPS: "mocov2-objectcrops-highpass",
    PLAIN_CROPS: "mocov2-objectcrops",
    SIMCLR_CROPS: "simclr-objectcrops-highpass",
}
KEPT = ("command", "commit", "hardware", "python", "torch", "threads", "seed")
KEPT += ("pretraining_seconds", "curves")


def ship(run: Path, method: str, photos: Path) -> dict:
    """Write the backbone of a finished run and its figures; its entries of a metafile."""
    name, result = RECIPE.format(method), json.loads((run / "result.json").read_text())
    source, file = Path(result["checkpoint"]), ROOT / "weights" / f"{name}.pth"
    content = load_checkpoint(source)
    state = {key: value.half() for key, value in find_backbone(content).state.items()}
    save_backbone(state, file, "openmmlab", describe(content, source))
    sides = [str(photos / side) for side in ("train", "val")]
    found = linear(str(METAFILE.with_name(f"{name}.py")), str(file), *sides, knn=20)
    figures = {
        "knn": found["knn"],
        "top1": found["top1"],
        "mean_per_class": found["mean_per_class"],
    }
    write_result(file.with_suffix(".json"), {key: result[key] for key in KEPT} | figures)
    tops = {"kNN Classification": found["knn"]["top1"], "Linear Evaluation": found["top1"]}
    results = [
        {
            "Task": task,
            "Dataset": "Imagenette",
            "Metrics": {"Top 1 Accuracy": round(top1, 2)},
            "Source": "study_small.json",
        }
        for task, top1 in tops.items()
    ]
    return {"Weights": file.relative_to(ROOT).as_posix(), "Results": results}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work_dir", type=Path, help="of the study on Imagenette")
    options = parser.parse_args()
    content = yaml.safe_load(METAFILE.read_text())
    known = {model["Name"]: model for model in content["Models"]}
    for file in sorted(options.work_dir.glob("runs/*/seed_0/run.json")):
        row = json.loads(file.read_text())["name"]
        if row in METHODS and file.with_name("result.json").is_file():
            entries = ship(file.parent, METHODS[row], options.work_dir / "imagenette_112")
            known[RECIPE.format(METHODS[row])] |= entries
            print(row, *(f"{e['Task']} {e['Metrics']}" for e in entries["Results"]))
    METAFILE.write_text(yaml.dump(content, sort_keys=False, allow_unicode=True))


if __name__ == "__main__":
    with report_errors():
        main()
