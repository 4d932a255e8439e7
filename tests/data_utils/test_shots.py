"""Cuts, shots, the speaker among several faces, the best seconds."""

import numpy as np
import pytest

from instag.data_utils.best import WEIGHTS, Signals, best_window, explain, rate_window
from instag.data_utils.faces import Focus, Follower
from instag.data_utils.shots import Shot, choose_shot, describe_shots, find_cuts, split_shots
from instag.data_utils.survey import Survey, find_bars
from instag.data_utils.video import square_crop
from instag.errors import DataError

PHONES = ("SIL", "AA", "B", "S")


def made_survey(frames=200, cuts=(), lost=(), repeated=(), seed=0):
    """A face of 200 px that talks and blinks in a 400 px picture."""
    rng = np.random.default_rng(seed)
    landmarks = np.zeros((frames, 478, 3), np.float32)
    t = np.arange(frames)
    opening = 12 * (1 + np.sin(0.9 * t)) * (t % 50 > 12)
    for point, (x, y) in {33: (150, 170), 263: (250, 170), 133: (180, 170), 362: (220, 170)}.items():
        landmarks[:, point, :2] = x, y
    landmarks[:, 10, :2], landmarks[:, 152, :2] = (200, 100), (200, 300)
    landmarks[:, 4, :2], landmarks[:, 168, :2] = (200, 210), (200, 170)
    landmarks[:, 13, :2], landmarks[:, 14, :2] = (200, 250), (200, 250)
    landmarks[:, 14, 1] += opening
    landmarks[:, 61, :2], landmarks[:, 291, :2] = (180, 250), (220, 250)
    landmarks[:, 291, 0] += 8 * np.sin(0.23 * t)
    open_eye = np.where(t % 60 == 30, 1.0, 8.0)
    for a, b in ((159, 145), (158, 153), (160, 144), (386, 374), (385, 380), (387, 373)):
        landmarks[:, a, 1], landmarks[:, b, 1] = 170, 170 + open_eye
    change = rng.uniform(0.3, 2.5, frames).astype(np.float32)
    change[[0, *repeated]] = 0
    for cut in cuts:
        change[cut] = 12
    landmarks[list(lost)] = np.nan
    frozen = np.isin(t, repeated)
    ones = np.ones(frames, np.float32)
    return Survey(landmarks, change, frozen, 15 * ones, 120 * ones, (0, 0, 0, 0), 1, 400, 400)


def test_a_cut_stands_out_and_fast_motion_does_not():
    survey = made_survey(cuts=(60, 130))
    assert find_cuts(survey.change, survey.repeated) == (60, 130)
    change = survey.change.copy()
    change[[60, 61, 130, 131]] = 9  # a wave of the hand: several frames of it
    assert find_cuts(change, survey.repeated) == ()


def test_a_frozen_picture_that_catches_up_is_no_cut():
    survey = made_survey(repeated=range(50, 75))
    change = survey.change.copy()
    change[75] = 12
    assert find_cuts(change, survey.repeated) == ()
    assert find_cuts(change, np.zeros(200, bool)) == (75,)  # the same jump out of slow motion would be one


def test_shots_end_at_cuts_and_long_gaps():
    survey = made_survey(cuts=(60,), lost=[*range(100, 104), *range(140, 150)])
    assert split_shots(survey) == [Shot(0, 60), Shot(60, 140), Shot(150, 200)]
    assert choose_shot(survey, None, "a.mp4") == Shot(60, 140)
    assert choose_shot(survey, 3, "a.mp4") == Shot(150, 200)
    assert choose_shot(survey, 0, "a.mp4") == Shot(0, 200)
    with pytest.raises(DataError, match=r"a\.mp4: no shot 4; the clip has 3 shots: 1 \(0\.0-2\.4 s\), 2"):
        choose_shot(survey, 4, "a.mp4")
    assert describe_shots([Shot(0, 50)]) == "1 shot: 1 (0.0-2.0 s)"


def test_a_clip_without_two_seconds_on_end_is_refused():
    with pytest.raises(DataError, match="never seen for 2 s"):
        choose_shot(made_survey(120, cuts=(40, 80)), None, "a.mp4")
    with pytest.raises(DataError, match="no face found"):
        choose_shot(made_survey(120, lost=range(120)), 0, "a.mp4")


def box(x, y, side):
    return np.array([[x, y, side]], np.float32)


