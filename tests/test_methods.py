"""Every recipe and every ablation trains through the Runner on real photos, and does what it says.

Nets are narrow and photos few; what remains is the config as it stands: its algorithm, its masker,
its hooks, its optimizer.
"""

import tarfile
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import references
import torch
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner
from mmpretrain.registry import MODELS as MMPRETRAIN
from photos import find_photos
from recipes import metafiles, models
from registered import STRATEGIES, WEIGHT_FREE

from mmsalmask.config import load_config
from mmsalmask.engine.launch import build_runner
from mmsalmask.masking import MaskedViews, blur_fill, high_pass, mean_fill
from mmsalmask.saliency import pool_to_grid

ROOT = Path(__file__).resolve().parents[1]
DEMOS = sorted(path.stem for path in (ROOT / "configs" / "demo").glob("*.py"))
MASKER = "model.data_preprocessor.masker"
SIZE, IMAGES = 32, 8
NARROW = {
    "ResNet": (dict(type="ResNet", depth=18, base_channels=8, stem_channels=8), 64),
    "ConvNeXt": (dict(arch=dict(depths=[1, 1, 1, 1], channels=[8, 8, 16, 16])), 16),
    "MobileNetV2": (dict(widen_factor=0.25), 1280),
}
unique = count()


# ------------------------------------------------------------------------------------- small runs


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """A few photos in a folder per class, and the weights of a small localizer."""
    archive = find_photos("caltech101_112")
    if archive is None:
        pytest.skip("caltech101_112.tar is not here; set MMSALMASK_PHOTOS to the folder it lies in")
    place = tmp_path_factory.mktemp("methods")
    with tarfile.open(archive) as tar:
        images = [member for member in tar.getmembers() if member.name.endswith(".jpg")]
        for member in images[:: len(images) // IMAGES][:IMAGES]:
            member.name = "/".join(Path(member.name).parts[1:])
            tar.extract(member, place / "photos", filter="data")
    torch.manual_seed(3)
    net = MMPRETRAIN.build(dict(NARROW["ResNet"][0], _scope_="mmpretrain"))
    torch.save({"state_dict": net.state_dict()}, place / "localizer.pth")
    return place


@pytest.fixture(autouse=True)
def unrehearsed(monkeypatch):
    """The forwards that are counted here are those of one step."""
    monkeypatch.setattr("mmsalmask.engine.resume.loops.rehearse", lambda runner: None)


@pytest.fixture(autouse=True)
def unformatted(monkeypatch):
    """Formatting a config six times, for its logs and copies, would take longer than the run."""
    monkeypatch.setattr(Config, "pretty_text", property(lambda config: repr(config._cfg_dict)))


def recipe(name: str) -> str:
    (path,) = (ROOT / "configs").glob(f"*/{name}.py")
    return str(path)


def dicts(value):
    """Every dict in a nest of dicts, lists and tuples, outer ones first."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            yield from dicts(inner)


def shrink(config: Config, folder: Path, batch: int) -> Config:
    """The same recipe with narrow nets, at 32 px, on the photos, for one epoch, without a GPU."""
    model = config.model
    narrow, channels = NARROW[model.backbone.type]
    model.backbone.update(narrow)
    for part in dicts(model):
        for key in ("in_channels", "hid_channels", "out_channels", "queue_len"):
            if part.get(key, 0) > 128:
                part[key] = 16
        if part.get("type") == "mmsalmask.MaskUNet":
            part.size = SIZE
    after_backbone = model.neck if "in_channels" in model.neck else model.head
    after_backbone.in_channels = channels
    for part in dicts(config._cfg_dict):
        if part.get("type") == "mmsalmask.BackboneSaliency":
            part.backbone = ConfigDict(**NARROW["ResNet"][0], out_indices=(0,))
            part.checkpoint = str(folder / "localizer.pth")
        if part.get("type") == "mmsalmask.RandomView":
            part.size = SIZE
    loader = config.train_dataloader
    wrapper = loader if loader.dataset.type != "mmsalmask.InMemory" else loader.dataset
    for part in dicts(wrapper.dataset.pipeline):
        if str(part.get("type")).endswith("RandomResizedCrop"):
            part.scale = SIZE
    wrapper.dataset = ConfigDict(
        type="mmsalmask.ImageFolder",
        data_root=str(folder / "photos"),
        with_label=model.type == "ImageClassifier",
        pipeline=wrapper.dataset.pipeline,
    )
    loader.update(batch_size=batch, num_workers=0, persistent_workers=False, pin_memory=False)
    if config.optim_wrapper.type == "AmpOptimWrapper":
        config.optim_wrapper.type = "OptimWrapper"
        del config.optim_wrapper["loss_scale"]
    # Neighbours take more labelled photos than there are here.
    config.custom_hooks = [h for h in config.custom_hooks if h.type != "mmsalmask.KNNHook"]
    for hook in config.custom_hooks:
        if hook.type.endswith("GalleryHook"):
            hook.images = 1
    config.train_cfg.max_epochs = 1
    # One epoch has no room for a warm-up.
    config.param_scheduler = [dict(part, begin=0) for part in config.param_scheduler[-1:]]
    for stage in ("val", "test"):
        for part in ("dataloader", "evaluator", "cfg"):
            config.pop(f"{stage}_{part}", None)
    return config


@dataclass
class Run:
    """What a run did, seen from outside."""

    runner: Runner
    plain: list[tuple] = field(default_factory=list)  # query and key before masking, per step
    masked: list[MaskedViews] = field(default_factory=list)
    forwards: Counter = field(default_factory=Counter)  # in views of the batch, over all steps
    contrasts: list[tuple] = field(default_factory=list)  # arguments and result of the head's loss

    @property
    def model(self):
        return self.runner.model

    @property
    def masker(self):
        return getattr(self.model.data_preprocessor, "masker", None)

    def losses(self) -> np.ndarray:
        return self.runner.message_hub.get_scalar("train/loss").data[0]


def build(folder: Path, name: str, batch: int = IMAGES, **options) -> Run:
    config = shrink(load_config(recipe(name), options), folder, batch)
    config.experiment_name = f"methods_{next(unique)}"
    config.work_dir = str(folder / "work" / config.experiment_name)
    run = Run(build_runner(config))
    watch(run, batch)
    return run


def watch(run: Run, batch: int) -> None:
    def forward(name):
        def count_views(module, args, out):
            out = out[-1] if isinstance(out, (tuple, list)) else out
            gradient = f" with{'' if out.requires_grad else 'out'} gradient"
            views = args[0][:, 0].numel() / (batch * SIZE**2)  # by area: crops are parts of one
            run.forwards[name + (gradient if name == "encoder" else "")] += views

        return count_views

    def contrast(*args, **parts):
        run.contrasts.append((args, result := original(*args, **parts)))
        return result

    for name in ("backbone", "momentum_encoder", "target_net", "mask_net"):
        if (part := getattr(run.model, name, None)) is not None:
            named = "mask net" if name == "mask_net" else "encoder"
            part.register_forward_hook(forward(named))
    original, run.model.head.loss = run.model.head.loss, contrast
    if run.masker is not None:
        run.masker.register_forward_hook(lambda _, views, __: run.plain.append(views))
        run.masker.register_forward_hook(lambda _, __, views: run.masked.append(views))
        if run.masker.localizer is not None:
            run.masker.localizer.module.register_forward_hook(forward("localizer"))


def train(folder: Path, name: str, batch: int = IMAGES, **options) -> Run:
    """Run a recipe, and see that it learned something: finite losses, weights that moved."""
    run = build(folder, name, batch, **options)
    parts = [getattr(run.model, name, None) for name in ("backbone", "mask_net")]
    before = [[p.detach().clone() for p in part.parameters()] for part in parts if part]
    run.runner.train()
    assert len(run.losses()) == IMAGES // batch
    assert np.isfinite(run.losses()).all()
    after = [list(part.parameters()) for part in parts if part]
    for old, new in zip(before, after, strict=True):
        assert all(p.isfinite().all() for p in new)
        assert any(not torch.equal(*pair) for pair in zip(old, new, strict=True))
    return run


# ----------------------------------------------------------------------------------- every recipe


RECIPES = {model["Name"]: model["Metadata"] for file in metafiles() for model in models(file)}
# Of these the table of methods says what a step takes: counted in views of the batch.
METHODS = {name: told for name, told in RECIPES.items() if "Extra Forwards" in told}


@pytest.mark.parametrize("name", DEMOS)
def test_every_demo_trains(folder, name):
    run = train(folder, name, batch=4)
    masks_with = {"masker": run.masker, "mask net": getattr(run.model, "mask_net", None)}
    masks = RECIPES[name]["Masks"]
    expected = [] if masks == "nothing" else ["mask net" if "learned slots" in masks else "masker"]
    assert [part for part, built in masks_with.items() if built is not None] == expected


def plain_of(name: str) -> tuple[str, dict]:
    """The algorithm without masks: a recipe, and the options that take its masker out.

    It is the recipe that the method's inherits from, or of another library's itself.
    """
    if RECIPES[name]["Masks"] == "nothing":
        return name, {}
    former = Path(Config._get_base_files(recipe(name))[0])
    if former.stem in RECIPES:
        return plain_of(former.stem)
    return name, {"data_preprocessor.masker": None}


@cache
def forwards(folder: Path, name: str, *options: tuple) -> Counter:
    return train(folder, name, **dict(options)).forwards


@pytest.mark.parametrize("name", METHODS)
def test_the_table_of_methods_tells_what_a_step_takes_beyond_the_plain_algorithm(folder, name):
    told = METHODS[name]
    plain, options = plain_of(name)
    taken = Counter(forwards(folder, name))
    taken.subtract(forwards(folder, plain, *options.items()))
    assert {part: views for part, views in taken.items() if views} == told["Extra Forwards"]
    assert RECIPES[plain]["Masks"] == "nothing" or options
    assert (told["Masks"] == "nothing") == ((plain, options) == (name, {}))
    assert ("Localizer" in told) == ("localizer" in told["Extra Forwards"])


# --------------------------------------------------------------------------------- every ablation


MEAN = {
    "mocov2": "mocov2-salmask-mean_resnet18_demo",
    "simclr": "simclr-salmask-mean_resnet18_demo",
}


def ablate(folder: Path, algorithm: str = "mocov2", **masker) -> Run:
    """One step of a demo with its masker's options changed."""
    return ablate_with(folder, algorithm, {f"{MASKER}.{key}": masker[key] for key in masker})


def ablate_with(folder: Path, algorithm: str, options: dict) -> Run:
    hooks = [dict(type="mmsalmask.TrainingStatisticsHook", interval=1)]
    run = train(folder, MEAN[algorithm], custom_hooks=hooks, **options)
    assert len(run.masked) == len(run.contrasts) == 1
    return run


def patches_of(mask: torch.Tensor, grid: int) -> torch.Tensor:
    """The patch mask (N, g, g) that pixels (N, 1, H, W) show; each patch is masked as a whole."""
    rows = torch.arange(mask.shape[-1]) * grid // mask.shape[-1]
    pixels = mask[:, 0].double()
    inside = torch.nn.functional.one_hot(rows, grid).double()
    share = inside.T @ pixels @ inside / inside.sum(0)[:, None] / inside.sum(0)
    assert torch.allclose(share, share.round())
    return share > 0.5


@pytest.mark.parametrize("views", ["query", "key", "both", "none"])
def test_ablation_of_the_masked_views(folder, views):
    run = ablate(folder, masked_views=views)
    (query, key), masked = run.plain[0], run.masked[0]
    assert torch.equal(masked.query, query) == (views in ("key", "none"))
    assert torch.equal(masked.key, key) == (views in ("query", "none"))
    assert [masked.query_mask is None, masked.key_mask is None] == [
        views in ("key", "none"),
        views in ("query", "none"),
    ]
    assert len(masked.hard_negatives) == 1


@pytest.mark.parametrize("patches", ["balanced", "random", "foreground", "background"])
def test_ablation_of_where_patches_come_from(folder, patches):
    run = ablate(folder, patches=patches, grid=14, query_ratio=(0.2, 0.2), shares="paper")
    where = run.masked[0].query_foreground
    lost = patches_of(run.masked[0].query_mask, 14)
    inside, outside = (lost & where).sum((1, 2)), (lost & ~where).sum((1, 2))
    share = (0.2 * where.sum((1, 2)).float()).round().long()
    if patches == "foreground":
        assert torch.equal(inside, share)
        assert not outside.any()
    elif patches == "background":
        assert not inside.any()
        assert torch.equal(outside, (0.2 * (~where).sum((1, 2)).float()).round().long())
    else:
        assert (inside + outside == 39).all()  # of 196
        assert torch.equal(inside, share) == (patches == "balanced")


@pytest.mark.parametrize("shares", ["equal", "paper"])
def test_ablation_of_the_shares_of_both_sides(folder, shares):
    run = ablate(folder, shares=shares, grid=3, query_ratio=(0.1, 0.1))
    where = run.masked[0].query_foreground
    lost = patches_of(run.masked[0].query_mask, 3)
    # 0.9 of 9 patches: none by the published count, and one nine times in ten.
    assert (lost.sum((1, 2)) > 0).any() == (shares == "equal")
    for side in (where, ~where):
        assert ((lost & side).sum((1, 2)) - 0.1 * side.sum((1, 2))).abs().max() < 1


@pytest.mark.parametrize("number", [0, 1, 2, 4])
@pytest.mark.parametrize("algorithm", MEAN)
def test_ablation_of_the_number_of_hard_negatives(folder, algorithm, number):
    run = ablate(folder, algorithm, hard_negatives=number)
    assert len(run.masked[0].hard_negatives) == number
    embedded = [arg for arg in run.contrasts[0][0] if arg is not None and arg.ndim == 3]
    assert [arg.shape for arg in embedded] == [(IMAGES, number, 128)] * (number > 0)
    plain = {"encoder with gradient": 1, "encoder without gradient": 1}
    if algorithm == "simclr":
        plain = {"encoder with gradient": 2, "encoder without gradient": 0}
    plain[list(plain)[algorithm == "mocov2"]] += number
    assert {part: run.forwards[part] for part in plain} == plain


@pytest.mark.parametrize("penalty", [0.5, 3.0])
@pytest.mark.parametrize("algorithm", MEAN)
def test_ablation_of_the_penalty_on_hard_negatives(folder, algorithm, penalty):
    run = ablate_with(folder, algorithm, {"model.head.penalty": penalty})
    arguments, result = run.contrasts[0]
    arguments = [arg.detach().double().numpy() for arg in arguments if len(arg)]
    reference = dict(mocov2=references.info_nce, simclr=references.nt_xent)[algorithm]

    def expected(rho):
        return reference(*arguments, penalty=rho)

    assert result["loss"].item() == pytest.approx(expected(penalty), abs=1e-4)
    assert abs(expected(penalty) - expected(penalty + 0.5)) > 1e-2


@pytest.mark.parametrize("ratio", [0.0, 0.4, 0.9])
def test_ablation_of_the_ranges_of_ratios(folder, ratio):
    run = ablate(folder, query_ratio=(ratio, ratio), hard_negative_ratio=(ratio, ratio))
    masked = run.masked[0]
    assert ((patches_of(masked.query_mask, 7).sum((1, 2)) - ratio * 49).abs() < 1).all()
    hidden = patches_of(masked.hard_negative_masks[0], 7)
    object_ = masked.key_foreground
    assert torch.equal(hidden.sum((1, 2)), (ratio * object_.sum((1, 2)).float()).round().long())
    assert not (hidden & ~object_).any()


LOCALIZERS = {
    **{part.__name__: {"localizer.type": f"mmsalmask.{part.__name__}"} for part in WEIGHT_FREE},
    "BackboneSaliency": {
        "localizer.type": "mmsalmask.BackboneSaliency",
        "localizer.backbone.type": "ResNet",
        "localizer.backbone.depth": 50,
        "localizer.checkpoint": "resnet50.pth",
    },
}


@pytest.mark.parametrize("localizer", LOCALIZERS)
def test_ablation_of_the_localizer(folder, localizer):
    run = ablate(folder, **LOCALIZERS[localizer])
    query, _ = run.plain[0]
    weights = torch.load(folder / "localizer.pth", weights_only=True)["state_dict"]
    maps = {part.__name__: part() for part in WEIGHT_FREE}
    maps["BackboneSaliency"] = channel_sum(weights)
    saliency = {name: pool_to_grid(located(query), 7) for name, located in maps.items()}
    agreeing = [
        name
        for name, expected in saliency.items()
        if torch.allclose(run.masked[0].query_saliency, expected, atol=1e-4)
    ]
    assert agreeing == [localizer]


def channel_sum(weights: dict):
    net = MMPRETRAIN.build(dict(NARROW["ResNet"][0], out_indices=(0,), _scope_="mmpretrain"))
    net.load_state_dict(weights)
    net.eval()
    return lambda images: net(images)[0].detach().sum(1)


@pytest.mark.parametrize("grid", [7, 14])
def test_ablation_of_the_grid(folder, grid):
    run = ablate(folder, grid=grid, query_ratio=(0.2, 0.2))
    assert run.masked[0].query_foreground.shape == (IMAGES, grid, grid)
    lost = patches_of(run.masked[0].query_mask, grid)
    assert ((lost.sum((1, 2)) - 0.2 * grid**2).abs() < 1).all()


@pytest.mark.parametrize("part", STRATEGIES, ids=lambda part: part.__name__)
def test_ablation_of_the_fill(folder, part):
    options = {f"{MASKER}.strategy.type": f"mmsalmask.{part.__name__}"}
    if part.mixes:
        options[f"{MASKER}.hard_negatives"] = 0
    run = train(folder, MEAN["mocov2"], **options)
    (query, key), masked = run.plain[0], run.masked[0]
    assert torch.equal(masked.key, high_pass(key) if part.filters else key)
    mask = masked.query_mask.expand_as(query)
    assert (masked.query[mask] != run.masker.strategy.see(query)[mask]).float().mean() > 0.5
    if part.__name__ == "HighPassNoise":
        assert abs(masked.query[mask].std() - 0.18) < 0.01
    if fill := {"StrongBlur": blur_fill, "MeanFill": mean_fill}.get(part.__name__):
        assert torch.equal(masked.query[mask], fill(query).expand_as(query)[mask])
