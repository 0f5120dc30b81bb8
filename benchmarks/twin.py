"""Does another program learn as much from the same recipe? Plain MoCo v2, trained three ways.

- ``runner``: this project's algorithm, preprocessor and runner, from a config;
- ``bare``: a loop of plain PyTorch over this project's heart, its views and its ``info_nce``;
- ``lightly``: the same loop over lightly's parts: NT-Xent with memory bank, projection head,
  momentum update, batch shuffle and BatchNorm in groups.

All get the same photos, views, backbone (mmpretrain's ResNet, initialised alike), optimizer,
schedule and queue, and are judged by kNN on features of the backbone; ``untrained`` is that
backbone as it begins. Every constant of the recipe is an option. The ways do not share the order of
the photos and other random numbers. With ``--symmetric``, lightly enqueues the keys of one
direction before it contrasts the other, so that a query's negatives hold a key of its own photo.
With ``--bn-splits``, lightly's groups are in the backbone alone, and with ``--neck NonLinearNeck``
its last BatchNorm learns a scale.

    pip install --no-deps "lightly==1.6.*"    # for the third way
    python benchmarks/twin.py --json FILE [--train FOLDER --test FOLDER] [--epochs 30 --lr 0.06 …]

Folders are ``<class>/<image>``, by default Imagenette's (imagenette_112.tar). What FILE holds of
the same recipe and photos is kept, so that a run of hours can be cut, or made longer by more seeds.
"""

import argparse
import copy
import json
import math
import tempfile
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from photos import unpack
from render import twin
from torch import Tensor, nn

from mmsalmask.algorithms.split_norm import split_batch_norm
from mmsalmask.augmentation import DeviceAugmentation, RandomView
from mmsalmask.cli import report_errors
from mmsalmask.config import load_config
from mmsalmask.data import ImageFolder, InMemory
from mmsalmask.engine.launch import build_runner, use_amp
from mmsalmask.errors import InputError
from mmsalmask.evaluation.features import EncoderView, extract_both
from mmsalmask.evaluation.knn import knn_classify
from mmsalmask.evaluation.labelled import CentreCrops
from mmsalmask.losses import info_nce
from mmsalmask.provenance import provenance, write_result
from mmsalmask.registry import MODELS

DEMO = Path(__file__).resolve().parent.parent / "configs" / "demo" / "mocov2_resnet18_demo.py"


Trained = tuple[nn.Module, list[float]]


