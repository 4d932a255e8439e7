"""Motion: closed lips in pauses and in /p b m/, blinks often enough, styles that differ, always the same for a seed."""

import numpy as np
import pytest

from instag.data.layout import SAMPLE_RATE
from instag.errors import InstagError
from instag.synthetic import Speaker
from instag.synthetic.landmarks import head_landmarks, openings
from instag.synthetic.performance import blinks, perform
from instag.synthetic.phonemes import PAUSE, PHONEMES
from instag.synthetic.style import draw_style

CLOSED = 0.08  # cm between the inner lips


@pytest.fixture(scope="module")
def speaker():
    return Speaker(11, 12, hair="short")


@pytest.fixture(scope="module")
def performance(speaker):
    return speaker.perform(13, 12)


@pytest.fixture(scope="module")
def lip_gap(speaker, performance):
    poses = [performance.articulation.at(t) for t in range(len(performance))]
    rig, vertices = speaker.rig, speaker.landmark_vertices
    return np.array([openings(head_landmarks(rig, vertices, rig.deform(pose), pose))[2] for pose in poses])


def inside(performance, symbols):
    time = (np.arange(len(performance)) + 0.5) / performance.fps
    sounds = [s for s in performance.utterance.sounds if s.symbol in symbols]
    frames = [np.flatnonzero((time > s.start) & (time < s.start + s.seconds)) for s in sounds]
    return [found for found in frames if len(found)]


def test_audio_is_exactly_as_long_as_the_frames(performance):
    assert len(performance) == 300 and len(performance.audio) == 12 * SAMPLE_RATE
    assert len(perform(draw_style(0), 1, 0.5, fps=30)) == 15


def test_the_mouth_rests_closed_in_every_pause_for_at_least_0_4_seconds(performance, lip_gap):
    pauses = [frames for frames in inside(performance, PAUSE) if frames[-1] < len(performance) - 1]
    assert len(pauses) >= 3
    assert all((lip_gap[frames] < CLOSED).sum() >= 10 for frames in pauses)


def test_the_mouth_opens_in_speech_and_lip_consonants_close_it(performance, lip_gap):
    speech = np.concatenate(inside(performance, set(PHONEMES) - {PAUSE}))
    assert np.percentile(lip_gap[speech], 90) > 10 * CLOSED
    closures = [lip_gap[frames].min() for frames in inside(performance, "pbm") if len(frames) >= 2]
    assert len(closures) > 5 and np.median(closures) < CLOSED


@pytest.mark.parametrize("seed", range(6))
def test_eyes_close_fully_at_least_once_in_every_four_seconds(seed):
    time = (np.arange(1500) + 0.5) / 25
    closure = blinks(draw_style(seed), time, np.random.default_rng(seed))
    closed = np.flatnonzero(closure > 0.99)
    assert closed[0] < 50 and np.diff(closed).max() <= 100 and len(time) - closed[-1] <= 100
    assert np.median(closure) == 0


def test_rotations_are_rotations_and_the_head_moves_within_reason(performance):
    identity = np.einsum("tij,tkj->tik", performance.rotation, performance.rotation)
    np.testing.assert_allclose(identity, np.broadcast_to(np.eye(3), identity.shape), atol=1e-12)
    forward = np.degrees(np.arccos(performance.rotation[:, 2, 2]))
    assert 1 < forward.std() + forward.mean() < 25
    assert np.abs(np.diff(performance.translation, axis=0)).max() < 0.3  # cm a frame


def test_the_same_seeds_give_the_same_performance_and_others_do_not(performance):
    again, other = Speaker(11, 12).perform(13, 12), Speaker(11, 12).perform(14, 12)
    np.testing.assert_array_equal(performance.audio, again.audio)
    np.testing.assert_array_equal(performance.rotation, again.rotation)
    np.testing.assert_array_equal(np.stack(performance.articulation), np.stack(again.articulation))
    assert not np.allclose(performance.articulation.jaw, other.articulation.jaw)


def test_style_is_apart_from_identity():
    one, other_face, other_style = Speaker(1, 2), Speaker(3, 2), Speaker(1, 4)
    assert one.style == other_face.style and one.identity == other_style.identity
    first, same, different = (s.perform(5, 2) for s in (one, other_face, other_style))
    np.testing.assert_array_equal(first.articulation.jaw, same.articulation.jaw)
    np.testing.assert_array_equal(first.audio, same.audio)
    assert np.abs(first.articulation.jaw - different.articulation.jaw).max() > 0.01


def test_no_frame_is_an_error():
    with pytest.raises(InstagError, match="no frame"):
        Speaker(0, 0).perform(0, 0.001)
