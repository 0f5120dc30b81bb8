"""The filters as transforms: what reaches the network is what the masker would have made of it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.dataset import Compose, default_collate, pseudo_collate
from mmengine.registry import DefaultScope
from PIL import Image

import mmsalmask  # noqa: F401  serves mmcv's operators where they are not compiled
from mmsalmask.data import HighPassFilter, StrongGaussianBlur
from mmsalmask.errors import InputError
from mmsalmask.masking.filters import gaussian_blur, high_pass

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
NORMALISE = {"mean": MEAN, "std": STD}
FILTERS = {
    "mmsalmask.HighPassFilter": high_pass,
    "mmsalmask.StrongGaussianBlur": lambda images: gaussian_blur(images, 31, 10.0),
}


def as_batch(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float()


def as_image(batch: torch.Tensor) -> np.ndarray:
    return batch[0].permute(1, 2, 0).numpy()


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(8, 40),
    width=st.integers(8, 40),
    kernel_size=st.sampled_from([3, 7, 11, 15]),
    sigma=st.floats(0.4, 12),
    dtype=st.sampled_from([np.uint8, np.float32, np.float64]),
    seed=st.integers(0, 2**16),
)
def test_both_filters_compute_what_the_maskers_compute(
    height, width, kernel_size, sigma, dtype, seed
):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(dtype)
    edges = HighPassFilter(kernel_size, sigma, mean=(1.5, 20.0, 300.0))({"img": image})["img"]
    expected = as_image(high_pass(as_batch(image), kernel_size, sigma)) + [1.5, 20.0, 300.0]
    assert edges.dtype == np.float32
    np.testing.assert_allclose(edges, expected, atol=1e-3)
    blurred = StrongGaussianBlur(kernel_size, sigma)({"img": image})["img"]
    expected = as_image(gaussian_blur(as_batch(image), kernel_size, sigma))
    assert blurred.dtype == dtype
    tolerance = 0.501 if dtype == np.uint8 else 1e-3
    np.testing.assert_allclose(blurred, expected, atol=tolerance)


def test_the_defaults_are_those_of_the_paper():
    image = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    edges = HighPassFilter()({"img": image})["img"] - np.float32(MEAN[::-1])
    np.testing.assert_allclose(edges, as_image(high_pass(as_batch(image))), atol=1e-3)
    blurred = StrongGaussianBlur()({"img": image.astype(np.float32)})["img"]
    expected = as_image(gaussian_blur(as_batch(image), 31, 10.0))
    np.testing.assert_allclose(blurred, expected, atol=1e-3)
    edges = HighPassFilter()({"img": image})["img"]
    assert (edges < 0).any(), "negative values must not be clipped"


def test_only_img_is_changed_and_the_original_array_is_not():
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    before = image.copy()
    rest = {"img_shape": (40, 40), "gt_label": 3, "gt_seg_map": np.ones((40, 40))}
    for transform in (HighPassFilter(), StrongGaussianBlur()):
        results = transform({"img": image, **rest})
        assert results.keys() == {"img", *rest}
        assert all(results[key] is rest[key] for key in rest)
        assert results["img"] is not image
        np.testing.assert_array_equal(image, before)


def test_a_grey_image_can_be_blurred_and_filtered_with_one_mean():
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 1), dtype=np.uint8)
    assert StrongGaussianBlur()({"img": image})["img"].shape == (40, 40, 1)
    assert StrongGaussianBlur()({"img": image[..., 0]})["img"].shape == (40, 40)
    assert HighPassFilter(mean=[5])({"img": image})["img"].shape == (40, 40, 1)


# The pipelines and preprocessors of the three libraries: scope, transforms before and after the
# filter, preprocessor. All turn BGR into RGB, so a mean in the wrong order is a failure here.
RESIZE = {"type": "Resize", "scale": (56, 48), "keep_ratio": True}
LIBRARIES = {
    "selfsup": (
        "mmpretrain",
        [{"type": "mmsalmask.LoadImage"}, {"type": "CenterCrop", "crop_size": 48}],
        [{"type": "PackInputs"}],
        {"type": "SelfSupDataPreprocessor", "to_rgb": True, **NORMALISE},
    ),
    "classification": (
        "mmpretrain",
        [{"type": "LoadImageFromFile"}, {"type": "ResizeEdge", "scale": 48}],
        [{"type": "PackInputs"}],
        {"type": "ClsDataPreprocessor", "to_rgb": True, **NORMALISE},
    ),
    "detection": (
        "mmdet",
        [{"type": "LoadImageFromFile"}, RESIZE],
        [
            {"type": "Pad", "size": (64, 64), "pad_val": {"img": tuple(MEAN[::-1])}},
            {"type": "PackDetInputs", "meta_keys": ("img_shape",)},
        ],
        {"type": "DetDataPreprocessor", "bgr_to_rgb": True, "pad_size_divisor": 32, **NORMALISE},
    ),
    "segmentation": (
        "mmseg",
        [{"type": "LoadImageFromFile"}, RESIZE],
        [{"type": "PackSegInputs"}],
        {"type": "SegDataPreProcessor", "bgr_to_rgb": True, "size": (64, 64), **NORMALISE},
    ),
}


def build_preprocessor(scope: str, config: dict) -> torch.nn.Module:
    if scope == "mmpretrain":
        from mmpretrain.registry import MODELS
    elif scope == "mmdet":
        import mmdet.models  # noqa: F401
        from mmdet.registry import MODELS
    else:
        import mmseg.models  # noqa: F401
        from mmseg.registry import MODELS
    return MODELS.build({**config})


def network_input(path, name: str, filters: list[dict]) -> torch.Tensor:
    scope, before, after, preprocessor = LIBRARIES[name]
    pytest.importorskip(scope)
    with DefaultScope.overwrite_default_scope(scope):
        preprocessor = build_preprocessor(scope, preprocessor)
        pipeline = Compose([*before, *filters, *after])
        item = pipeline({"img_path": str(path), "sample_idx": 0})
    collate = default_collate if name == "selfsup" else pseudo_collate
    # As the loops call it: a segmentor's preprocessor pads to its size in training only.
    return preprocessor(collate([item]), training=True)["inputs"]


@pytest.mark.parametrize("filter_type", FILTERS)
@pytest.mark.parametrize("name", LIBRARIES)
def test_the_network_sees_the_filtered_normalised_image(tmp_path, name, filter_type):
    image = np.random.default_rng(0).integers(0, 156, (70, 90, 3), dtype=np.uint8)
    image[:, :40, :2] += 99
    Image.fromarray(image).save(tmp_path / "x.png")
    # A float image, so that the blur's result is not rounded to whole colours.
    to_float = lambda results: {**results, "img": results["img"].astype(np.float32)}  # noqa: E731
    plain = network_input(tmp_path / "x.png", name, [to_float])
    seen = network_input(tmp_path / "x.png", name, [to_float, {"type": filter_type}])
    height = 48 if name in ("selfsup", "classification") else 44
    width = {"selfsup": 48, "classification": 61}.get(name, 56)
    expected = FILTERS[filter_type](plain[..., :height, :width])
    torch.testing.assert_close(seen[..., :height, :width], expected, atol=1e-4, rtol=0)
    assert seen.shape == plain.shape
    assert expected.abs().max() > 0.5
    # What the library pads afterwards stays what it was: no edge between image and padding.
    padded = torch.ones(plain.shape, dtype=torch.bool)
    padded[..., :height, :width] = False
    if name in ("detection", "segmentation"):
        assert padded.any()
        torch.testing.assert_close(seen[padded], torch.zeros_like(seen[padded]), atol=1e-4, rtol=0)


# Bad input


@pytest.mark.parametrize(
    ("transform", "radius"), [(HighPassFilter(), 5), (StrongGaussianBlur(), 15)]
)
def test_an_image_too_small_to_be_reflected_is_refused(transform, radius):
    transform({"img": np.zeros((radius + 1, radius + 1, 3), np.uint8)})
    for shape in ((radius, 100, 3), (100, radius, 3)):
        with pytest.raises(InputError, match=rf"needs images of at least {radius + 1} px"):
            transform({"img": np.zeros(shape, np.uint8)})


@pytest.mark.parametrize("kind", [HighPassFilter, StrongGaussianBlur])
def test_an_impossible_kernel_is_refused(kind):
    with pytest.raises(InputError, match="kernel_size"):
        kind(kernel_size=10)
    with pytest.raises(InputError, match="sigma"):
        kind(sigma=0)


def test_a_mean_of_another_number_of_channels_is_refused():
    for image in (np.zeros((20, 20, 4), np.uint8), np.zeros((20, 20), np.uint8)):
        with pytest.raises(InputError, match="a mean of 3 channels"):
            HighPassFilter()({"img": image})
