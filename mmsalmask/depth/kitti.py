"""KITTI's raw recordings, as video to learn depth from and as depth to measure it."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.logging import MMLogger

from mmsalmask.data.image_folder import ImageFolder, check_folder
from mmsalmask.depth.kitti_files import Frame, KITTIFiles
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
_VAL_EVERY = 10
_TEST_FRAMES = 25


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
        files = KITTIFiles(Path(self.data_root))
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

    def _frames(self, files: KITTIFiles) -> list[Frame]:
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

    def _listed(self) -> list[Frame]:
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

    def _item(self, frame: Frame, files: KITTIFiles) -> dict | str:
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

    def _with_depth(self, item: dict, frame: Frame, files: KITTIFiles) -> dict | str:
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


def _parse(line: str, where: str) -> Frame:
    parts = line.split()
    folder = re.split(r"[/\\]", parts[0].strip("/"))
    if len(parts) == 2:
        parts.append("l")
    if len(parts) != 3 or len(folder) != 2 or not parts[1].isdigit() or parts[2] not in _CAMERAS:
        raise InputError(f"{where} is {line!r} instead of '<date>/<drive> <frame> <l or r>'")
    return Frame(folder[0], folder[1], int(parts[1]), _CAMERAS[parts[2]])


def _evenly(frames: list[Frame]) -> list[Frame]:
    places = np.linspace(0, len(frames) - 1, min(_TEST_FRAMES, len(frames))).round().astype(int)
    return [frames[place] for place in places]
