"""What a run tells about its masks: ratios and speed in the log, and pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
import references
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from PIL import Image
from registered import STRATEGIES
from running import train_and_close
from small_pairs import BATCH, Views, masker, model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils._python_dispatch import TorchDispatchMode

from mmsalmask.engine.hooks import masks
from mmsalmask.registry import MODELS
from mmsalmask.visualization import gallery
from mmsalmask.visualization.gallery import draw_gallery

RATIOS = {
    "query_masked_fg%",
    "query_masked_bg%",
    "hard_masked_fg%",
    "hard_masked_bg%",
    "foreground%",
}


class Witness(Hook):
    """Keeps what the masker made in every iteration."""

    def before_train(self, runner) -> None:
        self.seen = []
        masker = runner.model.data_preprocessor.masker
        if masker is not None:
            masker.register_forward_hook(lambda module, plain, masked: self.seen.append(masked))


def train(
    work: Path, masking: dict | None, hooks: list, interval: int = 2, epochs: int = 1, **options
):
    """Train; return what the witness saw, the runner, and the logged scalars, a dict per line."""
    witness = Witness()
    runner = Runner(
        {**model(masking), **options},
        work_dir=str(work),
        train_dataloader=dict(
            batch_size=BATCH,
            num_workers=0,
            sampler=dict(type="DefaultSampler", shuffle=True),
            collate_fn=dict(type="default_collate"),
            dataset=Views(),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.01)),
        custom_hooks=[*hooks, witness],
        default_hooks=dict(checkpoint=None, logger=dict(type="LoggerHook", interval=interval)),
        visualizer=dict(
            type="Visualizer",
            vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")],
        ),
        experiment_name=f"masks_{np.random.default_rng().integers(2**40)}",
        default_scope="mmpretrain",
        randomness=dict(seed=1),
    )
    train_and_close(runner)
    runner.visualizer.close()
    lines = [json.loads(line) for path in work.rglob("scalars.json") for line in path.open()]
    return witness.seen, runner, lines


def share_masked(mask: torch.Tensor, where: torch.Tensor, inside: bool) -> float:
    """Percentage of one side's pixels that a mask covers: a mean of means, pixel by pixel."""
    shares = []
    for covered, patches in zip(mask.numpy(), where.numpy(), strict=True):
        side = references.to_pixels(patches[None], *covered.shape[1:])[0]
        side = side if inside else ~side
        values = [covered[:, y, x].mean() for y, x in np.argwhere(side)]
        shares += [np.mean(values)] if values else []
    return 100 * np.mean(shares)


def recomputed(masked) -> dict[str, float]:
    query, hard = masked.query_mask, masked.hard_negative_masks[0]
    return {
        "query_masked_fg%": share_masked(query, masked.query_foreground, True),
        "query_masked_bg%": share_masked(query, masked.query_foreground, False),
        "hard_masked_fg%": share_masked(hard, masked.key_foreground, True),
        "hard_masked_bg%": share_masked(hard, masked.key_foreground, False),
        "foreground%": 100 * masked.query_foreground.numpy().mean(),
    }


# ------------------------------------------------------------------------------------ the log


class Broken(torch.nn.Module):
    """A localizer whose maps are, in turn, NaN, constant but for rounding, and good."""

    def forward(self, images):
        maps = images.mean(1)
        maps[::4] = float("nan")
        maps[1::4] = 1 + 1e-7 * torch.rand_like(maps[1::4])
        return maps


def test_maps_that_say_nothing_are_counted_and_mean_random_masks(tmp_path):
    MODELS.register_module(Broken.__name__, force=True, module=Broken)
    hooks = [dict(type="mmsalmask.CollapseHook", interval=2)]
    masking = masker(localizer=dict(type="mmsalmask.Broken"), query_ratio=(0.5, 0.5))
    try:
        seen, _, lines = train(tmp_path, masking, hooks)
    finally:
        MODELS.module_dict.pop("Broken")
    assert [line["flat_saliency%"] for line in lines] == [50.0, 50.0]
    for masked in seen:
        assert masked.query_foreground.flatten(1).any(1).tolist() == [False, False, True, True]
        assert (masked.query_mask.float().mean((1, 2, 3)) == 0.5).all()


@pytest.mark.parametrize("strategy", ["MeanFill", "HighPassNoise"])
def test_the_log_tells_the_ratios_of_the_very_iteration_it_logs(tmp_path, strategy):
    hooks = [dict(type="mmsalmask.TrainingStatisticsHook", interval=2)]
    seen, _, lines = train(tmp_path, masker(strategy), hooks)
    assert [line["step"] for line in lines] == [2, 4]
    for line in lines:
        expected = recomputed(seen[line["step"] - 1])
        assert set(expected) == set(line) & RATIOS
        for name, value in expected.items():
            assert line[name] == pytest.approx(value, abs=1e-3), name
    assert lines[0]["query_masked_fg%"] != lines[1]["query_masked_fg%"]


