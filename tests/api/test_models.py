"""Encoders by name and by file, their preprocessing, and how they are written for others."""

import numpy as np
import pytest
import torch
import torchvision
from api_photos import draw
from mmengine.config import Config
from PIL import Image

import mmsalmask as sm
from mmsalmask.api.backbones import backbone_config, build_backbone
from mmsalmask.api.encoder import IMAGENET
from mmsalmask.api.exporting import Filtered
from mmsalmask.checkpoint import load_checkpoint, save_backbone, saw_high_pass
from mmsalmask.errors import InputError
from mmsalmask.evaluation.labelled import CentreCrops
from mmsalmask.masking import high_pass

PLAIN = "mocov2_resnet18-w16_1xb128-coslr-50e_imagenette-64px"
FILTERED = "mocov2-salmask-highpass_resnet18-w16_1xb128-coslr-50e_imagenette-64px"


@pytest.mark.parametrize("name", [PLAIN, FILTERED])
def test_an_encoder_by_name_says_how_it_wants_its_images(name, images):
    encoder = sm.get_model(name)
    assert (encoder.size, encoder.high_pass, encoder.rgb) == (64, name == FILTERED, True)
    assert encoder.mean == pytest.approx((0.485, 0.456, 0.406), abs=1e-3)
    path = images / "00.png"
    crop, _ = CentreCrops(64)({"img_path": str(path), "gt_label": 0})
    mean, std = (torch.tensor(part)[:, None, None] for part in (encoder.mean, encoder.std))
    wanted = (crop / 255 - mean) / std
    wanted = high_pass(wanted[None])[0] if encoder.high_pass else wanted
    for given in (path, Image.open(path)):
        torch.testing.assert_close(encoder.transform(given), wanted, atol=1e-4, rtol=0)
    assert not encoder.training
    features = encoder(wanted[None])
    assert features.shape == (1, 128)
    maps = encoder.backbone(wanted[None])[-1]
    torch.testing.assert_close(features, maps.mean((2, 3)))


