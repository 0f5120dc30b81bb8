import copy

import pytest
import torch
import torch.multiprocessing as multiprocessing
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper
from mmengine.structures import BaseDataElement
from mmpretrain.models import ResNet
from torch import nn

from mmsalmask.depth import DepthDecoder, Monodepth2, PoseNet, ResNetPyramid
from mmsalmask.depth.geometry import rigid_motion
from mmsalmask.depth.rendered_sequence import intrinsic_matrix
from mmsalmask.engine import BFloat16OptimWrapper
from mmsalmask.errors import InputError

torch.set_num_threads(1)
SIZE = (64, 96)


def resnet(depth=18, width=8, **options):
    return dict(
        type="mmsalmask.ResNetPyramid",
        depth=depth,
        stem_channels=width,
        base_channels=width,
        **options,
    )


def monodepth(**options) -> Monodepth2:
    torch.manual_seed(0)
    settings = dict(
        encoder=resnet(),
        decoder=dict(type="mmsalmask.DepthDecoder", channels=(4, 4, 8, 8, 8)),
        pose=dict(type="mmsalmask.PoseNet", channels=8, encoder=resnet()),
    )
    model = Monodepth2(**copy.deepcopy({**settings, **options}))
    model.init_weights()
    return model


def batch(number=2, seed=0):
    """Smooth random frames, moved by a pixel each."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(number, 3, 5, 10, generator=generator)
    wide = nn.functional.interpolate(coarse, (SIZE[0], SIZE[1] + 8), mode="bicubic")
    frames = [wide[..., 4 + step : 4 + step + SIZE[1]] for step in (0, -1, 1)]
    frames = (torch.stack(frames, 1).clamp(0, 1) * 255).round().byte()
    intrinsics = torch.tensor(intrinsic_matrix(*SIZE), dtype=torch.float32).expand(number, 3, 3)
    return {
        "inputs": {"img": frames[:, 0], "frames": frames, "plain": frames, "intrinsics": intrinsics}
    }


def train(model, steps=3, wrapper=OptimWrapper, lr=1e-3, seed=0):
    optimizer = wrapper(torch.optim.Adam(model.parameters(), lr=lr))
    model.train()
    return [model.train_step(batch(seed=seed), optimizer)["loss"].item() for _ in range(steps)]


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


# ---------------------------------------------------------------------------------------- encoder


@pytest.mark.parametrize(("depth", "last"), [(18, 512), (50, 2048)])
def test_pyramid_is_mmpretrains_resnet_with_its_stem(depth, last):
    torch.manual_seed(0)
    ours, theirs = ResNetPyramid(depth).eval(), ResNet(depth, out_indices=(0, 1, 2, 3))
    theirs.eval()
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps, others = ours(images), theirs(images)
    assert [m.shape[1] for m in maps] == list(ours.channels)
    assert maps[-1].shape == (1, last, 2, 3)
    assert [m.shape[2] for m in maps] == [32, 16, 8, 4, 2]
    assert all(torch.equal(a, b) for a, b in zip(maps[1:], others, strict=True))


def test_encoder_starts_from_an_exported_backbone_or_a_pretraining_checkpoint(tmp_path):
    torch.manual_seed(1)
    trained = ResNet(18, stem_channels=8, base_channels=8)
    exported, whole = tmp_path / "backbone.pth", tmp_path / "epoch_3.pth"
    torch.save({"state_dict": trained.state_dict(), "meta": {"naming": "openmmlab"}}, exported)
    prefixed = {f"backbone.{name}": value for name, value in trained.state_dict().items()}
    torch.save({"state_dict": {**prefixed, "queue": torch.ones(2)}}, whole)
    for path in (exported, whole):
        init = dict(type="Pretrained", checkpoint=str(path))
        own = monodepth(encoder=resnet(init_cfg=init)).encoder.state_dict()
        for name, value in trained.state_dict().items():
            assert torch.equal(own[name], value)
    with pytest.raises(InputError, match="another architecture"):
        monodepth(encoder=resnet(width=16, init_cfg=dict(type="Pretrained", checkpoint=str(whole))))
    meta = {"naming": "openmmlab", "style": "caffe"}
    torch.save({"state_dict": trained.state_dict(), "meta": meta}, exported)
    with pytest.raises(InputError, match="of style 'caffe', this ResNetPyramid one of style 'py"):
        monodepth(encoder=resnet(init_cfg=dict(type="Pretrained", checkpoint=str(exported))))


def test_two_stacked_images_give_what_a_pretrained_encoder_gave_for_one(tmp_path):
    torch.manual_seed(1)
    trained = ResNetPyramid(18, stem_channels=8, base_channels=8)
    path = tmp_path / "backbone.pth"
    torch.save(trained.state_dict(), path)
    init = dict(type="Pretrained", checkpoint=str(path))
    pose = monodepth(
        pose=dict(type="mmsalmask.PoseNet", channels=8, encoder=resnet(init_cfg=init))
    ).pose
    image = torch.randn(1, 3, 32, 32)
    one = trained.eval()(image)
    two = pose.encoder.eval()(torch.cat([image, image], dim=1))
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(one, two, strict=True))


def test_a_frozen_encoder_does_not_move_its_statistics_included():
    model = monodepth()
    before = {part: state(getattr(model, part)) for part in ("encoder", "decoder", "pose")}
    train(model, 3)
    assert not model.encoder.training
    assert model.decoder.training
    assert all(not module.training for module in model.encoder.modules())
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(value, before["encoder"][name]), name
    for part in ("decoder", "pose"):
        after = getattr(model, part).state_dict()
        assert any(not torch.equal(after[n], v) for n, v in before[part].items())
    assert all(p.grad is None for p in model.encoder.parameters())


def test_a_fine_tuned_encoder_moves_with_its_statistics():
    model = monodepth(freeze_encoder=False)
    before = state(model.encoder)
    train(model, 1)
    after = model.encoder.state_dict()
    assert not torch.equal(after["conv1.weight"], before["conv1.weight"])
    assert not torch.equal(after["bn1.running_mean"], before["bn1.running_mean"])


def test_a_frozen_encoder_without_pretraining_is_warned_of(monkeypatch):
    told = []
    monkeypatch.setattr(MMLogger.get_current_instance(), "warning", told.append)
    monodepth(freeze_encoder=False)
    assert told == []
    monodepth()
    assert "keeps its random weights" in told[0]


# ---------------------------------------------------------------------------------------- decoder


def slow_decoder(decoder, maps):
    """The five levels one by one, with explicit padding."""

    def conv(layer, x):
        return nn.functional.conv2d(
            nn.functional.pad(x, (1, 1, 1, 1), mode="reflect"), layer.weight, layer.bias
        )

    x, found = maps[4], {}
    for level in (4, 3, 2, 1, 0):
        x = nn.functional.elu(conv(decoder.before[level], x))
        x = x.repeat_interleave(2, -1).repeat_interleave(2, -2)
        if level:
            x = torch.cat([x, maps[level - 1]], 1)
        x = nn.functional.elu(conv(decoder.after[level], x))
        if level < 4:
            found[level] = torch.sigmoid(conv(decoder.heads[level], x))[:, 0]
    return [found[level] for level in range(4)]


def test_decoder_gives_disparities_at_four_scales_as_its_drawing_says():
    torch.manual_seed(0)
    decoder = DepthDecoder((4, 6, 8, 10, 12), channels=(3, 4, 5, 6, 7))
    shapes = [(c, 64 // 2**s, 96 // 2**s) for s, c in enumerate((4, 6, 8, 10, 12), start=1)]
    maps = [torch.randn(2, *shape) for shape in shapes]
    disparities = decoder(maps)
    assert [tuple(d.shape) for d in disparities] == [
        (2, 64, 96),
        (2, 32, 48),
        (2, 16, 24),
        (2, 8, 12),
    ]
    for own, slow in zip(disparities, slow_decoder(decoder, maps), strict=True):
        assert torch.allclose(own, slow, atol=1e-6)
    with pytest.raises(InputError, match="five maps"):
        DepthDecoder((4, 6, 8))


def test_published_sizes():
    decoder = DepthDecoder(ResNetPyramid(50).channels)
    assert [layer.weight.shape[:2] for layer in decoder.before] == [
        (16, 32), (32, 64), (64, 128), (128, 256), (256, 2048),
    ]  # fmt: skip
    assert [layer.weight.shape[:2] for layer in decoder.after] == [
        (16, 16), (32, 96), (64, 320), (128, 640), (256, 1280),
    ]  # fmt: skip
    pose = PoseNet(dict(type="mmsalmask.ResNetPyramid", depth=18))
    assert [tuple(m.weight.shape) for m in pose.head if isinstance(m, nn.Conv2d)] == [
        (256, 512, 1, 1), (256, 256, 3, 3), (256, 256, 3, 3), (12, 256, 1, 1),
    ]  # fmt: skip
    with pytest.raises(InputError, match="in_channels=6"):
        PoseNet(dict(type="mmsalmask.ResNetPyramid", depth=18, in_channels=3))
    deep = PoseNet(dict(type="mmsalmask.ResNetPyramid", depth=18, deep_stem=True))
    assert deep(*torch.rand(2, 1, 3, 64, 64))[0].shape == (1, 3)


# ---------------------------------------------------------------------------------------- motions


def test_motions_are_predicted_in_the_order_of_time_and_inverted_for_the_previous_frame():
    model = monodepth().eval()
    frames = torch.randn(3, 3, 3, *SIZE)
    motions = model.motions(frames)
    target, previous, following = frames.unbind(1)
    forward = rigid_motion(*model.pose(previous, target))
    assert torch.allclose(motions[:, 0] @ forward, torch.eye(4).expand(3, 4, 4), atol=1e-6)
    assert torch.allclose(motions[:, 1], rigid_motion(*model.pose(target, following)), atol=1e-6)
    # A hundredth of the mean over the head's map, rotation first.
    maps = model.pose.encoder(torch.cat([target, following], 1))
    raw = 0.01 * model.pose.head(maps[-1]).mean((2, 3))
    assert torch.allclose(motions[:, 1, :3, 3], raw[:, 3:6], atol=1e-6)


# ---------------------------------------------------------------------------------------- training


def test_loss_is_the_mean_over_scales_of_its_parts():
    from mmsalmask.depth import edge_aware_smoothness, photometric_error
    from mmsalmask.depth.geometry import disparity_to_depth, warp

    model = monodepth().eval()
    inputs = model.data_preprocessor(batch())["inputs"]
    losses = model.loss(inputs)
    target, sources = inputs["plain"][:, 0], inputs["plain"][:, 1:]
    motions = model.motions(inputs["frames"])
    reprojection, smoothness = 0, 0
    for scale, disparity in enumerate(model.disparities(inputs["img"])):
        full = nn.functional.interpolate(disparity[:, None], SIZE, mode="bilinear")[:, 0]
        candidates = [photometric_error(sources[:, s], target) for s in (0, 1)]
        for s in (0, 1):
            view = warp(
                sources[:, s], disparity_to_depth(full), inputs["intrinsics"], motions[:, s]
            )
            candidates.append(photometric_error(view, target))
        reprojection += torch.stack(candidates).amin(0).mean() / 4
        small = nn.functional.avg_pool2d(target, 2**scale)
        smoothness += 1e-3 / 2**scale * edge_aware_smoothness(disparity, small) / 4
    assert losses["loss_reprojection"].item() == pytest.approx(reprojection.item(), abs=2e-5)
    assert losses["loss_smoothness"].item() == pytest.approx(smoothness.item(), rel=1e-4)


@pytest.mark.parametrize("wrapper", [OptimWrapper, BFloat16OptimWrapper])
def test_training_on_a_batch_lowers_its_loss_in_both_precisions(wrapper):
    model = monodepth(freeze_encoder=False)
    losses = train(model, 25, wrapper, lr=3e-3)
    assert all(0 < loss < 1 for loss in losses)
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_loss_and_gradient(dtype):
    """Autocast networks; geometry and loss stay float32; scaled as AmpOptimWrapper does."""
    model = monodepth(freeze_encoder=False).train()
    inputs = model.data_preprocessor(batch())["inputs"]

    def step(autocast: bool) -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        torch.manual_seed(1)  # the noise that breaks ties
        with torch.autocast("cpu", dtype, enabled=autocast):
            losses = model.loss(inputs)
        assert all(value.dtype == torch.float32 for value in losses.values())
        loss = sum(losses.values())
        (1024 * loss).backward()
        grads = [p.grad.flatten() / 1024 for p in model.parameters() if p.grad is not None]
        return loss.detach(), torch.cat(grads)

    loss, gradient = step(autocast=False)
    half_loss, half_gradient = step(autocast=True)
    torch.testing.assert_close(half_loss, loss, rtol=5e-3, atol=0)
    assert not torch.equal(half_gradient, gradient)
    assert nn.functional.cosine_similarity(half_gradient, gradient, dim=0) > 0.99


def test_a_standing_camera_trains_nothing_but_smoothness():
    model = monodepth(smoothness=0.0)
    still = batch()
    target = still["inputs"]["plain"][:, :1].expand(-1, 3, -1, -1, -1)
    still["inputs"].update(plain=target, frames=target)
    inputs = model.data_preprocessor(still)["inputs"]
    assert model.loss(inputs)["loss_reprojection"].abs() < 1e-4


def test_prediction_fills_the_samples():
    model = monodepth().eval()
    data = {**batch(), "data_samples": [BaseDataElement(), BaseDataElement()]}
    with torch.no_grad():
        samples = model.test_step(data)
    for sample in samples:
        assert sample.pred_inverse_depth.shape == SIZE
        assert 0.01 <= sample.pred_inverse_depth.min() <= sample.pred_inverse_depth.max() <= 10
        assert sample.pred_motions.shape == (2, 4, 4)
    del data["inputs"]["frames"], data["inputs"]["plain"]
    alone = model.test_step({**data, "data_samples": [BaseDataElement(), BaseDataElement()]})
    assert "pred_motions" not in alone[0]


def test_preprocessor_turns_bgr_into_normalised_rgb():
    data = batch()
    out = monodepth().data_preprocessor(data)["inputs"]
    red = data["inputs"]["img"][:, 2].float()
    assert torch.allclose(out["img"][:, 0], (red - 123.675) / 58.395, atol=1e-5)
    assert torch.allclose(out["plain"][:, 0, 0], red / 255)
    assert data["inputs"]["img"].dtype == torch.uint8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(depth_range=(1.0, 1.0)), "nearest, farthest"),
        (dict(smoothness=-1.0), "not negative"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        monodepth(**options)


def test_images_whose_sides_do_not_halve_five_times_are_refused():
    with pytest.raises(InputError, match="multiples of 32"):
        monodepth()(dict(img=torch.randn(1, 3, 40, 64)))


# ------------------------------------------------------------------------------ two processes


def gradients(model, parallel, data):
    """Of a step in eval mode, in which images do not see each other through BatchNorm."""
    inputs = model.data_preprocessor(data)["inputs"]
    sum(parallel(inputs, mode="loss").values()).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def half_of_a_batch(rank, store, path):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2
    )
    model = monodepth().eval()
    data = batch(4)
    data["inputs"] = {
        name: value[2 * rank : 2 * rank + 2] for name, value in data["inputs"].items()
    }
    own = gradients(model, nn.parallel.DistributedDataParallel(model), data)
    if rank == 1:
        torch.save(own, path)
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_gradient_of_the_whole_batch(tmp_path):
    path, store = tmp_path / "gradients.pt", tmp_path / "store"
    # Forked, because every fresh interpreter spends half a minute on importing the libraries.
    multiprocessing.start_processes(half_of_a_batch, (store, path), nprocs=2, start_method="fork")
    joined = torch.load(path)
    model = monodepth().eval()
    alone = gradients(model, model, batch(4))
    assert joined.keys() == alone.keys()
    assert not any(name.startswith("encoder") for name in alone)
    # Noise on the identity errors decides a few pixels one way or the other.
    for name in alone:
        size = alone[name].norm()
        assert (joined[name] - alone[name]).norm() < 0.02 * size + 1e-6, name
