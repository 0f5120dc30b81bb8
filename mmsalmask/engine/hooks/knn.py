"""kNN accuracy during pretraining: what the backbone has learned so far, in one figure."""

import time

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from torch.utils.data import ConcatDataset, DataLoader, Subset

from mmsalmask.checks import check_integer, check_part
from mmsalmask.engine.models import unwrapped
from mmsalmask.engine.resume.stopping import keep_worker_alive
from mmsalmask.engine.terminal import SHOWN
from mmsalmask.errors import InputError
from mmsalmask.evaluation.features import EncoderView, bands_of, extract_features
from mmsalmask.evaluation.knn import check_neighbours
from mmsalmask.evaluation.labelled import CentreCrops, count_classes
from mmsalmask.registry import DATASETS, HOOKS, METRICS


@HOOKS.register_module()
class KNNHook(Hook):
    """Log the kNN accuracy of the backbone every few epochs and after the last one.

    Labels are used here alone. Training is not affected: the backbone returns to its mode, its
    BatchNorm statistics stay as they are, and no random number is drawn from the streams that
    training draws from. Features are taken of centre crops, seen as the encoder sees its
    views, by all processes together.

    The figures of :class:`~mmsalmask.evaluation.KNNMetric` go to the terminal and, over epochs, to
    the visualizer (TensorBoard).

    Args:
        train, test: configs of the labelled datasets, without pipeline: two
            ``mmsalmask.ImageFolder`` with labels, two ``mmsalmask.ImageNet100``, or both sides of a
            ``mmsalmask.PerClassSplit``.
        interval: epochs between two evaluations.
        size: of the crops in pixels, usually that of the views.
        metric: config of the metric; its ``k`` are the numbers of neighbours.
        batch_size, num_workers: of each process.

    Raises:
        InputError: for invalid settings; before training, for a model without backbone and
            for datasets that cannot be read, have other classes than each other, or fewer images
            than neighbours.
    """

    priority = "LOW"

    def __init__(
        self,
        train: dict,
        test: dict,
        interval: int = 10,
        size: int = 224,
        metric: dict | None = None,
        batch_size: int = 100,
        num_workers: int = 2,
    ) -> None:
        self.size = check_integer("size", size)
        self.datasets = [
            {**check_part(f"{name} of KNNHook", side), "test_mode": True}
            for name, side in (("train", train), ("test", test))
        ]
        self.interval = check_integer("interval", interval)
        metric = dict(type="mmsalmask.KNNMetric") if metric is None else metric
        self.metric = METRICS.build(check_part("metric of KNNHook", metric))
        self.batch_size = check_integer("batch_size", batch_size)
        self.num_workers = check_integer("num_workers", num_workers, 0)

    def before_train(self, runner) -> None:
        model = unwrapped(runner.model)
        if not hasattr(model, "backbone") or "model" not in runner.cfg:
            raise InputError(
                f"KNNHook evaluates model.backbone, and {type(model).__name__} has none that a "
                "config describes: remove it from custom_hooks"
            )
        self._backbone, self._view = model.backbone, EncoderView(runner.cfg)
        crops = [CentreCrops(self.size, bands_of(runner.cfg))]
        self._sets = [DATASETS.build({**side, "pipeline": crops}) for side in self.datasets]
        count_classes(*self._sets)
        check_neighbours(self.metric.k, len(self._sets[0]))

    def after_train_epoch(self, runner) -> None:
        if not (self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner)):
            return
        start = time.perf_counter()
        figures = self._evaluate(next(self._backbone.parameters()).device)
        listed = ", ".join(f"{name} {value:.2f}" for name, value in figures.items())
        seconds = time.perf_counter() - start
        told = f"kNN after epoch {runner.epoch + 1}: {listed} ({seconds:.0f} s)"
        runner.logger.info(told, extra=SHOWN)
        runner.visualizer.add_scalars(figures, step=runner.epoch + 1)

    def _evaluate(self, device: torch.device) -> dict[str, float]:
        images = ConcatDataset(self._sets)
        own = torch.arange(get_rank(), len(images), get_world_size())
        # A loader without a generator of its own takes its seed from the stream of training.
        loader = DataLoader(
            Subset(images, own.tolist()),
            self.batch_size,
            num_workers=self.num_workers,
            generator=torch.Generator(),
            worker_init_fn=keep_worker_alive(None),
        )
        features, labels = extract_features(self._backbone, loader, device, self._view)
        self.metric.add(features, labels, own < len(self._sets[0]))
        return self.metric.evaluate(len(images))
