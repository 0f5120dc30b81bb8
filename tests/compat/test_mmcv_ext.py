"""The operators that stand in for mmcv's compiled ones, called through mmcv's public functions.

The references below are loops over the definitions: boxes, bins and sampling points one by one.
"""

import importlib
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.autograd import gradcheck

import mmsalmask

pytest.importorskip("mmcv")
import mmcv._ext
from mmcv.ops import (
    DeformConv2d,
    DeformConv2dPack,
    ModulatedDeformConv2d,
    ModulatedDeformConv2dPack,
    RoIAlign,
    RoIPool,
    batched_nms,
    deform_conv2d,
    modulated_deform_conv2d,
    nms,
    roi_align,
    roi_pool,
    soft_nms,
)
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.utils import get_installed_path, is_installed
from references import greedy_nms, loop_roi_align, overlap, sample

ROOT = Path(mmsalmask.__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(
    not mmcv._ext.__file__.endswith(".py"), reason="this mmcv has compiled operators, which win"
)
on_each_device = pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
        ),
    ],
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def random_boxes(count: int, size: float = 40.0) -> torch.Tensor:
    corner = torch.rand(count, 2) * size
    return torch.cat((corner, corner + 1 + torch.rand(count, 2) * size / 2), dim=1)


def random_rois(count: int, images: int, size: float) -> torch.Tensor:
    image = torch.randint(images, (count, 1)).double()
    return torch.cat((image, random_boxes(count, size).double()), dim=1)


# ---------------------------------------------------------------------------------- references


def greedy_soft_nms(boxes, scores, threshold, sigma, min_score, method, offset):
    """Soft NMS on a list that is swapped and shortened in place, one box at a time."""
    rows = [[*box, score, i] for i, (box, score) in enumerate(zip(boxes, scores, strict=True))]
    taken = []
    while rows:
        best = max(range(len(rows)), key=lambda i: rows[i][4])  # the first of equals
        rows[0], rows[best] = rows[best], rows[0]
        first = rows.pop(0)
        taken.append(first)
        position = 0
        while position < len(rows):
            row = rows[position]
            share = overlap(first, row, offset)
            if method == "gaussian":
                row[4] *= math.exp(-share * share / sigma)
            elif share >= threshold:
                row[4] *= 1 - share if method == "linear" else 0
            if row[4] < min_score:
                rows[position] = rows[-1]
                rows.pop()
            else:
                position += 1
    return taken


def loop_roi_pool(features, rois, size, scale):
    output = features.new_zeros(len(rois), features.shape[1], *size)
    height, width = features.shape[2:]
    for r, (image, x1, y1, x2, y2) in enumerate(rois.tolist()):
        left, top, right, bottom = (e * scale for e in (x1, y1, x2 + 1, y2 + 1))
        if right <= left or bottom <= top:
            continue
        bin_h, bin_w = (bottom - top) / size[0], (right - left) / size[1]
        for i in range(size[0]):
            for j in range(size[1]):
                rows = slice(
                    max(math.floor(top + i * bin_h), 0),
                    max(min(math.ceil(top + (i + 1) * bin_h), height), 0),
                )
                columns = slice(
                    max(math.floor(left + j * bin_w), 0),
                    max(min(math.ceil(left + (j + 1) * bin_w), width), 0),
                )
                window = features[int(image), :, rows, columns]
                if window.numel():
                    output[r, :, i, j] = window.amax(dim=(1, 2))
    return output


