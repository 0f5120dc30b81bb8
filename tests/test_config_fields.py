"""Whatever a field of a config holds, it works or is refused in a sentence before training."""

import copy
import inspect
import math
from contextlib import contextmanager, suppress
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple, get_args

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from registered import STRATEGIES, WEIGHT_FREE

from mmsalmask.config import load_config
from mmsalmask.data.demo import draw_demo_set
from mmsalmask.engine.launch import build_runner
from mmsalmask.errors import InputError
from mmsalmask.masking import Strategy
from mmsalmask.registry import DATASETS, HOOKS, MODELS

DEMO = Path(__file__).resolve().parents[1] / "configs" / "demo"
TINY = {
    "model.backbone.base_channels": 8,
    "model.backbone.stem_channels": 8,
    "model.neck.in_channels": 64,
    "model.neck.hid_channels": 8,
    "train_dataloader.batch_size": 4,
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
    "visualizer.vis_backends": [],
}
MOCO, WORKERS = "mocov2-salmask-mean_resnet18_demo", "../../tests/worker_views"
VIEWS = {
    "model.data_preprocessor.augment.view.size": 32,
    "train_dataloader.dataset.pipeline.0.size": 40,
}
ADIOS = {"model.mask_net.size": 32, "model.mask_net.channels": 8}

nan, inf = math.nan, math.inf
NO_NUMBER = [nan, inf, -inf, 1e39, "0.2", "", None, True, [0.2]]
NO_SHARE = [*NO_NUMBER, -0.1, 1.5]
NO_COUNT = [0, -1, 1.5, nan, inf, "4", "", None, True, [1]]
NO_WHOLE = NO_COUNT[1:]  # those that may be zero
NO_RANGE = [None, "", "ab", 0.2, (0.2,), (0.1, 0.2, 0.3), (0.3, 0.2), (nan, 0.5), (0.1, inf)]
NO_RANGE += [(-0.1, 0.5), ("0.1", "0.2"), (True, True), {}]
NO_FLAG = ["no", "", None, 0, 2, nan]
NO_CHOICE = ["", "another", None, 1, nan, ["query"]]
NO_PART = ["", "MeanFill", 5, nan, [], {}, {"interval": 3}]
NO_PATH = [5, nan, ["folder"], True, {}]
NO_LIST = ["text", 5, nan, {}, [5], [None]]


class Part(NamedTuple):
    """A class's place in a recipe, and values that its fields must not have."""

    recipe: str
    path: str
    refused: dict[str, list]
    whole: Any = None  # stands at that place instead of what the recipe has there


def strategy(name: str) -> dict:
    return dict(recipe=f"mocov2-salmask-{name}_resnet18_demo", path=f"{MASKER}.strategy")


def localizer(name: str, **options) -> dict:
    whole = dict(type=f"mmsalmask.{name}", **options)
    return dict(recipe=MOCO, path=f"{MASKER}.localizer", whole=whole)


def hook(name: str, recipe: str = MOCO, **options) -> dict:
    """In the place of the third of the recipe's."""
    whole = dict(type=f"mmsalmask.{name}", **options)
    return dict(recipe=recipe, path="custom_hooks.2", whole=whole)


