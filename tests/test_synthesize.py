import json
import threading
import time
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
import torch
from scipy.io import wavfile

from instag.audio.norm import FeatureNorm
from instag.camera import Camera
from instag.data.audio import audio_windows
from instag.data.frame import Condition
from instag.data.layout import EXPRESSION_UNITS, FPS, SAMPLE_RATE
from instag.data.split import Split
from instag.errors import DataError, InstagError
from instag.frame_output import FrameFolder, FrameFolderWriter, OrderedWriter
from instag.synthesize import (
    BLINK_COLUMN,
    choose_poses,
    drive_expression,
    load_speech,
    natural_blinks,
    synthesize,
    to_uint8,
    track_schedule,
)
from instag.version import __version__

SIZE, TRACK = 32, 10


class PaintedAvatar:
    """Stands for an avatar: each picture shows its own condition, so that a test can read it back."""

    def __init__(self, extractor="mel", norm=None):
        self.id, self.size = "painted", SIZE
        self.model = SimpleNamespace(extractor=extractor)
        self.norm = norm
        self.device = torch.device("cpu")
        self.expression = torch.rand(TRACK, len(EXPRESSION_UNITS), generator=torch.Generator().manual_seed(0))
        self.split = Split(np.arange(7), np.arange(7, TRACK))
        self.fail_at = None

    def __len__(self):
        return TRACK

    def plates(self, indices):
        return torch.tensor(indices).float()[:, None, None, None].expand(-1, 3, SIZE, SIZE) / 255

    def condition(self, indices, features, frames, expression):
        if self.fail_at is not None and self.fail_at in frames:
            raise RuntimeError("the GPU fell off")
        pose = torch.eye(4).repeat(len(indices), 1, 1)
        camera = Camera(pose, torch.full((len(indices),), 70.0), SIZE, SIZE)
        return Condition(camera, audio_windows(features, frames), expression)

    def render(self, condition, plates, dilate=False):
        picture = plates.clone()
        picture[:, 1] = condition.expression[:, BLINK_COLUMN, None, None] / 5
        picture[:, 2] = 0.25 + 0.5 * float(dilate)
        return picture


@pytest.fixture
def speech_wav(tmp_path):
    time = np.arange(int(1.3 * SAMPLE_RATE)) / SAMPLE_RATE
    wave = 0.3 * np.sin(2 * np.pi * 220 * time) * (np.sin(2 * np.pi * 3 * time) > 0)
    path = tmp_path / "speech.wav"
    wavfile.write(path, SAMPLE_RATE, (wave * 32767).astype(np.int16))
    return path


# --- schedules ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("length", "frames"), [(1, 5), (2, 7), (5, 3), (5, 23), (125, 1000)])
def test_schedule_runs_forward_and_back_without_jumps(length, frames):
    schedule = track_schedule(length, frames)
    assert len(schedule) == frames and schedule[0] == 0
    assert schedule.min() >= 0 and schedule.max() == min(length, frames) - 1
    assert (np.abs(np.diff(schedule)) == (length > 1)).all()


def test_schedule_by_hand():
    assert track_schedule(4, 9).tolist() == [0, 1, 2, 3, 2, 1, 0, 1, 2]


def test_empty_track_is_an_error():
    with pytest.raises(DataError, match="pose track"):
        track_schedule(0, 5)


def test_poses_are_parts_of_the_clip():
    split = Split(np.arange(7), np.arange(7, 10))
    assert choose_poses(split, 10, "train").tolist() == list(range(7))
    assert choose_poses(split, 10, "test").tolist() == [7, 8, 9]
    assert choose_poses(split, 10, "all").tolist() == list(range(10))


