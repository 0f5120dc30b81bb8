import copy
from itertools import pairwise, product

import pytest
import torch
import torch.nn.functional as F
from mmengine.model import MMDistributedDataParallel
from mmengine.model import MMSeparateDistributedDataParallel as SeparateDDP
from mmengine.registry import MODEL_WRAPPERS
from mmengine.runner import Runner
from torch import distributed as dist
from torch import nn

from mmsalmask.algorithms import ADIOSMoCo, ADIOSSimCLR, MaskUNet
from mmsalmask.algorithms.adios import ADIOSOptimWrapperConstructor
from mmsalmask.engine.resume.weights import open_gradients, put_back_gradients
from mmsalmask.errors import InputError
from mmsalmask.losses import area_penalty

SLOTS, SIZE = 3, 32
CONSTRUCTOR = "mmsalmask.algorithms.adios.ADIOSOptimWrapperConstructor"
PARTS = dict(
    backbone=dict(type="mmpretrain.ResNet", depth=18, base_channels=8, stem_channels=8),
    neck=dict(
        type="mmpretrain.MoCoV2Neck",
        in_channels=64,
        hid_channels=16,
        out_channels=8,
        with_avg_pool=True,
    ),
    mask_net=dict(type="mmsalmask.MaskUNet", size=SIZE, slots=SLOTS, channels=8),
    data_preprocessor=dict(type="mmsalmask.MaskingDataPreprocessor"),
)
KINDS = {
    "moco": (
        ADIOSMoCo,
        dict(
            head=dict(type="mmsalmask.HardNegativeContrastiveHead"),
            queue_len=16,
            feat_dim=8,
            momentum=0.9,
        ),
    ),
    "simclr": (ADIOSSimCLR, dict(head=dict(type="mmsalmask.NTXentHead"))),
}
every_kind = pytest.mark.parametrize("kind", list(KINDS))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Nets this small gain nothing by a second thread, and lose much on busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def adios(kind="moco", group_norm=False, **options):
    torch.manual_seed(0)
    algorithm, own = KINDS[kind]
    settings = copy.deepcopy({**PARTS, **own, "penalty_weight": 0.3, **options})
    if group_norm:
        settings["backbone"]["norm_cfg"] = dict(type="GN", num_groups=4)
    model = algorithm(**settings)
    model.init_weights()
    return model


def optimizers(model, lr=0.1, mask_lr=0.1, wrapper="OptimWrapper", **options):
    constructor = ADIOSOptimWrapperConstructor(
        dict(type=wrapper, optimizer=dict(type="SGD", lr=lr, momentum=0.9), **options),
        dict(mask_net=dict(optimizer=dict(type="SGD", lr=mask_lr))),
    )
    return constructor(model)


def images(number=4, seed=1):
    """Two batches of smooth, different pictures, as a collated batch."""
    generator = torch.Generator().manual_seed(seed)
    views = [
        F.interpolate(
            torch.randn(number, 3, 5, 5, generator=generator), (SIZE, SIZE), mode="bicubic"
        )
        for _ in range(2)
    ]
    return dict(inputs=views, data_samples=None)


def step(model, optim, number=4, seed=1):
    return model.train_step(images(number, seed), optim)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def moved(before, after):
    """Top-level parts of which any tensor differs, bit by bit."""
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def expected_loss(model, masks, data, kind):
    """The contrast of each slot, from the definition, on a copy of the model; their sum."""
    model = copy.deepcopy(model)
    view, clean_view = data["inputs"]
    encoder = nn.Sequential(model.backbone, model.neck)
    if kind == "moco":
        for averaged, own in zip(
            model.momentum_encoder.parameters(), encoder.parameters(), strict=True
        ):
            averaged.data = 0.9 * averaged.data + 0.1 * own.data
        clean = F.normalize(model.momentum_encoder(clean_view)[0], dim=1)
    else:
        clean = F.normalize(encoder(clean_view)[0], dim=1)
    total = 0
    for n in range(masks.shape[1]):
        hidden = view.clone()
        for b in range(len(view)):
            for channel in range(3):
                hidden[b, channel] -= view[b, channel] * masks[b, n]
        query = F.normalize(encoder(hidden)[0], dim=1)
        if kind == "moco":
            total = total + model.head.loss(query, clean, model.queue)["loss"]
        else:
            total = total + model.head.loss(query, clean)["loss"]
    return total.item()