PREPROCESSOR = "model.data_preprocessor"
MASKER, DATASET = f"{PREPROCESSOR}.masker", "train_dataloader.dataset"
FOLDER = dict(type="mmsalmask.ImageFolder", data_root="SHAPES", with_label=True)
KERNEL = dict(kernel_size=[*NO_COUNT, 1, 4, -3], sigma=[*NO_NUMBER, 0, -1])
HOLDS = dict(
    data_root=[*NO_PATH, "", None, "/nowhere"],
    pipeline=[None, *NO_LIST, [{}]],
    indices=[0, -1, 1.5, nan, "4", "", True, [], [-1], [0.5], 10**6, [10**6], {}],
    test_mode=NO_FLAG,
    lazy_init=NO_FLAG,
)
PARTS = {
    "MaskingDataPreprocessor": Part(
        MOCO,
        PREPROCESSOR,
        dict(
            masker=NO_PART,
            augment=NO_PART,
            mean=[None, "abc", 5, [1, 2], [1, 2, nan], [1, 2, "3"], []],
            std=[None, [0, 1, 1], [-1, 1, 1], [1, inf, 1], [1], "abc", 5],
            to_rgb=NO_FLAG,
            non_blocking=NO_FLAG,
            saliency_cache=["", "nowhere.safetensors", *NO_PATH],
            shown_bands=["abc", 5, [0, 1], [0, 1, -1], [0, 1, 1.5], [0, 1, "2"], []],
        ),
    ),
    "SaliencyMasker": Part(
        MOCO,
        MASKER,
        dict(
            strategy=[None, *NO_PART, dict(type="mmsalmask.BoundaryPriorSaliency")],
            localizer=[None, *NO_PART, dict(type="mmsalmask.MeanFill")],
            grid=[*NO_COUNT, (7, 0), (7,), (1, 2, 3), "77"],
            offset=[*NO_NUMBER, 8, -8],
            query_ratio=[*NO_RANGE, (0, 1.5)],
            hard_negative_ratio=[*NO_RANGE, (0, 1.5)],
            hard_negatives=NO_WHOLE,
            local_crops=NO_WHOLE,
            masked_views=NO_CHOICE,
            patches=NO_CHOICE,
            shares=NO_CHOICE,
        ),
    ),
    "HighPassNoise": Part(
        **strategy("highpass"),
        refused=dict(
            KERNEL,
            query_std=[*NO_NUMBER, -1],
            hard_negative_std=[*NO_NUMBER, -1],
        ),
    ),
    "StrongBlur": Part(
        **strategy("blur"),
        refused=dict(KERNEL),
    ),
    "FeatheredMean": Part(
        **strategy("feathered"),
        refused=dict(ramp=NO_SHARE),
    ),
    "BoundaryPriorSaliency": Part(
        **localizer("BoundaryPriorSaliency"),
        refused=dict(map_size=[*NO_COUNT, 2, (28, 2), (28,), "28"]),
    ),
    "CentrePriorSaliency": Part(
        **localizer("CentrePriorSaliency"),
        refused=dict(map_size=[*NO_COUNT, (28,), "28"]),
    ),
    "SpectralResidualSaliency": Part(
        **localizer("SpectralResidualSaliency"),
        refused=dict(map_size=[*NO_COUNT, 4, (64, 64)]),
    ),
    "BackboneSaliency": Part(
        **localizer(
            "BackboneSaliency",
            backbone=dict(type="ResNet", depth=18, base_channels=8, stem_channels=8),
            checkpoint="WEIGHTS",
        ),
        refused=dict(
            backbone=[None, *NO_PART],
            checkpoint=[None, "", "nowhere.pth", *NO_PATH],
            size=[value for value in NO_COUNT if value is not None],
            channels_last=NO_FLAG,
            dtype=["", "int8", 16, nan, True, ["float16"]],
        ),
    ),
    "CachedSaliency": Part(
        **localizer("CachedSaliency", cache="nowhere.safetensors"),
        refused=dict(cache=[None, "", "nowhere.safetensors", *NO_PATH]),
    ),
    "HardNegativeContrastiveHead": Part(
        MOCO,
        "model.head",
        dict(temperature=[*NO_NUMBER, 0, -0.2, 1e-40], penalty=NO_NUMBER),
    ),
    "NTXentHead": Part(
        "simclr-salmask-mean_resnet18_demo",
        "model.head",
        dict(temperature=[*NO_NUMBER, 0, -0.2, 1e-40], penalty=NO_NUMBER),
    ),
    "MaskedMoCo": Part(
        MOCO,
        "model",
        dict(
            queue_len=NO_COUNT,
            feat_dim=NO_COUNT,
            momentum=[*NO_SHARE, (0.9, 1.5), (0.9, None)],
            symmetric=NO_FLAG,
            bn_splits=NO_COUNT,
            backbone=[None, *NO_PART],
            neck=[None, *NO_PART],
            head=[None, *NO_PART],
        ),
    ),
    "MaskedSimCLR": Part(
        "simclr-salmask-mean_resnet18_demo",
        "model",
        dict(backbone=[None, *NO_PART], neck=[None, *NO_PART], head=[None, *NO_PART]),
    ),
    "ADIOSMoCo": Part(
        "adios-mocov2_resnet18_demo",
        "model",
        dict(
            mask_net=[None, *NO_PART],
            penalty_weight=[*NO_NUMBER, -1],
            single_slot=NO_FLAG,
            simultaneous=NO_FLAG,
            queue_len=NO_COUNT,
            symmetric=[*NO_FLAG, True],
        ),
    ),
    "ADIOSSimCLR": Part(
        "adios-simclr_resnet18_demo",
        "model",
        dict(
            mask_net=[None, *NO_PART],
            penalty_weight=[*NO_NUMBER, -1],
            single_slot=NO_FLAG,
            simultaneous=NO_FLAG,
        ),
    ),
    "MaskUNet": Part(
        "adios-mocov2_resnet18_demo",
        "model.mask_net",
        dict(
            size=[*NO_COUNT, 3, (32, 3), (32,), "32"],
            slots=[*NO_COUNT, 1],
            channels=[*NO_COUNT, 12],
            blocks=[*[value for value in NO_COUNT if value is not None], 9],
        ),
    ),
    "DeviceAugmentation": Part(
        MOCO, f"{PREPROCESSOR}.augment", dict(view=[None, *NO_PART], key=NO_PART)
    ),
    "RandomView": Part(
        MOCO,
        f"{PREPROCESSOR}.augment.view",
        dict(
            size=NO_COUNT,
            crop_area=[*NO_RANGE, (0, 1), (0.5, 1.5)],
            crop_aspect=[*NO_RANGE, (0, 1)],
            interpolation=NO_CHOICE,
            brightness=[*NO_NUMBER, -1],
            contrast=[*NO_NUMBER, -1],
            saturation=[*NO_NUMBER, -1],
            hue=[*NO_NUMBER, -0.1, 0.6],
            jitter_prob=NO_SHARE,
            grey_prob=NO_SHARE,
            blur_sigma=[*NO_RANGE, (0, 1), (1, 1e6)],
            blur_prob=NO_SHARE,
            solarize_prob=NO_SHARE,
            flip_prob=NO_SHARE,
        ),
    ),
    "LoadWhole": Part(MOCO, f"{DATASET}.pipeline.0", dict(size=NO_COUNT)),
    "LoadBands": Part(
        MOCO,
        f"{DATASET}.pipeline.0",
        dict(size=NO_COUNT, channels=NO_COUNT),
        dict(type="mmsalmask.LoadBands", channels=3, size=40),
    ),
    "RandomResizedCrop": Part(
        WORKERS,
        f"{DATASET}.pipeline.1.transforms.0.0",
        dict(
            scale=[*NO_COUNT, (32, 0), (32,), "32"],
            crop_ratio_range=[*NO_RANGE, (0.5, 1.5)],
            aspect_ratio_range=NO_RANGE,
            max_attempts=NO_WHOLE,
            interpolation=NO_CHOICE,
            backend=NO_CHOICE,
        ),
    ),
    "MultiView": Part(
        WORKERS,
        f"{DATASET}.pipeline.1",
        dict(
            num_views=[*NO_COUNT[:-1], [], [1, 1], [0], ["2"]],
            transforms=[None, *NO_LIST, [], [[5]], [[{}]]],
        ),
    ),
    "HighPassFilter": Part(
        WORKERS,
        f"{DATASET}.pipeline.1.transforms.0.1",
        dict(KERNEL, mean=[None, "abc", 5, [nan, 0, 0], ["1", 2, 3]]),
        dict(type="mmsalmask.HighPassFilter"),
    ),
    "StrongGaussianBlur": Part(
        WORKERS,
        f"{DATASET}.pipeline.1.transforms.0.1",
        KERNEL,
        dict(type="mmsalmask.StrongGaussianBlur"),
    ),
    "ImageFolder": Part(
        MOCO,
        DATASET,
        dict(
            HOLDS,
            with_label=NO_FLAG,
            extensions=[None, "", ".png", 5, [5], ["png"], [None], [], {}],
        ),
    ),
    "PerClassSplit": Part(
        MOCO,
        DATASET,
        dict(
            HOLDS,
            test_mode=[value for value in NO_FLAG if value is not None],
            split=NO_CHOICE,
            train_per_class=[*NO_COUNT, 10**6],
            seed=[*NO_WHOLE, 2**32],
        ),
        dict(type="mmsalmask.PerClassSplit", data_root="SHAPES", train_per_class=1, pipeline=[]),
    ),
    "ImageNet100": Part(
        MOCO,
        DATASET,
        dict(data_root=[*NO_PATH, "", None, "/nowhere"], split=NO_CHOICE),
        dict(type="mmsalmask.ImageNet100", data_root="IMAGENET", pipeline=[]),
    ),
    "InMemory": Part(
        MOCO,
        DATASET,
        dict(dataset=[None, *NO_PART, FOLDER], resident=NO_FLAG),
        dict(
            type="mmsalmask.InMemory",
            dataset=dict(FOLDER, pipeline=[dict(type="mmsalmask.LoadWhole", size=40)]),
        ),
    ),
    "KNNHook": Part(
        **hook("KNNHook", train=FOLDER, test=FOLDER, metric=dict(type="mmsalmask.KNNMetric", k=1)),
        refused=dict(
            train=[None, *NO_PART],
            test=[None, *NO_PART],
            interval=NO_COUNT,
            size=NO_COUNT,
            metric=NO_PART,
            batch_size=NO_COUNT,
            num_workers=NO_WHOLE,
        ),
    ),
    "KNNMetric": Part(
        MOCO,
        "custom_hooks.2.metric",
        dict(
            k=[*NO_COUNT[:-1], [], [0], [1, "2"], [1.5]],
            temperature=[*NO_NUMBER, 0, -1],
            chunk=NO_COUNT,
        ),
        dict(type="mmsalmask.KNNMetric", k=1),
    ),
    "SafeCheckpointHook": Part(
        MOCO,
        "default_hooks.checkpoint",
        dict(
            interval=[value for value in NO_COUNT if value != -1],
            by_epoch=NO_FLAG,
            save_optimizer=NO_FLAG,
            save_param_scheduler=NO_FLAG,
            out_dir=NO_PATH,
            max_keep_ckpts=[value for value in NO_COUNT if value != -1],
            save_last=NO_FLAG,
            save_best=[5, nan, "unknown", "", ["acc", "acc"], ["auto", "acc"], [5], True],
            rule=["upwards", 5, ["greater", "less"], [5]],
            save_begin=NO_WHOLE,
        ),
        dict(type="mmsalmask.SafeCheckpointHook", save_best="acc"),
    ),
    "NonFiniteHook": Part(**hook("NonFiniteHook"), refused=dict(limit=NO_WHOLE, interval=NO_COUNT)),
    "CollapseHook": Part(
        **hook("CollapseHook"),
        refused=dict(interval=NO_COUNT, spread=NO_SHARE, twins=NO_SHARE, flat=NO_SHARE),
    ),
    "TrainingStatisticsHook": Part(
        **hook("TrainingStatisticsHook"), refused=dict(interval=NO_COUNT)
    ),
    "MaskGalleryHook": Part(
        **hook("MaskGalleryHook"), refused=dict(interval=NO_COUNT, images=NO_COUNT)
    ),
    "SlotGalleryHook": Part(
        **hook("SlotGalleryHook", "adios-mocov2_resnet18_demo"),
        refused=dict(interval=NO_COUNT, images=NO_COUNT),
    ),
    "BrokenImagesHook": Part(
        **hook("BrokenImagesHook"), refused=dict(limit=NO_SHARE, interval=NO_COUNT)
    ),
    "FrozenCheckHook": Part(
        **hook("FrozenCheckHook"), refused=dict(modules=[None, [], 5, nan, {}, ["body"], [5]])
    ),
}


