"""The speaker's silhouette: which of the selfie network's pixels are the speaker, and where exactly the edge runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from instag.data_utils.guided import guided_filter
from instag.data_utils.image_ops import box, scaled_px
from instag.data_utils.pieces import largest_piece

if TYPE_CHECKING:
    from instag.data_utils.background import Plate

PERSON_THRESHOLD = 0.5  # of the selfie probability: what counts as the speaker
SURE, UNLIKELY = int(0.9 * 255), int(0.1 * 255)  # of it: above is sure, up to here hardly the speaker
# Lengths at 512 px.
BAND_PX = 14  # only this far from the selfie mask's edge may the silhouette move
SELFIE_WEIGHT = 0.35  # of the selfie log-odds where the plate is known
PLATE_DISTANCE = 14.0  # weighted LAB difference to the plate at which person and background are equally likely
PLATE_SOFTNESS = 3.0  # LAB units per unit of log-odds
PLATE_LOG_ODDS = 4.0  # the plate's word is bounded by this
LAB_WEIGHTS = np.sqrt(np.array([0.5, 1.5, 1.5], np.float32))  # lightness weighs less: shadows
NEARBY_PX = 24  # the person's own colour is taken this far round
CONTRAST = 40.0  # weighted LAB difference of person and plate from which mixed colours can be told
_COARSE_SIZE, _LEAST_SHARE = 128, 0.02  # px at which that mean is taken; of sure pixels in it
SHARE_SLOPE = 8.0  # log-odds per unit of the person's share in a mixed colour


def main_person(person: np.ndarray) -> np.ndarray:
    """The speaker in a selfie probability (uint8 [H, W]), bool: the largest blob and blobs that nearly touch it.

    Flags, screens and people behind the speaker often raise the probability too; they belong to the background.
    """
    mask = person > 255 * PERSON_THRESHOLD
    joined = cv2.dilate(mask.view(np.uint8), box(scaled_px(2, len(person))))
    largest = largest_piece(joined[::2, ::2].view(bool))  # the network's own masks are no finer
    return mask & cv2.resize(largest.view(np.uint8), mask.shape[::-1], interpolation=cv2.INTER_NEAREST).view(bool)


def refine_person(frame: np.ndarray, person: np.ndarray, plate: Plate | None) -> np.ndarray:
    """How much of each pixel is the speaker, float32 [H, W] in [0, 1].

    `frame` uint8 [H, W, 3] RGB; `person` selfie probability uint8 [H, W]; `plate` of the clip, if known. Within a band
    round the selfie mask's edge, colour decides: by the difference from the plate where that was seen, else by
    following the picture's edges.
    """
    size = len(frame)
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    near_main = cv2.dilate(main_person(person).view(np.uint8), box(scaled_px(BAND_PX, size)))
    person = cv2.copyTo(person, near_main)
    half_band = box(scaled_px(BAND_PX / 2, size))
    core = cv2.erode(cv2.threshold(person, SURE, 255, cv2.THRESH_BINARY)[1], half_band)
    inside = cv2.dilate(cv2.threshold(person, UNLIKELY, 255, cv2.THRESH_BINARY)[1], half_band)
    band = np.flatnonzero(inside > core)
    alpha = np.multiply(core, np.float32(1 / 255))
    in_band = np.take(guided_filter(person, grey, scaled_px(6, size), 1e-4), band)
    in_band = np.clip(in_band * np.float32(1 / 255), 0, 1)
    decided = () if plate is None else np.flatnonzero(np.take(plate.seen, band))
    if len(decided):
        selfie = np.log((in_band[decided] + 0.02) / (1.02 - in_band[decided]))
        odds = SELFIE_WEIGHT * selfie + _plate_log_odds(frame, plate, core, band[decided])
        in_band[decided] = 1 / (1 + np.exp(-odds))
    flat = alpha.reshape(-1)
    flat[band] = in_band
    flat[band] = np.clip(np.take(guided_filter(alpha, grey, scaled_px(3, size), 5e-5), band), 0, 1)
    return alpha


def _plate_log_odds(frame: np.ndarray, plate: Plate, core: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Log-odds that a pixel is the person by its colour, float32 [K] for the K pixels `at` (indices, row by row).

    It must differ from the plate and, where the person nearby differs much, be nearer to the person than to the plate:
    the mixed pixels of an edge differ from both. `core` uint8 [H, W]: 255 for the person's sure pixels.
    """
    here = _lab(np.take(smoothed(frame).reshape(-1, 3), at, axis=0)[None])[0]
    behind = np.take(plate.lab, at, axis=0)
    difference = here - behind
    odds = (np.sqrt(_dot(difference, difference)) - PLATE_DISTANCE) / PLATE_SOFTNESS

    person, known = _colour_nearby(frame, core, at)
    contrast = person - behind
    contrast_squared = _dot(contrast, contrast)
    share = _dot(difference, contrast) / np.maximum(contrast_squared, 1)
    telling = known & (contrast_squared > CONTRAST**2)
    odds = np.where(telling, np.minimum(odds, (share - 0.5) * SHARE_SLOPE), odds)
    return np.clip(odds, -PLATE_LOG_ODDS, PLATE_LOG_ODDS)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each two rows of [K, 3], [K]."""
    product = a * b
    return product[:, 0] + product[:, 1] + product[:, 2]


def smoothed(picture: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] with less noise of sensor and codec."""
    return cv2.blur(picture, (3, 3))


def plate_lab(picture: np.ndarray) -> np.ndarray:
    """What a plate (uint8 [H, W, 3] RGB) is compared by: weighted LAB of the smoothed picture, float32 [H * W, 3]."""
    return _lab(smoothed(picture)).reshape(-1, 3)


def _lab(picture: np.ndarray) -> np.ndarray:
    """RGB uint8 [H, W, 3] -> weighted LAB float32 [H, W, 3]."""
    return cv2.cvtColor(picture, cv2.COLOR_RGB2LAB) * LAB_WEIGHTS


def _colour_nearby(frame: np.ndarray, core: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean weighted LAB colour of the person's sure pixels (`core` uint8 [H, W], 0 or 255) round the pixels `at`,
    float32 [K, 3], and whether there are any."""
    size = len(frame)
    step = max(1, size // _COARSE_SIZE)
    side = size // step
    coarse, weight = (_shrunk(x, side) for x in (frame, core))
    weight = weight * np.float32(1 / 255)
    window = (2 * scaled_px(NEARBY_PX / step, size) + 1,) * 2
    total, share = cv2.blur(_lab(coarse) * weight[..., None], window), cv2.blur(weight, window)
    mean = total / np.maximum(share, 1e-3)[..., None]
    row, column = (np.minimum(index // step, side - 1) for index in np.divmod(at.astype(np.int32), np.int32(size)))
    cell = row * side + column
    return np.take(mean.reshape(-1, 3), cell, axis=0), np.take(share > _LEAST_SHARE, cell)


def _shrunk(picture: np.ndarray, side: int) -> np.ndarray:
    """A picture [H, W(, C)] averaged down to `side` px, by halves, for which OpenCV has a fast path."""
    while len(picture) > side:
        to = max(side, len(picture) // 2)
        picture = cv2.resize(picture, (to, to), interpolation=cv2.INTER_AREA)
    return picture
