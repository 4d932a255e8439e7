"""Face metrics from tracked landmarks: LMD, lip opening, action unit errors, jitter (METHOD.md section 8).

Both the rendered and the true frames are tracked here, enlarged to 512 px, so that errors of the tracker weigh on both.
A frame in which no face is found counts as opening 0 and is reported; all other metrics leave it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from instag.camera import HEAD_FLIP
from instag.data.layout import MOUTH_LANDMARKS
from instag.data.pictures import opencv

TRACKING_SIZE = 512  # px: smaller pictures are enlarged to it, and distances are measured in it
LARGEST_LAG = 3  # frames
MAD_TO_DEVIATION = 1.4826
# OpenFace's units of the paper's AUE; of these, the ones that our tracker measures are compared.
LOWER_UNITS = ("AU10", "AU12", "AU14", "AU15", "AU17", "AU20", "AU23", "AU25", "AU26")
UPPER_UNITS = ("AU01", "AU02", "AU04", "AU05", "AU06", "AU07", "AU09", "AU45")


@dataclass(frozen=True)
class FaceTrack:
    """Landmarks of a clip's pictures.

    Attributes:
        mesh: float32 [T, 478, 3], px of the enlarged picture; not-a-number where no face was found.
        found: bool [T].
    """

    mesh: np.ndarray
    found: np.ndarray

    def __len__(self) -> int:
        return len(self.found)


def enlarged(pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Pictures uint8 [H, W, 3] at TRACKING_SIZE, which the tracker is made for."""
    cv2 = opencv()
    for picture in pictures:
        if picture.shape[0] != TRACKING_SIZE:
            method = cv2.INTER_CUBIC if picture.shape[0] < TRACKING_SIZE else cv2.INTER_AREA
            picture = cv2.resize(picture, (TRACKING_SIZE, TRACKING_SIZE), interpolation=method)
        yield np.ascontiguousarray(picture)


def track_faces(pictures: Iterable[np.ndarray]) -> FaceTrack:
    """Track the face through pictures uint8 RGB [H, W, 3], in order. InstagError where mediapipe is not installed."""
    from instag.data_utils.landmarks import track_landmarks

    return FaceTrack(*track_landmarks(enlarged(pictures)))


# --- lip opening ------------------------------------------------------------------------------------------------
def lip_opening(track: FaceTrack) -> np.ndarray:
    """Distance of the inner lips' mid-points over the distance of the outer eye corners, [T]; 0 without a face."""
    from instag.data_utils.face_points import LEFT_EYE_OUTER, LOWER_INNER_LIP, RIGHT_EYE_OUTER, UPPER_INNER_LIP

    points = track.mesh[..., :2].astype(np.float64)
    gap = np.linalg.norm(points[:, UPPER_INNER_LIP] - points[:, LOWER_INNER_LIP], axis=1)
    eyes = np.linalg.norm(points[:, RIGHT_EYE_OUTER] - points[:, LEFT_EYE_OUTER], axis=1)
    return np.where(track.found, gap / np.where(track.found, eyes, 1.0), 0.0)


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation coefficient of two series [T]; 0 where one of them does not change."""
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / scale) if scale > 0 else 0.0


@dataclass(frozen=True)
class Correlation:
    """Correlation r of a rendered with a true series: at lag 0, and at the best lag within +-3 frames.

    A positive lag says that the rendered series comes late.
    """

    r: float
    best_r: float
    best_lag: int


def lagged_correlation(render: np.ndarray, truth: np.ndarray) -> Correlation:
    """Correlate two series [T] of the same frames."""
    by_lag = {}
    for lag in range(-LARGEST_LAG, LARGEST_LAG + 1):
        late, early = (render[lag:], truth[: len(truth) - lag]) if lag >= 0 else (render[:lag], truth[-lag:])
        by_lag[lag] = pearson(late, early) if len(late) > 1 else 0.0
    best = max(by_lag, key=lambda lag: (by_lag[lag], -abs(lag)))
    return Correlation(by_lag[0], by_lag[best], best)


# --- distances --------------------------------------------------------------------------------------------------
def mouth_distance(render: FaceTrack, truth: FaceTrack) -> float | None:
    """LMD: mean distance of the 20 mouth landmarks after centring, px at 512; None where no frame has both faces."""
    both = render.found & truth.found
    if not both.any():
        return None
    a, b = (_mouth(track.mesh[both]) for track in (render, truth))
    return float(np.linalg.norm(a - b, axis=2).mean())


def still_distance(truth: FaceTrack) -> float | None:
    """LMD of a mouth that never moves and has the mean shape of these frames: what lips that speak should beat."""
    if not truth.found.any():
        return None
    mouth = _mouth(truth.mesh[truth.found])
    return float(np.linalg.norm(mouth - mouth.mean(0), axis=2).mean())


def _mouth(mesh: np.ndarray) -> np.ndarray:
    """The 20 mouth points of [T, 478, 3], centred in each frame: [T, 20, 2]."""
    from instag.data_utils.face_points import to_68_points

    points = to_68_points(mesh)[:, MOUTH_LANDMARKS].astype(np.float64)
    return points - points.mean(1, keepdims=True)


def jitter(track: FaceTrack) -> float | None:
    """Robust deviation of the second difference of all landmarks over time, px at 512; None for too few frames."""
    from instag.data_utils.face_points import to_68_points

    whole = track.found[2:] & track.found[1:-1] & track.found[:-2]
    if not whole.any():
        return None
    points = to_68_points(np.nan_to_num(track.mesh)).astype(np.float64)
    second = (points[2:] - 2 * points[1:-1] + points[:-2])[whole]
    return float(MAD_TO_DEVIATION * np.median(np.abs(second - np.median(second))))


# --- action units -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class UnitError:
    """Sum over action units of the mean squared difference of intensities (0..5), and which units these are."""

    value: float
    units: tuple[str, ...]


def unit_errors(render: FaceTrack, truth: FaceTrack, world_to_camera: np.ndarray) -> Mapping[str, UnitError]:
    """AUE of the lower ("lower") and upper ("upper") face over the units that `instag.data_utils` measures.

    These are geometric estimates, not OpenFace's: compare them with each other, not with published figures.

    Args:
        render, truth: tracks of the same T frames.
        world_to_camera: [T, 4, 4] poses, OpenCV axes (the rendered head has the true pose).

    Returns:
        The groups of which at least one unit is measured; empty where no frame has both faces.
    """
    from instag.data_utils.action_units import action_units

    both = render.found & truth.found
    if not both.any():
        return {}
    rotation = world_to_camera[both, :3, :3] @ HEAD_FLIP  # head to camera
    ours, theirs = (action_units(track.mesh[both], rotation) for track in (render, truth))
    errors = {}
    for group, names in (("lower", LOWER_UNITS), ("upper", UPPER_UNITS)):
        measured = tuple(name for name in names if name in ours)
        if measured:
            value = sum(float(np.mean((ours[name] - theirs[name]) ** 2)) for name in measured)
            errors[group] = UnitError(value, measured)
    return errors
