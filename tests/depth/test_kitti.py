import os
import shutil

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate

from mmsalmask.data import HighPassFilter
from mmsalmask.depth import (
    FlipFrames,
    JitterFrames,
    KITTIRawDepth,
    LoadFrames,
    LoadTrueDepth,
    PackFrames,
    ResizeFrames,
)
from mmsalmask.depth.kitti import EIGEN_TEST_DRIVES
from mmsalmask.depth.kitti_files import laser_depth
from mmsalmask.depth.rendered_sequence import (
    build_scene,
    drive,
    intrinsic_matrix,
    render,
    render_sequence,
)
from mmsalmask.errors import InputError

torch.set_num_threads(1)
SIZE = (20, 60)
DATE = "2011_09_26"
DRIVE = f"{DATE}_drive_0001_sync"


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Two rendered drives of six and five frames."""
    root = tmp_path_factory.mktemp("rendered")
    render_sequence(root, frames=6, held_out=5, size=SIZE)
    return root


@pytest.fixture
def root(rendered, tmp_path):
    """A copy to damage."""
    shutil.copytree(rendered, tmp_path / "kitti")
    return tmp_path / "kitti"


def dataset(root, **options):
    return KITTIRawDepth(**{"data_root": str(root), "split": "train_files.txt", **options})


def items(dataset):
    return [dataset.get_data_info(index) for index in range(len(dataset))]


def image(root, frame, drive=DRIVE, camera=2):
    return root / drive[:10] / drive / f"image_0{camera}" / "data" / f"{frame:010d}.png"


def empty_kitti(root, drives, cameras=(2, 3)):
    """Empty files where a drive has images: {drive: numbers of its frames}."""
    for name, frames in drives.items():
        for camera in cameras:
            image(root, 0, name, camera).parent.mkdir(parents=True)
            for frame in frames:
                image(root, frame, name, camera).touch()


def names(dataset):
    """(drive, camera, frame) of all items."""
    parts = [item["img_path"].split(os.sep) for item in items(dataset)]
    return [(p[-4], int(p[-3][-1]), int(p[-1].split(".")[0])) for p in parts]


# ------------------------------------------------------------------------------ which frames


def test_frames_of_a_list_come_with_their_neighbours_in_order(rendered):
    data = dataset(rendered)
    assert [name[2] for name in names(data)] == [1, 2, 3, 4]
    for item, (_, _, frame) in zip(items(data), names(data), strict=True):
        assert item["neighbour_paths"] == [str(image(rendered, frame + s)) for s in (-1, 1)]
        assert item["intrinsics"] == (0.58, 1.92, 0.5, 0.5)
    assert not data.skipped


def test_jpg_and_png_and_both_cameras_are_found(root, tmp_path):
    right = image(root, 0, camera=3).parent
    right.mkdir(parents=True)
    for frame in range(3):
        picture = cv2.imread(str(image(root, frame)))
        cv2.imwrite(str(right / f"{frame:010d}.jpg"), picture)
    split = tmp_path / "list.txt"
    split.write_text(f"{DATE}/{DRIVE} 1 r\n{DATE}/{DRIVE} 0000000002 l\n\n{DATE}/{DRIVE} 3\n")
    data = dataset(root, split=str(split), pipeline=[LoadFrames()])
    assert [n[1:] for n in names(data)] == [(3, 1), (2, 2), (2, 3)]
    assert data[0]["img"].shape == (*SIZE, 3)


def test_an_unrectified_copy_of_a_test_drive_is_not_trained_on(tmp_path):
    empty_kitti(tmp_path, {DRIVE: range(5), f"{DATE}_drive_0002_extract": range(5)})
    assert {name[0] for name in names(dataset(tmp_path, split="eigen"))} == {DRIVE}


def test_there_are_28_test_drives():
    assert len(EIGEN_TEST_DRIVES) == 28


def test_computed_splits_part_drives_cameras_and_frames(tmp_path):
    test_drive, train_drive = f"{DATE}_drive_0002_sync", f"{DATE}_drive_0001_sync"
    empty_kitti(tmp_path, {test_drive: range(60), train_drive: range(42)})
    (tmp_path / DATE / "not_a_drive_at_all").mkdir()
    train = names(dataset(tmp_path, split="eigen"))
    val = names(dataset(tmp_path, split="eigen", subset="val", test_mode=False))
    test = names(dataset(tmp_path, split="eigen", subset="test", neighbours=False))
    assert {name[0] for name in train + val} == {train_drive}
    assert {name[1] for name in train} == {2, 3}
    assert not set(train) & set(val)
    assert len(train) + len(val) == 2 * (42 - 2)
    assert {name[0:2] for name in test} == {(test_drive, 2)}
    frames = [name[2] for name in test]
    assert len(frames) == 25
    assert (frames[0], frames[-1]) == (0, 59)
    assert set(np.diff(frames)) == {2, 3}


def test_zhous_split_leaves_out_a_standing_car(tmp_path):
    empty_kitti(tmp_path, {DRIVE: range(12)}, cameras=(2,))
    speeds = tmp_path / DATE / DRIVE / "oxts" / "data"
    speeds.mkdir(parents=True)
    for frame in range(12):
        values = np.zeros(30)
        values[8] = 0.1 if frame in (4, 5, 6) else 8.0
        (speeds / f"{frame:010d}.txt").write_text(" ".join(map(str, values)))
    for split, missing in [("eigen", set()), ("eigen_zhou", {4, 5, 6})]:
        both = [
            name[2]
            for subset in ("train", "val")
            for name in names(dataset(tmp_path, split=split, subset=subset, test_mode=False))
        ]
        assert set(range(1, 11)) - set(both) == missing


# ------------------------------------------------------------------------------ what is missing


def test_missing_neighbours_are_skipped_and_counted(root):
    image(root, 2).unlink()
    data = dataset(root)
    assert [name[2] for name in names(data)] == [4]
    assert data.skipped == {"without both neighbours": 2, "absent": 1}
    assert len(dataset(root, neighbours=False)) == 3


def test_a_sequence_of_one_frame_is_skipped_and_alone_it_is_an_error(tmp_path):
    lonely = f"{DATE}_drive_0005_sync"
    empty_kitti(tmp_path, {lonely: [7]})
    with pytest.raises(InputError, match="has no frame for eigen train: 2 without both neighbours"):
        dataset(tmp_path, split="eigen")
    empty_kitti(tmp_path, {DRIVE: range(5)})
    data = dataset(tmp_path, split="eigen")
    assert {name[0] for name in names(data)} == {DRIVE}
    assert data.skipped["without both neighbours"] >= 2


def test_listed_frames_that_are_absent_are_skipped_in_training_and_refused_in_test(root):
    with open(root / "train_files.txt", "a") as split:
        split.write(f"{DATE}/{DRIVE} 77 l\n{DATE}/{DATE}_drive_0099_sync 3 r\n")
    data = dataset(root)
    assert len(data) == 4
    assert data.skipped == {"absent": 2}
    with pytest.raises(InputError, match=r"2 absent \(2011_09_26/2011_09_26_drive_0001_sync 77 l"):
        dataset(root, subset="test")


def test_calibration_is_read_and_its_absence_skips_or_stops(root):
    intrinsics = items(dataset(root, intrinsics=None))[0]["intrinsics"]
    assert intrinsics == pytest.approx((0.58, 1.92, 0.5, 0.5), rel=1e-6)
    other = "2011_09_28"
    empty_kitti(root, {f"{other}_drive_0001_sync": range(3)}, cameras=(2,))
    with open(root / "train_files.txt", "a") as split:
        split.write(f"{other}/{other}_drive_0001_sync 1 l\n")
    data = dataset(root, intrinsics=None)
    assert len(data) == 4
    assert sum(data.skipped.values()) == 1
    assert "calib_cam_to_cam.txt" in next(iter(data.skipped))
    with pytest.raises(InputError, match="without calibration files"):
        dataset(root, intrinsics=None, subset="test")
    (root / DATE / "calib_velo_to_cam.txt").unlink()
    with pytest.raises(InputError, match=r"calib_velo_to_cam\.txt"):
        dataset(root, ground_truth="velodyne", subset="test", split="test_files.txt")
    path = root / DATE / "calib_cam_to_cam.txt"
    path.write_text("calib_time: 09-Jan-2012 13:57:47\nS_rect_02: 1 2\n")
    with pytest.raises(InputError, match="has no P_rect_02 of 12 numbers"):
        dataset(root, intrinsics=None)


def test_frames_of_unequal_size_are_replaced_in_training_and_refused_in_test(root):
    path = image(root, 3)
    cv2.imwrite(str(path), cv2.imread(str(path))[:-2])
    data = dataset(root, pipeline=[LoadFrames()])
    assert [data[index]["img"].shape for index in range(4)] == [(*SIZE, 3)] * 4
    assert sorted(os.path.basename(p) for p in data.broken_files()) == [
        f"{frame:010d}.png" for frame in (2, 3, 4)
    ]
    with pytest.raises(InputError, match=r"3.png cannot be read \(is 60x18, but its neighbour"):
        dataset(root, pipeline=[LoadFrames()], test_mode=True)[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(split="absent.txt"), "there is no split absent.txt"),
        (dict(subset="training"), "subset must be"),
        (dict(intrinsics=(1, 1)), "as fractions of the image"),
        (dict(with_motion=True, neighbours=False), "needs neighbours=True"),
        (dict(ground_truth="{town}/{frame}.png"), "has the fields date, drive"),
        (dict(ground_truth="nowhere/{frame}.png", subset="test"), "4 without ground truth"),
        (dict(data_root="/nowhere"), "does not exist"),
    ],
)
def test_impossible_options_are_one_sentence(rendered, options, message):
    with pytest.raises(InputError, match=message) as caught:
        dataset(rendered, **options)
    assert "\n" not in str(caught.value)


def test_a_line_that_is_no_frame_is_named(rendered, tmp_path):
    split = tmp_path / "list.txt"
    for line in (f"{DATE}/{DRIVE} one l", f"{DRIVE} 1 l", f"{DATE}/{DRIVE} 1 left", "x"):
        split.write_text(f"{DATE}/{DRIVE} 1 l\n{line}\n")
        with pytest.raises(InputError, match=r"list\.txt, line 2 is"):
            dataset(rendered, split=str(split))


# ------------------------------------------------------------------------------ depth and motion


def slow_laser_depth(points, projection, size):
    depth = np.zeros(size, dtype=np.float32)
    for x, y, z, _ in points:
        u, v, w = projection @ np.array([x, y, z, 1.0])
        if x < 0 or w <= 0:
            continue
        column, row = int(np.rint(u / w)) - 1, int(np.rint(v / w)) - 1
        if 0 <= column < size[1] and 0 <= row < size[0]:
            old = depth[row, column]
            depth[row, column] = w if old == 0 else min(old, w)
    return depth


def test_laser_depth_is_the_slow_one_and_keeps_the_nearest_of_a_pixel():
    random = np.random.RandomState(0)
    points = np.column_stack(
        [random.uniform(-5, 30, 3000), random.uniform(-9, 9, (3000, 2)), random.rand(3000)]
    ).astype(np.float32)
    axes = np.array([[0, -1, 0, 0.1], [0, 0, -1, -0.2], [1, 0, 0, -0.3]])
    projection = intrinsic_matrix(*SIZE) @ axes
    depth = laser_depth(points, projection, SIZE)
    assert np.allclose(depth, slow_laser_depth(points, projection, SIZE), rtol=1e-6)
    assert 0 < (depth > 0).sum() < 3000


def test_laser_and_prepared_maps_are_the_rendered_depth(rendered):
    pipeline = [LoadFrames(), LoadTrueDepth()]
    prepared = dataset(rendered, ground_truth="prepared", pipeline=pipeline)
    laser = dataset(rendered, ground_truth="velodyne", pipeline=pipeline)
    poses = drive(6, seed=1, speed=0.4)
    _, depth = render(build_scene(1), poses[1], intrinsic_matrix(*SIZE), SIZE)
    assert np.abs(prepared[0]["depth"] - depth).max() < 1 / 256
    sparse = laser[0]["depth"]
    known = sparse > 0
    assert known[::2, ::2].sum() == known.sum() > 100
    assert np.allclose(sparse[known], depth[known], rtol=1e-4)


def test_true_motions_lead_to_the_neighbours(rendered):
    data = dataset(rendered, with_motion=True)
    poses = drive(6, seed=1, speed=0.4)
    for item, frame in zip(items(data), (1, 2, 3, 4), strict=True):
        expected = [np.linalg.inv(poses[frame + step]) @ poses[frame] for step in (-1, 1)]
        assert np.allclose(item["motions"], expected, atol=1e-6)
    # Driving on, what was seen comes nearer in the next frame.
    assert item["motions"][1][2, 3] < 0 < item["motions"][0][2, 3]


def test_a_damaged_depth_map_or_scan_is_named(root):
    for truth, path in [
        ("prepared", root / "depth" / DRIVE / "proj_depth/groundtruth/image_02/0000000001.png"),
        ("velodyne", root / DATE / DRIVE / "velodyne_points/data/0000000001.bin"),
    ]:
        path.write_bytes(b"123")
        data = dataset(
            root, ground_truth=truth, pipeline=[LoadFrames(), LoadTrueDepth()], test_mode=True
        )
        with pytest.raises(InputError, match=f"{path.name} cannot be read"):
            data[0]
    with pytest.raises(InputError, match="nothing to read"):
        dataset(root, pipeline=[LoadFrames(), LoadTrueDepth()])[0]


# ------------------------------------------------------------------------------ the pipeline


def packed(rendered, *transforms, **options):
    steps = [LoadFrames(), ResizeFrames((96, 64)), *transforms, PackFrames()]
    return dataset(rendered, pipeline=steps, **options)[0]


def test_a_packed_item_has_frames_camera_and_truth(rendered):
    item = packed(
        rendered, LoadTrueDepth(), ground_truth="prepared", with_motion=True, test_mode=True
    )
    inputs = item["inputs"]
    assert inputs["img"].shape == (3, 64, 96)
    assert inputs["plain"].shape == inputs["frames"].shape == (3, 3, 64, 96)
    assert inputs["plain"].dtype == torch.uint8
    assert torch.equal(inputs["plain"][0], inputs["img"])
    assert not torch.equal(inputs["plain"][0], inputs["plain"][1])
    assert np.allclose(inputs["intrinsics"], intrinsic_matrix(64, 96))
    assert item["data_samples"].gt_depth.shape == SIZE
    assert item["data_samples"].gt_motions.shape == (2, 4, 4)
    batch = default_collate([item, item])
    assert batch["inputs"]["plain"].shape == (2, 3, 3, 64, 96)
    assert len(batch["data_samples"]) == 2


def test_jitter_is_shared_by_the_frames_and_spares_what_is_synthesised(rendered):
    np.random.seed(0)
    still, jittered = packed(rendered)["inputs"], packed(rendered, JitterFrames(1.0))["inputs"]
    assert torch.equal(still["plain"], jittered["plain"])
    assert not torch.equal(still["frames"], jittered["frames"])
    assert torch.equal(jittered["img"], jittered["frames"][0])
    # One factor for all: what brightens the first frame brightens the others as much.
    change = [
        (jittered["frames"][i].double().mean() / still["frames"][i].double().mean()).item()
        for i in range(3)
    ]
    assert change == pytest.approx([change[0]] * 3, abs=0.02)
    assert abs(change[0] - 1) > 0.005
    assert torch.equal(packed(rendered, JitterFrames(0.0))["inputs"]["frames"], still["frames"])


def test_flip_mirrors_frames_camera_and_motion(rendered):
    options = dict(intrinsics=(0.6, 1.9, 0.4, 0.5), with_motion=True)
    plain, flipped = packed(rendered, **options), packed(rendered, FlipFrames(1.0), **options)
    assert torch.equal(flipped["inputs"]["plain"], plain["inputs"]["plain"].flip(-1))
    centre = plain["inputs"]["intrinsics"][0, 2].item()
    assert flipped["inputs"]["intrinsics"][0, 2].item() == pytest.approx(95 - centre, abs=1e-4)
    # A point and its mirror image move alike.
    point = torch.tensor([1.0, 2.0, 5.0, 1.0])
    mirror = torch.tensor([-1.0, 1.0, 1.0, 1.0])
    moved = plain["data_samples"].gt_motions @ point
    assert torch.allclose(flipped["data_samples"].gt_motions @ (mirror * point), mirror * moved)


def test_high_pass_filter_is_one_switch_for_the_encoder_alone(rendered):
    plain = packed(rendered)["inputs"]
    filtered = packed(rendered, HighPassFilter())["inputs"]
    assert filtered["img"].dtype == torch.float32
    expected = HighPassFilter().transform({"img": plain["img"].permute(1, 2, 0).numpy()})["img"]
    assert np.allclose(filtered["img"].permute(1, 2, 0).numpy(), expected)
    assert torch.equal(filtered["frames"], plain["frames"])
    assert torch.equal(filtered["plain"], plain["plain"])


def test_impossible_transforms_are_refused():
    for scale in ((100, 64), 128):
        with pytest.raises(InputError, match="both multiples of 32"):
            ResizeFrames(scale)
    with pytest.raises(InputError, match=r"in \[0, 1\]"):
        FlipFrames(2)
    with pytest.raises(InputError, match=r"in \[0, 0\.5\]"):
        JitterFrames(hue=1)


# ------------------------------------------------------------------------------ the rendering


def test_rendered_depth_is_where_the_ray_meets_the_ground():
    height, width = 31, 41
    intrinsics = intrinsic_matrix(height, width)
    image, depth = render(build_scene(0), drive(3, 0)[0], intrinsics, (height, width))
    pose = drive(3, 0)[0]
    v, u = height - 1, width // 2  # just in front of the car there is nothing but ground
    ray = pose[:3, :3] @ np.linalg.inv(intrinsics) @ np.array([u, v, 1.0])
    assert depth[v, u] == pytest.approx(-pose[1, 3] / ray[1], rel=1e-5)
    assert image.std() > 20
    assert (depth > 0).mean() > 0.7


def test_rendering_depends_on_its_arguments_alone_and_spares_other_folders(rendered, tmp_path):
    render_sequence(tmp_path / "again", frames=6, held_out=5, size=SIZE)
    one, two = (
        sorted(p for p in r.rglob("*") if p.is_file()) for r in (rendered, tmp_path / "again")
    )
    assert [p.relative_to(rendered) for p in one] == [
        p.relative_to(tmp_path / "again") for p in two
    ]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    with pytest.raises(InputError, match="holds something else"):
        render_sequence(tmp_path / "mine")
    with pytest.raises(InputError, match="at least 3 frames"):
        render_sequence(tmp_path / "new", frames=2)
    assert not (tmp_path / "new").exists()
