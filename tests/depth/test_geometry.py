import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsalmask.depth import photometric_error
from mmsalmask.depth.geometry import (
    back_project,
    disparity_to_depth,
    invert_motion,
    pixel_grid,
    project,
    rigid_motion,
    rotation_matrix,
    sample,
    warp,
)
from mmsalmask.depth.rendered_sequence import build_scene, drive, intrinsic_matrix, render

torch.set_num_threads(1)


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def kitti_intrinsics(height, width, number=1, dtype=torch.float32):
    return torch.tensor(intrinsic_matrix(height, width), dtype=dtype).expand(number, 3, 3)


def random_motions(number, seed=0, dtype=torch.float32, size=0.1):
    return rigid_motion(
        size * random(number, 3, seed=seed, dtype=dtype),
        size * random(number, 3, seed=seed + 1, dtype=dtype),
    )


# ---------------------------------------------------------------------------------------- depth


def test_disparity_becomes_depth_between_the_nearest_and_the_farthest():
    disparity = torch.linspace(0, 1, 11, dtype=torch.float64)
    expected = [1 / (0.01 + 9.99 * d) for d in disparity.tolist()]
    assert disparity_to_depth(disparity).tolist() == pytest.approx(expected, rel=1e-12)
    other = disparity_to_depth(disparity, 2.0, 50.0)
    assert (other[0].item(), other[-1].item()) == pytest.approx((50.0, 2.0))


# ---------------------------------------------------------------------------------------- motions


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-4, 4), min_size=3, max_size=3),
    st.sampled_from([1.0, 1e-1, 1e-2, 1e-3, 1e-5, 1e-12, 0.0]),
)
def test_rotation_is_the_exponential_of_the_cross_product(axis, size):
    vector = size * torch.tensor([axis], dtype=torch.float64)
    x, y, z = vector[0]
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    rotation = rotation_matrix(vector)[0]
    assert torch.allclose(rotation, torch.linalg.matrix_exp(cross), atol=1e-10)
    assert torch.allclose(rotation @ rotation.T, torch.eye(3, dtype=torch.float64), atol=1e-10)


@pytest.mark.parametrize("size", [0.0, 1e-4, 0.009, 0.011, 1.0])
def test_rotation_has_the_right_derivative_everywhere_zero_included(size):
    vector = (size * random(2, 3, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(rotation_matrix, vector, eps=1e-7, atol=1e-6)


def test_motion_rotates_first_and_then_translates():
    motion = rigid_motion(torch.tensor([[0.0, 0.0, np.pi / 2]]), torch.tensor([[1.0, 2.0, 3.0]]))
    moved = motion[0] @ torch.tensor([1.0, 0.0, 0.0, 1.0])
    assert torch.allclose(moved, torch.tensor([1.0, 3.0, 3.0, 1.0]), atol=1e-6)


def test_inverted_motion_leads_back():
    motions = random_motions(5, dtype=torch.float64, size=1.0).view(5, 1, 4, 4)
    back = invert_motion(motions)
    assert torch.allclose(back, torch.linalg.inv(motions), atol=1e-12)


# ---------------------------------------------------------------------------------------- cameras


@pytest.mark.parametrize("size", [(192, 640), (320, 1024), (5, 7)])
def test_projection_undoes_back_projection_within_a_ten_thousandth_pixel(size):
    depth = 0.1 + 99.9 * torch.rand(2, *size, generator=torch.Generator().manual_seed(0))
    intrinsics = kitti_intrinsics(*size, number=2)
    pixels, seen = project(
        back_project(depth, intrinsics), intrinsics, torch.eye(4).expand(2, 4, 4)
    )
    grid = pixel_grid(*size, like=depth)[:2]
    assert (pixels - grid).abs().max() < 1e-4
    assert torch.allclose(seen, depth.flatten(1).double(), rtol=1e-6)


def test_going_to_another_camera_and_back_reproduces_the_pixel_grid():
    size, number = (192, 640), 3
    depth = 2 + 50 * torch.rand(number, *size, generator=torch.Generator().manual_seed(0)).double()
    intrinsics = kitti_intrinsics(*size, number, torch.float64)
    motions = random_motions(number, dtype=torch.float64)
    there, far = project(back_project(depth, intrinsics), intrinsics, motions)
    homogeneous = torch.cat([there, torch.ones_like(there[:, :1])], dim=1)
    points = far[:, None] * (torch.linalg.inv(intrinsics) @ homogeneous)
    back, _ = project(points, intrinsics, invert_motion(motions))
    assert (back - pixel_grid(*size, like=depth)[:2]).abs().max() < 1e-4


def test_projection_of_a_single_point_is_what_the_camera_equation_says():
    intrinsics = torch.tensor([[[100.0, 0, 31.5], [0, 90.0, 15.5], [0, 0, 1]]])
    pixels, depth = project(
        torch.tensor([[[1.0], [2.0], [4.0]]]),
        intrinsics,
        rigid_motion(torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 1.0]])),
    )
    assert pixels.flatten().tolist() == pytest.approx([100 / 5 + 31.5, 180 / 5 + 15.5])
    assert depth.item() == 5.0


def test_points_behind_the_camera_give_finite_pixels_and_gradients():
    points = torch.tensor([[[0.0, 1.0], [0.0, 1.0], [-1.0, 0.0]]], requires_grad=True)
    pixels, _ = project(points, kitti_intrinsics(8, 8), torch.eye(4)[None])
    pixels.sum().backward()
    assert pixels.isfinite().all()
    assert points.grad.isfinite().all()


# ---------------------------------------------------------------------------------------- warping


