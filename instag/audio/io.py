"""Sound in: any container that FFmpeg opens (through PyAV) -> mono float32 at 16 kHz."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from instag.data.layout import SAMPLE_RATE
from instag.errors import DataError

# A hole in the time stamps longer than this is silence to be put back; shorter ones are rounding in the container.
GAP_SECONDS = 0.05
REMEDY = "convert it first: ffmpeg -i FILE -vn -ac 1 -ar 16000 speech.wav"


def read_audio(path: Path | str) -> np.ndarray:
    """Decode the first sound track of a file.

    Returns float32 [S], mono, 16 kHz, clipped to [-1, 1]. In a video, sample 0 belongs to the time of the first video
    frame: sound before it is cut, a late start and holes in the time stamps become silence. In a file without video,
    sample 0 is the first sample.
    Raises DataError when the file is missing, unreadable, damaged, has no sound track, or the track is empty.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such sound or video file; check the path")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; copy or download it again")
    try:
        with av.open(str(path.absolute()), metadata_errors="replace") as container:
            if not container.streams.audio:
                raise DataError(f"{path}: no sound track; give a file with speech, for example a .wav")
            chunks = _decode(container, path)
    except av.error.FFmpegError as error:
        raise DataError(f"{path}: cannot be read as sound ({error.strerror}); {REMEDY}") from None
    samples = np.concatenate(chunks) if chunks else np.zeros(0, np.float32)
    if samples.size == 0:
        raise DataError(f"{path}: the sound track is empty; {REMEDY}")
    if not np.isfinite(samples).all():
        raise DataError(f"{path}: the sound track holds not-a-number; {REMEDY}")
    return np.clip(samples, -1.0, 1.0)


def _decode(container: av.container.InputContainer, path: Path) -> list[np.ndarray]:
    """Chunks [s] of mono float32 at 16 kHz, laid end to end from time zero."""
    resampler = av.AudioResampler(format="fltp", rate=SAMPLE_RATE)
    zero = _first_video_time(container)
    chunks: list[np.ndarray] = []
    clock: float | None = None  # seconds laid so far, counted from time zero
    cut = 0  # samples before time zero
    for frame in container.decode(container.streams.audio[0]):
        if frame.samples == 0:
            continue
        if clock is None:
            if zero is None or frame.time is None:
                zero = frame.time or 0.0
            clock = min((frame.time or 0.0) - zero, 0.0)
            cut = round(-clock * SAMPLE_RATE)
            tolerance = 0.0
        gap = frame.time - zero - clock if frame.time is not None else 0.0
        if gap > tolerance:
            chunks.append(np.zeros(round(gap * SAMPLE_RATE), np.float32))
            clock += gap
        tolerance = GAP_SECONDS
        chunks += _to_mono(resampler, frame, path, clock)
        clock += frame.samples / frame.sample_rate
    if clock is None:
        return []
    chunks += _to_mono(resampler, None, path, clock)
    return [np.concatenate(chunks)[cut:]]


def _to_mono(
    resampler: av.AudioResampler, frame: av.AudioFrame | None, path: Path, time: float
) -> list[np.ndarray]:  # chunks [s]
    """The mean of the channels: FFmpeg's own downmix of float sound is 3 dB louder and may clip."""
    try:
        return [part.to_ndarray().mean(axis=0, dtype=np.float32) for part in resampler.resample(frame)]
    except ValueError:
        raise DataError(f"{path}: rate or channels of the sound change at {time:.2f} s; {REMEDY}") from None


def _first_video_time(container: av.container.InputContainer) -> float | None:
    """Seconds at which the first video frame stands; None without video (a cover picture is none)."""
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic and stream.start_time is not None:
            return float(stream.start_time * stream.time_base)
    return None
