"""Take the backbone out of a pretraining checkpoint, for mmpretrain, mmdet, mmseg and others.

Checkpoints of this project, OpenMMLab, MoCo, solo-learn, lightly, torchvision, timm and others are
recognised by the names of their tensors; what is left over is listed. The file holds the query
encoder's backbone alone, without prefix. mmengine reads .pth files but not .safetensors, so .pth is
the default for openmmlab. No code of the checkpoint is executed.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from mmsalmask.checkpoint import export_file, local_file
from mmsalmask.cli import Parser, report_errors
from mmsalmask.errors import InputError


def export_backbone(
    checkpoint: str, out: Path | None = None, format: str = "openmmlab", force: bool = False
) -> str:
    """Write the backbone of a checkpoint into a file of its own.

    Args:
        checkpoint: a file, ``http(s)://`` or ``torchvision://<model>``.
        out: the file; ``None`` for ``<checkpoint>_backbone.pth`` beside it.
        format: whose names the tensors get, ``"openmmlab"``, ``"torchvision"`` or
            ``"detectron2"``.
        force: overwrite an existing file.

    Returns:
        What was written and how it is used, in three lines.

    Raises:
        InputError: no backbone is found, it does not fit the format, or the file exists.

    Example::

        print(export_backbone("epoch_9.pth", Path("backbone.pth")))
    """
    source = local_file(checkpoint)
    out = choose_output(source, checkpoint, out, format, force)
    found, facts, written = export_file(source, out, format)
    under = f" under {found.prefix}" if found.prefix else ""
    return "\n".join(
        [
            f"names of {found.whose}, the backbone{under}; left over: {found.listing()}",
            f"{out}: {len(written)} tensors, {parameters(written) / 1e6:.2f} million parameters, "
            f"{format} names, high_pass={facts['high_pass']}",
            usage(out, format, facts, found.state),
        ]
    )


def choose_output(source: Path, given: str, out: Path | None, naming: str, force: bool) -> Path:
    if out is None:
        suffix = ".pkl" if naming == "detectron2" else ".pth"
        folder = Path() if "://" in given else source.parent
        out = folder / f"{source.stem}_backbone{suffix}"
    if out.exists() and out.samefile(source):
        raise InputError(f"{out} is the checkpoint itself: name another file with --out")
    if out.exists() and not force:
        raise InputError(f"{out} exists already: name another file, or overwrite it with --force")
    return out


def parameters(state: dict[str, Tensor]) -> int:
    """Number of trained values: all but BatchNorm's statistics."""
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return sum(value.numel() for name, value in state.items() if not name.endswith(statistics))


def usage(out: Path, naming: str, facts: dict[str, str], state: Mapping[str, Tensor]) -> str:
    """One line that says how the file is used: which backbones of which libraries it starts."""
    deep_stem = any(name.startswith("stem.") for name in state)
    plain = not deep_stem and any(name.startswith("layer1.") for name in state)
    # mmdet's res5 has the width of a usual ResNet.
    c4 = plain and len(state.get("layer1.0.conv1.weight", ())) == 64
    if naming == "detectron2" and out.suffix != ".safetensors":
        first = "True" if facts["style"] == "caffe" else "False"
        return (
            f"detectron2: MODEL.WEIGHTS {out} MODEL.RESNETS.STRIDE_IN_1X1 {first} "
            "INPUT.FORMAT RGB, with the pixel mean and std of the pretraining"
        )
    if naming == "openmmlab" and out.suffix == ".pth":
        style = "" if facts["style"] == "unknown" else f"style='{facts['style']}', "
        kind = "type='ResNet', " if plain else ""
        start = f"backbone=dict({kind}{style}init_cfg=dict(type='Pretrained', checkpoint='{out}'))"
        if deep_stem:
            return f"mmpretrain: {start}; mmdet and mmseg name a deep stem's tensors otherwise"
        return (
            f"mmpretrain, mmdet, mmseg: {start}"
            + (", and in mmdet's C4 models the same in roi_head.shared_head" if c4 else "")
            + ("; not ResNetV1c and ResNetV1d, whose stem is another" if plain else "")
        )
    if naming == "torchvision" and out.suffix == ".pth":
        return (
            f"torchvision: model.load_state_dict(torch.load('{out}', weights_only=True)"
            "['state_dict'], strict=False)  # only fc is missing"
        )
    return (
        f"PyTorch: state = safetensors.torch.load_file('{out}'); "
        "mmengine and detectron2 read .pth only"
    )


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("checkpoint", help="a file, http(s):// or torchvision://<model>")
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="FILE",
        help="file to write: .pth, .safetensors, or .pkl for detectron2; default: beside the "
        "checkpoint, <its name>_backbone.pth (.pkl for detectron2)",
    )
    parser.add_argument(
        "--format",
        choices=["openmmlab", "torchvision", "detectron2"],
        default="openmmlab",
        help="whose names the tensors get; the last two can hold plain ResNets only "
        "(default: %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite an existing file")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    options = parse_arguments(words)
    with report_errors():
        print(export_backbone(**vars(options)))
