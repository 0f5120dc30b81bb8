"""Say in ten lines what is installed, and what of it works.

Exit status: 0 if all that is required is there in a supported version and works, else 1.
"""

import platform
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

import mmsalmask
from mmsalmask.cli import Parser, report_errors

# One line each: what they are for, and their distributions.
_GROUPS = {
    "PyTorch": ("torch", "torchvision"),
    "OpenMMLab": (
        "onedl-mmengine",
        "onedl-mmcv",
        "onedl-mmpretrain",
        "onedl-mmdetection",
        "onedl-mmsegmentation",
    ),
    "optional": ("timm", "onnx", "onnxruntime", "onnxscript"),
}
# Either line of OpenMMLab's distributions is supported; these are the original ones.
_OTHER_NAMES = {
    "onedl-mmengine": ("mmengine",),
    "onedl-mmcv": ("mmcv", "mmcv-lite"),
    "onedl-mmpretrain": ("mmpretrain",),
    "onedl-mmdetection": ("mmdet",),
    "onedl-mmsegmentation": ("mmsegmentation",),
}


def lines() -> Iterator[tuple[bool, str]]:
    """Whether it is well, and what is said of it, line by line."""
    inside = (3, 10) <= sys.version_info[:2] < (3, 13)
    yield True, f"mmsalmask {mmsalmask.__version__} in {mmsalmask.__path__[0]}"
    wanted = "" if inside else ": supported are 3.10 to 3.12"
    yield inside, f"Python {platform.python_version()} on {platform.platform()}{wanted}"
    ranges = supported()
    for group, names in _GROUPS.items():
        found = [installed(name, ranges.get(name, "")) for name in names]
        well = group == "optional" or all(good for good, _ in found)
        yield well, f"{group}: {', '.join(told for _, told in found)}"
    for check in (gpu, operators, training, tensorboard, weights):
        try:
            yield True, check()
        except Exception as error:  # whatever fails here is the answer
            yield False, f"{check.__doc__}: {type(error).__name__}: {str(error).splitlines()[0]}"


def supported() -> dict[str, str]:
    """The range of versions of each distribution that this package requires."""
    from packaging.requirements import Requirement

    try:
        listed = [Requirement(line) for line in requires("mmsalmask") or []]
    except PackageNotFoundError:  # run from a checkout that is not installed
        return {}
    return {requirement.name: str(requirement.specifier) for requirement in listed}


def installed(name: str, wanted: str) -> tuple[bool, str]:
    """Whether a distribution is there in a supported version, and what to say of it."""
    from packaging.specifiers import SpecifierSet

    for distribution in (name, *_OTHER_NAMES.get(name, ())):
        try:
            found = version(distribution)
        except PackageNotFoundError:
            continue
        if distribution != name or SpecifierSet(wanted).contains(found, True):
            return True, f"{distribution} {found}"
        return False, f"{distribution} {found} (supported: {wanted})"
    return False, f"{name} missing{f' (supported: {wanted})' if wanted else ''}"


def gpu() -> str:
    """GPU"""
    import torch

    if not torch.cuda.is_available():
        return f"GPU: none, training uses the CPU ({torch.get_num_threads()} threads)"
    (torch.ones(2, device="cuda") * 2).cpu()
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"GPU: {', '.join(names)} with CUDA {torch.version.cuda}, computes"


def operators() -> str:
    """mmcv's operators"""
    import mmcv._ext as extension
    import torch
    from mmcv.ops import nms, roi_align

    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 29, 29]])
    _, kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)
    rows = roi_align(torch.ones(1, 1, 8, 8), torch.tensor([[0.0, 0, 0, 7, 7]]), 2)
    if kept.tolist() != [0, 2] or not torch.allclose(rows, torch.ones(1, 1, 2, 2)):
        raise RuntimeError("NMS or RoIAlign computes something else than it should")
    own = str(getattr(extension, "__file__", "") or "").endswith((".so", ".pyd"))
    kernels = "mmcv's own kernels" if own else "torchvision's kernels"
    return f"mmcv's operators: NMS and RoIAlign work, by {kernels}"


def training() -> str:
    """a training step"""
    import torch
    from mmpretrain.models import ResNet

    from mmsalmask.losses import info_nce
    from mmsalmask.masking import HighPassNoise, SaliencyMasker
    from mmsalmask.saliency import BoundaryPriorSaliency

    masker = SaliencyMasker(strategy=HighPassNoise(), localizer=BoundaryPriorSaliency())
    views = masker(torch.randn(4, 3, 64, 64), torch.randn(4, 3, 64, 64))
    net = ResNet(18, base_channels=8, stem_channels=8)
    query, key = (
        torch.nn.functional.normalize(net(view)[-1].mean((2, 3)), dim=1)
        for view in (views.query, views.key)
    )
    loss = info_nce(query, key.detach(), key.detach())
    loss.backward()
    return f"a step of masking and training: works (loss {loss.item():.2f})"


def tensorboard() -> str:
    """TensorBoard"""
    from torch.utils.tensorboard import SummaryWriter

    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        writer.add_scalar("loss", 1.0, 1)
    return f"TensorBoard: {version('tensorboard')}, writes curves"


def weights() -> str:
    """weights by name"""
    from mmsalmask.api.models import list_models

    names = list(list_models())
    return f"weights by name: {len(names)} encoders" + (
        "" if names else " (they lie in the checkout)"
    )


@report_errors()
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.parse_args(arguments)
    _print(lines())


def _print(found: Iterator[tuple[bool, str]]) -> None:
    well = True
    for good, told in found:
        print(f"{'ok ' if good else 'BAD'}  {told}", flush=True)
        well = well and good
    if not well:
        raise SystemExit(1)
