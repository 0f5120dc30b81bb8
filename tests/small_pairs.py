"""A small model that trains on small pairs of views, and the configs of its parts."""

import torch

BATCH, BATCHES = 4, 5


class Views(torch.utils.data.Dataset):
    """Pairs of noisy views with a bright square, as a pipeline hands them on."""

    def __init__(self, count: int = BATCH * BATCHES):
        generator = torch.Generator().manual_seed(0)
        self.views = torch.randint(
            0, 90, (count, 2, 3, 32, 32), dtype=torch.uint8, generator=generator
        )
        self.views[..., 8:20, 10:24] += 150

    def __len__(self):
        return len(self.views)

    def __getitem__(self, index):
        return {"inputs": list(self.views[index]), "data_samples": torch.tensor(index)}


def masker(strategy: str = "MeanFill", **options) -> dict:
    settings = dict(
        type="mmsalmask.SaliencyMasker",
        strategy=dict(type=f"mmsalmask.{strategy}"),
        localizer=dict(type="mmsalmask.BoundaryPriorSaliency"),
        grid=4,
    )
    return {**settings, **options}


def model(masking: dict | None) -> dict:
    return dict(
        type="mmsalmask.MaskedMoCo",
        queue_len=10,
        feat_dim=8,
        data_preprocessor=dict(
            type="mmsalmask.MaskingDataPreprocessor",
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            to_rgb=True,
            masker=masking,
        ),
        backbone=dict(type="mmpretrain.ResNet", depth=18, base_channels=8, stem_channels=8),
        neck=dict(
            type="mmpretrain.MoCoV2Neck",
            in_channels=64,
            hid_channels=8,
            out_channels=8,
            with_avg_pool=True,
        ),
        head=dict(type="mmsalmask.HardNegativeContrastiveHead"),
    )
