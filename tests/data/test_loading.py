"""Every kind of image file comes out as the picture a viewer shows, or as BrokenImage."""

import io
import warnings

import mmcv
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, features

from mmsalmask.data import (
    BrokenImage,
    ImageFolder,
    LoadImage,
    loading,
    read_bands,
    read_image,
    read_whole,
)

WIDTH, HEIGHT = 24, 16


@pytest.fixture
def rgb() -> np.ndarray:
    """(16, 24, 3): smooth, without symmetry, so that a wrong turn or channel order shows."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(float)
    return np.stack([x * 9, y * 14, 230 - x * 4 - y * 6], -1).astype(np.uint8)


def read_rgb(path) -> np.ndarray:
    image = read_image(path)
    assert image.dtype == np.uint8
    assert image.flags["C_CONTIGUOUS"]
    assert image.ndim == 3
    return image[..., ::-1].astype(int)


def test_the_keys_are_those_of_mmcvs_loader(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "x.png")
    ours = LoadImage()({"img_path": str(tmp_path / "x.png"), "sample_idx": 3})
    theirs = mmcv.transforms.LoadImageFromFile()(
        {"img_path": str(tmp_path / "x.png"), "sample_idx": 3}
    )
    assert ours.keys() == theirs.keys()
    np.testing.assert_array_equal(ours.pop("img"), theirs.pop("img"))
    assert ours == theirs


def test_a_photo_is_decoded_as_opencv_does(photos):
    paths = sorted(photos("coco-mini").rglob("*.jpg"))[:6]
    assert paths
    for path in paths:
        ours = read_image(path).astype(int)
        theirs = mmcv.imread(str(path)).astype(int)
        assert ours.shape == theirs.shape
        # The two may upsample the chroma differently.
        assert np.abs(ours - theirs).mean() < 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(tmp_path, rgb, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(rgb).save(tmp_path / "x.png", exif=exif)
    Image.fromarray(rgb).save(tmp_path / "x.jpg", exif=exif, quality=100, subsampling=0)
    Image.fromarray(rgb).save(tmp_path / "x.tif", exif=exif)
    Image.fromarray(rgb).save(tmp_path / "deflated.tif", exif=exif, compression="tiff_deflate")
    # TIFF 6.0: where the 0th row and the 0th column of the stored image lie in the shown one.
    shown = {
        1: rgb,
        2: rgb[:, ::-1],
        3: rgb[::-1, ::-1],
        4: rgb[::-1],
        5: rgb.transpose(1, 0, 2),
        6: np.rot90(rgb, -1),
        7: rgb[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(rgb),
    }[orientation]
    for name in ("x.png", "x.tif", "deflated.tif", "x.jpg"):
        atol = 4 if name == "x.jpg" else 0
        np.testing.assert_allclose(read_rgb(tmp_path / name), shown, atol=atol)
        np.testing.assert_allclose(read_bands(tmp_path / name, 3), shown, atol=atol)
        square, full = read_whole(tmp_path / name, HEIGHT)
        assert full == shown.shape[:2]
        expected = Image.fromarray(np.ascontiguousarray(shown)).resize((HEIGHT, HEIGHT), 3)
        np.testing.assert_allclose(square.flip(0).permute(1, 2, 0), expected, atol=atol + 2)
    results = LoadImage()({"img_path": str(tmp_path / "x.png")})
    assert results["img_shape"] == results["ori_shape"] == shown.shape[:2]


@pytest.mark.parametrize("value", [0, 9, 77])
def test_a_senseless_orientation_counts_as_upright(tmp_path, rgb, value):
    exif = Image.Exif()
    exif[0x0112] = value
    Image.fromarray(rgb).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(read_rgb(tmp_path / "x.png"), rgb)


def test_a_damaged_exif_block_does_not_break_a_good_image(tmp_path, rgb):
    image = Image.fromarray(rgb)
    image.save(tmp_path / "x.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7fgarbage", quality=100)
    assert read_rgb(tmp_path / "x.jpg").shape == rgb.shape


def test_grey_two_tone_and_palette_images_become_rgb(tmp_path, rgb):
    image = Image.fromarray(rgb)
    for mode in ("L", "1", "P"):
        image.convert(mode).save(tmp_path / f"{mode}.png")
        expected = np.asarray(image.convert(mode).convert("RGB"))
        np.testing.assert_array_equal(read_rgb(tmp_path / f"{mode}.png"), expected)
    image.convert("1").save(tmp_path / "x.tiff")
    assert set(np.unique(read_rgb(tmp_path / "x.tiff"))) == {0, 255}


def test_cmyk_has_its_colours_right(tmp_path, rgb):
    for name in ("x.jpg", "x.tif"):
        Image.fromarray(rgb).convert("CMYK").save(tmp_path / name, quality=100)
        np.testing.assert_allclose(read_rgb(tmp_path / name), rgb, atol=6)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.linspace(0, 65535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)
    for name in ("x.png", "x.tif"):
        Image.fromarray(values).save(tmp_path / name)
        grey = read_rgb(tmp_path / name)
        np.testing.assert_array_equal(grey, np.repeat((values >> 8)[..., None], 3, -1))
    pgm = b"P5 %d %d 65535\n" % (WIDTH, HEIGHT) + values.astype(">u2").tobytes()
    (tmp_path / "x.pgm").write_bytes(pgm)
    np.testing.assert_array_equal(read_rgb(tmp_path / "x.pgm")[..., 0], values >> 8)
    mmcv.imwrite(np.repeat(values[..., None], 3, -1), str(tmp_path / "colour.png"))
    np.testing.assert_array_equal(read_rgb(tmp_path / "colour.png")[..., 1], values >> 8)


def test_transparent_pixels_lie_over_white(tmp_path, rgb):
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    alpha[:, 8:16], alpha[:, 16:] = 51, 255
    Image.fromarray(np.dstack([rgb, alpha])).save(tmp_path / "x.png")
    Image.fromarray(np.dstack([rgb, alpha])).save(tmp_path / "x.webp", lossless=True, exact=True)
    share = alpha[..., None] / 255
    expected = rgb * share + 255 * (1 - share)
    for name in ("x.png", "x.webp"):
        np.testing.assert_allclose(read_rgb(tmp_path / name), expected, atol=1)
    Image.fromarray(np.dstack([rgb[..., 0], alpha])).save(tmp_path / "grey.png")
    np.testing.assert_allclose(read_rgb(tmp_path / "grey.png")[..., 2], expected[..., 0], atol=1)


def test_a_transparent_palette_colour_lies_over_white(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 200, 10, 20])
    image.putpixel((1, 2), 0)
    image.save(tmp_path / "x.gif", transparency=0)
    shown = read_rgb(tmp_path / "x.gif")
    assert tuple(shown[2, 1]) == (255, 255, 255)
    assert tuple(shown[0, 0]) == (200, 10, 20)


@pytest.mark.skipif("avif" not in features.get_supported(), reason="Pillow here reads no AVIF")
def test_avif_is_read_where_pillow_reads_it(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "x.avif", quality=100, subsampling="4:4:4")
    assert np.abs(read_rgb(tmp_path / "x.avif").astype(int) - rgb).mean() < 4
    assert len(ImageFolder(str(tmp_path))) == 1
    (tmp_path / "x.avif").write_bytes((tmp_path / "x.avif").read_bytes()[:80])
    broken(tmp_path / "x.avif")


@pytest.mark.parametrize("name", ["x.gif", "x.webp", "x.png"])
def test_of_an_animation_the_first_frame_is_taken(tmp_path, name):
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if name.endswith("webp") else {}
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
    assert (read_rgb(tmp_path / name) == (255, 0, 0)).all()


def test_one_pixel_is_an_image(tmp_path):
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png").tolist() == [[[3, 2, 1]]]


def broken(path) -> BrokenImage:
    with pytest.raises(BrokenImage) as caught:
        read_image(path)
    assert caught.value.path == str(path)
    assert caught.value.reason
    assert "\n" not in caught.value.reason
    return caught.value


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.webp", "x.bmp", "x.gif", "x.tif", "x.ppm"])
def test_a_truncated_file_is_broken(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    read_image(tmp_path / name)
    for share in (0, 0.01, 0.3, 0.9):
        (tmp_path / name).write_bytes(whole[: int(len(whole) * share)])
        broken(tmp_path / name)


def test_a_file_that_is_no_image_is_broken(tmp_path):
    (tmp_path / "x.jpg").write_text("<html>404</html>")
    assert broken(tmp_path / "x.jpg").reason == "not an image of a known format"
    assert broken(tmp_path / "missing.jpg").reason == "No such file or directory"
    assert broken(tmp_path).reason == "Is a directory"


def test_a_file_one_may_not_read_is_broken(tmp_path, rgb, monkeypatch):
    Image.fromarray(rgb).save(tmp_path / "x.png")

    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)
    assert broken(tmp_path / "x.png").reason == "Permission denied"


def test_postscript_is_never_run(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "x.jpg", format="EPS")
    assert broken(tmp_path / "x.jpg").reason == "not an image of a known format"


def test_pixels_without_a_white_are_broken(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.ones((4, 4), np.int32)).save(tmp_path / "int.tif")
    for name in ("float.tif", "int.tif"):
        assert "convert the file to 8 or 16 bit" in broken(tmp_path / name).reason


@pytest.mark.parametrize("factor", [1, 3])
def test_a_decompression_bomb_is_broken_before_it_is_decoded(tmp_path, monkeypatch, factor):
    Image.new("RGB", (100 * factor, 11)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1099)
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda self: pytest.fail("decoded"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        broken(tmp_path / "x.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        broken(tmp_path / "x.png")


def test_an_image_of_just_the_limit_is_read(tmp_path, monkeypatch):
    Image.new("RGB", (100, 11)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1100)
    assert read_image(tmp_path / "x.png").shape == (11, 100, 3)


def encoded(name: str) -> bytes:
    noise = np.random.default_rng(1).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, format=name)
    return stream.getvalue()


WHOLE = {name: encoded(name) for name in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP")}


@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from(sorted(WHOLE)),
    damage=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=12),
)
def test_damaged_bytes_give_an_image_or_broken_image_and_nothing_else(
    tmp_path_factory, name, damage
):
    data = bytearray(WHOLE[name])
    for place, value in damage:
        data[int(place * len(data))] = value
    path = tmp_path_factory.getbasetemp() / "damaged.jpg"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = read_image(path)
        except BrokenImage:
            return
    assert image.dtype == np.uint8
    assert image.shape[2] == 3


# --------------------------------------------------------------------------------- whole, squeezed


def test_a_squeezed_image_is_the_full_one_resized(tmp_path, photos):
    """To Pillow's bicubic resizing: exactly for a PNG, nearly where a JPEG was decoded smaller."""
    path = sorted(photos("coco-mini").rglob("*.jpg"))[0]
    photo = Image.open(path).convert("RGB")
    photo.save(tmp_path / "x.png")
    large = photo.resize((photo.width * 5, photo.height * 5), Image.Resampling.BICUBIC)
    large.save(tmp_path / "large.jpg", quality=95)
    expected = np.asarray(photo.resize((40, 40), Image.Resampling.BICUBIC)).astype(int)
    for name, shown, tolerance in (("x.png", photo, 0.5), ("large.jpg", large, 3)):
        image, full = read_whole(tmp_path / name, 40)
        assert image.shape == (3, 40, 40)
        assert image.dtype == torch.uint8
        assert image.is_contiguous()
        assert full == (shown.height, shown.width)
        mine = image.flip(0).permute(1, 2, 0).numpy().astype(int)
        assert np.abs(mine - expected).mean() < tolerance


