"""What lies below a folder of KITTI's raw recordings: drives, frames, calibration, laser scans."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmsalmask.data.loading import BrokenImage
from mmsalmask.errors import InputError

# Not "_extract", the same drives unrectified: they would bring test drives into training.
_DRIVE = re.compile(r"(\d{4}_\d\d_\d\d)_drive_\d{4}_sync")
# Metres a second below which neighbours show nearly the same picture; oxts column of the forward
# velocity.
_STANDING = 0.5
_FORWARD = 8


class Frame(NamedTuple):
    """One image of a drive: ``2011_09_26``, ``2011_09_26_drive_0001_sync``, its number, 2 or 3."""

    date: str
    drive: str
    number: int
    camera: int

    def __str__(self) -> str:
        return f"{self.date}/{self.drive} {self.number} {'lr'[self.camera - 2]}"


class KITTIFiles:
    """What lies below a KITTI folder; every folder and calibration file is read once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: dict[tuple, dict[int, str]] = {}
        self._calibration: dict[tuple, dict[str, np.ndarray] | None] = {}
        self._poses: dict[tuple, np.ndarray | None] = {}

    def drives(self) -> Iterator[tuple[str, str]]:
        """(date, drive) of all drives, sorted."""
        for path in sorted(self.root.glob("*/*_drive_*")):
            match = _DRIVE.fullmatch(path.name)
            if match and match[1] == path.parent.name and path.is_dir():
                yield path.parent.name, path.name

    def names(self, date: str, drive: str, camera: int) -> dict[int, str]:
        """Frame number → file of a camera's images."""
        key = (date, drive, camera)
        if key not in self._names:
            folder = self.root / date / drive / f"image_0{camera}" / "data"
            found = {}
            for entry in os.scandir(folder) if folder.is_dir() else ():
                stem, extension = os.path.splitext(entry.name)
                if stem.isdigit() and extension.lower() in (".png", ".jpg", ".jpeg"):
                    found[int(stem)] = entry.path
            self._names[key] = found
        return self._names[key]

    def frames(self, date: str, drive: str, camera: int) -> list[Frame]:
        """All frames of a camera, in order."""
        return [Frame(date, drive, n, camera) for n in sorted(self.names(date, drive, camera))]

    def is_standing(self, frame: Frame) -> bool:
        """Whether the car stood still, as far as ``oxts`` says."""
        path = self.root / frame.date / frame.drive / "oxts" / "data" / f"{frame.number:010d}.txt"
        try:
            return abs(float(path.read_text().split()[_FORWARD])) < _STANDING
        except (OSError, ValueError, IndexError):
            return False

    def calibration(self, date: str, name: str) -> dict[str, np.ndarray] | None:
        """The numbers of a calibration file by name, ``None`` if there is no such file."""
        key = (date, name)
        if key not in self._calibration:
            path = self.root / date / name
            self._calibration[key] = read_calibration(path) if path.is_file() else None
        return self._calibration[key]

    def intrinsics(self, date: str, camera: int) -> tuple[float, ...] | None:
        """(fx, fy, cx, cy) as fractions of the rectified image."""
        calibration = self.calibration(date, "calib_cam_to_cam.txt")
        if calibration is None:
            return None
        path = self.root / date / "calib_cam_to_cam.txt"
        projection = _entry(calibration, f"P_rect_0{camera}", path, 12).reshape(3, 4)
        width, height = _entry(calibration, f"S_rect_0{camera}", path, 2)
        return (
            float(projection[0, 0] / width),
            float(projection[1, 1] / height),
            float((projection[0, 2] + 0.5) / width),
            float((projection[1, 2] + 0.5) / height),
        )

    def laser_projection(self, date: str, camera: int) -> np.ndarray | None:
        """(3, 4), from the laser's homogeneous coordinates to the camera's pixels."""
        camera_file, laser_file = "calib_cam_to_cam.txt", "calib_velo_to_cam.txt"
        calibration, laser = (self.calibration(date, f) for f in (camera_file, laser_file))
        if calibration is None or laser is None:
            return None
        path = self.root / date
        to_camera, rectify = np.eye(4), np.eye(4)
        to_camera[:3, :3] = _entry(laser, "R", path / laser_file, 9).reshape(3, 3)
        to_camera[:3, 3] = _entry(laser, "T", path / laser_file, 3)
        rectify[:3, :3] = _entry(calibration, "R_rect_00", path / camera_file, 9).reshape(3, 3)
        projection = _entry(calibration, f"P_rect_0{camera}", path / camera_file, 12)
        return projection.reshape(3, 4) @ rectify @ to_camera

    def motions(self, frame: Frame) -> np.ndarray | None:
        """(2, 4, 4) from the frame's camera to that of the previous and of the next frame."""
        key = (frame.date, frame.drive)
        if key not in self._poses:
            path = self.root / frame.date / frame.drive / "poses.txt"
            self._poses[key] = _read_poses(path) if path.is_file() else None
        poses = self._poses[key]
        if poses is None or frame.number + 1 >= len(poses):
            return None
        around = poses[[frame.number - 1, frame.number + 1]]
        return np.linalg.inv(around) @ poses[frame.number]


