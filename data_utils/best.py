"""The best few seconds of a clip: those that show and say most of what a talking head must learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from instag.data.layout import FPS
from instag.data_utils.face_points import (
    CHIN,
    FOREHEAD_TOP,
    LEFT_EYE_INNER,
    LEFT_EYE_OUTER,
    LEFT_LID_PAIRS,
    NOSE_BRIDGE,
    RIGHT_EYE_INNER,
    RIGHT_EYE_OUTER,
    RIGHT_LID_PAIRS,
)
from instag.data_utils.lag import lip_opening
from instag.data_utils.shots import Shot
from instag.data_utils.survey import Survey, runs

HOP = 5  # frames between two windows that are compared
LEFT_MOUTH, RIGHT_MOUTH, NOSE_TIP = 291, 61, 4
SHAPE_BINS = 6  # of the mouth's opening, and of its width, over the range that the clip shows
LEAST_VISIT = 3  # frames in a bin for the shape to count as shown
PHONE_SECONDS = 0.12  # of posterior mass for a phone to count as said
NO_PHONES = ("SIL", "+NSN+", "+SPN+")
SHUT = 0.03  # lip opening over the eyes' distance; the lips touch
ENOUGH_SHUT = 0.12  # of the frames; a talking mouth is shut for about that
ENOUGH_BLINKS_PER_SECOND = 0.2
BLINK_RATIO = 0.55  # of the usual eye opening
POSE_RANGE = (5.0, 95.0)  # percentiles
ENOUGH_POSE = 0.12  # range of nose to eyes over the eyes' distance; about 10 degrees
# What counts for how much; each part runs from 0 to 1 and the first two are what a few seconds lack most.
WEIGHTS = {"mouth shapes": 3.0, "phones": 3.0, "head turns": 1.0, "blinks": 1.0, "shut mouth": 1.0, "sharpness": 1.0}
REPEATED_COST, LOST_COST = 4.0, 6.0  # for each part of the window that is frozen or without a face


@dataclass(frozen=True)
class Window:
    """Attributes:
    shot: frames. score: weighted mean of `parts`, 0..1, less what is frozen or lost.
    parts: by the names of `WEIGHTS`, each 0..1. counts: the figures behind them, for people.
    """

    shot: Shot
    score: float
    parts: Mapping[str, float]
    counts: Mapping[str, float]


class Signals:
    """What each frame shows, [T] each, computed once for all windows."""

    def __init__(self, survey: Survey, posteriors: np.ndarray, phones: tuple[str, ...]) -> None:
        points = survey.landmarks.astype(np.float64)
        eyes = np.linalg.norm(points[:, RIGHT_EYE_OUTER] - points[:, LEFT_EYE_OUTER], axis=1)
        self.opening = lip_opening(points)
        self.width = np.linalg.norm(points[:, LEFT_MOUTH] - points[:, RIGHT_MOUTH], axis=1) / eyes
        middle = 0.5 * (points[:, RIGHT_EYE_OUTER] + points[:, LEFT_EYE_OUTER])
        self.turn = (points[:, NOSE_TIP, 0] - middle[:, 0]) / eyes  # grows with yaw
        face = np.linalg.norm(points[:, CHIN] - points[:, FOREHEAD_TOP], axis=1)
        self.nod = (points[:, NOSE_TIP, 1] - points[:, NOSE_BRIDGE, 1]) / face  # grows with pitch
        self.shut_eye = _blinks(points)
        self.sharpness, self.repeated, self.found = survey.sharpness, survey.repeated, survey.found
        spoken = [k for k, phone in enumerate(phones) if phone not in NO_PHONES]
        self.posteriors = posteriors[:, spoken]
        self.opening_bins, self.width_bins = _bins(self.opening), _bins(self.width)
        self.sharp = max(float(np.percentile(self.sharpness, 90)), 1e-6)


def _blinks(points: np.ndarray) -> np.ndarray:
    def aspect(pairs: tuple[tuple[int, int], ...], corners: tuple[int, int]) -> np.ndarray:
        high = sum(np.linalg.norm(points[:, a] - points[:, b], axis=1) for a, b in pairs) / len(pairs)
        return high / np.linalg.norm(points[:, corners[0]] - points[:, corners[1]], axis=1)

    ratio = aspect(RIGHT_LID_PAIRS, (RIGHT_EYE_OUTER, RIGHT_EYE_INNER))
    ratio += aspect(LEFT_LID_PAIRS, (LEFT_EYE_OUTER, LEFT_EYE_INNER))
    return ratio < BLINK_RATIO * np.nanpercentile(ratio, 75)


def _bins(values: np.ndarray) -> np.ndarray:
    """Bin 0 .. SHAPE_BINS - 1 of each frame, int [T]; -1 where unknown."""
    low, high = np.nanpercentile(values, [2, 98])
    bins = np.clip((np.nan_to_num(values) - low) / max(high - low, 1e-9) * SHAPE_BINS, 0, SHAPE_BINS - 1e-6)
    return np.where(np.isfinite(values), bins.astype(int), -1)


def rate_window(signals: Signals, shot: Shot) -> Window:
    """How informative the frames of `shot` are."""
    at = slice(shot.start, shot.stop)
    known = signals.found[at]
    cells = (signals.opening_bins[at] * SHAPE_BINS + signals.width_bins[at])[known]
    shapes = int((np.bincount(cells, minlength=SHAPE_BINS**2) >= LEAST_VISIT).sum())
    every = (signals.opening_bins * SHAPE_BINS + signals.width_bins)[signals.found]
    possible = int((np.bincount(every, minlength=SHAPE_BINS**2) >= LEAST_VISIT).sum())
    said = int((signals.posteriors[at].sum(0) / FPS >= PHONE_SECONDS).sum())
    blinks = sum(1 for _ in runs(signals.shut_eye[at]))
    shut = float(np.mean(signals.opening[at][known] < SHUT)) if known.any() else 0.0
    turns = [np.ptp(np.nanpercentile(values[at], POSE_RANGE)) for values in (signals.turn, signals.nod) if known.any()]
    parts = {
        "mouth shapes": shapes / max(possible, 1),
        "phones": said / signals.posteriors.shape[1],
        "head turns": float(np.mean(np.minimum(turns, ENOUGH_POSE))) / ENOUGH_POSE if turns else 0.0,
        "blinks": min(blinks / (ENOUGH_BLINKS_PER_SECOND * shot.seconds), 1.0),
        "shut mouth": min(shut / ENOUGH_SHUT, 1.0),
        "sharpness": min(float(np.median(signals.sharpness[at])) / signals.sharp, 1.0),
    }
    score = sum(WEIGHTS[name] * value for name, value in parts.items()) / sum(WEIGHTS.values())
    score -= REPEATED_COST * float(signals.repeated[at].mean()) + LOST_COST * float((~known).mean())
    return Window(shot, score, parts, {"mouth shapes": shapes, "phones": said, "blinks": blinks, "shut mouth": shut})


def best_window(signals: Signals, shots: list[Shot], seconds: float) -> tuple[Window, Window]:
    """The best window of so many seconds inside one of the shots, and the first one, to compare with.

    A shot that is shorter counts as a whole, where none is long enough; of equal windows the first wins.
    """
    length = round(seconds * FPS)
    long_enough = [shot for shot in shots if len(shot) >= length]
    spans = [
        Shot(start, start + length) for shot in long_enough for start in range(shot.start, shot.stop - length + 1, HOP)
    ]
    windows = [rate_window(signals, span) for span in spans or [max(shots, key=len)]]
    return max(windows, key=lambda window: window.score), windows[0]


def explain(best: Window, first: Window) -> str:
    """One sentence: what is taken, and why rather than the first seconds."""

    def told(window: Window) -> str:
        n = window.counts
        shut = f"mouth shut {100 * n['shut mouth']:.0f} %"
        return f"{n['mouth shapes']} mouth shapes, {n['phones']} phones, {n['blinks']} blinks, {shut}"

    span = f"seconds {best.shot.start / FPS:.1f}-{best.shot.stop / FPS:.1f} taken: {told(best)}"
    if best.shot == first.shot:
        return span
    rest = f"the first {first.shot.seconds:.0f} s without a cut: {told(first)}, score {first.score:.2f}"
    return f"{span}, score {best.score:.2f}; {rest}"