@dataclass(frozen=True)
class Recipe:
    """Every constant that the ways share."""

    size: int = 64  # of the views, px
    crop: float = 0.2  # least share of the photo in a view
    width: int = 16  # channels of the ResNet-18's first stage
    zero_init_residual: bool = True
    neck: str = "MoCoV2Neck"  # or NonLinearNeck, the same with BatchNorm
    hidden: int = 128  # channels inside the neck
    dim: int = 128  # of the embeddings
    epochs: int = 30
    batch: int = 128
    lr: float = 0.06
    weight_decay: float = 5e-4
    temperature: float = 0.2
    queue: int = 4096
    momentum: float = 0.99
    final_momentum: float | None = None  # reached by half a cosine; the same by default
    bn_splits: int = 1
    symmetric: bool = False
    amp: bool = False  # train under bfloat16 autocast

    @property
    def backbone(self) -> dict:
        return dict(
            type="ResNet",
            depth=18,
            base_channels=self.width,
            stem_channels=self.width,
            zero_init_residual=self.zero_init_residual,
            norm_cfg=dict(type="BN"),
        )

    @property
    def neck_config(self) -> dict:
        sizes = dict(
            in_channels=8 * self.width,
            hid_channels=self.hidden,
            out_channels=self.dim,
            with_avg_pool=True,
        )
        if self.neck == "MoCoV2Neck":
            return dict(type="MoCoV2Neck", **sizes)
        normalised = dict(num_layers=2, with_bias=False, with_last_bn_affine=False)
        return dict(type="NonLinearNeck", **sizes, **normalised, norm_cfg=dict(type="BN1d"))

    @property
    def whole(self) -> int:
        """Side of the squares that photos are kept as, in px."""
        return self.size * 4 // 3

    @property
    def view(self) -> dict:
        return dict(size=self.size, crop_area=(self.crop, 1.0))

    def share_that_stays(self, progress: float) -> float:
        """Of the momentum encoder, after this share of the run."""
        end = self.momentum if self.final_momentum is None else self.final_momentum
        return end - (end - self.momentum) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class Photos:
    """Folders of training and test photos, and how many of each are used; 0 for all."""

    train: Path
    test: Path
    images: int

    def folder(self, root: Path, **options) -> ImageFolder:
        """The photos, or as many as wanted, evenly from all classes."""
        whole = ImageFolder(str(root), with_label=True, **options)
        if not self.images:
            return whole
        chosen = [i * len(whole) // self.images for i in range(self.images)]
        return ImageFolder(str(root), with_label=True, indices=chosen, **options)


# ----------------------------------------------------------------------------------- the two loops


class Bare(nn.Module):
    """MoCo v2 in plain PyTorch on this project's heart."""

    layout = torch.channels_last

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.encoder = nn.Sequential(_built(recipe.backbone), _built(recipe.neck_config))
        if recipe.bn_splits > 1:
            split_batch_norm(self.encoder, recipe.bn_splits)
        self.key_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        rows = torch.randn(recipe.queue, recipe.dim)
        self.register_buffer("queue", F.normalize(rows, dim=1))
        self.place = 0

    @property
    def backbone(self) -> nn.Module:
        return self.encoder[0]

    def loss(self, first: Tensor, second: Tensor, progress: float) -> Tensor:
        """Loss of a batch of two views, (N, 3, H, W) each, after this share of the run."""
        stays = self.recipe.share_that_stays(progress)
        with torch.no_grad():
            for old, new in zip(
                self.key_encoder.parameters(), self.encoder.parameters(), strict=True
            ):
                old.lerp_(new, 1 - stays)
        pairs = [(first, second), (second, first)][: 1 + self.recipe.symmetric]
        negatives, losses, keys = self.queue.clone(), [], []
        for query_view, key_view in pairs:
            query = F.normalize(self.encoder(query_view)[0].float(), dim=1)
            keys.append(self._keys(key_view))
            temperature = self.recipe.temperature
            losses.append(info_nce(query, keys[-1], negatives, temperature=temperature))
        self._enqueue(torch.cat(keys))
        return sum(losses) / len(losses)

    @torch.no_grad()
    def _keys(self, views: Tensor) -> Tensor:
        order = torch.arange(len(views), device=views.device)
        if self.recipe.bn_splits > 1:
            order = torch.randperm(len(views), device=views.device)
        return F.normalize(self.key_encoder(views[order])[0].float(), dim=1)[order.argsort()]

    def _enqueue(self, keys: Tensor) -> None:
        rows = (self.place + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue[rows] = keys
        self.place = (self.place + len(keys)) % len(self.queue)


class Lightly(nn.Module):
    """MoCo v2 of lightly's parts, put together as its own example does."""

    layout = torch.contiguous_format  # its BatchNorm in groups takes no other

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        try:
            from lightly.loss import NTXentLoss
            from lightly.models import utils
            from lightly.models.modules import MoCoProjectionHead
        except ImportError as error:
            raise InputError(
                "lightly is not installed: pip install --no-deps 'lightly==1.6.*', or name the "
                "other --ways"
            ) from error
        self.recipe, self.utils = recipe, utils
        self.backbone = _built(recipe.backbone)
        if recipe.bn_splits > 1:
            _take_lightlys_groups(self.backbone, recipe.bn_splits)
        self.head = MoCoProjectionHead(
            8 * recipe.width, recipe.hidden, recipe.dim, batch_norm=recipe.neck == "NonLinearNeck"
        )
        self.key_backbone, self.key_head = copy.deepcopy(self.backbone), copy.deepcopy(self.head)
        utils.deactivate_requires_grad(self.key_backbone)
        utils.deactivate_requires_grad(self.key_head)
        self.criterion = NTXentLoss(recipe.temperature, (recipe.queue, recipe.dim))

    def loss(self, first: Tensor, second: Tensor, progress: float) -> Tensor:
        """Loss of a batch of two views, (N, 3, H, W) each, after this share of the run."""
        stays = self.recipe.share_that_stays(progress)
        self.utils.update_momentum(self.backbone, self.key_backbone, m=stays)
        self.utils.update_momentum(self.head, self.key_head, m=stays)
        pairs = [(first, second), (second, first)][: 1 + self.recipe.symmetric]
        losses = [self._contrast(*pair) for pair in pairs]
        return sum(losses) / len(losses)

    def _contrast(self, query_view: Tensor, key_view: Tensor) -> Tensor:
        query = self.head(_pooled(self.backbone(query_view)))
        key = self._keys(key_view)
        with torch.autocast(query.device.type, enabled=False):
            return self.criterion(query.float(), key.float())

    @torch.no_grad()
    def _keys(self, views: Tensor) -> Tensor:
        if self.recipe.bn_splits == 1:
            return self.key_head(_pooled(self.key_backbone(views)))
        views, order = self.utils.batch_shuffle(views)
        return self.utils.batch_unshuffle(self.key_head(_pooled(self.key_backbone(views))), order)


def _take_lightlys_groups(module: nn.Module, splits: int) -> None:
    from lightly.models.batchnorm import SplitBatchNorm

    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            split = SplitBatchNorm(child.num_features, splits, eps=child.eps)
            split.load_state_dict({n: p.data for n, p in child.named_parameters()}, strict=False)
            setattr(module, name, split)
        else:
            _take_lightlys_groups(child, splits)


def _pooled(maps: tuple[Tensor]) -> Tensor:
    return maps[-1].mean((2, 3))


def _built(config: dict) -> nn.Module:
    part = MODELS.build(dict(config, _scope_="mmpretrain"))
    part.init_weights()
    return part


def train_by_loop(
    kind: type, recipe: Recipe, photos: Photos, seed: int, device: str, work: Path
) -> Trained:
    """The backbone that ``Bare`` or ``Lightly`` trains, and the mean loss of each epoch."""
    pipeline = [dict(type="mmsalmask.LoadWhole", size=recipe.whole)]
    kept = InMemory(photos.folder(photos.train, pipeline=pipeline))
    kept.full_init()
    images, sizes = kept.images.flip(1).to(device), kept.sizes.to(device)
    torch.manual_seed(seed)
    model = kind(recipe).to(device, memory_format=kind.layout).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, recipe.lr, momentum=0.9, weight_decay=recipe.weight_decay)
    per_epoch = len(images) // recipe.batch
    steps = recipe.epochs * per_epoch
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    augment = DeviceAugmentation(RandomView(**recipe.view))
    normalise = EncoderView(_config(recipe, photos, seed, work))
    losses = []
    for step in range(steps):
        if step % per_epoch == 0:
            order, epoch = torch.randperm(len(images), device=device), []
            losses.append(epoch)
        start = step % per_epoch * recipe.batch
        batch = order[start : start + recipe.batch]
        views, _ = augment(images[batch], batch, sizes[batch])
        views = [normalise(view).contiguous(memory_format=kind.layout) for view in views]
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=recipe.amp):
            loss = model.loss(*views, step / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        epoch.append(loss.detach())
    return model.backbone, [torch.stack(epoch).mean().item() for epoch in losses]


# -------------------------------------------------------------------------------------- the runner


def _config(recipe: Recipe, photos: Photos, seed: int, work: Path) -> Config:
    """The recipe as a config of this project."""
    pipeline = [
        dict(type="mmsalmask.LoadWhole", size=recipe.whole),
        dict(type="mmsalmask.PackWhole"),
    ]
    folder = photos.folder(photos.train)
    dataset = dict(
        type="mmsalmask.ImageFolder",
        data_root=str(photos.train),
        indices=folder._indices,
        pipeline=pipeline,
    )
    momentum = (recipe.momentum, recipe.share_that_stays(1))
    config = load_config(
        str(DEMO),
        {
            "model.backbone": dict(_delete_=True, **recipe.backbone),
            "model.neck": dict(_delete_=True, **recipe.neck_config),
            "model.head.temperature": recipe.temperature,
            "model.feat_dim": recipe.dim,
            "model.queue_len": recipe.queue,
            "model.momentum": momentum,
            "model.symmetric": recipe.symmetric,
            "model.bn_splits": recipe.bn_splits,
            "model.data_preprocessor.augment": dict(
                type="mmsalmask.DeviceAugmentation",
                view=dict(type="mmsalmask.RandomView", **recipe.view),
            ),
            "train_dataloader.batch_size": recipe.batch,
            "train_dataloader.num_workers": 0,
            "train_dataloader.persistent_workers": False,
            "train_dataloader.dataset": dict(
                _delete_=True, type="mmsalmask.InMemory", resident=True, dataset=dataset
            ),
            "optim_wrapper.optimizer.lr": recipe.lr,
            "optim_wrapper.optimizer.weight_decay": recipe.weight_decay,
            "train_cfg.max_epochs": recipe.epochs,
            "default_hooks.checkpoint.interval": recipe.epochs,
            "custom_hooks": [dict(type="mmsalmask.ResidentImagesHook")],
            "visualizer.vis_backends": [],
            "log_level": "WARNING",
            "randomness.seed": seed,
            "work_dir": str(work),
            "experiment_name": work.name,
        },
    )
    if recipe.amp:
        use_amp(config, "bfloat16")
    return config


def train_by_runner(recipe: Recipe, photos: Photos, seed: int, device: str, work: Path) -> Trained:
    """The backbone that this project's runner trains, and the mean loss of each epoch."""
    if device != get_device():
        raise InputError(
            f"the runner trains on {get_device()}: leave --device away, or hide the GPU by "
            "CUDA_VISIBLE_DEVICES="
        )
    runner = build_runner(_config(recipe, photos, seed, work))
    runner.train()
    losses = runner.message_hub.get_scalar("train/loss").data[0].reshape(recipe.epochs, -1)
    return runner.model.backbone, losses.mean(1).tolist()


def untrained(recipe: Recipe, photos: Photos, seed: int, device: str, work: Path) -> Trained:
    """The backbone that all begin from, and no losses."""
    torch.manual_seed(seed)
    return _built(recipe.backbone).to(device), []


WAYS = {
    "untrained": untrained,
    "runner": train_by_runner,
    "bare": lambda *words: train_by_loop(Bare, *words),
    "lightly": lambda *words: train_by_loop(Lightly, *words),
}


# ------------------------------------------------------------------------------------ the judgement


def run(way: str, recipe: Recipe, photos: Photos, seed: int, device: str, k: int) -> dict:
    """Train one way with one seed; kNN top-1 in percent, losses and seconds of training."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / f"{way}_{seed}_{time.time_ns()}"
        start = time.perf_counter()
        backbone, losses = WAYS[way](recipe, photos, seed, device, work)
        seconds = time.perf_counter() - start
        view = EncoderView(_config(recipe, photos, seed, work))
    crops = dict(pipeline=[CentreCrops(recipe.size)], test_mode=True)
    sets = tuple(photos.folder(root, **crops) for root in (photos.train, photos.test))
    found = extract_both(backbone, view, sets, device)
    predicted = knn_classify(found.train, found.train_labels, found.test, k)
    return {
        "top1": round(100 * (predicted == found.test_labels).float().mean().item(), 2),
        "losses": [round(loss, 4) for loss in losses],
        "seconds": round(seconds, 1),
    }


def parse_arguments() -> tuple[argparse.Namespace, Recipe]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--train", type=Path, metavar="FOLDER")
    parser.add_argument("--test", type=Path, metavar="FOLDER")
    parser.add_argument("--images", type=int, default=0, help="use so many of each folder")
    parser.add_argument("-k", type=int, default=20, help="neighbours that vote (%(default)s)")
    parser.add_argument("--device", default=get_device(), help="(%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", required=True)
    for field in fields(Recipe):
        option, default = f"--{field.name.replace('_', '-')}", field.default
        if isinstance(default, bool):
            parser.add_argument(option, action=argparse.BooleanOptionalAction, default=default)
        else:
            kind = float if default is None else type(default)
            parser.add_argument(option, type=kind, default=default, help="(%(default)s)")
    options = parser.parse_args()
    if (options.train is None) != (options.test is None):
        parser.error("--train and --test go together")
    return options, Recipe(**{field.name: getattr(options, field.name) for field in fields(Recipe)})


def main() -> None:
    options, recipe = parse_arguments()
    # The initialisation of every layer is logged at level INFO, which is no news here.
    MMLogger.get_instance("twin", log_level="WARNING")
    DefaultScope.get_instance("twin", scope_name="mmpretrain")
    settings = {**asdict(recipe), "k": options.k, "images": options.images}
    settings |= {"train": str(options.train or "imagenette_112"), "test": str(options.test or "")}
    results: dict[str, dict] = {}
    if options.json.exists():
        former = json.loads(options.json.read_text())
        if former["recipe"] != settings:
            raise InputError(f"{options.json} holds another recipe: choose another --json")
        results = former["results"]
    with tempfile.TemporaryDirectory() as folder:
        sides = options.train, options.test
        if options.train is None:
            imagenette = unpack("imagenette_112", folder)
            sides = imagenette / "train", imagenette / "val"
        photos = Photos(*sides, options.images)
        for seed in options.seeds:
            for way in options.ways:
                if str(seed) in results.setdefault(way, {}):
                    continue
                found = run(way, recipe, photos, seed, options.device, options.k)
                results[way][str(seed)] = found
                losses = found["losses"]
                told = f", loss {losses[0]:.2f} → {losses[-1]:.2f}" if losses else ""
                print(f"{way}, seed {seed}: kNN {found['top1']:.1f} %{told}", flush=True)
                write_result(options.json, {**provenance(), "recipe": settings, "results": results})
    print(twin(json.loads(options.json.read_text())))


if __name__ == "__main__":
    with report_errors():
        main()
