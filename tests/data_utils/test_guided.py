import cv2
import numpy as np
import pytest

from instag.data_utils.guided import guided_filter, guided_model


def in_full(source, guide, radius, epsilon):
    """The filter as He et al. have it, at full size, float64."""

    def mean(x):
        return cv2.blur(x, (2 * radius + 1,) * 2, borderType=cv2.BORDER_REFLECT)

    source, guide = source.astype(np.float64), guide / 255
    slope = (mean(guide * source) - mean(guide) * mean(source)) / (mean(guide**2) - mean(guide) ** 2 + epsilon)
    return mean(slope) * guide + mean(mean(source) - slope * mean(guide))


@pytest.fixture(scope="module")
def guide():
    noise = np.random.default_rng(0).standard_normal((97, 128)).astype(np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def test_edges_of_the_guide_stay_and_noise_goes():
    guide = np.zeros((64, 64), np.uint8)
    guide[:, 32:] = 255
    edge = guide / np.float32(255)
    noisy = edge + 0.2 * np.random.default_rng(0).standard_normal(guide.shape).astype(np.float32)
    smooth = guided_filter(noisy, guide, 6, 1e-4)
    assert np.abs(smooth - edge)[:, 8:-8].mean() < 0.25 * np.abs(noisy - edge).mean()
    assert smooth[:, 34].mean() - smooth[:, 29].mean() > 0.9  # a plain blur would leave a ramp
    np.testing.assert_allclose(guided_filter(np.full((64, 64), 0.3, np.float32), guide, 6, 1e-4), 0.3, atol=1e-4)


def test_half_size_is_near_the_filter_at_full_size(guide):
    source = (guide > 120).astype(np.float32)
    fast, full = guided_filter(source, guide, 6, 1e-3), in_full(source, guide, 6, 1e-3)
    assert np.abs(fast - full).mean() < 0.03
    assert ((fast > 0.5) != (full > 0.5)).mean() < 0.01


def test_bytes_and_channels_are_treated_alike(guide):
    source = np.random.default_rng(1).integers(0, 256, (*guide.shape, 3), dtype=np.uint8)
    together = guided_model(source, guide, 4, 1e-3)
    for channel in range(3):
        alone = guided_model(source[..., channel], guide, 4, 1e-3)
        for one, all_three in zip(alone, together, strict=True):
            np.testing.assert_allclose(one, all_three[..., channel], atol=1e-3)
    of_bytes, of_floats = (
        guided_filter(x, guide, 4, 1e-3) for x in (source[..., 0], source[..., 0].astype(np.float32))
    )
    np.testing.assert_allclose(of_bytes, of_floats, atol=1)  # bytes are rounded at half size
