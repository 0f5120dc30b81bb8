"""What a pretraining step makes a GPU do, counted without one: kernels and bytes of every stage.

The model and its batch lie on PyTorch's meta device, which has shapes and no values: nothing is
computed, but what the host draws is drawn as ever. Counted is every operator that would run on the
device, float32, by this rule:

- Each operator is a kernel, unless it only looks at memory in another way (views) or reserves it.
  One over a list of tensors (``_foreach_…``) is one kernel. Backward passes count.
- A kernel reads each of its inputs once and writes each of its outputs once. What it overwrites
  whole (``out=``, filling, copying) it does not read. A tensor whose memory is repeated
  (``expand``) counts as the memory that it has. Of what is selected from or scattered into by an
  index, the selected part counts.
- Not counted: what caches save or cost, workspaces inside a kernel, the host, and the clock.

Beside it stands the least that a stage has to move, whoever writes it: its inputs once and its
results once. For the encoder it is what its convolutions and products move, without normalisation,
activations, pooling and sums.

From the counts follows a prediction for any GPU. A kernel lasts as long as its bytes at the GPU's
bandwidth or its products at the GPU's speed, whichever is more, and at least ``SHORTEST``::

    seconds = max(bytes / (EFFICIENCY · bandwidth), products / (EFFICIENCY · speed), SHORTEST)

The encoder computes in bfloat16, which halves its bytes. With --device cuda, the same steps then
run on the GPU that is there, and each stage's time stands beside what was predicted for it.

    python benchmarks/traffic.py --json benchmarks/results/traffic.json
    python benchmarks/traffic.py --methods plain "mean, cached, hard negative" --size 64 --stored 96
    python benchmarks/traffic.py --device cuda --gpu H100
"""

import argparse
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmpretrain.structures import DataSample
from photos import ROOT
from pretrain_cost import Method, methods
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from mmsalmask.algorithms.preprocessor import build_augmentation
from mmsalmask.cli import print_table, report_errors
from mmsalmask.errors import InputError
from mmsalmask.provenance import provenance, write_result

# Stage → the methods whose work it is, of the part of a step that is called so below. What none of
# these does is the encoder's, backward passes included.
STAGES = {
    "upload": {"preprocessor": ["cast_data"]},
    "views": {"preprocessor": ["_augment"]},
    "normalise": {"preprocessor": ["_normalise"]},
    "localize": {"masker": ["_locate"]},
    "mask": {"masker": ["_draw_masks"]},
    "fill": {"masker": ["forward"]},
    "encoder": {},
    "loss": {"head": ["loss"], "model": ["_enqueue"]},
    "momentum encoder": {"model": ["_update_momentum_encoder"]},
    "optimizer": {"optimizer": ["step", "zero_grad"]},
}


class GPU(NamedTuple):
    """What NVIDIA states: bytes/s, and bfloat16 operations/s without sparsity."""

    bandwidth: float
    speed: float


GPUS = {
    "H100": GPU(3.35e12, 989e12),  # SXM, 80 GB
    "A100": GPU(2.04e12, 312e12),  # SXM, 80 GB
    # A laptop's RTX 4060: 24 multiprocessors of 512 operations a cycle at 2.37 GHz
    "laptop": GPU(0.256e12, 29e12),
}
EFFICIENCY = 0.6  # of both that a kernel usually attains
SHORTEST = 3e-6  # seconds of a kernel that has nothing to do

DEFAULT = ["plain"] + [f"{s}, weight-free, hard negative" for s in ("mean", "blur", "high-pass")]
DEFAULT += ["object crops, weight-free", "one object crop, weight-free"]

_NO_KERNEL = {"_unsafe_view", "lift_fresh", "empty", "empty_like", "empty_strided", "new_empty"}
_OVERWRITE = {"normal_", "uniform_", "zero_", "fill_", "copy_", "random_"}
_SELECT = {"index_select", "gather", "index", "embedding"}
_SCATTER = {"scatter_", "index_copy_"}
_PRODUCTS = {"convolution", "convolution_backward", "mm", "addmm", "bmm", "baddbmm"}


