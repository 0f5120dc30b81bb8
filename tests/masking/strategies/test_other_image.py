"""A masked patch shows another image: one image at a time."""

import numpy as np
import pytest
import torch
from registered import masker_for, some_views

from mmsalmask.errors import InputError
from mmsalmask.masking import MeanFill, OtherImage


def reference(strategy, views, mask, where, role, generator):
    last = len(views) - 1
    return np.stack([np.where(mask[i], views[last - i], views[i]) for i in range(len(views))])


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("number", [6, 5])
def test_a_mixed_query_shows_its_partner_of_the_same_view_and_says_how_much(both, number):
    query, key = some_views(number, (64, 64)), some_views(number, (64, 64), 1)
    mixing = masker_for(OtherImage(), hard_negatives=0, grid=8, query_ratio=(0.2, 0.8))
    masked = mixing(query, key, both_directions=both)
    assert torch.equal(masked.key, torch.cat([key, query]) if both else key)
    for direction, view in enumerate([query, key][: 1 + both]):
        for image in range(number):
            row, partner = direction * number + image, number - 1 - image
            mask = masked.query_mask[row].expand(3, -1, -1)
            assert torch.equal(masked.query[row][mask], view[partner][mask])
            assert torch.equal(masked.query[row][~mask], view[image][~mask])
            assert torch.equal(masked.mixture.clean[row], view[image])
            assert masked.mixture.partner[row] == partner
            kept = 1 - mask.float().mean()
            assert masked.mixture.kept[row].item() == pytest.approx(kept.item())
    assert masked.mixture.kept.std() > 0.05


def test_the_clean_query_and_the_mixture_come_only_where_they_are_asked_for():
    query, key = some_views(), some_views(seed=1)
    alone = masker_for(OtherImage(with_clean=False), hard_negatives=0)(query, key)
    assert alone.mixture.clean is None
    assert masker_for(MeanFill())(query, key).mixture is None


@pytest.mark.parametrize("options", [dict(hard_negatives=1), dict(masked_views="both")])
def test_keys_and_hard_negatives_are_not_mixed(options):
    with pytest.raises(InputError, match="OtherImage mixes queries of two images"):
        masker_for(OtherImage(), **{"hard_negatives": 0, **options})
