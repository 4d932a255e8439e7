import numpy as np
import pytest
from made_speaker import make_speaker

from instag.data.layout import Label
from instag.data_utils.background import MAX_SAMPLES, fit_plate, masked_median
from instag.errors import DataError


@pytest.fixture(scope="module")
def speaker():
    return make_speaker(128, 24)


def test_masked_median_is_the_median_of_the_usable():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (13, 6, 5, 3), dtype=np.uint8)
    usable = rng.random((13, 6, 5)) < 0.5
    usable[:, 0, 0] = False
    usable[:, 1, 1] = True
    found = masked_median(frames.copy(), usable)
    for y in range(6):
        for x in range(5):
            kept = np.sort(frames[usable[:, y, x], y, x], axis=0)
            expected = kept[(len(kept) - 1) // 2] if len(kept) else 255
            np.testing.assert_array_equal(found[y, x], expected)


def test_plate_shows_the_room_where_it_was_ever_clear(speaker):
    plate = fit_plate(speaker.frame, speaker.person, speaker.count)
    assert plate.image.dtype == np.uint8
    error = np.abs(plate.image.astype(int) - speaker.room).mean(-1)
    assert error[plate.seen].mean() < 1.5  # grey levels; the frames carry noise of 2
    assert np.percentile(error[plate.seen], 99) < 5
    always = (speaker.truth != Label.BACKGROUND).all(0)
    assert not plate.seen[always].any()
    assert plate.seen[(speaker.truth == Label.BACKGROUND).all(0)].mean() > 0.85


def test_plate_goes_on_smoothly_where_it_was_never_seen(speaker):
    plate = fit_plate(speaker.frame, speaker.person, speaker.count)
    hidden = plate.image[~plate.seen].astype(int)
    room = speaker.room.reshape(-1, 3)
    assert (hidden >= room.min(0) - 8).all()
    assert (hidden <= room.max(0) + 8).all()
    error = np.abs(hidden - speaker.room[~plate.seen]).mean()
    assert error < 15  # the speaker's own colours differ from the wall's by about 70
    assert np.abs(speaker.frames[0].astype(int) - speaker.room)[~plate.seen].mean() > 3 * error


def test_a_flag_taken_for_a_person_stays_in_the_plate(speaker):
    plate = fit_plate(speaker.frame, speaker.person, speaker.count)
    assert plate.seen[2:8, 2:8].all()
    assert np.abs(plate.image[2:8, 2:8].astype(int) - speaker.room[2:8, 2:8]).max() < 6


def test_a_pixel_clear_only_once_is_taken_from_that_frame():
    frames = np.full((5, 64, 64, 3), 50, np.uint8)
    frames[3] = 200
    people = np.full((5, 64, 64), 0, np.uint8)
    people[:, :, 30:] = 255
    people[3, :, 30:] = 0
    people[3, :, 60:] = 255
    plate = fit_plate(lambda i: frames[i], lambda i: people[i], 5)
    assert (plate.image[:, 40] == 200).all()
    assert plate.seen[:, 40].all()
    assert not plate.seen[:, 62].any()
    assert (plate.image[:, 5] == 50).all()  # clear always: the median


def test_long_clips_are_sampled_in_rising_order():
    asked = []

    def frame(i):
        asked.append(i)
        return np.zeros((16, 16, 3), np.uint8)

    fit_plate(frame, lambda i: np.zeros((16, 16), np.uint8), 5000)
    assert len(asked) <= MAX_SAMPLES
    assert asked == sorted(set(asked))
    assert asked[-1] == 4999


def test_no_frames_is_an_error_that_says_so():
    with pytest.raises(DataError, match="no frames"):
        fit_plate(lambda i: None, lambda i: None, 0)