def refusable(part: type) -> dict[str, list]:
    """What no field of the type can hold that the part's signature gives it."""
    values = {int: NO_COUNT, float: NO_NUMBER, bool: NO_FLAG, str: NO_CHOICE}
    found = {}
    for name, parameter in inspect.signature(part).parameters.items():
        kinds = get_args(parameter.annotation) or (parameter.annotation,)
        refused = next(values[kind] for kind in kinds if kind in values)
        found[name] = [value for value in refused if value is not None or NoneType not in kinds]
    if issubclass(part, Strategy):
        other = [] if part.any_shape else [0.2]
        found |= {name: [*NO_SHARE, *other] for name in ("focal_prob", "channel_prob")}
    return found


def everywhere() -> dict[str, Part]:
    """Every strategy and localizer of the package that a config can describe by values alone."""
    found = {}
    for part in (*STRATEGIES, *WEIGHT_FREE):
        recipe = "mocov2-mixmask_resnet18_demo" if getattr(part, "mixes", False) else MOCO
        place = "strategy" if part in STRATEGIES else "localizer"
        whole = dict(type=f"mmsalmask.{part.__name__}", **part.example)
        found[part.__name__] = Part(recipe, f"{MASKER}.{place}", refusable(part), whole)
    return found


# What is said above is more exact.
for _name, _part in everywhere().items():
    _known = PARTS.get(_name, _part)
    PARTS[_name] = _known._replace(refused={**_part.refused, **_known.refused})


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope("mmpretrain")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """What the names in capitals stand for."""
    root = tmp_path_factory.mktemp("fields")
    draw_demo_set(root, images_per_class=4, classes=("disk", "bars"), size=40)
    backbone = dict(PARTS["BackboneSaliency"].whole["backbone"], _scope_="mmpretrain")
    weights = MODELS.build(backbone).state_dict()
    names = {f"backbone.{name}": value for name, value in weights.items()}
    torch.save({"state_dict": names}, root / "weights.pth")
    return {"SHAPES": str(root / "train"), "WEIGHTS": str(root / "weights.pth")}


