"""Nearest class mean: a classifier without training, on photos of your own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmsalmask.downstream.tables import markdown_table
from mmsalmask.downstream.task import Dataset, Picture, Task
from mmsalmask.evaluation.accuracy import accuracy
from mmsalmask.evaluation.features import (
    EncoderView,
    count_classes,
    extract_both,
    labelled_folders,
    load_backbone,
)
from mmsalmask.jobs import Place

# What --data knows it by, what the report calls it, and its folder below --data-root.
FLOWERS = Dataset("flowers", "My flowers", "flowers")


class NearestMean(Task):
    """Each test image gets the class whose training images have the nearest mean feature."""

    name = "means"
    heading = "Nearest class mean"
    # The config whose encoder sees the images: with the high-pass filter after such a pretraining.
    recipes = {FLOWERS: "linear/{method}_resnet50_1xb256-{schedule}-100e_caltech101.py"}

    def check(self) -> dict[str, int]:
        """Split a folder <class>/<image>; a sentence tells what is wrong with another one."""
        per_class, seed = self.setting.train_per_class, self.setting.seed
        size = 64 if self.small else 224
        self.sets = labelled_folders(str(self.root), None, per_class, seed, size)
        train, test = self.sets
        return {"train_images": len(train), "test_images": len(test)}

    def identity(self) -> dict[str, Any]:
        """Another split is another result, and gets another folder."""
        return {**super().identity(), "train_per_class": self.setting.train_per_class}

    def run(self, place: Place) -> dict[str, Any]:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        file, seed = str(self.setting.backbone.file), self.setting.seed
        encoder = load_backbone(self.config, file, seed).to(device)
        found = extract_both(encoder, EncoderView(self.config), self.sets, device)
        classes = range(count_classes(*self.sets))
        means = [found.train[found.train_labels == label].mean(0) for label in classes]
        predicted = torch.cdist(found.test, torch.stack(means)).argmin(1)
        top1, mean_per_class = accuracy(predicted, found.test_labels)
        counts = torch.zeros(len(classes), len(classes), dtype=torch.long)
        for true, label in zip(found.test_labels.tolist(), predicted.tolist(), strict=True):
            counts[true, label] += 1
        figures = {"top1": top1, "mean_per_class": mean_per_class}
        return {"figures": figures, "confusion": counts.tolist()}

    @classmethod
    def report(cls, results: Sequence[Mapping[str, Any]]) -> str:
        rows = [
            [cls.title(each), *(f"{figure:.2f}" for figure in each["figures"].values())]
            for each in results
        ]
        return markdown_table(["dataset", "top-1 %", "mean per class %"], rows)

    @classmethod
    def draw(cls, result: Mapping[str, Any], file: Path) -> list[Picture]:
        counts = np.array(result["confusion"])
        shade = 255 - 255 * counts / counts.sum(1, keepdims=True).clip(1)
        picture = Image.fromarray(shade.astype(np.uint8)).resize((240, 240), Image.NEAREST)
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file)
        caption = "A row for each true class, a column for each class given to its images."
        return [Picture(file, f"Confusion of {cls.title(result)}", caption)]