class Traffic(TorchDispatchMode):
    """Counts kernels and bytes on the meta device, each under the stage that runs.

    Attributes:
        kernels, bytes: stage → count.
        products: bytes of the convolutions and products among them.
        seconds: (stage, GPU) → predicted time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels, self.bytes, self.products = Counter(), Counter(), Counter()
        self.seconds = Counter()
        self._stages = ["encoder"]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._stages.append(name)
        yield
        self._stages.pop()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        name, stage = func._schema.name.removeprefix("aten::"), self._stages[-1]
        given = dict(zip((each.name for each in func._schema.arguments), args, strict=False))
        given |= kwargs or {}
        changed = {
            each.name
            for each in func._schema.arguments
            if each.alias_info and each.alias_info.is_write
        }
        written = _on_device([given.get(each) for each in changed])
        new = [t for t in _on_device(results) if not any(t is each for each in written)]
        overwritten = {"out"} | (changed if name in _OVERWRITE else set())
        read = _on_device([value for key, value in given.items() if key not in overwritten])
        if not (written or new or read) or func.is_view or name in _NO_KERNEL:
            return results
        moved = sum(map(_size, read + written + new))
        if name in _SELECT:
            moved = 2 * sum(map(_size, new))
        elif name in _SCATTER:
            moved = 2 * _size(read[-1])
        self.kernels[stage] += 1
        self.bytes[stage] += moved
        self.products[stage] += moved * (name in _PRODUCTS)
        work = flop_registry.get(func.overloadpacket)
        operations = work(*args, **(kwargs or {}), out_val=results) if work else 0
        for gpu in GPUS:
            self.seconds[stage, gpu] += predict(moved, operations, gpu, stage == "encoder")
        return results


def predict(moved: float, operations: float, gpu: str, halved: bool = False) -> float:
    """Seconds of a kernel that moves so many float32 bytes, by the formula above."""
    bandwidth, speed = (EFFICIENCY * most for most in GPUS[gpu])
    return max(moved / (2 if halved else 1) / bandwidth, operations / speed, SHORTEST)


def _on_device(values: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.is_meta]


def _size(tensor: Tensor) -> int:
    repeated = zip(tensor.shape, tensor.stride(), strict=True)
    own = math.prod(size for size, stride in repeated if stride)
    return min(own * tensor.itemsize, tensor.untyped_storage().nbytes())


def count(options: argparse.Namespace, name: str) -> dict[str, dict[str, float]]:
    """Stage → kernels, bytes and least bytes of one step of a method on the meta device."""
    method, wrappers = prepare(options, name)
    for group in (group for wrapper in wrappers for group in wrapper.optimizer.param_groups):
        group["foreach"] = True  # fused, as in training, there is none on the meta device
    step(options, method)  # constants are uploaded, the optimizer has its memory
    traffic = Traffic()
    _attribute_stages(method, wrappers, traffic.stage)
    with traffic:
        step(options, method)
    least = least_bytes(options, method) | {"encoder": traffic.products["encoder"]}
    return {
        stage: {
            "kernels": traffic.kernels[stage],
            "bytes": traffic.bytes[stage],
            "least": least[stage],
            "predicted": {gpu: traffic.seconds[stage, gpu] for gpu in GPUS},
        }
        for stage in STAGES
        if traffic.kernels[stage]
    }


def prepare(options: argparse.Namespace, name: str) -> tuple[Method, list]:
    """A method whose preprocessor makes the views, and its optimizer wrappers."""
    torch.manual_seed(0)
    method = Method(options, *methods()[name])
    settings = Config.fromfile(ROOT / "configs" / "_base_" / "datasets" / "device_views.py")
    settings = settings.mocov2_augment
    settings.view.size = options.size
    method.model.data_preprocessor.augment = build_augmentation(settings)
    wrappers = getattr(method.optimizer, "optim_wrappers", {"": method.optimizer})
    return method, list(wrappers.values())


Stage = Callable[[str], AbstractContextManager]


def _attribute_stages(method: Method, wrappers: list, stage: Stage) -> None:
    """Let all that the methods in STAGES do happen in ``stage(name)``."""
    model = method.model
    parts = {
        "model": [model],
        "preprocessor": [model.data_preprocessor],
        "masker": [method.masker],
        "head": [model.head],
        "optimizer": wrappers,
    }
    for name, of in STAGES.items():
        for owner, attribute in ((o, a) for part in of for o in parts[part] for a in of[part]):
            _attribute_to(stage, name, owner, attribute)


def _attribute_to(stage: Stage, name: str, owner: object, attribute: str) -> None:
    """Let what this method runs count for the stage, unless it calls that of another."""
    original = getattr(owner, attribute, None)
    if original is None:
        return

    def staged(*args, **kwargs):
        with stage(name):
            return original(*args, **kwargs)

    object.__setattr__(owner, attribute, staged)


class Clock:
    """Times the stages of steps, each without the stages inside it. Waits for the GPU at each end.

    So the host's own time counts where it is longer than the GPU's.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.seconds, self._now = defaultdict(float), now
        self._stages, self._since = ["encoder"], now()

    def _change(self) -> None:
        """What has passed since the last change goes to the stage that ran."""
        now = self._now()
        self.seconds[self._stages[-1]] += now - self._since
        self._since = now

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._change()
        self._stages.append(name)
        yield
        self._change()
        self._stages.pop()

    def lap(self) -> dict[str, float]:
        """Seconds by stage since the last lap."""
        self._change()
        found, self.seconds = dict(self.seconds), defaultdict(float)
        return found


def measure(options: argparse.Namespace, name: str) -> dict[str, float]:
    """Stage → seconds of a step of a method on ``options.device``, the median of steps."""
    method, wrappers = prepare(options, name)
    clock, laps = Clock(method.now), []
    _attribute_stages(method, wrappers, clock.stage)
    for _ in range(options.warm_up + options.steps):
        clock.lap()
        step(options, method)
        laps.append(clock.lap())
    laps = laps[options.warm_up :]
    return {stage: statistics.median(lap[stage] for lap in laps) for stage in laps[0]}


