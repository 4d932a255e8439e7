"""The head's own map: a plane through the ears that moves with the head, so that "below the jaw" means the same in
every frame.

Axes as the pose's (OpenCV): u to the image's right, v down, in cm of the canonical face; the plane lies
`PLANE_DEPTH_CM` behind the origin of the head frame. Seen through a pinhole camera it is related to the pixels by a
homography, so that carrying pictures to the map and back is one `cv2.warpPerspective`.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from instag.data_utils.face_points import JAW_LINE

LONG_HAIR = 0.5  # of hair beside the neck: as likely as a collar, so that colour decides
PRIOR_FLOOR = 2e-3  # no class is impossible anywhere
PLANE_DEPTH_CM = 4.0  # a bit behind the face, through the ears
CELLS = 128  # side of the map
CELL_CM = 0.25  # so the map spans -16..16 cm both ways

_AXIS = ((np.arange(CELLS) + 0.5 - CELLS / 2) * CELL_CM).astype(np.float32)  # cm, middles of the cells
_FOLLOW_ABOVE_CM = 5.0  # above the jaw line the skin stretches over this length when the jaw drops
_FOLLOW_BELOW_CM = 5.0  # and below it neck and collar stay where they are, this far away
_MOST_MOTION_CM = 3.0  # of a jaw point against its median; more is a tracking slip


@dataclass(frozen=True)
class HeadPlane:
    """Pixels (centres at +0.5) <-> plane coordinates (u, v) in cm, for one frame."""

    to_pixels: np.ndarray  # float64 [3, 3], (u, v, 1) -> homogeneous pixels

    @staticmethod
    def from_pose(rotation: np.ndarray, translation_cm: np.ndarray, focal: float, size: float) -> HeadPlane:
        """Head pose in OpenCV axes (X_camera = R X + t, cm), focal length and picture side in px."""
        rotation = np.asarray(rotation, np.float64)
        origin = rotation[:, 2] * PLANE_DEPTH_CM + translation_cm
        camera = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
        return HeadPlane(camera @ np.column_stack([rotation[:, 0], rotation[:, 1], origin]))

    def project(self, points_cm: np.ndarray) -> np.ndarray:
        """Plane points [..., 2] cm -> pixels [..., 2]."""
        return _apply(self.to_pixels, points_cm)

    def unproject(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels [..., 2] -> plane points [..., 2] cm."""
        return _apply(np.linalg.inv(self.to_pixels), pixels)

    def coordinates(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """u and v of every pixel centre, float32 [size, size] each, cm."""
        inverse = np.linalg.inv(self.to_pixels).astype(np.float32)
        x = np.arange(size, dtype=np.float32)[None, :] + np.float32(0.5)
        y = x.T
        u, v, w = (inverse[k, 0] * x + inverse[k, 1] * y + inverse[k, 2] for k in range(3))
        return u / w, v / w

    def to_image(self, cells: np.ndarray, size: int) -> np.ndarray:
        """A map [CELLS, CELLS, C] seen by the camera, float32 [size, size, C]; its border value outside."""
        return cv2.warpPerspective(
            cells,
            self._cells_to_indices(),
            (size, size),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )

    def to_map(self, image: np.ndarray) -> np.ndarray:
        """A picture [H, W, C] laid on the map, float32 [CELLS, CELLS, C]; zero where the picture does not reach."""
        return cv2.warpPerspective(
            image,
            self._cells_to_indices(),
            (CELLS, CELLS),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
        )

    def scaled(self, factor: float) -> HeadPlane:
        """The same plane for the picture resized by `factor`."""
        return HeadPlane(np.diag([factor, factor, 1.0]) @ self.to_pixels)

    def _cells_to_indices(self) -> np.ndarray:
        """Array indices of the map -> array indices of the picture, both counted at element centres."""
        middle = (0.5 - CELLS / 2) * CELL_CM
        cells_to_cm = np.array([[CELL_CM, 0, middle], [0, CELL_CM, middle], [0, 0, 1]])
        centre = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])
        return centre @ self.to_pixels @ cells_to_cm


def cell_coordinates() -> tuple[np.ndarray, np.ndarray]:
    """u and v of the map's cells, float32 [CELLS, CELLS] each, cm."""
    u, v = np.meshgrid(_AXIS, _AXIS)
    return u, v


