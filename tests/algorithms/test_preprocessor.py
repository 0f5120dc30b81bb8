import copy

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmpretrain.registry import MODELS as MMPRETRAIN
from torch import nn

from mmsalmask.algorithms import MaskedMoCo, MaskingDataPreprocessor
from mmsalmask.errors import InputError
from mmsalmask.masking import MeanFill, SaliencyMasker
from mmsalmask.registry import MODELS

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
SMALL = dict(type="mmpretrain.ResNet", depth=18, base_channels=8, stem_channels=8)
NECK = dict(
    type="mmpretrain.MoCoV2Neck",
    in_channels=64,
    hid_channels=16,
    out_channels=8,
    with_avg_pool=True,
)


@pytest.fixture
def localizer(tmp_path):
    """Config of a backbone localizer with weights on disk."""
    torch.manual_seed(3)
    net = MMPRETRAIN.build(dict(SMALL, out_indices=(2,)))
    torch.save({"state_dict": net.state_dict()}, tmp_path / "net.pth")
    return dict(
        type="mmsalmask.BackboneSaliency",
        backbone=dict(SMALL, out_indices=(2,)),
        checkpoint=str(tmp_path / "net.pth"),
    )


def masker(localizer, **options):
    return dict(
        type="mmsalmask.SaliencyMasker",
        strategy=dict(type="mmsalmask.MeanFill"),
        localizer=localizer,
        grid=4,
        **options,
    )


def preprocessor(masker=None):
    return dict(
        type="mmsalmask.MaskingDataPreprocessor", masker=masker, mean=MEAN, std=STD, to_rgb=True
    )


def batch(number=4, count=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    views = [
        torch.randint(0, 256, (number, 3, 64, 64), dtype=torch.uint8, generator=generator)
        for _ in range(count)
    ]
    return {"inputs": views, "data_samples": [None] * number}


def moco(localizer, **options):
    return MaskedMoCo(
        copy.deepcopy(SMALL),
        copy.deepcopy(NECK),
        dict(type="mmsalmask.HardNegativeContrastiveHead"),
        queue_len=16,
        feat_dim=8,
        data_preprocessor=preprocessor(masker(localizer, **options)),
    )


def test_views_are_converted_and_normalised_then_masked(localizer):
    data = batch()
    query, key, hard = MODELS.build(preprocessor(masker(localizer)))(data, True)["inputs"]
    rgb = data["inputs"][1].flip(1).float()
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    assert torch.allclose(key, (rgb - mean) / std, atol=1e-5)
    seen = (data["inputs"][0].flip(1).float() - mean) / std
    masked = ~torch.isclose(query, seen, atol=1e-5)
    assert 0.02 < masked.float().mean() < 0.3
    assert 0 < (hard != key).float().mean() < 0.75


def test_without_a_masker_two_views_stay_two():
    data = MODELS.build(preprocessor())(batch(), True)
    assert len(data["inputs"]) == 2


def test_one_batch_is_normalised_for_feature_extraction(localizer):
    build = MODELS.build(preprocessor(masker(localizer)))
    single = build({"inputs": batch()["inputs"][0], "data_samples": None})["inputs"]
    assert single.shape == (4, 3, 64, 64)


def test_a_third_view_is_refused(localizer):
    with pytest.raises(InputError, match="gives 3 views: set num_views=2"):
        MODELS.build(preprocessor(masker(localizer)))(batch(count=3), True)


def test_crops_reach_the_masker_by_view_and_the_model_not_at_all(localizer):
    data = batch()
    data["crops"] = dict(
        image=torch.tensor([5, 0, 2, 2]),
        box=torch.rand(4, 2, 4),
        flip=torch.tensor([[True, False]] * 4),
    )
    given = dict(data)
    build = MODELS.build(preprocessor(masker(localizer)))
    seen = []
    build.masker.register_forward_pre_hook(
        lambda _, __, options: seen.append(options["crops"]), with_kwargs=True
    )
    assert set(build(data, True)) == {"inputs", "data_samples"}
    assert data == given
    query, key = seen[0]
    for view, crops in enumerate((query, key)):
        assert torch.equal(crops.image, data["crops"]["image"])
        assert torch.equal(crops.box, data["crops"]["box"][:, view])
        assert torch.equal(crops.flip, data["crops"]["flip"][:, view])
    plain = MODELS.build(preprocessor())
    assert set(plain(data, True)) == {"inputs", "data_samples"}
    build(batch(), True)
    assert seen[1] is None


def test_misspelt_masker_options_are_refused(localizer):
    with pytest.raises(TypeError, match="grids"):
        MODELS.build(preprocessor(dict(masker(localizer), grids=7)))


def test_the_localizer_is_never_trained_nor_saved(localizer):
    """In no state dict, parameter list, optimizer or mode switch; its bytes stay as they were."""
    model = moco(localizer)
    net = model.data_preprocessor.masker.localizer.module
    before = copy.deepcopy(net.state_dict())
    own = {id(parameter) for parameter in net.parameters()}
    optimizer = build_optim_wrapper(
        model,
        dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.5, weight_decay=0.1)),
    )
    model.train()
    assert isinstance(optimizer, OptimWrapper)
    for step in range(3):
        model.train_step(batch(seed=step), optimizer)
    assert not own & {id(parameter) for parameter in model.parameters()}
    grouped = optimizer.optimizer.param_groups
    assert not own & {id(parameter) for group in grouped for parameter in group["params"]}
    assert not any("localizer" in name or "masker" in name for name in model.state_dict())
    assert not any(
        isinstance(module, SaliencyMasker) and list(module.state_dict())
        for module in model.modules()
    )
    assert not any(module.training for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())
    after = net.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_localizer_without_its_checkpoint_is_refused():
    config = dict(type="mmsalmask.BackboneSaliency", backbone=SMALL, checkpoint="/no/such.pth")
    with pytest.raises(InputError, match=r"/no/such\.pth"):
        MODELS.build(preprocessor(masker(config)))