def filled(value: Any, places: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: filled(inner, places) for key, inner in value.items()}
    if isinstance(value, list):
        return [filled(inner, places) for inner in value]
    return places.get(value, value) if isinstance(value, str) else value


_LOADED: dict[str, Config] = {}


def config_of(part: Part, places: dict[str, str]) -> Config:
    """A small version of the recipe with the class in its place."""
    if part.recipe not in _LOADED:
        sizes = {} if part.recipe == WORKERS else VIEWS
        sizes = {**sizes, **(ADIOS if part.recipe.startswith("adios") else {})}
        queue = {} if "simclr" in part.recipe else {"model.queue_len": 16}
        options = {**TINY, **sizes, **queue, "data_root": places["SHAPES"]}
        _LOADED[part.recipe] = load_config(str(DEMO / f"{part.recipe}.py"), options)
    config = copy.deepcopy(_LOADED[part.recipe])
    if part is PARTS["KNNMetric"]:
        put(config, "custom_hooks.2", filled(PARTS["KNNHook"].whole, places))
    if part.whole is not None:
        put(config, part.path, filled(part.whole, places))
    return config


def put(config: Config, path: str, value: Any) -> None:
    *outer, last = path.split(".")
    holder = config._cfg_dict
    for key in outer:
        holder = holder[int(key)] if isinstance(holder, list) else holder[key]
    if isinstance(holder, list):
        holder[int(last)] = value
    else:
        holder[last] = value


