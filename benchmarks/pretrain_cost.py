"""The price list: what a pretraining step of each method costs beside one of plain MoCo v2.

All methods live in one process and take turns, one step each per round, on the same batches of
random pixels; a method's ratio is the median over rounds of its time over plain MoCo v2's in the
same round, which holds on noisy machines. A step is all that training does from two uint8 views to
updated parameters: normalising, masking, encoding, optimizer, momentum encoder and queue.

    python benchmarks/pretrain_cost.py --json benchmarks/results/pretrain_cost_cpu.json
    python benchmarks/pretrain_cost.py --device cuda --depth 50 --size 224 --batch 128 \\
        --queue 65536 --amp bfloat16 --steps 5 --json benchmarks/results/pretrain_cost_gpu.json

The localizers: "online" is a frozen ResNet of the encoder's depth that looks at both views, up to
its last stage whose map is no coarser than the patch grid (at 224 px the paper's, but for its
weights), "weight-free" is BoundaryPriorSaliency, "cached" cuts maps out
of a saliency cache. ADIOS encodes each of its six slots, ADIOS-s one of them.
"""

import argparse
import re
import statistics
import subprocess
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from render import paper_ratio
from rich.console import Console
from rich.table import Table
from torch import nn

from mmsalmask.cli import print_table
from mmsalmask.config import load_config
from mmsalmask.engine.launch import fuse_optimizers, use_amp
from mmsalmask.provenance import provenance, write_result
from mmsalmask.saliency import BackboneSaliency, CachedSaliency, Frozen

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "demo"
STRATEGIES = {"mean": "mean", "high-pass": "highpass", "blur": "blur"}
OURS = {"low-pass": "lowpass", "feathered mean": "feathered"}  # fills that are not of the paper
# Of a ResNet on whole images of 320 px, as tools/cache_saliency.py makes them.
CACHE_CELLS = (10, 10)
PARTS = ("data", "localizer", "fill", "encoder")
AT_ONCE = "simultaneous"  # one pass for both nets, instead of two phases
WITH, WITHOUT = "hard negative", "no hard negative"


def methods() -> dict[str, tuple[str, str, int]]:
    """Name → recipe, localizer, and how many hard negatives, or local crops, it has."""
    found = {
        "plain": ("mocov2", "none", 0),
        "MSCN": ("mocov2-mscn", "none", 0),
    }
    for name, recipe in (("ADIOS", "adios-mocov2"), ("ADIOS-s", "adios-s-mocov2")):
        found[name] = (recipe, "none", 0)
        found[f"{name}, {AT_ONCE}"] = (f"{recipe} {AT_ONCE}", "none", 0)
    for strategy, recipe in STRATEGIES.items():
        for localizer in ("online", "weight-free", "cached"):
            for hard, words in ((1, WITH), (0, WITHOUT)):
                name = f"{strategy}, {localizer}, {words}"
                found[name] = (f"mocov2-salmask-{recipe}", localizer, hard)
    for fill, recipe in OURS.items():
        found[f"{fill}, cached, {WITH}"] = (f"mocov2-salmask-{recipe}", "cached", 1)
    for localizer in ("weight-free", "cached"):
        for crops, words in ((2, "object crops"), (1, "one object crop")):
            found[f"{words}, {localizer}"] = ("mocov2-objectcrops-highpass", localizer, crops)
    return found


