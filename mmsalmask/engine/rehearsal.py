"""Two images through everything, before the first step: what does not fit together shows here.

So does what fits, but badly: how many images there are, and sizes that are far apart.
"""

import logging
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain

import cv2
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from mmsalmask.algorithms import MaskingDataPreprocessor
from mmsalmask.data.image_folder import ImageFolder, image_folders
from mmsalmask.data.in_memory import resident_datasets
from mmsalmask.data.loading import BrokenImage, image_size
from mmsalmask.engine.models import unwrapped
from mmsalmask.engine.resume.draws import DrawSampler, unseeded
from mmsalmask.engine.resume.randomness import kept_random_state
from mmsalmask.errors import InputError, place_of
from mmsalmask.masking import SaliencyMasker

_PIXELS_PER_PATCH = 2
_LOOKED_AT = 64
# What settings that do not fit, and memory that does not suffice, end in.
_MISFITS = (RuntimeError, ValueError, TypeError, AssertionError, MemoryError, cv2.error)


def rehearse(runner) -> None:
    """Let the dataset's first and last image pass pipeline, masker and loss; nothing learns.

    Every setting was checked on its own; a patch grid that is finer than the views, or a queue of
    other dimensions than the embeddings, is wrong only beside another. So is a last batch that has
    a single image, or does not divide into BatchNorm's groups: the rehearsed one is like it.
    Weights, buffers and random states are afterwards what they were, so that training does not
    notice.

    The images found, used and skipped are logged. Views that leave a patch of the masker's grid
    less than two pixels a side, and images less than half as large as the views, are warned about.

    Only models with a ``mmsalmask.MaskingDataPreprocessor`` are rehearsed. Images that the device
    will hold are not there yet, and encoders that are compiled would be compiled for two images:
    those runs meet a misfit at their first step.

    Raises:
        InputError: it fails, or the loss is not finite.
    """
    model = unwrapped(runner.model)
    loader = runner.train_loop.dataloader
    dataset = unseeded(loader.dataset)
    folders = list(image_folders(dataset))
    for folder in folders:
        folder.tell(runner.logger)
    preprocessor = model.data_preprocessor
    masked = isinstance(preprocessor, MaskingDataPreprocessor)
    if not masked or isinstance(dataset, IterableDataset):
        return
    if preprocessor.augment is not None:
        size = preprocessor.augment.views[0].size
        _warn_of_sizes(runner.logger, (size, size), preprocessor.masker, folders)
    if any(resident_datasets(dataset)) or runner.cfg.get("compile_encoders"):
        return
    number = _images_of_a_batch(loader, getattr(model, "bn_splits", 1))
    with kept_random_state(), torch.no_grad():
        try:
            runner.message_hub.update_info("max_iters", runner.max_iters)
            images = [dataset[0], dataset[len(dataset) - 1]]
            batch = loader.collate_fn((images * number)[:number])
            if preprocessor.augment is None:
                view = batch["inputs"][0].shape[-2:]
                _warn_of_sizes(runner.logger, view, preprocessor.masker, folders)
            loss = _loss(model, batch)
        except InputError:
            raise
        except _MISFITS as error:
            runner.logger.info(traceback.format_exc())  # to the log file alone
            if number == 1 and "more than 1 value per channel" in str(error):
                raise InputError(
                    "the last batch of an epoch has a single image, which this model cannot train "
                    f"on ({error}): set train_dataloader.drop_last=True, or another batch_size"
                ) from error
            words = filter(None, (type(error).__name__, str(error).strip()))
            raise InputError(
                "the settings do not fit together, the first images could not be trained on "
                f"({': '.join(words)}{place_of(error)}): compare the "
                "sizes of views, masker, backbone, neck and head"
            ) from error
    if not loss.isfinite():
        raise InputError(
            f"the loss of the first images is {loss.item()} before training starts: look for a "
            "setting far from its usual value, or for bad weights in what the run starts from"
        )


def _images_of_a_batch(loader: DataLoader, splits: int) -> int:
    """Two images for each group of BatchNorm, or as many as fail where the last batch would."""
    batches, usual = loader.batch_sampler, 2 * splits
    if not isinstance(batches, DrawSampler) or batches.endless:
        return usual
    whole = batches.drop_last or len(batches.sampler) % batches.batch_size == 0
    last = batches.batch_size if whole else len(batches.sampler) % batches.batch_size
    return min(last, usual + last % splits)


def _warn_of_sizes(
    logger: logging.Logger,
    view: Sequence[int],
    masker: SaliencyMasker | None,
    folders: Sequence[ImageFolder],
) -> None:
    """Warn where views (rows, columns) are small for the patch grid, or large for the images."""
    if masker is not None and any(
        side < _PIXELS_PER_PATCH * cells for side, cells in zip(view, masker.grid, strict=True)
    ):
        logger.warning(
            f"a patch of the {masker.grid[0]}x{masker.grid[1]} grid has less than "
            f"{_PIXELS_PER_PATCH} pixels a side in views of {view[0]}x{view[1]}: take larger views "
            "or a smaller model.data_preprocessor.masker.grid"
        )
    sides = sorted(side for folder in folders for side in _shorter_sides(folder))
    if sides and sides[len(sides) // 2] < min(view) / 2:
        logger.warning(
            f"the images are far smaller than the views of {view[0]}x{view[1]}: of {len(sides)} "
            f"looked at, half have no more than {sides[len(sides) // 2]} pixels on the shorter "
            "side: take smaller views, or larger images"
        )


def _shorter_sides(folder: ImageFolder) -> Iterator[int]:
    """In pixels, of up to ``_LOOKED_AT`` images spread over a folder."""
    measure = getattr(next(iter(folder.pipeline.transforms), None), "image_size", image_size)
    for index in range(0, len(folder), max(1, len(folder) // _LOOKED_AT)):
        with suppress(BrokenImage):
            yield min(measure(folder.get_data_info(index)["img_path"]))


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
