"""Cameras, rigid motions and view synthesis; plain PyTorch, batched, differentiable.

A pixel's centre has integer coordinates: u = 0 … W−1 to the right, v = 0 … H−1 down. A camera looks
along +z, x points right and y down. A motion is a 4×4 matrix that takes the coordinates of a point
in one camera to its coordinates in another.

Points and pixels are float64 whatever comes in, autocast or not: float32 would lose a
ten-thousandth of a pixel at u = 600, half precision half a pixel. Beside the networks' work this
is little.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Behind the camera or on its plane a point has no image; its ray is bent to this depth instead,
# which puts it far outside the picture.
_NEAREST = 1e-6


def disparity_to_depth(disparity: Tensor, nearest: float = 0.1, farthest: float = 100.0) -> Tensor:
    """1 / (1/far + (1/near − 1/far)·disparity): [0, 1] to [near, far], decreasing.

    With the defaults that is 1 / (0.01 + 9.99·disparity). The unit of length is the network's own:
    monocular training leaves the scale open.
    """
    return 1 / (1 / farthest + (1 / nearest - 1 / farthest) * disparity)


def pixel_grid(height: int, width: int, like: Tensor) -> Tensor:
    """(3, H·W) homogeneous pixel centres (u, v, 1), row by row, of dtype and device of ``like``."""
    v, u = torch.meshgrid(
        torch.arange(height, dtype=like.dtype, device=like.device),
        torch.arange(width, dtype=like.dtype, device=like.device),
        indexing="ij",
    )
    return torch.stack([u, v, torch.ones_like(u)]).flatten(1)


def back_project(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """The points seen at every pixel: depth · K⁻¹ (u, v, 1).

    Args:
        depth: (N, H, W), distances along z.
        intrinsics: K (N, 3, 3), in pixels.

    Returns:
        float64 (N, 3, H·W), camera coordinates in the unit of ``depth``.
    """
    depth = depth.double()
    grid = pixel_grid(*depth.shape[-2:], like=depth)
    return depth.flatten(1)[:, None] * (torch.linalg.inv(intrinsics.double()) @ grid)


def project(points: Tensor, intrinsics: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
    """Where points appear in another camera.

    Args:
        points: (N, 3, P) in the first camera's coordinates.
        intrinsics: K (N, 3, 3) of the other camera.
        motion: (N, 4, 4), from the first camera's coordinates to the other's.

    Returns:
        Pixel coordinates (N, 2, P), and the points' depths (N, P) in the other camera, float64.
    """
    motion = motion.double()
    moved = motion[:, :3, :3] @ points.double() + motion[:, :3, 3:]
    seen = intrinsics.double() @ moved
    depth = moved[:, 2]
    return seen[:, :2] / depth.clamp(min=_NEAREST)[:, None], depth


def sample(images: Tensor, pixels: Tensor) -> Tensor:
    """Bilinear values of images at pixel coordinates; outside, the nearest border pixel's.

    Args:
        images: (N, C, H, W).
        pixels: (N, 2, H'·W') in pixels, to be read as an image (N, C, H, W) of the same size.

    Returns:
        (N, C, H, W).
    """
    height, width = images.shape[-2:]
    # -1 and 1 are the centres of the first and last pixel, as align_corners=True reads them.
    extent = pixels.new_tensor([width - 1, height - 1])
    grid = 2 * pixels.transpose(1, 2) / extent - 1
    grid = grid.to(images.dtype).view(len(images), height, width, 2)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=True)


def warp(source: Tensor, depth: Tensor, intrinsics: Tensor, motion: Tensor) -> Tensor:
    """The target view, put together from the source view's pixels.

    Args:
        source: (N, C, H, W), another view.
        depth: (N, H, W) of the target view.
        intrinsics: K (N, 3, 3) of both views, in pixels.
        motion: (N, 4, 4), from the target camera's coordinates to the source camera's.

    Returns:
        (N, C, H, W): at every target pixel, what the source view shows of the same point.
    """
    pixels, _ = project(back_project(depth, intrinsics), intrinsics, motion)
    return sample(source, pixels)


def rotation_matrix(axis_angle: Tensor) -> Tensor:
    """Rotations (N, 3, 3) about axes through angles |a| in radians (N, 3), by Rodrigues' formula.

    R = I + (sin θ / θ)·A + ((1 − cos θ) / θ²)·A², with A the cross-product matrix of a. Both
    factors are taken from their power series near θ = 0, where pose networks start, so the
    derivative exists there too.
    """
    squared = axis_angle.square().sum(1)
    small = squared < 1e-4
    safe = torch.where(small, torch.ones_like(squared), squared)
    angle = safe.sqrt()
    first = torch.where(small, 1 - squared / 6 + squared**2 / 120, angle.sin() / angle)
    second = torch.where(small, 0.5 - squared / 24 + squared**2 / 720, (1 - angle.cos()) / safe)
    x, y, z = axis_angle.unbind(1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).view(-1, 3, 3)
    identity = torch.eye(3, dtype=cross.dtype, device=cross.device)
    return identity + first[:, None, None] * cross + second[:, None, None] * (cross @ cross)


def rigid_motion(axis_angle: Tensor, translation: Tensor) -> Tensor:
    """Motions (N, 4, 4) that rotate by (N, 3) and then translate by (N, 3)."""
    upper = torch.cat([rotation_matrix(axis_angle), translation[:, :, None]], dim=2)
    last = upper.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(upper), 1, 4)
    return torch.cat([upper, last], dim=1)


def invert_motion(motion: Tensor) -> Tensor:
    """The way back, (…, 4, 4): Rᵀ and −Rᵀt, exact where a general inverse would round."""
    rotation = motion[..., :3, :3].transpose(-1, -2)
    translation = -rotation @ motion[..., :3, 3:]
    upper = torch.cat([rotation, translation], dim=-1)
    return torch.cat([upper, motion[..., 3:, :]], dim=-2)