# ------------------------------------------------------------------------------------ mask net


@pytest.mark.parametrize(
    ("size", "blocks"), [(32, 4), (33, 4), (48, 4), (64, 5), (224, 6), ((33, 50), 4), (7, 1)]
)
def test_mask_net_builds_for_any_size_and_shares_every_pixel_among_the_slots(size, blocks):
    net = MaskUNet(size=size, slots=4, channels=8)
    height, width = (size, size) if isinstance(size, int) else size
    masks = net(torch.randn(2, 3, height, width))
    assert len(net.down) == len(net.up) == blocks
    assert masks.shape == (2, 4, height, width)
    assert torch.allclose(masks.sum(1), torch.ones(2, height, width), atol=1e-5)
    assert masks.min() >= 0


# Channels in and out of each block, in multiples of c, as the original writes them out.
ORIGINAL = {
    32: ([(0, 1), (1, 2), (2, 2), (2, 2)], [(4, 2), (4, 2), (4, 1), (2, 1)]),
    63: ([(0, 1), (1, 2), (2, 2), (2, 2)], [(4, 2), (4, 2), (4, 1), (2, 1)]),
    64: ([(0, 1), (1, 1), (1, 2), (2, 2), (2, 2)], [(4, 2), (4, 2), (4, 1), (2, 1), (2, 1)]),
    224: (
        [(0, 1), (1, 1), (1, 1), (1, 2), (2, 2), (2, 2)],
        [(4, 2), (4, 2), (4, 1), (2, 1), (2, 1), (2, 1)],
    ),
}


@pytest.mark.parametrize("size", ORIGINAL)
def test_widths_of_the_mask_net_are_the_originals(size):
    net = MaskUNet(size=size, slots=6, channels=16)
    for blocks, expected in zip((net.down, net.up), ORIGINAL[size], strict=True):
        convolutions = [block[0] for block in blocks]
        shapes = [(conv.in_channels, conv.out_channels) for conv in convolutions]
        assert shapes == [(16 * before or 3, 16 * after) for before, after in expected]
    side = size >> (len(net.down) - 1)
    assert net.mlp[0].in_features == net.mlp[-2].out_features == 32 * side * side


def test_depth_of_the_mask_net_can_be_chosen():
    net = MaskUNet(size=32, slots=2, channels=8, blocks=2)
    assert len(net.down) == 2
    assert net(torch.randn(1, 3, 32, 32)).shape == (1, 2, 32, 32)


def test_mask_net_sees_detail_through_its_skips_and_the_whole_view_through_its_mlp():
    torch.manual_seed(0)
    net = MaskUNet(size=64, slots=2, channels=8)
    view = torch.randn(1, 3, 64, 64, requires_grad=True)
    (gradient,) = torch.autograd.grad(net(view)[0, 0, 5, 5], view)
    assert gradient[0, :, 5, 5].abs().sum() > 0
    net.up[-1].register_forward_pre_hook(  # cut what comes from below off: near pixels are left
        lambda _, args: (torch.cat([torch.zeros_like(args[0][:, :8]), args[0][:, 8:]], 1),)
    )
    (near,) = torch.autograd.grad(net(view)[0, 0, 5, 5], view)
    assert near[0, :, 5, 5].abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(slots=1), "at least two"),
        (dict(channels=12), "multiple of 8"),
        (dict(size=3), "4 px at least"),
        (dict(size=32, blocks=7), "no more blocks"),
    ],
)
def test_impossible_mask_nets_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        MaskUNet(**options)


def test_views_of_another_size_are_refused_with_the_key_to_set():
    with pytest.raises(InputError, match=r"set model\.mask_net\.size"):
        MaskUNet(size=32, channels=8)(torch.randn(1, 3, 48, 48))


# ------------------------------------------------------------------------------- the two phases