def test_the_largest_steady_face_is_chosen():
    """A passer-by is larger for one look; a small picture hangs on the wall."""
    looks = [np.concatenate([box(100, 100, 60), box(300, 50, 12)]) for _ in range(10)]
    looks[4] = np.concatenate([looks[4], box(200, 90, 90)])
    focus = Focus(looks)
    assert [track.boxes[i][2] for i, track in enumerate(focus._chosen)] == [60] * 10
    assert focus.faces == 1
    assert Focus([np.concatenate([box(100, 100, 60), box(300, 50, 55)])] * 6).faces == 2
    assert Focus([np.zeros((0, 3), np.float32)] * 6).faces == 0


class RecordedTracker:
    def __init__(self, points):
        self.points, self.seen, self.restarts = points, [], 0

    def __call__(self, frame):
        self.seen.append(frame)
        return self.points

    def restart(self):
        self.restarts += 1


def test_the_tracker_sees_the_speaker_alone():
    frame = np.random.default_rng(0).integers(0, 255, (200, 400, 3), np.uint8)
    focus = Focus([np.concatenate([box(100, 60, 80), box(190, 60, 70)])] * 4)
    tracker = RecordedTracker(np.full((478, 3), 90, np.float32))
    follow = Follower(focus, tracker)
    points = follow(frame, 0.5)
    part = tracker.seen[0]
    left, top = 100 - 60, 0
    assert part.shape == (200, 80 + 2 * 60, 3)
    np.testing.assert_array_equal(points[0], (90 + left, 90 + top, 90))
    assert part[60:130, 190 - left :].std(0).max() == 0  # the other face is painted over
    np.testing.assert_array_equal(part[60:140, 60:130], frame[60:140, 100:170])
    tracker.points = np.full((478, 3), 190, np.float32)  # landmarks on somebody else
    assert follow(frame, 0.54) is None and tracker.restarts == 2


def test_bars_are_found_and_dark_pictures_have_none():
    bright = np.full((54, 96), 120.0)
    bright[:8], bright[-6:] = 10, 10
    assert find_bars(bright) == (0, 9, 0, 7)
    assert find_bars(np.full((54, 96), 5.0)) == (0, 0, 0, 0)
    bright[:30] = 10
    assert find_bars(bright) == (0, 0, 0, 0)


def test_the_crop_follows_a_moving_face_and_avoids_bars():
    still = made_survey().landmarks[:50].copy()
    still[:, 5:9, :2] = (130, 100), (270, 100), (130, 300), (270, 300)
    still[still[..., 0] == 0] = still[0, 10]
    crop = square_crop(still + np.float32((300, 50, 0)), 1200, 800, (0, 100, 0, 100))
    assert crop.side == 400 and crop.top >= 100 and crop.top + crop.side <= 700
    moving = still + np.linspace(0, 500, 50, dtype=np.float32)[:, None, None] * np.float32((1, 0, 0))
    wide = square_crop(moving, 1200, 800)
    assert wide.left <= 140 and wide.left + wide.side >= 750 and wide.side > 600


def posteriors_of(survey, variety):
    """In the frames of `variety` all phones are heard, else silence."""
    posteriors = np.zeros((len(survey), len(PHONES)))
    posteriors[:, 0] = 1
    spoken = np.array(list(variety))
    posteriors[spoken] = 0
    posteriors[spoken, 1 + spoken // 5 % 3] = 1
    return posteriors


def test_the_best_window_is_where_most_is_said():
    survey = made_survey(300)
    signals = Signals(survey, posteriors_of(survey, range(150, 250)), PHONES)
    best, first = best_window(signals, [Shot(0, 300)], 4.0)
    assert first.shot == Shot(0, 100) and best.shot.start >= 60 and len(best.shot) == 100
    assert first.parts["phones"] == 0 and best.parts["phones"] == 1
    assert best.score > first.score and all(0 <= value <= 1 for value in best.parts.values())
    text = explain(best, first)
    assert "3 phones" in text and "the first 4 s without" in text and "\n" not in text
    assert best.parts.keys() == WEIGHTS.keys()


def test_frozen_and_faceless_windows_lose():
    plain = made_survey(200)
    for spoiled in (made_survey(200, repeated=range(0, 40)), made_survey(200, lost=range(0, 40))):
        quiet = posteriors_of(plain, range(0, 200))
        assert rate_window(Signals(spoiled, quiet, PHONES), Shot(0, 100)).score < 0.5 * (
            rate_window(Signals(plain, quiet, PHONES), Shot(0, 100)).score
        )


def test_a_window_never_spans_a_cut():
    survey = made_survey(300, cuts=(120,))
    signals = Signals(survey, posteriors_of(survey, range(70, 170)), PHONES)
    shots = split_shots(survey)
    best, _ = best_window(signals, shots, 4.0)
    assert best.shot.stop <= 120 or best.shot.start >= 120
    whole, _ = best_window(signals, shots, 60.0)  # more than there is: the longest shot
    assert whole.shot == Shot(120, 300)
