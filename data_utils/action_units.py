"""Action unit intensities, 0..5 as OpenFace has them, from the geometry of the landmarks (notes: preprocessing, 7).

AU45 (blink) and AU25 (lips apart) can be relied on; AU01, AU02, AU04 (brows) fairly; AU05 and AU07 are weak, and AU06
is a guess. Gains are set for a plausible range, not calibrated against OpenFace: pre-training and adaptation must use
the same extractor.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from instag.data_utils.face_points import (
    LEFT_EYE_INNER,
    LEFT_EYE_OUTER,
    LEFT_LID_PAIRS,
    LOWER_INNER_LIP,
    RIGHT_EYE_INNER,
    RIGHT_EYE_OUTER,
    RIGHT_LID_PAIRS,
    UPPER_INNER_LIP,
)
from instag.files import atomic_path

ACTION_UNITS = ("AU01", "AU02", "AU04", "AU05", "AU06", "AU07", "AU25", "AU45")
STRONGEST = 5.0
OPEN_EYE_PERCENTILE = 75.0  # of the aspect ratio: the open eye, ratio 1
BLINK_RATIO, BLINK_MARGIN = 0.6, 4  # frames within so many of a smaller ratio do not count as neutral
SHUT_RATIO = 0.55  # below it the lids say nothing about squinting

INNER_BROWS, INNER_EYES = (55, 107, 285, 336), (RIGHT_EYE_INNER, LEFT_EYE_INNER)
OUTER_BROWS, OUTER_EYES = (70, 63, 300, 293), (RIGHT_EYE_OUTER, LEFT_EYE_OUTER)
BROW_GAP = (55, 285)
RIGHT_LOWER_LID, LEFT_LOWER_LID = (145, 153, 144), (374, 380, 373)
CHEEKS = (50, 205, 280, 425)


def frontal_points(landmarks: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Landmarks turned into the head frame and divided by the distance of the outer eye corners.

    landmarks: [T, >= 468, 3] pixels; rotation: [T, 3, 3] head to camera. Returns [T, V, 3], x right, y down.
    """
    points = landmarks.astype(np.float64) @ rotation
    width = np.linalg.norm(points[:, RIGHT_EYE_OUTER] - points[:, LEFT_EYE_OUTER], axis=1)
    return points / width[:, None, None]


def eye_openness(points: np.ndarray) -> np.ndarray:
    """Eye aspect ratio of both eyes over that of the open eye, [T]. points: [T, V, 3]."""

    def aspect(pairs: tuple[tuple[int, int], ...], outer: int, inner: int) -> np.ndarray:
        gaps = [np.linalg.norm(points[:, upper] - points[:, lower], axis=1) for upper, lower in pairs]
        return np.mean(gaps, axis=0) / np.linalg.norm(points[:, outer] - points[:, inner], axis=1)

    right = aspect(RIGHT_LID_PAIRS, RIGHT_EYE_OUTER, RIGHT_EYE_INNER)
    left = aspect(LEFT_LID_PAIRS, LEFT_EYE_OUTER, LEFT_EYE_INNER)
    both = 0.5 * (right + left)
    return both / np.percentile(both, OPEN_EYE_PERCENTILE)


def action_units(landmarks: np.ndarray, rotation: np.ndarray) -> dict[str, np.ndarray]:
    """Intensities of `ACTION_UNITS` in each frame, each float64 [T] in 0..5.

    Neutral is a percentile over the clip's frames without a blink.

    Args:
        landmarks: [T, >= 468, 3] pixels, z in the same scale.
        rotation: [T, 3, 3] head to camera.
    """
    points = frontal_points(landmarks, rotation)
    openness = eye_openness(points)
    near_blink = np.convolve(openness < BLINK_RATIO, np.ones(2 * BLINK_MARGIN + 1))[BLINK_MARGIN:-BLINK_MARGIN]
    neutral = near_blink < 0.5
    if not neutral.any():
        neutral[:] = True

    def height(upper: tuple[int, ...], lower: tuple[int, ...]) -> np.ndarray:
        return points[:, lower, 1].mean(1) - points[:, upper, 1].mean(1)

    def above(values: np.ndarray, percentile: float) -> np.ndarray:
        return values - np.percentile(values[neutral], percentile)

    inner, outer = height(INNER_BROWS, INNER_EYES), height(OUTER_BROWS, OUTER_EYES)
    gap = np.linalg.norm(points[:, BROW_GAP[0]] - points[:, BROW_GAP[1]], axis=1)
    right_lid = height(RIGHT_LOWER_LID, (RIGHT_EYE_OUTER, RIGHT_EYE_INNER))
    left_lid = height(LEFT_LOWER_LID, (LEFT_EYE_OUTER, LEFT_EYE_INNER))
    cheek = height(CHEEKS, INNER_EYES + OUTER_EYES)
    lips = height((UPPER_INNER_LIP,), (LOWER_INNER_LIP,))  # not the distance: the network's depth is the noisy part
    raw = {
        "AU01": above(inner, 40) / 0.020,
        "AU02": above(outer, 40) / 0.018,
        "AU04": -0.6 * (above(inner, 60) + above(gap, 60)) / 0.012,
        "AU05": (openness - 1.02) / 0.035,
        "AU06": above(cheek, 50) / 0.012,
        "AU07": above(0.5 * (right_lid + left_lid), 50) / 0.006 * (openness > SHUT_RATIO),
        "AU25": (lips - 0.006) / 0.030,
        "AU45": 3.0 * (0.85 - openness) / 0.55,
    }
    return {name: np.clip(raw[name], 0.0, STRONGEST) for name in ACTION_UNITS}


def write_csv(path: Path, units: Mapping[str, np.ndarray], found: np.ndarray, fps: float) -> None:
    """au.csv as OpenFace writes it: names after a comma have a leading space, ` AU01_r` is an intensity in 0..5.

    Columns that we do not measure are absent. Atomic.

    Args:
        path: the file.
        units: intensities [T] by name.
        found: [T] whether the face was found, the column ` success`.
        fps: frames a second.
    """
    titles = ["frame", " timestamp", " success", *(f" {name}_r" for name in units)]
    with atomic_path(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(titles)
        for i, success in enumerate(found):
            intensities = [f" {values[i]:.3f}" for values in units.values()]
            writer.writerow([str(i + 1), f" {i / fps:.3f}", f" {int(success)}", *intensities])
