"""Reading video: frames at a constant rate, a square crop round the face, random access (PyAV).

Nothing here holds a whole clip in memory. Pictures are RGB uint8 [H, W, 3].
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np

from instag.data.layout import FPS
from instag.errors import DataError
from instag.media import VideoWriter

__all__ = ["ClipInfo", "Crop", "FrameReader", "VideoWriter", "iterate_frames", "probe", "read_range", "square_crop"]

log = logging.getLogger(__name__)

SHORTEST_CLIP = 2.0  # seconds
BLOCK = 25  # frames decoded at once for random access: the distance of key frames in `frames.mp4`
CACHE_BYTES = 96 << 20
TIME_SLACK = 1e-4  # seconds; time stamps are rounded to the container's clock
# Face height as a share of the square picture's side within which a square clip is used as it is. The framing of the
# field's own clips is .50 to .57 (notes: preprocessing, section 4).
OVAL_SHARE = (0.42, 0.70)
SIDE_PER_OVAL = 2.0
OVAL_CENTER = (0.50, 0.55)  # of the square, x and y
OVAL_TOP, OVAL_BOTTOM = 10, 152  # landmarks: top of the forehead, chin


@dataclass(frozen=True)
class ClipInfo:
    """What the container says of a video file.

    Attributes:
        width, height: pixels as shown, after rotation and with square pixels.
        fps: average frame rate of the file.
        seconds: duration of the pictures as declared; 0 where the file does not say.
        has_audio: whether there is sound.
        start: time stamp of the first picture minus that of the first sound, seconds; 0 without sound.
    """

    width: int
    height: int
    fps: float
    seconds: float
    has_audio: bool
    start: float


def _open(path: Path | str) -> av.container.InputContainer:
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the path of a video")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; copy or download it again")
    try:
        container = av.open(str(path))
    except (OSError, av.error.FFmpegError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: not a readable video, or cut off ({reason}); export or copy it again") from None
    if not container.streams.video:
        container.close()
        raise DataError(f"{path}: has no pictures, only sound; give a video file")
    return container


def probe(path: Path | str) -> ClipInfo:
    """Read the header and the first picture of a video file. Raises DataError for what is not a video."""
    with _open(path) as container:
        video = container.streams.video[0]
        first = next(_decode(container, path), None)
        if first is None:
            raise DataError(f"{path}: no picture could be decoded; export it again as H.264 mp4")
        height, width = _upright(first).shape[:2]
        length = video.duration * video.time_base if video.duration else (container.duration or 0) / av.time_base
        sound = container.streams.audio[0] if container.streams.audio else None
        start = 0.0
        if sound is not None and sound.start_time is not None and video.start_time is not None:
            start = float(video.start_time * video.time_base - sound.start_time * sound.time_base)
        fps = float(video.average_rate or video.guessed_rate or 0)
        return ClipInfo(width, height, fps, float(length), sound is not None, start)


def _decode(container: av.container.InputContainer, path: Path | str) -> Iterator[av.VideoFrame]:
    """Pictures until the end, or until the first place that cannot be decoded, which is reported."""
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    try:
        for frame in container.decode(stream):
            if frame.pts is not None:
                yield frame
    except (OSError, av.error.FFmpegError) as error:
        log.warning("%s: damaged or cut off (%s); using what comes before", path, getattr(error, "strerror", error))


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """Picture as a player shows it: turned by its rotation tag, pixels square."""
    picture = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4  # counter-clockwise
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def iterate_frames(path: Path | str, fps: float = FPS, limit_seconds: float | None = None) -> Iterator[np.ndarray]:
    """Pictures at a constant rate: number k is the one whose time stamp is nearest to k / fps after the first.

    Variable rates, repeated and missing frames are thereby evened out; a rotation tag is applied.

    Args:
        path: a video file.
        fps: rate of the output.
        limit_seconds: stop after so many seconds.

    Yields:
        uint8 [H, W, 3], all of the size of the first.

    Raises:
        DataError: not a video, or fewer than 2 s of it can be decoded (a truncated file: what is there is used).
    """
    count = 0
    limit = None if limit_seconds is None else round(limit_seconds * fps)
    with _open(path) as container:
        for picture in _constant_rate(_decode(container, path), fps):
            if limit is not None and count >= limit:
                break
            yield picture
            count += 1
    if count < SHORTEST_CLIP * fps and (limit is None or count < limit):
        raise DataError(
            f"{path}: only {count / fps:.1f} s can be decoded, and {SHORTEST_CLIP:.0f} s are needed; "
            "is the file cut off? Give a longer clip"
        )


def _constant_rate(frames: Iterator[av.VideoFrame], fps: float) -> Iterator[np.ndarray]:
    first = time = None  # seconds
    held: av.VideoFrame | None = None  # the frame at `time`, converted once it is known to be wanted
    shown: np.ndarray | None = None
    duration, k = 1 / fps, 0

    def until(stop: float) -> Iterator[np.ndarray]:
        nonlocal k, held, shown
        while k / fps < stop - TIME_SLACK:
            if held is not None:
                shown, held = _same_size(_upright(held), shown), None
            yield shown
            k += 1

    for frame in frames:
        now = float(frame.pts * frame.time_base)
        first = now if first is None else first
        now -= first
        if time is not None:
            if now <= time:
                continue  # a repeated time stamp
            duration = now - time
            yield from until(0.5 * (time + now))
        held, time = frame, now
    if time is not None:
        yield from until(time + duration)


def _same_size(picture: np.ndarray, like: np.ndarray | None) -> np.ndarray:
    if like is None or picture.shape == like.shape:
        return picture
    return cv2.resize(picture, like.shape[1::-1], interpolation=cv2.INTER_AREA)  # the stream changed its size


@dataclass(frozen=True)
class Crop:
    """Square part of a picture, pixels."""

    left: int
    top: int
    side: int

    def apply(self, picture: np.ndarray, size: int) -> np.ndarray:
        """The part at size x size, uint8 [size, size, 3]."""
        part = picture[self.top : self.top + self.side, self.left : self.left + self.side]
        if self.side == size:
            return np.ascontiguousarray(part)
        return cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA if self.side > size else cv2.INTER_CUBIC)


def square_crop(landmarks: np.ndarray, width: int, height: int) -> Crop:
    """One static square for a clip: side 2.0 x the median face height, the face at (.50, .55) of it.

    The whole picture when it is square already and the face fills a usual share of it. The square is moved, then
    shrunk, to lie inside the picture.

    Args:
        landmarks: [n, 478, >= 2] pixels of the picture, some frames of the clip.
        width, height: the picture.
    """
    top, bottom = landmarks[:, OVAL_TOP, :2], landmarks[:, OVAL_BOTTOM, :2]
    oval = float(np.median(np.linalg.norm(bottom - top, axis=1)))
    if width == height and OVAL_SHARE[0] <= oval / height <= OVAL_SHARE[1]:
        return Crop(0, 0, width)
    side = int(min(round(SIDE_PER_OVAL * oval), width, height))
    center = np.median(0.5 * (landmarks[..., :2].min(1) + landmarks[..., :2].max(1)), axis=0)
    left = int(np.clip(round(center[0] - OVAL_CENTER[0] * side), 0, width - side))
    upper = int(np.clip(round(center[1] - OVAL_CENTER[1] * side), 0, height - side))
    return Crop(left, upper, side)


def read_range(path: Path | str, start: int, stop: int) -> np.ndarray:
    """Frames start .. stop-1 of a video that this program wrote (25 fps, a key frame each second).

    Returns uint8 [n, H, W, 3]; fewer than asked for where the video ends.
    """
    with _open(path) as container:
        return np.stack(list(_from(container, start, stop)))


def _from(container: av.container.InputContainer, start: int, stop: int) -> Iterator[np.ndarray]:
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    container.seek(round(start / FPS / stream.time_base), stream=stream, backward=True)
    for frame in container.decode(stream):
        number = round(float(frame.pts * stream.time_base) * FPS)
        if number >= stop:
            return
        if number >= start:
            yield frame.to_ndarray(format="rgb24")


def read_all(path: Path | str) -> Iterator[np.ndarray]:
    """All frames of a video that this program wrote, in order, uint8 [H, W, 3]."""
    with _open(path) as container:
        yield from (frame.to_ndarray(format="rgb24") for frame in _decode(container, path))


class FrameReader:
    """Random access to a video that this program wrote; the last blocks of a second are kept, at most ~100 MB."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _open(path) as container:
            video = container.streams.video[0]
            self.size, self.count = video.width, video.frames
        self._blocks: OrderedDict[int, np.ndarray] = OrderedDict()
        self._capacity = max(2, CACHE_BYTES // (BLOCK * self.size * self.size * 3))

    def __len__(self) -> int:
        return self.count

    def __call__(self, i: int) -> np.ndarray:
        """Frame i, uint8 [H, W, 3]; read-only."""
        if not 0 <= i < self.count:
            raise IndexError(f"{self.path} has {self.count} frames, not number {i}")
        block = i // BLOCK
        if block not in self._blocks:
            frames = read_range(self.path, block * BLOCK, (block + 1) * BLOCK)
            frames.setflags(write=False)
            self._blocks[block] = frames
            while len(self._blocks) > self._capacity:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(block)
        return self._blocks[block][i - block * BLOCK]
