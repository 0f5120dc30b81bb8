"""The saliency cache: made in one go, in parts and after a kill; used in training; refused."""

import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import mmcv
import numpy as np
import pytest
import references
import torch
from mmengine.config import Config, ConfigDict
from mmpretrain.registry import MODELS as MMPRETRAIN
from PIL import Image
from running import run_tool
from storing import KINDS, stored

from mmsalmask.config import load_config
from mmsalmask.data import ImageFolder, read_image
from mmsalmask.engine.launch import build_runner
from mmsalmask.engine.saliency_cache import localizer_identity, open_cache
from mmsalmask.errors import InputError
from mmsalmask.registry import MODELS
from mmsalmask.saliency import foreground, standardise

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "configs" / "demo" / "mocov2-salmask-mean_resnet18_demo.py"
MASKER = "model.data_preprocessor.masker"
CACHE = "model.data_preprocessor.saliency_cache"
IMAGES, SIZE = 22, 48
unique = count()
NET = dict(type="ResNet", depth=18, base_channels=8, stem_channels=8, out_indices=(1,))
# Views are cut and mirrored and nothing else, so that a test can make them again.
CONFIG = f"""
_base_ = {str(DEMO)!r}
model = dict(
    queue_len=10,
    feat_dim=8,
    backbone=dict(base_channels=8, stem_channels=8),
    neck=dict(in_channels=64, hid_channels=8, out_channels=8),
    data_preprocessor=dict(augment=None, masker=dict(
        grid=4,
        localizer=dict(
            _delete_=True,
            type='mmsalmask.BackboneSaliency',
            backbone=dict({", ".join(f"{k}={v!r}" for k, v in NET.items())}),
            checkpoint='{{place}}/net.pth'))))
view_pipeline = [
    dict(type='mmsalmask.RandomResizedCrop', scale=32),
    dict(type='RandomFlip', prob=0.5),
]
train_pipeline = [
    dict(type='mmsalmask.LoadImage'),
    dict(type='mmsalmask.MultiView', num_views=2, transforms=[view_pipeline]),
    dict(type='mmsalmask.PackInputs'),
]
data_root = '{{place}}/images'
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root=data_root, pipeline=train_pipeline))
train_cfg = dict(max_epochs=1)
default_hooks = dict(checkpoint=dict(interval=1))
custom_hooks = [dict(type='mmsalmask.TrainingStatisticsHook', interval=2)]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with images, one of them broken, a localizer's weights, a config and its cache."""
    folder, rng = tmp_path_factory.mktemp("cache"), np.random.default_rng(0)
    (folder / "images").mkdir()
    for i in range(IMAGES):
        ramp = np.linspace(0, 120, 40)[:, None, None] * rng.random(3)
        pixels = ramp + rng.integers(0, 120, (40, 56, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{i:02d}.png")
    (folder / "images" / "05.png").write_bytes(b"no image")
    torch.manual_seed(3)
    net = MMPRETRAIN.build(dict(NET, _scope_="mmpretrain"))
    torch.save({"state_dict": net.state_dict()}, folder / "net.pth")
    (folder / "config.py").write_text(CONFIG.format(place=folder))
    done = make(folder, folder / "cache.safetensors")
    assert done.status == 0, done.err
    assert "1 images cannot be read" in done.out
    return folder


def words(place: Path, out: Path, *more: str, **options) -> list[str]:
    settings = [f"{key}={value}" for key, value in options.items()]
    return [
        *(str(place / "config.py"), "-o", str(out), "--size", str(SIZE), "--workers", "0"),
        *("--batch-size", "4", "--shard-size", "3", *more),
        *(["--cfg-options", *settings] if settings else []),
    ]


def make(place: Path, out: Path, *more: str, **options):
    return run_tool("cache_saliency.py", *words(place, out, *more, **options))


@pytest.fixture(autouse=True)
def unformatted(monkeypatch):
    """Formatting a config six times, for its logs and copies, would take longer than the run."""
    monkeypatch.setattr(Config, "pretty_text", property(lambda config: repr(config._cfg_dict)))


def preprocessor(place: Path, **options):
    """The masking half of the model, which is built with it."""
    return MODELS.build(config(place, **options).model.data_preprocessor)


def config(place: Path, **options):
    read = load_config(
        str(place / "config.py"), {CACHE: str(place / "cache.safetensors"), **options}
    )
    read.work_dir = str(place / "work")
    read.experiment_name = f"cached_{next(unique)}"
    return read


# ------------------------------------------------------------------------------------ making it


def test_each_map_is_the_localizers_of_its_whole_image(place):
    cache = open_cache(place / "cache.safetensors")
    settings = load_config(str(place / "config.py")).model.data_preprocessor
    localizer = MODELS.build(settings.masker.localizer).eval()
    dataset = ImageFolder(str(place / "images"))
    assert len(cache.maps) == len(dataset) == IMAGES
    mean, std = (torch.tensor(settings[name]).view(3, 1, 1) for name in ("mean", "std"))
    for i in range(IMAGES):
        if i == 5:
            assert not cache.maps[i].any()
            continue
        image = Image.open(place / "images" / f"{i:02d}.png").resize((SIZE, SIZE), Image.BILINEAR)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        with torch.no_grad():
            expected = standardise(localizer(((pixels - mean) / std)[None]))[0]
        torch.testing.assert_close(cache.maps[i], expected, atol=4e-3, rtol=4e-3)
    assert cache.manifest["dataset"] == dataset.fingerprint
    assert cache.manifest["size"] == SIZE
    assert cache.manifest["localizer"]["type"] == "mmsalmask.BackboneSaliency"
    assert set(cache.manifest["versions"]) == {"mmsalmask", "torch"}
    assert sorted(path.name for path in place.iterdir() if "cache" in path.name) == [
        "cache.safetensors"
    ]


def test_several_processes_make_what_one_makes_and_the_last_one_joins(place, tmp_path, monkeypatch):
    out = tmp_path / "shared.safetensors"
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank, told in ((2, ""), (0, "are other processes' and not yet done"), (1, "22 maps")):
        monkeypatch.setenv("RANK", str(rank))
        done = make(place, out)
        assert done.status == 0, done.err
        assert told in done.out
        assert out.exists() == (rank == 1)
    whole = open_cache(place / "cache.safetensors")
    # A batch of another shard has other images in it, which rounding may notice.
    torch.testing.assert_close(open_cache(out).maps, whole.maps, atol=2e-3, rtol=2e-3)
    assert open_cache(out).manifest == whole.manifest
    assert os.listdir(tmp_path) == ["shared.safetensors"]


def test_ranks_of_slurm_are_read_when_asked_for(place, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    done = make(place, tmp_path / "c.safetensors", "--launcher", "slurm")
    assert done.status == 0, done.err
    made = os.listdir(tmp_path / "c.safetensors.parts")
    assert sorted(made) == ["000001.npy", "run.json"]
    monkeypatch.setenv("SLURM_PROCID", "8")
    done = make(place, tmp_path / "c.safetensors", "--launcher", "slurm")
    assert "must be numbers with 0 <= rank < world size" in done.err


def test_a_killed_run_goes_on_and_makes_no_shard_twice(place, tmp_path):
    out = tmp_path / "killed.safetensors"
    parts = tmp_path / "killed.safetensors.parts"
    command = [sys.executable, str(ROOT / "tools" / "cache_saliency.py")]
    slow = words(place, out, "--batch-size", "1", "--shard-size", "1")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(
        command + slow, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        limit = time.monotonic() + 300
        while len(list(parts.glob("0*.npy"))) < 3 and time.monotonic() < limit:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    kept = sorted(parts.glob("0*.npy"))
    assert 3 <= len(kept) < IMAGES
    assert not out.exists()
    marked = np.full_like(np.load(kept[0]), 7)  # what no localizer would find
    np.save(kept[0], marked)
    again = make(place, out, "--batch-size", "1", "--shard-size", "1")
    assert again.status == 0, again.err
    found, whole = open_cache(out).maps, open_cache(place / "cache.safetensors").maps
    assert (found[0] == 7).all()
    torch.testing.assert_close(found[1:], whole[1:], atol=2e-3, rtol=2e-3)
    assert os.listdir(tmp_path) == ["killed.safetensors"]


def test_a_finished_cache_is_not_made_again_and_no_other_is_overwritten(place):
    out = place / "cache.safetensors"
    before = out.stat()
    again = make(place, out)
    assert (again.status, again.out.splitlines()[-1]) == (0, f"{out} is complete")
    other = make(place, out, "--size", "64").sentence()
    assert "is a cache of another size (48, here 64): choose another --out" in other
    mixed = place / "two"
    if not mixed.exists():
        mixed.mkdir()
        for name in ("00.png", "01.png"):
            shutil.copy(place / "images" / name, mixed)
    other = make(place, out, data_root=mixed).sentence()
    assert other == (
        f"{out} is a cache of other images ({IMAGES} of them, here 2): choose another --out, or "
        "delete that file"
    )
    foreign = place / "net.pth"
    assert "is no saliency cache" in make(place, foreign).sentence()
    assert out.stat() == before


def test_parts_of_another_cache_are_not_taken_over(place, tmp_path, monkeypatch):
    out = tmp_path / "c.safetensors"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert make(place, out).status == 0
    told = make(place, out, "--size", "64").sentence()
    assert "holds a run with size = 48, not 64: choose another --out" in told


def test_a_config_without_localizer_is_refused(place, tmp_path):
    plain = ROOT / "configs/demo/mocov2_resnet18_demo.py"
    done = run_tool("cache_saliency.py", str(plain), "-o", str(tmp_path / "c"))
    assert "has no localizer in a masker" in done.sentence()


def test_a_dataset_of_several_is_refused(place, tmp_path):
    several = tmp_path / "several.py"
    several.write_text(
        f"_base_ = {str(place / 'config.py')!r}\n"
        "train_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDataset', datasets=[\n"
        f"    dict(type='mmsalmask.ImageFolder', data_root={str(place / 'images')!r})] * 2))\n"
    )
    done = run_tool("cache_saliency.py", str(several), "-o", str(tmp_path / "c"))
    assert "needs a plain dataset, not a ConcatDataset: cache and train" in done.sentence()


def test_a_full_disk_is_told_in_a_sentence_and_finished_shards_are_kept(place, small_disk):
    out = small_disk / "c.safetensors"
    parts = small_disk / "c.safetensors.parts"
    done = make(place, out, "--size", "320")  # 1,600 values of an image
    assert done.status == 0, done.err
    whole = out.stat().st_size
    out.unlink()
    others = small_disk / "somebody_elses.bin"
    room = os.statvfs(small_disk)
    free = room.f_bavail * room.f_frsize - 3 * 4096
    others.write_bytes(bytes(free - whole // 2))
    told = make(place, out, "--size", "320").sentence()
    assert f"no space left on the disk that holds {out}: make room" in told
    assert not out.exists()
    kept = sorted(path.name for path in parts.glob("0*.npy"))
    assert kept
    others.unlink()
    assert make(place, out, "--size", "320").status == 0
    assert out.stat().st_size == whole


# ------------------------------------------------------------------------------------ using it


def test_training_masks_by_the_cached_maps_of_the_very_crops(place, monkeypatch):
    """Views made again from what the crops say are the views; maps cut by a loop are the maps."""
    runner = build_runner(config(place))
    masker = runner.model.data_preprocessor.masker
    seen = []
    masker.register_forward_hook(
        lambda _, views, options, masked: seen.append((views, options["crops"], masked)),
        with_kwargs=True,
    )
    runner.train()
    cache = open_cache(place / "cache.safetensors")
    dataset = ImageFolder(str(place / "images"))
    settings = runner.cfg.model.data_preprocessor
    mean, std = np.array(settings.mean), np.array(settings.std)
    assert len(seen) == 1 + IMAGES // 4  # with the rehearsal
    mirrored = set()
    for views, crops, masked in seen:
        maps = (masked.query_saliency, masked.key_saliency)
        where = (masked.query_foreground, masked.key_foreground)
        for view, crop, saliency, front in zip(views, crops, maps, where, strict=True):
            for n, i in enumerate(crop.image.tolist()):
                image = read_image(dataset.get_data_info(i)["img_path"])[..., ::-1]
                height, width = image.shape[:2]
                x0, y0, x1, y1 = (
                    (crop.box[n] * torch.tensor([width, height] * 2)).round().int().tolist()
                )
                again = mmcv.imresize(image[y0:y1, x0:x1], (32, 32), interpolation="bilinear")
                again = again[:, ::-1] if crop.flip[n] else again
                found = view[n].permute(1, 2, 0).numpy()
                np.testing.assert_allclose(found, (again - mean) / std, atol=1e-4)
                expected = references.cut_map(
                    cache.maps[i].double().numpy(), crop.box[n].tolist(), bool(crop.flip[n]), (4, 4)
                )
                np.testing.assert_allclose(saliency[n].numpy(), expected, atol=1e-3)
                mirrored.add(bool(crop.flip[n]))
            assert torch.equal(front, foreground(saliency))
            assert 5 not in crop.image  # the broken image, in whose place another one stands
    assert mirrored == {True, False}
    state = torch.load(place / "work" / "epoch_1.pth", weights_only=False)["state_dict"]
    assert not [name for name in state if "preprocessor" in name or "map" in name]


def test_views_made_on_the_device_cut_their_maps_from_the_cache_too(place):
    read = config(place)
    read.model.data_preprocessor.augment = dict(
        type="mmsalmask.DeviceAugmentation",
        view=dict(type="mmsalmask.RandomView", size=32, crop_area=(0.2, 1.0), flip_prob=0.5),
    )
    read.train_dataloader.dataset.pipeline = [
        dict(type="mmsalmask.LoadWhole", size=40),
        dict(type="mmsalmask.PackWhole"),
    ]
    runner = build_runner(read)
    seen = []
    runner.model.data_preprocessor.masker.register_forward_hook(
        lambda _, views, options, masked: seen.append((options["crops"], masked)),
        with_kwargs=True,
    )
    runner.train()
    cache = open_cache(place / "cache.safetensors")
    images = set()
    for crops, masked in seen:
        maps = (masked.query_saliency, masked.key_saliency)
        for crop, saliency in zip(crops, maps, strict=True):
            for n, i in enumerate(crop.image.tolist()):
                expected = references.cut_map(
                    cache.maps[i].double().numpy(), crop.box[n].tolist(), bool(crop.flip[n]), (4, 4)
                )
                np.testing.assert_allclose(saliency[n].numpy(), expected, atol=1e-3)
                images.add(i)
    assert len(images) >= IMAGES - 4  # all but the broken one and a last partial batch
    assert 5 not in images


def test_images_held_in_memory_are_those_of_the_cache(place, tmp_path):
    text = (place / "config.py").read_text()
    pipeline = [dict(type="mmsalmask.LoadWhole", size=40), dict(type="mmsalmask.PackWhole")]
    held = dict(type="mmsalmask.ImageFolder", data_root=str(place / "images"), pipeline=pipeline)
    text += f"""
train_dataloader['dataset'] = dict(
    _delete_=True, type='mmsalmask.InMemory', dataset={held!r})
model['data_preprocessor']['augment'] = dict(
    type='mmsalmask.DeviceAugmentation', view=dict(type='mmsalmask.RandomView', size=32))
"""
    (tmp_path / "config.py").write_text(text)
    words_ = words(place, tmp_path / "held.safetensors")
    words_[0] = str(tmp_path / "config.py")
    done = run_tool("cache_saliency.py", *words_)
    assert done.status == 0, done.err
    again = open_cache(tmp_path / "held.safetensors")
    assert torch.equal(again.maps, open_cache(place / "cache.safetensors").maps)
    read = load_config(str(tmp_path / "config.py"), {CACHE: str(tmp_path / "held.safetensors")})
    read.work_dir, read.experiment_name = str(tmp_path / "work"), f"cached_{next(unique)}"
    build_runner(read).train()


def test_a_cache_serves_a_part_of_its_images(place):
    part = {"train_dataloader.dataset.indices": [9, 3, 20, 21]}
    runner = build_runner(config(place, **part))
    positions = []
    runner.model.data_preprocessor.masker.register_forward_hook(
        lambda _, __, options, ___: positions.append(sorted(options["crops"][0].image.tolist())),
        with_kwargs=True,
    )
    runner.train()
    assert positions == [[9, 21], [3, 9, 20, 21]]  # the rehearsal, then the batch


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_cache_of_a_folder_is_that_of_its_shards_and_datasets(place, tmp_path, kind):
    shutil.copytree(place / "images", tmp_path / "images")
    root = stored(tmp_path / "images", kind)
    done = make(place, place / "cache.safetensors", data_root=root)
    assert (done.status, done.out.splitlines()[-1][-11:]) == (0, "is complete")
    anew = make(place, tmp_path / "anew.safetensors", data_root=root)
    assert "1 images cannot be read" in anew.out
    maps = open_cache(tmp_path / "anew.safetensors").maps
    assert torch.equal(maps, open_cache(place / "cache.safetensors").maps)
    build_runner(config(place, data_root=root)).train()


def test_a_cache_of_other_images_is_refused_before_training(place, tmp_path):
    shutil.copytree(place / "images", tmp_path / "same")
    build_runner(config(place, data_root=str(tmp_path / "same")))
    (tmp_path / "same" / "21.png").unlink()
    with pytest.raises(InputError, match="made of 22 images, but the training data has 21"):
        build_runner(config(place, data_root=str(tmp_path / "same")))
    (tmp_path / "same" / "22.png").write_bytes((place / "images" / "21.png").read_bytes())
    with pytest.raises(InputError, match="other images, as many but not the same names"):
        build_runner(config(place, data_root=str(tmp_path / "same")))


def test_a_cache_of_another_localizer_is_refused_before_training(place, tmp_path):
    moved = tmp_path / "moved.pth"
    shutil.copy(place / "net.pth", moved)
    checkpoint = f"{MASKER}.localizer.checkpoint"
    preprocessor(place, **{checkpoint: str(moved)})  # the same weights elsewhere
    torch.manual_seed(4)
    net = MMPRETRAIN.build(dict(NET, _scope_="mmpretrain"))
    torch.save({"state_dict": net.state_dict()}, moved)
    with pytest.raises(InputError, match="another localizer \\(weights:"):
        preprocessor(place, **{checkpoint: str(moved)})
    with pytest.raises(InputError, match="another localizer \\(size: None, here 32\\)"):
        preprocessor(place, **{f"{MASKER}.localizer.size": 32})
    other = config(place).model.data_preprocessor
    other.masker.localizer = ConfigDict(type="mmsalmask.BoundaryPriorSaliency")
    with pytest.raises(InputError, match="another localizer \\(type"):
        MODELS.build(other)


def test_a_cache_of_images_normalised_otherwise_is_refused_before_training(place):
    with pytest.raises(InputError, match=r"normalised by .*'to_rgb': True}, here it is"):
        preprocessor(place, **{"model.data_preprocessor.to_rgb": False})


def test_a_grid_finer_than_the_cache_is_refused_before_training(place):
    with pytest.raises(InputError, match="maps of 6x6 cells, too coarse for a grid of 7x7"):
        preprocessor(place, **{f"{MASKER}.grid": 7})


def test_a_missing_cache_and_one_without_localizer_are_refused(place):
    with pytest.raises(InputError, match="there is no saliency cache"):
        preprocessor(place, **{CACHE: "absent.safetensors"})
    plain = load_config(
        str(ROOT / "configs/demo/mocov2_resnet18_demo.py"), {CACHE: "c.safetensors"}
    )
    with pytest.raises(InputError, match="stands in for a localizer, but the config's masker has"):
        MODELS.build(plain.model.data_preprocessor)


def test_masks_can_be_browsed_with_the_cache_but_only_of_its_images(place, tmp_path):
    browse = [str(place / "config.py"), "-o", str(tmp_path / "masks.png"), "--rows", "1"]
    cached = ["--cfg-options", f"{CACHE}={place / 'cache.safetensors'}"]
    assert run_tool("browse_masks.py", *browse, *cached).status == 0
    assert (tmp_path / "masks.png").stat().st_size
    given = run_tool("browse_masks.py", *browse, str(place / "images" / "00.png"), *cached)
    assert "knows the images of the training data alone: give no IMAGES" in given.sentence()
    maps = run_tool("browse_masks.py", *browse, "--localizer-map", *cached)
    assert "cut to the patch grid" in maps.sentence()


def test_a_localizers_identity_tells_weights_and_options_but_not_files(place):
    settings = dict(load_config(str(place / "config.py")).model.data_preprocessor.masker.localizer)
    localizer = MODELS.build(settings)
    identity = localizer_identity(settings, localizer)
    assert localizer_identity({**settings, "checkpoint": "x"}, localizer) == identity
    assert localizer_identity({**settings, "size": 3}, localizer) != identity
    next(localizer.parameters()).data.view(-1)[0] += 1e-6
    assert localizer_identity(settings, localizer) != identity