# --- blinks -------------------------------------------------------------------------------------------------------
def test_natural_blinks_are_as_frequent_and_short_as_people_s():
    minutes = 10
    blinks = natural_blinks(minutes * 60 * FPS, peak=2.0, rest=0.1, seed=1)
    assert blinks.min() == pytest.approx(0.1) and blinks.max() == pytest.approx(2.0)
    shut = blinks > 1.0
    count = np.count_nonzero(np.diff(shut.astype(int)) == 1)
    assert 8 < count / minutes < 20
    assert 0.5 < blinks[blinks > 0.1].size / FPS / count / 0.3 < 1.2  # about 0.3 s each
    starts = np.flatnonzero(np.diff(shut.astype(int)) == 1)
    assert np.diff(starts).min() >= 0.9 * FPS


def test_natural_blinks_depend_on_the_seed_alone():
    assert np.array_equal(natural_blinks(500, 2.0, seed=4), natural_blinks(500, 2.0, seed=4))
    assert not np.array_equal(natural_blinks(500, 2.0, seed=4), natural_blinks(500, 2.0, seed=5))


def test_only_the_blink_is_replaced_and_it_stays_in_the_clip_s_range():
    expression = torch.rand(20, 6, generator=torch.Generator().manual_seed(0))
    schedule = track_schedule(20, 300)
    clip = drive_expression(expression, schedule, "clip", 0)
    natural = drive_expression(expression, schedule, "natural", 0)
    assert torch.equal(clip, expression[torch.from_numpy(schedule)])
    others = [column for column in range(6) if column != BLINK_COLUMN]
    assert torch.equal(natural[:, others], clip[:, others])
    assert natural[:, BLINK_COLUMN].max() == expression[:, BLINK_COLUMN].max()
    assert not torch.equal(natural[:, BLINK_COLUMN], clip[:, BLINK_COLUMN])


def test_pictures_are_truncated_to_bytes():
    image = torch.tensor([-0.1, 0.0, 0.999, 1.0, 1.2, 0.5]).expand(1, 3, 1, 6)
    assert to_uint8(image)[0, 0, :, 0].tolist() == [0, 0, 254, 255, 255, 127]


# --- the whole ----------------------------------------------------------------------------------------------------
def test_video_has_sound_of_equal_length_and_says_what_it_is(speech_wav, tmp_path):
    output = synthesize(PaintedAvatar(), speech_wav, tmp_path / "talk" / "out.mp4", frames=True, progress=False)
    with av.open(str(output)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert video.average_rate == FPS and (video.width, video.height) == (SIZE, SIZE)
        assert video.codec_context.name == "h264" and audio.codec_context.name == "aac"
        comment = container.metadata["comment"]
        assert "Synthetic" in comment and __version__ in comment and "painted" in comment
        frames = sum(1 for _ in container.decode(video))
        assert frames == 32  # floor(1.3 s * 25)
        assert abs(float(audio.duration * audio.time_base) - frames / FPS) < 1 / FPS
    lossless = FrameFolder(tmp_path / "talk" / "out_frames")
    assert len(lossless) == 32
    assert sorted(path.name for path in output.parent.iterdir()) == ["out.mp4", "out_frames"]


def test_frames_show_pose_and_expression_by_the_schedule(speech_wav, tmp_path):
    avatar = PaintedAvatar()
    folder = synthesize(avatar, speech_wav, tmp_path / "frames", poses="test", dilate=True, progress=False)
    schedule = 7 + track_schedule(3, 32)
    for i, frame in enumerate(FrameFolder(folder)):
        assert frame[0, 0, 0] == schedule[i]
        assert frame[0, 0, 1] == int(avatar.expression[schedule[i], BLINK_COLUMN] / 5 * 255)
        assert frame[0, 0, 2] == int(0.75 * 255)


def test_ready_features_drive_and_bring_their_sound(made_subject, tmp_path):
    norm = json.loads((made_subject / "aud_pm.norm.json").read_text())
    speech = load_speech(made_subject / "aud_pm.npy", "phone-mel", norm)
    assert speech.features.shape == (60, 16, 74)
    assert speech.rate == SAMPLE_RATE and len(speech.samples) == 60 * SAMPLE_RATE // FPS and speech.samples.any()


def test_ready_features_without_sound_are_silent_and_that_is_said(tmp_path, caplog):
    np.save(tmp_path / "x.npy", np.zeros((5, 16, 32), np.float32))
    speech = load_speech(tmp_path / "x.npy", "mel", None)
    assert len(speech.samples) == 5 * SAMPLE_RATE // FPS and not speech.samples.any()
    assert "silence" in caplog.text


def test_features_of_another_extractor_or_norm_are_refused(made_subject):
    with pytest.raises(DataError, match=r"expected shape \[T, 16, 32\] for mel, found \[60, 16, 74\]"):
        load_speech(made_subject / "aud_pm.npy", "mel", None)
    other = FeatureNorm.default("phone-mel", "running").to_dict()
    with pytest.raises(DataError, match="'running' audio normalisation"):
        load_speech(made_subject / "aud_pm.npy", "phone-mel", other)


def test_norm_of_the_avatar_must_fit_its_extractor(speech_wav):
    other = FeatureNorm.default("phone-mel").to_dict()
    with pytest.raises(DataError, match="made for phone-mel"):
        load_speech(speech_wav, "mel", other)


@pytest.mark.parametrize("name", ["out.avi", "blocked/out.mp4", "folder.mp4", "notes"])
def test_output_that_cannot_be_written_leaves_nothing(speech_wav, tmp_path, name):
    (tmp_path / "blocked").write_text("")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InstagError, match=name.split("/")[0]):
        synthesize(PaintedAvatar(), speech_wav, tmp_path / name, frames=True, progress=False)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["out.mp4", "frames"])
