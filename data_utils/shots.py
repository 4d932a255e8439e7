"""Uninterrupted takes of a clip: between hard cuts, and where the face is lost for no longer than can be bridged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from instag.data.layout import FPS
from instag.data_utils.landmarks import LONGEST_GAP
from instag.data_utils.survey import Survey, runs
from instag.data_utils.video import SHORTEST_CLIP
from instag.errors import DataError

# A new shot: the picture changes by this many grey levels (mean of the thumbnail) from one frame to the next, and so
# many times more than at the four frames before and after that were not repeated. 24 real clips: true cuts change by
# 8.8 to 18 grey levels, 8 to 34 times their neighbours; the strongest other one by 16, and 1.1 times; the most isolated
# other one (a webcam that catches up after a frozen picture) 2.8 times.
CUT_CHANGE = 4.0
CUT_ISOLATION = 3.5
CUT_NEIGHBOURS = 4
FREEZE_ALLOWANCE = 0.1  # a picture frozen for n frames may then move so much per frame more before it counts as a cut
ALL_SHOTS = 0  # as number of a shot: the whole clip, cuts and all


@dataclass(frozen=True)
class Shot:
    """Frames start .. stop-1 at 25 fps."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def seconds(self) -> float:
        """Length."""
        return len(self) / FPS


def find_cuts(change: np.ndarray, repeated: np.ndarray) -> tuple[int, ...]:
    """Frames at which a new shot begins.

    Args:
        change: [T] mean difference of each picture to the one before, grey levels.
        repeated: bool [T] the picture is the one before again.
    """
    moving = np.flatnonzero(~repeated)
    cuts = []
    for k, i in enumerate(moving):
        if change[i] < CUT_CHANGE or i == 0:
            continue
        before = [j for j in moving[max(0, k - CUT_NEIGHBOURS) : k] if j > 0]
        around = [*before, *moving[k + 1 : k + 1 + CUT_NEIGHBOURS]]
        usual = max(change[around], default=0.0)
        frozen = i - moving[k - 1] - 1 if k else 0
        if change[i] > CUT_ISOLATION * (1 + FREEZE_ALLOWANCE * frozen) * usual:
            cuts.append(int(i))
    return tuple(cuts)


def split_shots(survey: Survey) -> list[Shot]:
    """All takes of at least 2 s, in order: cut at hard cuts and where no face is found for more than 5 frames."""
    usable = survey.found.copy()
    for start, stop in runs(~usable):
        if stop - start <= LONGEST_GAP and start > 0 and stop < len(usable):
            usable[start:stop] = True
    cuts = np.array(find_cuts(survey.change, survey.repeated), int)
    shots = []
    for start, stop in runs(usable):
        edges = [start, *(c for c in cuts if start < c < stop), stop]
        shots += [Shot(int(a), int(b)) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    return [shot for shot in shots if len(shot) >= SHORTEST_CLIP * FPS]


def choose_shot(survey: Survey, number: int | None, source: str) -> Shot:
    """The shot to use: by number from 1, `ALL_SHOTS` for the whole clip, None for the longest.

    Raises:
        DataError: no such shot, or none at all; `source` names the file.
    """
    if not survey.found.any():
        raise DataError(f"{source}: no face found in any frame; give a clip that shows one face from the front")
    if number == ALL_SHOTS:
        seen = np.flatnonzero(survey.found)
        return Shot(int(seen[0]), int(seen[-1]) + 1)
    shots = split_shots(survey)
    if not shots:
        raise DataError(
            f"{source}: the face is never seen for {SHORTEST_CLIP:.0f} s without a cut; give an uninterrupted take"
        )
    if number is None:
        return max(shots, key=len)
    if not 1 <= number <= len(shots):
        raise DataError(f"{source}: no shot {number}; the clip has {describe_shots(shots)}")
    return shots[number - 1]


def describe_shots(shots: list[Shot]) -> str:
    """`3 shots: 1 (0.0-7.0 s), 2 (7.0-28.1 s), ...`."""
    spans = [f"{k} ({shot.start / FPS:.1f}-{shot.stop / FPS:.1f} s)" for k, shot in enumerate(shots, 1)]
    return f"{len(shots)} shot{'s' if len(shots) != 1 else ''}: {', '.join(spans)}"