def read_calibration(path: str | Path) -> dict[str, np.ndarray]:
    """The numeric lines ``name: values`` of a KITTI calibration file."""
    values = {}
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, rest = line.partition(":")
        try:
            values[name.strip()] = np.array([float(number) for number in rest.split()])
        except ValueError:
            continue  # the date of the calibration
    return values


def _entry(calibration: dict[str, np.ndarray], name: str, path: Path, size: int) -> np.ndarray:
    value = calibration.get(name)
    if value is None or len(value) != size:
        raise InputError(
            f"the calibration {path} has no {name} of {size} numbers: download it again"
        )
    return value


def _read_poses(path: Path) -> np.ndarray:
    try:
        rows = np.loadtxt(path, ndmin=2).reshape(-1, 3, 4)
    except ValueError as error:
        raise InputError(f"{path} does not have rows of 12 numbers: {error}") from error
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3] = rows
    return poses


def read_laser_depth(path: str, projection: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Depth map of a scan file; see :func:`laser_depth`.

    Raises:
        BrokenImage: the file cannot be read or is cut off.
    """
    try:
        values = np.fromfile(path, dtype=np.float32)
    except OSError as error:
        raise BrokenImage(path, error.strerror or str(error)) from error
    if not len(values) or len(values) % 4:
        raise BrokenImage(path, f"holds {len(values)} numbers, no multiple of 4: it is cut off")
    return laser_depth(values.reshape(-1, 4), projection, size)


def laser_depth(points: np.ndarray, projection: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The sparse depth map that a laser scan gives; of several points in a pixel the nearest.

    Pixels are rounded and moved by −1: KITTI's development kit counts from 1, and every published
    figure on the raw scans does so.

    Args:
        points: (P, 4) in the laser's frame (x ahead, y left, z up, reflectance).
        projection: (3, 4), see :meth:`KITTIFiles.laser_projection`.
        size: (H, W) of the image.

    Returns:
        (H, W) float32 along the camera's z in metres, 0 where no point falls.
    """
    height, width = size
    # Points behind the scanner are behind the cameras, too.
    points = points[points[:, 0] >= 0, :3]
    seen = np.column_stack([points, np.ones(len(points))]) @ projection.T
    seen = seen[seen[:, 2] > 0]
    column, row = (np.rint(seen[:, i] / seen[:, 2]).astype(np.int64) - 1 for i in (0, 1))
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    depth = np.full(height * width, np.inf)
    np.minimum.at(depth, row[inside] * width + column[inside], seen[inside, 2])
    depth[np.isinf(depth)] = 0
    return depth.reshape(height, width).astype(np.float32)