def test_the_log_tells_images_per_second_over_the_interval(tmp_path):
    hooks = [dict(type="mmsalmask.TrainingStatisticsHook", interval=2)]
    _, runner, lines = train(tmp_path, masker(), hooks)
    times, _ = runner.message_hub.get_scalar("train/time").data
    for line in lines:
        window = times[line["step"] - 2 : line["step"]]
        assert line["images_per_second"] == pytest.approx(BATCH / np.mean(window), rel=1e-3)


def test_an_epoch_shorter_than_the_interval_is_logged_with_its_ratios(tmp_path):
    hooks = [dict(type="mmsalmask.TrainingStatisticsHook", interval=50)]
    seen, _, lines = train(tmp_path, masker(), hooks, interval=50, epochs=2)
    assert [line["step"] for line in lines] == [5, 10]
    for line in lines:
        assert line["images_per_second"] > 0
        expected = recomputed(seen[line["step"] - 1])
        assert {name: line[name] for name in expected} == pytest.approx(expected, abs=1e-3)


def test_random_masks_without_saliency_have_one_ratio(tmp_path):
    hooks = [dict(type="mmsalmask.TrainingStatisticsHook", interval=2)]
    plain = masker(localizer=None, patches="random", hard_negatives=0)
    seen, _, lines = train(tmp_path, plain, hooks)
    for line in lines:
        assert not set(line) & RATIOS
        masked = seen[line["step"] - 1].query_mask.float().mean().item()
        assert line["query_masked%"] == pytest.approx(100 * masked, abs=1e-3)


def test_a_masker_that_hides_nothing_and_has_no_localizer_logs_no_ratio(tmp_path):
    hooks = [dict(type="mmsalmask.TrainingStatisticsHook", interval=2)]
    crops = masker(
        localizer=None, patches="random", masked_views="none", hard_negatives=0, local_crops=1
    )
    _, _, lines = train(tmp_path, crops, hooks)
    for line in lines:
        assert "images_per_second" in line
        assert not [name for name in line if name.endswith("%")]


def test_training_without_a_masker_logs_speed_alone_and_draws_nothing(tmp_path):
    hooks = [
        dict(type="mmsalmask.TrainingStatisticsHook", interval=2),
        dict(type="mmsalmask.MaskGalleryHook"),
    ]
    _, _, lines = train(tmp_path, None, hooks)
    for line in lines:
        assert "images_per_second" in line
        assert not [name for name in line if name.endswith("%")]
    assert not list(tmp_path.rglob("*.png"))


def test_tensorboard_holds_loss_accuracy_speed_and_ratios(tmp_path):
    hooks = [dict(type="mmsalmask.TrainingStatisticsHook", interval=2)]
    _, _, lines = train(tmp_path, masker(), hooks)
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    board = EventAccumulator(str(events)).Reload()
    for name in ("loss", "contrast_accuracy", "images_per_second", *RATIOS):
        points = board.Scalars(name)
        assert [point.step for point in points] == [2, 4]
        logged = [line[name] for line in lines]
        assert [point.value for point in points] == pytest.approx(logged, rel=1e-5), name


# ------------------------------------------------------------------------------------ pictures


def count_columns(picture: np.ndarray) -> int:
    """Runs of coloured pixels along a band through the first row of pictures."""
    band = picture[int(0.2 * len(picture)) : int(0.4 * len(picture))]
    coloured = np.r_[False, (band < 250).any((0, 2)), False]
    edges = np.flatnonzero(np.diff(coloured.astype(int)))
    return int((edges[1::2] - edges[::2] > 20).sum())


