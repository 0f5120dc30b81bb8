"""KITTI's raw recordings, as video to learn depth from and as depth to measure it."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.logging import MMLogger

from mmsalmask.data.image_folder import ImageFolder, check_folder
from mmsalmask.data.loading import BrokenImage
from mmsalmask.errors import InputError, some_names
from mmsalmask.registry import DATASETS

#: The 28 drives from which Eigen et al. (NeurIPS 2014) took their test images.
EIGEN_TEST_DRIVES = frozenset(
    f"{date}_drive_{number}_sync"
    for date, numbers in {
        "2011_09_26": "0002 0009 0013 0020 0023 0027 0029 0036 0046 0048 0052 0056 0059 0064 0084 "
        "0086 0093 0096 0101 0106 0117",
        "2011_09_28": "0002",
        "2011_09_29": "0071",
        "2011_09_30": "0016 0018 0027",
        "2011_10_03": "0027 0047",
    }.items()
    for number in numbers.split()
)

#: Where KITTI's depth benchmark has its maps, below ``data_root``.
PREPARED = "depth/{drive}/proj_depth/groundtruth/image_0{camera}/{frame:010d}.png"

_CAMERAS = {"l": 2, "r": 3, "2": 2, "3": 3}
_DRIVE = re.compile(r"(\d{4}_\d\d_\d\d)_drive_\d{4}_(sync|extract)")
_VAL_EVERY = 10
_TEST_FRAMES = 25
# Metres a second below which neighbours show nearly the same picture; oxts column of the forward
# velocity.
_STANDING = 0.5
_FORWARD = 8


class _Frame(NamedTuple):
    date: str
    drive: str
    number: int
    camera: int

    def __str__(self) -> str:
        return f"{self.date}/{self.drive} {self.number} {'lr'[self.camera - 2]}"


@DATASETS.register_module()
class KITTIRawDepth(ImageFolder):
    """Frames of KITTI's raw drives with their neighbours in time, or with their true depth.

    Files are ``data_root/<date>/<date>_drive_<number>_sync/image_0{2,3}/data/<frame>.{png,jpg}``
    and the calibration in ``data_root/<date>``. Every item names its frame as ``img_path``;
    unreadable ones are treated as in :class:`ImageFolder`, and so is a frame whose neighbours have
    another size.

    A split is a list of the user's (lines of ``<date>/<drive> <frame> <l or r>``), or computed:
    ``eigen`` has all frames of both cameras outside the 28 test drives of Eigen et al.;
    ``eigen_zhou`` leaves out those of a standing car (Zhou et al. 2017 measured optical flow, here
    it is the forward velocity of ``oxts`` under 0.5 m/s); every tenth is for validation; test has
    25 evenly spaced frames of the left camera in each test drive. For the very 39,810 / 4,424 / 697
    images of the published tables give the published lists.

    Frames without both neighbours are skipped and counted. In training so are listed frames that
    do not exist and dates without calibration where it is needed; in ``test_mode``, and for missing
    ground truth, that is an error, since a smaller test set has another result. ``skipped`` counts
    the frames by reason, and the log tells.

    Args:
        data_root: the folder of the dates.
        split: ``"eigen"``, ``"eigen_zhou"``, or a file, as path or relative to ``data_root``.
        subset: ``"train"``, ``"val"`` or ``"test"`` of a computed split; with a list, only the
            default of ``test_mode``.
        pipeline: transforms, as configs or callables.
        neighbours: name the previous and the next frame as ``neighbour_paths``.
        ground_truth: ``None``; ``"velodyne"`` for depth from the laser's points; ``"prepared"``
            for KITTI's own depth maps in ``data_root/depth``, or a template of your own with the
            fields date, drive, camera and frame, relative to ``data_root``.
        intrinsics: (fx, fy, cx, cy) as fractions of width and height, counted from the edge, for
            all frames; ``None`` for those of each date's calibration.
        with_motion: read true camera poses from each drive's ``poses.txt`` (as in KITTI's odometry
            benchmark) and hand on ``motions`` (2, 4, 4), from the target to either neighbour.
        indices: use the first so many frames only, or these.
        test_mode: see above. Default: unless the subset is ``train``.
        lazy_init: search the folder at the first use instead of now.

    Raises:
        InputError: for a missing folder, list or file as described, a list that cannot be read, and
            when no frame is left, with the reasons.
    """

    def __init__(
        self,
        data_root: str,
        split: str = "eigen_zhou",
        subset: str = "train",
        pipeline: Sequence = (),
        neighbours: bool = True,
        ground_truth: str | None = None,
        intrinsics: Sequence[float] | None = (0.58, 1.92, 0.5, 0.5),
        with_motion: bool = False,
        indices: int | Sequence[int] | None = None,
        test_mode: bool | None = None,
        lazy_init: bool = False,
    ) -> None:
        if subset not in ("train", "val", "test"):
            raise InputError(f"subset must be 'train', 'val' or 'test', got {subset!r}")
        if intrinsics is not None and len(intrinsics) != 4:
            raise InputError(
                f"intrinsics are (fx, fy, cx, cy) as fractions of the image, got {intrinsics}"
            )
        if with_motion and not neighbours:
            raise InputError("with_motion=True needs neighbours=True: motions lead to neighbours")
        self.split = split
        self.subset = subset
        self.neighbours = neighbours
        self.ground_truth = PREPARED if ground_truth == "prepared" else ground_truth
        self.intrinsics = None if intrinsics is None else tuple(intrinsics)
        self.with_motion = with_motion
        self.skipped: Counter[str] = Counter()
        super().__init__(
            data_root=data_root,
            pipeline=pipeline,
            indices=indices,
            test_mode=subset != "train" if test_mode is None else test_mode,
            lazy_init=lazy_init,
        )

    def load_data_list(self) -> list[dict]:
        """One dict per frame, as the class describes."""
        check_folder(self.data_root)
        self.skipped.clear()
        files = _Files(Path(self.data_root))
        items, examples = [], defaultdict(list)
        for frame in self._frames(files):
            item = self._item(frame, files)
            if isinstance(item, str):
                self.skipped[item] += 1
                examples[item].append(str(frame))
            else:
                items.append(item)
        self._report(len(items), examples)
        return items

    def _report(self, number: int, examples: dict[str, list[str]]) -> None:
        told = "; ".join(f"{len(f)} {why} ({some_names(f[:3])})" for why, f in examples.items())
        serious = [why for why in examples if why != _NO_NEIGHBOURS]
        if serious and self.test_mode:
            raise InputError(
                f"{self.split} asks for frames that cannot be tested: {told}; complete the data or "
                "give a list without them, since a smaller test set has another result"
            )
        if not number:
            raise InputError(
                f"KITTI folder {self.data_root} has no frame for {self.split} {self.subset}: "
                f"{told or 'there are no such drives in <date>/<date>_drive_<number>_sync'}"
            )
        if told:
            MMLogger.get_current_instance().warning(
                f"{type(self).__name__} {self.subset}: {number} frames, skipped {told}"
            )

    # ------------------------------------------------------------------------------ which frames

    def _frames(self, files: "_Files") -> list[_Frame]:
        if self.split not in ("eigen", "eigen_zhou"):
            return self._listed()
        test = self.subset == "test"
        drives = [drive for drive in files.drives() if (drive[1] in EIGEN_TEST_DRIVES) == test]
        if test:
            return [frame for drive in drives for frame in _evenly(files.frames(*drive, 2))]
        frames = [
            frame for drive in drives for camera in (2, 3) for frame in files.frames(*drive, camera)
        ]
        if self.split == "eigen_zhou":
            moving = [frame for frame in frames if not files.is_standing(frame)]
            self._tell_standing(len(frames) - len(moving))
            frames = moving
        val, turn = self.subset == "val", _VAL_EVERY // 2
        return [f for index, f in enumerate(frames) if (index % _VAL_EVERY == turn) == val]

    def _tell_standing(self, number: int) -> None:
        if number:
            MMLogger.get_current_instance().info(
                f"KITTI: left out {number} frames of standing cars"
            )

    def _listed(self) -> list[_Frame]:
        path = next(
            (p for p in (Path(self.split), Path(self.data_root, self.split)) if p.is_file()), None
        )
        if path is None:
            raise InputError(
                f"there is no split {self.split}: give 'eigen', 'eigen_zhou' or a file with lines "
                "of '<date>/<drive> <frame> <l or r>'"
            )
        lines = path.read_text(encoding="utf-8").splitlines()
        frames = [
            _parse(line, f"{path}, line {number}")
            for number, line in enumerate(lines, start=1)
            if line.strip()
        ]
        if not frames:
            raise InputError(f"the split {path} names no frames")
        return frames

    # ------------------------------------------------------------------------------ what they have

    def _item(self, frame: _Frame, files: "_Files") -> dict | str:
        """What the pipeline needs of a frame, or why it is skipped."""
        own = files.names(frame.date, frame.drive, frame.camera)
        if frame.number not in own:
            return _ABSENT
        item = {"img_path": own[frame.number]}
        if self.neighbours:
            around = [own.get(frame.number + step) for step in (-1, 1)]
            if None in around:
                return _NO_NEIGHBOURS
            item["neighbour_paths"] = around
        item["intrinsics"] = self.intrinsics or files.intrinsics(frame.date, frame.camera)
        if item["intrinsics"] is None:
            return _NO_CALIBRATION
        if self.with_motion:
            item["motions"] = files.motions(frame)
            if item["motions"] is None:
                return _NO_POSES
        return self._with_depth(item, frame, files)

    def _with_depth(self, item: dict, frame: _Frame, files: "_Files") -> dict | str:
        if self.ground_truth is None:
            return item
        if self.ground_truth == "velodyne":
            scan = Path(self.data_root, frame.date, frame.drive, "velodyne_points", "data")
            scan = scan / f"{frame.number:010d}.bin"
            if files.laser_projection(frame.date, frame.camera) is None:
                return _NO_CALIBRATION
            item["laser"] = {
                "path": str(scan),
                "projection": files.laser_projection(frame.date, frame.camera),
            }
            return item if scan.is_file() else _NO_DEPTH
        try:
            name = self.ground_truth.format(
                date=frame.date, drive=frame.drive, camera=frame.camera, frame=frame.number
            )
        except (KeyError, IndexError, ValueError) as error:
            raise InputError(
                f"the template ground_truth={self.ground_truth!r} has the fields date, drive, "
                f"camera and frame, and no other ({error})"
            ) from error
        item["depth_path"] = os.path.join(self.data_root, name)
        return item if os.path.isfile(item["depth_path"]) else _NO_DEPTH


_ABSENT = "absent"
_NO_NEIGHBOURS = "without both neighbours"
_NO_CALIBRATION = (
    "of a date without calibration files (calib_cam_to_cam.txt, calib_velo_to_cam.txt)"
)
_NO_POSES = "of a drive without a poses.txt for all its frames"
_NO_DEPTH = "without ground truth"


def _parse(line: str, where: str) -> _Frame:
    parts = line.split()
    folder = re.split(r"[/\\]", parts[0].strip("/"))
    if len(parts) == 2:
        parts.append("l")
    if len(parts) != 3 or len(folder) != 2 or not parts[1].isdigit() or parts[2] not in _CAMERAS:
        raise InputError(f"{where} is {line!r} instead of '<date>/<drive> <frame> <l or r>'")
    return _Frame(folder[0], folder[1], int(parts[1]), _CAMERAS[parts[2]])


def _evenly(frames: list[_Frame]) -> list[_Frame]:
    places = np.linspace(0, len(frames) - 1, min(_TEST_FRAMES, len(frames))).round().astype(int)
    return [frames[place] for place in places]


class _Files:
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

    def frames(self, date: str, drive: str, camera: int) -> list[_Frame]:
        """All frames of a camera, in order."""
        return [_Frame(date, drive, n, camera) for n in sorted(self.names(date, drive, camera))]

    def is_standing(self, frame: _Frame) -> bool:
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

    def motions(self, frame: _Frame) -> np.ndarray | None:
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
        projection: (3, 4), see :meth:`_Files.laser_projection`.
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