class Method:
    """A model with its optimizer, and a clock for each part of its step."""

    def __init__(
        self, options: argparse.Namespace, recipe: str, localizer: str, extra: int
    ) -> None:
        config = self._config(options, recipe, extra)
        self.device = torch.device(options.device)
        with DefaultScope.overwrite_default_scope("mmpretrain"):
            model = MODELS.build(config.model)
        model.init_weights()
        self.model = model.to(self.device).train()
        if not options.plain_step:
            self.model.to(memory_format=torch.channels_last)
        self.optimizer = build_optim_wrapper(self.model, config.optim_wrapper)
        self.masker = getattr(self.model.data_preprocessor, "masker", None)
        if localizer == "online":
            self.masker.localizer = Frozen(BackboneSaliency(localizer_trunk(options)))
        if localizer == "cached":
            maps = torch.randn(options.batch, *CACHE_CELLS).half()
            self.masker.localizer = Frozen(CachedSaliency(maps))
        self.cached = localizer == "cached"
        self.seconds: dict[str, float] = {}

    @staticmethod
    def _config(options: argparse.Namespace, recipe: str, extra: int) -> Config:
        channels = (32 if options.depth > 34 else 8) * options.width
        overrides = {
            "model.backbone.depth": options.depth,
            "model.backbone.base_channels": options.width,
            "model.backbone.stem_channels": options.width,
            "model.neck.in_channels": channels,
            "model.neck.hid_channels": channels,
            "model.queue_len": options.queue,
            "model.data_preprocessor.augment": None,  # views are given
        }
        if recipe.startswith("adios"):
            overrides |= {"model.mask_net.size": options.size, "model.mask_net.slots": 6}
            recipe, _, at_once = recipe.partition(" ")
            overrides["model.simultaneous"] = bool(at_once)
        for kind, views in (("salmask", "hard_negatives"), ("objectcrops", "local_crops")):
            if kind in recipe:
                overrides[f"model.data_preprocessor.masker.{views}"] = extra
        config = load_config(str(CONFIGS / f"{recipe}_resnet18_demo.py"), overrides)
        if options.amp:
            use_amp(config, options.amp)
        if not options.plain_step:
            fuse_optimizers(config)
        return config

    def step(self, views: list[torch.Tensor], number: int = 1) -> float:
        """Seconds of one step, of so many that follow each other without waiting for the device."""
        every = [self._data(views) for _ in range(number)]
        with self._timed("step"):
            for data in every:
                self.model.train_step(data, self.optimizer)
        return self.seconds["step"] / number

    def waits(self, views: list[torch.Tensor]) -> int:
        """How often a step makes the host wait for the GPU, as CUDA's debug mode tells it."""
        data = self._data(views)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                self.model.train_step(data, self.optimizer)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing CUDA operation" in str(each.message) for each in caught)

    def _data(self, views: list[torch.Tensor]) -> dict:
        number = len(views[0])
        data = {"inputs": list(views), "data_samples": [None] * number}
        return {**data, "crops": self._crops(number)} if self.cached else data

    def _crops(self, number: int) -> dict[str, torch.Tensor]:
        """As a loader hands them on: each view another quarter of its image, or more."""
        corner = torch.rand(number, 2, 2) / 2
        crops = {
            "image": torch.arange(number),
            "box": torch.cat([corner, corner + 0.5], dim=2),
            "flip": torch.rand(number, 2) < 0.5,
        }
        if self.device.type == "cuda":
            crops = {key: value.pin_memory() for key, value in crops.items()}
        return crops

    def parts(self, views: list[torch.Tensor]) -> dict[str, float]:
        """Seconds of each part of one step; the clocks make the device wait between them."""
        self.seconds = dict.fromkeys(("preprocessor", "masker", "localizer"), 0.0)
        preprocessor, restore = self.model.data_preprocessor, []

        def clock(holder: object, attribute: str, part: str) -> None:
            original = getattr(holder, attribute)
            restore.append((holder, attribute, original))

            def timed(*args, **kwargs):
                with self._timed(part):
                    return original(*args, **kwargs)

            object.__setattr__(holder, attribute, timed)

        clock(preprocessor, "forward", "preprocessor")
        if self.masker is not None:
            clock(self.masker, "forward", "masker")
            clock(self.masker, "_locate", "localizer")
        try:
            whole = self.step(views)
        finally:
            for holder, attribute, _ in restore:
                object.__delattr__(holder, attribute)
        took = self.seconds
        return {
            "data": took["preprocessor"] - took["masker"],
            "localizer": took["localizer"],
            "fill": took["masker"] - took["localizer"],
            "encoder": whole - took["preprocessor"],
        }

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        start = self.now()
        yield
        self.seconds[part] = self.now() - start

    def now(self) -> float:
        """Seconds on a clock, once the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def localizer_trunk(options: argparse.Namespace) -> nn.Module:
    """A ResNet up to the last stage whose map is no coarser than the patch grid."""
    stages = max(n for n in range(1, 5) if options.size >= 7 * 2 ** (n + 1))
    return MMPRETRAIN_MODELS.build(
        dict(
            type="ResNet",
            depth=options.depth,
            num_stages=stages,
            out_indices=(stages - 1,),
            strides=(1, 2, 2, 2)[:stages],
            dilations=(1, 1, 1, 1)[:stages],
            _scope_="mmpretrain",
        )
    )


def batch(options: argparse.Namespace, seed: int) -> list[torch.Tensor]:
    """Two uint8 views (N, 3, H, W) of noise with a bright object, on the device."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, options.batch, 3, options.size, options.size)
    views = torch.randint(0, 120, shape, dtype=torch.uint8, generator=generator)
    quarter = options.size // 4
    views[..., quarter : 3 * quarter, quarter : 3 * quarter] += 100
    return list(views.to(options.device))


