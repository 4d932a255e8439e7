"""Broken and unusual files: each ends in one clear line or in a right result, and none leaves anything half-done.

Reading, shots, crop, landmarks and sound run as they are; the slow picture steps behind them are left out.
"""

import errno
import json
import os
from fractions import Fraction

import av
import numpy as np
import pytest
from clip_files import RATE, turn, write_clip
from scipy.io import wavfile

from instag.audio.io import read_audio
from instag.data.layout import FPS, SubjectFolder
from instag.data_utils import pipeline
from instag.data_utils.clip import WorkFiles
from instag.data_utils.process import process
from instag.data_utils.video import FrameReader, iterate_frames, probe
from instag.errors import DataError, InstagError

SIZE, COUNT = 128, 54  # of the subject made; frames of the base clip that are used
SLOW = {  # each has a neighbour that takes the same way through the program
    *("face that leaves", "face for moments"),
    *("frames twice", "grey", "10 bit", "letterbox", "pictures late", "sound late", "wide pixels", "avi"),
    *("webm", "mov", "turned 270", "stereo 8 kHz", "96 kHz", "spaces", "dash", "link"),
}


def rare_slow(cases):
    """Names of the cases for `parametrize`, those of `SLOW` marked."""
    return [pytest.param(case, marks=pytest.mark.slow) if case in SLOW else case for case in cases]


@pytest.fixture(scope="session")
def take(clip):
    """Pictures [54, 256, 256, 3] and sound [S] of the procedural speaker."""
    frames = np.stack(list(iterate_frames(clip)))[:COUNT]
    return frames, read_audio(clip)[: COUNT * RATE // FPS]


@pytest.fixture
def ingest(tmp_path, monkeypatch):
    """`process` up to the landmarks; returns the folder."""
    steps = tuple(step for step in pipeline.STEPS if step.name in ("survey", "video", "audio", "landmarks"))
    monkeypatch.setattr(pipeline, "STEPS", steps)

    def run(path, **options):
        return process(path, tmp_path / "out", size=SIZE, workers=1, **options)

    return run


def check_result(folder: SubjectFolder, frames: int, slack: int = 1) -> dict:
    """The subject is whole; returns subject.json."""
    facts = json.loads(folder.manifest.read_text())
    assert abs(facts["frames"] - frames) <= slack
    reader = FrameReader(folder.frames)
    assert len(reader) == facts["frames"] and reader.size == SIZE
    rate, sound = wavfile.read(folder.audio)
    assert rate == RATE and len(sound) == facts["frames"] * RATE // FPS and np.abs(sound).max() > 300
    with np.load(WorkFiles(folder).landmarks) as arrays:
        points = arrays["landmarks"]
    assert len(points) == facts["frames"] and np.isfinite(points).all()
    middle = points[:, :, :2].mean((0, 1))
    assert (np.abs(middle - SIZE / 2) < SIZE / 5).all()  # the face is in the middle of the crop
    assert not list(folder.root.rglob("*partial*"))
    return facts


def warnings_of(facts: dict) -> str:
    return " | ".join(text for told in facts["warnings"].values() for text in told)


# --- refused ------------------------------------------------------------------------------------------------------
def cut(source, target, share):
    data = source.read_bytes()
    target.write_bytes(data[: int(share * len(data))])
    return target


def sound_only(path, sound):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound[None, :1024].astype(np.float32), format="fltp", layout="mono")
        frame.rate = RATE
        container.mux(stream.encode(frame) + stream.encode(None))
    return path


def fifo(path):
    os.mkfifo(path)
    return path


def link_loop(path):
    path.symlink_to(path.name)
    return path


def with_nan(path, frames, sound):
    sound = sound.copy()
    sound[2000:2100] = np.nan
    return write_clip(path.with_suffix(".mkv"), frames, sound, sound_codec="pcm_f32le")


def strip(path, frames, sound):
    """7680 x 64 pixels of wall."""
    return write_clip(path, np.tile(frames[:, :64, :60], (1, 1, 128, 1)), sound, codec="mjpeg", pixels="yuvj420p")


def room(frames, shade=90):
    return np.full_like(frames, shade)


