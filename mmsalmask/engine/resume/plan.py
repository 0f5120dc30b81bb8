"""The optimizers' settings, schedules and config by which a resumed run goes on.

mmengine takes settings and schedules from the checkpoint, whatever the config says now.
"""

import copy
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.optim.scheduler import ReduceOnPlateauParamScheduler
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler

from mmsalmask.errors import InputError

# They choose among ways to compute the same.
_WAYS = ("params", "fused", "foreach", "capturable", "differentiable", "maximize")
# What a schedule's steps change; all else is what was planned.
_COUNTED = ("last_step", "_global_step", "_last_value", "base_values", "verbose")
# The parts of a config that say what is learned, and their keys that do not, or are told elsewhere.
_LEARNED = (
    *("model", "data_preprocessor", "train_dataloader", "train_cfg", "optim_wrapper"),
    *("param_scheduler", "auto_scale_lr", "sync_bn"),
)
_OTHER = (
    *("batch_size", "num_workers", "persistent_workers", "pin_memory", "prefetch_factor"),
    *("fused", "val_interval", "val_begin", "dynamic_intervals", "init_cfg"),
)


class _Part(NamedTuple):
    """An optimizer with its schedules, and what a config makes of both before the first step."""

    wrapper: OptimWrapper
    schedules: list[_ParamScheduler]
    groups: list[dict[str, Any]]
    states: list[dict[str, Any]]


class Plan:
    """Optimizers and schedules as a runner's config has them; to be made before a checkpoint is
    loaded into them.

    A schedule that follows a metric cannot be planned: with one, the checkpoint's go on.
    """

    def __init__(self, runner) -> None:
        wrappers, schedules = runner.optim_wrapper, runner.param_schedulers or []
        if isinstance(wrappers, OptimWrapperDict):
            parts = [(one, schedules[name] if schedules else []) for name, one in wrappers.items()]
        else:
            parts = [(wrappers, schedules)]
        self._parts = [
            _Part(
                wrapper,
                own,
                [_without(group, _WAYS) for group in wrapper.param_groups],
                [copy.deepcopy(schedule.state_dict()) for schedule in own],
            )
            for wrapper, own in parts
        ]

    def check_optimizers(self, checkpoint: dict[str, Any], name: str) -> None:
        """Refuse a checkpoint with the state of another optimizer, or of other parameter groups.

        Args:
            checkpoint: what is to be resumed.
            name: of its file.

        Raises:
            InputError: it does not fit.
        """
        saved = checkpoint.get("optimizer", {})
        states = [saved] if "param_groups" in saved else list(saved.values())
        for part, state in zip(self._parts, states, strict=False):
            groups, optimizer = state["param_groups"], part.wrapper.optimizer
            fits = [len(group["params"]) for group in groups] == [
                len(group["params"]) for group in optimizer.param_groups
            ]
            # A truth value may be an option that came with a later torch.
            own = {k for k, value in optimizer.defaults.items() if not isinstance(value, bool)}
            if not fits or not own <= {*groups[0], *_WAYS}:
                raise InputError(
                    f"{name} was trained by another optimizer, or with other groups of parameters, "
                    f"than this {type(optimizer).__name__}: set optim_wrapper to what it was, or "
                    f"start a new run from its weights, with load_from={name}"
                )

    def differs(self) -> bool:
        """Whether the checkpoint that was loaded had another plan."""
        if any(
            isinstance(s, ReduceOnPlateauParamScheduler) for p in self._parts for s in p.schedules
        ):
            return False
        return any(
            list(map(_planned, part.groups)) != list(map(_planned, part.wrapper.param_groups))
            or [_without(state, _COUNTED) for state in part.states]
            != [_without(schedule.state_dict(), _COUNTED) for schedule in part.schedules]
            for part in self._parts
        )

    def follow(self, epochs: int, length: int, iterations: int) -> None:
        """Set optimizers and schedules to where a run that had this plan from the start would be.

        Args:
            epochs: that are completed.
            length: iterations in each.
            iterations: that are completed of the next epoch.
        """
        for part in self._parts:
            for group, settings in zip(part.wrapper.param_groups, part.groups, strict=True):
                group.update(settings)
            for schedule, state in zip(part.schedules, part.states, strict=True):
                schedule.load_state_dict(copy.deepcopy(state))
        for _ in range(epochs):
            self._step(length, by_epoch=False)
            self._step(1, by_epoch=True)
        self._step(iterations, by_epoch=False)

    def _step(self, times: int, by_epoch: bool) -> None:
        schedules = [s for part in self._parts for s in part.schedules if s.by_epoch == by_epoch]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no optimizer steps
            for _ in range(times):
                for schedule in schedules:
                    schedule.step()


def _planned(group: dict[str, Any]) -> dict[str, Any]:
    """A parameter group's settings, the scheduled ones as they were before the first step."""
    return {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in ((key, group.get(f"initial_{key}", group[key])) for key in group)
        if key not in _WAYS and not key.startswith("initial_")
    }


def _without(found: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key not in keys}


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """List the differences of two configs that change what is learned, or how.

    Args:
        before, now: plain dicts.

    Returns:
        For each change a clause such as ``train_cfg.max_epochs was 12 and is 20``.
    """
    return [
        f"{path} was {_short(old)} and is {_short(new)}"
        for key in _LEARNED
        for path, old, new in _differences(before.get(key), now.get(key), key)
    ]


def _differences(one: Any, other: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if path.rpartition(".")[2] in _OTHER or one == other:
        return
    if isinstance(one, dict) and isinstance(other, dict):
        for key in dict.fromkeys([*one, *other]):
            yield from _differences(one.get(key), other.get(key), f"{path}.{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for i, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from _differences(left, right, f"{path}.{i}")
    else:
        yield path, one, other


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
