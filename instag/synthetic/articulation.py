"""The fourteen numbers that move a face."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Articulation(NamedTuple):
    """Floats for one moment, or arrays [T] for a performance. All 0: a relaxed face, eyes open, lips just touching."""

    jaw: float | np.ndarray = 0.0  # rad, opening about the hinge; about 0.23 at full
    upper: float | np.ndarray = 0.0  # cm, raising of the upper lip
    lower: float | np.ndarray = 0.0  # cm, lowering of the lower lip
    wide: float | np.ndarray = 0.0  # 0..1, spreading of the mouth corners
    round: float | np.ndarray = 0.0  # 0..1, rounding and protrusion
    seal: float | np.ndarray = 0.0  # 0..1, closes the actual gap between the lips, whatever the jaw does
    tuck: float | np.ndarray = 0.0  # 0..1, lower lip to the upper teeth (/f/)
    tongue: float | np.ndarray = 0.0  # 0..1, raising of the tip of the tongue
    blink_left: float | np.ndarray = 0.0  # 0..1
    blink_right: float | np.ndarray = 0.0  # 0..1
    brow: float | np.ndarray = 0.0  # cm, raising of the whole brow
    brow_inner: float | np.ndarray = 0.0  # cm, raising of its inner end
    gaze_x: float | np.ndarray = 0.0  # rad, towards the subject's left
    gaze_y: float | np.ndarray = 0.0  # rad, upwards

    def at(self, t: int) -> Articulation:
        """Return the articulation of frame t of a performance."""
        return Articulation(*(float(values[t]) for values in self))
