"""Views that say where they were cut from: mmpretrain's pixels, and boxes that are true."""

import random
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmengine.dataset import Compose, default_collate, pseudo_collate
from mmengine.registry import TRANSFORMS, DefaultScope
from mmpretrain.datasets import transforms  # noqa: F401  (fills the registry)
from PIL import Image

import mmsalmask.data as datasets
from mmsalmask.config import load_config
from mmsalmask.errors import InputError

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "_base_" / "datasets"


@pytest.fixture(autouse=True)
def scope():
    DefaultScope.get_instance("views", scope_name="mmpretrain")


def seed(value):
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)


def photo(height, width, value=0):
    return np.random.default_rng(value).integers(0, 256, (height, width, 3), dtype=np.uint8)


def mmpretrains(part):
    """The same pipeline of mmpretrain's own transforms."""
    if isinstance(part, dict):
        part = {key: mmpretrains(value) for key, value in part.items()}
        if part.get("type") in ("mmsalmask.RandomResizedCrop", "mmsalmask.MultiView"):
            part["type"] = part["type"].replace("mmsalmask", "mmpretrain")
        return part
    return [mmpretrains(value) for value in part] if isinstance(part, (list, tuple)) else part


@pytest.mark.parametrize("name", ["mocov2", "simclr"])
@pytest.mark.parametrize("size", [(90, 120), (64, 64), (300, 31), (17, 260)])
def test_views_are_mmpretrains_pixel_for_pixel(name, size):
    multi_view = load_config(str(CONFIGS / f"{name}_views.py")).train_pipeline[1]
    assert multi_view.type == "mmsalmask.MultiView"
    ours, theirs = (TRANSFORMS.build(p) for p in (multi_view, mmpretrains(multi_view)))
    assert type(theirs).__module__.startswith("mmpretrain")
    assert type(theirs.transforms[0].transforms[0]).__module__.startswith("mmpretrain")
    for value in range(4):
        image = photo(*size, value)
        seed(value)
        found = ours({"img": image.copy(), "sample_idx": 3})
        seed(value)
        expected = theirs({"img": image.copy(), "sample_idx": 3})
        assert len(found["img"]) == len(expected["img"]) == 2
        for one, other in zip(found["img"], expected["img"], strict=True):
            np.testing.assert_array_equal(one, other)
        assert set(found) - set(expected) == {"crops"}


def geometry(scale=24, flip=0.5, direction="horizontal"):
    view = [
        dict(type="mmsalmask.RandomResizedCrop", scale=scale),
        dict(type="RandomFlip", prob=flip, direction=direction),
    ]
    return Compose(
        [
            dict(type="mmsalmask.MultiView", num_views=2, transforms=[view]),
            dict(type="mmsalmask.PackInputs"),
        ]
    )


@pytest.mark.parametrize("size", [(60, 80), (200, 30), (25, 140)])
def test_the_recorded_box_and_flip_make_the_view_again(size):
    image, flips = photo(*size), []
    for value in range(12):
        seed(value)
        packed = geometry()({"img": image.copy(), "sample_idx": 7})
        crops = packed["crops"]
        assert crops["image"] == 7
        assert crops["box"].dtype == torch.float32
        for view, box, flip in zip(packed["inputs"], crops["box"], crops["flip"], strict=True):
            x0, y0, x1, y1 = (box * torch.tensor([size[1], size[0]] * 2)).round().int().tolist()
            again = mmcv.imresize(image[y0:y1, x0:x1], (24, 24), interpolation="bilinear")
            again = again[:, ::-1] if flip else again
            np.testing.assert_array_equal(view.permute(1, 2, 0).numpy(), again)
            flips.append(bool(flip))
    assert 0.25 < np.mean(flips) < 0.75


def test_crops_pass_both_collate_functions():
    items = [geometry()({"img": photo(40, 50, i), "sample_idx": i}) for i in range(3)]
    batch = default_collate(items)["crops"]
    assert torch.equal(batch["image"], torch.arange(3))
    assert batch["box"].shape == (3, 2, 4)
    assert batch["flip"].shape == (3, 2)
    assert batch["flip"].dtype == torch.bool
    single = pseudo_collate(items)["crops"]
    assert list(single["image"]) == [0, 1, 2]
    assert [box.shape for box in single["box"]] == [(2, 4)] * 3


def test_an_image_of_no_dataset_has_no_position():
    assert geometry()({"img": photo(40, 50)})["crops"]["image"] == -1