@every_kind
def test_first_phase_leaves_the_mask_net_and_second_phase_leaves_all_else_bitwise(kind):
    model, seen = adios(kind), {}
    optim = optimizers(model)
    start = state(model)
    first = optim["encoder"].update_params

    def update(loss):
        first(loss)
        seen["between"] = state(model)

    optim["encoder"].update_params = update
    model._end_batch = lambda clean: seen.update(end=state(model), grads=list(gradients(model)))
    step(model, optim)
    trained = {"backbone", "neck"}
    momentum = {"momentum_encoder"} if kind == "moco" else set()
    assert moved(start, seen["between"]) == trained | momentum
    assert moved(seen["between"], seen["end"]) == {"mask_net"}
    statistics = [name for name in start if name.endswith("running_mean")]
    assert any(not torch.equal(start[n], seen["between"][n]) for n in statistics)
    assert seen["grads"] == []  # what phase two would have left on the encoder


def gradients(model):
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not name.startswith("mask_net"):
            yield name


@every_kind
def test_after_a_step_the_encoder_is_thawed(kind):
    model = adios(kind)
    before = {n: p.requires_grad for n, p in model.named_parameters()}
    step(model, optimizers(model))
    assert {n: p.requires_grad for n, p in model.named_parameters()} == before
    assert all(m.track_running_stats for m in model.modules() if isinstance(m, nn.BatchNorm2d))


@every_kind
def test_loss_is_the_sum_over_slots_computed_by_hand_and_the_mask_net_gets_its_negative(kind):
    model, data = adios(kind), images()
    with torch.no_grad():
        masks = model.mask_net(data["inputs"][0])
    expected = expected_loss(model, masks, data, kind)
    # The encoder stays where it is, so both phases meet the same contrast: BatchNorm normalises by
    # the batch in both.
    logged = step(model, optimizers(model, lr=0.0))
    assert logged["loss"].item() == pytest.approx(expected, rel=1e-4)
    penalty = area_penalty(masks).item()
    assert logged["area_penalty"].item() == pytest.approx(penalty, rel=1e-5)
    assert logged["mask_loss"].item() == pytest.approx(0.3 * penalty - expected, rel=1e-4)
    areas = [logged[f"area_{n}"].item() for n in (1, 2, 3)]
    assert areas == pytest.approx(masks.mean((0, 2, 3)).tolist(), rel=1e-5)


@every_kind
def test_single_slot_draws_a_slot_per_image_and_phase_and_penalises_all(kind, monkeypatch):
    model, data = adios(kind, single_slot=True), images(6)
    drawn, draw = [], torch.randint

    def remember(*args, **options):
        drawn.append(draw(*args, **options))
        return drawn[-1]

    with torch.no_grad():
        masks = model.mask_net(data["inputs"][0])
    twin = copy.deepcopy(model)
    monkeypatch.setattr(torch, "randint", remember)
    logged = step(model, optimizers(model, lr=0.0), 6)
    assert len(drawn) == 2
    assert not torch.equal(*drawn)
    losses = [
        expected_loss(twin, torch.stack([masks[b, [n]] for b, n in enumerate(slots)]), data, kind)
        for slots in drawn
    ]
    assert logged["loss"].item() == pytest.approx(losses[0], rel=1e-4)
    penalty = area_penalty(masks).item()
    assert logged["mask_loss"].item() == pytest.approx(0.3 * penalty - losses[1], rel=1e-4)


@every_kind
@pytest.mark.parametrize("single_slot", [False, True])
def test_the_clean_view_is_encoded_once_per_phase_and_masks_are_computed_once(kind, single_slot):
    model, data = adios(kind, single_slot=single_slot), images()
    passed = {"backbone": [], "momentum_encoder": [], "mask_net": []}
    for name, views in passed.items():
        if hasattr(model, name):
            getattr(model, name).register_forward_pre_hook(
                lambda _, args, to=views: to.append(args)
            )
    model.train_step(data, optimizers(model))
    clean = data["inputs"][1]
    encoder = passed["momentum_encoder" if kind == "moco" else "backbone"]
    assert sum(torch.equal(view, clean) for (view,) in encoder) == 2
    masked = 2 * (1 if single_slot else SLOTS)
    assert len(passed["backbone"]) == masked + (2 if kind == "simclr" else 0)
    assert len(passed["mask_net"]) == 1


