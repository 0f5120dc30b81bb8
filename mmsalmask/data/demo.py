"""A small labelled picture set drawn on the spot, with the true foreground of every picture.

One object lies on a cluttered, textured background. Its class is its shape alone: colours, texture,
size, rotation, place and light are drawn from the same distributions for every class, so a method
has to find the object to tell the classes apart. The object's colours keep clear of its
background's, as a colour-contrast localizer expects.
"""

import difflib
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from mmsalmask.data.demo_shapes import SHAPES
from mmsalmask.errors import InputError
from mmsalmask.provenance import write_result

# Raised whenever the drawing changes, so that a set drawn by an older version is drawn again.
_VERSION = 1
_MANIFEST = "manifest.json"
_OVERSAMPLING = 3


def draw_demo_set(
    root: str | Path,
    images_per_class: int = 200,
    classes: Sequence[str] | None = None,
    size: int = 96,
    seed: int = 0,
) -> None:
    """Draw the demo set into ``root``, unless a complete one with these parameters is there.

    Written are ``root/train/<class>/0000.jpg`` …, a quarter as many under ``root/test``, and the
    true foreground of each picture (8-bit PNG, 255 on the object, 0 elsewhere) under
    ``root/masks/{train,test}/<class>/0000.png``. ``root/manifest.json`` holds the parameters; a set
    with other parameters, or an unfinished one, is replaced. The pictures depend on the arguments
    only, not on the order of drawing.

    Args:
        root: Folder of the set, made if absent. A folder that holds anything else is refused.
        images_per_class: Number of training pictures of each class, at least 1.
        classes: Names out of :data:`DEMO_CLASSES`; all ten when ``None``.
        size: Height and width of the pictures in pixels, at least 16.
        seed: Seed of the whole set, not negative.

    Raises:
        InputError: If an argument is out of range, a class name is unknown or given twice, or
            ``root`` holds something that is not a demo set.
    """
    names = list(DEMO_CLASSES if classes is None else classes)
    _check_arguments(images_per_class, names, size, seed)
    root = Path(root)
    parameters = {
        "version": _VERSION,
        "images_per_class": images_per_class,
        "classes": names,
        "size": size,
        "seed": seed,
    }
    pictures = _list_pictures(images_per_class, names)
    if _is_complete(root, parameters, pictures):
        return
    _clear(root)
    write_result(root / _MANIFEST, {**parameters, "complete": False})
    for split, name, index in pictures:
        picture, mask = draw_picture(name, size, (seed, split == "test", index))
        picture_path, mask_path = _paths(root, split, name, index)
        picture_path.parent.mkdir(parents=True, exist_ok=True)
        mask_path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(picture_path, quality=92, subsampling=0)
        mask.save(mask_path)
    write_result(root / _MANIFEST, {**parameters, "complete": True})


def draw_picture(name: str, size: int, seed: Sequence[int]) -> tuple[Image.Image, Image.Image]:
    """Draw one picture of class ``name``.

    Returns:
        The RGB picture and its true foreground (mode ``L``, 255 on the object, 0 elsewhere), both
        ``size`` × ``size`` pixels.
    """
    class_index = list(DEMO_CLASSES).index(name)
    # RandomState's streams are frozen by NumPy; those of the newer Generator may change.
    random = np.random.RandomState([*map(int, seed), class_index])
    background_colours, object_colours = _draw_palettes(random)
    background = _texture(random, size, background_colours, octaves=5)
    background = _add_clutter(random, background, background_colours)
    coverage = _draw_object(random, name, size)
    surface = _texture(random, size, object_colours, octaves=3)
    background = _cast_shadow(random, background, coverage)
    picture = np.asarray(Image.composite(surface, background, coverage), dtype=np.float32)
    picture *= _light(random, size)[..., None]
    picture += random.randint(-6, 7, picture.shape, dtype=np.int8)
    return (
        Image.fromarray(np.clip(np.rint(picture), 0, 255).astype(np.uint8)),
        coverage.point([0] * 128 + [255] * 128),
    )


