"""Nearest neighbours among the features of the frozen backbone, and those features laid out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmsalmask.downstream.labelled import LabelledTask
from mmsalmask.downstream.tables import markdown_table
from mmsalmask.downstream.task import Curves, Picture
from mmsalmask.jobs import Place
from mmsalmask.visualization.drawings import draw_embedding
from mmsalmask.visualization.embedding import embed


class KNN(LabelledTask):
    """``tools/knn.py`` with 20 and 200 neighbours, or all where there are fewer than 20 images."""

    name = "knn"
    position = 20
    heading = "Nearest neighbours"

    def run(self, place: Place) -> dict[str, Any]:
        images, seed = self.counts["train_images"], self.setting.seed
        ks = [k for k in (20, 200) if k <= images] or [images]
        found = self.measure(place, "-k", *map(str, ks))
        backbone = str(self.setting.backbone.file)
        layout = embed(self.config, backbone, str(self.shown), self.size, seed)
        return {"figures": {}, "by_k": found["by_k"], "embedding": layout}

    @classmethod
    def report(cls, results: Sequence[Mapping[str, Any]]) -> str:
        rows = [
            [cls.title(each), k, f"{value['top1']:.2f}", f"{value['mean_per_class']:.2f}"]
            for each in results
            for k, value in each["by_k"].items()
        ]
        return markdown_table(["dataset", "k", "top-1 %", "mean per class %"], rows)

    @classmethod
    def draw(cls, result: Mapping[str, Any], file: Path) -> list[Picture | Curves]:
        if not result.get("embedding"):
            return []
        draw_embedding(result["embedding"], file)
        caption = (
            f"The largest classes of {cls.title(result)}, at most 40 images each: features of the "
            "frozen backbone, ℓ2-normalised, laid out by t-SNE. Distances between groups mean "
            "little."
        )
        return [Picture(file, f"t-SNE of {cls.title(result)}", caption)]
