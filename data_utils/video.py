"""Reading video: frames at a constant rate, a square crop round the face, random access (PyAV).

Nothing here holds a whole clip in memory. Pictures are RGB uint8 [H, W, 3].
"""

from __future__ import annotations

import logging
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np

from instag.closing import Closing
from instag.data.layout import FPS
from instag.errors import DataError
from instag.media import VideoWriter, picture_of

__all__ = ["ClipInfo", "Crop", "FrameReader", "VideoWriter", "iterate_frames", "probe", "square_crop"]

log = logging.getLogger(__name__)

SHORTEST_CLIP = 2.0  # seconds
SMALLEST_PICTURE = 64  # px of either side; a face in less has no eyes to track
HDR_TRANSFERS = (16, 18)  # PQ and HLG
BLOCK = 25  # frames decoded at once for random access: the distance of key frames in `frames.mp4`
CACHE_BYTES = 48 << 20
TIME_SLACK = 1e-4  # seconds; time stamps are rounded to the container's clock
# Face height as a share of the square picture's side within which a square clip is used as it is. The framing of the
# field's own clips is .50 to .57 (notes: preprocessing, section 4).
OVAL_SHARE = (0.42, 0.70)
SIDE_PER_OVAL = 2.0
SIDE_PER_REACH = 1.25  # of all places that the face takes in the clip
REACH_PERCENTILE = 2.0  # of the frames, at either end, that may lie outside
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
        bits_per_pixel: of the compressed pictures, on average; 0 where the file does not say.
        transfer: transfer characteristic as ITU-T H.273 numbers it; `HDR_TRANSFERS` need tone mapping.
    """

    width: int
    height: int
    fps: float
    seconds: float
    has_audio: bool
    start: float
    bits_per_pixel: float = 0.0
    transfer: int = 0


def _open(path: Path | str) -> av.container.InputContainer:
    path = Path(path)
    require_file(path)
    try:
        # An absolute path: FFmpeg takes `name:` at the beginning for a protocol.
        container = av.open(str(path.absolute()), metadata_errors="replace")
    except (OSError, av.error.FFmpegError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: not a readable video, or cut off ({reason}); export or copy it again") from None
    if _pictures(container) is None:
        container.close()
        raise DataError(f"{path}: has no pictures, only sound; give a video file")
    return container


def _pictures(container: av.container.InputContainer) -> av.VideoStream | None:
    """The first stream of moving pictures; the cover of a sound file is none."""
    streams = (s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic)
    return next(streams, None)


def require_file(path: Path) -> None:
    """Raises DataError for what is no regular file with content; a pipe or device is not opened, which might hang."""
    try:
        info = path.stat()
    except (OSError, ValueError) as error:  # absent, a loop of links, a name that no file can have
        reason = "no such file" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", None) or error
        raise DataError(f"{path}: {reason}; give the path of a video") from None
    if stat.S_ISDIR(info.st_mode):
        raise DataError(f"{path}: is a folder; give the path of a video")
    if not stat.S_ISREG(info.st_mode):
        raise DataError(f"{path}: no regular file (a pipe or device); save it as a file first")
    if info.st_size == 0:
        raise DataError(f"{path}: the file is empty; copy or download it again")


def probe(path: Path | str) -> ClipInfo:
    """Read the header and the first picture of a video file. Raises DataError for what is not a video."""
    with _open(path) as container:
        video = _pictures(container)
        first = next(_decode(container, path), None)
        if first is None:
            raise DataError(f"{path}: no picture could be decoded; export it again as H.264 mp4")
        height, width = _upright(first, _aspect(container)).shape[:2]
        if min(height, width) < SMALLEST_PICTURE:
            raise DataError(f"{path}: {width} x {height} pixels are too few; give at least {SMALLEST_PICTURE}")
        length = video.duration * video.time_base if video.duration else (container.duration or 0) / av.time_base
        sound = container.streams.audio[0] if container.streams.audio else None
        start = 0.0
        if sound is not None and sound.start_time is not None and video.start_time is not None:
            start = float(video.start_time * video.time_base - sound.start_time * sound.time_base)
        fps = float(video.average_rate or video.guessed_rate or 0)
        seconds = float(length)
        pixels = width * height * fps * seconds
        bits = 8 * Path(path).stat().st_size / pixels if pixels else 0.0
        transfer = int(first.color_trc or 0)
        return ClipInfo(width, height, fps, seconds, sound is not None, start, bits, transfer)


def _decode(container: av.container.InputContainer, path: Path | str) -> Iterator[av.VideoFrame]:
    """Pictures until the end, or until the first place that cannot be decoded, which is reported."""
    stream = _pictures(container)
    stream.thread_type = "AUTO"
    try:
        for frame in container.decode(stream):
            if frame.pts is not None:
                yield frame
    except (OSError, av.error.FFmpegError) as error:
        log.warning("%s: damaged or cut off (%s); using what comes before", path, getattr(error, "strerror", error))


def _aspect(container: av.container.InputContainer) -> float:
    """Width of a stored pixel over its height, 1 where the file does not say."""
    return float(_pictures(container).sample_aspect_ratio or 1)


def _upright(frame: av.VideoFrame, aspect: float, largest: int | None = None) -> np.ndarray:
    """Picture as a player shows it: turned by its rotation tag, pixels square; at most `largest` wide and high."""
    width, height = frame.width * aspect, float(frame.height)
    scale = min(1.0, (largest or np.inf) / max(width, height))
    shape = max(1, round(width * scale)), max(1, round(height * scale))
    resized = {} if shape == (frame.width, frame.height) else {"width": shape[0], "height": shape[1]}
    picture = frame.to_ndarray(format="rgb24", **resized)
    turns = round(frame.rotation / 90) % 4  # counter-clockwise
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def iterate_frames(
    path: Path | str,
    fps: float = FPS,
    limit_seconds: float | None = None,
    start: int = 0,
    largest: int | None = None,
) -> Iterator[np.ndarray]:
    """Pictures at a constant rate: number k is the one whose time stamp is nearest to k / fps after the first.

    Variable rates, repeated and missing frames are thereby evened out; a rotation tag is applied.

    Args:
        path: a video file.
        fps: rate of the output.
        limit_seconds: stop after so many seconds of output.
        start: number of the first picture wanted; those before are decoded but not converted.
        largest: pictures that are wider or higher than so many pixels are shrunk to it.

    Yields:
        uint8 [H, W, 3], all of the size of the first.

    Raises:
        DataError: not a video, or fewer than 2 s of it can be decoded (a truncated file: what is there is used).
    """
    count = 0
    limit = None if limit_seconds is None else round(limit_seconds * fps)
    with _open(path) as container:
        convert = partial(_upright, aspect=_aspect(container), largest=largest)
        for picture in _constant_rate(_decode(container, path), fps, start, convert):
            if limit is not None and count >= limit:
                break
            yield picture
            count += 1
    if count < SHORTEST_CLIP * fps and (limit is None or count < limit):
        raise DataError(
            f"{path}: only {count / fps:.1f} s can be decoded, and {SHORTEST_CLIP:.0f} s are needed; "
            "is the file cut off? Give a longer clip"
        )


def _constant_rate(
    frames: Iterator[av.VideoFrame], fps: float, start: int, convert: Callable[[av.VideoFrame], np.ndarray]
) -> Iterator[np.ndarray]:
    first = time = None  # seconds
    held: av.VideoFrame | None = None  # the frame at `time`, converted once it is known to be wanted
    shown: np.ndarray | None = None
    duration, k = 1 / fps, start

    def until(stop: float) -> Iterator[np.ndarray]:
        nonlocal k, held, shown
        while k / fps < stop - TIME_SLACK:
            if held is not None:
                shown, held = _same_size(convert(held), shown), None
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


def square_crop(landmarks: np.ndarray, width: int, height: int, bars: tuple[int, int, int, int] = (0, 0, 0, 0)) -> Crop:
    """One static square for a clip: side 2.0 x the median face height, the face at (.50, .55) of it.

    Larger where the face moves about, so that it stays inside. The whole picture when it is square already and the face
    fills a usual share of it. The square is moved, then shrunk, to lie inside the picture without its bars.

    Args:
        landmarks: [n, 478, >= 2] pixels of the picture, some frames of the clip.
        width, height: the picture.
        bars: rows and columns that show nothing (a letterbox): left, top, right, bottom.
    """
    left, top, right, bottom = bars
    width, height = width - left - right, height - top - bottom
    points = landmarks[..., :2] - (left, top)
    oval = float(np.median(np.linalg.norm(points[:, OVAL_BOTTOM] - points[:, OVAL_TOP], axis=1)))
    low, high = points.min(1), points.max(1)
    reach = np.percentile(high, 100 - REACH_PERCENTILE, axis=0) - np.percentile(low, REACH_PERCENTILE, axis=0)
    if width == height and OVAL_SHARE[0] <= oval / height <= OVAL_SHARE[1]:
        return Crop(left, top, width)
    side = int(min(round(max(SIDE_PER_OVAL * oval, SIDE_PER_REACH * reach.max())), width, height))
    center = np.median(0.5 * (low + high), axis=0)
    if SIDE_PER_REACH * reach.max() > SIDE_PER_OVAL * oval:
        ends = np.percentile(low, REACH_PERCENTILE, axis=0), np.percentile(high, 100 - REACH_PERCENTILE, axis=0)
        center = 0.5 * (ends[0] + ends[1])
    column = int(np.clip(round(center[0] - OVAL_CENTER[0] * side), 0, width - side))
    row = int(np.clip(round(center[1] - OVAL_CENTER[1] * side), 0, height - side))
    return Crop(left + column, top + row, side)


def read_all(path: Path | str) -> Iterator[np.ndarray]:
    """All frames of a video that this program wrote, in order, uint8 [H, W, 3]."""
    with _open(path) as container:
        yield from (picture_of(frame) for frame in _decode(container, path))


class FrameReader(Closing):
    """Random access to a video that this program wrote; the last blocks of a second are kept, at most ~50 MB.

    They are kept as decoded and converted when asked for: some steps look at few frames of each block. The file stays
    open, and its decoder has one thread: opening it for each block and two threads take half as much time again.
    Not for several threads at once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._container = _open(path)
        video = self._container.streams.video[0]
        video.codec_context.thread_count = 1
        self.size, self.count = video.width, video.frames
        self._blocks: OrderedDict[int, list[av.VideoFrame]] = OrderedDict()
        self._capacity = max(2, CACHE_BYTES // (BLOCK * self.size * self.size * 3))
        self._decoding, self._decoder = -1, iter(())  # the block that is decoded so far, and its other frames

    def __len__(self) -> int:
        return self.count

    def __call__(self, i: int) -> np.ndarray:
        """Frame i, uint8 [H, W, 3]."""
        if not 0 <= i < self.count:
            raise IndexError(f"{self.path} has {self.count} frames, not number {i}")
        block, k = divmod(i, BLOCK)
        frames = self._blocks.setdefault(block, [])
        self._blocks.move_to_end(block)
        if len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)
        if k >= len(frames):
            if block != self._decoding:
                frames.clear()
                follows = block == self._decoding + 1 and len(self._blocks.get(self._decoding, ())) == BLOCK
                self._decoder = self._decoder if follows else self._from(block * BLOCK)
                self._decoding = block
            frames.extend(islice(self._decoder, k + 1 - len(frames)))
        return picture_of(frames[k])

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _from(self, start: int) -> Iterator[av.VideoFrame]:
        """Frames from number `start` on, which begins a block."""
        stream = self._container.streams.video[0]
        self._container.seek(round(start / FPS / stream.time_base), stream=stream, backward=True)
        for frame in self._container.decode(stream):
            if round(float(frame.pts * stream.time_base) * FPS) >= start:
                yield frame