def step(options: argparse.Namespace, method: Method) -> None:
    """One step of a method on stored images, which are whole and on the host."""
    number, stored = options.batch, options.stored
    data = {
        "inputs": noise(number, stored),
        "data_samples": [DataSample() for _ in range(number)],
        "source": {"image": torch.arange(number), "size": torch.tensor([[375, 500]] * number)},
    }
    method.model.train_step(data, method.optimizer)


@cache
def noise(number: int, side: int) -> Tensor:
    """Images to take steps on, uint8 (N, 3, S, S): of black ones a CPU computes denormals."""
    generator = torch.Generator().manual_seed(0)
    shape = (number, 3, side, side)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def least_bytes(options: argparse.Namespace, method: Method) -> dict[str, float]:
    """Stage → bytes of its inputs and results, each once. The encoder's are counted instead."""
    masker, model = method.masker, method.model
    stored = options.batch * 3 * options.stored**2
    view = 4 * options.batch * 3 * options.size**2
    least = dict.fromkeys(STAGES, 0.0)
    least |= {"upload": stored, "views": stored + 2 * view, "normalise": 4 * view}
    if masker is not None:
        hidden = 1 + masker.hard_negatives  # queries and hard negatives
        mask = hidden * options.batch * options.size**2
        mask *= 3 if masker.strategy.channel_prob else 1
        filtered = masker.strategy.filters
        least["localize"] = 0 if masker.localizer is None or method.cached else 2 * view
        least["mask"] = mask
        least["fill"] = hidden * 2 * view + mask + filtered * 4 * view
    learned = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    # Forward and backward pass read the queue; an average reads two and writes one; SGD, as its
    # fused kernel, reads weight, gradient and momentum, and writes weight and momentum.
    return least | {
        "loss": 2 * model.queue.nbytes,
        "momentum encoder": 3 * learned,
        "optimizer": 5 * learned,
    }


def show(results: dict[str, dict], title: str, gpu: str, device: str | None) -> None:
    table = Table(title=title)
    columns = ["method", "stage", "kernels", "GB", "least GB", f"{gpu}: predicted ms"]
    for column in [*columns, *([f"ms on {device}"] if device else [])]:
        table.add_column(column, justify="left" if column in ("method", "stage") else "right")
    for name, stages in results.items():
        for stage, row in stages.items():
            moved = [f"{row[key] / 1e9:.2f}" for key in ("bytes", "least")]
            times = [row["predicted"][gpu], *([row["measured"]] if device else [])]
            clock = (f"{1000 * seconds:.2f}" for seconds in times)
            table.add_row(name, stage, f"{row['kernels']}", *moved, *clock)
        table.add_section()
    print_table(table)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=DEFAULT, help="as in pretrain_cost.py")
    parser.add_argument("--depth", type=int, default=50, help="of the ResNet (%(default)s)")
    parser.add_argument("--width", type=int, default=64, help="of its first stage (%(default)s)")
    parser.add_argument("--size", type=int, default=224, help="pixels of a view (%(default)s)")
    parser.add_argument("--stored", type=int, default=288, help="of a whole image (%(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="images (%(default)s)")
    parser.add_argument("--queue", type=int, default=65536, help="length (%(default)s)")
    parser.add_argument("--gpu", choices=GPUS, default="H100", help="to predict for (%(default)s)")
    parser.add_argument("--device", dest="clock", help="run and time the steps there, too: cuda")
    parser.add_argument("--steps", type=int, default=20, help="timed (%(default)s)")
    parser.add_argument("--warm-up", type=int, default=5, help="steps before (%(default)s)")
    parser.add_argument("--json", help="write the figures here")
    parser.set_defaults(device="meta", amp=None, plain_step=True)
    options = parser.parse_args()
    for name in options.methods:
        if name not in methods():
            raise InputError(f"there is no method {name!r}, only: {'; '.join(methods())}")
    return options


def main() -> None:
    options = parse_arguments()
    MMLogger.get_instance("traffic", log_level="WARNING")
    results = {name: count(options, name) for name in options.methods}
    if options.clock:
        # As one trains: fused, channels_last, bfloat16.
        real = {"device": options.clock, "amp": "bfloat16", "plain_step": False}
        for name, stages in results.items():
            times = measure(argparse.Namespace(**{**vars(options), **real}), name)
            for stage, row in stages.items():
                row["measured"] = times.get(stage, 0.0)
    title = f"a step: ResNet-{options.depth}, {options.size} px, batch {options.batch}"
    show(results, title, options.gpu, options.clock)
    if options.clock:
        for name, stages in results.items():
            whole = sum(row["measured"] for row in stages.values())
            print(f"{name}: {whole / stages['encoder']['measured']:.2f} times its encoder")
    if options.json:
        settings = ("depth", "width", "size", "stored", "batch", "queue")
        told = {key: getattr(options, key) for key in settings}
        write_result(options.json, {**provenance(seed=0), "settings": told, "results": results})


if __name__ == "__main__":
    with report_errors():
        main()
