import pytest
import torch
import torch.nn.functional as F

from mmsalmask.errors import InputError
from mmsalmask.masking import HighPassNoise, MeanFill, SaliencyMasker
from mmsalmask.masking.local_crops import CANDIDATES, local_crops
from mmsalmask.visualization.gallery import describe

VIEWS = torch.arange(3 * 2 * 12 * 16.0).view(3, 2, 12, 16)  # every pixel is told by its value


def places(crops, number):
    """Image, top and left of every crop of VIEWS, found by their first pixel."""
    found = []
    for crop in crops:
        image, _, top, left = (crop[0, 0, 0] == VIEWS).nonzero()[0].tolist()
        assert torch.equal(crop, VIEWS[image, :, top : top + 6, left : left + 8])
        found.append((image, top, left))
    assert [image for image, *_ in found] == [0, 1, 2] * number
    return found


def loop(saliency, number, generator):
    """The most salient of the windows drawn, one crop at a time."""
    place = torch.rand(2, number, 3, CANDIDATES, generator=generator)
    found = []
    for crop in range(number):
        for image in range(3):
            drawn = [
                (int(7 * place[0, crop, image, draw]), int(9 * place[1, crop, image, draw]))
                for draw in range(CANDIDATES)
            ]
            means = [saliency[image, y : y + 6, x : x + 8].mean() for y, x in drawn]
            found.append((image, *drawn[means.index(max(means))]))
    return found


@pytest.mark.parametrize("cells", [(12, 16), (4, 4), (7, 5), (24, 32)])
def test_crops_are_the_most_salient_of_the_windows_drawn(cells):
    generator = torch.Generator().manual_seed(0)
    saliency = torch.randn(3, *cells, generator=generator)
    fine = F.interpolate(saliency[:, None], (12, 16), mode="bilinear")[:, 0]
    for seed in range(5):
        crops = local_crops(VIEWS, saliency, 2, torch.Generator().manual_seed(seed))
        assert places(crops, 2) == loop(fine, 2, torch.Generator().manual_seed(seed))


def test_half_precision_around_them_changes_no_place():
    saliency = torch.randn(3, 7, 7, generator=torch.Generator().manual_seed(0)).add(100.0)
    first, second = (torch.Generator().manual_seed(0) for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        crops = local_crops(VIEWS, saliency, 50, first)
    assert torch.equal(crops, local_crops(VIEWS, saliency, 50, second))


def test_crops_of_a_coarse_map_lie_on_its_object():
    saliency = torch.zeros(3, 4, 4)
    saliency[:, 2:, 2:] = 1.0
    generator = torch.Generator().manual_seed(0)
    on_object, anywhere = (
        torch.tensor(places(local_crops(VIEWS, map_, 200, generator), 200), dtype=torch.float)
        for map_ in (saliency, None)
    )
    # Of n uniform draws the largest is n / (n + 1) on average, of one the half.
    assert (on_object.mean(0)[1:] > torch.tensor([4.0, 5.4])).all()
    assert torch.allclose(anywhere.mean(0)[1:], torch.tensor([3.0, 4.0]), atol=0.4)
    assert set(anywhere[:, 1].tolist()) == set(range(7))
    assert set(anywhere[:, 2].tolist()) == set(range(9))


class Brightness(torch.nn.Module):
    def forward(self, views):
        return views[:, 0]


def test_a_masker_cuts_them_of_what_the_encoder_sees_of_the_clean_query():
    views = torch.zeros(2, 3, 8, 8)
    views[:, :, :4, :4] = 1.0
    masker = SaliencyMasker(MeanFill(), Brightness(), grid=4, hard_negatives=0, local_crops=3)
    masked = masker(views, views.flip(2, 3), torch.Generator().manual_seed(0))
    assert masked.local_crops.shape == (6, 3, 4, 4)
    assert masked.local_crops.mean() > 0.4  # 0.25 anywhere
    assert set(masked.local_crops.unique().tolist()) <= {0.0, 1.0}  # no fill
    both = masker(views, views.flip(2, 3), torch.Generator().manual_seed(0), both_directions=True)
    first, second = both.local_crops.chunk(2)
    assert torch.equal(first, masked.local_crops)
    assert second.shape == first.shape
    assert second.mean() > 0.4
    assert SaliencyMasker(MeanFill(), Brightness())(views, views).local_crops is None


def test_the_line_below_a_gallery_tells_them():
    options = dict(patches="random", hard_negatives=0)
    cutting = SaliencyMasker(HighPassNoise(), masked_views="none", local_crops=2, **options)
    told = describe(cutting).split("   ·   ")
    assert told == ["HighPassNoise", "7×7 patches", "nothing masked", "2 local crops"]
    assert not any(
        "crops" in part for part in describe(SaliencyMasker(MeanFill(), **options)).split("·")
    )


def test_a_number_that_is_none_is_refused():
    with pytest.raises(InputError, match=r"local_crops is a number of views per image, got -1"):
        SaliencyMasker(MeanFill(), patches="random", hard_negatives=0, local_crops=-1)