def loop_deform_conv(
    images, offset, weight, stride, padding, dilation, groups, deform_groups, mask=None, bias=None
):
    count, (out, per_group, kh, kw) = len(images), weight.shape
    rows, columns = offset.shape[2:]
    offset = offset.view(count, deform_groups, kh * kw, 2, rows, columns)
    if mask is not None:
        mask = mask.view(count, deform_groups, kh * kw, rows, columns)
    weight = weight.view(groups, out // groups, per_group, kh * kw)
    output = []
    for n in range(count):
        for i in range(rows):
            for j in range(columns):
                patch = []  # one tap of the kernel after the other, all channels each
                for k in range(kh * kw):
                    for d, planes in enumerate(images[n].chunk(deform_groups)):
                        y, x = offset[n, d, k, :, i, j]
                        y = y + i * stride[0] - padding[0] + (k // kw) * dilation[0]
                        x = x + j * stride[1] - padding[1] + (k % kw) * dilation[1]
                        values = sample(planes, y, x, clamped=False)
                        patch.append(values if mask is None else values * mask[n, d, k, i, j])
                patch = torch.cat(patch).view(kh * kw, groups, per_group)
                pixel = torch.einsum("tgc,goct->go", patch, weight).flatten()
                output.append(pixel if bias is None else pixel + bias)
    return torch.stack(output).view(count, rows, columns, out).permute(0, 3, 1, 2)


# ----------------------------------------------------------------------------------------- NMS


@on_each_device
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
def test_nms_keeps_the_boxes_of_the_greedy_loop(device, threshold, offset):
    boxes, scores = random_boxes(120), torch.rand(120)
    dets, kept = nms(boxes.to(device), scores.to(device), threshold, offset=offset)
    expected = greedy_nms(boxes, scores, threshold, offset)
    assert kept.tolist() == expected
    assert dets.device.type == device
    torch.testing.assert_close(dets.cpu(), torch.cat((boxes, scores[:, None]), 1)[expected])


def test_the_offset_of_nms_changes_which_boxes_are_kept():
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [2.0, 0.0, 6.0, 4.0]])
    scores = torch.tensor([0.9, 0.8])
    assert nms(boxes, scores, 0.4, offset=0)[1].tolist() == [0, 1]  # 8 / 24
    assert nms(boxes, scores, 0.4, offset=1)[1].tolist() == [0]  # 15 / 35


def test_nms_obeys_score_threshold_and_max_num():
    boxes, scores = random_boxes(80), torch.rand(80)
    expected = [i for i in greedy_nms(boxes, scores, 0.5, 0) if scores[i] > 0.4][:5]
    dets, kept = nms(boxes, scores, 0.5, score_threshold=0.4, max_num=5)
    assert kept.tolist() == expected
    assert len(dets) == 5


def test_nms_takes_numpy_mixed_precision_and_no_boxes():
    boxes, scores = random_boxes(60), torch.rand(60)
    dets, kept = nms(boxes.numpy(), scores.numpy(), 0.5)
    assert kept.tolist() == greedy_nms(boxes, scores, 0.5, 0)
    assert dets.shape == (len(kept), 5)
    half = scores.half()
    assert set(nms(boxes, half, 0.5)[1].tolist()) == set(greedy_nms(boxes, half, 0.5, 0))
    dets, kept = nms(boxes[:0], scores[:0], 0.5)
    assert dets.shape == (0, 5)
    assert kept.shape == (0,)
    assert kept.dtype == torch.long


@on_each_device
@pytest.mark.parametrize("split_thr", [10000, 10])
def test_batched_nms_suppresses_within_a_class_only(device, split_thr):
    boxes, scores, labels = random_boxes(120), torch.rand(120), torch.randint(4, (120,))
    config = {"type": "nms", "iou_threshold": 0.3, "split_thr": split_thr}
    dets, kept = batched_nms(boxes.to(device), scores.to(device), labels.to(device), config)
    expected = []
    for label in range(4):
        members = (labels == label).nonzero()[:, 0]
        expected += members[greedy_nms(boxes[members], scores[members], 0.3, 0)].tolist()
    expected.sort(key=lambda i: -scores[i])
    assert kept.tolist() == expected
    torch.testing.assert_close(dets.cpu(), torch.cat((boxes, scores[:, None]), 1)[expected])
    assert len(expected) > len(greedy_nms(boxes, scores, 0.3, 0))


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
@pytest.mark.parametrize("ties", [False, True])
def test_soft_nms_takes_the_boxes_in_the_order_and_with_the_scores_of_the_loop(
    method, offset, ties
):
    boxes, scores = random_boxes(90, 25.0), torch.rand(90)
    if ties:
        scores = (scores * 4).ceil() / 4
    dets, taken = soft_nms(
        boxes, scores, 0.3, sigma=0.4, min_score=0.15, method=method, offset=offset
    )
    expected = greedy_soft_nms(boxes.tolist(), scores.tolist(), 0.3, 0.4, 0.15, method, offset)
    assert taken.tolist() == [row[5] for row in expected]
    assert 1 < len(expected) < 90
    torch.testing.assert_close(dets, torch.tensor([row[:5] for row in expected]))


def test_soft_nms_leaves_its_input_alone_and_takes_no_boxes():
    boxes, scores = random_boxes(30), torch.rand(30)
    before = boxes.clone(), scores.clone()
    soft_nms(boxes, scores, method="linear")
    assert torch.equal(boxes, before[0])
    assert torch.equal(scores, before[1])
    dets, taken = soft_nms(boxes[:0], scores[:0])
    assert dets.shape == (0, 5)
    assert taken.shape == (0,)


# ------------------------------------------------------------------------------------- pooling