# Few paints, so that many pictures look alike but for their shapes: with a colour of its own for
# every picture, telling pictures apart would take no more than their colours.
_PAINTS = np.array(
    [
        (40, 50, 92),  # navy
        (28, 118, 118),  # teal
        (52, 96, 58),  # forest
        (128, 130, 58),  # olive
        (218, 188, 130),  # sand
        (184, 84, 48),  # rust
        (120, 50, 104),  # plum
        (122, 178, 220),  # sky
        (226, 132, 146),  # rose
        (238, 230, 212),  # cream
    ],
    dtype=float,
)
# Euclidean distance in RGB, grey levels.
_CONTRAST = 120.0

#: The classes that can be drawn.
DEMO_CLASSES = tuple(SHAPES)


def _draw_object(random: np.random.RandomState, name: str, size: int) -> Image.Image:
    """Antialiased coverage (mode ``L``) of one object, turned, scaled and placed at random."""
    # The circle around the object covers between a quarter and 55 % of the picture.
    radius = math.sqrt(random.uniform(0.25, 0.55) / math.pi)
    slack = 0.5 - radius
    centre = 0.5 + slack * random.uniform(-0.7, 0.7, 2)
    turn = random.uniform(0.0, 2.0 * math.pi)
    squeeze = random.uniform(0.85, 1.0)
    linear = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    linear = radius * linear @ np.diag([1.0, squeeze])
    canvas = Image.new("L", (size * _OVERSAMPLING,) * 2)
    draw = ImageDraw.Draw(canvas)
    for white, outlines in zip((255, 0), SHAPES[name](), strict=True):
        for outline in outlines:
            corners = (outline @ linear.T + centre) * (size * _OVERSAMPLING)
            draw.polygon([tuple(corner) for corner in corners.tolist()], fill=white)
    return canvas.reduce(_OVERSAMPLING)


