"""Two images through everything, before the first step: what does not fit together shows here."""

from itertools import chain

import cv2
import torch
from mmengine.model import is_model_wrapper
from torch import nn
from torch.utils.data import IterableDataset

from mmsalmask.datasets.in_memory import resident_datasets
from mmsalmask.engine.draws import unseeded
from mmsalmask.engine.randomness import kept_random_state
from mmsalmask.errors import InputError
from mmsalmask.models import MaskingDataPreprocessor

# What sizes that do not fit, and memory that does not suffice, end in.
_MISFITS = (RuntimeError, ValueError, MemoryError, cv2.error)


def rehearse(runner) -> None:
    """Let the dataset's first and last image pass pipeline, masker and loss; nothing learns.

    Every setting was checked on its own; a patch grid that is finer than the views, or a queue of
    other dimensions than the embeddings, is wrong only beside another. Weights, buffers and random
    states are afterwards what they were, so that training does not notice.

    Only models with a ``mmsalmask.MaskingDataPreprocessor`` are rehearsed. Images that the device
    will hold are not there yet, and encoders that are compiled would be compiled for two images:
    those runs meet a misfit at their first step.

    Raises:
        InputError: it fails, or the loss is not finite.
    """
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    loader = runner.train_loop.dataloader
    dataset = unseeded(loader.dataset)
    if (
        not isinstance(model.data_preprocessor, MaskingDataPreprocessor)
        or isinstance(dataset, IterableDataset)
        or any(resident_datasets(dataset))
        or runner.cfg.get("compile_encoders")
    ):
        return
    with kept_random_state(), torch.no_grad():
        try:
            runner.message_hub.update_info("max_iters", runner.max_iters)
            images = [dataset[0], dataset[len(dataset) - 1]]
            # BatchNorm in groups wants two images for each.
            batch = loader.collate_fn(images * getattr(model, "bn_splits", 1))
            loss = _loss(model, batch)
        except InputError:
            raise
        except _MISFITS as error:
            raise InputError(
                "the settings do not fit together, the first images could not be trained on "
                f"({type(error).__name__}: {str(error).strip()}): compare the sizes of views, "
                "masker, backbone, neck and head"
            ) from error
    if not loss.isfinite():
        raise InputError(
            f"the loss of the first images is {loss.item()} before anything was learned: look for "
            "a setting far from its usual value, or for such weights in what the run starts from"
        )


def _loss(model: nn.Module, batch: dict) -> torch.Tensor:
    """The loss of a batch, by a model that is afterwards as it was before."""
    tensors = list(chain(model.parameters(), model.buffers()))
    before = [tensor.clone() for tensor in tensors]
    model.train()
    try:
        losses = model(**model.data_preprocessor(batch, True), mode="loss")
        return model.parse_losses(losses)[0]
    finally:
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)