@on_each_device
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_roi_align_and_its_gradient_equal_the_sampling_loop(device, sampling_ratio, aligned):
    features = torch.randn(2, 2, 7, 9, dtype=torch.float64, requires_grad=True)
    rois = random_rois(4, 2, 30.0)
    rois[0, 1:] = torch.tensor([-9.0, 3.0, 50.0, 20.0])  # hangs over two borders
    pool = RoIAlign((3, 2), 0.25, sampling_ratio, aligned=aligned)
    output = pool(features.to(device), rois.to(device)).cpu()
    expected = loop_roi_align(features, rois, (3, 2), 0.25, sampling_ratio, aligned)
    torch.testing.assert_close(output, expected)
    weights = torch.randn_like(output)
    (grad,) = torch.autograd.grad((output * weights).sum(), features)
    (expected_grad,) = torch.autograd.grad((expected * weights).sum(), features)
    assert expected_grad.abs().sum() > 0
    torch.testing.assert_close(grad, expected_grad)


def test_roi_align_passes_gradcheck():
    features = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    rois = random_rois(3, 1, 20.0)
    assert gradcheck(lambda f: roi_align(f, rois, (2, 2), 0.25, 2, "avg", True), features)


def test_roi_align_takes_half_precision_and_no_rois():
    features, rois = torch.randn(2, 3, 8, 8), random_rois(5, 2, 20.0).float()
    exact = roi_align(features, rois, (2, 2), 0.25, 2)
    half = features.half().requires_grad_()
    output = roi_align(half, rois, (2, 2), 0.25, 2)
    assert output.dtype == torch.half
    torch.testing.assert_close(output.float(), exact, atol=5e-3, rtol=5e-3)
    output.sum().backward()
    assert half.grad.dtype == torch.half
    assert half.grad.abs().sum() > 0
    assert roi_align(features, rois[:0], (2, 2), 0.25, 2).shape == (0, 3, 2, 2)


def test_roi_align_refuses_to_pool_by_maximum():
    features, rois = torch.randn(1, 1, 4, 4), torch.tensor([[0.0, 0.0, 0.0, 3.0, 3.0]])
    with pytest.raises(NotImplementedError, match="pool_mode='max'"):
        RoIAlign((2, 2), pool_mode="max")(features, rois)


@on_each_device
@pytest.mark.parametrize("scale", [0.25, 1.0])
def test_roi_pool_and_its_gradient_equal_the_loop_over_bins(device, scale):
    features = torch.randn(2, 3, 9, 11, dtype=torch.float64, requires_grad=True)
    rois = random_rois(12, 2, 40.0 if scale < 1 else 8.0)
    rois[0, 1:] = torch.tensor([-30.0, -30.0, 20.0, 20.0])  # some bins lie outside
    rois[1, 1:] = torch.tensor([10.0, 5.0, 3.0, 9.0])  # negative width
    rois[2, 1:] = torch.tensor([200.0, 200.0, 220.0, 220.0])  # wholly outside
    output = RoIPool((3, 2), scale)(features.to(device), rois.to(device)).cpu()
    expected = loop_roi_pool(features, rois, (3, 2), scale)
    torch.testing.assert_close(output, expected, atol=0, rtol=0)
    weights = torch.randn_like(output)
    (grad,) = torch.autograd.grad((output * weights).sum(), features)
    (expected_grad,) = torch.autograd.grad((expected * weights).sum(), features)
    assert expected_grad.abs().sum() > 0
    torch.testing.assert_close(grad, expected_grad)


def test_roi_pool_passes_gradcheck():
    features = torch.randperm(60).double().view(1, 2, 5, 6).requires_grad_()
    rois = random_rois(3, 1, 20.0)
    assert gradcheck(lambda f: roi_pool(f, rois, (2, 2), 0.25), features)


# --------------------------------------------------------------------- deformable convolutions

GEOMETRIES = [
    # kernel, stride, padding, dilation, groups, deform groups
    ((3, 3), (1, 1), (1, 1), (1, 1), 1, 1),
    ((3, 2), (2, 1), (0, 2), (1, 2), 2, 1),
    ((2, 3), (1, 2), (1, 0), (2, 1), 1, 2),
    ((1, 2), (2, 2), (1, 1), (1, 1), 2, 2),
]


