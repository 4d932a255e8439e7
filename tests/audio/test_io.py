"""Reading sound."""

import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from instag.audio.io import read_audio
from instag.errors import DataError

RATE = 16_000


def write_wav(path: Path, channels: np.ndarray, rate: int) -> Path:  # [S, C] in [-1, 1]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.round(channels * 32767).astype("<i2").tobytes())
    return path


def tone(seconds: float, rate: int, hertz: float = 440) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def write_video(path: Path, sound_start: float, rate: int = RATE, hole: float = 0.0) -> Path:
    """One second of pictures from time 0, one second of tone from `sound_start`, with a hole after half of it."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=rate)
        audio.layout = "mono"
        for i in range(25):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 10 * i, np.uint8), format="rgb24")
            frame.pts = i
            container.mux(video.encode(frame))
        samples = np.round(tone(1, rate) * 32767).astype(np.int16)
        for part, start in ((samples[: rate // 2], 0.0), (samples[rate // 2 :], 0.5 + hole)):
            frame = av.AudioFrame.from_ndarray(part[None], format="s16", layout="mono")
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = round((sound_start + start) * rate)
            container.mux(audio.encode(frame))
        container.mux(video.encode())
        container.mux(audio.encode())
    return path


def test_mono_at_16_khz_is_read_as_it_is(tmp_path):
    sound = tone(0.7, RATE)
    read = read_audio(write_wav(tmp_path / "a.wav", sound[:, None], RATE))
    assert read.dtype == np.float32 and read.shape == sound.shape
    np.testing.assert_allclose(read, sound, atol=1e-4)


@pytest.mark.parametrize("rate", [48_000, 44_100, 8_000])
def test_stereo_and_other_rates_become_the_same_tone(rate, tmp_path):
    sound = tone(1, rate)
    read = read_audio(write_wav(tmp_path / "a.wav", np.stack([sound, sound], axis=1), rate))
    assert abs(len(read) - RATE) <= 32
    wanted = tone(1, RATE)[1000:15_000]
    np.testing.assert_allclose(read[1000:15_000], wanted, atol=0.01)


def test_channels_are_averaged_not_added(tmp_path):
    sound = tone(0.5, RATE)
    read = read_audio(write_wav(tmp_path / "a.wav", np.stack([sound, 0 * sound], axis=1), RATE))
    np.testing.assert_allclose(read, sound / 2, atol=1e-4)


def test_float_sound_beyond_full_scale_is_clipped(tmp_path):
    with av.open(str(tmp_path / "loud.wav"), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=RATE)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(4 * tone(0.5, RATE)[None].astype(np.float32), format="flt", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    read = read_audio(tmp_path / "loud.wav")
    assert (read.min(), read.max()) == (-1, 1) and len(read) == RATE // 2


def first_sound(samples: np.ndarray) -> float:
    return float(np.flatnonzero(np.abs(samples) > 0.05)[0]) / RATE


@pytest.mark.parametrize("rate", [RATE, 48_000])
def test_sound_is_laid_by_its_time_stamps(rate, tmp_path):
    late = read_audio(write_video(tmp_path / "late.mkv", sound_start=0.4, rate=rate))
    assert len(late) / RATE == pytest.approx(1.4, abs=0.005)
    assert first_sound(late) == pytest.approx(0.4, abs=0.005)
    torn = read_audio(write_video(tmp_path / "torn.mkv", sound_start=0.0, rate=rate, hole=0.3))
    assert len(torn) / RATE == pytest.approx(1.3, abs=0.005)
    assert np.abs(torn[int(0.55 * RATE) : int(0.75 * RATE)]).max() == 0
    assert np.abs(torn[int(0.85 * RATE) : int(1.25 * RATE)]).max() > 0.4


def test_sound_before_the_first_picture_is_cut(tmp_path):
    path = tmp_path / "early.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=RATE)
        audio.layout = "mono"
        samples = np.zeros((1, RATE), np.int16)
        samples[0, RATE // 2 :] = 20_000
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), 0
        container.mux(audio.encode(frame))
        for i in range(10):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            frame.pts = i + 5  # 0.2 s
            container.mux(video.encode(frame))
        container.mux(video.encode())
    read = read_audio(path)
    assert len(read) / RATE == pytest.approx(0.8, abs=0.002)
    assert first_sound(read) == pytest.approx(0.3, abs=0.002)


def test_unusable_files_are_named_with_a_remedy(tmp_path):
    cases = {"missing.wav": None, "empty.wav": b"", "text.wav": b"this is no sound at all" * 50}
    for name, content in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name) as error:
            read_audio(tmp_path / name)
        assert "\n" not in str(error.value) and ";" in str(error.value)
    write_wav(tmp_path / "none.wav", np.zeros((0, 1)), RATE)
    with pytest.raises(DataError, match=r"none\.wav"):
        read_audio(tmp_path / "none.wav")
    with av.open(str(tmp_path / "silent.mp4"), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(video.encode())
    with pytest.raises(DataError, match=r"silent\.mp4: no sound track"):
        read_audio(tmp_path / "silent.mp4")
