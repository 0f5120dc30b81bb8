import mask_shares
import pytest
import torch


def test_both_sides_lose_their_share_by_default_and_the_published_counts_spare_the_background():
    saliency = torch.randn(60, 28, 28, generator=torch.Generator().manual_seed(0))
    rows = {
        (row["grid"], row["masks"], row["shares"]): row
        for row in mask_shares.measure(saliency, draws=20, seed=0)
    }
    assert len(rows) == 12
    for grid in (3, 7, 14):
        row = rows[grid, "patches", "equal"]
        assert row["query_fg"] == pytest.approx(15, abs=1)
        assert row["query_bg"] == pytest.approx(15, abs=1)
        assert rows[grid, "patches", "paper"]["query_bg"] < row["query_bg"] - 0.3
        assert rows[grid, "high-pass", "equal"]["hard_bg"] == 0
        assert rows[grid, "high-pass", "paper"]["hard_bg"] > 1
