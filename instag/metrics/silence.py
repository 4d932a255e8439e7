"""Does the mouth rest when the voice does? Opening in speech against opening in pauses, by the sound's energy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from instag.data.layout import FPS

LOUD_PERCENTILE = 95  # of the frames' levels: the voice
SPEECH_BELOW_LOUD = 25.0  # dB: at least this loud is speech
PAUSE_BELOW_LOUD = 35.0  # dB: at most this loud is a pause
SHORTEST_PAUSE = 8  # frames (0.32 s): shorter holes are closures within words
PAUSE_MARGIN = 3  # frames cut from both ends of a pause: lips close late and open early
RANGE_PERCENTILES = (5, 95)
FAINTEST = 1e-5  # of full scale (-100 dB): digital silence has a level too


@dataclass(frozen=True)
class SilenceTest:
    """Range (5th to 95th percentile) of the opening in both parts, and their numbers of frames.

    `speech` and `pause` are None where the sound has no such frames.
    """

    speech: float | None
    pause: float | None
    speech_frames: int
    pause_frames: int

    @property
    def ratio(self) -> float | None:
        """Range in speech over range in pauses; None where one is missing or the mouth does not move in pauses."""
        return self.speech / self.pause if self.speech is not None and self.pause else None


def frame_levels(samples: np.ndarray, rate: int, frames: int) -> np.ndarray:
    """Level of the sound in each frame at 25 fps, dB of full scale, [frames]; silence after the sound's end."""
    edges = np.round(np.arange(frames + 1) * rate / FPS).astype(int)
    padded = np.pad(samples.astype(np.float64), (0, max(edges[-1] - len(samples), 0)))
    power = np.array([np.mean(padded[a:b] ** 2) for a, b in zip(edges[:-1], edges[1:], strict=True)])
    return 10 * np.log10(power + FAINTEST**2)


def speech_and_pauses(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Masks [T] of speech and of the inner part of pauses, from `frame_levels`."""
    loud = np.percentile(levels, LOUD_PERCENTILE)
    quiet = levels <= loud - PAUSE_BELOW_LOUD
    pauses = np.zeros(len(levels), bool)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], quiet.astype(np.int8), [0]])))
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        if stop - start >= SHORTEST_PAUSE:
            pauses[start + PAUSE_MARGIN : stop - PAUSE_MARGIN] = True
    return levels >= loud - SPEECH_BELOW_LOUD, pauses


def silence_test(opening: np.ndarray, samples: np.ndarray, rate: int) -> SilenceTest:
    """Compare the opening [T] of a rendered mouth in speech with that in pauses of the sound that drove it."""
    speech, pauses = speech_and_pauses(frame_levels(samples, rate, len(opening)))
    ranges = [opening_range(opening[part]) if part.any() else None for part in (speech, pauses)]
    return SilenceTest(*ranges, int(speech.sum()), int(pauses.sum()))


def opening_range(values: np.ndarray) -> float:
    """From the 5th to the 95th percentile of openings [n], n > 0."""
    low, high = np.percentile(values, RANGE_PERCENTILES)
    return float(high - low)
