"""Where rendered frames go: a video, a folder of PNGs, both; encoded beside the rendering, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np

from instag.data.layout import FPS
from instag.data.pictures import decode_picture, opencv
from instag.errors import DataError, InstagError

VIDEO_CRF = 18  # visually lossless in 4:2:0
VIDEO_PRESET = "veryfast"  # of x264: the encoder is what a GPU waits for
QUEUED_WRITES = 8  # batches of frames that may wait for the encoder: bounds memory
PREPARERS = 4  # threads that bring frames into the encoder's form: one can only just feed x264
PNG_COMPRESSION = 1  # of 9: speed counts, size does not


class FrameSink(Protocol):
    """Takes frames in order; nothing is left of it unless `close` is reached."""

    def prepare(self, frame: np.ndarray) -> np.ndarray:
        """What is written of a frame, uint8 RGB [H, W, 3]; asked for on several threads, frames in any order."""

    def write(self, prepared: np.ndarray) -> None:
        """Append one prepared frame."""

    def close(self) -> None:
        """Finish, and put the result in its place."""

    def discard(self) -> None:
        """Drop what was written."""


class VideoSink:
    """An mp4 with sound (`instag.media.VideoWriter`) that every player shows: H.264 4:2:0, AAC."""

    def __init__(self, path: Path, size: int, sound: tuple[np.ndarray, int], tags: Mapping[str, str]):
        """path: `.mp4`; size: H = W, even; sound: samples [S] in [-1, 1] and Hz; tags: of the container."""
        from instag.media import VideoWriter

        if Path(path).is_dir():
            raise InstagError(f"cannot write {path}: it is a folder; give the name of a file")
        self._writer = VideoWriter(path, FPS, size, VIDEO_CRF, "yuv420p", VIDEO_PRESET, audio=sound, metadata=tags)

    def prepare(self, frame: np.ndarray) -> np.ndarray:
        """Planes."""
        return self._writer.planes(frame)

    def write(self, prepared: np.ndarray) -> None:
        """Append one frame."""
        self._writer.write_planes(prepared)

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()

    def discard(self) -> None:
        """Drop the half-written file."""
        self._writer.discard()


class FrameFolderWriter:
    """A folder `000000.png` ...; written beside its place and moved there when complete.

    An earlier folder of frames there is replaced; a folder that holds anything else is an error.
    """

    def __init__(self, path: Path):
        """path: the folder."""
        self.path = Path(path)
        if self.path.exists() and not _is_frame_folder(self.path):
            raise InstagError(f"cannot write {self.path}: it exists and is no folder of frames; choose another name")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._partial = Path(tempfile.mkdtemp(dir=self.path.parent, prefix=f".{self.path.name}."))
        except OSError as error:
            raise InstagError(f"cannot write {path}: {error.strerror}; choose another output folder") from None
        self._count = 0

    def prepare(self, frame: np.ndarray) -> np.ndarray:
        """The bytes of a PNG."""
        cv2 = opencv()
        return cv2.imencode(".png", frame[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, PNG_COMPRESSION])[1]

    def write(self, prepared: np.ndarray) -> None:
        """Append one frame."""
        file = self._partial / frame_name(self._count)
        try:
            file.write_bytes(prepared)
        except OSError as error:
            raise InstagError(f"cannot write {file} ({error.strerror}): choose another output folder") from None
        self._count += 1

    def close(self) -> None:
        """Move the folder to its place."""
        try:
            if self.path.exists():
                shutil.rmtree(self.path)
            self._partial.chmod(0o755)  # mkdtemp's folders are private; what we write is not
            os.replace(self._partial, self.path)
        except OSError as error:
            self.discard()
            raise InstagError(f"cannot write {self.path}: {error.strerror}; choose another output folder") from None

    def discard(self) -> None:
        """Drop the frames written so far."""
        shutil.rmtree(self._partial, ignore_errors=True)


class FrameFolder(Sequence[np.ndarray]):
    """The frames of a folder that `FrameFolderWriter` wrote, read when asked for: uint8 RGB [H, W, 3]."""

    def __init__(self, path: Path | str):
        """path: the folder; DataError where it holds no frames."""
        self.path = Path(path)
        if not self.path.is_dir() or not (self.path / frame_name(0)).is_file():
            raise DataError(f"{path}: no folder of frames ({frame_name(0)} ...); make it with `instag synthesize`")
        self._count = sum(1 for _ in self.path.glob("*.png"))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i):
        """Frame i."""
        if not 0 <= i < self._count:
            raise IndexError(f"frame {i} of {self._count}")
        file = self.path / frame_name(i)
        try:
            data = file.read_bytes()
        except OSError as error:
            raise DataError(f"{file}: {error.strerror}; write the frames anew") from None
        return decode_picture(data, str(file))


class OrderedWriter:
    """Prepares frames on a few threads and writes them on one, in order, while the caller renders the next ones.

    Leaving the `with` block closes the sinks when all went well, else discards them. An error of a sink is raised by
    the next `write`, or at the end.
    """

    def __init__(self, sinks: Sequence[FrameSink]):
        self._sinks = list(sinks)
        self._pool = ThreadPoolExecutor(1, "frames")
        self._preparers = ThreadPoolExecutor(PREPARERS, "prepare")
        self._waiting: deque[Future[None]] = deque()

    def write(self, frames: np.ndarray) -> None:
        """Append frames uint8 [B, H, W, 3]; waits while too many are queued."""
        prepared = [[self._preparers.submit(sink.prepare, frame) for sink in self._sinks] for frame in frames]
        self._waiting.append(self._pool.submit(self._write, prepared))
        while len(self._waiting) > QUEUED_WRITES or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()

    def _write(self, frames: list[list[Future[np.ndarray]]]) -> None:
        for prepared in frames:
            for sink, future in zip(self._sinks, prepared, strict=True):
                sink.write(future.result())

    def __enter__(self) -> OrderedWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                while self._waiting:
                    self._waiting.popleft().result()
        except BaseException:
            self._finish(keep=False)
            raise
        self._finish(keep=kind is None)

    def _finish(self, keep: bool) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._preparers.shutdown(cancel_futures=True)
        for k, sink in enumerate(self._sinks):
            if not keep:
                sink.discard()
                continue
            try:
                sink.close()
            except BaseException:
                for rest in self._sinks[k + 1 :]:
                    rest.discard()
                raise


def frame_name(i: int) -> str:
    """File name of frame i."""
    return f"{i:06d}.png"


def _is_frame_folder(path: Path) -> bool:
    if not path.is_dir():
        return False
    return all(file.suffix == ".png" and file.stem.isdigit() for file in path.iterdir())