def build(config: Config, path: str) -> Any:
    """Build what holds this place, as the runner does."""
    if path.startswith(PREPROCESSOR):
        return MODELS.build(config.model.data_preprocessor)
    if path.startswith("model"):
        return MODELS.build(config.model)
    if path.startswith("custom_hooks"):
        return HOOKS.build(config.custom_hooks[2])
    if path.startswith("default_hooks"):
        return HOOKS.build(config.default_hooks.checkpoint)
    dataset = DATASETS.build(config.train_dataloader.dataset)
    dataset.full_init()
    return dataset


@contextmanager
def told(value: str):
    """Name the value of which something else than a sentence came."""
    try:
        yield
    except (Exception, pytest.fail.Exception) as error:
        raise AssertionError(f"{value} ends in {error!r}") from error


# Refused when training begins, or which are no more than sentences about what is not there.
LATER = {("FrozenCheckHook", "modules"), ("ImageNet100", "data_root"), ("CachedSaliency", "cache")}


# sm.pretrain puts these into recipes; tests/api has their bad values.
OF_THE_API = {"ImageList", "TorchvisionBackbone"}


def test_every_part_of_pretraining_has_its_bad_values_here():
    ours = [*MODELS.module_dict.items(), *DATASETS.module_dict.items()]
    elsewhere = ("mmsalmask.depth", "mmsalmask.downstream")
    # Other tests of this process register parts of their own.
    names = {name for name, part in ours if part.__module__.startswith("mmsalmask.")}
    names -= {name for name, part in ours if part.__module__.startswith(elsewhere)}
    assert sorted(names - set(PARTS) - OF_THE_API) == []


