"""Slow, obvious versions of the heart, written from the formulas: loops over images and pixels."""

import math

import numpy as np


def balanced_counts(foreground: np.ndarray, ratio: np.float32) -> tuple[int, int]:
    """How many foreground and background patches a query loses."""
    total, inside = foreground.size, int(foreground.sum())
    outside = total - inside
    count = math.floor(ratio * np.float32(total))
    from_inside = min(round(float(ratio * np.float32(inside))), count, inside)
    from_outside = count - from_inside
    if from_outside > outside:
        from_inside += from_outside - outside
        from_outside = outside
    return from_inside, from_outside


def foreground_count(foreground: np.ndarray, ratio: np.float32) -> int:
    """How many patches a hard negative loses; without any foreground, of the whole grid."""
    candidates = int(foreground.sum()) or foreground.size
    return round(float(ratio * np.float32(candidates)))


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


def nt_xent(first, second, hard=None, penalty=2.0, temperature=0.1, negatives=()) -> float:
    """Mean over the 2N anchors of −log of the positive's share, exponentials written out."""
    losses = []
    for one, other in ((first, second), (second, first)):
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