def test_keys_are_enqueued_once_and_after_both_phases():
    model, queues = adios(), []
    contrast = model.head.loss

    def loss(query, key, queue):
        queues.append(queue.clone())
        return contrast(query, key, queue)

    model.head.loss = loss
    start = model.queue.clone()
    step(model, optimizers(model))
    assert all(torch.equal(queue, start) for queue in queues)
    assert (model.queue != start).any(1).sum() == 4
    assert model.queue_pointer == 4


@every_kind
def test_each_net_moves_the_contrast_its_own_way(kind):
    """The encoder alone lowers it on a batch, the mask net alone raises it."""
    lowered = adios(kind, penalty_weight=0.0, momentum=1.0) if kind == "moco" else adios(kind)
    raised = copy.deepcopy(lowered)
    raised.penalty_weight = 0.0
    losses = {}
    for name, model, lr, mask_lr in (("down", lowered, 0.05, 0.0), ("up", raised, 0.0, 0.5)):
        model._end_batch = lambda clean: None
        optim = optimizers(model, lr, mask_lr)
        losses[name] = [step(model, optim, 8)["loss"].item() for _ in range(8)]
    assert losses["down"][-1] < losses["down"][0] - 0.05
    assert losses["up"][-1] > losses["up"][0] + 0.01


def test_the_penalty_hurts_the_mask_net():
    model = adios(penalty_weight=100.0)
    with torch.no_grad():  # slot 1 covers nearly everything
        model.mask_net.head.bias[0] = 5.0
    optim = optimizers(model, lr=0.0, mask_lr=1e-5)
    penalties = [step(model, optim)["area_penalty"].item() for _ in range(10)]
    assert penalties[-1] < 0.9 * penalties[0]


# ----------------------------------------------------------------------------- both at once


def gradients_of_a_step(kind, monkeypatch, **options):
    """What a step without learning leaves on every parameter, half of it: two are accumulated."""
    model = adios(kind, **options)
    optim = optimizers(model, lr=0.0, mask_lr=0.0, accumulative_counts=2)
    with monkeypatch.context() as patch:  # both phases, and both ways, draw the same slots
        patch.setattr(torch, "randint", lambda high, size, **_: torch.arange(*size) % high)
        logged = step(model, optim)
    return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}, logged


@every_kind
@pytest.mark.parametrize("single_slot", [False, True])
def test_at_once_the_gradients_are_those_of_the_two_phases(kind, single_slot, monkeypatch):
    runs = [
        gradients_of_a_step(kind, monkeypatch, single_slot=single_slot, simultaneous=simultaneous)
        for simultaneous in (False, True)
    ]
    (phases, logged), (once, logged_once) = runs
    assert logged.keys() == logged_once.keys()
    for name, value in logged.items():
        assert logged_once[name].item() == pytest.approx(value.item(), rel=1e-5), name
    largest = {name: gradient.abs().max().item() for name, gradient in phases.items()}
    for name, gradient in phases.items():
        assert torch.allclose(once[name], gradient, atol=1e-7 + 1e-4 * largest[name]), name
    assert all(
        any(largest[n] > 1e-3 for n in largest if part in n) for part in ("neck", "mask_net")
    )


@every_kind
@pytest.mark.parametrize("single_slot", [False, True])
def test_at_once_each_slot_and_the_clean_view_are_encoded_once(kind, single_slot):
    model, passed = adios(kind, single_slot=single_slot, simultaneous=True), []
    model.backbone.register_forward_pre_hook(lambda _, args: passed.append(args))
    step(model, optimizers(model))
    assert len(passed) == (1 if single_slot else SLOTS) + (kind == "simclr")


