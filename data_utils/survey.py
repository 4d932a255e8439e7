"""One look at a whole clip, at 25 fps: where the speaker's face is, how the pictures change, how good they are.

Everything that is decided about a clip (shots, crop, the best seconds, whether it is usable) is decided from this; the
landmarks go on into the subject folder. Landmarks are tracked in the clip's own pictures, before they are cropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np

from instag.data.layout import FPS
from instag.data_utils.faces import find_focus
from instag.data_utils.files import save_arrays
from instag.data_utils.landmarks import collect_landmarks
from instag.data_utils.stretches import follow_in_stretches
from instag.data_utils.video import ClipInfo, iterate_frames
from instag.data_utils.workers import ahead

LARGEST = 1280  # px: larger pictures are shrunk for this look; a face of 15 % of it fills the landmark network's input
THUMBNAIL = 96  # px, longer side, in which changes are measured
FACE_SAMPLE = 128  # px, side of the face in which sharpness and brightness are measured
SAME_PICTURE = 0.06  # grey levels, mean change of thumbnails: less only where a frame was repeated (24 clips)
BAR_LEVEL = 24  # grey level; rows and columns that never rise above it at the border are a bar
MOST_BAR = 0.4  # of the picture's height or width; more is a dark picture, not a bar


@dataclass(frozen=True)
class Survey:
    """T frames at 25 fps; pixels are those of the upright clip at its full size.

    Attributes:
        landmarks: float32 [T, 478, 3], as `FaceTracker` gives them; not-a-number where no face was found.
        change: float32 [T] mean absolute difference to the frame before, grey levels of a thumbnail; 0 for the first.
        repeated: bool [T] the picture is the one before again.
        sharpness: float32 [T] standard deviation of the Laplacian of the face at 128 px, grey levels; 0 without face.
        brightness: float32 [T] mean grey level 0..255 of the face; of the picture where there is no face.
        bars: rows and columns of a letterbox: left, top, right, bottom, pixels.
        faces: most faces that stood beside each other for a while.
        width, height: of the upright picture, pixels.
    """

    landmarks: np.ndarray
    change: np.ndarray
    repeated: np.ndarray
    sharpness: np.ndarray
    brightness: np.ndarray
    bars: tuple[int, int, int, int]
    faces: int
    width: int
    height: int

    def __len__(self) -> int:
        return len(self.change)

    @property
    def found(self) -> np.ndarray:
        """bool [T]: a face was found."""
        return np.isfinite(self.landmarks[:, 0, 0])


def survey_clip(
    path: Path | str,
    info: ClipInfo,
    limit_seconds: float | None = None,
    progress: Callable[[Iterable[np.ndarray]], Iterable[np.ndarray]] = iter,
    trackers: int = 1,
) -> Survey:
    """Look at a clip, twice: now and then for who is in it, then at every frame. Raises DataError as `iterate_frames`.

    Args:
        path: a video file. info: what `probe` says of it.
        limit_seconds: look at the beginning only.
        progress: goes over the frames of the second look, for a bar.
        trackers: landmark networks at work at the same time, on stretches of the clip; the result is the same.
    """
    focus = find_focus(path, limit_seconds, LARGEST)
    frames = ahead(iterate_frames(path, FPS, limit_seconds, largest=LARGEST))
    looks = follow_in_stretches(progress(frames), focus, trackers, _measure)
    return _collect(looks, focus.faces, info)


def _measure(frame: np.ndarray, face: np.ndarray | None) -> tuple[int, np.ndarray, float, float]:
    """Width, thumbnail, sharpness and brightness of the face."""
    return frame.shape[1], _thumbnail(frame), *_quality(frame, face)


def _collect(looks: Iterable[tuple[np.ndarray | None, tuple]], faces: int, info: ClipInfo) -> Survey:
    points, numbers, brightest, previous = [], [], None, None
    for face, (width, small, *quality) in looks:
        change = 0.0 if previous is None else float(np.abs(small - previous).mean())
        numbers.append((change, *quality))
        points.append(None if face is None else face * np.float32(info.width / width))
        brightest = small if brightest is None else np.maximum(brightest, small)
        previous = small
    change, sharpness, brightness = np.array(numbers, np.float32).T
    repeated = change < SAME_PICTURE
    repeated[0] = False
    bars = tuple(int(round(n * max(info.width, info.height) / THUMBNAIL)) for n in find_bars(brightest))
    landmarks, _ = collect_landmarks(points)
    return Survey(landmarks, change, repeated, sharpness, brightness, bars, faces, info.width, info.height)


def _thumbnail(frame: np.ndarray) -> np.ndarray:
    """Grey levels, float32, 96 px on the longer side."""
    height, width = frame.shape[:2]
    scale = THUMBNAIL / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)  # first: three channels take as much longer to shrink
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.float32)


def _quality(frame: np.ndarray, face: np.ndarray | None) -> tuple[float, float]:
    """Sharpness and brightness of the face."""
    if face is None:
        return 0.0, float(frame[::8, ::8].mean())
    low, high = face[:, :2].min(0).astype(int), face[:, :2].max(0).astype(int)
    x, y = low.clip(0)
    part = frame[y : high[1] + 1, x : high[0] + 1]
    if part.size == 0:
        return 0.0, float(frame[::8, ::8].mean())
    how = cv2.INTER_AREA if len(part) > FACE_SAMPLE else cv2.INTER_LINEAR
    grey = cv2.resize(cv2.cvtColor(part, cv2.COLOR_RGB2GRAY), (FACE_SAMPLE, FACE_SAMPLE), interpolation=how)
    return float(cv2.Laplacian(grey, cv2.CV_32F).std()), float(grey.mean())


def find_bars(brightest: np.ndarray) -> tuple[int, int, int, int]:
    """Rows and columns at the border that are dark in every frame: left, top, right, bottom.

    brightest: [h, w] the largest grey level of each pixel over the clip. None where most of the picture is dark.
    """
    dark_columns, dark_rows = brightest.max(0) < BAR_LEVEL, brightest.max(1) < BAR_LEVEL
    left, right = _leading(dark_columns), _leading(dark_columns[::-1])
    top, bottom = _leading(dark_rows), _leading(dark_rows[::-1])
    if left + right > MOST_BAR * len(dark_columns) or top + bottom > MOST_BAR * len(dark_rows):
        return 0, 0, 0, 0
    return tuple(n + 1 if n else 0 for n in (left, top, right, bottom))  # the edge itself is blurred


def _leading(mask: np.ndarray) -> int:
    return int(np.argmin(mask)) if not mask.all() else len(mask)


def save_survey(path: Path, survey: Survey) -> None:
    """Write it as .npz, atomically."""
    save_arrays(path, **{field.name: np.asarray(getattr(survey, field.name)) for field in fields(survey)})


def load_survey(path: Path) -> Survey:
    """Read what `save_survey` wrote."""
    with np.load(path) as z:
        arrays = {name: z[name] for name in ("landmarks", "change", "repeated", "sharpness", "brightness")}
        bars = tuple(int(n) for n in z["bars"])
        return Survey(**arrays, bars=bars, faces=int(z["faces"]), width=int(z["width"]), height=int(z["height"]))


def runs(mask: np.ndarray) -> Iterator[tuple[int, int]]:
    """Start and stop of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    yield from ((int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True))
