"""Pictures and videos of a subject in and out, uint8 RGB: decoding, random access to a video's frames, resizing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from instag.data.layout import FPS
from instag.errors import DataError

KEY_INTERVAL = FPS  # frames between key frames of our own videos (layout.SubjectFolder.frames)
DECODER_THREADS, TWIN_THREADS = 4, 1  # FFmpeg's of one video; by default 16, each with 2 MB of pictures at 512 px
VIDEO_CRF = 12  # H.264 4:4:4: 44 dB at 2 MB per 10 s at 512 px (issue 2, item 3)
VIDEO_PIXELS = "yuv444p"


def opencv() -> ModuleType:
    """The `cv2` module, with OpenCV's log kept off the terminal; DataError with the remedy where it is missing."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        import cv2
    except ImportError as error:
        raise DataError(
            f"reading frames needs OpenCV ({error}): pip install opencv-python-headless (a bare container may also "
            "lack the system libraries libgl1 and libglib2.0-0)"
        ) from None
    return cv2


class VideoFrames:
    """Random access to the frames of a video through OpenCV.

    Sequential reads do not seek. After a seek the frames from the key frame on are kept, so that reading backwards (the
    pose track of a synthesis runs forward and back) decodes each group of pictures once.
    """

    def __init__(self, path: Path, frames: int, label: str | None = None, threads: int = DECODER_THREADS):
        """path: the file; frames: how many it must hold; label: what errors call it (a member of a pack)."""
        self.path, self.frames, self.label, self.threads = path, frames, label or str(path), threads
        self._capture = None
        self._next = 0
        self._group: dict[int, np.ndarray] = {}  # frames of one group of pictures, RGB

    def read(self, i: int) -> np.ndarray:
        """Frame i as uint8 RGB [H, W, 3]; DataError where the video ends early or is damaged."""
        if not 0 <= i < self.frames:
            raise IndexError(f"frame {i} of {self.frames}")
        if i in self._group:
            return self._group[i]
        capture = self._open()
        if self._next <= i < self._next + KEY_INTERVAL:
            while self._next < i and capture.grab():
                self._next += 1
            return self._decode(i)
        self._next = i - i % KEY_INTERVAL
        capture.set(opencv().CAP_PROP_POS_FRAMES, self._next)
        self._group = {j: self._decode(j) for j in range(self._next, i + 1)}
        return self._group[i]

    def twin(self) -> VideoFrames:
        """The same video with a decoder of its own, beside others that decode at the same time."""
        return VideoFrames(self.path, self.frames, self.label, TWIN_THREADS)

    def close(self) -> None:
        """Release the decoder; the next read opens it again."""
        if self._capture is not None:
            self._capture.release()
        self._capture = None
        self._group = {}

    def _open(self) -> Any:  # cv2.VideoCapture; OpenCV is imported late
        cv2 = opencv()
        if self._capture is None:
            threads = [cv2.CAP_PROP_N_THREADS, self.threads]
            self._capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG, threads)
            self._next = 0
        if not self._capture.isOpened():
            self.close()
            raise DataError(f"{self.label}: not a video that OpenCV can read; make it anew with `instag process`")
        return self._capture

    def _decode(self, i: int) -> np.ndarray:
        """The next frame, which must be i."""
        found, frame = self._capture.read()
        if not found or self._next != i:
            self.close()
            raise DataError(
                f"{self.label}: frame {i} of {self.frames} cannot be read (cut short or damaged); "
                "make it anew with `instag process`"
            )
        self._next = i + 1
        return opencv().cvtColor(frame, opencv().COLOR_BGR2RGB)  # without Python's lock; numpy needs 5 times as long


def resize_image(image: np.ndarray, size: int) -> np.ndarray:
    """Area-averaged copy of an uint8 picture at size x size."""
    if image.shape[0] == size:
        return np.ascontiguousarray(image)
    cv2 = opencv()
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)


def resize_labels(labels: np.ndarray, size: int) -> np.ndarray:
    """Label map at size x size, the nearest pixel centre's label."""
    if labels.shape[0] == size:
        return np.ascontiguousarray(labels)
    cv2 = opencv()
    return cv2.resize(labels, (size, size), interpolation=cv2.INTER_NEAREST_EXACT)


def resize_prior(depth: np.ndarray, normal: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A network's depth [h, w] and normals [h, w, 3] at the working size, and where both are usable."""
    good = np.isfinite(depth) & np.isfinite(normal).all(2) & (np.abs(normal).sum(2) > 0)  # [h, w]
    weight = resize_image(good.astype(np.float32), size)
    share = np.maximum(weight, 1e-6)
    depth = resize_image(np.where(good, depth, 0).astype(np.float32), size) / share
    normal = resize_image(np.where(good[..., None], normal, 0).astype(np.float32), size)
    length = np.linalg.norm(normal, axis=2, keepdims=True)
    valid = (weight > 0.5) & (length[..., 0] > 0)
    return depth * valid, normal / np.maximum(length, 1e-6) * valid[..., None], valid


def encode_video(path: Path, read: Callable[[int], np.ndarray], frames: int, size: int) -> Path:
    """Encode pictures 0 .. frames - 1 (uint8 RGB [size, size, 3]) the way all our videos are; needs PyAV."""
    from instag.media import VideoWriter

    with VideoWriter(path, FPS, size, crf=VIDEO_CRF, pixel_format=VIDEO_PIXELS, gop=KEY_INTERVAL) as video:
        for i in range(frames):
            video.write(read(i))
    return path


def decode_picture(data: bytes | np.ndarray, source: str, grey: bool = False, alpha: bool = False) -> np.ndarray:
    """Decode PNG or JPEG bytes to uint8: RGB [H, W, 3], RGBA with `alpha`, [H, W] with `grey`; DataError if damaged."""
    cv2 = opencv()
    flag = cv2.IMREAD_UNCHANGED if grey or alpha else cv2.IMREAD_COLOR
    raw = np.frombuffer(data, np.uint8)
    picture = cv2.imdecode(raw, flag) if raw.size else None
    channels = {True: 2, False: 3}[grey]
    bad = picture is None or picture.dtype != np.uint8 or picture.ndim != channels
    if bad or (alpha and picture.shape[2] != 4):
        wanted = "an 8-bit grey" if grey else "an 8-bit RGBA" if alpha else "an 8-bit RGB"
        raise DataError(f"{source}: not {wanted} picture (damaged?); make it anew with `instag process`")
    if grey:
        return picture
    order = [2, 1, 0, 3] if alpha else [2, 1, 0]
    return np.ascontiguousarray(picture[..., order])
