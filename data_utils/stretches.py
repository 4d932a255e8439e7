"""Landmarks of a clip by several networks at once: each follows the speaker through stretches of fixed length."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np

from instag.data.layout import FPS
from instag.data_utils.faces import Focus, Follower
from instag.data_utils.landmarks import FaceTracker
from instag.data_utils.workers import Crew

T = TypeVar("T")

STRETCH = 64  # frames that one network follows on end
WARM_UP = 6  # frames before them that it looks at first: after 3 it is .5 px away from one that went on, then .1
MOST_TRACKERS = 3  # the decoder keeps up with hardly more; a stretch takes .2 GB at 1280 x 720


def follow_in_stretches(
    frames: Iterable[np.ndarray],
    focus: Focus,
    trackers: int,
    measure: Callable[[np.ndarray, np.ndarray | None], T],
) -> Iterator[tuple[np.ndarray | None, T]]:
    """Landmarks of the speaker in each frame, uint8 [H, W, 3], and what `measure(frame, landmarks)` says of it.

    How many networks work at once changes nothing: each begins a stretch anew, with a look at the frames before it. No
    more than `trackers` + 1 stretches are held.
    """
    with Crew(FaceTracker, min(trackers, MOST_TRACKERS)) as crew:
        for part in crew.map(_follow, ((*stretch, focus, measure) for stretch in _stretches(frames))):
            yield from part


def _stretches(frames: Iterable[np.ndarray]) -> Iterator[tuple[int, list[np.ndarray], list[np.ndarray]]]:
    """Number of each stretch's first frame, the frames before it, its own."""
    start, before, stretch = 0, [], []
    for frame in frames:
        stretch.append(frame)
        if len(stretch) == STRETCH:
            yield start, before, stretch
            start, before, stretch = start + STRETCH, stretch[-WARM_UP:], []
    yield start, before, stretch


def _follow(
    tracker: FaceTracker,
    start: int,
    before: list[np.ndarray],
    stretch: list[np.ndarray],
    focus: Focus,
    measure: Callable[[np.ndarray, np.ndarray | None], T],
) -> list[tuple[np.ndarray | None, T]]:
    follow = Follower(focus, tracker)
    for i, frame in enumerate(before, start - len(before)):
        follow(frame, i / FPS)
    points = [follow(frame, i / FPS) for i, frame in enumerate(stretch, start)]
    return [(face, measure(frame, face)) for frame, face in zip(stretch, points, strict=True)]