def test_at_once_the_graph_of_one_slot_lives_at_a_time():
    class Saved:
        live = most = 0

        def __init__(self, tensor):
            self.tensor = tensor
            Saved.live += tensor.nbytes
            Saved.most = max(Saved.most, Saved.live)

        def __del__(self):
            Saved.live -= self.tensor.nbytes

    most = {}
    for simultaneous in (False, True):
        for slots in (2, 6):
            mask_net = dict(PARTS["mask_net"], slots=slots)
            model = adios(mask_net=mask_net, simultaneous=simultaneous)
            Saved.live = Saved.most = 0
            with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
                step(model, optimizers(model))
            most[simultaneous, slots] = Saved.most
    assert most[True, 6] < 1.1 * most[True, 2]
    assert most[False, 6] > 2 * most[False, 2]


# ------------------------------------------------------- accumulation, precision, many processes


def accumulate(kind, lr, mask_lr, sizes, simultaneous=False):
    """The model after an update from these batches, of one set of images cut in order."""
    own = dict(momentum=1.0) if kind == "moco" else {}
    model = adios(kind, group_norm=True, simultaneous=simultaneous, **own)
    model._end_batch = lambda clean: None  # the second batch would meet the first as negatives
    optim = optimizers(model, lr, mask_lr, accumulative_counts=len(sizes))
    views = [view.split(sizes) for view in images(sum(sizes))["inputs"]]
    for pair in zip(*views, strict=True):
        model.train_step(dict(inputs=list(pair), data_samples=None), optim)
    return model


@pytest.mark.parametrize(
    ("lr", "mask_lr", "part", "simultaneous"),
    [
        (0.5, 0.5, "backbone", False),
        (0.0, 0.5, "mask_net", False),
        (0.5, 0.5, "backbone", True),
        (0.5, 0.5, "mask_net", True),
    ],
)
def test_two_accumulated_batches_are_one_of_twice_the_size(lr, mask_lr, part, simultaneous):
    """The mask net's in two phases where the encoder stands still: it steps between them else."""
    parts = [getattr(accumulate("moco", lr, mask_lr, s, simultaneous), part) for s in ([4, 4], [8])]
    start = getattr(adios("moco", group_norm=True, momentum=1.0), part)
    two, one, before = (
        torch.cat([p.detach().flatten() for p in net.parameters()]) for net in (*parts, start)
    )
    assert torch.allclose(two, one, atol=1e-6, rtol=1e-4)
    assert (one - before).abs().max() > 1e-3


def test_a_last_incomplete_round_of_accumulation_is_not_lost():
    model = adios()
    optim = optimizers(model, accumulative_counts=2)
    optim.initialize_count_status(model, 0, 3)
    snapshots = [state(model)]
    for seed in range(3):
        step(model, optim, seed=seed)
        snapshots.append(state(model))
    changes = [{"mask_net", "neck"} & moved(*pair) for pair in pairwise(snapshots)]
    assert changes == [set(), {"mask_net", "neck"}, {"mask_net", "neck"}]


@every_kind
@pytest.mark.parametrize("simultaneous", [False, True])
@pytest.mark.parametrize("dtype", ["Float16", "BFloat16"])
def test_sixteen_bits_stay_finite_and_near_float32(kind, dtype, simultaneous):
    full, half = (adios(kind, simultaneous=simultaneous) for _ in range(2))
    exact = step(full, optimizers(full))
    logged = step(half, optimizers(half, wrapper=f"mmsalmask.{dtype}OptimWrapper"))
    assert all(torch.isfinite(value).all() for value in logged.values())
    assert all(torch.isfinite(p).all() for p in half.parameters())
    assert logged["loss"].item() == pytest.approx(exact["loss"].item(), rel=0.05)
    assert logged["loss"] != exact["loss"]