REFUSED = {
    "missing": (lambda p, f, s: p, "no such file"),
    "zero bytes": (lambda p, f, s: p.touch() or p, "empty"),
    "text": (lambda p, f, s: p.write_text("no video " * 99) and p, "not a readable video"),
    "random bytes": (lambda p, f, s: p.write_bytes(np.random.default_rng(0).bytes(9999)) and p, "not a readable"),
    "header only": (lambda p, f, s: cut(write_clip(p, f, s), p, 0.1), "not a readable video"),
    "sound only": (lambda p, f, s: sound_only(p, s), "only sound"),
    "wave": (lambda p, f, s: wavfile.write(p, RATE, s) or p, "only sound"),
    "no sound": (lambda p, f, s: write_clip(p, f, None), "no sound"),
    "one frame": (lambda p, f, s: write_clip(p, f[:1], s[:640]), "long|decoded"),
    "two frames": (lambda p, f, s: write_clip(p, f[:2], s[:1280]), "long|decoded"),
    "16 x 16": (lambda p, f, s: write_clip(p, f[:, ::16, ::16], s), "16 x 16 pixels are too few"),
    "black": (lambda p, f, s: write_clip(p, room(f, 0), s), "no face found"),
    "empty room": (lambda p, f, s: write_clip(p, room(f), s), "no face found"),
    "8k strip": (
        lambda p, f, s: write_clip(p, np.tile(f[:, :64, :60], (1, 1, 128, 1)), s, codec="mjpeg", pixels="yuvj420p"),
        "no face",
    ),
    "silence": (lambda p, f, s: write_clip(p, f, 0 * s), "silent"),
    "not-a-number": (lambda p, f, s: with_nan(p, f, s), "not-a-number"),
    "folder": (lambda p, f, s: p.mkdir() or p, "is a folder"),
    "link to itself": (lambda p, f, s: link_loop(p), "clip.mp4: .*; give the path"),
    "pipe": (lambda p, f, s: fifo(p), "no regular file"),
    "device": (lambda p, f, s: p.symlink_to("/dev/zero") or p, "no regular file"),
    "picture": (lambda p, f, s: write_clip(p.with_suffix(".gif"), f, None, codec="gif", pixels="rgb8"), "no sound"),
    "face at the end": (lambda p, f, s: write_clip(p, np.r_[room(f), f[:25]], np.r_[s, s]), "never seen for 2 s"),
    "face that leaves": (lambda p, f, s: write_clip(p, np.r_[f[:30], room(f)], np.r_[s, s]), "never seen for 2 s"),
    "face for moments": (
        lambda p, f, s: write_clip(p, np.r_[f[:20], room(f)[:12], f[20:40], room(f)[:12], f[:20]], np.r_[s, s]),
        "never seen for 2 s",
    ),
    "name with a zero": (lambda p, f, s: p.with_name("a\0b.mp4"), "null|give the path"),
    "name too long": (lambda p, f, s: p.with_name("a" * 300 + ".mp4"), "too long"),
}


@pytest.mark.parametrize("case", rare_slow(REFUSED))
def test_refused_in_one_line(case, tmp_path, take, ingest):
    make, words = REFUSED[case]
    path = make(tmp_path / "clip.mp4", *take)
    with pytest.raises(InstagError, match=words) as error:
        ingest(path)
    text = str(error.value)
    assert "\n" not in text and ";" in text and text.startswith(str(path))  # culprit and remedy
    assert not (tmp_path / "out").exists()


# --- accepted -----------------------------------------------------------------------------------------------------
def small(frames):
    return frames[:, ::2, ::2]


def beside(frames):
    """A second, smaller person to the left of the speaker."""
    other = np.zeros_like(frames)
    other[:, 64:192, 64:192] = frames[::-1, ::2, ::2]
    return np.concatenate([other, frames], axis=2)


def late_frames(path, frames, sound):
    """A hole of a second in the time stamps, while the sound goes on."""
    times = np.arange(COUNT) / FPS + (np.arange(COUNT) > 30)
    return write_clip(path, frames, np.r_[sound, sound], times=times)


