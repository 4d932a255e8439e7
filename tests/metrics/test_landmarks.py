import numpy as np
import pytest

from instag.camera import HEAD_FLIP
from instag.data.layout import FPS
from instag.data_utils.face_points import LEFT_EYE_OUTER, LOWER_INNER_LIP, RIGHT_EYE_OUTER, UPPER_INNER_LIP
from instag.metrics.landmarks import (
    FaceTrack,
    enlarged,
    jitter,
    lagged_correlation,
    lip_opening,
    mouth_distance,
    pearson,
    still_distance,
    unit_errors,
)
from instag.metrics.silence import silence_test, speech_and_pauses

RATE = 16_000
FRAMES = 60
OPENING = 0.1 * np.abs(np.sin(np.arange(FRAMES) / 3))


def made_track(opening=OPENING, missing=(), noise=0.0, scale=100.0):
    """A face of random points whose eyes are `scale` px apart and whose lips open by `opening` of that."""
    rng = np.random.default_rng(1)
    mesh = np.tile(256 + scale * rng.standard_normal((478, 3)), (len(opening), 1, 1))
    mesh += noise * np.random.default_rng(2).standard_normal(mesh.shape)
    mesh[:, RIGHT_EYE_OUTER, :2], mesh[:, LEFT_EYE_OUTER, :2] = (206, 200), (206 + scale, 200)
    mesh[:, UPPER_INNER_LIP, :2] = (256, 300)
    mesh[:, LOWER_INNER_LIP, 0], mesh[:, LOWER_INNER_LIP, 1] = 256, 300 + scale * opening
    mesh[:, [RIGHT_EYE_OUTER, LEFT_EYE_OUTER, UPPER_INNER_LIP, LOWER_INNER_LIP], 2] = 0
    found = np.ones(len(opening), bool)
    found[list(missing)] = False
    mesh[~found] = np.nan
    return FaceTrack(mesh.astype(np.float32), found)


def test_opening_is_relative_to_the_eyes():
    np.testing.assert_allclose(lip_opening(made_track(scale=100.0)), OPENING, atol=1e-5)
    np.testing.assert_allclose(lip_opening(made_track(scale=50.0)), OPENING, atol=1e-5)


def test_frame_without_a_face_counts_as_closed():
    opening = lip_opening(made_track(missing=[4, 5]))
    assert opening[4] == opening[5] == 0 and np.isfinite(opening).all()


@pytest.mark.parametrize("late", [-3, -1, 0, 2, 3])
def test_lag_is_found_with_its_sign(late):
    series = np.random.default_rng(0).standard_normal(200)
    found = lagged_correlation(np.roll(series, late), series)
    assert found.best_lag == late and found.best_r > 0.99
    assert (found.r > 0.99) == (late == 0)


def test_pearson_by_hand():
    a = np.array([1.0, 2.0, 4.0])
    assert pearson(a, 3 * a + 5) == pytest.approx(1) and pearson(a, -a) == pytest.approx(-1)
    assert pearson(a, a) == pytest.approx(np.corrcoef(a, a)[0, 1])
    assert pearson(a, np.ones(3)) == 0


def test_mouth_distance_ignores_where_the_face_is():
    track = made_track()
    moved = FaceTrack(track.mesh + np.float32(7), track.found)
    assert mouth_distance(moved, track) == pytest.approx(0, abs=1e-3)
    assert mouth_distance(made_track(opening=0 * OPENING), track) > 0.1


def test_mouth_distance_uses_the_frames_that_have_both_faces():
    assert mouth_distance(made_track(missing=[3]), made_track(missing=[7])) == pytest.approx(0, abs=1e-4)
    assert mouth_distance(made_track(missing=range(FRAMES)), made_track()) is None


def test_a_still_mouth_is_as_far_as_the_truth_moves():
    moving, still = made_track(), made_track(opening=0 * OPENING)
    held = np.nanmean(moving.mesh, axis=0, keepdims=True).repeat(FRAMES, 0)
    assert still_distance(moving) == pytest.approx(mouth_distance(FaceTrack(held, moving.found), moving), rel=1e-4)
    assert still_distance(still) == pytest.approx(0, abs=1e-4)
    assert still_distance(made_track(missing=range(FRAMES))) is None


def test_jitter_grows_with_noise_and_ignores_steady_motion():
    steady = made_track(opening=0 * OPENING)
    gliding = FaceTrack(steady.mesh + np.arange(FRAMES, dtype=np.float32)[:, None, None], steady.found)
    assert jitter(steady) == pytest.approx(0, abs=1e-4) and jitter(gliding) == pytest.approx(0, abs=1e-3)
    assert jitter(made_track(noise=2.0)) > jitter(made_track(noise=0.5)) > 0.5
    assert jitter(made_track(missing=range(0, FRAMES, 2))) is None


def test_unit_errors_name_their_units_and_vanish_for_equal_tracks():
    pose = np.tile(np.eye(4), (FRAMES, 1, 1))
    pose[:, :3, :3] = np.eye(3) @ HEAD_FLIP
    truth = made_track()
    same = unit_errors(truth, truth, pose)
    assert same["lower"].value == same["upper"].value == 0
    assert same["lower"].units == ("AU25",) and "AU45" in same["upper"].units
    silent = unit_errors(made_track(opening=0 * OPENING), truth, pose)
    assert silent["lower"].value > 0.5 and silent["upper"].value == pytest.approx(0, abs=1e-6)
    assert unit_errors(made_track(missing=range(FRAMES)), truth, pose) == {}


def test_small_pictures_are_enlarged_for_the_tracker():
    sizes = [picture.shape for picture in enlarged(np.zeros((2, n, n, 3), np.uint8)[0] for n in (64, 512, 600))]
    assert sizes == [(512, 512, 3)] * 3


# --- silence ------------------------------------------------------------------------------------------------------
def sound(loud):
    """Noise in the frames where `loud`, near silence elsewhere."""
    rng = np.random.default_rng(0)
    return np.repeat(np.where(loud, 0.3, 1e-4), RATE // FPS) * rng.standard_normal(len(loud) * RATE // FPS)


LOUD = np.r_[np.ones(40), np.zeros(25), np.ones(40)].astype(bool)


def test_pauses_are_long_and_without_their_edges():
    levels = np.where(LOUD, -20.0, -80.0)
    levels[10:14] = -80  # a closure within a word
    speech, pauses = speech_and_pauses(levels)
    assert np.flatnonzero(pauses).tolist() == list(range(43, 62))
    assert speech.sum() == 76


def test_mouth_that_rests_in_pauses_passes_and_one_that_goes_on_does_not():
    talk = 0.1 * np.abs(np.sin(np.arange(len(LOUD)) / 2))
    rests = silence_test(talk * LOUD + 0.001 * talk, sound(LOUD), RATE)
    assert rests.ratio > 20 and rests.pause_frames == 19
    goes_on = silence_test(talk, sound(LOUD), RATE)
    assert goes_on.ratio < 1.5


def test_sound_without_pauses_has_no_ratio():
    always = np.ones(100, bool)
    test = silence_test(np.linspace(0, 1, 100), sound(always), RATE)
    assert test.pause is None and test.ratio is None and test.speech_frames > 90