@pytest.mark.parametrize("name", [name for name in PARTS if name not in {n for n, _ in LATER}])
def test_the_part_as_it_is_in_the_recipe_is_built(places, name):
    build(config_of(PARTS[name], places), PARTS[name].path)


@pytest.mark.parametrize(
    ("name", "field"),
    [(n, field) for n, part in PARTS.items() for field in part.refused if n != "FrozenCheckHook"],
)
def test_what_a_field_cannot_hold_is_refused_when_it_is_built(places, name, field):
    part = PARTS[name]
    for value in part.refused[field]:
        config = config_of(part, places)
        put(config, f"{part.path}.{field}", filled(value, places))
        with told(f"{part.path}.{field} = {value!r}"), pytest.raises(InputError) as caught:
            build(config, part.path)
        assert 10 < len(str(caught.value)) < 600


# ------------------------------------------------------------------------------------ whole runs


class Begun(Exception):
    """The first iteration has."""


class Watch(Hook):
    """Ends a run when it begins."""

    priority = "HIGHEST"

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        raise Begun


def begin(config: Config, work: Path):
    config.work_dir, config.experiment_name = str(work), work.name
    runner = build_runner(config)
    runner.register_hook(Watch())
    with pytest.raises(Begun):
        runner.train()
    return runner


# One field of each class, since all of a class are checked at the same moment.
FIRST = [(name, *next(iter(part.refused.items()))) for name, part in PARTS.items()]


@pytest.mark.parametrize(("name", "field", "values"), FIRST, ids=[name for name, *_ in FIRST])
def test_a_run_with_such_a_field_does_not_begin(places, tmp_path, name, field, values):
    part = PARTS[name]
    config = config_of(part, places)
    put(config, f"{part.path}.{field}", filled(values[-1], places))
    with pytest.raises(InputError):
        begin(config, tmp_path / "run")


@pytest.mark.parametrize("value", PARTS["MaskingDataPreprocessor"].refused["masker"], ids=repr)
def test_a_masker_that_is_none_does_not_trouble_the_check_of_the_config(places, tmp_path, value):
    config = config_of(PARTS["SaliencyMasker"], places)
    put(config, MASKER, value)
    with pytest.raises(InputError):
        begin(config, tmp_path / "run")


