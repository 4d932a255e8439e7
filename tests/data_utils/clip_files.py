"""Writes video files of every kind with PyAV, for the tests of unusual and broken clips."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

CLOCK = 90_000
RATE = 16_000
SOUND_CODECS = {".webm": "libopus", ".avi": "libmp3lame", ".mkv": "flac"}


def write_clip(
    path: Path,
    frames,
    sound: np.ndarray | None,
    *,
    fps: float = 25,
    times=None,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    rate: int = RATE,
    layout: str = "mono",
    sound_start: float = 0.0,
    options: dict | None = None,
    aspect: Fraction | None = None,
    transfer: int | None = None,
    sound_codec: str | None = None,
) -> Path:
    """frames: uint8 [T, H, W, 3], shown at `times` (seconds) or at `fps`. sound: [S] at `rate`, or None.

    aspect: width over height of a pixel. transfer: H.273 number that the pictures claim.
    """
    times = np.arange(len(frames)) / fps if times is None else times
    with av.open(str(path), "w", format=None) as container:
        video = container.add_stream(codec, rate=max(1, round(fps)), options=options or {})
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = pixels
        clock = Fraction(1, round(fps)) if path.suffix in (".avi", ".gif") else Fraction(1, CLOCK)
        video.codec_context.time_base = clock
        if aspect:
            video.codec_context.sample_aspect_ratio = aspect
        if transfer:
            video.codec_context.color_trc = transfer
        audio = None
        if sound is not None:
            audio = container.add_stream(sound_codec or SOUND_CODECS.get(path.suffix, "aac"), rate=rate, layout=layout)
        for time, picture in zip(times, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = round(time / clock), clock
            if transfer:
                frame.color_trc = transfer
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            _write_sound(container, audio, np.asarray(sound, np.float32), rate, layout, sound_start)
    return path


def _write_sound(container, stream, sound: np.ndarray, rate: int, layout: str, start: float) -> None:
    channels = av.AudioLayout(layout).nb_channels
    resampler = av.AudioResampler(stream.codec_context.format or "fltp", layout, rate)
    fifo = av.AudioFifo()
    block = av.AudioFrame.from_ndarray(np.tile(sound, (channels, 1)), format="fltp", layout=layout)
    block.rate = rate
    for part in resampler.resample(block):
        fifo.write(part)
    size = stream.codec_context.frame_size or 1024
    position = round(start * rate)
    while part := fifo.read(size) or fifo.read():
        part.pts, part.time_base = position, Fraction(1, rate)
        position += part.samples
        container.mux(stream.encode(part))
    container.mux(stream.encode(None))


def turn(path: Path, degrees: int) -> Path:
    """Set the rotation tag of an mp4: to be shown turned clockwise."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # version 0 track header: the 3x3 matrix
    one = 1 << 16
    turns = {90: (0, one, -one, 0), 180: (-one, 0, 0, -one), 270: (0, -one, one, 0)}
    a, b, c, d = turns[degrees]
    data[matrix : matrix + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path
