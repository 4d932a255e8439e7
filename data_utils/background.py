"""The clean background plate of a static camera: what stands behind the speaker, as far as it is ever seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from instag.data_utils.image_ops import push_pull_fill
from instag.data_utils.silhouette import main_person, plate_lab
from instag.errors import DataError

MAX_SAMPLES = 90  # frames looked at, evenly spread
MEMORY_BYTES = 128 << 20  # of frames held at once
CLEAR_PX = 8.0  # at 512 px: a pixel this far from the speaker shows the background
NEAR_PX = 5.0  # at 512 px: the least distance at which a pixel's farthest frame is still believed
MIN_CLEAR_SAMPLES = 3  # fewer clear frames than this: take the farthest one instead of their median


@dataclass(frozen=True)
class Plate:
    """The background without the speaker."""

    image: np.ndarray  # uint8 [H, W, 3] RGB
    seen: np.ndarray  # bool [H, W]: measured; elsewhere `image` is a smooth continuation

    @cached_property
    def lab(self) -> np.ndarray:
        """`silhouette.plate_lab` of the image."""
        return plate_lab(self.image)


def fit_plate(frame: Callable[[int], np.ndarray], person: Callable[[int], np.ndarray], count: int) -> Plate:
    """Median of the frames in which a pixel is clear of the speaker; its farthest frame where that is too few.

    `frame(i)` gives uint8 [H, W, 3] RGB, `person(i)` the selfie probability uint8 [H, W], 0 <= i < `count`, called in
    rising order, once each. Pixels never seen are filled smoothly. Memory does not grow with the clip's length.
    Raises DataError when the clip has no frames.
    """
    if count < 1:
        raise DataError("background plate: the clip has no frames; check that the video decodes")
    first = frame(0)
    size = min(first.shape[:2])
    samples = int(np.clip(MEMORY_BYTES // first.nbytes, MIN_CLEAR_SAMPLES, MAX_SAMPLES))
    picks = np.unique(np.linspace(0, count - 1, samples).round().astype(int))

    frames = np.empty((len(picks), *first.shape), np.uint8)
    usable = np.empty((len(picks), *first.shape[:2]), bool)
    farthest = np.zeros(first.shape[:2], np.float32)  # px
    farthest_colour = np.zeros_like(first)
    for k, i in enumerate(picks):
        frames[k] = first if i == 0 else frame(int(i))
        distance = _distance_to(main_person(person(int(i))))
        usable[k] = distance > CLEAR_PX * size / 512
        farthest_colour = cv2.copyTo(frames[k], cv2.compare(distance, farthest, cv2.CMP_GT), farthest_colour)
        farthest = cv2.max(farthest, distance)

    enough = usable.sum(0) >= MIN_CLEAR_SAMPLES
    seen = enough | (farthest > NEAR_PX * size / 512)
    image = np.where(enough[..., None], masked_median(frames, usable), farthest_colour)
    if not seen.all():
        image = np.where(seen[..., None], image, push_pull_fill(image, seen).round().astype(np.uint8))
    return Plate(image.astype(np.uint8), seen)


def masked_median(frames: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Lower median over K of the usable entries of uint8 frames [K, H, W, C]; 255 where there are none.

    K is at most 255. Bisection over the 256 grey levels: eight passes of byte comparisons, no sorting. Overwrites
    unusable entries.
    """
    for picture, clear in zip(frames, usable, strict=True):
        np.copyto(picture, 255, where=~clear[..., None])  # never below any threshold that the search asks about
    wanted = (usable.sum(0).astype(np.int16)[..., None] + 1) // 2
    low = np.zeros(frames.shape[1:], np.int16)
    high = np.full(frames.shape[1:], 255, np.int16)
    for _ in range(8):
        middle = (low + high) // 2
        threshold = middle.astype(np.uint8)
        below = np.zeros(frames.shape[1:], np.uint8)  # K is at most MAX_SAMPLES
        for picture in frames:
            below += np.less_equal(picture, threshold).view(np.uint8)
        reached = (below >= wanted) & (wanted > 0)
        high = np.where(reached, middle, high)
        low = np.where(reached, low, np.minimum(middle + 1, high))
    return high.astype(np.uint8)


def _distance_to(mask: np.ndarray) -> np.ndarray:
    """Distance in px from each pixel to the nearest one of `mask`, float32; as far as the picture is wide if empty."""
    if not mask.any():
        return np.full(mask.shape, float(sum(mask.shape)), np.float32)
    return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
