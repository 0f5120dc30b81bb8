import copy
import json
import math
import multiprocessing
import sys
from pathlib import Path

import numpy as np
import pytest
import references
import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from PIL import Image
from running import train_and_close
from torch import nn

import mmsalmask.algorithms  # noqa: F401
from mmsalmask.algorithms import MaskedSimCLR
from mmsalmask.algorithms.encoder import kept_statistics
from mmsalmask.commands.train import main
from mmsalmask.config import check_config, load_config
from mmsalmask.data import ImageNet100
from mmsalmask.data.demo import draw_demo_set
from mmsalmask.errors import InputError
from mmsalmask.registry import MODELS

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
BACKBONE = dict(type="mmpretrain.ResNet", depth=18, base_channels=8, stem_channels=8)
NECK = dict(
    type="mmpretrain.MoCoV2Neck",
    in_channels=64,
    hid_channels=16,
    out_channels=8,
    with_avg_pool=True,
)
HEAD = dict(type="mmsalmask.NTXentHead", temperature=0.1, penalty=2.0)
MASKER = "model.data_preprocessor.masker"


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Nets this small lose more to a second thread than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def simclr(norm_cfg=None, **options) -> MaskedSimCLR:
    torch.manual_seed(0)
    model = MaskedSimCLR(
        dict(BACKBONE, norm_cfg=norm_cfg or dict(type="BN")),
        dict(NECK),
        dict(HEAD, **options),
        data_preprocessor=dict(type="mmsalmask.MaskingDataPreprocessor"),
    )
    model.init_weights()
    return model


def views(number=4, count=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(number, 3, 32, 32, generator=generator) for _ in range(count)]


# ------------------------------------------------------------------------------------ the algorithm


