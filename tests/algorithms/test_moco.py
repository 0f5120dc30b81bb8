import copy
import math

import pytest
import references
import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from running import train_and_close
from system.comparing import differences
from torch import nn

from mmsalmask.algorithms import MaskedMoCo, MaskingDataPreprocessor
from mmsalmask.algorithms import moco as module
from mmsalmask.algorithms.heads import HardNegativeContrastiveHead
from mmsalmask.algorithms.split_norm import SplitBatchNorm1d, SplitBatchNorm2d, split_batch_norm
from mmsalmask.checkpoint import load_checkpoint, revive
from mmsalmask.engine import ExactRunner
from mmsalmask.errors import InputError
from mmsalmask.masking import Mixture

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


@pytest.mark.parametrize("penalty", [0.0, -1.0])
def test_a_penalty_without_effect_leaves_no_hard_accuracy(penalty):
    query = F.normalize(torch.eye(4, 8), dim=1)
    head = HardNegativeContrastiveHead(penalty=penalty)
    assert "hard_accuracy" not in head.loss(query, query, -query, query[:, None])


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


def test_a_key_that_is_not_finite_leaves_the_old_row():
    model = moco(queue_len=10)
    before, inputs = model.queue.clone(), views(count=2)
    inputs[1][0, 0, 0, 0] = float("inf")  # by BatchNorm, it spoils all keys of the batch
    assert model.loss(inputs, None)["loss"].isnan()
    assert torch.equal(model.queue, before)
    model.loss(views(count=2), None)
    assert model.queue.isfinite().all()
    assert not torch.equal(model.queue, before)
    keys = F.normalize(torch.randn(3, model.queue.shape[1]), dim=1)
    keys[1, 2] = float("nan")
    place, before = model.queue_pointer.item(), model.queue.clone()
    model._enqueue(keys)
    rows = [(place + i) % 10 for i in range(3)]
    assert torch.equal(model.queue[rows], torch.stack([keys[0], before[rows[1]], keys[2]]))


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
        (dict(momentum=(0.9, 1.1)), "stays, in \\[0, 1\\]"),
        (dict(symmetric="no"), "symmetric must be True or False"),
        (
            dict(symmetric=True, data_preprocessor=dict(type="mmpretrain.SelfSupDataPreprocessor")),
            "symmetric=True needs a preprocessor that hands on both directions",
        ),
        (dict(bn_splits=0), "bn_splits must be an integer of at least 1"),
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


# -------------------------------------------------------------------------------- symmetric loss


def both_ways(inputs):
    """What the preprocessor hands on: each view as the query and as the key; hard negatives."""
    first, second, *hard = inputs
    return [torch.cat([first, second]), torch.cat([second, first]), *hard]


def test_a_symmetric_loss_is_the_mean_of_both_directions_each_encoded_on_its_own():
    model = moco(symmetric=True, momentum=1.0)
    first, second, hard_of_second, hard_of_first = views(count=4)
    twin = copy.deepcopy(model)
    encoder, expected, keys = nn.Sequential(twin.backbone, twin.neck), [], []
    for query, key, hard in ((first, second, hard_of_second), (second, first, hard_of_first)):
        rows = [
            embed(net, view).detach()
            for net, view in (
                (encoder, query),
                (twin.momentum_encoder, key),
                (twin.momentum_encoder, hard),
            )
        ]
        query, key, hard = (row.double().numpy() for row in rows)
        queue = model.queue.double().numpy()
        expected.append(references.info_nce(query, key, queue, hard[:, None]))
        keys.append(rows[1])
    inputs = both_ways([first, second, torch.cat([hard_of_second, hard_of_first])])
    assert model.loss(inputs)["loss"].item() == pytest.approx(sum(expected) / 2, abs=1e-5)
    assert abs(expected[0] - expected[1]) > 1e-3
    assert torch.allclose(model.queue[:8], torch.cat(keys), atol=1e-6)
    assert model.queue_pointer.item() == 8
    for name, mean in running_means(model.momentum_encoder).items():
        assert torch.allclose(mean, running_means(twin.momentum_encoder)[name], atol=1e-6)


