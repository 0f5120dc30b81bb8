"""Metafiles and the tables of recipes in configs/*/README.md, from the configs themselves.

A metafile keeps what no config says: collections, weights, results with their sources, and what a
step takes beyond the plain algorithm. Everything else of an entry is read off its config, and the
numbers of a published result off the published table. A recipe without an entry gets one, in the
first collection of its folder. ``benchmarks/render.py`` writes both.
"""

import csv
import inspect
import re
from functools import cache
from pathlib import Path

import yaml
from mmengine.config import Config

from mmsalmask.config import load_config
from mmsalmask.downstream.tables import PUBLISHED
from mmsalmask.registry import MODELS

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"
TABLE = re.compile(r"(<!-- table: recipes -->\n).*?(<!-- end -->)", re.DOTALL)
# What the last word of a recipe's name says of its data.
DATA = {
    "in100": "ImageNet-100",
    "in1k": "ImageNet-1k",
    "folder": "any image folder",
    "demo": "drawn images",
    "drawn": "drawn images",
    "imagenette": "Imagenette",
    "caltech101": "Caltech-101",
    "flowers102": "Flowers-102",
    "voc0712": "VOC 2007 and 2012",
    "voc12aug": "VOC 2012 with additional masks",
    "coco": "COCO 2017",
    "cityscapes": "Cityscapes",
    "kitti": "KITTI",
    "rendered": "rendered drives",
}
PATCHES = {"balanced": "foreground and background alike", "block": "random blocks"}
VIEWS = {"query": "the query", "key": "the key", "both": "both views"}


def metafiles() -> list[Path]:
    """In the order of the model index."""
    return [
        ROOT / name for name in yaml.safe_load((ROOT / "model-index.yml").read_text())["Import"]
    ]


def models(metafile: Path) -> list[dict]:
    return yaml.safe_load(metafile.read_text())["Models"]


# ----------------------------------------------------------------------------- what a config says


def facts(path: Path) -> dict:
    """Data, length, batch, learning rate and masks of a recipe, under the names of the index."""
    config = load_config(str(path))
    found = {"Training Data": DATA[re.split("[_-]", path.stem.rpartition("_")[2])[0]]}
    iterations = config.train_cfg.get("max_iters")
    found |= {"Iterations": iterations} if iterations else {"Epochs": config.train_cfg.max_epochs}
    gpus, batch = gpus_and_batch(path.stem) or (1, config.train_dataloader.batch_size)
    if batch != config.train_dataloader.batch_size:
        raise ValueError(f"{path}: the name says {batch} images for each GPU, the config another")
    found |= {"GPUs": gpus, "Batch Size": gpus * batch}
    found["Learning Rate"] = config.optim_wrapper.optimizer.lr
    preprocessor = config.model.get("data_preprocessor") or config.get("data_preprocessor") or {}
    if preprocessor.get("type") == "mmsalmask.MaskingDataPreprocessor":
        found |= _masks(config, preprocessor.get("masker"))
    if "HighPassFilter" in str(config.train_dataloader.dataset):
        found["Input"] = "high-pass filtered"
    return found


def gpus_and_batch(name: str) -> tuple[int, int] | None:
    """What ``4xb32`` in a recipe's name says."""
    match = re.search(r"_(\d+)xb(\d+)-", name)
    return match and (int(match[1]), int(match[2]))


def _masks(config: Config, masker: dict | None) -> dict:
    if "mask_net" in config.model:
        slots = config.model.mask_net.slots
        slot = f"one of {slots}" if config.model.get("single_slot") else f"each of {slots}"
        return {"Masks": f"the query, {slot} learned slots; the mean of the data"}
    if masker is None:
        return {"Masks": "nothing"}
    usual = inspect.signature(MODELS.get(masker["type"])).parameters

    def setting(name: str) -> object:
        return masker.get(name, usual[name].default)

    localizer = masker.get("localizer")
    where = PATCHES.get(setting("patches"), f"{setting('patches')} patches")
    if setting("masked_views") == "none":
        filtered = MODELS.get(masker["strategy"]["type"]).filters
        told = "nothing" + (", on high-pass filtered views" if filtered else "")
    else:
        told = f"{VIEWS[setting('masked_views')]}, {where}; {fill(masker['strategy']['type'])}"
        if localizer is not None and not setting("hard_negatives"):
            told += "; no hard negatives"
    if number := setting("local_crops"):
        told += f"; {number} local crops {'anywhere' if localizer is None else 'on the object'}"
    return {"Masks": told} | ({} if localizer is None else {"Localizer": _localizer(localizer)})


def _localizer(config: dict) -> str:
    if "backbone" in config:
        return f"{config['backbone']['type']}-{config['backbone']['depth']}"
    words = re.sub("(?<=[a-z])(?=[A-Z])", " ", config["type"].rpartition(".")[2])
    return words.removesuffix(" Saliency").lower()


