"""A backbone for other libraries, and an encoder as ONNX."""

import os
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from mmsalmask.api.encoder import Encoder, working
from mmsalmask.api.models import as_encoder
from mmsalmask.api.run import Run
from mmsalmask.checkpoint import export_file, local_file
from mmsalmask.errors import InputError
from mmsalmask.files import write_atomically

Format = Literal["mmpretrain", "torchvision", "timm", "detectron2", "onnx"]

# How far ONNX Runtime may be from PyTorch, relative to the largest feature.
_TOLERANCE = 1e-3


def export(
    checkpoint: str | os.PathLike | Run | Encoder,
    file: str | os.PathLike,
    format: Format = "mmpretrain",
    filter_inside: bool = False,
) -> Path:
    """Write a backbone so that another library reads it.

    ``mmpretrain``, ``torchvision``, ``timm`` and ``detectron2`` are the names that the tensors get
    (``.pth`` or ``.safetensors``; for detectron2 also ``.pkl``). A plain ResNet goes to all of
    them, a net of torchvision or timm to its own library and to the mmpretrain config of its run.

    ``onnx`` is the whole encoder, from normalised images ``images`` (N, 3, S, S) to pooled
    ``features`` (N, C), S being the size of its pretraining. The file is run by ONNX Runtime and
    compared with PyTorch before it is kept; mean, std, size and filter are in its metadata.

    Args:
        checkpoint: a run's or anybody's file, or a run; for ONNX also a name or an encoder.
        file: to write; an older one is replaced.
        format: whose.
        filter_inside: for ONNX of an encoder that learned from high-pass filtered images: the
            filter is part of the net, whose input is normalised only.

    Returns:
        The file.

    Raises:
        InputError: the net has no place under those names, a package is missing, torch is older
            than ONNX needs (2.6), or the file's name does not fit.

    Example:
        >>> import mmsalmask as sm
        >>> file = sm.export(run.checkpoint, out + "/backbone.pth", format="torchvision")
        >>> sorted(torch.load(file, weights_only=True)["state_dict"])[0]
        'bn1.bias'
    """
    file = Path(file)
    if format not in get_args(Format):
        raise InputError(f"format must be one of {', '.join(get_args(Format))}, got {format!r}")
    if format == "onnx":
        return _export_onnx(as_encoder(checkpoint), file, filter_inside)
    if filter_inside:
        raise InputError("filter_inside is for format='onnx': weights alone hold no filter")
    if isinstance(checkpoint, Encoder):
        raise InputError(f"format {format!r} needs a checkpoint: give its file or its run")
    source = local_file(
        checkpoint.checkpoint if isinstance(checkpoint, Run) else os.fspath(checkpoint)
    )
    if file.exists() and file.samefile(source):
        raise InputError(f"{file} is the checkpoint itself: name another file")
    export_file(source, file, "openmmlab" if format == "mmpretrain" else format)
    return file


class Filtered(nn.Module):
    """An encoder behind its filter: maps normalised, unfiltered images to features."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        assert self.encoder.view.filter is not None  # of an encoder that filters
        return self.encoder(self.encoder.view.filter(images))


def _export_onnx(encoder: Encoder, file: Path, filter_inside: bool) -> Path:
    onnx, onnxruntime = _packages()
    if file.suffix != ".onnx":
        raise InputError(f"the file of format 'onnx' must be named .onnx, not {file.name}")
    if filter_inside and not encoder.high_pass:
        raise InputError(
            f"{encoder.name} learned from plain images, it has no filter: leave filter_inside out"
        )
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):  # they cannot convert BatchNorm
        raise InputError(f"format 'onnx' needs torch 2.6 or newer, this is {torch.__version__}")
    with working(encoder, torch.device("cpu")):
        content = _checked_onnx(encoder, filter_inside, onnx, onnxruntime)
    write_atomically(file, content)
    return file


def _checked_onnx(encoder: Encoder, filter_inside: bool, onnx: Any, onnxruntime: Any) -> bytes:
    """The content of an ONNX file that computes what an encoder on the CPU does."""
    net = Filtered(encoder).eval() if filter_inside else encoder
    shape = len(encoder.mean), encoder.size, encoder.size
    example = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    net(example)  # what is computed once, such as the filter's weights, is there before
    program = torch.onnx.export(
        net,
        (example,),
        dynamo=True,
        input_names=["images"],
        output_names=["features"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        verbose=False,
    )
    assert program is not None  # so it is with dynamo=True
    model = program.model_proto
    order = "RGB" if encoder.rgb else "BGR"
    facts: dict[str, Any] = dict(
        mean=encoder.mean,
        std=encoder.std,
        size=encoder.size,
        channels=order if shape[0] == 3 else shape[0],
        high_pass=encoder.high_pass,
        filter_inside=filter_inside,
    )
    onnx.helper.set_model_props(model, {name: str(value) for name, value in facts.items()})
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for number in (1, 3):
        images = torch.randn(number, *shape, generator=torch.Generator().manual_seed(number))
        wanted = net(images).numpy()
        (found,) = session.run(None, {"images": images.numpy()})
        error = np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-12)
        if not error <= _TOLERANCE:
            raise InputError(
                f"ONNX Runtime computes something else than PyTorch for {encoder.name} (relative "
                f"error {error:.1g}): nothing is written; another version of torch may help"
            )
    return content


def _packages() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError as error:
        raise InputError(
            f"format 'onnx' needs {error.name}: pip install 'mmsalmask[onnx]'"
        ) from error
    return onnx, onnxruntime
