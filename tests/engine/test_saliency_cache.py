"""The file that holds a saliency cache, and whose maps it says they are."""

import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmsalmask.engine.saliency_cache import open_cache, write_cache
from mmsalmask.errors import InputError


def manifest(images, **more):
    return {"dataset": {"images": images, "digest": "d"}, "localizer": {"type": "t"}, **more}


def test_the_file_is_a_safetensors_file_whose_maps_stay_in_it(tmp_path):
    maps, path = torch.randn(21, 4, 5).half(), tmp_path / "c.safetensors"
    write_cache(path, maps.split(8), (4, 5), manifest(21, size=64))
    cache = open_cache(path)
    assert torch.equal(cache.maps, maps)
    assert torch.equal(load_file(path)["maps"], maps)
    assert cache.manifest == manifest(21, size=64, format=2)
    with open("/proc/self/maps") as mapped:
        assert str(path) in mapped.read()
    assert [file.name for file in tmp_path.iterdir()] == ["c.safetensors"]


def test_a_cache_that_another_writer_made_of_format_2_loads(tmp_path):
    path, maps = tmp_path / "c.safetensors", torch.randn(3, 4, 5).half()
    text = json.dumps(manifest(3, format=2, size=320, normalisation={"mean": None}))
    save_file({"maps": maps}, path, {"mmsalmask_saliency": text})
    cache = open_cache(path)
    assert torch.equal(cache.maps, maps)
    cache.check_source(dataset={"images": 3, "digest": "d"}, normalisation={"mean": None})
    with pytest.raises(InputError, match=r"by \{'mean': None\}, here it is \{'mean': 1\}"):
        cache.check_source(normalisation={"mean": 1})


@pytest.mark.parametrize("parts", [[20], [21, 1], []])
def test_a_file_with_a_wrong_number_of_maps_is_not_left_behind(tmp_path, parts):
    path = tmp_path / "c.safetensors"
    path.write_bytes(b"old")
    maps = (torch.zeros(number, 4, 5).half() for number in parts)
    with pytest.raises(InputError, match="21 images"):
        write_cache(path, maps, (4, 5), manifest(21))
    assert [file.name for file in tmp_path.iterdir()] == ["c.safetensors"]
    assert path.read_bytes() == b"old"


def test_maps_of_another_shape_or_type_are_refused(tmp_path):
    for maps in (torch.zeros(2, 5, 4).half(), torch.zeros(2, 4, 5)):
        with pytest.raises(InputError, match="float16 maps of 4x5 cells"):
            write_cache(tmp_path / "c.safetensors", [maps], (4, 5), manifest(2))


def test_what_is_no_cache_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(InputError, match=r"there is no saliency cache .*make it with"):
        open_cache(tmp_path / "absent.safetensors")
    text = tmp_path / "text.safetensors"
    text.write_text("nothing of the kind, but long enough to hold a header")
    with pytest.raises(InputError, match="is no saliency cache, or a damaged one"):
        open_cache(text)
    other = tmp_path / "weights.safetensors"
    save_file({"weight": torch.zeros(3)}, other)
    with pytest.raises(InputError, match="is no saliency cache of this version"):
        open_cache(other)
    whole = tmp_path / "whole.safetensors"
    write_cache(whole, [torch.zeros(9, 4, 5).half()], (4, 5), manifest(9))
    short = tmp_path / "short.safetensors"
    short.write_bytes(whole.read_bytes()[:-7])
    with pytest.raises(InputError, match="is no saliency cache, or a damaged one"):
        open_cache(short)
    later = tmp_path / "later.safetensors"
    content = whole.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"]["mmsalmask_saliency"] = json.dumps(manifest(9, format=3))
    text = json.dumps(header).encode()
    later.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])
    with pytest.raises(InputError, match="format 3, wanted 2"):
        open_cache(later)


def test_a_cache_of_other_images_or_of_another_localizer_is_refused(tmp_path):
    write_cache(
        path := tmp_path / "c.safetensors", [torch.zeros(6, 4, 5).half()], (4, 5), manifest(6)
    )
    cache = open_cache(path)
    cache.check_source(dataset={"images": 6, "digest": "d"})
    with pytest.raises(InputError, match="made of 6 images, but the training data has 7"):
        cache.check_source(dataset={"images": 7, "digest": "d"})
    with pytest.raises(InputError, match="other images, as many but not the same"):
        cache.check_source(dataset={"images": 6, "digest": "e"})
    cache.check_source(localizer={"type": "t"})
    with pytest.raises(InputError, match=r"another localizer \(type: t, here u\)"):
        cache.check_source(localizer={"type": "u"})
    with pytest.raises(InputError, match=r"another localizer \(map_size: None, here 14\)"):
        cache.check_source(localizer={"type": "t", "map_size": 14})