def test_the_gradient_of_a_symmetric_loss_is_the_mean_of_both_directions():
    def gradient(inputs, **options):
        model = moco(momentum=1.0, **options)
        model.loss(inputs)["loss"].backward()
        return torch.cat([p.grad.flatten() for p in model.backbone.parameters()])

    first, second = views(count=2)
    mean = (gradient([first, second]) + gradient([second, first])) / 2
    assert torch.allclose(gradient(both_ways([first, second]), symmetric=True), mean, atol=1e-5)


def test_a_symmetric_model_asks_its_preprocessor_for_both_directions():
    """Plain MoCo, from raw views to the loss; the queue takes the keys of both."""
    model = moco(symmetric=True)
    seen = []
    model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.train_step(
        {"inputs": views(count=2), "data_samples": None},
        OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)),
    )
    assert all(torch.equal(*pair) for pair in zip(seen, views(count=2), strict=True))
    assert model.queue_pointer.item() == 8
    with pytest.raises(InputError, match=r"a symmetric loss takes a query .*gives 3 views"):
        model.data_preprocessor({"inputs": views(count=3), "data_samples": None}, True)


# ------------------------------------------------------------------------------- mixed queries


@pytest.mark.parametrize("with_clean", [True, False])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_loss_of_mixed_queries_asks_for_both_images_in_proportion(with_clean, symmetric):
    """λ_i·L(q_i, k_i) + (1 − λ_i)·L(q_i, k_partner), and the clean query's, one query at a time."""
    model = moco(symmetric=symmetric, momentum=1.0)
    twin = copy.deepcopy(model)
    queue = model.queue.double().numpy()
    encoder = nn.Sequential(twin.backbone, twin.neck)
    kept, partner = torch.tensor([0.1, 0.4, 0.9, 1.0]), torch.tensor([3, 2, 1, 0])
    directions = [views(count=3, seed=seed) for seed in ((1, 2) if symmetric else (1,))]
    expected = []
    for mixed, key, clean in directions:
        mixed, clean = (embed(encoder, view).detach().double().numpy() for view in (mixed, clean))
        key = embed(twin.momentum_encoder, key).detach().double().numpy()

        def loss(queries, i, j, key=key):
            return references.info_nce(queries[i : i + 1], key[j : j + 1], queue)

        for i in range(4):
            share = kept[i].item()
            expected.append(share * loss(mixed, i, i) + (1 - share) * loss(mixed, i, partner[i]))
            expected[-1] += loss(clean, i, i) if with_clean else 0
    mixed, key, clean = (torch.cat(parts) for parts in zip(*directions, strict=True))
    times = len(directions)
    mixture = Mixture(kept.repeat(times), partner.repeat(times), clean if with_clean else None)
    losses = model([mixed, key], mode="loss", mixture=mixture)
    assert losses["loss"].item() == pytest.approx(sum(expected) / len(expected), abs=1e-5)
    assert ("mixed_accuracy" in losses) == with_clean
    losses["loss"].backward()
    assert model.queue_pointer.item() == 4 * times


def test_a_mixed_batch_goes_from_raw_views_to_the_loss():
    masker = dict(
        type="mmsalmask.SaliencyMasker",
        strategy=dict(type="mmsalmask.OtherImage"),
        patches="block",
        grid=8,
        query_ratio=(0.5, 0.5),
        hard_negatives=0,
    )
    model = moco(data_preprocessor=dict(PLAIN, masker=masker), momentum=1.0)
    seen, contrasts = [], []
    model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    original = model.head.loss
    model.head.loss = lambda *args: contrasts.append(args) or original(*args)
    inputs = views(count=2)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    model.train_step({"inputs": inputs, "data_samples": None}, wrapper)
    mixed, clean = seen
    assert torch.equal(clean, inputs[0])
    other = (mixed != clean).any(1, keepdim=True)
    assert torch.equal(mixed, torch.where(other, clean.flip(0), clean))
    (first, key, *_, kept), (second, flipped, *_, rest), _ = contrasts
    assert torch.equal(first, second)
    assert torch.equal(flipped, key.flip(0))
    assert torch.allclose(kept, 1 - other.float().mean((1, 2, 3)))
    assert torch.allclose(kept + rest, torch.ones(4))


