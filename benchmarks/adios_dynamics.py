"""Do ADIOS's encoder and mask net move against each other, and does no slot collapse?

Trains configs/demo/adios-mocov2_resnet18_demo.py, narrower and smaller, at a constant lr on an
image folder. From where that ends it goes on twice, over the same batches: once the encoder alone
learns (the mask net's lr is 0), once the mask net alone. The two oppose each other if the encoder's
loss falls and the mask net's rises where the encoder learns alone, and the reverse where the mask
net does.

    python benchmarks/adios_dynamics.py --data caltech101/ --work-dir work_dirs/adios_dynamics
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from mmsalmask.config import load_config
from mmsalmask.engine.launch import build_runner
from mmsalmask.provenance import provenance, write_result

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
CONFIG = ROOT / "configs" / "demo" / "adios-mocov2_resnet18_demo.py"
# Learning rates of the encoder and of the mask net, as shares of the config's.
RUNS = {"both": (1, 1), "encoder alone": (1, 0), "mask net alone": (0, 1)}
QUEUE = 512
WINDOW = 25
ENDS = {"first": 0, "last": -1}


def train(
    name: str, steps: int, options: argparse.Namespace, start: Path | None
) -> tuple[dict[str, list[float]], Path]:
    """What one run logged at every step, and its last checkpoint."""
    config = load_config(
        str(CONFIG),
        {
            "data_root": options.data,
            "train_dataloader.batch_size": options.batch,
            "train_dataloader.num_workers": 1,
            "model.data_preprocessor.augment.view.size": options.size,
            "model.mask_net.size": options.size,
            "model.mask_net.slots": options.slots,
            "model.mask_net.channels": 8,
            "model.queue_len": QUEUE,
            "model.backbone.base_channels": 16,
            "model.backbone.stem_channels": 16,
            "model.neck.in_channels": 128,
            "model.neck.hid_channels": 128,
            "randomness.seed": options.seed,
            "default_hooks.logger.interval": 1,
            "log_processor.window_size": 1,
        },
    )
    encoder_share, mask_share = RUNS[name]
    mask_optimizer = config.optim_wrapper.paramwise_cfg.mask_net.optimizer
    mask_optimizer.lr *= mask_share
    config.optim_wrapper.optimizer.lr *= encoder_share
    config.train_cfg = dict(type="IterBasedTrainLoop", max_iters=steps)
    config.param_scheduler = []
    config.load_from = None if start is None else str(start)
    config.default_hooks.logger.log_metric_by_epoch = False
    config.log_processor.by_epoch = False
    config.visualizer.vis_backends = [dict(type="LocalVisBackend")]
    config.work_dir = str(Path(options.work_dir) / name.replace(" ", "_"))
    config.experiment_name = f"adios_dynamics_{name.replace(' ', '_')}"
    runner = build_runner(config)
    runner.train()
    (log,) = Path(runner.log_dir).glob("vis_data/scalars.json")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    areas = [f"area_{n}" for n in range(1, options.slots + 1)]
    logged = {
        key: [line[key] for line in lines] for key in ("loss", "mask_loss", "area_penalty", *areas)
    }
    return logged, Path((Path(config.work_dir) / "last_checkpoint").read_text())


def smooth(values: list[float]) -> np.ndarray:
    """Means of consecutive windows."""
    whole = len(values) // WINDOW * WINDOW
    return np.array(values[:whole]).reshape(-1, WINDOW).mean(1)


def summary(logged: dict[str, list[float]], slots: int) -> dict:
    """Losses early and late (means of a window), and the range of the areas over all steps."""
    areas = np.array([logged[f"area_{n}"] for n in range(1, slots + 1)])
    return {
        "steps": len(logged["loss"]),
        **{
            key: {name: round(float(smooth(logged[key])[i]), 4) for name, i in ENDS.items()}
            for key in ("loss", "mask_loss", "area_penalty")
        },
        "area_min": round(float(areas.min()), 4),
        "area_max": round(float(areas.max()), 4),
        "area_last": [round(float(a), 4) for a in areas[:, -WINDOW:].mean(1)],
    }


def draw(logged: dict[str, dict], slots: int, path: Path) -> None:
    figure = Figure(figsize=(13, 3.8), dpi=130, layout="constrained")
    losses, masks, areas = figure.subplots(1, 3)
    together = len(logged["both"]["loss"])
    for axis, key, title in (
        (losses, "loss", "encoder's loss"),
        (masks, "mask_loss", "mask net's loss"),
    ):
        for name, values in logged.items():
            start = 0 if name == "both" else together
            means = smooth(values[key])
            axis.plot(start + (np.arange(len(means)) + 0.5) * WINDOW, means, ".-", label=name)
        axis.axvline(together, color="0.8")
        axis.set(title=title, xlabel=f"step (means of {WINDOW})")
        axis.legend(frameon=False, fontsize=8)
    for n in range(1, slots + 1):
        areas.plot(logged["both"][f"area_{n}"], lw=0.8, label=f"slot {n}")
    areas.set(title="mean area of each slot, both learn", xlabel="step", ylim=(0, 1))
    areas.legend(frameon=False, fontsize=8)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of images")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--steps-alone", type=int, default=150)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work-dir", default="work_dirs/adios_dynamics")
    parser.add_argument("--json", type=Path, default=RESULTS / "adios_dynamics.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = provenance(options.seed)
    logged = {}
    logged["both"], checkpoint = train("both", options.steps, options, None)
    for name in ("encoder alone", "mask net alone"):
        logged[name], _ = train(name, options.steps_alone, options, checkpoint)
    results = {name: summary(values, options.slots) for name, values in logged.items()}
    finite = all(math.isfinite(v) for run in logged.values() for vs in run.values() for v in vs)
    draw(logged, options.slots, options.json.with_suffix(".png"))
    recipe = {key: getattr(options, key) for key in ("batch", "size", "slots")}
    write_result(
        options.json, {**result, "config": CONFIG.name, **recipe, "finite": finite, "runs": results}
    )
    print(f"written: {options.json}")


if __name__ == "__main__":
    main()
