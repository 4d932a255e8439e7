import numpy as np
import pytest

from instag.data_utils.image_ops import (
    fill_from_nearest,
    polygon_mask,
    push_pull_fill,
    scaled_px,
    strongest,
)


def test_polygon_covers_its_area_and_a_closed_one_nothing():
    square = np.array([[10.0, 20.0], [30.0, 20.0], [30.0, 50.0], [10.0, 50.0]])
    mask = polygon_mask(square, 64)
    assert mask.sum() == 20 * 30
    assert mask[20:50, 10:30].all()
    line = np.array([[10.0, 20.0], [30.0, 20.1], [50.0, 20.0], [30.0, 20.2]])
    assert not polygon_mask(line, 64).any()


@pytest.mark.parametrize("offset", [(-500.0, 0.0), (0.0, 700.0)])
def test_polygon_outside_the_picture_is_empty(offset):
    assert not polygon_mask(np.array([[1.0, 1.0], [9.0, 1.0], [9.0, 9.0]]) + offset, 64).any()


def test_polygon_partly_outside_is_cut():
    mask = polygon_mask(np.array([[-20.0, -20.0], [8.0, -20.0], [8.0, 8.0], [-20.0, 8.0]]), 64)
    assert mask.sum() == 64
    assert mask[:8, :8].all()


def test_fill_from_nearest_takes_the_nearest():
    values = np.tile(np.arange(16), (16, 1))
    holes = np.zeros((16, 16), bool)
    holes[:, 5:11] = True
    filled = fill_from_nearest(values, holes)
    assert (filled[:, 5:7] == 4).all()
    assert (filled[:, 9:11] == 11).all()
    np.testing.assert_array_equal(filled[~holes], values[~holes])
    np.testing.assert_array_equal(fill_from_nearest(values, np.ones_like(holes)), values)


def test_push_pull_keeps_the_known_and_continues_smoothly():
    y, x = np.mgrid[:96, :96]
    image = np.stack([x, y, x + y], -1).astype(np.float32)
    known = (x - 48) ** 2 + (y - 40) ** 2 > 30**2
    filled = push_pull_fill(image, known)
    np.testing.assert_allclose(filled[known], image[known], atol=1e-3)
    nearest = fill_from_nearest(image, ~known)
    assert np.abs(filled - image)[~known].mean() < 0.8 * np.abs(nearest - image)[~known].mean()
    hole = (slice(25, 55), slice(33, 63))
    steps = [np.abs(np.diff(f[hole][..., 0], axis=0)).max() for f in (filled, nearest)]
    assert steps[0] < 0.2 * steps[1]  # no streaks
    assert filled.min() >= image[known].min() - 1e-3
    assert filled.max() <= image[known].max() + 1e-3


def test_push_pull_without_anything_known_is_zero():
    assert not push_pull_fill(np.full((8, 8, 3), 9.0), np.zeros((8, 8), bool)).any()


def test_strongest_is_argmax():
    scores = np.random.default_rng(0).random((9, 7, 4), np.float32)
    np.testing.assert_array_equal(strongest(scores), scores.argmax(-1))
    assert not strongest(np.ones((3, 3, 4), np.float32)).any()  # ties: the first


def test_lengths_scale_with_the_picture():
    assert scaled_px(14, 512) == 14
    assert scaled_px(14, 256) == 7
    assert scaled_px(3, 64) == 1
