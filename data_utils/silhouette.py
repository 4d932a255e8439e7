"""The speaker's silhouette: which of the selfie network's pixels are the speaker, and where exactly the edge runs."""

from __future__ import annotations

import cv2
import numpy as np

from instag.data_utils.image_ops import box, coarse_component_filter, guided_filter, luminance, scaled_px, touched

PERSON_THRESHOLD = 0.5  # of the selfie probability: what counts as the speaker
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
    joined = cv2.dilate(mask.astype(np.uint8), box(scaled_px(2, len(person)))) > 0

    def largest(components: np.ndarray, areas: np.ndarray) -> np.ndarray:
        return touched(components, components == 1 + np.argmax(areas[1:]), len(areas))

    return mask & ~coarse_component_filter(joined, largest)


def refine_person(
    frame: np.ndarray,
    person: np.ndarray,
    plate: np.ndarray | None,
    seen: np.ndarray | None,
) -> np.ndarray:
    """How much of each pixel is the speaker, float32 [H, W] in [0, 1].

    `frame` uint8 [H, W, 3] RGB; `person` selfie probability uint8 [H, W]; `plate` uint8 [H, W, 3] with `seen` bool
    [H, W], or None for both. Within a band round the selfie mask's edge, colour decides: by the difference from the
    plate where that is known, else by following the picture's edges.
    """
    size = len(frame)
    guide = luminance(frame)
    main = main_person(person)
    near_main = cv2.dilate(main.astype(np.uint8), box(scaled_px(BAND_PX, size))) > 0
    probability = np.where(near_main, person, 0).astype(np.float32) / 255
    alpha = np.clip(guided_filter(probability, guide, scaled_px(6, size), 1e-4), 0, 1)
    half_band = scaled_px(BAND_PX / 2, size)
    core = cv2.erode((probability > 0.9).astype(np.uint8), box(half_band)) > 0
    outside = cv2.dilate((probability > 0.1).astype(np.uint8), box(half_band)) == 0
    if plate is not None and seen is not None:
        decided = np.nonzero(~core & ~outside & seen)
        selfie = np.log((alpha[decided] + 0.02) / (1.02 - alpha[decided]))
        by_plate = _plate_log_odds(frame, plate, core, decided)
        alpha[decided] = 1 / (1 + np.exp(-SELFIE_WEIGHT * selfie - by_plate))
    alpha = np.clip(guided_filter(alpha, guide, scaled_px(3, size), 5e-5), 0, 1)
    alpha[core] = 1
    alpha[outside] = 0
    return alpha


def _plate_log_odds(
    frame: np.ndarray, plate: np.ndarray, core: np.ndarray, at: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Log-odds that a pixel is the person by its colour, float32 [K] for the K pixels `at` (rows, columns).

    It must differ from the plate and, where the person nearby differs much, be nearer to the person than to the plate:
    the mixed pixels of an edge differ from both.
    """
    window = (3, 3)  # against sensor and codec noise
    here, behind = (cv2.blur(cv2.cvtColor(x, cv2.COLOR_RGB2LAB), window)[at].astype(np.float32) for x in (frame, plate))
    difference = (here - behind) * LAB_WEIGHTS
    distance = np.sqrt(np.einsum("kc,kc->k", difference, difference))
    odds = (distance - PLATE_DISTANCE) / PLATE_SOFTNESS

    person, known = _colour_nearby(frame, core, at)
    contrast = (person - behind) * LAB_WEIGHTS
    contrast_squared = np.einsum("kc,kc->k", contrast, contrast)
    share = np.einsum("kc,kc->k", difference, contrast) / np.maximum(contrast_squared, 1)
    telling = known & (contrast_squared > CONTRAST**2)
    odds = np.where(telling, np.minimum(odds, (share - 0.5) * SHARE_SLOPE), odds)
    return np.clip(odds, -PLATE_LOG_ODDS, PLATE_LOG_ODDS)


def _colour_nearby(
    frame: np.ndarray, core: np.ndarray, at: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean LAB colour of the person's sure pixels round the pixels `at`, float32 [K, 3], and whether there are any."""
    size = len(frame)
    step = max(1, size // _COARSE_SIZE)
    coarse = cv2.resize(frame, (size // step, size // step), interpolation=cv2.INTER_AREA)
    weight = cv2.resize(core.astype(np.float32), coarse.shape[1::-1], interpolation=cv2.INTER_AREA)[..., None]
    lab = cv2.cvtColor(coarse, cv2.COLOR_RGB2LAB).astype(np.float32)
    side = 2 * scaled_px(NEARBY_PX / step, size) + 1
    total = cv2.blur(np.dstack([lab * weight, weight]), (side, side))
    row, column = (np.minimum(index // step, len(coarse) - 1) for index in at)
    nearby = total[row, column]
    return nearby[:, :3] / np.maximum(nearby[:, 3:], 1e-3), nearby[:, 3] > _LEAST_SHARE
