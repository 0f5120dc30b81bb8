"""Random numbers that a resumed run draws again exactly: states to keep, and seeds for samples."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """The state of every generator that training draws from in this process.

    Those of Python, NumPy and torch, and that of the current GPU, from which augmentation and
    masking on the device draw. Plain values and CPU tensors, so that a checkpoint can hold them.
    """
    state = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Go back to what :func:`random_state` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"].cpu())


@contextmanager
def kept_random_state() -> Iterator[dict[str, Any]]:
    """Restore the random state at the end of the block; yields the state that training keeps."""
    state = random_state()
    try:
        yield state
    finally:
        set_random_state(state)


@contextmanager
def kept_generators() -> Iterator[None]:
    """Restore Python's, NumPy's and torch's CPU generators at the end of the block.

    A GPU's is left alone: processes that load data must not touch it.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def seed_generators(*numbers: int) -> None:
    """Let those generators draw what these non-negative numbers determine."""
    first, second, third = np.random.SeedSequence(numbers).generate_state(3).tolist()
    random.seed(first)
    np.random.seed(second)
    torch.default_generator.manual_seed(third)
