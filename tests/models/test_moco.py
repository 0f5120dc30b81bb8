import copy

import pytest
import references
import torch
import torch.nn.functional as F
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from torch import nn

from mmsalmask.errors import InputError
from mmsalmask.models import MaskedMoCo, MaskingDataPreprocessor

BACKBONE = dict(type="mmpretrain.ResNet", depth=18, base_channels=8, stem_channels=8)
NECK = dict(
    type="mmpretrain.MoCoV2Neck",
    in_channels=64,
    hid_channels=16,
    out_channels=8,
    with_avg_pool=True,
)
HEAD = dict(type="mmsalmask.HardNegativeContrastiveHead", temperature=0.2, penalty=2.0)
PLAIN = dict(type="mmsalmask.MaskingDataPreprocessor")


def moco(**options) -> MaskedMoCo:
    torch.manual_seed(0)
    settings = dict(queue_len=12, feat_dim=8, momentum=0.9, data_preprocessor=copy.deepcopy(PLAIN))
    model = MaskedMoCo(
        copy.deepcopy(BACKBONE), copy.deepcopy(NECK), copy.deepcopy(HEAD), **{**settings, **options}
    )
    model.init_weights()
    return model


def views(number=4, count=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(number, 3, 32, 32, generator=generator) for _ in range(count)]


def embed(encoder, view):
    return F.normalize(encoder(view)[0], dim=1)


def running_means(module):
    return {name: b.clone() for name, b in module.named_buffers() if name.endswith("running_mean")}


@pytest.mark.parametrize("hard", [0, 1, 3])
def test_loss_is_the_papers_on_embeddings_computed_step_by_step(hard):
    model = moco()
    inputs = views(count=2 + hard)
    twin = copy.deepcopy(model)
    query = embed(nn.Sequential(twin.backbone, twin.neck), inputs[0]).detach()
    encoder = nn.Sequential(model.backbone, model.neck)
    for averaged, own in zip(twin.momentum_encoder.parameters(), encoder.parameters(), strict=True):
        averaged.data = 0.9 * averaged.data + 0.1 * own.data
    key = embed(twin.momentum_encoder, inputs[1]).detach()
    own = [embed(twin.momentum_encoder, view).detach() for view in inputs[2:]]
    expected = references.info_nce(
        query.double().numpy(),
        key.double().numpy(),
        model.queue.double().numpy(),
        torch.stack(own, 1).double().numpy() if own else None,
    )
    losses = model.loss(inputs, None)
    assert losses["loss"].item() == pytest.approx(expected, abs=1e-5)
    assert 0 <= losses["contrast_accuracy"].item() <= 100


def test_the_momentum_encoder_moves_with_the_first_of_the_batches_of_a_step():
    model, twin = moco(), moco()
    with torch.no_grad():
        for one in (model, twin):
            for parameter in one.backbone.parameters():
                parameter.add_(0.1)
    for starts in (True, False, False):
        model.starts_step = starts
        model.loss(views(), None)
    twin.loss(views(), None)
    for moved, expected in zip(
        model.momentum_encoder.parameters(), twin.momentum_encoder.parameters(), strict=True
    ):
        assert torch.equal(moved, expected)
    assert model.queue_pointer == 12 % len(model.queue)


def test_a_diverged_net_has_no_accuracy():
    model = moco()
    with torch.no_grad():
        model.backbone.conv1.weight.fill_(float("nan"))
    losses = model.loss(views(), None)
    assert losses["loss"].isnan()
    assert losses["contrast_accuracy"] == losses["hard_accuracy"] == 0


def test_contrast_accuracy_counts_queries_nearest_to_their_key():
    head = moco().head
    query = F.normalize(torch.eye(4, 8), dim=1)
    key = query.clone()
    key[3] = -key[3]
    losses = head.loss(query, key, -query)
    assert losses["contrast_accuracy"].item() == 75.0
    assert "hard_accuracy" not in losses


def test_hard_accuracy_counts_queries_nearer_to_their_key_than_to_their_hard_negatives():
    head = moco().head
    query = F.normalize(torch.eye(4, 8), dim=1)
    hard = torch.stack([-query, -query], dim=1)
    hard[0, 1] = query[0]
    losses = head.loss(query, query, -query, hard)
    assert losses["hard_accuracy"].item() == 75.0
    assert losses["contrast_accuracy"].item() == 100.0