@every_kind
def test_at_once_the_scale_of_a_float16_loss_leaves_no_trace(kind):
    """The mask net's gradient is taken from the encoder's scaled one."""
    nets = {}
    for scale in (1.0, 1024.0):
        model = adios(kind, simultaneous=True)
        options = dict(wrapper="mmsalmask.Float16OptimWrapper", loss_scale=scale)
        before = state(model)
        step(model, optimizers(model, **options))
        nets[scale] = {n: v - before[n] for n, v in state(model).items() if "mask_net" in n}
    for name, change in nets[1.0].items():
        assert torch.allclose(nets[1024.0][name], change, rtol=0.1, atol=1e-4), name
    assert max(change.abs().max() for change in nets[1.0].values()) > 1e-3


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for kind, simultaneous in product(KINDS, (False, True)):
        for counts in (1, 2):
            # Frozen parameters must not pass for unused ones where DDP looks for those.
            model = SeparateDDP(
                adios(kind, group_norm=True, simultaneous=simultaneous),
                find_unused_parameters=counts == 1,
            )
            model.module.init_weights()
            optim = optimizers(model, accumulative_counts=counts)
            for seed in range(2 * counts):
                joined = images(8, seed)["inputs"]
                own = [view[4 * rank : 4 * rank + 4] for view in joined]
                model.train_step(dict(inputs=own, data_samples=None), optim)
            torch.save(state(model.module), f"{folder}/{kind}_{simultaneous}_{counts}_{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gloo")
    torch.multiprocessing.spawn(work, args=(str(folder),), nprocs=2)
    return folder


@every_kind
@pytest.mark.parametrize("simultaneous", [False, True])
@pytest.mark.parametrize("counts", [1, 2])
def test_two_processes_stay_identical_and_equal_one_on_the_joined_batch(
    kind, simultaneous, counts, two_processes
):
    first, second = (
        torch.load(two_processes / f"{kind}_{simultaneous}_{counts}_{rank}.pt", weights_only=True)
        for rank in range(2)
    )
    assert moved(first, second) == set()
    model = adios(kind, group_norm=True, simultaneous=simultaneous)
    start = state(model)
    assert list(first) == list(start)  # a checkpoint does not tell how many processes wrote it
    optim = optimizers(model, accumulative_counts=counts)
    for seed in range(2 * counts):
        step(model, optim, 8, seed)
    assert moved(start, first) >= {"backbone", "neck", "mask_net"}
    for name, value in state(model).items():
        assert torch.allclose(first[name], value, atol=2e-5, rtol=1e-3), name


