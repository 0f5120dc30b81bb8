"""mmengine's Runner, whose interrupted runs end as if they had not been interrupted."""

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import torch
from mmengine.dist import all_gather_object, broadcast, is_main_process
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmengine.runner.base_loop import BaseLoop
from mmengine.runner.checkpoint import load_state_dict
from mmengine.visualization import Visualizer
from torch import nn

from mmsalmask.checkpoint import is_high_pass, load_checkpoint, read_config, revive
from mmsalmask.engine.autocast import wrappers_of
from mmsalmask.engine.models import unwrapped
from mmsalmask.engine.resume.log_files import cut_logs, log_sizes
from mmsalmask.engine.resume.loops import EpochLoop, IterLoop
from mmsalmask.engine.resume.plan import Plan, changes
from mmsalmask.engine.resume.randomness import random_state, set_random_state
from mmsalmask.engine.resume.stopping import StopSignals
from mmsalmask.engine.resume.weights import (
    batch_norm,
    open_gradients,
    put_back_gradients,
    refuse_bad_weights,
)
from mmsalmask.errors import InputError, Stopped
from mmsalmask.files import write_atomically

_STATE = "exact_resume"
_TOLD = 8  # changes of a config, one by one
_LOOPS = {
    kind: loop
    for mine, loop in ((EpochBasedTrainLoop, EpochLoop), (IterBasedTrainLoop, IterLoop))
    for kind in (mine, mine.__name__, f"mmengine.{mine.__name__}")
}


