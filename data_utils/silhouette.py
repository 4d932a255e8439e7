"""The speaker's silhouette: which of the selfie network's pixels are the speaker, and where exactly the edge runs."""

from __future__ import annotations

import cv2
import numpy as np

from instag.data_utils.image_ops import box, component_filter, guided_filter, luminance, scaled_px, touched

PERSON_THRESHOLD = 0.5  # of the selfie probability: what counts as the speaker
# Lengths at 512 px.
BAND_PX = 14  # only this far from the selfie mask's edge may the silhouette move
SELFIE_WEIGHT = 0.35  # of the selfie log-odds where the plate is known
PLATE_DISTANCE = 14.0  # weighted LAB difference to the plate at which person and background are equally likely
PLATE_SOFTNESS = 3.0  # LAB units per unit of log-odds
PLATE_LOG_ODDS = 4.0  # the plate's word is bounded by this


def main_person(person: np.ndarray) -> np.ndarray:
    """The speaker in a selfie probability (uint8 [H, W]), bool: the largest blob and blobs that nearly touch it.

    Flags, screens and people behind the speaker often raise the probability too; they belong to the background.
    """
    mask = person > 255 * PERSON_THRESHOLD
    gap = cv2.dilate(mask.astype(np.uint8), box(scaled_px(2, len(person)))) > 0

    def largest(components: np.ndarray, areas: np.ndarray) -> np.ndarray:
        return touched(components, components == 1 + np.argmax(areas[1:]), len(areas))

    return mask & ~component_filter(gap, largest)


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
        decided = ~core & ~outside & seen
        difference = _plate_difference(frame, plate, decided)
        selfie = np.log((alpha[decided] + 0.02) / (1.02 - alpha[decided]))
        by_plate = np.clip((difference - PLATE_DISTANCE) / PLATE_SOFTNESS, -PLATE_LOG_ODDS, PLATE_LOG_ODDS)
        alpha[decided] = 1 / (1 + np.exp(-SELFIE_WEIGHT * selfie - by_plate))
    alpha = np.clip(guided_filter(alpha, guide, scaled_px(3, size), 5e-5), 0, 1)
    alpha[core] = 1
    alpha[outside] = 0
    return alpha


def _plate_difference(frame: np.ndarray, plate: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Colour difference in LAB units of the pixels in `where`, lightness weighing less (shadows), float32 [K]."""
    window = (3, 3)  # against sensor and codec noise
    a, b = (cv2.blur(cv2.cvtColor(x, cv2.COLOR_RGB2LAB), window)[where].astype(np.float32) for x in (frame, plate))
    difference = a - b
    return np.sqrt((difference * difference) @ np.array([0.5, 1.5, 1.5], np.float32))
