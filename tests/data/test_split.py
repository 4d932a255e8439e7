import numpy as np
import pytest

from instag.data.split import MIN_TRAIN_FRAMES, TEST_FRAMES, split_frames
from instag.errors import DataError


@pytest.mark.parametrize("total", [2, 10, 60, 425, 426, 427, 500, 5000])
def test_parts_are_disjoint_and_cover_the_clip(total):
    split = split_frames(total)
    assert np.array_equal(np.concatenate([split.train, split.test]), np.arange(total))


def test_last_301_frames_are_tested_when_125_remain_before_them():
    split = split_frames(MIN_TRAIN_FRAMES + TEST_FRAMES)
    assert len(split.test) == 301 and len(split.train) == 125 and split.notes == ()


def test_shorter_clip_tests_the_last_fifth_and_says_so():
    split = split_frames(MIN_TRAIN_FRAMES + TEST_FRAMES - 1)
    assert len(split.test) == 85 and split.test[-1] == 424
    assert len(split.notes) == 1 and "last 85 (20 %)" in split.notes[0]


@pytest.mark.parametrize("n_views", [125, 250, 500])
def test_n_views_takes_the_first_frames(n_views):
    split = split_frames(5000, n_views)
    assert np.array_equal(split.train, np.arange(n_views)) and split.notes == ()


def test_all_views_drop_nothing():
    assert len(split_frames(500, -1).train) == 500 - 301


def test_too_many_views_are_cut_and_said():
    split = split_frames(500, 250)
    assert len(split.train) == 199
    assert any("cut to its 199 frames" in note for note in split.notes)


def test_all_for_train_uses_the_whole_clip_and_says_that_the_test_is_seen():
    split = split_frames(500, -1, all_for_train=True)
    assert len(split.train) == 500 and len(split.test) == 301
    assert any("301 of 301 test frames are trained on" in note for note in split.notes)


def test_all_for_train_within_the_training_part_has_nothing_to_say():
    assert split_frames(5000, 250, all_for_train=True).notes == ()


@pytest.mark.parametrize(("total", "n_views"), [(500, 0), (500, -2), (1, -1), (0, -1)])
def test_useless_requests_are_errors(total, n_views):
    with pytest.raises(DataError):
        split_frames(total, n_views)


def test_a_window_and_its_own_test_part():
    split = split_frames(1779, 250, first=900, test=(1150, 1300))
    assert split.train.tolist() == list(range(900, 1150)) and split.test.tolist() == list(range(1150, 1300))
    assert split.notes == ()


def test_a_window_behind_the_test_part_runs_to_the_end():
    split = split_frames(1000, first=600, test=(100, 200))
    assert split.train.tolist() == list(range(600, 1000))


def test_a_window_over_the_test_part_ends_before_it():
    split = split_frames(1000, 500, first=50, test=(100, 200))
    assert split.train.tolist() == list(range(50, 100)) and "cut to its 50 frames" in split.notes[0]


@pytest.mark.parametrize("window", [{"first": -1}, {"first": 900}, {"test": (5, 5)}, {"test": (900, 1001)}])
def test_windows_outside_the_clip_are_errors(window):
    with pytest.raises(DataError):
        split_frames(1000, **window)