# -------------------------------------------------------------------------------- local crops


@pytest.mark.parametrize("symmetric", [False, True])
def test_local_crops_are_further_queries_of_the_same_key(symmetric):
    """The mean of L(q, k) and of L(crop, k) over the crops, one crop of the batch at a time."""
    model = moco(symmetric=symmetric, momentum=1.0)
    twin = copy.deepcopy(model)
    queue = model.queue.double().numpy()
    encoder = nn.Sequential(twin.backbone, twin.neck)
    directions = [views(count=2, seed=seed) for seed in ((1, 2) if symmetric else (1,))]
    crops = [torch.randn(8, 3, 16, 16) for _ in directions]
    expected, right = [], []
    for (query, key), cut in zip(directions, crops, strict=True):
        query, cut = (embed(encoder, view).detach().double() for view in (query, cut))
        key = embed(twin.momentum_encoder, key).detach().double()
        for queries in (query, *cut.chunk(2)):
            expected.append(references.info_nce(queries.numpy(), key.numpy(), queue))
        nearer = (cut * key.repeat(2, 1)).sum(1) > (cut @ model.queue.double().T).max(1).values
        right.append(100 * nearer.double().mean().item())
    query, key = (torch.cat(parts) for parts in zip(*directions, strict=True))
    losses = model([query, key], mode="loss", local_crops=torch.cat(crops))
    assert losses["loss"].item() == pytest.approx(sum(expected) / len(expected), abs=1e-5)
    assert losses["local_accuracy"].item() == pytest.approx(sum(right) / len(right), abs=1e-3)
    losses["loss"].backward()
    assert model.queue_pointer.item() == 4 * len(directions)


def test_local_crops_teach_the_encoder_and_leave_the_running_statistics_to_whole_views():
    query, key = views(count=2)
    crops = torch.randn(8, 3, 16, 16)
    with_crops, without = moco(), moco()
    with_crops([query, key], mode="loss", local_crops=crops)["loss"].backward()
    without([query, key], mode="loss")["loss"].backward()
    assert not torch.allclose(
        with_crops.backbone.conv1.weight.grad, without.backbone.conv1.weight.grad
    )
    kept = running_means(without)
    assert all(torch.equal(mean, kept[name]) for name, mean in running_means(with_crops).items())


def test_a_batch_with_local_crops_goes_from_raw_views_to_the_loss():
    masker = dict(
        type="mmsalmask.SaliencyMasker",
        strategy=dict(type="mmsalmask.MeanFill"),
        localizer=dict(type="mmsalmask.BoundaryPriorSaliency"),
        hard_negatives=1,
        local_crops=2,
    )
    model = moco(data_preprocessor=dict(PLAIN, masker=masker))
    seen = []
    model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    logged = model.train_step({"inputs": views(count=2), "data_samples": None}, wrapper)
    assert seen == [(4, 3, 32, 32), (8, 3, 16, 16)]
    assert {"local_accuracy", "hard_accuracy"} <= set(logged)


# ------------------------------------------------------------------------------ BatchNorm groups


def loop_batch_norm(layer, x, splits):
    """Each group through the layer on its own, and the statistics that the mean of them leaves."""
    out, left = torch.empty_like(x), []
    for group in range(splits):
        own = copy.deepcopy(layer)
        out[group::splits] = own(x[group::splits])
        left.append(torch.stack([own.running_mean, own.running_var]))
    return out, torch.stack(left).mean(0)