MISFITS = {
    "grid finer than the views": (MOCO, {f"{MASKER}.grid": 33}),
    "grid finer than the map": (MOCO, {f"{MASKER}.localizer.map_size": 5}),
    "kernel wider than the views": (
        "mocov2-salmask-blur_resnet18_demo",
        {f"{MASKER}.strategy.kernel_size": 65},
    ),
    "queue of other dimensions": (MOCO, {"model.feat_dim": 64}),
    "neck of other channels": (MOCO, {"model.neck.in_channels": 128}),
    "head of another algorithm": (MOCO, {"model.head.type": "mmsalmask.NTXentHead"}),
    "three views": (WORKERS, {f"{DATASET}.pipeline.1.num_views": 3}),
    "one view": (WORKERS, {f"{DATASET}.pipeline.1.num_views": 1}),
    "mask net of another size": ("adios-mocov2_resnet18_demo", {"model.mask_net.size": 64}),
    "mask net of another size, SimCLR": ("adios-simclr_resnet18_demo", {"model.mask_net.size": 64}),
    "whole images and nothing that cuts them": (MOCO, {f"{PREPROCESSOR}.augment": None}),
    "views larger than the memory": (
        WORKERS,
        {f"{DATASET}.pipeline.1.transforms.0.0.scale": 10**6},
    ),
    "maps of several stages": (MOCO, {"model.backbone.out_indices": (2, 3)}),
    "epochs of a sampler without end": (MOCO, {"train_dataloader.sampler.type": "InfiniteSampler"}),
    "a last batch of one image": (
        "simclr-salmask-mean_resnet18_demo",
        {"train_dataloader.batch_size": 7, "train_dataloader.drop_last": False},
    ),
    "a last batch that does not divide into groups": (
        MOCO,
        {
            "model.bn_splits": 2,
            "train_dataloader.batch_size": 5,
            "train_dataloader.drop_last": False,
        },
    ),
    "a std that leaves infinities": (MOCO, {f"{PREPROCESSOR}.std": [1e-38, 1e-38, 1e-38]}),
}


@pytest.mark.parametrize("name", MISFITS)
def test_settings_that_do_not_fit_together_are_refused_before_the_first_step(
    places, tmp_path, name
):
    recipe, changes = MISFITS[name]
    config = config_of(Part(recipe, "", {}), places)
    for path, value in changes.items():
        put(config, path, value)
    with pytest.raises(InputError):
        begin(config, tmp_path / "run")


@pytest.mark.parametrize(
    "recipe", [MOCO, WORKERS, "adios-mocov2_resnet18_demo", "simclr-salmask-mean_resnet18_demo"]
)
def test_a_rehearsal_leaves_no_trace(places, tmp_path, monkeypatch, recipe):
    ends = []
    for rehearsed in (True, False):
        if not rehearsed:
            monkeypatch.setattr("mmsalmask.engine.resume.loops.rehearse", lambda runner: None)
        torch.manual_seed(0)
        config = config_of(Part(recipe, "", {}), places)
        runner = begin(config, tmp_path / str(rehearsed))
        tensors = dict(runner.model.named_parameters()) | dict(runner.model.named_buffers())
        ends.append(({name: value.clone() for name, value in tensors.items()}, torch.rand(3)))
    (first, drawn), (second, expected) = ends
    assert torch.equal(drawn, expected)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


# ------------------------------------------------------------------------------------ fuzzed

NUMBERS = st.integers(-3, 40) | st.booleans() | st.floats(allow_nan=True, allow_infinity=True)
ANYTHING = st.recursive(
    NUMBERS | st.none() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=3,
)
FUZZED = [
    (name, field)
    for name, part in PARTS.items()
    if name not in {n for n, _ in LATER}
    for field in part.refused
]


@given(chosen=st.sampled_from(FUZZED), value=ANYTHING)
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_value_of_any_field_is_built_or_refused(places, chosen, value):
    name, field = chosen
    part = PARTS[name]
    config = config_of(part, places)
    put(config, f"{part.path}.{field}", value)
    with suppress(InputError):
        build(config, part.path)


@given(chosen=st.sampled_from([f for f in FUZZED if f[0] == "RandomView"]), value=ANYTHING)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_the_augmentation_accepts_gives_finite_views(places, chosen, value):
    name, field = chosen
    config = config_of(PARTS[name], places)
    put(config, f"{PARTS[name].path}.{field}", value)
    try:
        augment = build(config, PREPROCESSOR).augment
    except InputError:
        return
    images = torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8)
    views, _ = augment(images, torch.arange(2), torch.tensor([[40, 60], [9, 2]]))
    assert all(view.isfinite().all() for view in views)
