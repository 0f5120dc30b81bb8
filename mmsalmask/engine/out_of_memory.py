"""Memory that does not suffice, told in a sentence: what did not fit, and what would."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from mmengine.dist import get_world_size

from mmsalmask.engine.autocast import wrappers_of
from mmsalmask.engine.models import unwrapped
from mmsalmask.engine.resume.draws import unseeded
from mmsalmask.errors import InputError

# Words of CUDA's allocator, of cuDNN's and cuBLAS's workspaces, and of the CPU's allocator.
_WORDS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")
# What stays free of the estimate: memory is handed out in pieces that do not fit together exactly.
_SHARE = 0.9


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


@contextmanager
def sentences_for_memory(what: str) -> Iterator[None]:
    """Say in a sentence that ``what``, such as ``batch_size=128 at 224 px``, did not fit.

    Raises:
        InputError: memory did not suffice.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(f"{what} does not fit into {_memory()}: give a smaller one") from error


@contextmanager
def memory_told(runner) -> Iterator[None]:
    """While a runner trains, say in a sentence that its batch did not fit, and which would.

    In a single process on a GPU the batch that fits is estimated: the memory of a step is measured
    at two small batches, between which it grows in proportion. Elsewhere half of the batch is
    named.

    Raises:
        InputError: memory did not suffice.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        failed = error
    else:
        return
    # That of the sampler, which every loader has: one that is given its batches has no other.
    batch = runner.train_dataloader.batch_sampler.batch_size
    # The frames of the error hold the tensors of the step that failed.
    told, failed.__traceback__ = str(failed).splitlines()[0][:120], None
    advice = f"try {max(1, batch // 2)}"
    if _on_one_gpu():
        fitting = _measured_batch(runner, batch, _cuda_peak, _cuda_room())
        advice = f"{fitting} should fit" if fitting else "not even a few images fit, use less size"
    raise InputError(
        f"a batch of {batch} images does not fit into {_memory()}: set the batch size lower "
        f"({advice}), make the views smaller, or train in half precision ({told})"
    )


def fitting_batch(small: int, peaks: tuple[float, float], room: float, limit: int) -> int:
    """The largest batch that fits, by the memory of two small ones.

    Args:
        small: images of the first; the second has twice as many.
        peaks: bytes that their steps needed.
        room: bytes there are.
        limit: the batch that did not fit.

    Returns:
        A multiple of ``small`` below the limit; 0 if not even ``small`` images fit.
    """
    per_image = max(1.0, (peaks[1] - peaks[0]) / small)
    images = small + (room - peaks[0]) / per_image
    return max(0, min(int(images) // small, (limit - 1) // small)) * small


def _measured_batch(
    runner, limit: int, peak: Callable[[Callable[[], None]], float], room: float
) -> int:
    """Measure steps of the runner's model on its own images, and conclude."""
    model = unwrapped(runner.model)
    model.zero_grad(set_to_none=True)
    splits = getattr(model, "bn_splits", 1)
    small = max(2 * splits, min(8, limit // 4) // splits * splits)  # BatchNorm needs two
    try:
        peaks = tuple(peak(lambda n=n: _step(runner, model, n)) for n in (small, 2 * small))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return 0
    return fitting_batch(small, peaks, _SHARE * room, limit)


def _step(runner, model, images: int) -> None:
    loader = runner.train_dataloader
    dataset = unseeded(loader.dataset)
    batch = loader.collate_fn([dataset[i % len(dataset)] for i in range(images)])
    with wrappers_of(runner.optim_wrapper)[0].optim_context(model):
        losses = model(**model.data_preprocessor(batch, True), mode="loss")
        loss, _ = model.parse_losses(losses)
    loss.backward()
    model.zero_grad(set_to_none=True)


def _cuda_peak(step: Callable[[], None]) -> float:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    step()
    return float(torch.cuda.max_memory_allocated())


def _on_one_gpu() -> bool:
    return torch.cuda.is_available() and get_world_size() == 1


def _cuda_room() -> float:
    """Bytes that this process can have: what is free, and what it holds."""
    gc.collect()
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    return float(free + torch.cuda.memory_allocated())


def _memory() -> str:
    if not torch.cuda.is_available():
        return "the memory of this machine"
    _, total = torch.cuda.mem_get_info()
    return f"the {total / 2**30:.0f} GiB of {torch.cuda.get_device_name()}"
