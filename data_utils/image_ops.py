"""Small image operations shared by segmentation, plate and torso. Arrays in, arrays out; OpenCV and numpy only.

Points are in pixels with pixel centres at +0.5 (x right, y down).
"""

from __future__ import annotations

import cv2
import numpy as np

REFERENCE_SIZE = 512  # px; the side at which the pixel numbers of the preprocessing notes were tuned
_POLYGON_SHIFT = 4  # fractional bits of polygon corners handed to OpenCV
_SUPERSAMPLING = 4  # of polygons, per axis


def scaled_px(pixels: float, size: int, least: int = 1) -> int:
    """A length tuned at 512 px, for an image of side `size`; at least `least` px."""
    return max(least, round(pixels * size / REFERENCE_SIZE))


def box(radius: int) -> np.ndarray:
    """Square structuring element of side 2 * radius + 1."""
    return np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)


def polygon_mask(points: np.ndarray, size: int) -> np.ndarray:
    """Pixels at least half covered by the polygon of corners [K, 2] px (centres at +0.5), bool [size, size].

    OpenCV alone also fills every pixel that the outline touches, so that closed lips would leave a line.
    """
    mask = np.zeros((size, size), bool)
    left, top = np.clip(np.floor(points.min(0)).astype(int), 0, size)
    right, bottom = np.clip(np.ceil(points.max(0)).astype(int), 0, size)
    if right <= left or bottom <= top:
        return mask
    fine = np.zeros(((bottom - top) * _SUPERSAMPLING, (right - left) * _SUPERSAMPLING), np.uint8)
    corners = (points - (left, top)) * _SUPERSAMPLING - 0.5
    cv2.fillPoly(fine, [np.round(corners * (1 << _POLYGON_SHIFT)).astype(np.int32)], 255, shift=_POLYGON_SHIFT)
    coverage = cv2.resize(fine, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
    mask[top:bottom, left:right] = coverage >= 128
    return mask


def strongest(scores: np.ndarray) -> np.ndarray:
    """Index of the largest of C channels, uint8 [H, W] from [H, W, C]; the first where equal."""
    planes = cv2.split(scores)
    best, index = planes[0], np.zeros(planes[0].shape, np.uint8)
    for k, plane in enumerate(planes[1:], 1):
        np.copyto(index, k, where=plane > best)
        best = cv2.max(best, plane)
    return index


def fill_from_nearest(values: np.ndarray, holes: np.ndarray) -> np.ndarray:
    """`values` [H, W] or [H, W, C] with every hole replaced by the nearest pixel that is none. All holes: unchanged."""
    filled = values.copy()
    if not holes.any() or holes.all():
        return filled
    left, top, width, height = cv2.boundingRect(holes.view(np.uint8))
    window = slice(max(0, top - 1), top + height + 1), slice(max(0, left - 1), left + width + 1)  # holds the nearest
    values, holes = values[window], holes[window]
    _, nearest = cv2.distanceTransformWithLabels(holes.astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL)
    source = np.zeros((int(nearest.max()) + 1, *values.shape[2:]), values.dtype)
    source[nearest[~holes]] = values[~holes]
    filled[window][holes] = source[nearest[holes]]
    return filled


def push_pull_fill(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Smooth continuation of the known pixels into the unknown ones, float32 like `image` [H, W, C].

    Averages known pixels up a pyramid (push) and fills unknown ones from the coarser level (pull): Gortler et al.,
    "The Lumigraph" (1996). Unlike nearest-pixel filling it leaves no streaks. Nothing known: zeros.
    """
    weight = known.astype(np.float32)
    return _push_pull(image.astype(np.float32) * weight[..., None], weight)


def _push_pull(weighted: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """`weighted` [H, W, C] = colour * weight, weight [H, W] in [0, 1] -> colour everywhere."""
    height, width = weight.shape
    own = weighted / np.maximum(weight, 1e-6)[..., None]
    if min(height, width) <= 1 or weight.min() >= 1:
        return own
    half = ((width + 1) // 2, (height + 1) // 2)
    coarse_weight = cv2.resize(weight, half, interpolation=cv2.INTER_AREA)
    coarse_colour = cv2.resize(weighted, half, interpolation=cv2.INTER_AREA).reshape(*coarse_weight.shape, -1)
    # A cell that knows a quarter of its pixels is as good as one that knows all: saturate, so that far fills are soft.
    gain = np.minimum(4.0, 1 / np.maximum(coarse_weight, 1e-6))
    coarse = _push_pull(coarse_colour * gain[..., None], coarse_weight * gain)
    behind = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR).reshape(own.shape)
    return own * weight[..., None] + behind * (1 - weight[..., None])