def test_no_jpeg_is_decoded_below_the_size_that_is_needed(tmp_path, monkeypatch):
    """Half of 200x100 is enough for a square of 50, not for one of 51."""
    decoded, original = [], loading._decode

    def seen(*words):
        decoded.append(original(*words)[0].shape[:2])
        return original(*words)

    Image.fromarray(np.zeros((100, 200, 3), np.uint8)).save(tmp_path / "x.jpg")
    monkeypatch.setattr(loading, "_decode", seen)
    for size, expected in ((51, (100, 200)), (50, (50, 100)), (25, (25, 50)), (12, (13, 25))):
        decoded.clear()
        _, full = read_whole(tmp_path / "x.jpg", size)
        assert full == (100, 200)
        assert decoded == [expected]


JPEGS = {
    "4:4:4": dict(subsampling=0),
    "4:2:0": dict(subsampling=2),
    "progressive": dict(progressive=True),
    "grey": dict(mode="L"),
    "CMYK": dict(mode="CMYK"),
    "turned": dict(turn=6),
    "mirrored": dict(turn=4),
}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_a_jpeg_has_the_pixels_that_pillow_decodes(tmp_path, rgb, kind, factor):
    """At all the sizes it may be decoded at, of which none need divide its sides."""
    settings = {"mode": "RGB", "turn": 1, "quality": 90, **JPEGS[kind]}
    photo = Image.fromarray(rgb).resize((173, 131)).convert(settings.pop("mode"))
    exif = Image.Exif()
    exif[0x0112] = settings.pop("turn")
    photo.save(tmp_path / "x.jpg", exif=exif, **settings)
    with Image.open(tmp_path / "x.jpg") as image:
        image.draft(None, [side // factor for side in image.size])
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert min(expected.shape[:2]) == -(-131 // factor)
    found, full = loading._decode(tmp_path / "x.jpg", 131 // factor)
    assert np.array_equal(found[..., ::-1], expected)
    assert found.flags.c_contiguous
    assert full == ((173, 131) if kind == "turned" else (131, 173))


def test_common_jpegs_do_not_wait_for_pillow(tmp_path, rgb, monkeypatch):
    Image.fromarray(rgb).save(tmp_path / "x.jpg")
    monkeypatch.setattr(loading, "to_rgb", None)
    assert read_image(tmp_path / "x.jpg").shape == rgb.shape


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_squeezed_image_is_upright(tmp_path, orientation):
    """As read_image has it, decoded at a quarter too."""
    y, x = np.mgrid[0:240, 0:360] / 360
    pixels = np.stack([200 * x, 220 * y, 230 - 90 * x - 60 * y], -1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "x.jpg", exif=exif, quality=98)
    upright = read_image(tmp_path / "x.jpg")
    image, full = read_whole(tmp_path / "x.jpg", 32)
    assert full == upright.shape[:2]
    expected = np.asarray(Image.fromarray(upright).resize((32, 32), Image.Resampling.BICUBIC))
    assert np.abs(image.permute(1, 2, 0).numpy() - expected.astype(float)).max() < 5


def test_what_breaks_an_image_breaks_a_squeezed_one(tmp_path, rgb, monkeypatch):
    (tmp_path / "x.jpg").write_bytes(b"GIF89a, or so it says")
    large = Image.fromarray(rgb).resize((400, 300))
    large.save(tmp_path / "good.jpg")
    content = (tmp_path / "good.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    for name in ("x.jpg", "cut.jpg", "absent.jpg"):
        with pytest.raises(BrokenImage, match=name):
            read_whole(tmp_path / name, 32)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400 * 300 - 1)
    with pytest.raises(BrokenImage, match="120000 pixels are more than the limit"):
        read_whole(tmp_path / "good.jpg", 32)


def test_grey_and_cmyk_and_transparent_images_are_squeezed_too(tmp_path, rgb):
    image = Image.fromarray(rgb)
    for mode, name in (("L", "l.jpg"), ("CMYK", "c.jpg"), ("RGBA", "a.png"), ("P", "p.png")):
        image.convert(mode).save(tmp_path / name)
        squeezed, full = read_whole(tmp_path / name, 16)
        assert full == (HEIGHT, WIDTH)
        expected = Image.fromarray(read_image(tmp_path / name)).resize(
            (16, 16), Image.Resampling.BICUBIC
        )
        assert np.abs(squeezed.permute(1, 2, 0).numpy() - np.asarray(expected, float)).max() < 3