@cache
def fill(strategy: str) -> str:
    """What a strategy fills masks with: the first words of its file of configs/_base_/maskers."""
    for file in sorted((CONFIGS / "_base_" / "maskers").glob("*.py")):
        masker = load_config(str(file)).masker
        if masker.strategy.type == strategy and masker.get("masked_views") != "none":
            words = about(file)
            return words[0].lower() + words[1:]
    raise ValueError(f"no file of configs/_base_/maskers has the strategy {strategy}")


# ----------------------------------------------------------------------------------- the metafiles


def render_metafile(path: Path) -> str:
    """The metafile as it has to be, with an entry for each recipe of its folder."""
    content = yaml.safe_load(path.read_text())
    known = {model["Name"]: model for model in content["Models"] or []}
    recipes = {file.stem: file for file in sorted(path.parent.glob("*.py"))}
    first = content["Collections"][0]["Name"]
    names = [*(name for name in known if name in recipes), *(n for n in recipes if n not in known)]
    content["Models"] = [_entry(recipes[name], known.get(name, {}), first) for name in names]
    return yaml.dump(
        content, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True
    )


def _entry(recipe: Path, known: dict, collection: str) -> dict:
    metadata = facts(recipe)
    if "Extra Forwards" in known.get("Metadata", {}):
        metadata.setdefault("Masks", "nothing")
        metadata["Extra Forwards"] = known["Metadata"]["Extra Forwards"]
    entry = {
        "Name": recipe.stem,
        "In Collection": known.get("In Collection", collection),
        "Config": recipe.relative_to(ROOT).as_posix(),
        "Metadata": metadata,
    }
    if "Weights" in known:
        entry["Weights"] = known["Weights"]
    if "Results" in known:
        entry["Results"] = [_result(result) for result in known["Results"]]
    return entry


def _result(known: dict) -> dict:
    if known["Source"] != "paper":
        return known
    numbers = published(known["Published"])
    return {**known, "Metrics": {name: float(number) for name, number in numbers.items()}}


def published(entry: dict) -> dict[str, str]:
    """Metric → its number as printed, in the one row of a published table that is selected."""
    with open(PUBLISHED / entry["Table"], newline="") as file:
        rows = list(csv.DictReader(file))
    (row,) = (row for row in rows if all(row[key] == value for key, value in entry["Row"].items()))
    return {metric: row[column] for metric, column in entry["Columns"].items()}


# -------------------------------------------------------------------------------------- the tables


def recipe_table(metafile: Path) -> str:
    """A line per recipe; columns that say nothing in this folder are left out."""
    words = {"Training Data": "data", "Input": "input", "Masks": "masks", "Localizer": "localizer"}
    numbers = {"Epochs": "epochs", "Iterations": "iterations", "Learning Rate": "lr"}
    header = ["config", *words.values(), "GPUs × batch", *numbers.values()]
    header += ["about", "weights", "results"]
    rows = [header, ["---"] * len(header)]
    for model in models(metafile):
        told = model["Metadata"]
        batch = f"{told['GPUs']} × {told['Batch Size'] // told['GPUs']}"
        length = [f"{told[key]:,g}" if key in told else "" for key in numbers]
        weights = f"[pth](../../{model['Weights']})" if "Weights" in model else ""
        cells = [*(told.get(key, "") for key in words), batch, *length]
        cells += [about(ROOT / model["Config"]), weights, _told(model)]
        rows.append([f"`{model['Name']}`", *cells])
    kept = [column for column in zip(*rows, strict=True) if any(column[2:])]
    return "".join("| " + " | ".join(row) + " |\n" for row in zip(*kept, strict=True))


def about(recipe: Path) -> str:
    """The first sentence of the comment that a config begins with."""
    comment = re.match(r"(#.*\n)*", recipe.read_text())[0]
    words = " ".join(comment.replace("#", " ").split())
    return re.split(r"(?<=[a-z0-9)])\.(?: |$)|: ", words)[0]


def _told(model: dict) -> str:
    """Its results, those of one source together; where others pretrained it, by what method."""
    by_source: dict[str, list[str]] = {}
    for result in model.get("Results", []):
        if result["Source"] == "paper":
            numbers = published(result["Published"])
            method = result["Published"]["Row"]["method"]
            source = "paper" if "Masks" in model["Metadata"] else f"paper: {method}"
        else:
            numbers = {name: f"{value:.2f}" for name, value in result["Metrics"].items()}
            source = "measured"
        kind = "kNN " if result["Task"] == "kNN Classification" else ""
        metrics = " / ".join(f"{name} {number}" for name, number in numbers.items())
        text = f"{result['Dataset']} {kind}{metrics.replace('Top 1 Accuracy ', '')}"
        by_source.setdefault(source, []).append(text)
    return "; ".join(f"{', '.join(told)} ({source})" for source, told in by_source.items())


def render_readme(path: Path) -> str:
    table = recipe_table(path.with_name("metafile.yml"))
    return TABLE.sub(lambda block: block[1] + table + block[2], path.read_text())
