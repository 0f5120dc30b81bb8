"""A street that never was, filmed from a moving car and stored as KITTI's raw data are.

Ground, house fronts, parked boxes and a far wall, all with a random texture, are ray-cast from a
camera that drives and steers. Every pixel's depth and every frame's pose are therefore true, and
the data serve to test geometry and to see that depth is learned. Drawing 100 frames takes seconds::

    python -m mmsalmask.depth.rendered_sequence data/rendered
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from mmsalmask.cli import report_errors
from mmsalmask.errors import InputError

#: Focal lengths in widths and heights, and centre, as KITTI's cameras have them on average.
KITTI_INTRINSICS = (0.58, 1.92, 0.5, 0.5)

_DATE = "2011_09_26"
_CAMERA_HEIGHT = 1.65  # metres above the ground, as on KITTI's car
_STREET = 7.0  # metres from the middle to the house fronts
_LENGTH = 160.0  # metres from the start to the far wall
_WAVES = 16  # sinusoids in a surface's texture
_SKY = np.array([210.0, 180.0, 150.0], dtype=np.float32)  # BGR
_MARK = "rendered_sequence.txt"


class Scene(NamedTuple):
    """Axis-aligned boxes and the textures of all surfaces.

    ``low`` and ``high`` (B, 3) are opposite corners of the boxes in world coordinates (x right, y
    down, z ahead, metres; the ground is y = 0). The ground is the first box. Each of the 6·B faces
    has ``waves`` (6·B, K, 2) in radians per metre with ``strengths`` (6·B, K), ``phases``
    (6·B, K, 3) and a colour (6·B, 3).
    """

    low: np.ndarray
    high: np.ndarray
    waves: np.ndarray
    strengths: np.ndarray
    phases: np.ndarray
    colours: np.ndarray


def build_scene(seed: int) -> Scene:
    """A street of ``_LENGTH`` metres with boxes on both sides, drawn by ``seed``."""
    random = np.random.RandomState(seed)
    low = [(-100.0, 0.0, -50.0), (-60.0, -30.0, _LENGTH)]
    high = [(100.0, 1.0, _LENGTH + 20), (60.0, 0.0, _LENGTH + 1)]
    for side in (-1, 1):
        along = -20.0
        while along < _LENGTH:
            front, length = _STREET + random.uniform(0, 3), random.uniform(8, 20)
            x = sorted((side * front, side * (front + 10)))
            low.append((x[0], -random.uniform(4, 12), along))
            high.append((x[1], 0.0, along + length))
            along += length + random.choice([0.0, 3.0])
        along = random.uniform(2, 8)
        while along < _LENGTH - 10:
            inner, width = random.uniform(2.6, 4.5), random.uniform(1, 2)
            length, height = random.uniform(1, 4.5), random.uniform(0.8, 2.4)
            x = sorted((side * inner, side * (inner + width)))
            low.append((x[0], -height, along))
            high.append((x[1], 0.0, along + length))
            along += length + random.uniform(2, 10)
    faces = 6 * len(low)
    length = np.exp(random.uniform(np.log(0.5), np.log(8.0), (faces, _WAVES)))
    turn = random.uniform(0, 2 * np.pi, (faces, _WAVES))
    waves = (2 * np.pi / length)[..., None] * np.stack([np.cos(turn), np.sin(turn)], -1)
    # As in natural pictures, long waves are the strong ones.
    strengths = np.sqrt(length / length.mean(1, keepdims=True) * 2 / _WAVES)
    shared = random.uniform(0, 2 * np.pi, (faces, _WAVES, 1))
    phases = shared + random.uniform(-0.9, 0.9, (faces, _WAVES, 3))
    colours = random.uniform(70, 185, (faces, 3))
    parts = (np.array(low), np.array(high), waves, strengths, phases, colours)
    return Scene(*(part.astype(np.float32) for part in parts))


def intrinsic_matrix(
    height: int, width: int, intrinsics: Sequence[float] = KITTI_INTRINSICS
) -> np.ndarray:
    """K (3, 3) in pixels, with integer pixel centres, of fractions (fx, fy, cx, cy) of the image.

    Fractions count from the image's edge: cx = 0.5 is its middle, which is pixel (width − 1)/2.
    """
    fx, fy, cx, cy = intrinsics
    return np.array(
        [[fx * width, 0, cx * width - 0.5], [0, fy * height, cy * height - 0.5], [0, 0, 1]]
    )


def drive(frames: int, seed: int, speed: float = 0.4) -> np.ndarray:
    """Poses (F, 4, 4), camera coordinates to world, of a car that drives along the street.

    It sways from side to side and turns accordingly; ``speed`` is in metres per frame.
    """
    random = np.random.RandomState(seed)
    time = np.arange(frames)
    swing, period, phase = (
        random.uniform(0.4, 0.8),
        random.uniform(70, 110),
        random.uniform(0, 6.28),
    )
    angle = 2 * np.pi * time / period + phase
    x = swing * np.sin(angle)
    z = speed * np.cumsum(1 + 0.25 * np.sin(angle * 0.7))
    z -= z[0]
    yaw = np.arctan2(np.gradient(x), np.gradient(z))
    pitch = 0.003 * np.sin(time / 5 + phase)
    poses = np.tile(np.eye(4), (frames, 1, 1))
    cos, sin = np.cos(yaw), np.sin(yaw)
    turn = np.tile(np.eye(3), (frames, 1, 1))
    turn[:, 0, 0], turn[:, 0, 2], turn[:, 2, 0], turn[:, 2, 2] = cos, sin, -sin, cos
    tilt = np.tile(np.eye(3), (frames, 1, 1))
    tilt[:, 1, 1], tilt[:, 1, 2] = np.cos(pitch), -np.sin(pitch)
    tilt[:, 2, 1], tilt[:, 2, 2] = np.sin(pitch), np.cos(pitch)
    poses[:, :3, :3] = turn @ tilt
    poses[:, :3, 3] = np.stack([x, np.full(frames, -_CAMERA_HEIGHT), z], axis=1)
    return poses


def render(
    scene: Scene, pose: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """One frame, by casting a ray through every pixel's centre.

    Waves finer than a pixel are damped by the Gaussian of the pixel's footprint on the surface, so
    far texture does not flicker. Light depends on the surface alone: a point has the same colour
    from everywhere, up to that damping.

    Args:
        scene: what to see.
        pose: (4, 4), camera coordinates to world.
        intrinsics: K (3, 3) in pixels.
        size: (H, W).

    Returns:
        Image (H, W, 3) uint8 BGR, and depth (H, W) float32 along the camera's z in metres, 0 where
        there is only sky.
    """
    height, width = size
    u, v = np.meshgrid(np.arange(width), np.arange(height))
    pixels = np.stack([u, v, np.ones_like(u)], -1).reshape(-1, 3)
    rays = pixels @ np.linalg.inv(intrinsics).T @ pose[:3, :3].T
    rays = rays.astype(np.float32)
    origin = pose[:3, 3].astype(np.float32)
    rays[np.abs(rays) < 1e-7] = 1e-7
    ahead = np.flatnonzero((scene.high - origin) @ pose[:3, 2] > -20)

    # Slabs: the ray is inside a box from the last entry to the first exit of its three pairs.
    enter = np.full((len(rays), len(ahead)), -np.inf, dtype=np.float32)
    leave = np.full_like(enter, np.inf)
    for axis in range(3):
        inverse = 1 / rays[:, axis, None]
        low = (scene.low[ahead, axis] - origin[axis]) * inverse
        high = (scene.high[ahead, axis] - origin[axis]) * inverse
        np.maximum(enter, np.minimum(low, high), out=enter)
        np.minimum(leave, np.maximum(low, high), out=leave)
    enter[(enter > leave) | (enter <= 1e-3)] = np.inf
    nearest = enter.argmin(1)
    depth = np.take_along_axis(enter, nearest[:, None], 1)[:, 0]
    hit = np.isfinite(depth)

    image = np.tile(_SKY, (len(rays), 1))
    image[hit] = _shade(scene, rays[hit], origin, depth[hit], ahead[nearest[hit]], intrinsics)
    image = np.clip(np.rint(image), 0, 255).astype(np.uint8).reshape(height, width, 3)
    return image, np.where(hit, depth, 0).reshape(height, width)


def _shade(
    scene: Scene,
    rays: np.ndarray,
    origin: np.ndarray,
    depth: np.ndarray,
    box: np.ndarray,
    intrinsics: np.ndarray,
) -> np.ndarray:
    """Colours (P, 3) of the points that are hit."""
    rows = np.arange(len(rays))
    points = origin + depth[:, None] * rays
    # The face that was entered: of the three nearer ones, the one whose plane is reached last.
    faces = np.where(rays > 0, scene.low[box], scene.high[box])
    axis = ((faces - origin) / rays).argmax(1)
    face = 6 * box + 2 * axis + (rays[rows, axis] > 0)
    across = np.array([[1, 2], [0, 2], [0, 1]])[axis]
    place = np.take_along_axis(points, across, 1)
    # A pixel's width on the surface, longer along the ray where it grazes.
    footprint = depth / intrinsics[0, 0]
    direction = np.take_along_axis(rays, across, 1)
    slant = direction / np.abs(rays[rows, axis])[:, None]
    waves = scene.waves[face]
    along = np.einsum("pkc,pc->pk", waves, slant)
    spread = (waves**2).sum(-1) + along**2
    strength = scene.strengths[face] * np.exp(-0.25 * spread * footprint[:, None] ** 2)
    angles = np.einsum("pkc,pc->pk", waves, place)[..., None] + scene.phases[face]
    texture = (strength[..., None] * np.sin(angles)).sum(1)
    return scene.colours[face] + 45 * texture


def render_drive(
    root: Path, number: int, poses: np.ndarray, scene: Scene, size: tuple[int, int]
) -> None:
    """Write the frames of one drive, with depth, laser points, poses and speed, below ``root``.

    The layout is that of KITTI's raw data. True poses stand in ``poses.txt``, one row of a 3×4
    matrix a line, as in KITTI's odometry benchmark. The laser's points are those of every second
    pixel, put where the development kit's rounding finds them (see
    :func:`mmsalmask.depth.kitti_files.laser_depth`).
    """
    height, width = size
    intrinsics = intrinsic_matrix(height, width)
    name = f"{_DATE}_drive_{number:04d}_sync"
    folder = root / _DATE / name
    depths = root / "depth" / name / "proj_depth" / "groundtruth" / "image_02"
    images, laser, speeds = (
        folder / "image_02" / "data",
        folder / "velodyne_points" / "data",
        folder / "oxts" / "data",
    )
    for path in (images, laser, speeds, depths):
        path.mkdir(parents=True, exist_ok=True)
    moved = np.gradient(poses[:, :3, 3], axis=0) * 10  # ten frames a second
    forward = np.einsum("fi,fi->f", moved, poses[:, :3, 2])
    for frame, pose in enumerate(poses):
        image, depth = render(scene, pose, intrinsics, size)
        cv2.imwrite(str(images / f"{frame:010d}.png"), image)
        stored = np.rint(np.minimum(depth, 255) * 256).astype(np.uint16)
        cv2.imwrite(str(depths / f"{frame:010d}.png"), stored)
        _laser_points(depth, intrinsics).tofile(laser / f"{frame:010d}.bin")
        values = np.zeros(30)
        values[8] = forward[frame]
        (speeds / f"{frame:010d}.txt").write_text(" ".join(f"{x:.6f}" for x in values) + "\n")
    rows = (" ".join(f"{x:.9e}" for x in pose[:3].flatten()) for pose in poses)
    (folder / "poses.txt").write_text("\n".join(rows) + "\n")


def _laser_points(depth: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Points (P, 4) float32 in the laser's frame (x ahead, y left, z up), reflectance 0."""
    v, u = (grid[::2, ::2].ravel() for grid in np.indices(depth.shape))
    z = depth[::2, ::2].ravel()
    pixels = np.stack([u + 1, v + 1, np.ones_like(u)], -1)[z > 0]
    x, y, z = (pixels @ np.linalg.inv(intrinsics).T * z[z > 0, None]).T
    return np.stack([z, -x, -y, np.zeros_like(z)], 1).astype(np.float32)