@pytest.mark.parametrize("name", ["turned.jpg", "turned.tif", "clear.png", "deep.png"])
def test_a_picture_is_transformed_as_its_file_is(tmp_path, name):
    y, x = np.mgrid[0:40, 0:60]
    rgb = np.stack([x * 4, y * 6, 200 - x - y], -1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    if name == "deep.png":
        Image.fromarray((x * 1000).astype(np.uint16)).save(tmp_path / name)
    elif name == "clear.png":
        Image.fromarray(np.dstack([rgb, (x * 4).astype(np.uint8)])).save(tmp_path / name)
    else:
        Image.fromarray(rgb).save(tmp_path / name, exif=exif)
    transform = sm.get_model(PLAIN).transform
    with Image.open(tmp_path / name) as picture:
        torch.testing.assert_close(transform(picture), transform(tmp_path / name))


def test_a_picture_without_a_white_is_refused():
    with pytest.raises(InputError, match="no colours to transform: 32-bit"):
        sm.get_model(PLAIN).transform(Image.new("F", (8, 8)))


def test_without_its_weights_an_encoder_is_the_untrained_net_of_seed_0():
    trained, fresh, again = (sm.get_model(PLAIN, pretrained=p) for p in (True, False, False))
    a, b, c = (net.backbone.conv1.weight for net in (trained, fresh, again))
    assert torch.equal(b, c)
    assert not torch.equal(a, b)


def test_an_exported_backbone_of_any_width_is_recognised_with_its_filter(tmp_path, images):
    weights = sm.list_models()[FILTERED]["weights"]
    encoder, named = sm.get_model(weights), sm.get_model(FILTERED)
    assert encoder.high_pass
    image = named.transform(images / "01.png")[None]
    torch.testing.assert_close(encoder(image), named(image))


@pytest.mark.parametrize("filters", [True, False, None])
def test_a_run_says_whether_it_filtered_where_its_strategy_is_not_imported(
    filters, tmp_path, images
):
    """The user's own class may not be imported where the encoder is used."""
    net = build_backbone(backbone := backbone_config("resnet18", False))
    masker = dict(type="mmsalmask.SaliencyMasker", strategy=dict(type="mmsalmask.Elsewhere"))
    preprocessor = dict(type="mmsalmask.MaskingDataPreprocessor", **IMAGENET, masker=masker)
    model = dict(type="mmsalmask.MaskedMoCo", backbone=backbone, data_preprocessor=preprocessor)
    meta = dict(cfg=Config(dict(model=model)).pretty_text)
    meta |= {} if filters is None else {"high_pass": filters}  # earlier runs did not say it
    state = {f"backbone.{name}": value for name, value in net.state_dict().items()}
    torch.save(dict(meta=meta, state_dict=state), tmp_path / "run.pth")
    assert saw_high_pass(load_checkpoint(tmp_path / "run.pth")) is filters
    if filters is False:
        encoder = sm.get_model(tmp_path / "run.pth")
        assert not encoder.high_pass
        assert len(sm.embed(encoder, images, size=32, workers=0)) == 24
    else:
        with pytest.raises(InputError, match=r"as mmsalmask.Elsewhere shows them.*import the mod"):
            sm.get_model(tmp_path / "run.pth")


def test_a_runs_checkpoint_says_whether_it_filtered(run):
    assert load_checkpoint(run.checkpoint)["meta"]["high_pass"] is True


def test_a_checkpoint_of_torchvision_is_an_encoder(tmp_path):
    net = torchvision.models.resnet18(weights=None).eval()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    encoder = sm.get_model(tmp_path / "net.pth")
    images = torch.randn(2, 3, 64, 64)
    net.fc = torch.nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), net(images))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mocov2_resnet18-w16_1xb128-coslr-50e_imagenette", "did you mean 'mocov2_resnet18-w16"),
        ("resnet5O", "did you mean 'resnet50'"),
        ("nothing.pth", "there is no checkpoint nothing.pth"),
    ],
)
def test_an_unknown_name_gets_the_nearest(name, words):
    with pytest.raises(InputError) as caught:
        sm.get_model(name)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_something_else_is_told(tmp_path):
    torch.save({"state_dict": {"lstm.weight": torch.zeros(2)}}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="holds no backbone"):
        sm.get_model(tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(InputError, match="not a checkpoint"):
        sm.get_model(tmp_path / "text.pth")
    with pytest.raises(InputError, match="got a Linear"):
        sm.embed(torch.nn.Linear(2, 2), tmp_path)


# ------------------------------------------------------------------------------ written for others


@pytest.mark.parametrize("format", ["mmpretrain", "torchvision", "timm", "detectron2"])
def test_a_run_is_exported_under_the_names_of_a_library(format, run, tmp_path):
    file = sm.export(run, tmp_path / "backbone.pth", format)
    written = torch.load(file, weights_only=True)
    state = written["model" if format == "detectron2" else "state_dict"]
    weight = run.backbone().backbone.layer1[0].conv2.weight
    name = "res2.0.conv2.weight" if format == "detectron2" else "layer1.0.conv2.weight"
    torch.testing.assert_close(state[name], weight.detach())
    assert written["meta"]["high_pass"] == "true"


@pytest.mark.parametrize(
    ("format", "name"), [("torchvision", "mobilenet_v3_small"), ("timm", "resnet10t")]
)
def test_a_net_of_a_library_goes_home_under_its_own_names(format, name, tmp_path):
    timm = pytest.importorskip("timm") if format == "timm" else None
    backbone = build_backbone(backbone_config(f"timm/{name}" if timm else name), seed=3)
    backbone.eval()
    save_backbone(backbone.state_dict(), tmp_path / "x.pth", format, {})
    state = load_checkpoint(tmp_path / "x.pth")["state_dict"]
    build = timm.create_model if timm else torchvision.models.get_model
    home = build(name).eval()
    missing, unexpected = home.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(key.startswith(("fc.", "classifier.")) for key in missing)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        wanted = home.forward_features(images) if timm else home.features(images)
        torch.testing.assert_close(backbone(images)[-1], wanted)


def test_an_export_that_fails_leaves_the_encoder_as_it_was(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    pytest.importorskip("torch", minversion="2.6")
    encoder = sm.get_model(PLAIN).train()
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        sm.export(encoder, tmp_path / "x.onnx", "onnx")
    assert encoder.training


@pytest.mark.parametrize("filter_inside", [False, True])
def test_onnx_computes_what_pytorch_does(filter_inside, tmp_path, images):
    pytest.importorskip("onnxscript")
    pytest.importorskip("torch", minversion="2.6")  # older ones are refused, below
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    file = sm.export(FILTERED, tmp_path / "x.onnx", "onnx", filter_inside)
    encoder = sm.get_model(FILTERED)
    facts = {prop.key: prop.value for prop in onnx.load(file).metadata_props}
    assert facts["filter_inside"] == str(filter_inside)
    assert facts["size"] == "64"
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    paths = [str(images / f"0{i}.png") for i in range(5)]
    crops = torch.stack([CentreCrops(64)({"img_path": p, "gt_label": 0})[0] for p in paths])
    mean, std = (torch.tensor(part)[:, None, None] for part in (encoder.mean, encoder.std))
    plain = (crops / 255 - mean) / std
    seen = torch.stack([encoder.transform(path) for path in paths])
    (found,) = session.run(None, {"images": (plain if filter_inside else seen).numpy()})
    with torch.no_grad():
        wanted = encoder(seen).numpy()
        torch.testing.assert_close(Filtered(encoder)(plain), encoder(seen), atol=1e-3, rtol=1e-3)
    assert np.abs(found - wanted).max() < 1e-3 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("file", "format", "inside", "words"),
    [
        ("x.pth", "keras", False, "format must be one of mmpretrain, torchvision, timm"),
        ("x.pth", "onnx", False, "must be named .onnx"),
        ("x.onnx", "onnx", True, "learned from plain images, it has no filter"),
        ("x.pth", "timm", True, "filter_inside is for format='onnx'"),
        ("x.txt", "timm", False, "cannot write x.txt"),
    ],
)
def test_bad_exports_are_one_sentence(file, format, inside, words, tmp_path):
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    source = PLAIN if format == "onnx" else sm.list_models()[PLAIN]["weights"]
    with pytest.raises(InputError) as caught:
        sm.export(source, tmp_path / file, format, inside)
    assert words in str(caught.value)
    assert not (tmp_path / file).exists()


def test_a_torch_that_cannot_convert_is_refused(monkeypatch, tmp_path):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(
        InputError, match=r"format 'onnx' needs torch 2\.6 or newer, this is 2\.5\.1"
    ):
        sm.export(PLAIN, tmp_path / "x.onnx", "onnx")


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"needs onnxruntime: pip install 'mmsalmask\[onnx\]'"):
        sm.export(PLAIN, tmp_path / "x.onnx", "onnx")
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(InputError, match=r"needs timm: pip install 'mmsalmask\[timm\]'"):
        sm.get_model("timm/resnet18", pretrained=False)


