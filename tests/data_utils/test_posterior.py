import cv2
import numpy as np
import pytest

from instag.data.layout import Label
from instag.data_utils.guided import guided_model
from instag.data_utils.image_ops import scaled_px
from instag.data_utils.posterior import (
    CLASSES,
    HEAD,
    NOBODY,
    SMOOTHING_EPSILON,
    SMOOTHING_PX,
    class_shares,
    enlarged_labels,
)

EVIDENCE = np.exp(np.array([0, 2, 12], np.float32))


@pytest.fixture(scope="module", params=[(96, 96), (97, 75)])
def given(request):
    """Arguments of `class_shares` in its order, for a picture of this shape."""
    rng = np.random.default_rng(0)
    shape = request.param
    bins = rng.integers(0, 50, shape).astype(np.int32)
    colours = rng.uniform(1e-6, 1, (50, len(CLASSES))).astype(np.float32)
    place = cv2.GaussianBlur(rng.random((*shape, len(CLASSES)), np.float32), (0, 0), 3) + np.float32(1e-3)
    face = rng.integers(0, 3, shape).astype(np.uint8)
    guide = cv2.GaussianBlur(rng.integers(0, 256, shape).astype(np.float32), (0, 0), 2).astype(np.uint8)
    where = rng.random(shape) < 0.7
    return bins, colours, place, face, EVIDENCE, guide, where


def shares_slowly(bins, colours, place, face, evidence, guide, where):
    """`class_shares`, array by array."""
    odds = colours[bins] * place
    odds[..., HEAD] *= evidence[face]
    odds /= odds.sum(-1, keepdims=True)
    model = guided_model(odds, guide, scaled_px(SMOOTHING_PX, len(guide)), SMOOTHING_EPSILON)
    slope, offset = (cv2.resize(x, guide.shape[::-1]).astype(np.float64) for x in model)
    smooth = np.clip(slope * guide[..., None] + offset, 0, 1)
    return smooth / (smooth.sum(-1, keepdims=True) + 1e-6)


def test_shares_are_those_of_the_slow_way(given):
    shares, likeliest = class_shares(*given)
    where, expected = given[-1], shares_slowly(*given)
    np.testing.assert_allclose(shares[where], expected[where], atol=2e-4)
    assert (likeliest[where] == expected.argmax(-1)[where]).mean() > 0.999
    np.testing.assert_allclose(shares[where].sum(-1), 1, atol=1e-4)
    assert not shares[~where].any() and (likeliest[~where] == NOBODY).all()


@pytest.mark.parametrize("size", [(192, 192), (200, 150), (96, 96)])
def test_enlarged_is_the_strongest_of_the_interpolated(given, size):
    shares, likeliest = class_shares(*given)
    shares = cv2.GaussianBlur(shares, (0, 0), 2)  # larger regions of one class
    likeliest = np.where(likeliest == NOBODY, NOBODY, shares.argmax(-1)).astype(np.int8)
    alpha = np.random.default_rng(1).random(size, np.float32)
    labels = enlarged_labels(shares, likeliest, alpha)
    large = cv2.resize(shares, size[::-1])
    order = np.sort(large, -1)
    clear = order[..., -1] - order[..., -2] > 1e-3  # OpenCV rounds its weights
    expected = np.where(alpha < 0.5, int(Label.BACKGROUND), np.array(CLASSES)[large.argmax(-1)])
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels[clear], expected[clear])