def test_views_of_other_crops_say_nothing():
    view = [dict(type="mmpretrain.RandomResizedCrop", scale=24)]
    multi = TRANSFORMS.build(dict(type="mmsalmask.MultiView", num_views=2, transforms=[view]))
    assert "crops" not in multi({"img": photo(40, 50), "sample_idx": 0})


def test_a_view_that_is_upside_down_is_refused():
    with pytest.raises(InputError, match="flipped in direction 'vertical'"):
        geometry(flip=1.0, direction="vertical")({"img": photo(40, 50), "sample_idx": 0})


# ------------------------------------------------------------------------- positions, fingerprints


@pytest.fixture
def folder(tmp_path):
    for i in range(9):
        path = tmp_path / "set" / str(i % 3) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo(8, 9, i)).save(path)
    return tmp_path / "set"


def keep(results):
    datasets.LoadImage()(results)
    return results


def test_a_position_counts_in_the_whole_folder_also_in_a_subset(folder):
    whole = datasets.ImageFolder(str(folder))
    paths = {whole.get_data_info(i)["img_path"]: i for i in range(9)}
    part = datasets.ImageFolder(str(folder), indices=[7, 2, 5])
    later = whole.get_subset([8, 1]).get_subset([1])
    for dataset in (whole, part, later):
        for i in range(len(dataset)):
            info = dataset.get_data_info(i)
            assert info["sample_idx"] == paths[info["img_path"]]
    assert [part.get_data_info(i)["sample_idx"] for i in range(3)] == [7, 2, 5]
    assert datasets.fingerprint(part) == datasets.fingerprint(later) == datasets.fingerprint(whole)


def test_a_broken_image_has_the_position_of_its_replacement(folder):
    dataset = datasets.ImageFolder(str(folder), pipeline=[keep])
    broken = dataset.get_data_info(4)["img_path"]
    with open(broken, "wb") as file:
        file.write(b"no image")
    item = dataset[4]
    assert item["img_path"] != broken
    assert dataset.get_data_info(item["sample_idx"])["img_path"] == item["img_path"]


def test_a_fingerprint_is_that_of_names_order_and_sizes(folder, tmp_path):
    before = datasets.fingerprint(datasets.ImageFolder(str(folder)))
    moved = folder.rename(tmp_path / "moved")
    again = datasets.ImageFolder(str(moved) + "/", with_label=True)
    assert datasets.fingerprint(again) == before
    (moved / "0" / "0.png").write_bytes(b"another size")
    resized = datasets.fingerprint(datasets.ImageFolder(str(moved)))
    (moved / "0" / "0.png").rename(moved / "0" / "00.png")
    renamed = datasets.fingerprint(datasets.ImageFolder(str(moved)))
    (moved / "0" / "00.png").unlink()
    fewer = datasets.fingerprint(datasets.ImageFolder(str(moved)))
    assert [f["images"] for f in (before, resized, renamed, fewer)] == [9, 9, 9, 8]
    assert len({f["digest"] for f in (before, resized, renamed, fewer)}) == 4


def test_a_dataset_of_mmpretrain_is_known_by_its_paths(folder):
    from mmpretrain.datasets import CustomDataset

    dataset = CustomDataset(data_root=str(folder), with_label=False)
    ours = datasets.ImageFolder(str(folder))
    assert datasets.fingerprint(dataset) == datasets.fingerprint(ours)


def test_a_dataset_of_datasets_has_no_positions(folder):
    from mmengine.dataset import ConcatDataset

    with pytest.raises(InputError, match="needs a plain dataset, not a ConcatDataset"):
        datasets.fingerprint(ConcatDataset([datasets.ImageFolder(str(folder))] * 2))


@pytest.mark.parametrize("name", ["mocov2", "simclr"])
def test_crops_of_the_pipelines_are_antialiased(name):
    pipeline = load_config(str(CONFIGS / f"{name}_views.py")).train_pipeline
    crop = TRANSFORMS.build({**pipeline[1].transforms[0][0], "crop_ratio_range": (0.9, 1.0)})
    # Every other column is white: what shrinks it by more than two has to mix them.
    stripes = np.zeros((1200, 1200, 3), np.uint8)
    stripes[:, ::2] = 255
    seed(0)
    view = crop.transform({"img": stripes})["img"].astype(float)
    assert view.std() < 30
    assert abs(view.mean() - 127) < 5
