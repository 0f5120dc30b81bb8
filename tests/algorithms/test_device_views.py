"""The preprocessor makes views on the device, of whole images or of positions, and masks them."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from PIL import Image

from mmsalmask.config import check_config, load_config
from mmsalmask.data import ImageFolder, InMemory
from mmsalmask.engine import ResidentImagesHook
from mmsalmask.engine.launch import build_runner
from mmsalmask.engine.resume.randomness import random_state, set_random_state
from mmsalmask.errors import InputError
from mmsalmask.registry import MODELS

ROOT = Path(__file__).resolve().parents[2]
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
PIPELINE = [dict(type="mmsalmask.LoadWhole", size=24), dict(type="mmsalmask.PackWhole")]
# Leaves colours alone, so that they can be compared.
PLAIN = dict(jitter_prob=0, grey_prob=0, blur_prob=0, crop_area=(1.0, 1.0), crop_aspect=(0.5, 2))
MASKER = dict(
    type="mmsalmask.SaliencyMasker",
    strategy=dict(type="mmsalmask.MeanFill"),
    localizer=dict(type="mmsalmask.BoundaryPriorSaliency"),
    grid=4,
)


@pytest.fixture
def folder(tmp_path):
    """Six photos of one colour each, so that a view's mean tells which photo it shows."""
    for i in range(6):
        pixels = np.full((20, 20 + i, 3), (40 * i, 250 - 30 * i, 90), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    return tmp_path


def preprocessor(masker=None, augment=True, to_rgb=True, **view):
    view = dict(type="mmsalmask.RandomView", size=16, **view)
    return MODELS.build(
        dict(
            type="mmsalmask.MaskingDataPreprocessor",
            mean=MEAN,
            std=STD,
            to_rgb=to_rgb,
            masker=masker,
            augment=dict(type="mmsalmask.DeviceAugmentation", view=view) if augment else None,
        )
    )


def batch(folder, **options):
    dataset = ImageFolder(str(folder), pipeline=PIPELINE)
    if options:
        dataset = InMemory(dataset, **options)
        dataset.full_init()
    return default_collate([dataset[i] for i in (4, 1, 3)]), dataset


def training(preprocessor, dataset) -> SimpleNamespace:
    """What the hook looks at of a runner."""
    return SimpleNamespace(
        model=SimpleNamespace(data_preprocessor=preprocessor),
        train_dataloader=SimpleNamespace(dataset=dataset),
    )


@pytest.mark.parametrize("to_rgb", [True, False])
def test_views_are_normalised_in_the_order_of_channels_that_the_model_asks_for(folder, to_rgb):
    data, _ = batch(folder)
    out = preprocessor(to_rgb=to_rgb, **PLAIN)(data, training=True)
    assert [type(sample).__name__ for sample in out["data_samples"]] == ["DataSample"] * 3
    assert data.keys() == {"inputs", "data_samples", "source"}  # hooks see it as it was
    for view in out["inputs"]:
        assert view.shape == (3, 3, 16, 16)
        assert view.dtype == torch.float32
        for shown, i in zip(view, (4, 1, 3), strict=True):
            colour = torch.tensor([40.0 * i, 250.0 - 30 * i, 90.0])
            colour = colour if to_rgb else colour.flip(0)
            expected = (colour - torch.tensor(MEAN)) / torch.tensor(STD)
            assert torch.allclose(shown.mean((1, 2)), expected, atol=0.02)


def test_the_masker_gets_the_views(folder):
    model = preprocessor(MASKER)
    seen = []
    model.masker.register_forward_hook(lambda _, views, masked: seen.append((views, masked)))
    out = model(batch(folder)[0], training=True)["inputs"]
    assert len(out) == 3
    ((query, key), masked) = seen[0][0][:2], seen[0][1]
    assert query.shape == key.shape == (3, 3, 16, 16)
    assert torch.equal(out[1], masked.key)


def test_positions_give_the_views_that_the_images_themselves_give(folder):
    pixels, _ = batch(folder)
    positions, dataset = batch(folder, resident=True)
    model = preprocessor()

    runner = training(model, dataset)
    ResidentImagesHook().before_train(runner)
    assert dataset.images is None
    assert "images" not in model.state_dict()
    views = []
    for data in (pixels, positions):
        torch.manual_seed(0)
        views.append(model(data, training=True)["inputs"])
    assert all(torch.equal(*pair) for pair in zip(*views, strict=True))
    ResidentImagesHook().before_train(runner)  # a second training of the same runner
    assert model.images is not None


def test_views_are_drawn_from_the_state_that_a_checkpoint_keeps(folder):
    data, model = batch(folder)[0], preprocessor()
    state = random_state()
    views = [model(data, training=True)["inputs"] for _ in range(2)]
    set_random_state(state)
    again = model(data, training=True)["inputs"]
    assert all(torch.equal(*pair) for pair in zip(views[0], again, strict=True))
    assert not torch.equal(views[0][0], views[1][0])


def test_images_that_are_not_for_training_are_normalised_only(folder):
    data, _ = batch(folder)
    for given in (data, {"inputs": data["inputs"], "data_samples": data["data_samples"]}):
        single = preprocessor(MASKER)(given, training=False)["inputs"]
        assert single.shape == (3, 3, 24, 24)
    rgb = data["inputs"].flip(1).float()
    expected = (rgb - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    assert torch.allclose(single, expected, atol=1e-5)


def test_a_pipeline_and_a_preprocessor_that_do_not_fit_are_refused(folder):
    data, _ = batch(folder)
    with pytest.raises(InputError, match="nothing makes views"):
        preprocessor(augment=False)(data, training=True)
    views = {"inputs": [data["inputs"]] * 2, "data_samples": data["data_samples"]}
    with pytest.raises(InputError, match=r"LoadWhole and mmsalmask\.PackWhole"):
        preprocessor()(views, training=True)
    positions, _ = batch(folder, resident=True)
    with pytest.raises(InputError, match="ResidentImagesHook"):
        preprocessor()(positions, training=True)


def test_the_hook_without_a_resident_dataset_is_refused(folder):
    runner = training(preprocessor(), ImageFolder(str(folder), pipeline=PIPELINE))
    with pytest.raises(InputError, match="the training data has 0"):
        ResidentImagesHook().before_train(runner)


def test_misspelt_settings_of_views_are_refused():
    config = load_config(str(ROOT / "configs/demo/mocov2-salmask-mean_resnet18_demo.py"))
    config.model.data_preprocessor.augment.view.blur_probability = 0.5
    with pytest.raises(InputError, match="blur_prob"):
        check_config(config)


def test_statistics_pictures_and_accuracy_come_as_ever(folder, tmp_path):
    """One run of the in-memory recipe: images/s, mask ratios, a gallery, and a checkpoint."""
    recipe = ROOT / "configs/demo/mocov2-salmask-mean_resnet18-inmemory_demo.py"
    config = load_config(str(recipe), {"data_root": str(folder)})
    config.model.backbone.update(base_channels=8, stem_channels=8)
    config.model.neck.update(in_channels=64, hid_channels=16)
    config.model.queue_len = 16
    config.train_dataloader.update(batch_size=2, num_workers=0, persistent_workers=False)
    config.train_cfg.max_epochs = 1
    config.custom_hooks[0].interval = 1
    config.work_dir = str(tmp_path / "work")
    runner = build_runner(Config(config.to_dict()))
    runner.train()
    scalars = runner.message_hub.log_scalars
    assert scalars["train/images_per_second"].data[0].min() > 0
    assert scalars["train/query_masked_fg%"].data[0].size == 3
    assert (tmp_path / "work" / "masks" / "epoch_1.png").is_file()
    saved = torch.load(tmp_path / "work" / "epoch_1.pth", weights_only=False)
    assert not any("images" in name for name in saved["state_dict"])