def measure(options: argparse.Namespace) -> dict[str, dict]:
    """Seconds, ratio, images/s and shares of the parts of each method's step."""
    console = Console(stderr=True)
    torch.backends.cudnn.benchmark = True  # as in training
    chosen = ["plain", *(options.only or methods())]
    wanted = {name: parts for name, parts in methods().items() if name in chosen}
    built = {}
    for name, (recipe, localizer, extra) in wanted.items():
        torch.manual_seed(0)
        built[name] = Method(options, recipe, localizer, extra)
        built[name].step(batch(options, 0))  # memory, kernels
    times, parts, peaks = defaultdict(list), defaultdict(list), {}
    for round_ in range(options.rounds):
        views = batch(options, round_)
        for name, method in built.items():
            times[name].append(method.step(views, options.steps))
        for name, method in built.items():
            if not name.startswith("ADIOS"):  # it masks inside its own step
                parts[name].append(method.parts(views))
        console.print(f"round {round_ + 1} of {options.rounds}", end="\r")
    waits = {}
    if options.device == "cuda":
        peaks = {name: _peak_on_gpu(method, batch(options, 0)) for name, method in built.items()}
        waits = {name: method.waits(batch(options, 0)) for name, method in built.items()}
    elif options.memory:
        peaks = {name: _peak_alone(options, name) for name in built}
    results = {}
    for name in built:
        ratios = [own / plain for own, plain in zip(times[name], times["plain"], strict=True)]
        seconds = statistics.median(times[name])
        results[name] = {
            "seconds": seconds,
            "ratio": statistics.median(ratios),
            "ratio_range": [min(ratios), max(ratios)],
            "images_per_second": options.batch / seconds,
            "peak_memory_mb": peaks.get(name),
            "waits": waits.get(name),
            "shares": _shares(parts[name]),
        }
    return results


def _shares(parts: list[dict[str, float]]) -> dict[str, float] | None:
    if not parts:
        return None
    medians = {part: statistics.median(each[part] for each in parts) for part in PARTS}
    return {part: seconds / sum(medians.values()) for part, seconds in medians.items()}


def _peak_on_gpu(method: Method, views: list[torch.Tensor]) -> float:
    """MB that a step of this method takes, its weights and optimizer included, the others' not."""
    own = sum(t.nbytes for t in method.model.state_dict().values())
    for wrapper in getattr(method.optimizer, "optim_wrappers", {"": method.optimizer}).values():
        for state in wrapper.optimizer.state.values():
            own += sum(value.nbytes for value in state.values() if torch.is_tensor(value))
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    method.step(views)
    return (torch.cuda.max_memory_allocated() - before + own) / 2**20


def _peak_alone(options: argparse.Namespace, name: str) -> float:
    """MB at the peak of a process that takes two steps of this method and nothing else."""
    own = [sys.executable, __file__, "--peak", name]
    for key in ("depth", "width", "size", "batch", "queue"):
        own += [f"--{key}", str(getattr(options, key))]
    return float(subprocess.run(own, capture_output=True, text=True, check=True).stdout.split()[-1])


def _print_peak(options: argparse.Namespace) -> None:
    method = Method(options, *methods()[options.peak])
    for seed in range(2):
        method.step(batch(options, seed))
    # getrusage would answer with the peak of the process that started this one, if that is higher.
    status = Path("/proc/self/status").read_text()
    print(int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 1024)


# ---------------------------------------------------------------------------------------- showing


def show(results: dict[str, dict], options: argparse.Namespace) -> None:
    what = f"ResNet-{options.depth}, {options.size} px, batch {options.batch}, {options.device}"
    table = Table(title=f"a pretraining step: {what}")
    for column in ("method", "s", "ratio", "paper", "images/s", "peak MB", "waits", *PARTS):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, row in results.items():
        shares = row["shares"] or {}
        peak = row["peak_memory_mb"]
        paper = paper_ratio(name)
        table.add_row(
            name,
            f"{row['seconds']:.3f}",
            f"{row['ratio']:.2f}",
            "" if paper is None else f"{paper:.2f}",
            f"{row['images_per_second']:.0f}",
            "" if peak is None else f"{peak:.0f}",
            "" if row["waits"] is None else str(row["waits"]),
            *(f"{shares[part]:.1%}" if part in shares else "" for part in PARTS),
        )
    print_table(table)


