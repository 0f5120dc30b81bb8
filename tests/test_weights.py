"""The weights that the metafiles name are there, load, and classify as well as stated."""

from pathlib import Path

import pytest
import torch
import yaml
from mmengine.registry import DefaultScope
from torch.utils.data import ConcatDataset, DataLoader

from mmsalmask.config import load_config
from mmsalmask.evaluation.features import EncoderView, extract_features, load_backbone
from mmsalmask.evaluation.knn import knn_classify
from mmsalmask.evaluation.labelled import labelled_folders

ROOT = Path(__file__).resolve().parent.parent
MODELS = [
    model
    for metafile in sorted((ROOT / "configs").rglob("metafile.yml"))
    for model in yaml.safe_load(metafile.read_text())["Models"]
    if "Weights" in model
]
SIZE = 64


def test_some_models_have_weights_and_none_is_large():
    files = [ROOT / model["Weights"] for model in MODELS]
    assert len(files) >= 5
    assert sorted(files) == sorted((ROOT / "weights").glob("*.pth"))
    assert sum(file.stat().st_size for file in files) < 25e6


@pytest.fixture(scope="module")
def crops(photos):
    """All of Imagenette, decoded once: (N, 3, 64, 64) and (N,), and how many are for training."""
    folder = photos("imagenette_112") / "imagenette_112"
    sets = labelled_folders(str(folder / "train"), str(folder / "val"), None, 0, SIZE)
    images, labels = zip(*DataLoader(ConcatDataset(sets), 256), strict=True)
    return torch.cat(images), torch.cat(labels), len(sets[0])


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model["Name"].partition("_")[0])
def test_knn_on_imagenette_is_as_stated(model, crops):
    images, labels, number = crops
    config = load_config(str(ROOT / model["Config"]))
    DefaultScope.get_instance("weights", scope_name="mmpretrain")
    backbone = load_backbone(config, str(ROOT / model["Weights"]), seed=0)
    batches = zip(images.split(500), labels.split(500), strict=True)
    features, _ = extract_features(backbone, batches, "cpu", EncoderView(config))
    found = knn_classify(features[:number], labels[:number], features[number:], 20)
    (stated,) = (
        result["Metrics"]["Top 1 Accuracy"]
        for result in model["Results"]
        if result["Task"] == "kNN Classification"
    )
    top1 = 100 * (found == labels[number:]).float().mean().item()
    assert top1 == pytest.approx(stated, abs=0.3)
