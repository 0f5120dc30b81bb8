"""mmengine's training loops, able to begin anywhere inside an epoch and to stop when asked to."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from mmsalmask.engine.autocast import wrappers_of
from mmsalmask.engine.rehearsal import rehearse
from mmsalmask.engine.resume.draws import DrawSampler, seeded_loader
from mmsalmask.engine.resume.randomness import kept_random_state
from mmsalmask.engine.resume.stopping import StopSignals, keep_worker_alive
from mmsalmask.errors import InputError


class _Loop:
    """What both loops share. ``runner`` is an :class:`mmsalmask.engine.ExactRunner`.

    Raises:
        InputError: for fewer images than make a batch, where the last partial one is dropped, and
            for epochs of a sampler without end.

    Attributes:
        batches: how many of this epoch (of the run, where epochs do not matter) were trained.
        validated: whether the validation due at this point is over.
        state_to_keep: during a validation, the random state that training will go on with.
    """

    unit: str

    def __init__(self, runner, dataloader, **options) -> None:
        super().__init__(runner, dataloader, **options)
        if len(self.dataloader) == 0:
            raise InputError(
                f"the {len(self.dataloader.dataset)} training images do not fill one batch of "
                f"{self.dataloader.batch_size} in each process: set a smaller "
                "train_dataloader.batch_size, or give more images"
            )
        self.dataloader = seeded_loader(self.dataloader, runner.seed)
        if self.unit == "epochs" and getattr(self.dataloader.batch_sampler, "endless", False):
            raise InputError(
                "train_dataloader.sampler has no end, so no epoch would: take a DefaultSampler, or "
                "train by iterations (IterBasedTrainLoop with max_iters)"
            )
        self.batches = 0
        self.validated = False
        self.state_to_keep: dict[str, Any] | None = None
        self._loading: Iterator | None = None

    def run(self) -> Any:
        """Train, from where the runner has resumed to the end or to a signal.

        Raises:
            InputError: the rehearsal before it failed, see :func:`rehearse`.
            Stopped: after a signal, when everything is saved.
        """
        with StopSignals() as self.signals:
            self.runner.register_hook(_StopValidation(self.signals), priority="LOWEST")
            self.runner.register_hook(_TellStep())
            try:
                rehearse(self.runner)
                if self.runner.val_loop is not None:
                    loader = self.runner.val_loop.dataloader
                    loader.worker_init_fn = keep_worker_alive(loader.worker_init_fn)
                return self._train()
            finally:
                # A loader's workers live until its iterator dies, which a traceback would keep.
                if hasattr(self._loading, "_shutdown_workers"):
                    self._loading._shutdown_workers()

    def _load(self, epoch: int, first: int) -> Iterator:
        """The batches of an epoch from ``first`` on."""
        sampler = self.dataloader.batch_sampler
        if isinstance(sampler, DrawSampler):
            sampler.start(epoch, first)
        self._loading = iter(self.dataloader)
        return self._loading

    def _stop_if_asked(self) -> None:
        if self.signals.asked() and not self._complete():
            self.runner.stop(self.signals)

    def _validate_if_due(self, reached: int) -> None:
        """Validate if ``reached``, in epochs or iterations, is one to do so and it is not done."""
        self._decide_current_val_interval()
        due = reached % self.val_interval == 0 or self._complete()
        if self.runner.val_loop is None or self.validated or not due or reached < self.val_begin:
            return
        # So says the checkpoint that a new best score writes, the last thing a validation does.
        self.validated = True
        with kept_random_state() as self.state_to_keep:
            try:
                self.runner.val_loop.run()
            except _ValidationLeft:
                self.validated = False
                self.runner.message_hub.update_info("loop_stage", "train")
                self.runner.stop(self.signals)  # also after the last step: the result is missing
        self.state_to_keep = None


class EpochLoop(_Loop, EpochBasedTrainLoop):
    """mmengine's ``EpochBasedTrainLoop`` for exact resuming; takes its arguments."""

    unit = "epochs"

    def _complete(self) -> bool:
        return self._epoch == self._max_epochs

    def progress(self) -> tuple[int, int, int]:
        """Epochs completed, iterations of each, and iterations completed of the next."""
        return self._epoch, len(self.dataloader), self.batches

    def trained(self) -> tuple[float, int]:
        """How many epochs are trained, and how many are planned."""
        epochs, length, iterations = self.progress()
        return epochs + min(1, iterations / length), self._max_epochs

    def count_on(self) -> None:
        """Add what is left to the iterations counted so far, which may have had other batches."""
        epochs, length, iterations = self.progress()
        self._max_iters = self._iter + (self._max_epochs - epochs) * length - iterations

    def _train(self) -> Any:
        self.runner.call_hook("before_train")
        self.runner.take_up()
        if self._epoch > 0 and self.batches == 0:
            self._validate_if_due(self._epoch)
            self._stop_if_asked()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.validated = False
            self.run_epoch()
            self._validate_if_due(self._epoch)
            self._stop_if_asked()
        self.runner.call_hook("after_train")
        return self.runner.model

    def run_epoch(self) -> None:
        """Train the batches of this epoch that are left."""
        with kept_random_state() if self.batches else nullcontext():
            self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        for batch in self._load(self._epoch, self.batches):
            self.batches += 1
            self.run_iter(self.batches - 1, batch)
            self._stop_if_asked()
        self.batches = 0
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1


class IterLoop(_Loop, IterBasedTrainLoop):
    """mmengine's ``IterBasedTrainLoop`` for exact resuming; takes its arguments."""

    unit = "iters"

    def _complete(self) -> bool:
        return self._iter == self._max_iters

    def progress(self) -> tuple[int, int, int]:
        """As of :class:`EpochLoop`; mmengine counts no epochs here."""
        return 0, 0, self._iter

    def trained(self) -> tuple[int, int]:
        """How many iterations are trained, and how many are planned."""
        return self._iter, self._max_iters

    def count_on(self) -> None:
        """Nothing to do: iterations are what is counted."""

    def _train(self) -> Any:
        self.runner.call_hook("before_train")
        with kept_random_state() if self._iter else nullcontext():
            self.runner.call_hook("before_train_epoch")
        self.runner.take_up()
        if self._iter > 0:
            self._validate_if_due(self._iter)
        batches = self._endless()
        while self._iter < self._max_iters and not self.stop_training:
            self.validated = False
            self.runner.model.train()
            batch = next(batches)
            self.batches += 1
            self.run_iter(batch)
            self._validate_if_due(self._iter)
            self._stop_if_asked()
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model

    def _endless(self) -> Iterator:
        """Batches without end; a sampler that has one is started again with the next epoch."""
        sampler = self.dataloader.batch_sampler
        if isinstance(sampler, DrawSampler) and not sampler.endless:
            epoch, first = divmod(self.batches, len(self.dataloader))
        else:
            epoch, first = 0, self.batches
        while True:
            yield from self._load(epoch, first)
            epoch, first = epoch + 1, 0


class _ValidationLeft(Exception):
    """A signal came during a validation, which will be repeated."""


class _StopValidation(Hook):
    """Leave a validation after a signal. Several processes may not: they wait for each other."""

    def __init__(self, signals: StopSignals) -> None:
        self.signals = signals

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if self.signals.noticed and runner.world_size == 1:
            raise _ValidationLeft


class _TellStep(Hook):
    """Tell a model with a momentum encoder which batches begin an optimizer step."""

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if hasattr(runner.plain_model, "starts_step"):
            # The encoder's, which is the first of several.
            wrapper = wrappers_of(runner.optim_wrapper)[0]
            runner.plain_model.starts_step = wrapper.should_update()
