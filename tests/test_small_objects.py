import numpy as np
import pytest
from PIL import Image
from small_objects import FEATHER, zoomed_out, zoomed_photos


def noise(side: int, seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (side // 6, side // 6, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_the_photo_lies_small_in_its_own_corner(share):
    photo, side, places = noise(48, 0), 48, set()
    corners = [photo[y : y + 16, x : x + 16] for y in (0, 32) for x in (0, 32)]
    for seed in range(12):
        whole, inside = zoomed_out(photo, share, np.random.default_rng(seed))
        rows, columns = inside.any(1).nonzero()[0], inside.any(0).nonzero()[0]
        assert inside.sum() == len(rows) * len(columns) == round(share * side) ** 2
        places.add((rows[0], columns[0]))
        core = np.ix_(rows[FEATHER:-FEATHER], columns[FEATHER:-FEATHER])
        shrunk = np.asarray(Image.fromarray(photo).resize([len(rows)] * 2, Image.BICUBIC))
        kept = slice(FEATHER, -FEATHER)
        assert np.array_equal(whole[core], shrunk[kept, kept])
        around = [np.pad(part, [(0, 32), (0, 32), (0, 0)], "symmetric") for part in corners]
        assert any(np.array_equal(whole[~inside], other[~inside]) for other in around)
    assert len(places) > 6


def test_photos_are_drawn_by_seed_and_number(tmp_path):
    for name in ("a/1.jpg", "b/2.jpg"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(noise(48, 1)).save(tmp_path / name)
    first, again, other = (list(zoomed_photos(tmp_path, seed=seed)) for seed in (0, 0, 1))
    assert [str(path) for path, *_ in first] == ["a/1.jpg", "b/2.jpg"]
    for one, two in zip(first, again, strict=True):
        assert np.array_equal(one[1], two[1])
    assert not np.array_equal(first[0][1], first[1][1])
    assert not np.array_equal(first[0][1], other[0][1])