def test_with_a_symmetric_loss_the_crops_of_the_key_stand_beside_the_key(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(gallery, "draw_columns", lambda groups, *_, **__: drawn.extend(groups))
    crops = masker("HighPassNoise", masked_views="none", hard_negatives=0, local_crops=2)
    seen, *_ = train(tmp_path, crops, [dict(type="mmsalmask.MaskGalleryHook")], symmetric=True)
    assert [[column.title for column in columns] for _, columns in drawn] == [
        ["query view", "saliency", "foreground", "encoded query", "local crop 1", "local crop 2"],
        ["key view", "encoded key", "local crop 1", "local crop 2"],
    ]
    assert len(seen[0].local_crops) == 4 * BATCH
    for _, columns in drawn:
        whole, *parts = (column.pictures for column in columns[-3:])
        for part in parts:
            side = part.shape[1]
            windows = np.lib.stride_tricks.sliding_window_view(whole[0], (side, side, 3))
            assert abs(windows - part[0].clip(0, 1)).max((-1, -2, -3)).min() < 1e-6


@pytest.mark.parametrize(("strategy", "columns"), [("MeanFill", 7), ("HighPassNoise", 8)])
def test_the_gallery_is_drawn_on_time_with_a_column_for_each_thing(tmp_path, strategy, columns):
    hooks = [dict(type="mmsalmask.MaskGalleryHook", interval=2, images=2)]
    train(tmp_path, masker(strategy), hooks, epochs=3)
    pictures = sorted(tmp_path.rglob("*.png"))
    assert pictures == [tmp_path / "masks" / f"epoch_{i}.png" for i in (1, 3)]
    first, second = (np.asarray(Image.open(path).convert("RGB")) for path in pictures)
    # Query: view, saliency, foreground, masked; key: view, foreground, (filtered), hard negative.
    assert count_columns(first) == count_columns(second) == columns
    assert (first != second).any()


@pytest.mark.parametrize("part", STRATEGIES, ids=lambda part: part.__name__)
def test_the_gallery_of_every_strategy_has_a_column_for_each_thing(tmp_path, part):
    preprocessor = MODELS.build(model(masker_of(part))["data_preprocessor"])
    views = list(Views(2).views.unbind(1))
    seen = []
    preprocessor.masker.register_forward_hook(lambda _, plain, masked: seen.append((plain, masked)))
    preprocessor({"inputs": views, "data_samples": None}, training=True)
    ((query, key), masked) = seen[0]
    draw_gallery(query, key, masked, preprocessor, tmp_path / "masks.png", 2)
    picture = np.asarray(Image.open(tmp_path / "masks.png").convert("RGB"))
    # Query: view, saliency, foreground, masked; key: view, (foreground, hard negative), (filtered).
    assert count_columns(picture) == 5 + 2 * (not part.mixes) + part.filters


# ------------------------------------------------------------------------------------ no waiting


class Waits(TorchDispatchMode):
    """Counts the operations that make the host wait for the device's result."""

    OPERATIONS = (
        torch.ops.aten._local_scalar_dense,
        torch.ops.aten.nonzero,
        torch.ops.aten.masked_select,
        torch.ops.aten.equal,
        torch.ops.aten._unique2,
    )

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket in self.OPERATIONS
        return function(*args, **(kwargs or {}))


def masker_of(part: type) -> dict:
    return masker(part.__name__, hard_negatives=0 if part.mixes else 1)


def trained(part: type, device: str = "cpu"):
    net = MODELS.build(model(masker_of(part))).to(device)
    net.init_weights()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    views = torch.stack([Views(BATCH).views[i] for i in range(BATCH)]).unbind(1)
    batch = {"inputs": list(views), "data_samples": torch.arange(BATCH)}
    wrapper = OptimWrapper(optimizer)
    net.train_step(batch, wrapper)  # what is made once, such as filter windows, is made here
    return net, batch, wrapper


@pytest.mark.parametrize("part", STRATEGIES, ids=lambda part: part.__name__)
def test_a_training_step_never_waits_for_the_device(part):
    net, batch, wrapper = trained(part)
    with Waits() as waits:
        losses = net.train_step(batch, wrapper)
    assert waits.count == 0
    with waits:
        losses["loss"].item()
    assert waits.count == 1  # the count does count


@pytest.mark.gpu
@pytest.mark.parametrize("part", STRATEGIES, ids=lambda part: part.__name__)
def test_a_training_step_on_a_gpu_never_waits_for_it(part):
    net, batch, wrapper = trained(part, "cuda")
    batch = {
        "inputs": [view.cuda() for view in batch["inputs"]],
        "data_samples": batch["data_samples"].cuda(),
    }
    torch.cuda.set_sync_debug_mode("error")
    try:
        net.train_step(batch, wrapper)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_nothing_is_computed_between_log_lines(tmp_path, monkeypatch):
    calls = []
    ratios = masks._ratios
    monkeypatch.setattr(masks, "_ratios", lambda masked: calls.append(1) or ratios(masked))
    hooks = [dict(type="mmsalmask.TrainingStatisticsHook", interval=3)]
    train(tmp_path, masker(), hooks, interval=3)
    assert len(calls) == 2  # after three iterations, and at the end of the epoch
