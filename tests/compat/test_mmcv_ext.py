"""The operators that stand in for mmcv's compiled ones, called through mmcv's public functions.

The references are loops over the definitions: boxes and bins one by one.
"""

import importlib
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
from mmcv.ops import DeformConv2dPack, RoIAlign, batched_nms, nms, roi_align, soft_nms
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.utils import get_installed_path, is_installed
from references import greedy_nms, loop_roi_align

ROOT = Path(mmsalmask.__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(
    not mmcv._ext.__file__.endswith(".py"), reason="this mmcv has compiled operators, which win"
)
on_each_device = pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
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


# -------------------------------------------------------------------------------- the two seams


def test_an_operator_without_stand_in_is_named_with_the_way_to_get_it():
    operator = mmcv._ext.sigmoid_focal_loss_forward
    with pytest.raises(NotImplementedError, match=r"'sigmoid_focal_loss_forward'.*pip install"):
        operator(torch.zeros(1), gamma=2.0)
    assert not hasattr(mmcv._ext, "__wrapped__")


def test_operators_that_no_recipe_reaches_are_refused_where_mmcv_calls_them():
    boxes, scores = random_boxes(3), torch.rand(3)
    with pytest.raises(NotImplementedError, match=r"'softnms' needs mmcv's compiled operators"):
        soft_nms(boxes, scores)
    with pytest.raises(NotImplementedError, match=r"'deform_conv_forward'.*mmwheels"):
        DeformConv2dPack(2, 2, 3)(torch.zeros(1, 2, 4, 4))


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


@pytest.mark.parametrize("first", ["mmpretrain.models", "mmdet.models", "mmdet, mmpretrain.models"])
def test_mmdet_is_imported_for_detectors_alone_and_then_has_mmpretrains_layer(first):
    code = f"""
import sys
import mmsalmask, {first}
print("mmdet" in sys.modules)
from mmdet.registry import MODELS
layer = MODELS.get("ResLayerExtraNorm")
import mmpretrain.models
print(layer is mmpretrain.models.utils.ResLayerExtraNorm)
"""
    assert run_python(code).split() == [str(first != "mmpretrain.models"), "True"]


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