def mlp(before, after, **options):
    return dict(
        type="NonLinearNeck",
        in_channels=before,
        hid_channels=16,
        out_channels=after,
        norm_cfg=dict(type="BN1d"),
        **options,
    )


SELF_SUPERVISED = {
    "BYOL": dict(
        neck=mlp(64, 16),
        head=dict(
            type="LatentPredictHead",
            loss=dict(type="CosineSimilarityLoss"),
            predictor=mlp(16, 16, with_avg_pool=False),
        ),
    ),
    "MoCoV3": dict(
        neck=mlp(64, 16),
        head=dict(
            type="MoCoV3Head",
            loss=dict(type="CrossEntropyLoss"),
            predictor=mlp(16, 16, with_avg_pool=False),
        ),
    ),
    "SimSiam": dict(
        neck=dict(
            type="NonLinearNeck",
            in_channels=64,
            hid_channels=16,
            out_channels=16,
            num_layers=2,
            with_last_bn_affine=False,
            with_avg_pool=True,
        ),
        head=dict(
            type="LatentPredictHead",
            loss=dict(type="CosineSimilarityLoss"),
            predictor=dict(
                type="NonLinearNeck",
                in_channels=16,
                hid_channels=8,
                out_channels=16,
                with_avg_pool=False,
            ),
        ),
    ),
    "BarlowTwins": dict(
        neck=dict(
            type="NonLinearNeck",
            in_channels=64,
            hid_channels=16,
            out_channels=16,
            num_layers=3,
            with_last_bn=False,
            with_avg_pool=True,
        ),
        head=dict(
            type="LatentCrossCorrelationHead",
            in_channels=16,
            loss=dict(type="CrossCorrelationLoss"),
        ),
    ),
    "MoCo": dict(
        queue_len=16,
        feat_dim=8,
        neck=dict(
            type="MoCoV2Neck", in_channels=64, hid_channels=16, out_channels=8, with_avg_pool=True
        ),
        head=dict(type="ContrastiveHead", loss=dict(type="CrossEntropyLoss"), temperature=0.2),
    ),
}


@pytest.mark.parametrize("algorithm", SELF_SUPERVISED)
def test_mmpretrains_algorithms_train_on_a_masked_and_a_clean_view(localizer, algorithm):
    """Symmetric losses show the encoders both views, MoCo's query encoder the masked one alone."""
    config = dict(
        type=f"mmpretrain.{algorithm}",
        backbone=dict(SMALL, type="ResNet"),
        data_preprocessor=preprocessor(masker(localizer, hard_negatives=0)),
        _scope_="mmpretrain",
        **copy.deepcopy(SELF_SUPERVISED[algorithm]),
    )
    model = MMPRETRAIN.build(config)
    assert isinstance(model.data_preprocessor, MaskingDataPreprocessor)
    # Momentum that follows a cosine asks how long the run is.
    MessageHub.get_current_instance().update_info("max_iters", 10)
    masked, seen, targets = [], [], []
    model.data_preprocessor.masker.register_forward_hook(lambda *call: masked.append(call[2]))
    model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    target = getattr(model, "target_net", getattr(model, "momentum_encoder", None))
    if target is not None:
        target.register_forward_pre_hook(lambda _, args: targets.append(args[0]))
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01))
    weights = copy.deepcopy(model.backbone.state_dict())
    model.train()
    losses = model.train_step(batch(8), wrapper)
    assert torch.isfinite(losses["loss"])
    assert any(not torch.equal(weights[n], w) for n, w in model.backbone.state_dict().items())
    (views,) = masked
    assert views.query_mask.any()
    assert views.key_mask is None
    both = [views.query, views.key]
    for given, expected in (
        (seen, both[:1] if algorithm == "MoCo" else both),
        (targets, both if algorithm in ("BYOL", "MoCoV3") else []),
    ):
        assert len(given) == len(expected)
        assert all(torch.equal(*pair) for pair in zip(given, expected, strict=True))


def test_the_masker_reaches_the_device_of_the_views():
    class Watch(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weight", torch.ones(1))

        def forward(self, images):
            assert self.weight.device == images.device
            return images.mean(1)

    views = torch.zeros(2, 3, 28, 28, device="meta")
    SaliencyMasker(MeanFill(), Watch())(views, views)
