"""Do lips and sound go together? How far the sound lies from the lips, and how sure that is.

What the sound says about the mouth: each phone's usual opening (a table written from phonetics: wide for AA, shut for
P, B, M), weighted by the phone posteriors of `phone-mel`. What the picture says: the distance of the inner lips. The
lag is where the two go together best. No network, nothing learnt from clips.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from instag.data.layout import FPS
from instag.data_utils.face_points import LEFT_EYE_OUTER, LOWER_INNER_LIP, RIGHT_EYE_OUTER, UPPER_INNER_LIP

# How far the lips are usually apart, 0 shut .. 1 wide; phones of CMU's set. All that is no phone counts as silence.
PHONE_OPENING = {
    "AA": 1.0, "AE": 0.95, "AH": 0.65, "AO": 0.8, "AW": 0.9, "AY": 0.95, "EH": 0.75, "ER": 0.45, "EY": 0.65,
    "IH": 0.5, "IY": 0.4, "OW": 0.55, "OY": 0.6, "UH": 0.4, "UW": 0.25, "HH": 0.6, "Y": 0.4, "W": 0.15,
    "B": 0.0, "P": 0.0, "M": 0.0, "F": 0.1, "V": 0.1, "TH": 0.3, "DH": 0.3, "T": 0.3, "D": 0.3, "N": 0.35,
    "S": 0.25, "Z": 0.25, "SH": 0.3, "ZH": 0.3, "CH": 0.3, "JH": 0.3, "L": 0.45, "R": 0.35,
    "K": 0.45, "G": 0.45, "NG": 0.45,
}  # fmt: skip
SILENT_OPENING = 0.1
LARGEST_LAG = 20  # frames looked at in either direction
SMOOTH_FRAMES, DRIFT_FRAMES = 1.0, 6.0  # standard deviations: only motion between the two is compared
OPENING_FLOOR = 1e-3  # under the square root that evens out small and large openings
NEAR = 5  # frames round the best lag that belong to its peak
SHORTEST = 2 * FPS  # frames; with fewer nothing can be said
# A lag is believed where the correlation is at least this high, and by so much above the best one elsewhere.
SURE_CORRELATION, SURE_MARGIN = 0.25, 0.10
NATURAL_LEAD = 1  # frames: lips take their place before the sound (median of 19 clips against the reference)
IN_SYNC = 2  # frames: within the error of the measurement (clips with a clear peak: at most 1 from the reference)


@dataclass(frozen=True)
class Lag:
    """Attributes:
    frames: the lips are late by so many frames of 25 a second; negative: they are early.
    correlation: of both openings at that lag.
    margin: by how much it is above the best one at other lags.
    """

    frames: int
    correlation: float
    margin: float

    @property
    def sure(self) -> bool:
        """Whether the figure can be believed."""
        return self.correlation >= SURE_CORRELATION and self.margin >= SURE_MARGIN

    @property
    def off(self) -> bool:
        """Whether sound and lips are surely apart."""
        return self.sure and abs(self.frames) > IN_SYNC


def lip_opening(landmarks: np.ndarray) -> np.ndarray:
    """Distance of the inner lips over that of the outer eye corners, [T], of landmarks [T, 478, 3]; NaN stays NaN."""
    lips = np.linalg.norm(landmarks[:, UPPER_INNER_LIP] - landmarks[:, LOWER_INNER_LIP], axis=1)
    return lips / np.linalg.norm(landmarks[:, RIGHT_EYE_OUTER] - landmarks[:, LEFT_EYE_OUTER], axis=1)


def heard_opening(posteriors: np.ndarray, phones: tuple[str, ...]) -> np.ndarray:
    """What the sound makes of the mouth, [T]: posteriors [T, P] of the phones."""
    return posteriors @ np.array([PHONE_OPENING.get(phone, SILENT_OPENING) for phone in phones])


def _motion(values: np.ndarray) -> np.ndarray:
    return gaussian_filter1d(values, SMOOTH_FRAMES) - gaussian_filter1d(values, DRIFT_FRAMES)


def measure_lag(opening: np.ndarray, heard: np.ndarray) -> Lag:
    """How late the lips are.

    Args:
        opening: [T] of the lips, 25 fps; not-a-number where unknown.
        heard: [T] what the sound makes of it.
    """
    if np.isfinite(opening).sum() < SHORTEST or np.std(heard) == 0:
        return Lag(0, 0.0, 0.0)
    lags, r = lag_correlations(opening, heard)
    best = int(r.argmax())
    elsewhere = np.abs(lags - lags[best]) > NEAR
    return Lag(int(lags[best]), float(r[best]), float(r[best] - r[elsewhere].max()))


def lag_correlations(opening: np.ndarray, heard: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How well lips [T] (some of them known) and sound [T] go together at each lag: lags in frames and r, [L] each."""
    known = np.isfinite(opening)
    frames = np.arange(len(opening))
    opening = np.interp(frames, frames[known], opening[known])
    seen = _motion(np.sqrt(np.maximum(opening, 0) + OPENING_FLOOR))
    heard = _motion(heard)
    most = min(LARGEST_LAG, len(seen) // 4)
    shifts = np.arange(-most, most + 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.nan_to_num([_correlation(heard, seen, int(shift)) for shift in shifts])
    return shifts + NATURAL_LEAD, r


def _correlation(heard: np.ndarray, seen: np.ndarray, lag: int) -> float:
    """Of the sound with lips that come `lag` frames later."""
    count = len(seen) - abs(lag)
    return float(np.corrcoef(heard[max(0, -lag) :][:count], seen[max(0, lag) :][:count])[0, 1])