def test_gradient_reaches_the_query_encoder_alone():
    model = moco()
    model.loss(views(), None)["loss"].backward()
    assert all(p.grad is not None for p in model.backbone.parameters())
    assert all(p.grad is not None for p in model.neck.parameters())
    assert all(p.grad is None for p in model.momentum_encoder.parameters())


def test_momentum_encoder_starts_as_a_copy_and_follows_slowly():
    model = moco()
    encoder = nn.Sequential(model.backbone, model.neck)
    pairs = list(zip(model.momentum_encoder.parameters(), encoder.parameters(), strict=True))
    assert all(torch.equal(averaged, own) for averaged, own in pairs)
    before = [averaged.clone() for averaged, _ in pairs]
    with torch.no_grad():
        for _, own in pairs:
            own.add_(1.0)
    model.loss(views(), None)
    for old, (averaged, own) in zip(before, pairs, strict=True):
        assert torch.allclose(averaged, 0.9 * old + 0.1 * own, atol=1e-6)
        assert not averaged.requires_grad


def test_momentum_encoder_keeps_batchnorm_statistics_of_its_own():
    model = moco()
    query, key = views(count=2)
    model.loss([query, key + 5.0], None)
    encoder = nn.Sequential(model.backbone, model.neck)
    own, averaged = running_means(encoder), running_means(model.momentum_encoder)
    assert own.keys() == averaged.keys()
    assert not any(torch.equal(own[name], averaged[name]) for name in own)


def test_hard_negative_passes_the_momentum_encoder_on_its_own():
    """One forward per view: batch statistics of key and hard negative do not mix."""
    model = moco()
    batches = []
    model.momentum_encoder.register_forward_hook(lambda _, args, __: batches.append(args[0]))
    inputs = views(count=4)
    model.loss(inputs, None)
    assert len(batches) == 3
    assert all(torch.equal(seen, given) for seen, given in zip(batches, inputs[1:], strict=True))


def test_keys_enter_the_queue_in_order_around_its_end_and_hard_negatives_do_not():
    model = moco(queue_len=10)
    ring, pointer = model.queue.clone(), 0
    for step in range(6):
        number = (4, 4, 3, 4, 2, 3)[step]  # no divisor of the queue, and a partial batch
        keys = []
        handle = model.momentum_encoder.register_forward_hook(
            lambda _, __, out, keys=keys: keys.append(F.normalize(out[0], dim=1))
        )
        model.loss(views(number, seed=step), None)
        handle.remove()
        for row in keys[0]:
            ring[pointer % 10] = row
            pointer += 1
        assert torch.allclose(model.queue, ring)
        assert model.queue_pointer.item() == pointer % 10


def test_a_batch_longer_than_the_queue_leaves_its_newest_keys():
    model = moco(queue_len=3)
    keys = []
    model.momentum_encoder.register_forward_hook(
        lambda _, __, out: keys.append(F.normalize(out[0], dim=1))
    )
    model.loss(views(5, count=2), None)
    assert sorted(model.queue[:, 0].tolist()) == pytest.approx(sorted(keys[0][2:, 0].tolist()))


def test_the_queue_holds_unit_vectors():
    model = moco()
    model.loss(views(), None)
    assert torch.allclose(model.queue.norm(dim=1), torch.ones(12), atol=1e-5)


def test_a_step_lowers_the_loss_of_the_same_batch():
    model = moco(momentum=0.999)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    images = [(view * 40 + 120).clamp(0, 255) for view in views(8, count=2)]
    losses = []
    for _ in range(15):
        model.queue.copy_(F.normalize(torch.ones_like(model.queue), dim=1))
        data = {"inputs": [image.clone() for image in images], "data_samples": [None]}
        losses.append(model.train_step(data, wrapper)["loss"].item())
    assert losses[-1] < losses[0] - 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(queue_len=0), "queue_len must be an integer of at least 1"),
        (dict(momentum=99), "stays, in \\[0, 1\\]"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        moco(**options)


def test_a_model_is_built_under_any_default_scope():
    DefaultScope.get_instance("another", scope_name="mmengine")
    model = MaskedMoCo(dict(BACKBONE), dict(NECK), dict(HEAD), queue_len=12, feat_dim=8)
    assert isinstance(model.data_preprocessor, MaskingDataPreprocessor)


def test_a_temperature_of_zero_is_refused_by_the_head():
    with pytest.raises(InputError, match="temperature must be positive"):
        MaskedMoCo(dict(BACKBONE), dict(NECK), dict(HEAD, temperature=0))
