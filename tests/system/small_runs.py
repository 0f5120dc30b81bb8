"""Runs of every kind, so small that they end in seconds: what they train, and how they save."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]

# Views of the workers, whose random numbers a resumed run has to repeat as well.
_SMALL = """
_base_ = ['{root}/configs/demo/{recipe}.py', '{root}/configs/_base_/datasets/mocov2_views.py']
model = dict({model}
    data_preprocessor=dict(augment=None),
    backbone=dict(base_channels=8, stem_channels=8),
    neck=dict(in_channels=64, hid_channels=32))
train_dataloader = dict(
    batch_size=4, num_workers={workers}, persistent_workers={persistent},
    dataset=dict(
        data_root='{images}/0',
        pipeline=[
            dict(type='mmsalmask.LoadImage'),
            dict(
                type='MultiView',
                num_views=2,
                transforms=[[
                    dict(type='RandomResizedCrop', scale=32, crop_ratio_range=(0.2, 1.)),
                    *_base_.view_pipeline[1:]]]),
            dict(type='PackInputs')]))
{schedule}
"""

_CLASSIFIER = """
_base_ = '{root}/configs/_base_/default_runtime.py'
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        type='ClsDataPreprocessor', num_classes=2, mean=[127.5] * 3, std=[64.] * 3, to_rgb=True),
    backbone=dict(type='ResNet', depth=18, base_channels=8, stem_channels=8),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=64, topk=(1, )))
images = dict(type='mmsalmask.ImageFolder', data_root='{images}', with_label=True)
loading = dict(type='mmsalmask.LoadImage')
train_dataloader = dict(
    batch_size=4, num_workers={workers}, persistent_workers={persistent},
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(**images, pipeline=[
        loading,
        dict(type='RandomResizedCrop', scale=32),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackInputs')]))
val_dataloader = dict(
    batch_size=4, num_workers={workers}, persistent_workers={persistent},
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(**images, pipeline=[
        loading, dict(type='Resize', scale=(32, 32)), dict(type='PackInputs')]))
val_evaluator = dict(type='Accuracy', topk=(1, ))
val_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
param_scheduler = [dict(type='MultiStepLR', milestones=[1, 2], by_epoch=True)]
{schedule}
default_hooks['checkpoint'].update(save_best='auto')
custom_hooks = []
"""

_BY_EPOCH = """
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=4)
default_hooks = dict(
    logger=dict(interval=3), checkpoint=dict(interval=1, max_keep_ckpts=2))
"""
_BY_ITERATION = """
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=4)
default_hooks = dict(
    logger=dict(interval=3), checkpoint=dict(interval=4, by_epoch=False, max_keep_ckpts=2))
"""
# One long "epoch"; a finite sampler is started again and again, an infinite one is not.
_ITERATIONS = """
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=24)
train_dataloader.update(sampler=dict(type='{sampler}', shuffle=True))
param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=False, T_max=24)]
default_hooks = dict(
    logger=dict(interval=3), checkpoint=dict(interval=5, by_epoch=False, max_keep_ckpts=2))
log_processor = dict(by_epoch=False)
"""


class Case(NamedTuple):
    """A small run: what it trains, with how many workers, and how it saves."""

    method: str
    workers: int
    saving: str
    text: str


_RECIPES = {
    "MaskedMoCo": ("mocov2-salmask-highpass_resnet18_demo", "queue_len=32,"),
    "MaskedSimCLR": ("simclr-salmask-mean_resnet18_demo", ""),
    "ADIOS": ("adios-s-mocov2_resnet18_demo", "queue_len=32, mask_net=dict(size=32, slots=2),"),
}
_SCHEDULES = {
    "by epoch": _BY_EPOCH,
    "by iteration": _BY_ITERATION,
    "iterations only": _ITERATIONS.replace("{sampler}", "DefaultSampler"),
    "infinite sampler": _ITERATIONS.replace("{sampler}", "InfiniteSampler"),
}
_CHOSEN = [
    ("MaskedMoCo", 2, "by epoch"),
    ("MaskedSimCLR", 0, "infinite sampler"),
    ("ADIOS", 2, "by iteration"),
    ("classifier", 0, "by epoch"),
    ("MaskedMoCo", 0, "by iteration"),
    ("MaskedSimCLR", 2, "by iteration"),
    ("ADIOS", 0, "iterations only"),
    ("classifier", 2, "by iteration"),
]


def cases(images: Path) -> list[Case]:
    """All small runs, on these images."""
    made = []
    for method, workers, saving in _CHOSEN:
        recipe, model = _RECIPES.get(method, ("", ""))
        text = (_SMALL if recipe else _CLASSIFIER).format(
            root=ROOT,
            recipe=recipe,
            model=model,
            images=images,
            workers=workers,
            persistent=workers > 0,
            schedule=_SCHEDULES[saving],
        )
        made.append(Case(method, workers, saving, text))
    return made


def draw_images(folder: Path, number: int = 22) -> None:
    """Two classes of small noise pictures, bright and dark."""
    generator = np.random.default_rng(0)
    for label in range(2):
        (folder / str(label)).mkdir(parents=True)
        for i in range(number):
            pixels = generator.integers(80 * label, 80 * label + 176, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / str(label) / f"{i}.png")