def test_the_usual_ddp_wrapper_is_refused_with_the_one_to_set(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/s", rank=0, world_size=1)
    try:
        model = MMDistributedDataParallel(adios())
        with pytest.raises(InputError, match="MMSeparateDistributedDataParallel"):
            model.train_step(images(), optimizers(model))
    finally:
        dist.destroy_process_group()
    assert MODEL_WRAPPERS.get("MMSeparateDistributedDataParallel") is SeparateDDP


def test_gradients_of_several_processes_are_taken_up_by_one(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/s", rank=0, world_size=1)
    try:
        model = SeparateDDP(adios(simultaneous=True))
        optim = optimizers(model, accumulative_counts=2)
        model.train_step(images(), optim)  # the first of two batches
        gradients = open_gradients(model.module, optim)
        expected = [p.grad for p in model.module.parameters() if p.grad is not None]
    finally:
        dist.destroy_process_group()
    alone = adios()
    put_back_gradients(alone, gradients)
    found = [p.grad for p in alone.parameters() if p.grad is not None]
    assert len(found) == len(expected) > 10
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    # As a checkpoint of an earlier version names them.
    gradient = torch.randn_like(alone.backbone.conv1.weight)
    put_back_gradients(alone, {"backbone.module.conv1.weight": gradient})
    assert torch.equal(alone.backbone.conv1.weight.grad, gradient)


# ------------------------------------------------------------------------------------ in a Runner


class Pictures(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        views = [(view[0] * 60 + 120).clamp(0, 255).byte() for view in images(1, index)["inputs"]]
        return dict(inputs=views, data_samples=torch.zeros(()))


def runner(folder, epochs, **options):
    return Runner(
        adios(),
        work_dir=str(folder),
        train_dataloader=dict(
            batch_size=4,
            num_workers=0,
            sampler=dict(type="DefaultSampler", shuffle=False),
            collate_fn=dict(type="default_collate"),
            dataset=Pictures(),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(
            type="OptimWrapper",
            optimizer=dict(type="SGD", lr=0.1, momentum=0.9),
            constructor=CONSTRUCTOR,
            paramwise_cfg=dict(mask_net=dict(optimizer=dict(type="SGD", lr=0.05, momentum=0.9))),
        ),
        param_scheduler=[dict(type="MultiStepLR", milestones=[1], by_epoch=True)],
        custom_hooks=[dict(type="mmsalmask.SlotGalleryHook", interval=1, images=2)],
        default_hooks=dict(logger=dict(type="LoggerHook", interval=1)),
        default_scope="mmpretrain",
        randomness=dict(seed=0),
        experiment_name=f"adios_{folder.name}",
        **options,
    )


def test_runner_resumes_both_optimizers_draws_slots_and_logs_them(tmp_path):
    whole = runner(tmp_path / "whole", 2)
    whole.train()
    resumed = runner(
        tmp_path / "rest", 2, resume=True, load_from=str(tmp_path / "whole" / "epoch_1.pth")
    )
    resumed.train()
    assert moved(state(whole.model), state(resumed.model)) == set()
    for name, lr in (("encoder", 0.01), ("mask_net", 0.005)):
        groups = [r.optim_wrapper[name].optimizer.state_dict() for r in (whole, resumed)]
        assert groups[0]["param_groups"][0]["lr"] == pytest.approx(lr)
        for one, two in zip(groups[0]["state"].values(), groups[1]["state"].values(), strict=True):
            assert torch.equal(one["momentum_buffer"], two["momentum_buffer"])
    pictures = sorted(path.name for path in (tmp_path / "whole" / "masks").iterdir())
    assert pictures == ["slots_epoch_1.png", "slots_epoch_2.png"]
    log = "\n".join(path.read_text() for path in (tmp_path / "whole").rglob("*.log"))
    for name in ("mask_loss: ", "area_penalty: ", "area_3: ", "encoder.lr: ", "mask_net.lr: "):
        assert name in log


def test_the_slot_gallery_is_refused_where_there_are_no_slots(tmp_path):
    train = runner(tmp_path, 1)
    del train.model.mask_net
    with pytest.raises(InputError, match="remove it from custom_hooks"):
        train.call_hook("before_train")


# --------------------------------------------------------------------------------- what is refused


def test_a_frozen_localizer_is_refused_at_build_time_with_the_reason():
    masker = dict(
        type="mmsalmask.SaliencyMasker",
        strategy=dict(type="mmsalmask.MeanFill"),
        localizer=dict(type="mmsalmask.BoundaryPriorSaliency"),
    )
    with pytest.raises(
        InputError, match=r"frozen localizer.*remove model\.data_preprocessor\.masker"
    ):
        adios(data_preprocessor=dict(type="mmsalmask.MaskingDataPreprocessor", masker=masker))


def test_a_penalty_that_would_reward_the_mask_net_is_refused():
    with pytest.raises(InputError, match="not negative"):
        adios(penalty_weight=-0.1)


def test_one_optimizer_for_both_nets_is_refused():
    model = adios()
    optim = optimizers(model)["encoder"]
    with pytest.raises(InputError, match=r"optim_wrapper\.constructor"):
        step(model, optim)
    with pytest.raises(InputError, match="optimizer of its own"):
        ADIOSOptimWrapperConstructor(dict(optimizer=dict(type="SGD", lr=0.1)))


def test_the_optimizers_share_nothing_and_leave_nothing_out():
    model = adios()
    optim = optimizers(model, clip_grad=dict(type="norm", max_norm=1.0))
    held = {
        name: {id(p) for g in wrapper.param_groups for p in g["params"]}
        for name, wrapper in optim.items()
    }
    assert held["mask_net"] == {id(p) for p in model.mask_net.parameters()}
    assert not held["mask_net"] & held["encoder"]
    assert held["mask_net"] | held["encoder"] == {id(p) for p in model.parameters()}
    assert all(wrapper.clip_grad_kwargs == dict(max_norm=1.0) for wrapper in optim.values())


def test_views_other_than_two_are_refused():
    data = images()
    data["inputs"].append(data["inputs"][0])
    model = adios()
    with pytest.raises(InputError, match="num_views=2"):
        model.train_step(data, optimizers(model))
