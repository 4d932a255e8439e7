"""Who is in the clip: the largest steady face, told from others by a detector that looks twice a second."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from instag.data_utils.landmarks import FaceFinder, FaceTracker
from instag.data_utils.video import iterate_frames
from instag.data_utils.workers import ahead

SAMPLES_PER_SECOND = 2.0
SAME_FACE = 0.8  # of the larger box's side: a face whose middle moved less between two looks is the same person
SAME_SIZE = 0.5  # and whose side changed by no more than this factor
MARGIN = 0.75  # of a box's side on each side: what the landmark tracker is shown round the places of a face
STRAY = 0.75  # of the box's side: landmarks whose middle lies farther from the chosen face belong to somebody else
STEADY_SHARE = 0.5  # a second face that is there for this part of the time is reported
LEAST_SIZE = 0.5  # of the speaker's: smaller faces (a picture on the wall, people behind) are not


@dataclass
class FaceTrack:
    """One face over consecutive looks. boxes: look -> (left, top, side), pixels."""

    boxes: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def weight(self) -> float:
        """Large and long: the sum of the boxes' sides."""
        return float(sum(box[2] for box in self.boxes.values()))

    @property
    def last(self) -> int:
        """Its last look."""
        return max(self.boxes)

    @cached_property
    def reach(self) -> np.ndarray:
        """Left, top, right, bottom of all its boxes with their margin, int64; for a track that is complete."""
        boxes = np.stack(list(self.boxes.values()))
        margin = MARGIN * boxes[:, 2].max()
        low, high = boxes[:, :2].min(0) - margin, (boxes[:, :2] + boxes[:, 2:]).max(0) + margin
        return np.concatenate([low, high]).astype(int)

    def follows(self, box: np.ndarray, look: int) -> bool:
        """Whether a box seen at `look` is this face."""
        old = self.boxes[self.last]
        side = max(old[2], box[2])
        near = np.linalg.norm(_middle(box) - _middle(old)) < SAME_FACE * side
        return self.last in (look - 1, look - 2) and near and min(old[2], box[2]) > SAME_SIZE * side


def _middle(box: np.ndarray) -> np.ndarray:
    return box[:2] + 0.5 * box[2]


def link_faces(looks: list[np.ndarray]) -> list[FaceTrack]:
    """Faces over time; looks: boxes [n, 3] (left, top, side) of each look."""
    tracks: list[FaceTrack] = []
    for look, boxes in enumerate(looks):
        for box in boxes:
            known = [t for t in tracks if look not in t.boxes and t.follows(box, look)]
            if known:
                nearest = min(known, key=lambda t: float(np.linalg.norm(_middle(t.boxes[t.last]) - _middle(box))))
            else:
                nearest = FaceTrack()
                tracks.append(nearest)
            nearest.boxes[look] = box
    return tracks


class Focus:
    """Who the speaker is among the faces of a clip; looks: boxes [n, 3] (left, top, side) of each look.

    Attributes:
        faces: most faces of the speaker's order of size that are there at once for a good part of the time.
    """

    def __init__(self, looks: list[np.ndarray]) -> None:
        self.looks = looks
        tracks = link_faces(looks)
        self._chosen: list[FaceTrack | None] = []
        for look in range(len(looks)):
            here = [t for t in tracks if look in t.boxes]
            self._chosen.append(max(here, key=lambda t: t.weight) if here else None)
        self.faces = self._count_steady()

    def _count_steady(self) -> int:
        """Most faces of the speaker's order of size that are there at once for a good part of the time."""
        counts = []
        for boxes, track, look in zip(self.looks, self._chosen, range(len(self.looks)), strict=True):
            own = 0 if track is None else track.boxes[look][2]
            counts.append(sum(box[2] >= LEAST_SIZE * own for box in boxes))
        seen = np.array([n for n in counts if n])
        return max((n for n in range(1, 10) if len(seen) and (seen >= n).mean() >= STEADY_SHARE), default=0)

    def at(self, time: float) -> tuple[int, FaceTrack | None]:
        """Number of the look nearest to `time` seconds, and the speaker's face in it."""
        look = min(round(time * SAMPLES_PER_SECOND), len(self.looks) - 1)
        return look, self._chosen[look] if look >= 0 else None


class Follower:
    """A landmark tracker that is shown where the speaker's face is to be looked for; other faces are hidden from it.

    Where the detector saw nobody, the whole picture is searched. The tracker forgets what it saw before.
    """

    def __init__(self, focus: Focus, tracker: FaceTracker) -> None:
        self._focus, self._tracker = focus, tracker
        self._region: tuple[int, int, int, int] | None = None

    def __call__(self, frame: np.ndarray, time: float) -> np.ndarray | None:
        """Landmarks [478, 3] of the speaker in uint8 [H, W, 3] at `time` seconds, pixels of `frame`, or None."""
        look, track = self._focus.at(time)
        region = _region_of(track, frame.shape)
        if region != self._region:
            self._tracker.restart()
            self._region = region
        left, top, right, bottom = region
        part = np.ascontiguousarray(frame[top:bottom, left:right])
        if track is not None:
            part = _hide_others(part, self._focus.looks[look], track.boxes[look], left, top)
        points = self._tracker(part)
        if points is None:
            return None
        points = points + np.float32((left, top, 0))
        if track is not None and _strays(points, track.boxes[look]):
            self._tracker.restart()
            return None
        return points


def _region_of(track: FaceTrack | None, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    height, width = shape[:2]
    if track is None:
        return 0, 0, width, height
    left, top, right, bottom = track.reach.tolist()
    return max(left, 0), max(top, 0), min(right, width), min(bottom, height)


def _hide_others(part: np.ndarray, boxes: np.ndarray, own: np.ndarray, left: int, top: int) -> np.ndarray:
    others = [box for box in boxes if np.linalg.norm(_middle(box) - _middle(own)) > STRAY * own[2]]
    if others:
        part = part.copy()
    for x, y, side in others:
        rows = slice(max(0, int(y) - top), max(0, int(y + side) - top))
        columns = slice(max(0, int(x) - left), max(0, int(x + side) - left))
        part[rows, columns] = part[rows, columns].mean((0, 1)) if part[rows, columns].size else 0
    return part


def _strays(points: np.ndarray, box: np.ndarray) -> bool:
    middle = 0.5 * (points[:, :2].min(0) + points[:, :2].max(0))
    return bool(np.linalg.norm(middle - _middle(box)) > STRAY * box[2])


def find_focus(path: Path | str, limit_seconds: float | None, largest: int) -> Focus:
    """Look twice a second for faces; pictures wider or higher than `largest` px are shrunk to it, as for `track`."""
    with FaceFinder() as finder:
        pictures = iterate_frames(path, SAMPLES_PER_SECOND, limit_seconds, largest=largest)
        return Focus([finder(picture) for picture in ahead(pictures)])
