import numpy as np
import pytest

from instag.data.layout import FPS, SAMPLE_RATE
from instag.data_utils.face_points import LEFT_EYE_OUTER, LOWER_INNER_LIP, RIGHT_EYE_OUTER, UPPER_INNER_LIP
from instag.metrics.driven import driven_metrics
from instag.metrics.landmarks import FaceTrack

FRAMES = 150
PHONES = ("AA", "M")


def face(opening):
    """A face whose eyes are 100 px apart and whose lips open by `opening` of that."""
    mesh = np.tile(256 + 50 * np.random.default_rng(1).standard_normal((478, 3)), (len(opening), 1, 1))
    mesh[:, RIGHT_EYE_OUTER, :2], mesh[:, LEFT_EYE_OUTER, :2] = (206, 200), (306, 200)
    mesh[:, [UPPER_INNER_LIP, LOWER_INNER_LIP], 0] = 256
    mesh[:, UPPER_INNER_LIP, 1], mesh[:, LOWER_INNER_LIP, 1] = 300, 300 + 100 * opening
    return FaceTrack(mesh.astype(np.float32), np.ones(len(opening), bool))


@pytest.fixture
def speech(monkeypatch):
    """Syllables at irregular times, and the sound's phones that say so: opening [T], samples [S]."""
    rng = np.random.default_rng(0)
    opening = np.zeros(FRAMES)
    for start in np.cumsum(rng.integers(4, 12, 12)):
        opening[start : start + 3] = (0.05, 0.1, 0.05)
    posteriors = np.stack([opening / 0.1, 1 - opening / 0.1], 1)
    monkeypatch.setattr("instag.data_utils.clip_check.sound_signals", lambda samples, frames: (posteriors, PHONES))
    return opening, rng.standard_normal(FRAMES * SAMPLE_RATE // FPS).astype(np.float32)


def test_lips_that_follow_are_told_from_chance_and_from_still_ones(speech):
    opening, samples = speech
    found = driven_metrics(face(np.roll(opening, -1)), samples)  # lips take their place before the sound
    assert found["follow_r"] > 0.95 and found["follow_lag"] == 0 and found["chance_r"] < 0.5
    assert found["opening_range"] == pytest.approx(0.1, abs=0.001) and found["opening_step"] > 0
    still = driven_metrics(face(np.full(FRAMES, 0.02)), samples)
    assert abs(still["follow_r"]) < 0.1 and still["opening_range"] < 1e-5 and still["opening_step"] < 1e-5


def test_lips_that_come_late_do_not_follow(speech):
    opening, samples = speech
    found = driven_metrics(face(np.roll(opening, 8)), samples)
    assert found["follow_lag"] == 9 and found["follow_r"] < 0.5


def test_silence_cannot_be_followed_and_frames_without_a_face_are_left_out(speech):
    opening, samples = speech
    track = face(opening)
    track.found[10:20] = False
    track.mesh[10:20] = np.nan
    found = driven_metrics(track, np.zeros_like(samples))
    assert "follow_r" not in found and found["no_face"] == 10 and np.isfinite(found["opening_range"])
    found = driven_metrics(FaceTrack(track.mesh, np.zeros(FRAMES, bool)), samples)
    assert found == {"no_face": FRAMES}


def test_range_in_pauses_is_beside_that_in_speech(speech):
    opening, samples = speech
    pause = slice(60, 100)
    quiet = samples.copy()
    quiet[pause.start * SAMPLE_RATE // FPS : pause.stop * SAMPLE_RATE // FPS] = 0
    resting = opening.copy()
    resting[pause] = 0.001 * np.arange(40)
    found = driven_metrics(face(resting), quiet)
    assert found["opening_range_pauses"] == pytest.approx(0.9 * 0.033, abs=0.002)  # 3 frames at both ends left out
    assert found["opening_speech_over_pauses"] > 1
