"""Linear evaluation: a classifier on the frozen backbone."""

from typing import Any

from mmsalmask.downstream.labelled import CALTECH101, FLOWERS102, IMAGENET, LabelledTask
from mmsalmask.downstream.tables import Published
from mmsalmask.downstream.trained import count_images, train_and_test
from mmsalmask.jobs import Place

_COLUMNS = {
    IMAGENET: "imagenet100_top1",
    CALTECH101: "caltech101_top1",
    FLOWERS102: "flowers102_top1",
}


class Linear(LabelledTask):
    """The recipe of the paper; on the small schedule, ``tools/linear.py`` on features."""

    name = "linear"
    position = 10
    heading = "Linear evaluation"
    published = Published(
        "table1_linear.csv",
        "Table 1 (linear evaluation, top-1 %)",
        {column: dataset.title for dataset, column in _COLUMNS.items()},
    )

    def check(self) -> dict[str, int]:
        return super().check() if self.small else count_images(self.config)

    def run(self, place: Place) -> dict[str, Any]:
        column = _COLUMNS[self.dataset]
        if self.small:
            found = self.measure(place)
            kept = {key: found[key] for key in ("mean_per_class", "learning_rate")}
            return {"figures": {column: found["top1"]}, **kept}
        figures, resumed = train_and_test(self.config, self.folder, place)
        return {
            "figures": {column: figures["accuracy/top1"]},
            "mean_per_class": figures["mean_per_class/recall"],
            "resumed": resumed,
        }