@pytest.mark.parametrize("hard", [0, 1, 3])
def test_loss_is_the_papers_on_embeddings_computed_step_by_step(hard):
    model = simclr()
    inputs = views(count=2 + hard)
    encoder = copy.deepcopy(nn.Sequential(model.backbone, model.neck))

    def embed(images):
        return F.normalize(encoder(images)[0], dim=1).detach().double().numpy()

    first, second = np.split(embed(torch.cat(inputs[:2])), 2)
    own = np.stack([embed(view) for view in inputs[2:]], 1) if hard else None
    losses = model.loss(inputs, None)
    expected = references.nt_xent(first, second, own, 2.0, 0.1)
    assert losses["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert 0 <= losses["contrast_accuracy"].item() <= 100


def test_contrast_accuracy_counts_anchors_nearest_to_their_other_view():
    head = simclr().head
    first = torch.eye(4, 8)
    second = first.clone()
    assert head.loss(first, second)["contrast_accuracy"].item() == 100.0
    second[3] = -second[3]
    assert head.loss(first, second)["contrast_accuracy"].item() == 75.0
    hard = first.clone()
    hard[:3] = -first[:3]
    losses = head.loss(first, first, hard[:, None])
    assert losses["contrast_accuracy"].item() == 100.0
    assert losses["hard_accuracy"].item() == 75.0


@pytest.mark.parametrize("hard", [0, 1])
def test_local_crops_are_further_anchors_of_the_second_view(hard):
    model = simclr()
    inputs, crops = views(count=2 + hard), torch.randn(8, 3, 16, 16)
    encoder = copy.deepcopy(nn.Sequential(model.backbone, model.neck))

    def embed(images):
        return F.normalize(encoder(images)[0], dim=1).detach().double().numpy()

    first, second = np.split(embed(torch.cat(inputs[:2])), 2)
    own = np.stack([embed(view) for view in inputs[2:]], 1) if hard else None
    cut = embed(crops)
    losses = model(inputs, mode="loss", local_crops=crops)
    expected = references.nt_xent(first, second, own, 2.0, 0.1, crops=np.split(cut, 2))
    assert losses["loss"].item() == pytest.approx(expected, rel=1e-5)
    others = np.concatenate([first, second])
    right = [
        anchor @ second[row % 4]
        > max(anchor @ others[other] for other in range(8) if other % 4 != row % 4)
        for row, anchor in enumerate(cut)
    ]
    assert losses["local_accuracy"].item() == pytest.approx(100 * np.mean(right), abs=1e-3)
    alone = model.loss(inputs)
    assert losses["contrast_accuracy"] == alone["contrast_accuracy"]
    assert "local_accuracy" not in alone


def test_local_crops_teach_the_encoder_and_leave_the_running_statistics_to_whole_views():
    inputs, crops = views(count=2), torch.randn(8, 3, 16, 16, requires_grad=True)
    with_crops, without = simclr(), simclr()
    with_crops(inputs, mode="loss", local_crops=crops)["loss"].backward()
    without(inputs, mode="loss")["loss"].backward()
    assert crops.grad.abs().amax((1, 2, 3)).gt(0).all()
    weights = (model.backbone.conv1.weight.grad for model in (with_crops, without))
    assert not torch.allclose(*weights)
    kept = dict(without.named_buffers())
    for name, value in with_crops.named_buffers():
        torch.testing.assert_close(value, kept[name], msg=name)


def test_gradient_reaches_every_view_and_the_hard_negative_too():
    model = simclr()
    inputs = [view.requires_grad_() for view in views(count=4)]
    model.loss(inputs, None)["loss"].backward()
    assert all(view.grad.abs().amax((1, 2, 3)).gt(0).all() for view in inputs)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_hard_negatives_pass_the_encoder_on_their_own_and_the_views_together():
    """Batch statistics of hard negatives and views do not mix; those of the two views do."""
    model = simclr()
    batches = []
    model.backbone.register_forward_hook(lambda _, args, __: batches.append(args[0]))
    inputs = views(count=4)
    model.loss(inputs, None)
    expected = [torch.cat(inputs[:2]), *inputs[2:]]
    assert len(batches) == 3
    assert all(torch.equal(seen, given) for seen, given in zip(batches, expected, strict=True))


@pytest.mark.parametrize("compiled", [False, True])
def test_running_statistics_are_those_of_the_views_alone(compiled):
    """Over two steps: the second shows that the first left nothing behind."""
    model, plain, twin = simclr(), simclr(), simclr()
    if compiled:
        model.backbone.compile(backend="eager")
    for seed in (1, 2):
        inputs = views(count=4, seed=seed)
        loss = model.loss(inputs, None)["loss"]
        assert loss.item() == pytest.approx(twin.loss(inputs, None)["loss"].item(), rel=1e-5)
        plain.loss(inputs[:2], None)
    for (name, value), (_, other) in zip(model.named_buffers(), plain.named_buffers(), strict=True):
        torch.testing.assert_close(value, other, msg=name)
    assert model.backbone.bn1.num_batches_tracked == 2


def test_running_statistics_are_counted_again_after_an_error():
    model = simclr()
    with pytest.raises(InputError, match="InputError"), kept_statistics([model]):
        raise InputError("InputError")
    model.loss(views(count=2), None)
    assert model.backbone.bn1.num_batches_tracked == 1


@pytest.mark.gpu
def test_synchronised_statistics_are_kept_alike():
    norm = nn.SyncBatchNorm(3).cuda()
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    with kept_statistics([norm]):
        norm(torch.randn(4, 3, 8, 8, device="cuda"))
    assert all(torch.equal(norm.state_dict()[name], value) for name, value in before.items())
    norm(torch.randn(4, 3, 8, 8, device="cuda"))
    assert norm.num_batches_tracked == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_no_right_answers(bad):
    head, rows = simclr().head, F.normalize(torch.randn(4, 8), dim=1)
    losses = head.loss(rows * bad, rows * bad, rows[:, None] * bad)
    assert losses["contrast_accuracy"] == 0
    assert losses["hard_accuracy"] == 0


def test_embeddings_and_loss_are_float32_under_autocast():
    model = simclr(temperature=0.01)
    inputs = views(8)
    exact = model.loss(inputs, None)["loss"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.loss(inputs, None)["loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert abs(loss - exact) < 0.1 * exact
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize("hard", [0, 1])
def test_steps_lower_the_loss_of_the_same_batch(hard):
    model = simclr()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9))
    images = [(view * 40 + 120).clamp(0, 255) for view in views(8, count=2 + hard)]
    losses = []
    for _ in range(15):
        data = {"inputs": [image.clone() for image in images], "data_samples": [None]}
        losses.append(model.train_step(data, wrapper)["loss"].item())
    assert losses[-1] < losses[0] - 1.0


def test_a_temperature_of_zero_is_refused_by_the_head():
    with pytest.raises(InputError, match="temperature must be positive"):
        simclr(temperature=0)


# ---------------------------------------------------------------------------------- many processes


def group_norm_simclr() -> MaskedSimCLR:
    """An encoder without statistics of the batch, which processes would not share on CPUs."""
    return simclr(norm_cfg=dict(type="GN", num_groups=2))


def batch(hard: int, cut: int, processes: int = 1, rank: int = 0) -> tuple[list, dict]:
    """A process's share of 8 images: their views, and as many local crops of each."""
    inputs = [view.chunk(processes)[rank] for view in views(8, count=2 + hard)]
    crops = [view.chunk(processes)[rank][..., :16, :16] for view in views(8, count=cut, seed=2)]
    return inputs, {"local_crops": torch.cat(crops)} if cut else {}


def train_in_one_of(processes: int, rank: int, hard: int, cut: int, folder: str) -> None:
    """Loss and gradient of one process under DDP, saved to ``<rank>.pth``."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=processes
    )
    model = MMDistributedDataParallel(group_norm_simclr(), broadcast_buffers=False)
    inputs, parts = batch(hard, cut, processes, rank)
    losses = model(inputs, None, mode="loss", **parts)
    losses["loss"].backward()
    gradients = {name: p.grad for name, p in model.module.named_parameters()}
    torch.save((losses, gradients), f"{folder}/{rank}.pth")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def train_in(processes: int, hard: int, cut: int, folder: Path) -> list[tuple[dict, dict]]:
    # The server imports the libraries once and is forked for every process.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mmsalmask.algorithms"])
    started = [
        context.Process(target=train_in_one_of, args=(processes, rank, hard, cut, str(folder)))
        for rank in range(processes)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
        process.kill()  # nothing happens where it has ended
    assert [process.exitcode for process in started] == [0] * processes
    return [torch.load(folder / f"{rank}.pth") for rank in range(processes)]


@pytest.mark.parametrize(("processes", "hard", "cut"), [(1, 1, 0), (2, 0, 2), (2, 2, 0), (4, 1, 1)])
def test_gradient_of_several_processes_is_that_of_the_joined_batch(processes, hard, cut, tmp_path):
    model = group_norm_simclr()
    inputs, parts = batch(hard, cut)
    joined = model.loss(inputs, None, **parts)
    joined["loss"].backward()
    results = train_in(processes, hard, cut, tmp_path)
    for name in ("loss", "contrast_accuracy", *(["local_accuracy"] if cut else [])):
        mean = torch.stack([losses[name].detach() for losses, _ in results]).mean()
        assert mean.item() == pytest.approx(joined[name].item(), rel=1e-5)
    expected = {name: p.grad for name, p in model.named_parameters()}
    for _, gradients in results:
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            assert (gradient - expected[name]).norm() <= 1e-5 * expected[name].norm(), name


# ----------------------------------------------------------------------------------------- configs


@pytest.fixture(autouse=True, scope="module")
def _scope():
    DefaultScope.get_instance("test_simclr", scope_name="mmpretrain")


def recipe(name: str, options: dict | None = None):
    """A checked config, its localizer one that needs no download."""
    config = load_config(str(CONFIGS / name), options)
    check_config(config)
    masker = config.model.data_preprocessor.get("masker")
    if masker and masker.localizer:
        masker.localizer = dict(type="mmsalmask.BoundaryPriorSaliency")
    return config


def recipes(*folders: str) -> list[str]:
    paths = (path for folder in folders for path in (CONFIGS / folder).glob("*.py"))
    return sorted(path.relative_to(CONFIGS).as_posix() for path in paths)


@pytest.mark.parametrize("name", recipes("moco", "simclr", "mscn", "mixmask", "supervised"))
def test_every_recipe_builds_and_its_encoder_fits_together(name):
    config = recipe(name, {"model.queue_len": 64} if "mocov2" in name else None)
    model = MODELS.build(config.model).eval()
    with torch.no_grad():
        (features,) = model.neck(model.backbone(torch.zeros(1, 3, 32, 32)))
    assert features.shape == (1, 2048 if "supervised" in name else 128)


def test_batches_of_the_recipes_are_the_papers():
    sizes = {"moco": 128, "simclr": 256, "supervised": 256}
    for name in recipes("moco", "simclr", "mscn", "mixmask", "supervised"):
        config = load_config(str(CONFIGS / name))
        folder = Path(name).parent.name
        masked = folder in ("mscn", "mixmask")
        family = ("moco" if "mocov2" in name else "simclr") if masked else folder
        processes = int(name.partition("xb")[0].rpartition("_")[2])
        assert processes * config.train_dataloader.batch_size == sizes[family], name
        assert f"xb{config.train_dataloader.batch_size}-" in name


@pytest.mark.parametrize("name", recipes("mscn"))
def test_mscn_differs_from_the_high_pass_recipe_in_where_masks_lie_alone(name):
    folder = "moco" if "mocov2" in name else "simclr"
    other = load_config(
        str(CONFIGS / folder / Path(name).name.replace("-mscn", "-salmask-highpass"))
    )
    config = load_config(str(CONFIGS / name))
    ours = config.model.data_preprocessor.pop("masker")
    theirs = other.model.data_preprocessor.pop("masker")
    localizers = load_config("mmsalmask::_base_/localizers.py")
    for variable in ("masker", *localizers):  # of the base files
        config.pop(variable, None)
        other.pop(variable, None)
    assert config.to_dict() == other.to_dict()
    assert ours.pop("strategy") == theirs.pop("strategy")
    assert ours.to_dict() == dict(
        type="mmsalmask.SaliencyMasker",
        localizer=None,
        patches="random",
        hard_negatives=0,
        masked_views="query",
    )
    assert set(theirs) == {"type", "localizer"}


def test_lars_adapts_weights_and_leaves_biases_and_batchnorm_alone():
    config = recipe("simclr/simclr_resnet50_1xb256-coslr-200e_folder.py")
    model = MODELS.build(config.model)
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    plain = {
        id(parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if name == "bias" or isinstance(module, nn.modules.batchnorm._BatchNorm)
    }
    assert type(wrapper.optimizer).__name__ == "LARS"
    seen = 0
    for group in wrapper.optimizer.param_groups:
        for parameter in group["params"]:
            excluded = id(parameter) in plain
            assert group.get("lars_exclude", False) == excluded
            assert group["weight_decay"] == (0 if excluded else 1e-6)
            seen += 1
    assert seen == len(list(model.parameters()))
    assert 0 < len(plain) < seen


class Rates(Hook):
    """Keeps the learning rate of every iteration."""

    def before_train(self, runner):
        self.rates = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.rates += runner.optim_wrapper.get_lr()["lr"]


class Linear(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, inputs, data_samples=None, mode="loss"):
        return {"loss": self.layer(inputs).mean()}


def test_lars_warms_up_for_ten_epochs_before_the_cosine_as_mmpretrain_has_it(tmp_path):
    config = recipe("simclr/simclr_resnet50_1xb256-coslr-200e_folder.py")
    rates, batches, epochs = Rates(), 3, 20
    data = [dict(inputs=torch.ones(2)) for _ in range(2 * batches)]
    runner = Runner(
        Linear(),
        work_dir=str(tmp_path),
        train_dataloader=dict(
            dataset=data,
            batch_size=2,
            sampler=dict(type="DefaultSampler", shuffle=False),
            collate_fn=dict(type="default_collate"),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.3)),
        param_scheduler=config.param_scheduler,
        default_hooks=dict(checkpoint=None, logger=None),
        custom_hooks=[rates],
        experiment_name="warm_up",
    )
    train_and_close(runner)
    steps = 10 * batches
    up = [0.3 * (1e-4 + (1 - 1e-4) * step / (steps - 1)) for step in range(steps)]
    down = [0.15 * (1 + math.cos(math.pi * epoch / 10)) for epoch in range(epochs - 10)]
    assert rates.rates == pytest.approx([*up, *np.repeat(down, batches)])


def test_a_training_that_ends_in_its_warm_up_is_refused():
    name, options = (
        "simclr/simclr_resnet50_1xb256-coslr-200e_folder.py",
        {"train_cfg.max_epochs": 10},
    )
    with pytest.raises(
        InputError, match=r"param_scheduler\.1 begins at epoch 10, when .*10 epochs"
    ):
        recipe(name, options)
    recipe(name, {**options, "param_scheduler.0.end": 1, "param_scheduler.1.begin": 1})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "demo/simclr-mscn_resnet18_demo.py",
            {f"{MASKER}.hard_negatives": 1},
            "a hard negative hides the object, which needs a localizer",
        ),
        (
            "demo/mocov2-mscn_resnet18_demo.py",
            {f"{MASKER}.patches": "balanced"},
            "patches='balanced' needs a localizer",
        ),
        (
            "demo/simclr-salmask-mean_resnet18_demo.py",
            {f"{MASKER}.strategy": dict(type="mmsalmask.MeanFill", channel_prob=0.7)},
            "channel_prob",
        ),
        (
            "demo/simclr-salmask-highpass_resnet18_demo.py",
            {
                f"{MASKER}.strategy.type": "mmsalmask.MeanFill",
                f"{MASKER}.strategy.channel_prob": 0.7,
            },
            "channel_prob",
        ),
    ],
)
def test_contradictory_overrides_are_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        MODELS.build(recipe(name, options).model)


# ---------------------------------------------------------------------------------------- training


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Run tools/train.py in this process on two batches; returns its last log line and weights."""

    def run(name: str, data_root: Path, **options) -> tuple[dict, dict]:
        work_dir = tmp_path / "run"
        options = {
            "data_root": data_root,
            "train_dataloader.batch_size": 8,
            "train_dataloader.num_batch_per_epoch": 2,
            "train_dataloader.num_workers": 0,
            "train_dataloader.persistent_workers": False,
            "train_cfg.max_epochs": 1,
            "default_hooks.checkpoint.interval": 1,
            "default_hooks.logger.interval": 1,
            "custom_hooks.0.interval": 1,
            **options,
        }
        arguments = [f"{key}={value}" for key, value in options.items()]
        monkeypatch.setattr(
            sys,
            "argv",
            ["train.py", str(CONFIGS / name), "--work-dir", str(work_dir), "--cfg-options"]
            + arguments,
        )
        main()
        (log,) = work_dir.glob("*/vis_data/scalars.json")
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        state = torch.load(work_dir / "epoch_1.pth", weights_only=False)["state_dict"]
        return lines, state

    return run


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    draw_demo_set(root, images_per_class=4, classes=["disk", "star", "comb", "ring"], size=64)
    return root / "train"


@pytest.mark.parametrize(
    ("name", "masked"),
    [
        ("simclr_resnet18_demo", set()),
        (
            "simclr-salmask-highpass_resnet18_demo",
            {"query_masked_fg%", "query_masked_bg%", "hard_masked_fg%", "hard_masked_bg%"},
        ),
        ("simclr-mscn_resnet18_demo", {"query_masked%"}),
        ("mocov2-mscn_resnet18_demo", {"query_masked%"}),
    ],
)
def test_a_demo_trains_through_the_tool_and_logs_what_it_masks(train, drawn, name, masked):
    small = {"model.backbone.stem_channels": 8, "model.backbone.base_channels": 8}
    lines, state = train(f"demo/{name}.py", drawn, **small, **{"model.neck.in_channels": 64})
    assert len(lines) == 2
    for line in lines:
        assert line["images_per_second"] > 0
        assert np.isfinite(line["loss"])
        assert 0 <= line["contrast_accuracy"] <= 100
        assert {key for key in line if "masked" in key} == masked
        assert all(0 < line[key] < 100 for key in masked if not key.startswith("hard_masked_bg"))
    assert state["backbone.bn1.num_batches_tracked"].item() == 2  # hard negatives do not count
    assert not any("localizer" in key for key in state)


def test_the_supervised_recipe_trains_and_validates(train, tmp_path):
    """At ResNet-18 and 32 px, on 100 classes of one noisy picture each."""
    random = np.random.RandomState(0)
    for split in ("train", "val"):
        for wordnet_id in ImageNet100.METAINFO["classes"]:
            folder = tmp_path / split / wordnet_id
            folder.mkdir(parents=True)
            picture = random.randint(0, 256, (40, 48, 3)).astype(np.uint8)
            Image.fromarray(picture).save(folder / "0.JPEG")
    small = {
        "model.backbone.depth": 18,
        "model.head.in_channels": 512,
        "train_dataloader.dataset.pipeline.1.scale": 32,
        "val_dataloader.dataset.pipeline.1.scale": 36,
        "val_dataloader.dataset.pipeline.2.crop_size": 32,
        "val_dataloader.num_workers": 0,
        "val_dataloader.persistent_workers": False,
    }
    lines, _ = train("supervised/resnet50_4xb64-steplr-100e_in100.py", tmp_path, **small)
    assert [set(line) & {"loss", "accuracy/top1"} for line in lines] == [
        {"loss"},
        {"loss"},
        {"accuracy/top1"},
    ]