def cut_off(path, frames, sound):
    """There and back, without the end of the file."""
    path = write_clip(path.with_suffix(".mkv"), np.r_[frames, frames[::-1]], np.r_[sound, sound], options={"g": "5"})
    return cut(path, path, 0.6)


def lossless(path, frames, sound, pixels="bgr0"):
    return write_clip(path.with_suffix(".mkv"), frames, sound, codec="ffv1", pixels=pixels)


TIMES = np.arange(COUNT) / FPS
UNEVEN = np.cumsum(np.r_[0, np.tile([0.02, 0.06, 0.04], 18)])[:COUNT]
BARS = ((0, 0), (48, 48), (0, 0), (0, 0))
ACCEPTED = {  # what is written; frames of the subject; words of a warning
    "1 fps": (lambda p, f, s: write_clip(p, f[:3], np.r_[s, s][: 3 * RATE], fps=1), 75, "stands still"),
    "240 fps": (lambda p, f, s: write_clip(p, np.repeat(small(f), 10, 0)[:500], s, fps=240), 52, ""),
    "variable rate": (lambda p, f, s: write_clip(p, f, s, times=UNEVEN), 54, ""),
    "frames twice": (lambda p, f, s: write_clip(p, np.repeat(f[::2], 2, 0), s), 54, "stands still"),
    "hole in time": (late_frames, 79, "stands still"),
    "odd size": (lambda p, f, s: lossless(p, f[:, 1:, :-3], s), 54, ""),
    "grey": (lambda p, f, s: lossless(p, f, s, "gray"), 54, ""),
    "10 bit": (lambda p, f, s: lossless(p, f, s, "yuv420p10le"), 54, ""),
    "turned 90": (lambda p, f, s: turn(write_clip(p, np.rot90(f, 1, (1, 2)), s), 90), 54, ""),
    "wide pixels": (lambda p, f, s: write_clip(p, f[:, :, ::2], s, aspect=Fraction(2)), 54, ""),
    "letterbox": (lambda p, f, s: write_clip(p, np.pad(f, BARS), s), 54, ""),
    "pictures late": (lambda p, f, s: write_clip(p, f, np.r_[s, s], times=TIMES + 1.5), 54, ""),
    "sound late": (lambda p, f, s: write_clip(p, f, s[:16000], sound_start=0.7), 54, ""),
    "clipped sound": (lambda p, f, s: write_clip(p.with_suffix(".mkv"), f, np.clip(40 * s, -1, 1)), 54, "clipped"),
    "cut off at the end": (cut_off, 65, "decoded"),
    "two people": (lambda p, f, s: write_clip(p, beside(f), s), 54, ""),
    "dark": (lambda p, f, s: write_clip(p, f // 4, s), 54, "dark"),
    "avi": (lambda p, f, s: write_clip(p.with_suffix(".avi"), f, s, codec="mpeg4"), 55, ""),
}


@pytest.mark.parametrize("case", rare_slow(ACCEPTED))
def test_accepted(case, tmp_path, take, ingest):
    make, frames, words = ACCEPTED[case]
    facts = check_result(ingest(make(tmp_path / "clip.mp4", *take)), frames, slack=14 if "cut off" in case else 1)
    assert words in warnings_of(facts), warnings_of(facts)


# --- read alike, whatever the container, the name or the sound ------------------------------------------------------
READ = {
    "mov": lambda p, f, s: write_clip(p.with_suffix(".mov"), f, s),
    "mkv": lambda p, f, s: write_clip(p.with_suffix(".mkv"), f, s),
    "webm": lambda p, f, s: write_clip(
        p.with_suffix(".webm"), f, np.repeat(s, 3), codec="libvpx", rate=48000, options={"deadline": "realtime"}
    ),
    "turned 180": lambda p, f, s: turn(write_clip(p, np.rot90(f, 2, (1, 2)), s), 180),
    "turned 270": lambda p, f, s: turn(write_clip(p, np.rot90(f, 3, (1, 2)), s), 270),
    "HDR": lambda p, f, s: write_clip(p, f, s, transfer=16),
    "beyond full scale": lambda p, f, s: write_clip(p.with_suffix(".mkv"), f, s + 0.9, sound_codec="pcm_f32le"),
    "5.1": lambda p, f, s: write_clip(p, f, np.repeat(s, 3), layout="5.1", rate=48000),
    "stereo 8 kHz": lambda p, f, s: write_clip(p, f, s[::2], layout="stereo", rate=8000),
    "96 kHz": lambda p, f, s: write_clip(p, f, np.repeat(s, 6), rate=96000),
    "spaces": lambda p, f, s: write_clip(p.with_name("my new clip (1).mp4"), f, s),
    "unicode": lambda p, f, s: write_clip(p.with_name("Zoë 你好.mp4"), f, s),
    "quotes": lambda p, f, s: write_clip(p.with_name('it\'s "me" $HOME; ls.mp4'), f, s),
    "colon": lambda p, f, s: write_clip(p, f, s).rename(p.with_name("http:x.mp4")),
    "dash": lambda p, f, s: write_clip(p.with_name("-i.mp4"), f, s),
    "link": lambda p, f, s: p.symlink_to(write_clip(p.with_name("real.mp4"), f, s)) or p,
}


@pytest.mark.parametrize("case", rare_slow(READ))
def test_read_alike(case, tmp_path, take, monkeypatch):
    frames, sound = take
    monkeypatch.chdir(tmp_path)
    path = READ[case](tmp_path / "clip.mp4", frames, sound).name  # relative: no folder keeps FFmpeg from misreading it
    info, pictures, heard = probe(path), np.stack(list(iterate_frames(path))), read_audio(path)
    assert (info.width, info.height, info.has_audio) == (256, 256, True) and abs(len(pictures) - COUNT) <= 1
    shown = min(len(pictures), COUNT)
    if case != "HDR":
        assert np.abs(pictures[:shown].astype(int) - frames[:shown]).mean() < 8
    heard = np.pad(heard, (0, max(0, len(sound) - len(heard))))[: len(sound)]
    assert np.corrcoef(heard, np.clip(sound + (0.9 if case == "beyond full scale" else 0), -1, 1))[0, 1] > 0.9
    assert np.abs(heard).max() <= 1


# --- the output ---------------------------------------------------------------------------------------------------
def test_an_output_that_is_a_file_is_refused(tmp_path, clip, ingest):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InstagError, match="cannot be written"):
        ingest(clip)
    assert (tmp_path / "out").read_text() == "mine"


def test_the_folder_of_another_clip_is_not_overwritten(tmp_path, take, clip, ingest):
    folder = ingest(clip)
    other = write_clip(tmp_path / "other.mp4", *take)
    before = folder.manifest.read_bytes(), folder.frames.read_bytes()
    with pytest.raises(DataError, match=r"another clip \(speaker.mp4\).*--overwrite"):
        ingest(other)
    assert before == (folder.manifest.read_bytes(), folder.frames.read_bytes())
    ingest(other, force=True)
    assert json.loads(folder.manifest.read_text())["source"]["name"] == "other.mp4"


@pytest.mark.parametrize("full", ["survey", "video", "person masks"])
def test_a_full_disk_is_said_and_leaves_nothing_half_written(full, tmp_path, clip, ingest, monkeypatch):
    def fail(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        target = {
            "survey": "numpy.savez",
            "video": "instag.media.os.replace",
            "person masks": "zipfile.ZipFile.writestr",
        }[full]
        patch.setattr(target, fail)
        with pytest.raises(InstagError, match="No space left") as error:
            ingest(clip)
    assert "\n" not in str(error.value) and not list((tmp_path / "out").rglob("*partial*"))
    check_result(ingest(clip), 60)  # space was made, and it goes on


def test_the_clip_may_lie_in_its_own_folder(tmp_path, take, ingest):
    (tmp_path / "out").mkdir()
    frames, sound = take
    bad = write_clip(tmp_path / "out" / "clip.mp4", room(frames), sound)
    with pytest.raises(DataError, match="no face"):
        ingest(bad)
    assert list((tmp_path / "out").iterdir()) == [bad]
    check_result(ingest(write_clip(tmp_path / "out" / "good.mp4", frames, sound)), COUNT)
