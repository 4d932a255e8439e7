"""Writing video files: H.264 with sound, atomically. Reading and cropping is `instag.data_utils.video`."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import cv2
import numpy as np
from av.codec.context import Flags

from instag.errors import DataError

# H.264 matrix of the pictures we write, as ITU-T H.273 numbers them: SMPTE 170M (BT.601), the one that OpenCV assumes.
BT601 = 6
LIMITED_RANGE = 1
_BLUE, _RED = 0.114, 0.299  # of the luma (BT.601)
_LUMA_STEPS, _CHROMA_STEPS = 219 / 255, 224 / 255  # of limited range
_ZERO = np.array([16.0, 128.0, 128.0])
AAC_FRAME = 1024  # samples
AAC_BITS_PER_SECOND = 160_000
# 30 % less time than `medium`, 0.7 dB below it (german20s, 512x512, 4:4:4, CRF 12: 2.1 MB for 10 s at 44.7 dB).
DEFAULT_PRESET = "faster"
# x264's macroblock tree reads memory that it never wrote at many widths below 256 px: the same pictures gave up to ten
# different files. Without it a file is a fifth larger and 0.2 dB better (german20s, 512 px).
X264_REPEATABLE = "mbtree=0"
# x264's own threads wait for one another at these sizes (550 frames/s on 64 cores), and their number changes the bytes.
CHUNK = 50  # frames at least that an encoder of one thread makes; 25 take 1.5 % more bytes
MOST_ENCODERS = 12  # side by side; each holds a chunk of pictures


def _rgb_to_yuv() -> np.ndarray:
    """[3, 4]: RGB 0..255 -> Y, U, V of BT.601 in limited range."""
    luma = np.array([_RED, 1 - _RED - _BLUE, _BLUE])
    blue, red = np.array([0.0, 0.0, 1.0]) - luma, np.array([1.0, 0.0, 0.0]) - luma
    rows = _LUMA_STEPS * luma, _CHROMA_STEPS * 0.5 / (1 - _BLUE) * blue, _CHROMA_STEPS * 0.5 / (1 - _RED) * red
    return np.column_stack([np.stack(rows), _ZERO])


_TO_YUV = _rgb_to_yuv()
_INVERSE = np.linalg.inv(_TO_YUV[:, :3])
_TO_RGB = np.column_stack([_INVERSE, -_INVERSE @ _ZERO])


def to_planes(picture: np.ndarray) -> np.ndarray:
    """Y, U, V uint8 [3, H, W] (BT.601, limited range) of RGB uint8 [H, W, 3].

    Within a level of swscale, which takes five times as long at full chroma.
    """
    return np.stack(cv2.split(cv2.transform(picture, _TO_YUV)))


def picture_of(frame: av.VideoFrame) -> np.ndarray:
    """RGB uint8 [H, W, 3] of a decoded picture. `VideoWriter`'s at full chroma take a tenth of the time."""
    if frame.format.name != "yuv444p" or (frame.colorspace, frame.color_range) != (BT601, LIMITED_RANGE):
        return frame.to_ndarray(format="rgb24")
    planes = [np.frombuffer(p, np.uint8).reshape(p.height, p.line_size)[:, : p.width] for p in frame.planes]
    return cv2.transform(cv2.merge(planes), _TO_RGB)


