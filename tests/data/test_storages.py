"""Tar shards and Hugging Face datasets: made by others, damaged, changed, and a million of them."""

import copy
import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from storing import KINDS, stored
from torch.utils.data import DataLoader

from mmsalmask.data import ImageFolder, InMemory, PerClassSplit, fingerprint, pack
from mmsalmask.data.loading import EXTENSIONS
from mmsalmask.data.storage import TarShards, open_storage, tar_index, tar_shards
from mmsalmask.data.storage.names import Names
from mmsalmask.errors import InputError
from mmsalmask.evaluation.labelled import count_shared

LOAD = [{"type": "mmsalmask.LoadImage"}]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr("gc.collect", lambda: 0)


def png(level: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(stream, format="PNG")
    return stream.getvalue()


def labelled_folder(folder: Path, classes: int = 3, each: int = 4) -> Path:
    for label in range(classes):
        (folder / f"class{label}").mkdir(parents=True)
        for i in range(each):
            (folder / f"class{label}" / f"{i}.png").write_bytes(png(10 * label + i))
    return folder


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def levels(root, **options) -> list[int]:
    dataset = ImageFolder(str(root), LOAD, **options)
    return [int(dataset[i]["img"][0, 0, 0]) for i in range(len(dataset))]


# ---------------------------------------------------------------------------------- made by others


def test_packed_shards_are_known_as_the_folder_they_were_packed_from(tmp_path):
    folder = labelled_folder(tmp_path / "set")
    packed = pack(folder, tmp_path / "shards", shard_bytes=200)
    assert packed.images == 12
    assert packed.shards == len(list((tmp_path / "shards").glob("shard-*.tar"))) > 2
    for options in ({}, {"with_label": True}, {"indices": 5}):
        sides = [ImageFolder(str(root), LOAD, **options) for root in (folder, tmp_path / "shards")]
        assert fingerprint(sides[0]) == fingerprint(sides[1])
        assert fingerprint(sides[0])["images"] == 12
        assert levels(folder, **options) == levels(tmp_path / "shards", **options)


def test_webdataset_reads_what_is_packed_and_what_it_writes_is_read(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    pack(labelled_folder(tmp_path / "set"), tmp_path / "shards")
    (shard,) = (tmp_path / "shards").glob("*.tar")
    samples = list(webdataset.WebDataset(str(shard), shardshuffle=False))
    assert [sample["__key__"] for sample in samples[:2]] == ["class0/0", "class0/1"]
    assert samples[5]["png"] == png(11)
    (tmp_path / "written").mkdir()
    with webdataset.ShardWriter(f"{tmp_path}/written/%03d.tar", maxcount=4) as writer:
        for i in range(10):
            writer.write({"__key__": f"{i:04d}", "png": png(i), "cls": i % 3, "json": {"id": i}})
    dataset = ImageFolder(str(tmp_path / "written"), LOAD, with_label=True)
    assert dataset.metainfo["classes"] == ("0", "1", "2")
    assert dataset.get_gt_labels().tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert levels(tmp_path / "written", with_label=True) == [0, 3, 6, 9, 1, 4, 7, 2, 5, 8]
    assert levels(tmp_path / "written") == list(range(10))
    assert dataset.skipped == {".json": 10}


def test_img2dataset_lays_tables_and_captions_beside_its_shards(tmp_path):
    for number in range(2):
        keys = [f"{number:05d}{i:04d}" for i in range(3)]
        members = {}
        for i, key in enumerate(keys):
            members |= {f"{key}.jpg": png(number * 3 + i), f"{key}.txt": b"a", f"{key}.json": b"{}"}
        write_tar(tmp_path / f"{number:05d}.tar", members)
        (tmp_path / f"{number:05d}.parquet").write_bytes(b"PAR1")
        (tmp_path / f"{number:05d}_stats.json").write_text("{}")
    assert levels(tmp_path) == list(range(6))
    with pytest.raises(InputError, match=r"000000000\.jpg, .* have no class"):
        ImageFolder(str(tmp_path), with_label=True)


def test_words_are_classes_too_and_a_mask_is_no_image_of_its_own(tmp_path):
    words = {0: b"dog\n", 1: b"cat", 2: b"dog"}
    members = {}
    for i, word in words.items():
        members |= {f"./{i}.png": png(i), f"./{i}.seg.png": png(99), f"./{i}.cls": word}
    write_tar(tmp_path / "a.tar", members)
    dataset = ImageFolder(str(tmp_path), with_label=True)
    assert dataset.metainfo["classes"] == ("cat", "dog")
    assert levels(tmp_path, with_label=True) == [1, 0, 2]
    assert dataset.skipped == {".seg.png": 3}


def test_folders_of_numbers_are_words_in_shards_as_they_are_in_a_folder(tmp_path):
    for name in ("1", "2", "10"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "x.png").write_bytes(png(int(name)))
    pack(tmp_path / "set", tmp_path / "shards")
    sides = [ImageFolder(str(tmp_path / name), with_label=True) for name in ("set", "shards")]
    assert sides[0].metainfo["classes"] == sides[1].metainfo["classes"] == ("1", "10", "2")
    assert levels(tmp_path / "shards", with_label=True) == [1, 10, 2]
    labels, classes = tar_index._number(["2", None, "010", "2"])
    assert labels.tolist() == [2, -1, 10, 2]
    assert classes == tuple(map(str, range(11)))


def test_imagenets_tar_of_tars_is_read_in_place(tmp_path):
    inner = {}
    for label, wnid in enumerate(("n02", "n01")):
        images = {f"{wnid}_{i}.JPEG": png(10 * label + i) for i in range(3)}
        inner[f"{wnid}.tar"] = write_tar(tmp_path / f"{wnid}.tar", images).read_bytes()
        (tmp_path / f"{wnid}.tar").unlink()
    tar = write_tar(tmp_path / "ILSVRC2012_img_train.tar", inner)
    dataset = ImageFolder(str(tar), LOAD, with_label=True)
    assert dataset.metainfo["classes"] == ("n01", "n02")
    assert levels(tar, with_label=True) == [10, 11, 12, 0, 1, 2]
    assert dataset.get_data_info(0)["img_path"] == f"{tar}/n01/n01_0.JPEG"
    assert os.path.exists(tmp_path / ".ILSVRC2012_img_train.tar.mmsalmask-index")


def test_a_folder_with_images_and_a_tar_beside_them_is_a_folder(tmp_path):
    labelled_folder(tmp_path / "set", 1, 2)
    write_tar(tmp_path / "set" / "old.tar", {"x.png": png(77)})
    dataset = ImageFolder(str(tmp_path / "set"), LOAD)
    assert len(dataset) == 2
    assert dataset.skipped == {".tar": 1}


def test_parquet_files_and_plain_integers_as_labels(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    cells = [{"bytes": png(i), "path": None} for i in range(6)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    table = datasets.Dataset.from_dict(
        {"image": cells, "label": [1, 0, 2, 0, 1, 2]}, features=features
    )
    (tmp_path / "set").mkdir()
    table.to_parquet(tmp_path / "set" / "train.parquet")
    assert levels(tmp_path / "set", with_label=True) == [1, 3, 0, 4, 2, 5]
    pack(tmp_path / "set", tmp_path / "shards")
    (shard,) = (tmp_path / "shards").glob("*.tar")
    with tarfile.open(shard) as tar:
        assert tar.getnames() == [f"{i}.{kind}" for i in range(6) for kind in ("png", "cls")]
    assert levels(tmp_path / "shards", with_label=True) == [1, 3, 0, 4, 2, 5]
    splits = datasets.DatasetDict({"train": table, "test": table})
    splits.save_to_disk(tmp_path / "splits")
    with pytest.raises(InputError, match=r"several splits: .* for example .*splits/train"):
        ImageFolder(str(tmp_path / "splits"))
    table.remove_columns("image").save_to_disk(tmp_path / "text")
    with pytest.raises(InputError, match="no column of images, but label"):
        ImageFolder(str(tmp_path / "text"))


# ------------------------------------------------------------------------- what folders can do, too


@pytest.mark.parametrize("kind", KINDS)
def test_splits_memory_and_shared_images_work_in_every_storage(tmp_path, kind):
    root = stored(labelled_folder(tmp_path / "set"), kind)
    sides = [PerClassSplit(root, side, 3, 0, LOAD) for side in ("train", "test")]
    drawn = [[int(side[i]["img"][0, 0, 0]) for i in range(len(side))] for side in sides]
    folder = [PerClassSplit(str(tmp_path / "set"), s, 3, 0, LOAD) for s in ("train", "test")]
    assert drawn == [[int(s[i]["img"][0, 0, 0]) for i in range(len(s))] for s in folder]
    assert count_shared(*sides) == 0
    whole = ImageFolder(root, LOAD, with_label=True)
    assert count_shared(whole, sides[1]) == 3
    whole = dict(type="mmsalmask.LoadWhole", size=8), dict(type="mmsalmask.PackWhole")
    held = InMemory(ImageFolder(root, list(whole)))
    held.full_init()
    assert held.images[:, 0, 0, 0].tolist() == levels(root)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_path_in_a_storage_is_one_for_workers_and_messages(tmp_path, kind):
    root = stored(labelled_folder(tmp_path / "set"), kind)
    dataset = ImageFolder(root, [*LOAD, lambda results: results["img_path"]])
    paths = list(DataLoader(dataset, 4, num_workers=1, collate_fn=list))
    assert [type(path) for path in paths[0]] == [str] * 4
    assert paths[0][0].startswith(root + "/")
    path = dataset.get_data_info(0)["img_path"]
    assert copy.deepcopy(path).place == path.place


# ----------------------------------------------------------------------------- damaged and changed


def test_a_member_that_is_cut_or_gone_is_a_broken_image(tmp_path):
    pack(labelled_folder(tmp_path / "set"), tmp_path / "shards", shard_bytes=10**6)
    dataset = ImageFolder(str(tmp_path / "shards"), LOAD)
    (shard,) = (tmp_path / "shards").glob("*.tar")
    offset = int(dataset.data_list.storage.index.offsets[11])
    os.truncate(shard, offset + 5)
    item = dataset[11]
    assert item["sample_idx"] != 11
    assert [Path(path).name for path in dataset.broken_files()] == ["3.png"]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda path: os.truncate(path, 700), r"a\.tar cannot be read as a tar file \("),
        (lambda path: path.write_bytes(b"x" * 2000), r"a\.tar cannot be read as a tar file \("),
    ],
)
def test_a_shard_that_is_none_is_one_sentence(tmp_path, spoil, sentence):
    spoil(write_tar(tmp_path / "a.tar", {"1.png": png(1), "2.png": png(2)}))
    with pytest.raises(InputError, match=sentence) as caught:
        ImageFolder(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_compressed_shard_is_refused(tmp_path):
    write_tar(tmp_path / "a.tar", {"1.png": png(1)}, "w:gz")
    with pytest.raises(InputError, match="leave it uncompressed"):
        ImageFolder(str(tmp_path))


def test_links_and_hidden_members_are_left_out_and_other_kinds_told(tmp_path):
    with tarfile.open(write_tar(tmp_path / "a.tar", {"1.png": png(1), "._1.png": b""}), "a") as tar:
        link = tarfile.TarInfo("2.png")
        link.type, link.linkname = tarfile.SYMTYPE, "1.png"
        tar.addfile(link)
    write_tar(tmp_path / "b.tar", {"notes": b"", "3.png": png(3)})
    dataset = ImageFolder(str(tmp_path), LOAD)
    assert levels(tmp_path) == [1, 3]
    assert dataset.skipped == {"link": 1, "without extension": 1}
    write_tar(tmp_path / "c" / "c.tar", {"1.txt": b""})
    with pytest.raises(InputError, match=r"has no images: .* found 1 \.txt instead"):
        ImageFolder(str(tmp_path / "c"))


def test_the_index_is_made_once_and_again_when_a_shard_changes(tmp_path, monkeypatch):
    shard = write_tar(tmp_path / "a.tar", {"1.png": png(1)})
    built = []
    build = tar_index.build_index
    monkeypatch.setattr(tar_index, "build_index", lambda *args: built.append(args) or build(*args))
    assert levels(tmp_path) == levels(tmp_path) == [1]
    assert len(built) == 1
    status = shard.stat()
    write_tar(shard, {"1.png": png(2)})  # of the same size
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert levels(tmp_path) == [2]
    write_tar(tmp_path / "b.tar", {"2.png": png(5)})
    assert levels(tmp_path) == [2, 5]
    assert len(built) == 3
    assert levels(tmp_path, extensions=[".png"]) == [2, 5]
    assert len(built) == 4
    (tmp_path / ".mmsalmask-index").write_bytes(b"damaged")
    assert levels(tmp_path) == [2, 5]
    assert len(built) == 5


def test_beside_read_only_shards_the_index_goes_to_the_cache_folder(tmp_path, monkeypatch):
    write_tar(tmp_path / "a.tar", {"1.png": png(1)})
    write = tar_index.write_atomically

    def refuse(path, content):
        if Path(path).parent == tmp_path:
            raise tar_index.NotWritten(30, "Read-only file system", str(path))
        write(path, content)

    monkeypatch.setattr(tar_index, "write_atomically", refuse)
    assert levels(tmp_path) == [1]
    assert len(list((Path(os.environ["XDG_CACHE_HOME"]) / "mmsalmask" / "shards").iterdir())) == 1
    monkeypatch.setattr(tar_index, "build_index", lambda *_: pytest.fail("made again"))
    assert levels(tmp_path) == [1]


# ------------------------------------------------------------------------------------------ packing


def test_packing_is_whole_or_not_at_all_and_the_same_each_time(tmp_path):
    folder = labelled_folder(tmp_path / "set")
    (folder / "class0" / "away.png").symlink_to(folder / "nowhere")
    told = []
    packed = pack(folder, tmp_path / "a", 300, progress=lambda done, of: told.append((done, of)))
    assert packed.left_out == ["class0/away.png"]
    assert told[-1] == (13, 13)
    pack(folder, tmp_path / "b", 300)
    shards = [sorted((tmp_path / name).glob("*.tar")) for name in "ab"]
    assert [s.read_bytes() for s in shards[0]] == [s.read_bytes() for s in shards[1]]
    with pytest.raises(InputError, match=r"/a exists"):
        pack(folder, tmp_path / "a")
    with pytest.raises(ZeroDivisionError):
        pack(folder, tmp_path / "c", progress=lambda done, of: 1 // 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "set"]


def test_packing_keeps_the_classes_of_a_tar_and_of_a_dataset(tmp_path):
    members = {}
    for i, word in enumerate((b"dog", b"cat", b"dog")):
        members |= {f"{i}.png": png(i), f"{i}.cls": word}
    write_tar(tmp_path / "told" / "a.tar", {**members, "3.png": png(3)})
    pack(labelled_folder(tmp_path / "set"), tmp_path / "folders")
    roots = [tmp_path / "told", tmp_path / "folders"]
    for root, written in zip(roots, (3, 0), strict=True):
        pack(root, tmp_path / f"{root.name}-packed")
        sides = [
            open_storage(str(path), EXTENSIONS) for path in (root, tmp_path / f"{root.name}-packed")
        ]
        assert sides[0].classes == sides[1].classes
        assert sides[0].labels.tolist() == sides[1].labels.tolist()
        (shard,) = (tmp_path / f"{root.name}-packed").glob("*.tar")
        with tarfile.open(shard) as tar:
            assert sum(name.endswith(".cls") for name in tar.getnames()) == written


def test_rows_without_names_are_packed_with_their_class_or_left_out(tmp_path):
    datasets = pytest.importorskip("datasets")
    mpo = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), (level, 9, 9)) for level in (50, 60)]
    frames[0].save(mpo, format="MPO", save_all=True, append_images=frames[1:])
    contents = [png(1), mpo.getvalue(), b"no image"]
    table = datasets.Dataset.from_dict(
        {"image": [{"bytes": c, "path": None} for c in contents], "kind": [1, 0, 0]},
        features=datasets.Features(
            {"image": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog"])}
        ),
    )
    table.save_to_disk(tmp_path / "set")
    packed = pack(tmp_path / "set", tmp_path / "shards")
    assert (packed.images, packed.left_out) == (2, ["2"])
    dataset = ImageFolder(str(tmp_path / "shards"), LOAD, with_label=True, test_mode=True)
    assert dataset.metainfo["classes"] == ("cat", "dog")
    assert [Path(dataset.get_data_info(i)["img_path"]).name for i in (0, 1)] == ["1.jpg", "0.png"]
    assert abs(int(dataset[0]["img"][0, 0, 2]) - 50) < 4


def test_names_with_dots_keep_their_images(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.b.png").write_bytes(png(4))
    assert pack(tmp_path / "set", tmp_path / "shards").renamed == 1
    assert levels(tmp_path / "shards") == [4]
    (tmp_path / "set" / "a_b.png").write_bytes(png(5))
    with pytest.raises(InputError, match=r"a_b\.png .* would take them for one"):
        pack(tmp_path / "set", tmp_path / "more")


# ------------------------------------------------------------------------------------ many of them


def test_however_many_shards_a_process_keeps_a_handful_open(tmp_path):
    for number in range(20):
        write_tar(tmp_path / f"{number:02d}.tar", {f"{number}.png": png(number)})
    dataset = ImageFolder(str(tmp_path), LOAD)
    before = len(os.listdir("/proc/self/fd")) - len(tar_shards.OPEN_FILES)
    assert [int(dataset[i]["img"][0, 0, 0]) for i in range(20)] == list(range(20))
    assert len(tar_shards.OPEN_FILES) == tar_shards.MOST_OPEN
    assert len(os.listdir("/proc/self/fd")) == before + tar_shards.MOST_OPEN


def test_a_member_takes_so_many_bytes_and_they_lie_in_a_mapped_file(tmp_path):
    names = [f"n01440764/n01440764_{i:05d}.png" for i in range(200)]
    write_tar(tmp_path / "a.tar", {name: png(0) for name in names})
    storage = open_storage(str(tmp_path), EXTENSIONS)
    name = len(names[0]) + 1
    assert storage.index.nbytes == 200 * (name + 32)  # of a million such, 65 MB
    assert len(pickle.dumps(storage)) < 1000  # a spawned worker maps the file, too
    twin = pickle.loads(pickle.dumps(storage))
    assert isinstance(twin, TarShards)
    assert twin.read(199) == storage.read(199) == png(0)
    with open("/proc/self/maps") as maps:
        assert str(tmp_path / ".mmsalmask-index") in maps.read()
    dataset = ImageFolder(str(tmp_path), LOAD)
    listing = dataset.data_list
    assert listing.places.nbytes + listing.positions.nbytes + len(dataset.broken) == 200 * 9


def test_packed_names_are_the_names():
    texts = ["a", "", "ü/猫.jpg", "x" * 300, os.fsdecode(b"\xff\xfe.png")]
    names = Names.pack(texts)
    assert list(names) == texts
    assert names[-1] == texts[-1]
    order = np.array([3, 0, 4, 4])
    assert b"".join(names.encoded(order)) == b"".join(os.fsencode(texts[i]) + b"\0" for i in order)
    assert list(Names.pack([])) == []