@dataclass(frozen=True)
class JawLine:
    """The lower edge of the face on the map, from ear to ear (image left to right)."""

    points: np.ndarray  # float64 [K, 2] (u, v) cm, in the order of JAW_LINE

    @staticmethod
    def from_landmarks(landmarks: np.ndarray, plane: HeadPlane) -> JawLine:
        """From face-mesh landmarks [>=468, 2 or 3] px."""
        return JawLine(plane.unproject(landmarks[list(JAW_LINE), :2].astype(np.float64)))

    @staticmethod
    def median(lines: list[JawLine]) -> JawLine:
        """The jaw line of the clip."""
        return JawLine(np.median([line.points for line in lines], 0))

    def at(self, u: np.ndarray) -> np.ndarray:
        """v of the line at u, float32; constant beyond the ears."""
        return self._along(u, self.points[:, 1])

    def _along(self, u: np.ndarray, values: np.ndarray) -> np.ndarray:
        rising = np.maximum.accumulate(self.points[:, 0] + 1e-6 * np.arange(len(self.points)))
        return np.interp(u, rising, values).astype(np.float32)

    @property
    def chin(self) -> float:
        """The lowest point, cm."""
        return float(self.points[:, 1].max())


class JawShift:
    """Carries maps between a frame, whose jaw has dropped or turned, and the clip's median jaw line.

    Cells at the jaw line move with it (the jaw lies well before the plane, so it also moves sideways when the head
    turns); the motion fades towards the mouth above and the collar below.
    """

    def __init__(self, median: JawLine, now: JawLine):
        u, v = _AXIS, _AXIS[:, None]
        below = v - median.at(u)  # [CELLS, CELLS] cm
        follow = np.clip(1 + np.minimum(below / _FOLLOW_ABOVE_CM, -below / _FOLLOW_BELOW_CM), 0, 1)
        motion = np.clip(now.points - median.points, -_MOST_MOTION_CM, _MOST_MOTION_CM)
        cells = np.arange(CELLS, dtype=np.float32)
        self._cells = cells, cells[:, None]
        self._motion = [median._along(u, motion[:, k]) * follow / CELL_CM for k in (0, 1)]  # cells

    def to_frame(self, cells: np.ndarray) -> np.ndarray:
        """A map of the median jaw -> the map of this frame."""
        return self._shift(cells, -1)

    def to_median(self, cells: np.ndarray) -> np.ndarray:
        """A map of this frame -> the map of the median jaw (inverse of `to_frame` to first order)."""
        return self._shift(cells, 1)

    def _shift(self, cells: np.ndarray, sign: int) -> np.ndarray:
        columns, rows = (at + sign * by for at, by in zip(self._cells, self._motion, strict=True))
        return cv2.remap(cells, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _soft_step(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def geometric_prior(jaw: JawLine, forehead: float) -> np.ndarray:
    """What anatomy alone expects of a person's pixel at each cell, float32 [CELLS, CELLS, 4], sums to 1."""
    u, v = cell_coordinates()
    wide = np.abs(u)
    under_jaw = v - jaw.at(u)
    below = _soft_step((under_jaw - 0.3) / 0.5)
    head = (1 - below) * _soft_step((9.5 - wide) / 0.7) * _soft_step(v - forehead + 0.7)
    beside_neck = _soft_step((14 - wide) / 1.0) * _soft_step((wide - 5.5) / 0.5) * _soft_step((jaw.chin + 7 - v) / 2.0)
    # Dark skin between brows and throat is a beard or a shadow.
    face_middle = _soft_step((v - forehead - 0.3 * (jaw.chin - forehead)) / 0.7) * _soft_step((5.5 - wide) / 0.5)
    around_face = (1 - below) * (1 - 0.97 * face_middle)
    hair = 0.6 * around_face * _soft_step((11.5 - wide) / 0.6) + LONG_HAIR * below * beside_neck
    neck = below * _soft_step(7.0 - wide) * _soft_step((8 - under_jaw) / 1.5)
    low_or_wide = 0.15 + 0.85 * _soft_step((under_jaw - 4.5) / 1.2) + 0.85 * _soft_step(wide - 8.5)
    torso = below * _soft_step((v - jaw.chin + 2.5) / 0.7) * low_or_wide
    prior = np.stack([head, hair, neck, torso], -1).astype(np.float32) + np.float32(PRIOR_FLOOR)
    return prior / prior.sum(-1, keepdims=True)


def _apply(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Homography [3, 3] on points [..., 2]."""
    mapped = np.asarray(points, np.float64) @ homography[:, :2].T + homography[:, 2]
    return mapped[..., :2] / mapped[..., 2:]