def write_calibration(folder: Path, size: tuple[int, int]) -> None:
    """``calib_cam_to_cam.txt`` and ``calib_velo_to_cam.txt`` of a date, for camera 2 alone."""
    height, width = size
    projection = np.hstack([intrinsic_matrix(height, width), np.zeros((3, 1))])

    def line(name: str, values: np.ndarray) -> str:
        return f"{name}: {' '.join(f'{x:.9e}' for x in np.ravel(values))}\n"

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "calib_cam_to_cam.txt").write_text(
        line("R_rect_00", np.eye(3))
        + line("S_rect_02", np.array([width, height]))
        + line("P_rect_02", projection)
    )
    axes = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]])
    (folder / "calib_velo_to_cam.txt").write_text(line("R", axes) + line("T", np.zeros(3)))


def render_sequence(
    root: str | Path,
    frames: int = 200,
    held_out: int = 40,
    size: tuple[int, int] = (62, 208),
    seed: int = 0,
) -> None:
    """Render a training drive and a held-out one in another street, in KITTI's raw layout.

    Written below ``root``: ``2011_09_26/2011_09_26_drive_0001_sync`` (training) and ``…_0002_sync``
    (held out) with their calibration; true depths in ``depth/<drive>/proj_depth/groundtruth``, as
    KITTI's depth benchmark stores them (16-bit PNG, 1/256 m, 0 without); and the lists
    ``train_files.txt`` and ``test_files.txt``. Depends on the arguments alone. An earlier rendering
    is replaced.

    Args:
        root: a new or empty folder, or one with an earlier rendering.
        frames, held_out: number of frames of the two drives, at least 3 each.
        size: (H, W) of the images.
        seed: of scene and motion, not negative.

    Raises:
        InputError: for fewer frames, images under 16 pixels, a negative seed, or a folder with
            anything else in it.
    """
    if frames < 3 or held_out < 3:
        raise InputError(f"each drive needs at least 3 frames, got {frames} and {held_out}")
    if min(size) < 16:
        raise InputError(f"rendered images need at least 16 pixels a side, got {size}")
    if seed < 0:
        raise InputError(f"the seed is {seed}: give a whole number from 0 up")
    root = Path(root)
    _clear(root)
    root.mkdir(parents=True, exist_ok=True)
    (root / _MARK).write_text(f"frames {frames}, held out {held_out}, size {size}, seed {seed}\n")
    write_calibration(root / _DATE, size)
    for number, (split, count) in enumerate([("train", frames), ("test", held_out)], start=1):
        # The street has an end: a longer drive is slower.
        speed = min(0.4, 0.7 * _LENGTH / count)
        poses = drive(count, 2 * seed + number, speed)
        render_drive(root, number, poses, build_scene(2 * seed + number), size)
        rows = (
            f"{_DATE}/{_DATE}_drive_{number:04d}_sync {frame} l" for frame in range(1, count - 1)
        )
        (root / f"{split}_files.txt").write_text("\n".join(rows) + "\n")


def _clear(root: Path) -> None:
    if root.is_file():
        raise InputError(f"{root} is a file: name a folder for the rendered drives")
    if not root.exists() or not any(root.iterdir()):
        return
    if not (root / _MARK).is_file():
        raise InputError(f"{root} holds something else and is left alone: name another folder")
    for part in (_DATE, "depth"):
        shutil.rmtree(root / part, ignore_errors=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=render_sequence.__doc__.splitlines()[0])
    parser.add_argument("root", help="folder to write to")
    parser.add_argument("--frames", type=int, default=200, help="of the training drive")
    parser.add_argument("--held-out", type=int, default=40, help="frames of the held-out drive")
    parser.add_argument("--size", type=int, nargs=2, default=(62, 208), metavar=("H", "W"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    with report_errors():
        render_sequence(
            options.root, options.frames, options.held_out, tuple(options.size), options.seed
        )
        print(f"{options.root}: {options.frames} frames to train on, {options.held_out} held out")


if __name__ == "__main__":
    main()