def deform_operands(kernel, stride, padding, dilation, groups, deform_groups):
    """Images, offsets, mask, weight and bias in float64, sampled away from the pixel grid."""
    size = (4, 5)
    rows, columns = (
        (size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i in range(2)
    )
    taps = deform_groups * kernel[0] * kernel[1]
    # Bilinear sampling has a kink on the grid, where neither gradient is wrong.
    shift = torch.randint(-2, 3, (2, 2 * taps, rows, columns))
    offset = shift + 0.15 + 0.7 * torch.rand(shift.shape, dtype=torch.float64)
    operands = (
        torch.randn(2, 4, *size, dtype=torch.float64),
        offset,
        torch.rand(2, taps, rows, columns, dtype=torch.float64),
        torch.randn(4, 4 // groups, *kernel, dtype=torch.float64),
        torch.randn(4, dtype=torch.float64),
    )
    return [operand.requires_grad_() for operand in operands]


@on_each_device
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_deform_conv_and_its_gradients_equal_the_loop(device, geometry):
    images, offset, _, weight, _ = deform_operands(*geometry)
    output = deform_conv2d(*(t.to(device) for t in (images, offset, weight)), *geometry[1:]).cpu()
    expected = loop_deform_conv(images, offset, weight, *geometry[1:])
    torch.testing.assert_close(output, expected)
    weights = torch.randn_like(output)
    inputs = (images, offset, weight)
    grads = torch.autograd.grad((output * weights).sum(), inputs)
    expected_grads = torch.autograd.grad((expected * weights).sum(), inputs)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        assert expected_grad.abs().sum() > 0
        torch.testing.assert_close(grad, expected_grad)


@on_each_device
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_modulated_deform_conv_and_its_gradients_equal_the_loop(device, geometry, with_bias):
    images, offset, mask, weight, bias = deform_operands(*geometry)
    inputs = (images, offset, mask, weight, bias) if with_bias else (images, offset, mask, weight)
    on_device = [t.to(device) for t in inputs]
    bias_there = on_device[4] if with_bias else None
    output = modulated_deform_conv2d(*on_device[:4], bias_there, *geometry[1:]).cpu()
    expected = loop_deform_conv(
        images, offset, weight, *geometry[1:], mask=mask, bias=bias if with_bias else None
    )
    torch.testing.assert_close(output, expected)
    weights = torch.randn_like(output)
    grads = torch.autograd.grad((output * weights).sum(), inputs)
    expected_grads = torch.autograd.grad((expected * weights).sum(), inputs)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        assert expected_grad.abs().sum() > 0
        torch.testing.assert_close(grad, expected_grad)


def test_deform_convs_pass_gradcheck():
    images, offset, mask, weight, bias = deform_operands(*GEOMETRIES[3])
    rest = GEOMETRIES[3][1:]
    assert gradcheck(lambda *t: deform_conv2d(*t, *rest), (images, offset, weight), fast_mode=True)
    inputs = (images, offset, mask, weight, bias)
    assert gradcheck(lambda *t: modulated_deform_conv2d(*t, *rest), inputs, fast_mode=True)


def test_deform_conv_does_not_depend_on_the_im2col_step():
    images = torch.randn(4, 2, 6, 6)
    offset = torch.randn(4, 18, 6, 6)
    conv = DeformConv2d(2, 3, 3, padding=1)
    whole = conv(images, offset)
    conv.im2col_step = 2
    torch.testing.assert_close(conv(images, offset), whole)


def test_deform_convs_without_offset_are_ordinary_convolutions():
    images = torch.randn(2, 4, 8, 8)
    for pack in (DeformConv2dPack, ModulatedDeformConv2dPack):
        conv = pack(4, 6, 3, padding=1, groups=2)
        factor = 0.5 if isinstance(conv, ModulatedDeformConv2d) else 1.0  # sigmoid(0)
        expected = torch.nn.functional.conv2d(images, conv.weight, padding=1, groups=2) * factor
        torch.testing.assert_close(conv(images), expected, atol=1e-5, rtol=1e-5)


# -------------------------------------------------------------------------------- the two seams


def test_an_operator_without_stand_in_is_named_with_the_way_to_get_it():
    operator = mmcv._ext.sigmoid_focal_loss_forward
    with pytest.raises(NotImplementedError, match=r"'sigmoid_focal_loss_forward'.*pip install"):
        operator(torch.zeros(1), gamma=2.0)
    assert not hasattr(mmcv._ext, "__wrapped__")


def test_mmcv_believes_that_its_operators_exist():
    assert mmcv._ext.__spec__.name == "mmcv._ext"
    assert importlib.util.find_spec("mmcv._ext").loader is not None


def run_python(code: str, *folders: Path) -> str:
    path = os.pathsep.join(map(str, (*folders, ROOT)))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("compiled", [True, False])
def test_compiled_operators_win_over_the_stand_in(tmp_path, compiled):
    (tmp_path / "mmcv").mkdir()
    (tmp_path / "mmcv" / "__init__.py").touch()
    if compiled:
        (tmp_path / "mmcv" / "_ext.py").write_text("nms = 'compiled'\n")
    code = "import mmsalmask, mmcv._ext as e; print(e.nms if type(e.nms) is str else 'stand-in')"
    assert run_python(code, tmp_path) == ("compiled" if compiled else "stand-in")


def test_importing_mmsalmask_again_leaves_one_finder_of_each_kind():
    code = """
import sys
for _ in range(2):
    import mmsalmask
    mmsalmask.compat.install()
    for name in [n for n in sys.modules if n.startswith("mmsalmask")]:
        del sys.modules[name]
print([type(f).__name__ for f in sys.meta_path if type(f).__module__ == "mmsalmask.compat"])
print(type(sys.meta_path[-1]).__name__)
"""
    lines = run_python(code).splitlines()
    assert lines == ["['AmendingFinder', 'OperatorFinder']", "OperatorFinder"]


def test_mmsalmask_is_imported_without_mmengine_and_mmcv():
    code = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("mmengine", "mmcv", "mmpretrain", "mmdet", "mmseg"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Blocker())
import mmsalmask
import mmsalmask.saliency, mmsalmask.masking, mmsalmask.losses
print("imported")
"""
    assert run_python(code) == "imported"


def test_importing_mmsalmask_imports_neither_torch_nor_mmengine():
    code = "import sys, mmsalmask; print({'torch', 'mmengine', 'mmcv'} & set(sys.modules))"
    assert run_python(code) == "set()"


@pytest.mark.parametrize("first", ["mmsalmask", "mmengine.config"])
def test_config_scopes_are_known_whichever_is_imported_first(first):
    code = f"""
import {first}
import mmsalmask
from mmengine.config.utils import MODULE2PACKAGE
print(MODULE2PACKAGE["mmsalmask"], MODULE2PACKAGE["mmseg"], MODULE2PACKAGE["mmdet"])
"""
    assert run_python(code) == "mmsalmask mmseg mmdet"


@pytest.mark.parametrize("package", ["mmsalmask", "mmseg"])
def test_mmengine_finds_the_package_of_a_config_scope(package):
    assert is_installed(package)
    expected = Path(importlib.util.find_spec(package).origin).parent
    assert Path(get_installed_path(package)) == expected


@pytest.mark.parametrize(
    ("base", "model"),
    [
        ("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py", "FasterRCNN"),
        ("mmpretrain::_base_/models/resnet50.py", "ImageClassifier"),
        ("mmseg::_base_/models/fcn_r50-d8.py", "EncoderDecoder"),
    ],
)
def test_configs_of_the_other_libraries_can_be_inherited(tmp_path, base, model):
    pytest.importorskip(base.partition("::")[0])
    path = tmp_path / "config.py"
    path.write_text(f"_base_ = {base!r}\n")
    assert Config.fromfile(path).model.type.rpartition(".")[2] == model


def test_a_librarys_metafiles_are_read_once(tmp_path):
    from mmengine.config import utils

    file = tmp_path / "config.py"
    file.write_text("_base_ = 'mmpretrain::_base_/models/resnet50.py'")
    first = Config.fromfile(file)
    read = utils.load.cache_info().misses
    assert read
    assert Config.fromfile(file).to_dict() == first.to_dict()
    assert utils.load.cache_info().misses == read


def test_a_text_of_a_config_is_formatted_once(monkeypatch):
    from yapf.yapflib import yapf_api

    formatted, format_tree = [], yapf_api.FormatTree

    def count(*arguments, **options):
        formatted.append(arguments)
        return format_tree(*arguments, **options)

    monkeypatch.setattr(yapf_api, "FormatTree", count)
    config = Config({"model": {"type": "ANameThatIsInNoOtherTest", "depth": 18}})
    text = config.pretty_text
    assert config.pretty_text == text
    assert len(formatted) == 1
    config.model.depth = 50
    assert config.pretty_text == text.replace("18", "50")
    assert len(formatted) == 2


def test_a_dataloader_inherited_from_another_library_is_built(tmp_path):
    path = tmp_path / "config.py"
    path.write_text("_base_ = 'mmpretrain::_base_/datasets/imagenet_bs32_byol.py'\n")
    loader = Config.fromfile(path).train_dataloader
    assert loader.collate_fn["_scope_"] == "mmpretrain"
    loader.update(dataset=[{"inputs": torch.zeros(3)}] * 4, batch_size=2, num_workers=0)
    built = Runner.build_dataloader(dict(loader, persistent_workers=False))
    assert [batch["inputs"].shape for batch in built] == [(2, 3), (2, 3)]