def draw(results: dict[str, dict], title: str, path: str) -> None:
    """A bar per method, split among the parts of its step; diamonds are the paper's ratios.

    Bars that are much longer than any of the paper's are cut: a gap, and their ratio, say so.
    """
    names = list(results)[::-1]
    figure = Figure((9, 0.36 * len(names) + 1.5), layout="constrained")
    axes = figure.subplots()
    left = [0.0] * len(names)
    colours = {"encoder": "#9db4c8", "data": "#c9c9c9", "localizer": "#d1603d", "fill": "#e9b44c"}
    for part, colour in colours.items():
        widths = []
        for name in names:
            shares = results[name]["shares"] or {"encoder": 1.0}
            widths.append(results[name]["ratio"] * shares.get(part, 0.0))
        axes.barh(names, widths, left=left, color=colour, label=part, height=0.7)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(names)), [f"{n}   {results[n]['ratio']:.2f}" for n in names])
    end = min(max(left), 2.2) * 1.02
    axes.set_xlim(0, end)
    for row, ratio in enumerate(left):
        if ratio > end:
            mark_cut(axes, row, ratio, end)
    told = [(paper_ratio(name), row) for row, name in enumerate(names)]
    told = [point for point in told if point[0] is not None]
    axes.scatter(*zip(*told, strict=True), marker="D", s=22, color="black", label="paper", zorder=3)
    axes.axvline(1.25, color="black", linewidth=0.8, linestyle=":")
    axes.text(1.26, len(names) - 0.45, "floor with a hard negative", fontsize=7)
    axes.set_xlabel("time of a step, plain MoCo v2 = 1")
    axes.set_title(title, loc="left", fontsize=10)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)


def mark_cut(axes: Axes, row: int, ratio: float, end: float) -> None:
    """Break a bar that goes on beyond the end of the axis by a slanted gap, and write its ratio."""
    gap, slant = 0.012 * end, 0.012 * end
    for place in (0.945 * end, 0.965 * end):
        low, high = place, place + slant
        corners = [(low, row - 0.4), (low + gap, row - 0.4), (high + gap, row + 0.4)]
        axes.add_patch(Polygon([*corners, (high, row + 0.4)], color="white"))
    axes.text(0.935 * end, row, f"{ratio:.2f}", fontsize=8, ha="right", va="center")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--depth", type=int, default=18, help="of the ResNet (%(default)s)")
    parser.add_argument("--width", type=int, default=64, help="channels of its first stage (64)")
    parser.add_argument("--size", type=int, default=64, help="pixels of a view (%(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="images (%(default)s)")
    parser.add_argument("--queue", type=int, default=512, help="length (%(default)s)")
    parser.add_argument("--amp", choices=["float16", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--steps",
        type=int,
        default=1,
        help="timed together, as in training, where the host runs ahead of a GPU (%(default)s)",
    )
    parser.add_argument("--plain-step", action="store_true", help="as with fast_step=False")
    parser.add_argument("--memory", action="store_true", help="peak memory on a CPU, too (Linux)")
    parser.add_argument(
        "--only", nargs="+", metavar="METHOD", help="beside plain MoCo v2, these alone"
    )
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--json", help="write the figures here")
    parser.add_argument("--chart", help="draw them here, as a PNG")
    options = parser.parse_args()
    for name in (*(options.only or ()), options.peak):
        if name is not None and name not in methods():
            parser.error(f"there is no method {name!r}, only: {'; '.join(methods())}")
    return options


def main() -> None:
    options = parse_arguments()
    MMLogger.get_instance("pretrain_cost", log_level="WARNING")
    if options.peak:
        _print_peak(options)
        return
    results = measure(options)
    show(results, options)
    if options.json:
        settings = (
            "device",
            "depth",
            "size",
            "batch",
            "queue",
            "amp",
            "rounds",
            "steps",
            "plain_step",
        )
        told = {key: getattr(options, key) for key in settings}
        write_result(options.json, {**provenance(seed=0), "settings": told, "results": results})
    if options.chart:
        where = f"ResNet-{options.depth}, {options.size} px, batch {options.batch}"
        draw(results, f"{where}, {provenance()['hardware']}", options.chart)


if __name__ == "__main__":
    main()
