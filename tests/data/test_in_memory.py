"""Images decoded once: the same items, broken ones replaced, memory respected."""

import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Subset

from mmsalmask.data import ImageFolder, InMemory, LoadWhole, PackWhole, in_memory
from mmsalmask.data.in_memory import available_memory, resident_datasets
from mmsalmask.errors import InputError

PIPELINE = [dict(type="mmsalmask.LoadWhole", size=12), dict(type="mmsalmask.PackWhole")]


@pytest.fixture
def folder(tmp_path):
    """Seven photos, each of another size, the third of them broken."""
    rng = np.random.default_rng(0)
    for i in range(7):
        pixels = rng.integers(0, 256, (20 + i, 30 - i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    (tmp_path / "2.png").write_bytes(b"no image")
    return tmp_path


def config(folder, **options) -> dict:
    return dict(type="mmsalmask.ImageFolder", data_root=str(folder), pipeline=PIPELINE, **options)


def same(a, b) -> bool:
    return (
        torch.equal(a["inputs"], b["inputs"])
        and a["source"]["image"] == b["source"]["image"]
        and torch.equal(a["source"]["size"], b["source"]["size"])
        and a["data_samples"].metainfo == b["data_samples"].metainfo
    )


def test_items_are_those_of_the_dataset_itself(folder):
    """Broken images are replaced by the same others and marked where the hook looks for marks."""
    plain = ImageFolder(str(folder), pipeline=PIPELINE)
    held = InMemory(config(folder))
    held.full_init()
    assert held.dataset.broken.tolist() == [0, 0, 1, 0, 0, 0, 0]
    expected = [plain[i] for i in range(len(plain))]
    assert len(held) == 7
    assert all(same(held[i], expected[i]) for i in range(7))
    assert same(held[-1], expected[-1])
    assert held[2]["source"]["image"] != 2
    assert held.images.shape == (7, 3, 12, 12)
    assert held.images.dtype == torch.uint8


def test_files_are_read_once(folder):
    held = InMemory(config(folder))
    held.full_init()
    for path in folder.iterdir():
        path.unlink()
    held.full_init()
    assert [held[i]["source"]["image"] for i in (0, 6)] == [0, 6]


def test_workers_read_what_the_main_process_decoded(folder):
    held = InMemory(config(folder))
    held.full_init()
    for path in folder.iterdir():
        path.unlink()
    loader = DataLoader(held, 4, num_workers=1, collate_fn=default_collate)
    batches = list(loader)
    images = torch.cat([batch["inputs"] for batch in batches])
    order = torch.cat([batch["source"]["image"] for batch in batches])
    assert torch.equal(images, held.images[order])
    assert torch.equal(torch.cat([b["source"]["size"] for b in batches]), held.sizes[order])


def test_resident_items_are_positions(folder):
    held = InMemory(config(folder), resident=True)
    held.full_init()
    batch = default_collate([held[i] for i in (0, 2, 5)])
    assert batch["inputs"].dtype == torch.int64
    assert torch.equal(batch["inputs"], batch["source"]["image"])
    assert batch["inputs"].tolist()[::2] == [0, 5]
    assert batch["inputs"][1] != 2
    assert batch["source"]["size"].tolist()[0] == [20, 30]


def test_a_broken_image_is_an_error_in_test_mode(folder):
    with pytest.raises(InputError, match=r"2\.png cannot be read"):
        InMemory(config(folder, test_mode=True)).full_init()


def test_what_does_not_fit_is_refused_before_it_is_decoded(folder, monkeypatch):
    held = InMemory(config(folder))
    needed = 7 * 3 * 12**2
    monkeypatch.setattr(in_memory, "available_memory", lambda: needed)
    with pytest.raises(InputError, match=r"7 images of 12x12 px take .* does not fit"):
        held.full_init()
    monkeypatch.setattr(in_memory, "available_memory", lambda: 2 * needed)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(InputError, match="in each of 2 processes"):
        held.full_init()
    monkeypatch.setattr(in_memory, "available_memory", lambda: 3 * needed)
    held.full_init()
    assert held.images is not None


def test_the_memory_that_is_available_is_a_number_of_bytes():
    assert 2**24 < available_memory() < 2**50


def test_progress_is_told_with_the_time_that_is_left(folder, monkeypatch):
    told = []
    monkeypatch.setattr(in_memory, "_SECONDS_BETWEEN_REPORTS", -1)
    monkeypatch.setattr(in_memory.MMLogger.get_current_instance(), "info", told.append)
    InMemory(config(folder)).full_init()
    assert len(told) == 8
    assert "decoded 3 of 7 images (43 %)" in told[2]
    assert "minutes left" in told[2]
    assert "1 of them broken" in told[-1]


def test_a_dataset_or_pipeline_of_another_kind_is_refused(folder):
    with pytest.raises(InputError, match=r"begin with it"):
        InMemory(dict(config(folder), pipeline=[dict(type="mmsalmask.LoadImage")]))
    with pytest.raises(InputError, match="got ConcatDataset"):
        InMemory(ConcatDataset([ImageFolder(str(folder), pipeline=PIPELINE)]))


def test_resident_datasets_are_found_inside_wrappers(folder):
    resident = InMemory(config(folder), resident=True)
    other = InMemory(config(folder))
    assert list(resident_datasets(ConcatDataset([Subset(resident, [0, 1]), other]))) == [resident]
    assert list(resident_datasets(other.dataset)) == []


def test_a_file_of_no_dataset_has_no_position(folder):
    results = PackWhole()(LoadWhole(8)({"img_path": str(folder / "0.png")}))
    assert results["source"]["image"] == -1
    assert results["source"]["size"].tolist() == [20, 30]