@pytest.mark.parametrize("layout", ["1d", "2d", "channels last"])
def test_batch_norm_in_groups_normalises_each_by_its_own_statistics(layout):
    torch.manual_seed(0)
    x = torch.randn(12, 5) * 3 + 1 if layout == "1d" else torch.randn(12, 5, 4, 6) * 3 + 1
    if layout == "channels last":
        x = x.contiguous(memory_format=torch.channels_last)
    plain = nn.BatchNorm1d(5) if layout == "1d" else nn.BatchNorm2d(5)
    nn.init.normal_(plain.weight)
    nn.init.normal_(plain.bias)
    split = copy.deepcopy(plain)
    split_batch_norm(split, 3)
    inputs = [x.clone(memory_format=torch.preserve_format).requires_grad_() for _ in range(2)]
    expected, statistics = loop_batch_norm(plain, inputs[0], 3)
    found = split(inputs[1])
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, plain(x), atol=1e-2)
    assert found.stride() == x.stride()
    assert torch.allclose(torch.stack([split.running_mean, split.running_var]), statistics)
    assert split.num_batches_tracked == 1
    for out in (expected, found):
        (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    assert torch.allclose(inputs[0].grad, inputs[1].grad, atol=1e-5)


def test_batch_norm_in_groups_evaluates_and_is_saved_as_without():
    plain, split = moco(), moco(bn_splits=2)
    kinds = {type(layer) for layer in split.modules() if isinstance(layer, nn.BatchNorm2d)}
    assert kinds == {SplitBatchNorm2d}
    states = plain.state_dict(), split.state_dict()
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    split.loss(views(8, 2))["loss"].backward()
    plain.load_state_dict(split.state_dict())
    (view,) = views(3, 1)
    assert torch.equal(plain.eval().backbone(view)[0], split.eval().backbone(view)[0])


def test_batch_norm_of_the_neck_runs_in_groups_too():
    neck = dict(
        type="mmpretrain.NonLinearNeck",
        in_channels=64,
        hid_channels=16,
        out_channels=8,
        norm_cfg=dict(type="BN1d"),
    )
    model = MaskedMoCo(dict(BACKBONE), neck, dict(HEAD), 12, 8, bn_splits=4)
    for part in (model.neck, model.momentum_encoder):
        assert any(isinstance(layer, SplitBatchNorm1d) for layer in part.modules())


def test_keys_and_hard_negatives_are_permuted_and_put_back():
    model = moco(bn_splits=2)
    shown = []
    model.momentum_encoder.register_forward_pre_hook(lambda _, args: shown.append(args[0]))
    inputs = views(8, 3)
    plain = copy.deepcopy(model)
    plain.bn_splits = 1  # the same groups without a permutation
    torch.manual_seed(3)
    model.loss(inputs)
    for seen, given in zip(shown, inputs[1:], strict=True):
        assert not torch.equal(seen, given)
        assert sorted(seen.flatten(1).sum(1).tolist()) == sorted(given.flatten(1).sum(1).tolist())
    # Evaluating encoders treat each image alone, so a key lands where its image was.
    torch.manual_seed(0)
    again, ordered = model.eval(), plain.eval()
    ordered.load_state_dict(again.state_dict())
    for one in (again, ordered):
        one.loss(inputs)
    assert torch.allclose(again.queue, ordered.queue, atol=1e-6)


@pytest.mark.parametrize("number", [6, 4])
def test_a_batch_that_does_not_divide_into_groups_is_refused(number):
    with pytest.raises(InputError, match=f"4 groups of at least two, got one of {number} images"):
        moco(bn_splits=4).loss(views(number, 2))


@pytest.mark.parametrize(
    ("norm", "found"), [(dict(type="GN", num_groups=4), "none"), (dict(type="SyncBN"), "SyncBatch")]
)
def test_groups_of_other_norms_are_refused(norm, found):
    with pytest.raises(InputError, match=f"bn_splits=2 divides .* the encoder has {found}"):
        MaskedMoCo(dict(BACKBONE, norm_cfg=norm), dict(NECK), dict(HEAD), 12, 8, bn_splits=2)


def test_groups_of_a_cumulative_average_are_refused():
    with pytest.raises(InputError, match="momentum=None: give it a number"):
        split_batch_norm(nn.BatchNorm2d(4, momentum=None), 2)


def test_over_several_processes_batch_norm_is_left_alone_and_the_log_says_so(monkeypatch):
    told = []
    monkeypatch.setattr(module, "get_world_size", lambda: 2)
    monkeypatch.setattr(module, "print_log", lambda message, *_: told.append(message))
    model = moco(bn_splits=8)
    assert model.bn_splits == 1
    assert not any(isinstance(layer, SplitBatchNorm2d) for layer in model.modules())
    assert "bn_splits=8 is for a single process and stays off" in told[0]


# ------------------------------------------------------------------------------------ whole runs


class Views(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        pair = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
        return {"inputs": [view + index for view in pair], "data_samples": index}


class Watch(Hook):
    """The share of the momentum encoder that stayed in each iteration; may cut the power."""

    def __init__(self, cut=None):
        self.cut, self.shares = cut, []

    @staticmethod
    def _weights(model):
        nets = model.momentum_encoder[1], model.neck
        return [net.mlp[2].weight.detach().clone() for net in nets]

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.averaged, self.own = self._weights(runner.model)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        now = self._weights(runner.model)[0]
        before = self.averaged - self.own
        self.shares.append(((now - self.own).norm() / before.norm()).item())
        if runner.iter + 1 == self.cut:
            raise KeyError("power")


def run(folder, name, hook, resume=None):
    masker = dict(
        type="mmsalmask.SaliencyMasker",
        strategy=dict(type="mmsalmask.MeanFill"),
        localizer=dict(type="mmsalmask.BoundaryPriorSaliency"),
        grid=4,
    )
    runner = ExactRunner(
        moco(
            symmetric=True,
            bn_splits=2,
            momentum=(0.5, 1.0),
            data_preprocessor=dict(PLAIN, masker=masker),
        ),
        work_dir=str(folder / name),
        train_dataloader={
            "batch_size": 4,
            "num_workers": 0,
            "sampler": {"type": "DefaultSampler", "shuffle": True},
            "collate_fn": {"type": "default_collate"},
            "dataset": Views(),
        },
        train_cfg=dict(by_epoch=True, max_epochs=3),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1, momentum=0.9)),
        default_hooks=dict(
            checkpoint=dict(type="mmsalmask.SafeCheckpointHook", interval=2, by_epoch=False)
        ),
        custom_hooks=[hook],
        load_from=resume,
        resume=resume is not None,
        randomness=dict(seed=5),
        experiment_name=f"{folder.name}_{name}",
    )
    train_and_close(runner)


def test_a_run_with_all_options_resumes_exactly_and_its_momentum_follows_a_cosine(tmp_path):
    whole, rest = Watch(), Watch()
    run(tmp_path, "whole", whole)
    with pytest.raises(KeyError, match="power"):
        run(tmp_path, "cut", Watch(cut=3))
    run(tmp_path, "cut", rest, resume=str(tmp_path / "cut" / "iter_2.pth"))
    ends = [load_checkpoint(tmp_path / name / "iter_6.pth") for name in ("whole", "cut")]
    assert list(differences(*(revive(end)["state_dict"] for end in ends))) == []
    # In the first step both encoders are the same, so no share shows.
    expected = [1 - 0.5 * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)]
    assert whole.shares[1:] == pytest.approx(expected[1:], abs=1e-4)
    assert rest.shares == whole.shares[2:]


def test_a_momentum_that_changes_needs_to_know_how_long_the_run_is(monkeypatch):
    monkeypatch.setattr(module.MessageHub, "_instance_dict", {})
    with pytest.raises(InputError, match="no runner says how long that is"):
        moco(momentum=(0.9, 1)).loss(views())