def slow_sample(image, u, v):
    """Bilinear value of a (C, H, W) array at one place; outside, the border's."""
    height, width = image.shape[1:]
    u, v = min(max(u, 0), width - 1), min(max(v, 0), height - 1)
    left, top = int(np.floor(u)), int(np.floor(v))
    right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
    a, b = u - left, v - top
    upper = (1 - a) * image[:, top, left] + a * image[:, top, right]
    lower = (1 - a) * image[:, bottom, left] + a * image[:, bottom, right]
    return (1 - b) * upper + b * lower


def slow_warp(source, depth, intrinsics, motion):
    """Pixel by pixel, from the equations."""
    warped = np.zeros_like(source)
    for v in range(depth.shape[0]):
        for u in range(depth.shape[1]):
            point = depth[v, u] * np.linalg.inv(intrinsics) @ np.array([u, v, 1.0])
            x, y, z = intrinsics @ (motion[:3, :3] @ point + motion[:3, 3])
            warped[:, v, u] = slow_sample(source, x / z, y / z)
    return warped


def test_warp_is_what_the_equations_give_pixel_by_pixel():
    size, number = (9, 13), 2
    source = random(number, 3, *size, dtype=torch.float64)
    depth = 2 + random(number, *size, seed=1, dtype=torch.float64).abs()
    intrinsics = kitti_intrinsics(*size, number, torch.float64)
    motions = random_motions(number, seed=2, dtype=torch.float64, size=0.2)
    warped = warp(source, depth, intrinsics, motions)
    for i in range(number):
        slow = slow_warp(*(part[i].numpy() for part in (source, depth, intrinsics, motions)))
        assert np.allclose(warped[i].numpy(), slow, atol=1e-9)


def test_sampling_the_pixel_grid_returns_the_image():
    image = random(2, 3, 12, 20)
    grid = pixel_grid(12, 20, like=image)[:2].expand(2, 2, -1)
    assert torch.allclose(sample(image, grid), image, atol=1e-5)


@pytest.fixture(scope="module")
def two_views():
    """Two rendered views with depth, camera and the true motion from the first to the second."""
    size = (124, 416)
    intrinsics = intrinsic_matrix(*size)
    poses = drive(2, seed=3, speed=0.4)
    scene = build_scene(3)
    images, depths = [], []
    for pose in poses:
        image, depth = render(scene, pose, intrinsics, size)
        images.append(torch.from_numpy(image).permute(2, 0, 1).double() / 255)
        depths.append(torch.from_numpy(depth).double())
    motion = torch.from_numpy(np.linalg.inv(poses[1]) @ poses[0])
    return torch.stack(images), torch.stack(depths), torch.from_numpy(intrinsics), motion


def visible(two_views):
    """(H, W) bool: points of the first view that the second sees too, by their true depths."""
    _, depths, intrinsics, motion = two_views
    pixels, seen = project(
        back_project(depths[:1], intrinsics[None]), intrinsics[None], motion[None]
    )
    found = sample(depths[1][None, None], pixels)[0, 0]
    height, width = found.shape
    u, v = pixels[0].view(2, height, width)
    inside = (u > 1) & (u < width - 2) & (v > 1) & (v < height - 2)
    same = (found / seen.view(height, width) - 1).abs() < 0.01
    return inside & same & (depths[0] > 0)


def interpolation_floor(image):
    """Error that sampling between pixels makes: half a pixel there and half a pixel back."""
    grid = pixel_grid(*image.shape[-2:], like=image)[:2][None]
    shifted = sample(image[None], grid + 0.5)
    return photometric_error(sample(shifted, grid - 0.5), image[None])[0]


def test_true_depth_and_motion_synthesise_the_view_down_to_the_interpolation_floor(two_views):
    images, depths, intrinsics, motion = two_views
    where = visible(two_views)
    assert where.double().mean() > 0.6

    def error(change):
        synthesised = warp(images[1:], depths[:1], intrinsics[None], (change @ motion)[None])
        return photometric_error(synthesised, images[:1])[0][where].mean()

    identity = torch.eye(4, dtype=torch.float64)
    floor = interpolation_floor(images[0])[where].mean()
    true = error(identity)
    assert true < floor
    # A motion wrong by 5 cm, the unmoved picture, and a depth wrong by a fifth are all worse.
    off = identity.clone()
    off[0, 3] = 0.05
    assert error(off) > 1.2 * true
    assert error(invert_motion(motion)) > 3 * true
    wrong_depth = warp(images[1:], 1.2 * depths[:1], intrinsics[None], motion[None])
    assert photometric_error(wrong_depth, images[:1])[0][where].mean() > 1.5 * true


def test_gradient_of_the_photometric_loss_in_the_pose_agrees_with_finite_differences():
    generator = torch.Generator().manual_seed(0)
    size = (8, 12)
    smooth = torch.rand(1, 3, 3, 4, generator=generator, dtype=torch.float64)
    source, target = (
        torch.nn.functional.interpolate(x, size, mode="bicubic", align_corners=True)
        for x in (smooth, smooth + 0.05)
    )
    depth = 3 + torch.rand(1, *size, generator=generator, dtype=torch.float64)
    intrinsics = kitti_intrinsics(*size, dtype=torch.float64)

    def loss(axis_angle, translation):
        motion = rigid_motion(axis_angle, translation)
        return photometric_error(warp(source, depth, intrinsics, motion), target).mean()

    axis_angle = (0.01 * random(1, 3, dtype=torch.float64)).requires_grad_()
    translation = (0.1 * random(1, 3, seed=1, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(loss, (axis_angle, translation), eps=1e-7, atol=1e-6, rtol=1e-4)
    loss(axis_angle, translation).backward()
    assert axis_angle.grad.abs().min() > 0
    assert translation.grad.abs().min() > 0