def test_failure_while_rendering_leaves_nothing(speech_wav, tmp_path, name):
    avatar = PaintedAvatar()
    avatar.fail_at = 20
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RuntimeError, match="fell off"):
        synthesize(avatar, speech_wav, tmp_path / name, frames=True, progress=False)
    assert sorted(tmp_path.rglob("*")) == before


# --- writing ------------------------------------------------------------------------------------------------------
def test_frame_folder_replaces_an_earlier_one_and_gives_back_the_pixels(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    for count in (5, 3):
        with OrderedWriter([FrameFolderWriter(tmp_path / "f")]) as writer:
            writer.write(pictures[:count])
    folder = FrameFolder(tmp_path / "f")
    assert len(folder) == 3 and all(np.array_equal(a, b) for a, b in zip(folder, pictures[:3], strict=True))
    assert np.array_equal(cv2.imread(str(tmp_path / "f" / "000001.png"))[..., ::-1], pictures[1])


def test_missing_frame_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="no folder of frames"):
        FrameFolder(tmp_path / "nothing")


class SlowSink:
    def __init__(self, fail_at=None):
        self.frames, self.state, self.fail_at = [], "open", fail_at
        self.gate = threading.Event()

    def prepare(self, frame):
        time.sleep(0.002 * (int(frame[0, 0, 0]) % 3))  # so that frames are ready in another order
        return frame[0, 0, :1]

    def write(self, prepared):
        self.gate.wait(5)
        if len(self.frames) == self.fail_at:
            raise OSError("disk full")
        self.frames.append(int(prepared[0]))

    def close(self):
        self.state = "closed"

    def discard(self):
        self.state = "discarded"


def test_rendering_goes_on_while_the_encoder_works():
    sink = SlowSink()
    with OrderedWriter([sink]) as writer:
        for i in range(5):
            writer.write(np.full((1, 2, 2, 3), i, np.uint8))
        assert sink.frames == []  # all five were handed over although none is written yet
        sink.gate.set()
    assert sink.frames == list(range(5)) and sink.state == "closed"


def test_error_of_the_encoder_reaches_the_caller_and_discards_everything():
    sink, other = SlowSink(fail_at=2), SlowSink()
    sink.gate.set(), other.gate.set()
    with pytest.raises(OSError, match="disk full"), OrderedWriter([sink, other]) as writer:
        for i in range(50):
            writer.write(np.full((1, 2, 2, 3), i, np.uint8))
    assert sink.state == other.state == "discarded"
