"""A clip on disk: pictures, sound in step, truth beside it, nothing half-written."""

import av
import numpy as np
import pytest

from instag.data.layout import SAMPLE_RATE, Label
from instag.errors import InstagError
from instag.synthetic import Speaker, make_clip, read_truth, render_frame, truth_path
from instag.synthetic.landmarks import NAMES

FRAMES, SIZE = 30, 128


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "speaker.mp4"
    return make_clip(path, 31, 32, 33, FRAMES / 25, size=SIZE, supersampling=1, progress=False)


def decode(path):
    with av.open(str(path)) as container:
        images = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    with av.open(str(path)) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        return images, sound, float(container.streams.video[0].average_rate)


def test_pictures_and_sound_are_those_of_the_performance(clip):
    images, sound, fps = decode(clip)
    truth, speaker = read_truth(clip), Speaker(31, 32)
    assert images.shape == (FRAMES, SIZE, SIZE, 3) and fps == 25
    rendered = render_frame(speaker, speaker.perform(33, FRAMES / 25), 10, SIZE)
    assert np.abs(images[10].astype(float) - rendered.image).mean() < 3
    samples = FRAMES * SAMPLE_RATE // 25
    assert len(truth.audio) == samples and len(sound) >= samples
    lags = np.arange(-200, 201)
    middle = slice(samples // 2, samples - 400)
    scores = [np.dot(sound[middle.start + lag : middle.stop + lag], truth.audio[middle]) for lag in lags]
    assert abs(lags[np.argmax(scores)]) <= 1  # in step to the sample


def test_truth_has_the_documented_shapes_and_says_what_a_frame_says(clip):
    truth, speaker = read_truth(clip), Speaker(31, 32)
    count = len(NAMES)
    assert truth.world_to_camera.shape == (FRAMES, 4, 4) and float(truth.focal) == 2.25 * SIZE
    assert truth.landmarks.shape == (FRAMES, count, 3) and truth.landmarks_2d.shape == (FRAMES, count, 2)
    assert truth.lid_gap.shape == (FRAMES, 2) and truth.mouth_opening.shape == (FRAMES,)
    assert tuple(truth.landmark_names) == NAMES and truth.background.shape == (SIZE, SIZE, 3)
    assert truth.phoneme_times.shape == (len(truth.phonemes), 2) and truth.seeds.tolist() == [31, 32, 33]
    frame = render_frame(speaker, speaker.perform(33, FRAMES / 25), 7, SIZE)
    np.testing.assert_array_equal(truth.labels(7), frame.labels)
    np.testing.assert_array_equal(truth.world_to_camera[7], frame.world_to_camera)
    assert (truth.labels(7) == Label.HEAD).any()


def test_lids_close_in_the_blink(clip):
    truth = read_truth(clip)
    shut, open_ = truth.blink[:, 0] > 0.95, truth.blink[:, 0] == 0
    assert shut.any() and truth.lid_gap[shut].max() < 0.15 * truth.lid_gap[open_].min()


def test_the_same_seeds_write_the_same_clip(clip, tmp_path):
    again = make_clip(tmp_path / "again.mp4", 31, 32, 33, FRAMES / 25, size=SIZE, supersampling=1, progress=False)
    assert truth_path(again).read_bytes() == truth_path(clip).read_bytes()
    images, sound, _ = decode(clip)
    images_again, sound_again, _ = decode(again)
    np.testing.assert_array_equal(sound_again, sound)
    np.testing.assert_array_equal(images_again, images)


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("broken")

    monkeypatch.setattr("instag.synthetic.clip.background_plate", fail)
    with pytest.raises(RuntimeError, match="broken"):
        make_clip(tmp_path / "x.mp4", 0, 0, 0, 0.1, size=32, supersampling=1, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_bad_targets_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InstagError, match="file"):
        make_clip(tmp_path / "file" / "x.mp4", 0, 0, 0, 0.1, size=32, supersampling=1, progress=False)
    with pytest.raises(InstagError, match="33x33 is odd"):
        make_clip(tmp_path / "x.mp4", 0, 0, 0, 0.1, size=33, supersampling=1, progress=False)
    with pytest.raises(InstagError, match="make_clip"):
        read_truth(tmp_path / "nothing.mp4")