# --------------------------------------------------------------------------------- what is masked


def test_masks_are_drawn_and_leave_the_random_streams_alone(images):
    torch.manual_seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, again, other = (
        np.asarray(
            sm.show_masks(images, images=2, size=32, seed=seed).axes[0].images[0].get_array()
        )
        for seed in (0, 0, 1)
    )
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()
    assert np.array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)


def test_overrides_have_the_last_word(images):
    small, large = (
        np.asarray(
            sm.show_masks(images, images=1, size=32, overrides=overrides)
            .axes[0]
            .images[0]
            .get_array()
        )
        for overrides in (None, {"model.data_preprocessor.augment.view.size": 96})
    )
    assert not np.array_equal(small, large)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(method="mocov2"), "mocov2 masks nothing: give a method with salmask"),
        (dict(method="adios-simclr"), "learns its masks, there are none before training"),
        (dict(method="salmask"), "no method named 'salmask'"),
        (dict(images=0), "images must be an integer of at least 1"),
    ],
)
def test_what_cannot_be_shown_is_told(options, words, images):
    with pytest.raises(InputError, match=words):
        sm.show_masks(images, **options)


def test_images_that_are_all_broken_are_told(tmp_path):
    folder = draw(tmp_path / "broken", 2)
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(InputError, match="none of the 2 images can be read"):
        sm.show_masks(folder, size=32)
    with pytest.raises(InputError, match="none of the 2 images can be read"):
        sm.embed(PLAIN, folder, workers=0)


# ------------------------------------------------------------------------ OpenMMLab's inferencer


def test_the_inferencer_gives_the_encoders_features_of_paths_and_arrays(images):
    from mmcv import imread
    from mmpretrain.apis.base import BaseInferencer

    extract = sm.FeatureExtractor(FILTERED, device="cpu")
    assert isinstance(extract, BaseInferencer)
    encoder = sm.get_model(FILTERED)
    paths = [str(images / f"0{i}.png") for i in range(3)]
    with torch.no_grad():
        wanted = encoder(torch.stack([encoder.transform(path) for path in paths]))
    for given in (paths, [imread(path) for path in paths]):
        torch.testing.assert_close(torch.stack(extract(given, batch_size=2)), wanted)
    torch.testing.assert_close(extract(paths[0])[0], wanted[0])
    assert extract.list_models("*mscn*") == [name for name in sm.list_models() if "mscn" in name]
    with pytest.raises(InputError, match="no model fits 'vit\\*'"):
        extract.list_models("vit*")
