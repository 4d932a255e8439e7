"""Which frame next: curricula as pure functions of the step, and a sampler that cannot hang.

A curriculum says how far each frame is from what a step wants; 0 means it fits (METHOD.md section 5, "Curricula").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Distance = np.ndarray  # [T] >= 0, 0 where the frame fits
Curriculum = Callable[[int], "Distance | None"]  # step -> distances, or None where any frame will do

NEUTRAL_LIPS = 0.2  # share of the lip-height range that counts as closed
MOUTH_PIXELS = 20  # at 512 px; frames with fewer cannot teach the mouth
MOUTH_PIXELS_SIZE = 512
JAW_CEILING = 95  # percentile at which AU25 is clipped


@dataclass(frozen=True)
class FrameStatistics:
    """Per-frame numbers that the curricula read, each [T].

    Attributes:
        inner_lip_height: px.
        blink: AU45 in [0, 2].
        jaw: AU25 intensity.
        mouth_pixels: area of the inner mouth, px.
        size: side of the image in which pixels are counted.
    """

    inner_lip_height: np.ndarray
    blink: np.ndarray
    jaw: np.ndarray
    mouth_pixels: np.ndarray
    size: int

    def __len__(self) -> int:
        return len(self.blink)


def outside(values: np.ndarray, low: float, high: float) -> Distance:
    """Distance of values to the interval [low, high]."""
    return np.maximum(np.maximum(low - values, values - high), 0.0)


@dataclass(frozen=True)
class FaceWindows:
    """Widths of the face's windows, as shares of their ranges."""

    lips: float
    """Half width round the wanted lip height, in units of the range of open lips."""
    blink: tuple[float, float]
    """Below and above the progress of training, in units of a full blink."""


ADAPTATION_WINDOWS = FaceWindows(lips=0.5, blink=(0.6, 0.4))
PRETRAINING_WINDOWS = FaceWindows(lips=0.2, blink=(0.15, 0.3))


def face_curriculum(
    statistics: FrameStatistics, steps: int, warmup: int, interval: int, windows: FaceWindows = ADAPTATION_WINDOWS
) -> Curriculum:
    """From closed to open lips during the warm-up, from open to closed eyes afterwards; every `interval`-th step."""
    lips = statistics.inner_lip_height.astype(np.float64)
    low, high = lips.min(), lips.max()
    closed = low + NEUTRAL_LIPS * (high - low)
    span = high - closed
    closed_eyes = np.clip(statistics.blink, 0.0, 2.0) / 2.0

    def distance(step: int) -> Distance | None:
        if step >= steps or step % interval:
            return None
        progress = step / steps
        if step < warmup:
            wanted = closed + progress * span
            return outside(lips, wanted - windows.lips * span, wanted + windows.lips * span)
        below, above = windows.blink
        return outside(closed_eyes, progress - below, progress + above)

    return distance


def mouth_curriculum(
    statistics: FrameStatistics, steps: int, warmup: int, interval: int, top_percentile: float = 75.0
) -> Curriculum:
    """Wide-open mouths during the warm-up, then slowly down to the lower quartile; never a mouth too small to see.

    Args:
        statistics: of the training frames.
        steps, warmup: of the stage.
        interval: after the warm-up, the steps between two that must fit.
        top_percentile: of AU25 that counts as open: 75 in adaptation, 100 in pre-training.
    """
    jaw = np.clip(statistics.jaw, 0.0, np.percentile(statistics.jaw, JAW_CEILING))
    top, bottom = np.percentile(jaw, top_percentile), np.percentile(jaw, 25)
    needed = MOUTH_PIXELS * (statistics.size / MOUTH_PIXELS_SIZE) ** 2
    # In units that no AU distance reaches: a frame without a mouth is worse than any with one.
    unseen = 10.0 * outside(statistics.mouth_pixels.astype(np.float64), needed, np.inf)

    def distance(step: int) -> Distance | None:
        if step >= steps:
            return None
        if step < warmup:
            return outside(jaw, top, np.inf) + unseen
        if step % interval:
            return unseen
        return outside(jaw, top - step / steps * (top - bottom), top) + unseen

    return distance


class FrameSampler:
    """Draws training frames without replacement, reshuffled when used up; re-draws what the curriculum refuses.

    The search is bounded: where none of one round's frames fits, the nearest one is taken. (The reference loops for
    ever there.)

    Args:
        indices: [M] frame numbers to draw from.
        curriculum: distances over those M frames, or None.
        generator: the stage's random numbers.
    """

    def __init__(self, indices: np.ndarray, curriculum: Curriculum | None, generator: np.random.Generator):
        self.indices = np.asarray(indices)
        self.curriculum = curriculum
        self.generator = generator
        self.bag: list[int] = []

    def next(self, step: int, count: int = 1) -> list[int]:
        """Frame numbers of a step, `count` of them."""
        distance = self.curriculum(step) if self.curriculum else None
        return [int(self.indices[self._draw(distance)]) for _ in range(count)]

    def _draw(self, distance: Distance | None) -> int:
        if distance is not None and not (distance == 0).any():
            return int(distance.argmin())
        while True:  # ends: some frame fits, and every frame comes up within two rounds
            if not self.bag:
                self.bag = self.generator.permutation(len(self.indices)).tolist()
            position = self.bag.pop()
            if distance is None or distance[position] == 0:
                return position

    def state(self) -> dict[str, Any]:
        """For a checkpoint; the generator's state is saved by its owner."""
        return {"bag": list(self.bag)}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.bag = list(state["bag"])
