"""Slow, obvious versions of what is fast, from the formulas: loops over images and pixels."""

import math

import numpy as np
import torch


def balanced_counts(foreground: np.ndarray, ratio: np.float32, up=None) -> tuple[int, int]:
    """How many foreground and background patches a query loses.

    ``up``, in [0, 1), decides whether both counts are rounded up; without it they are the paper's.
    """
    total, inside = foreground.size, int(foreground.sum())
    outside = total - inside
    if up is None:
        count = math.floor(ratio * np.float32(total))
        from_inside = min(round(float(ratio * np.float32(inside))), count, inside)
    else:
        count = min(total, math.floor(ratio * np.float32(total) + up))
        from_inside = min(inside, math.floor(ratio * np.float32(inside) + up))
    from_outside = count - from_inside
    if from_outside > outside:
        from_inside += from_outside - outside
        from_outside = outside
    return from_inside, from_outside


def foreground_count(foreground: np.ndarray, ratio: np.float32) -> int:
    """How many patches a hard negative loses; without any foreground, of the whole grid."""
    candidates = int(foreground.sum()) or foreground.size
    return round(float(ratio * np.float32(candidates)))


def hard_focal_mask(window: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """(H, W): the pixels of a window, (H, W), that belong to foreground patches, (gh, gw)."""
    candidates = foreground if foreground.any() else np.ones_like(foreground)
    return window & to_pixels(candidates[None], *window.shape)[0]


def block_patches(count: int, rows: int, columns: int, noise: np.ndarray) -> np.ndarray:
    """One image's mask: a rectangle for each row of four uniform numbers, if it fits."""
    mask = np.zeros((rows, columns), dtype=bool)
    for size, shape, y, x in noise:
        left = count - int(mask.sum())
        area = 4 + (left - 4) * size
        aspect = 0.3 ** (1 - 2 * shape)
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height >= rows or width >= columns:
            continue
        top, start = math.floor(y * (rows - height + 1)), math.floor(x * (columns - width + 1))
        tried = mask.copy()
        tried[top : top + height, start : start + width] = True
        if int(mask.sum()) < int(tried.sum()) <= count:
            mask = tried
    return mask


def to_pixels(patches: np.ndarray, height: int, width: int) -> np.ndarray:
    """(C, gh, gw) → (C, H, W), one pixel at a time."""
    channels, rows, columns = patches.shape
    pixels = np.zeros((channels, height, width), dtype=bool)
    for channel in range(channels):
        for y in range(height):
            for x in range(width):
                pixels[channel, y, x] = patches[
                    channel, math.floor(y * rows / height), math.floor(x * columns / width)
                ]
    return pixels


def pool(plane: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """(h, w) → (gh, gw): means of cells, which share a row where h is no multiple of gh."""
    (height, width), means = plane.shape, np.zeros(grid)
    for i in range(grid[0]):
        for j in range(grid[1]):
            rows = slice(i * height // grid[0], -((i + 1) * height // -grid[0]))
            columns = slice(j * width // grid[1], -((j + 1) * width // -grid[1]))
            means[i, j] = plane[rows, columns].mean()
    return means


def gaussian_blur(plane: np.ndarray, kernel_size: int, sigma: float) -> np.ndarray:
    """(H, W) → (H, W): the two-dimensional window at every pixel, reflecting at the border."""
    radius = kernel_size // 2
    offsets = np.arange(-radius, radius + 1)
    line = np.exp(-(offsets**2) / (2 * sigma**2))
    window = np.outer(line, line)
    window /= window.sum()
    padded = np.pad(plane.astype(np.float64), radius, mode="reflect")
    blurred = np.zeros(plane.shape)
    for y in range(plane.shape[0]):
        for x in range(plane.shape[1]):
            blurred[y, x] = (padded[y : y + kernel_size, x : x + kernel_size] * window).sum()
    return blurred


def low_pass(images: np.ndarray, cells: int) -> np.ndarray:
    """(N, C, H, W): means of cells, interpolated between their centres, one pixel at a time."""
    height, width = images.shape[-2:]
    means = np.zeros((*images.shape[:2], cells, cells))
    for row in range(cells):
        for column in range(cells):
            y0, y1 = math.floor(row * height / cells), math.ceil((row + 1) * height / cells)
            x0, x1 = math.floor(column * width / cells), math.ceil((column + 1) * width / cells)
            means[..., row, column] = images[..., y0:y1, x0:x1].mean((-2, -1))
    filled = np.zeros_like(images)
    for y in range(height):
        for x in range(width):
            weights = []
            for pixel, side in ((y, height), (x, width)):
                place = min(max((pixel + 0.5) * cells / side - 0.5, 0), cells - 1)
                weights.append([max(0, 1 - abs(place - cell)) for cell in range(cells)])
            filled[..., y, x] = np.einsum("ncij,i,j->nc", means, *weights)
    return filled


def feather(mask: np.ndarray, radius: tuple[int, int]) -> np.ndarray:
    """(N, C, H, W): the share of a window around each pixel, cut at the border, that is masked."""
    height, width = mask.shape[-2:]
    shares = np.zeros(mask.shape)
    for y in range(height):
        for x in range(width):
            rows = slice(max(0, y - radius[0]), y + radius[0] + 1)
            columns = slice(max(0, x - radius[1]), x + radius[1] + 1)
            shares[..., y, x] = mask[..., rows, columns].mean((-2, -1))
    return shares


def info_nce(query, key, negatives, hard_negatives=None, penalty=2.0, temperature=0.2) -> float:
    """Mean over queries of −log of the positive's share, exponentials written out."""
    losses = []
    for i in range(len(query)):
        positive = math.exp(np.dot(query[i], key[i]) / temperature)
        total = positive
        for negative in negatives:
            total += math.exp(np.dot(query[i], negative) / temperature)
        if hard_negatives is not None:
            for hard in hard_negatives[i]:
                total += math.exp(penalty * np.dot(query[i], hard) / temperature)
        losses.append(-math.log(positive / total))
    return sum(losses) / len(losses)


def mask_ratios(mask: np.ndarray, foreground: np.ndarray) -> tuple[float, float]:
    """Mean share of foreground and of background pixels that a mask covers."""
    shares = ([], [])
    for image_mask, image_foreground in zip(mask, foreground, strict=True):
        height, width = image_mask.shape[-2:]
        inside = to_pixels(image_foreground[None], height, width)[0]
        for side, found in ((inside, shares[0]), (~inside, shares[1])):
            if side.any():
                found.append(np.mean([channel[side].mean() for channel in image_mask]))
    return float(np.mean(shares[0])), float(np.mean(shares[1]))


def nt_xent(
    first, second, hard=None, penalty=2.0, temperature=0.1, negatives=(), crops=()
) -> float:
    """Mean over all anchors of −log of the positive's share, exponentials written out.

    ``crops`` holds arrays (N, D), one for each crop of every image.
    """
    losses = []
    for one, other in ((first, second), (second, first), *((crop, second) for crop in crops)):
        for image, anchor in enumerate(one):
            positive = math.exp(np.dot(anchor, other[image]) / temperature)
            total = positive
            for stranger in range(len(first)):
                if stranger != image:
                    total += math.exp(np.dot(anchor, first[stranger]) / temperature)
                    total += math.exp(np.dot(anchor, second[stranger]) / temperature)
            for negative in negatives:
                total += math.exp(np.dot(anchor, negative) / temperature)
            for own in () if hard is None else hard[image]:
                total += math.exp(penalty * np.dot(anchor, own) / temperature)
            losses.append(-math.log(positive / total))
    return sum(losses) / len(losses)


def overlap(a, b, offset) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2)."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    area_a = (a[2] - a[0] + offset) * (a[3] - a[1] + offset)
    area_b = (b[2] - b[0] + offset) * (b[3] - b[1] + offset)
    return width * height / (area_a + area_b - width * height)


def greedy_nms(boxes, scores, threshold, offset) -> list[int]:
    """Indices of the boxes (N, 4) kept: the best first, each that overlaps none kept before."""
    boxes, scores = boxes.tolist(), scores.tolist()
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(overlap(boxes[i], boxes[j], offset) <= threshold for j in kept):
            kept.append(i)
    return kept


def sample(planes, y, x, clamped):
    """Bilinear values (C,) of planes (C, H, W) at (y, x), differentiable in all three.

    ``clamped``: up to one pixel outside takes the border's value (RoIAlign); otherwise pixels
    outside count as zero (deformable convolution).
    """
    height, width = planes.shape[1:]
    value = planes.new_zeros(len(planes))
    if clamped:
        if y < -1 or y > height or x < -1 or x > width:
            return value
        y = y.clamp(0, height - 1)
        x = x.clamp(0, width - 1)
    top, left = math.floor(y.item()), math.floor(x.item())
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < height and 0 <= column < width:
                near = (1 - (y - row).abs()) * (1 - (x - column).abs())
                value = value + planes[:, row, column] * near
    return value


def loop_roi_align(features, rois, size, scale, sampling_ratio, aligned):
    """RoIAlign of features (N, C, H, W) at rois (R, 5), one sampling point at a time."""
    output = features.new_zeros(len(rois), features.shape[1], *size)
    for r, (image, *box) in enumerate(rois):
        x1, y1, x2, y2 = (edge * scale - 0.5 * aligned for edge in box)
        width, height = x2 - x1, y2 - y1
        if not aligned:
            width, height = width.clamp(min=1), height.clamp(min=1)
        bin_h, bin_w = height / size[0], width / size[1]
        rows = sampling_ratio or math.ceil(bin_h)
        columns = sampling_ratio or math.ceil(bin_w)
        for i in range(size[0]):
            for j in range(size[1]):
                samples = [
                    sample(
                        features[int(image)],
                        y1 + bin_h * (i + (k + 0.5) / rows),
                        x1 + bin_w * (j + (m + 0.5) / columns),
                        clamped=True,
                    )
                    for k in range(rows)
                    for m in range(columns)
                ]
                output[r, :, i, j] = torch.stack(samples).mean(dim=0)
    return output


def cut_map(saliency: np.ndarray, box, flip: bool, grid: tuple[int, int]) -> np.ndarray:
    """(R, C) → (gh, gw): the mean over each cell of a grid on a box, one overlap at a time."""
    rows, columns = saliency.shape
    x0, y0, x1, y1 = box
    result = np.zeros(grid)
    for i in range(grid[0]):
        top, bottom = (y0 + (y1 - y0) * edge / grid[0] for edge in (i, i + 1))
        for j in range(grid[1]):
            left, right = (x0 + (x1 - x0) * edge / grid[1] for edge in (j, j + 1))
            total = area = 0.0
            for row in range(rows):
                height = min(bottom, (row + 1) / rows) - max(top, row / rows)
                for column in range(columns):
                    width = min(right, (column + 1) / columns) - max(left, column / columns)
                    if height > 0 and width > 0:
                        total += height * width * saliency[row, column]
                        area += height * width
            result[i, j] = total / area
    return result[:, ::-1] if flip else result
