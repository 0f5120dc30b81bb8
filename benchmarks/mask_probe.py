"""Do pretrained features tell masks from photos? And does a hard negative stay near its key?

A hard negative is its own key but for the masked patches, so the cheapest way to push it away is to
recognise masks, not objects. Two questions to each run of benchmarks/study.py, asked with photos
that it was not trained on:

- How well does a linear probe on frozen features tell masked views from clean ones? 50 % is chance.
  Beside it the same for the encoder before training. Photos of the probe's test are others than
  those of its training.
- How similar are, as the loss compares them, a masked query and its key (q·k), the query and its
  own hard negative (q·h), and key and hard negative (k·h)? The mean cosines, and the share of
  queries nearer to their key.

    python benchmarks/mask_probe.py WORK_DIR --rows high-pass 'high-pass, no hard negatives'

    python benchmarks/mask_probe.py WORK_DIR --weights mocov2-salmask-highpass mocov2-mscn

Where a run made no hard negatives, they are made for the probe alone. --weights also asks shipped
backbones, which have no neck and so no similarities, of the masks of the first run.
"""

import argparse
import json
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import mmsalmask as sm
from mmsalmask.algorithms.encoder import embed
from mmsalmask.checkpoint import load_checkpoint
from mmsalmask.cli import print_table, report_errors
from mmsalmask.data import ImageFolder
from mmsalmask.errors import InputError
from mmsalmask.evaluation.labelled import CentreCrops
from mmsalmask.provenance import provenance, write_result
from mmsalmask.registry import MODELS

PHOTOS, BATCH = 2000, 250  # half of the photos for the probe's training


def finished(work_dir: Path, rows: list[str] | None) -> list[tuple[str, int, Path, Config]]:
    """Name, seed, folder and config of the runs that are done and know where the object is."""
    found = []
    for file in sorted((work_dir / "runs").glob("*/seed_*/result.json")):
        run = json.loads(file.with_name("run.json").read_text())
        if not run["pretrain"] or not (rows is None or run["name"] in rows):
            continue
        config = Config.fromfile(next(file.parent.glob("*.py")))
        if (config.model.data_preprocessor.get("masker") or {}).get("localizer"):
            config.model.data_preprocessor.masker.hard_negatives = 1
            found.append((run["name"], run["seed"], file.parent, config))
    if not found:
        raise InputError(
            f"{work_dir} has no finished run that masks by saliency, of {rows or 'any'}"
        )
    return found


def build(config: Config, seed: int) -> nn.Module:
    """The algorithm of a run, untrained."""
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        torch.manual_seed(seed)
        model = MODELS.build(config.model)
        model.init_weights()
    return model.eval()


@torch.no_grad()
def views_of(model: nn.Module, photos: Tensor, seed: int) -> list[Tensor]:
    """What the encoder sees of RGB photos: masked queries, keys and hard negatives."""
    preprocessor, found = model.data_preprocessor, []
    generator = torch.Generator().manual_seed(seed)
    for batch in photos.split(BATCH):
        clean = preprocessor({"inputs": batch.flip(1), "data_samples": None})["inputs"]
        masked = preprocessor.masker(clean, clean, generator)
        found.append((masked.query, masked.key, masked.hard_negatives[0]))
    return [torch.cat(views) for views in zip(*found, strict=True)]


@torch.no_grad()
def features(backbone: nn.Module, views: Tensor) -> Tensor:
    return torch.cat([backbone(batch)[-1].mean((2, 3)) for batch in views.split(BATCH)])


def probe(masked: Tensor, clean: Tensor) -> float:
    """Percent of held-out features (N, D) that a linear classifier tells apart."""
    half = len(masked) // 2
    (train, train_kind), (test, test_kind) = (
        (torch.cat([masked[part], clean[part]]), [1] * half + [0] * half)
        for part in (slice(half), slice(half, 2 * half))
    )
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, C=0.1))
    return 100 * classifier.fit(train, train_kind).score(test, test_kind)


def recognised(backbone: nn.Module, views: list[Tensor]) -> dict[str, float]:
    """How well queries, and hard negatives, are told from keys by their features."""
    query, key, hard = (features(backbone, view) for view in views)
    return {"query": round(probe(query, key), 1), "hard": round(probe(hard, key), 1)}


@torch.no_grad()
def similarities(model: nn.Module, views: list[Tensor]) -> dict[str, float]:
    query_encoder = nn.Sequential(model.backbone, model.neck)
    query, key, hard = (
        torch.cat([embed(encoder, batch) for batch in view.split(BATCH)])
        for encoder, view in zip(
            (query_encoder, model.momentum_encoder, model.momentum_encoder), views, strict=True
        )
    )
    qk, qh, kh = (query * key).sum(1), (query * hard).sum(1), (key * hard).sum(1)
    nearer = 100 * (qk > qh).float().mean()
    means = {"qk": qk.mean(), "qh": qh.mean(), "kh": kh.mean(), "nearer_to_key": nearer}
    return {name: round(value.item(), 3) for name, value in means.items()}


def examine(model: nn.Module, folder: Path, photos: Tensor, seed: int) -> dict:
    """Figures of a run, and of the same net untrained, which ``model`` is."""
    weights = load_checkpoint((folder / "last_checkpoint").read_text().strip())["state_dict"]
    views, found = views_of(model, photos, seed), {}
    for state in ("untrained", "pretrained"):
        if state == "pretrained":
            model.load_state_dict(weights)
        found[state] = recognised(model.backbone, views) | similarities(model, views)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work_dir", type=Path, help="of benchmarks/study.py")
    parser.add_argument("--rows", nargs="+", help="all that mask by saliency, by default")
    parser.add_argument("--weights", nargs="+", default=[], metavar="METHOD", help="of the zoo")
    parser.add_argument("--photos", type=Path, help="a folder (the study's validation photos)")
    parser.add_argument("--size", type=int, default=64, help="pixels of a view (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the masks")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    options = parser.parse_args()
    MMLogger.get_instance("mask_probe", log_level="WARNING")
    folder = options.photos or options.work_dir / "imagenette_112" / "val"
    images = ImageFolder(str(folder), pipeline=[CentreCrops(options.size)], with_label=True)
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(options.seed))
    photos = torch.stack([images[index][0] for index in chosen[:PHOTOS].tolist()])
    results: dict[str, dict] = {}
    header = ("row", "seed", "masked?", "hardened?", "q·k", "q·h", "k·h", "nearer to key %")
    table = Table(*header)
    runs = finished(options.work_dir, options.rows)
    for name, seed, run, config in runs:
        figures = examine(build(config, seed), run, photos, options.seed)
        results.setdefault(name, {})[str(seed)] = figures
        for state, row in figures.items():
            table.add_row(f"{name}, {state}", str(seed), *map(str, row.values()))
    if options.weights:
        views = views_of(build(runs[0][-1], options.seed), photos, options.seed)
    for method in options.weights:
        encoder = sm.get_model(f"{method}_resnet18-w16_1xb128-coslr-50e_imagenette-64px")
        row = recognised(encoder.backbone, views)
        results[f"{method}, shipped"] = {"0": {"pretrained": row}}
        table.add_row(f"{method}, shipped", "0", *map(str, row.values()))
    print_table(table)
    if options.json:
        write_result(options.json, {**provenance(options.seed), "results": results})


if __name__ == "__main__":
    with report_errors():
        main()