class VideoWriter:
    """H.264 file, written beside its final name and moved there when complete; nothing is left after an error.

    with VideoWriter(path, 25, 512) as writer:
        writer.write(frame)

    Args:
        path: the file to make; the ending chooses the container (`.mp4`).
        fps: frames a second.
        size: (width, height) in pixels, or one number for a square.
        crf: x264 quality, 0 (lossless) .. 51.
        pixel_format: `yuv444p` keeps colour at full resolution; `yuv420p` is what every player shows.
        preset: of x264: speed against size.
        gop: a key frame at least every so many frames.
        audio: (samples, rate): float [S] or [S, C] in [-1, 1]; written as AAC, cut or padded with silence to the
            length of the pictures.
        metadata: container tags (`title`, `comment`, ...).
        coder: of x264: `vlc` makes the same pictures in a seventh more bytes than `cabac`, encoded in four fifths and
            decoded in two thirds of the time.

    Raises:
        DataError: the file cannot be written, or a frame has another size than the first.
    """

    def __init__(
        self,
        path: Path | str,
        fps: float,
        size: int | tuple[int, int],
        crf: float = 12,
        pixel_format: str = "yuv444p",
        preset: str = DEFAULT_PRESET,
        gop: int = 25,
        audio: tuple[np.ndarray, int] | None = None,
        metadata: Mapping[str, str] | None = None,
        coder: str = "cabac",
    ) -> None:
        self.path = Path(path)
        self.width, self.height = (size, size) if isinstance(size, int) else size
        if pixel_format == "yuv420p" and (self.width % 2 or self.height % 2):
            raise DataError(f"{path}: {self.width}x{self.height} is odd, which yuv420p cannot hold; use an even size")
        self.fps = Fraction(fps).limit_denominator(1001)
        self.frames = self._muxed = 0
        self._pixel_format = pixel_format
        self._partial = self.path.with_name(f".{self.path.stem}.{os.getpid()}.partial{self.path.suffix}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(str(self._partial), "w", options={"movflags": "+faststart+use_metadata_tags"})
        except (OSError, ValueError, av.error.FFmpegError) as error:
            raise DataError(f"{path}: cannot be written ({error}); choose another place for it") from None
        self._container.metadata.update(metadata or {})
        options = {"crf": str(crf), "preset": preset, "coder": coder, "g": str(gop), "x264-params": X264_REPEATABLE}
        self._video = self._container.add_stream("libx264", rate=self.fps)  # says what the chunks' encoders are like
        self._configure(self._video.codec_context, options)
        self._chunks = _Chunks(lambda: self._encoder(options), -(-CHUNK // gop) * gop)
        self._sound = None if audio is None else _Sound(self._container, *audio)

    def _encoder(self, options: Mapping[str, str]) -> av.VideoCodecContext:
        """A new encoder of this stream."""
        context = av.CodecContext.create("libx264", "w")
        context.flags |= self._video.codec_context.flags & Flags.global_header
        self._configure(context, options)
        return context

    def _configure(self, context: av.VideoCodecContext, options: Mapping[str, str]) -> None:
        context.width, context.height, context.pix_fmt = self.width, self.height, self._pixel_format
        context.options = dict(options)
        context.thread_count = 1
        context.framerate, context.time_base = self.fps, 1 / self.fps
        context.colorspace, context.color_range = BT601, LIMITED_RANGE

    def write(self, frame: np.ndarray) -> None:
        """Append one picture, uint8 [H, W, 3] RGB."""
        self.write_planes(self.planes(frame))

    def planes(self, frame: np.ndarray) -> np.ndarray:
        """A picture, uint8 [H, W, 3] RGB, as `write_planes` takes it; safe on any thread."""
        if frame.shape != (self.height, self.width, 3) or frame.dtype != np.uint8:
            expected = f"uint8 [{self.height}, {self.width}, 3]"
            raise DataError(f"{self.path}: a frame is {frame.dtype} {list(frame.shape)}, not {expected}")
        return to_planes(frame) if self._pixel_format == "yuv444p" else cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420)

    def write_planes(self, planes: np.ndarray) -> None:
        """Append one picture: Y, U, V uint8 [3, H, W], or at half chroma one below the other [3 H / 2, W]."""
        picture = av.VideoFrame.from_ndarray(planes, format=self._pixel_format)
        picture.colorspace, picture.color_range = BT601, LIMITED_RANGE
        picture.pts, picture.time_base = self.frames, 1 / self.fps
        self.frames += 1
        self._mux_chunks(self._chunks.add(picture))

    def close(self) -> None:
        """Finish the file and move it to its name."""
        try:
            self._mux_chunks(self._chunks.finish())
            if self._sound is not None:
                self._mux(self._sound.flush(self.frames / self.fps))
            self._container.close()
            os.replace(self._partial, self.path)
        except (OSError, av.error.FFmpegError) as error:
            self.discard()
            raise DataError(f"{self.path}: cannot be written ({error}); is the disk full?") from None

    def discard(self) -> None:
        """Drop what was written."""
        self._chunks.drop()
        with contextlib.suppress(OSError, av.error.FFmpegError):  # what it holds is not wanted
            self._container.close()
        self._partial.unlink(missing_ok=True)

    def _mux_chunks(self, chunks: Iterator[list[av.Packet]]) -> None:
        """Chunks, and the sound beside them: the same file whenever they come."""
        for packets in chunks:
            for packet in packets:
                packet.stream = self._video
            self._mux(packets)
            self._muxed += len(packets)
            if self._sound is not None:
                self._mux(self._sound.encode_until(self._muxed / self.fps))

    def _mux(self, packets: list[av.Packet]) -> None:
        try:
            for packet in packets:
                self._container.mux(packet)
        except (OSError, av.error.FFmpegError) as error:
            raise DataError(f"{self.path}: cannot be written ({error}); is the disk full?") from None

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


class _Chunks:
    """Pictures to packets: every chunk by an encoder of its own, several side by side; packets in order."""

    def __init__(self, encoder: Callable[[], av.VideoCodecContext], length: int) -> None:
        """encoder: makes a new one, on any thread; length: pictures of a chunk."""
        self._encoder, self._length = encoder, length
        self._workers = min(os.cpu_count() or 1, MOST_ENCODERS)
        self._pool = ThreadPoolExecutor(self._workers, "x264")
        self._pictures: list[av.VideoFrame] = []
        self._begun: deque[Future[list[av.Packet]]] = deque()

    def add(self, picture: av.VideoFrame) -> Iterator[list[av.Packet]]:
        """Take a picture; the chunks that are made, after waiting while too many are not."""
        self._pictures.append(picture)
        if len(self._pictures) == self._length:
            self._begin()
        while self._begun and (len(self._begun) > self._workers or self._begun[0].done()):
            yield self._begun.popleft().result()

    def finish(self) -> Iterator[list[av.Packet]]:
        """That was the last picture; the other chunks."""
        self._begin()
        while self._begun:
            yield self._begun.popleft().result()
        self._pool.shutdown()

    def drop(self) -> None:
        """Make no more."""
        self._pool.shutdown(cancel_futures=True)

    def _begin(self) -> None:
        if self._pictures:
            self._begun.append(self._pool.submit(self._encode, self._pictures))
        self._pictures = []

    def _encode(self, pictures: list[av.VideoFrame]) -> list[av.Packet]:
        encoder = self._encoder()
        return [packet for picture in (*pictures, None) for packet in encoder.encode(picture)]


class _Sound:
    """AAC stream fed in step with the pictures, so that players find both side by side in the file."""

    def __init__(self, container: av.container.OutputContainer, samples: np.ndarray, rate: int) -> None:
        samples = np.asarray(samples, np.float32)
        self.samples = np.clip(samples.reshape(len(samples), -1).T, -1.0, 1.0)  # [C, S]
        self.rate = int(rate)
        self.layout = "mono" if len(self.samples) == 1 else "stereo"
        self.stream = container.add_stream("aac", rate=self.rate, layout=self.layout)
        self.stream.bit_rate = AAC_BITS_PER_SECOND
        self.position = 0

    def encode_until(self, seconds: Fraction, stop: int | None = None) -> list[av.Packet]:
        """Packets of the whole AAC frames that lie before a time; the last one may be shorter when `stop` is given."""
        packets: list[av.Packet] = []
        end = int(seconds * self.rate) if stop is None else stop
        while self.position + AAC_FRAME <= end or (stop is not None and self.position < stop):
            count = min(AAC_FRAME, end - self.position)
            block = self.samples[:, self.position : self.position + count]
            block = np.pad(block, ((0, 0), (0, count - block.shape[1])))  # silence after the end of the sound
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout=self.layout)
            frame.rate, frame.pts, frame.time_base = self.rate, self.position, Fraction(1, self.rate)
            packets += self.stream.encode(frame)
            self.position += count
        return packets

    def flush(self, seconds: Fraction) -> list[av.Packet]:
        """The rest up to a time, and what the encoder still holds."""
        return self.encode_until(seconds, stop=round(seconds * self.rate)) + self.stream.encode(None)