class ExactRunner(Runner):
    """mmengine's ``Runner``; a killed and resumed run ends as if it had not been interrupted.

    - Its loops begin anywhere in an epoch, and its samples depend on their place in the run alone
      (:mod:`mmsalmask.engine.resume.draws`).
    - A checkpoint also holds the random states of every process, the place in the epoch, gradients
      not yet used, and how long the logs were. They ride in the message hub, as ``exact_resume``.
    - It reads checkpoints without running code from them.
    - Its logs are its own, though another run starts in the same second or process.
    - After SIGTERM or SIGINT it saves and stops, see :meth:`stop`.
    - ``fast_step`` in a config lays its model out channels last, ``compile_encoders`` compiles the
      encoders.

    It replaces mmengine's own loops in a config by
    :class:`~mmsalmask.engine.resume.loops.EpochLoop` and
    :class:`~mmsalmask.engine.resume.loops.IterLoop`. A loop of another library is left as it is,
    and its runs resume as mmengine's do.
    """

    # ------------------------------------------------------------------------ a run of its own

    def setup_env(self, env_cfg: dict) -> None:
        """Join the processes, and give the run a timestamp that no other run has.

        By it mmengine finds a run's logger, message hub and visualizer, and names its log folder;
        its own has whole seconds, which two runs may share.
        """
        super().setup_env(env_cfg)
        now = torch.tensor(time.time(), dtype=torch.float64)
        broadcast(now)
        self._timestamp = f"{datetime.fromtimestamp(now.item()):%Y%m%d_%H%M%S_%f}"

    def set_randomness(
        self, seed: int | None, diff_rank_seed: bool = True, deterministic: bool = False
    ) -> None:
        """Seed every process differently, so that no two draw the same masks and the same noise.

        Samplers and samples take the seed of the run, which is one for all processes: the order of
        the images and what they look like depend on their place alone.
        """
        super().set_randomness(seed, diff_rank_seed, deterministic)
        if diff_rank_seed:
            self._seed -= self.rank  # mmengine has added it

    def build_visualizer(self, visualizer: Visualizer | dict | None = None) -> Visualizer:
        """Build the visualizer of this run alone, whatever name a config gives it.

        The configs of mmdet and mmseg give one to all of theirs, and a second run in the process
        would write its curves into the folder of the first.
        """
        if isinstance(visualizer, dict):
            visualizer = {**visualizer, "name": self.experiment_name}
        return super().build_visualizer(visualizer)

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the training loop that a config describes."""
        if not isinstance(loop, dict):
            return loop
        options = dict(loop)
        usual = EpochBasedTrainLoop if options.pop("by_epoch", None) else IterBasedTrainLoop
        options.pop("_scope_", None)  # of a config inherited from another library
        kind = options.pop("type", None) or usual
        if kind not in _LOOPS:
            return super().build_train_loop(loop)
        return _LOOPS[kind](runner=self, dataloader=self._train_dataloader, **options)

    # ----------------------------------------------------------------------------------- model

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Prepare the model for fast steps, before DDP looks at how its memory is laid out."""
        if self.cfg.get("fast_step"):
            model.to(memory_format=torch.channels_last)
        if self.cfg.get("compile_encoders"):
            # In place: the names of parameters stay what they are.
            model.backbone.compile()
            if hasattr(model, "momentum_encoder"):
                model.momentum_encoder[0].compile()
        return super().wrap_model(model_wrapper_cfg, model)

    def _init_model_weights(self) -> None:
        if not self.cfg.get("fast_step"):
            return super()._init_model_weights()
        # Random numbers fill a tensor in the order of its memory: a seed has to give the same
        # weights either way.
        self.model.to(memory_format=torch.contiguous_format)
        super()._init_model_weights()
        self.model.to(memory_format=torch.channels_last)

    # ---------------------------------------------------------------------------------- saving

    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **options: Any) -> None:
        """Write a checkpoint from which the run resumes exactly. All processes have to call this.

        One without the optimizer (the best one) is no checkpoint to resume from and has no state.

        Raises:
            InputError: a weight, or a statistic of a BatchNorm, is not finite, in any process.
        """
        self.call_hook("before_weights_are_checked")
        refuse_bad_weights(self.plain_model)
        exact = isinstance(self.train_loop, EpochLoop | IterLoop)
        exact = exact and options.get("save_optimizer", True)
        self.message_hub.update_info(_STATE, self._state() if exact else None)
        # By the class of its strategy, which whoever reads the checkpoint may not have.
        options["meta"] = {**(options.get("meta") or {}), "high_pass": is_high_pass(self.cfg)}
        super().save_checkpoint(out_dir, filename, *args, **options)

    def _state(self) -> dict[str, Any]:
        loop, sampler = self.train_loop, self.train_dataloader.batch_sampler
        own = {
            "random": loop.state_to_keep or random_state(),
            # Under DDP each process has BatchNorm statistics of its own.
            "batch_norm": (
                {name: value.cpu().clone() for name, value in batch_norm(self.plain_model).items()}
                if self.world_size > 1
                else {}
            ),
        }
        return {
            "processes": all_gather_object(own),
            "batches": loop.batches,
            "batch_size": getattr(sampler, "batch_size", None),
            "images": self._images(),
            "validated": loop.validated,
            "gradients": open_gradients(self.plain_model, self.optim_wrapper),
            "logs": log_sizes(self.work_dir, self.visualizer) if is_main_process() else {},
            "log_folder": Path(self.log_dir).name,
        }

    @property
    def plain_model(self) -> nn.Module:
        """The model without the wrapper that joins processes."""
        return unwrapped(self.model)

    def stop(self, signals: StopSignals) -> NoReturn:
        """Save what was trained so far, in all processes, and leave.

        The file is called ``iter_<n>.pth``, whatever the checkpoint hook calls its own, which
        deletes it when a later one is written.

        Raises:
            Stopped: always; tells where to go on.
        """
        path = Path(self.work_dir) / f"iter_{self.iter}.pth"
        if not path.exists():
            earlier = self.message_hub.get_info("stop_checkpoints", [])
            self.message_hub.update_info("stop_checkpoints", [*earlier, path.name])
        self.save_checkpoint(
            self.work_dir,
            path.name,
            meta=dict(epoch=self.epoch, iter=self.iter),
            by_epoch=False,
            backend_args=dict(backend="atomic"),
        )
        if is_main_process():
            write_atomically(Path(self.work_dir) / "last_checkpoint", str(path).encode())
        self.visualizer.close()
        signals.wait_for_all()  # a launcher ends all processes when the first has left
        raise Stopped(
            f"stopped by {signals.name or 'a signal to another process'} after iteration "
            f"{self.iter} of {self.max_iters}, saved as {path}; the same command with --resume "
            "goes on"
        )

    # ---------------------------------------------------------------------------------- resuming

    def load_checkpoint(
        self,
        filename: str,
        map_location: str | Callable = "cpu",
        strict: bool = False,
        revise_keys: list = [(r"^module.", "")],  # noqa: B006  (mmengine's signature)
    ) -> dict[str, Any]:
        """Load weights, without running code that the file may hold.

        Raises:
            InputError: see :func:`mmsalmask.checkpoint.load_checkpoint`.
        """
        checkpoint = revive(load_checkpoint(filename, map_location))
        # mmengine would run the text that it expects there.
        checkpoint.get("meta", {}).pop("config", None)
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        state = checkpoint.get("state_dict", checkpoint)
        state = {name.removeprefix("module."): value for name, value in state.items()}
        load_state_dict(self.plain_model, state, strict, self.logger)
        self._has_loaded = True
        self.logger.info(f"Load checkpoint from {filename}")
        return checkpoint

    def resume(self, filename: str, *args: Any, **options: Any) -> None:
        """Take up a run where a checkpoint of it was written.

        Learning rate, schedule and length of the run are those of the config, not of the
        checkpoint: the run goes on where a run with this plan from the start would be. The log
        lists what differs.

        Raises:
            InputError: the checkpoint has another optimizer, or trained longer than planned here.
        """
        checkpoint, plan = load_checkpoint(filename, lazy=True), Plan(self)
        plan.check_optimizers(checkpoint, filename)
        super().resume(filename, *args, **options)
        state = self.message_hub.get_info(_STATE)
        self._tell_changes(checkpoint, state or {})
        if isinstance(self.train_loop, EpochLoop | IterLoop):
            self._go_on(filename, state)
            if plan.differs() or "optimizer" not in checkpoint:
                self._follow(plan)
        if state is None:
            self.logger.warning(
                f"{filename} holds no random states: the run goes on, but will not end exactly as "
                "it would have without the interruption"
            )
        elif is_main_process():
            cut = cut_logs(self.work_dir, state, self.log_dir)
            if cut:
                self.logger.info(
                    f"{cut} bytes of curves after iteration {self.iter} were removed: these "
                    "iterations are trained, and logged, once more"
                )

    def _tell_changes(self, checkpoint: dict[str, Any], state: dict[str, Any]) -> None:
        before = read_config(checkpoint["meta"].get("cfg", ""))
        now = read_config(self.cfg.pretty_text)
        found = changes(before, now) if before and now else []
        images = self._images()
        if state.get("images", images) != images:
            found.append(f"the data had {state['images']} images and has {images}")
        if found:
            more = f"; and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
            self.logger.warning(
                "the config differs from the checkpoint's, and the run follows the config: "
                f"{'; '.join(found[:_TOLD])}{more}"
            )

    def _go_on(self, filename: str, state: dict[str, Any] | None) -> None:
        """Bring the loop to where the checkpoint was written."""
        loop = self.train_loop
        if state is not None:
            loop.validated = state["validated"]
            loop.batches = self._batches_here(state)
        loop.count_on()
        trained, wanted = loop.trained()
        longer = f"set train_cfg.max_{loop.unit} to more than that"
        if trained > wanted:
            raise InputError(
                f"{filename} was trained for {trained:g} {loop.unit}, more than the {wanted} of "
                f"train_cfg.max_{loop.unit}: {longer}, or resume an earlier checkpoint"
            )
        if trained == wanted:
            self.logger.warning(
                f"{filename} is of a finished run, {wanted} of {wanted} {loop.unit} are trained: "
                f"to train longer, {longer}"
            )

    def _follow(self, plan: Plan) -> None:
        before = self._learning_rate()
        plan.follow(*self.train_loop.progress())
        self.logger.warning(
            "another optimizer or schedule than the checkpoint's, followed as if from the start: "
            f"the learning rate is {self._learning_rate():.4g}, the checkpoint's was {before:.4g}"
        )

    def _learning_rate(self) -> float:
        return wrappers_of(self.optim_wrapper)[0].param_groups[-1]["lr"]

    def _images(self) -> int | None:
        dataset = self.train_dataloader.dataset
        return len(dataset) if hasattr(dataset, "__len__") else None

    def take_up(self) -> None:
        """Bring random states and BatchNorm statistics to where the checkpoint was written.

        Called by the loop right before its first iteration, when nothing else draws any more.
        """
        state = self.message_hub.get_info(_STATE)
        if state is None or not self._resume:
            return
        processes = state["processes"]
        own = processes[self.rank % len(processes)]
        if self.rank < len(processes):  # a process more than before draws as it was seeded
            set_random_state(own["random"])
        self.plain_model.load_state_dict(own["batch_norm"], strict=False)
        put_back_gradients(self.plain_model, state["gradients"])

    def _batches_here(self, state: dict[str, Any]) -> int:
        """How many batches of this run's size were trained, the checkpoint's having another."""
        sampler = self.train_dataloader.batch_sampler
        former = state["batch_size"], len(state["processes"])
        now = getattr(sampler, "batch_size", None), self.world_size
        if former == now or None in (former[0], now[0]):
            return state["batches"]
        before, after = former[0] * former[1], now[0] * now[1]
        batches, rest = divmod(state["batches"] * before, after)
        told = [f"{former[1]} × {former[0]} images per step became {now[1]} × {now[0]}"]
        if before == after:
            told.append("the order of the images, the queue and the schedule go on as before")
        else:
            told.append(
                "the schedule goes on, but its steps cover another number of images: set the "
                "learning rate yourself"
            )
        if former[1] != now[1]:
            told.append("masks differ, since each process has random states of its own")
        if rest:
            told.append(f"{rest} images of this epoch are trained once more")
        self.logger.warning(f"resuming with other batches: {'; '.join(told)}")
        return batches