def _draw_palettes(random: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """Three background colours and two object colours, (K, 3) in [0, 255].

    Both are shades of two paints that lie at least ``_CONTRAST`` apart.
    """
    ground = _PAINTS[random.randint(len(_PAINTS))]
    far = _PAINTS[np.linalg.norm(_PAINTS - ground, axis=1) >= _CONTRAST]
    paint = far[random.randint(len(far))]
    background = ground + random.uniform(-35, 35, (3, 3))
    surface = paint + random.uniform(-25, 25, (2, 3))
    return np.clip(background, 0, 255), np.clip(surface, 0, 255)


def _noise(random: np.random.RandomState, size: int, octaves: int) -> np.ndarray:
    """Fractal noise (size, size) in [0, 1]: random grids, each twice as fine and half as strong."""
    total = np.zeros((size, size), dtype=np.float32)
    for octave in range(octaves):
        cells = min(2 ** (octave + 1) + 1, size)
        grid = Image.fromarray(random.randint(0, 256, (cells, cells)).astype(np.uint8))
        smooth = grid.resize((size, size), Image.Resampling.BICUBIC)
        total += np.asarray(smooth, dtype=np.float32) * 0.5**octave
    low, high = total.min(), total.max()
    return (total - low) / max(high - low, 1.0)


def _texture(
    random: np.random.RandomState, size: int, colours: np.ndarray, octaves: int
) -> Image.Image:
    """A picture whose colours run through ``colours`` (K, 3) along fractal noise and a gradient."""
    noise = _noise(random, size, octaves)
    turn = random.uniform(0.0, 2.0 * math.pi)
    axis = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    ramp = 0.5 + 0.7 * (math.cos(turn) * axis[None, :] + math.sin(turn) * axis[:, None])
    level = np.clip(0.65 * noise + 0.35 * ramp, 0.0, 1.0) * 255
    stops = np.linspace(0, 255, len(colours))
    table = np.stack([np.interp(np.arange(256), stops, channel) for channel in colours.T], 1)
    return Image.fromarray(np.rint(table).astype(np.uint8)[level.astype(np.uint8)])


def _add_clutter(
    random: np.random.RandomState, background: Image.Image, colours: np.ndarray
) -> Image.Image:
    """Lay lines and blobs near the background's colours, and specks of any colour, over it."""
    size = background.width * 2
    layer = Image.new("RGBA", (size, size))
    draw = ImageDraw.Draw(layer)

    def near() -> tuple[int, ...]:
        colour = colours[random.randint(len(colours))] + random.uniform(-30, 30, 3)
        return (*np.clip(colour, 0, 255).astype(int).tolist(), 255)

    for _ in range(random.randint(3, 9)):
        x, y = random.uniform(0, size, 2)
        width, height = random.uniform(0.03, 0.12, 2) * size
        draw.ellipse((x - width, y - height, x + width, y + height), fill=near())
    for _ in range(random.randint(4, 11)):
        ends = random.uniform(-0.1 * size, 1.1 * size, 4).tolist()
        draw.line(ends, fill=near(), width=int(random.uniform(0.008, 0.03) * size) + 1)
    for _ in range(random.randint(5, 25)):
        x, y = random.uniform(0, size, 2)
        radius = random.uniform(0.005, 0.016) * size
        colour = (*random.randint(0, 256, 3).tolist(), 255)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    base = background.convert("RGBA")
    return Image.alpha_composite(base, layer.reduce(2)).convert("RGB")


def _cast_shadow(
    random: np.random.RandomState, background: Image.Image, coverage: Image.Image
) -> Image.Image:
    size = background.width
    shift = (random.uniform(-0.05, 0.05, 2) * size).astype(int).tolist()
    shadow = Image.new("L", (size, size))
    shadow.paste(coverage, tuple(shift))
    shadow = shadow.filter(ImageFilter.BoxBlur(0.03 * size)).point(lambda value: value * 0.5)
    return Image.composite(Image.new("RGB", (size, size)), background, shadow)


def _light(random: np.random.RandomState, size: int) -> np.ndarray:
    """Factors (size, size) of a light that falls from one side."""
    turn = random.uniform(0.0, 2.0 * math.pi)
    strength = random.uniform(0.1, 0.5)
    axis = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    slope = math.cos(turn) * axis[None, :] + math.sin(turn) * axis[:, None]
    return np.float32(random.uniform(0.85, 1.15)) * (1.0 + np.float32(strength) * slope)


def _check_arguments(images_per_class: int, names: list[str], size: int, seed: int) -> None:
    if images_per_class < 1:
        raise InputError(f"images_per_class is {images_per_class}; give at least 1.")
    if size < 16:
        raise InputError(f"The demo pictures cannot be {size} pixels wide; give a size from 16 up.")
    if not 0 <= seed < 2**32:
        raise InputError(f"The seed is {seed}; give a whole number from 0 to {2**32 - 1}.")
    if not names or len(set(names)) != len(names):
        raise InputError(f"The demo set needs at least one class, each named once, not {names}.")
    for name in names:
        if name not in DEMO_CLASSES:
            nearest = difflib.get_close_matches(name, DEMO_CLASSES, n=1, cutoff=0.0)[0]
            raise InputError(
                f"There is no demo class {name!r} (nearest: {nearest!r}); "
                f"choose from {', '.join(DEMO_CLASSES)}."
            )


def _list_pictures(images_per_class: int, names: list[str]) -> list[tuple[str, str, int]]:
    counts = {"train": images_per_class, "test": max(1, images_per_class // 4)}
    return [
        (split, name, index)
        for split, count in counts.items()
        for name in names
        for index in range(count)
    ]


def _paths(root: Path, split: str, name: str, index: int) -> tuple[Path, Path]:
    return (
        root / split / name / f"{index:04d}.jpg",
        root / "masks" / split / name / f"{index:04d}.png",
    )


def _read_manifest(root: Path) -> dict | None:
    try:
        return json.loads((root / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _is_complete(root: Path, parameters: dict, pictures: list[tuple[str, str, int]]) -> bool:
    if _read_manifest(root) != {**parameters, "complete": True}:
        return False
    return all(path.is_file() for picture in pictures for path in _paths(root, *picture))


def _clear(root: Path) -> None:
    """Remove an older set; a folder with anything else in it is not ours to empty."""
    if root.exists() and not root.is_dir():
        raise InputError(f"{root} is a file; name a folder for the demo set.")
    if not root.exists() or not any(root.iterdir()):
        return
    if _read_manifest(root) is None:
        raise InputError(
            f"{root} holds something other than a demo set and is left alone; name another folder."
        )
    for part in ("train", "test", "masks"):
        shutil.rmtree(root / part, ignore_errors=True)
