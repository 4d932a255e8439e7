import numpy as np
import pytest

from instag.data.layout import Label
from instag.metrics.image import ImageMetrics, head_mask, psnr

RNG = np.random.default_rng(0)
TRUTH = RNG.integers(0, 256, (48, 48, 3), np.uint8)
LABELS = np.zeros((48, 48), np.uint8)
LABELS[10:30, 10:30] = Label.HEAD
LABELS[10:15, 10:30] = Label.HAIR
LABELS[25:28, 15:20] = Label.MOUTH
LABELS[30:, :] = Label.TORSO


def noisy(amount):
    return np.clip(TRUTH.astype(int) + RNG.integers(-amount, amount + 1, TRUTH.shape), 0, 255).astype(np.uint8)


def test_psnr_by_hand():
    render = np.full((4, 4, 3), 100, np.uint8)
    truth = np.full((4, 4, 3), 110, np.uint8)
    assert psnr(render, truth) == pytest.approx(10 * np.log10(255**2 / 100))
    assert psnr(truth, render) == psnr(render, truth)


def test_equal_pictures_are_finite_and_more_noise_is_worse():
    assert psnr(TRUTH, TRUTH) == pytest.approx(100)
    values = [psnr(noisy(amount), TRUTH) for amount in (1, 5, 20, 80)]
    assert values == sorted(values, reverse=True)


def test_face_psnr_looks_at_the_true_head_alone():
    head = head_mask(LABELS)
    assert head.sum() == 400  # skin, hair and inner mouth
    outside = TRUTH.copy()
    outside[~head] = 255 - outside[~head]
    metrics = ImageMetrics()
    metrics.add(outside, TRUTH, LABELS)
    assert metrics.summary()["psnr_face"] == pytest.approx(100) and metrics.summary()["psnr"] < 15
    inside = TRUTH.copy()
    inside[head] = 255 - inside[head]
    assert psnr(inside, TRUTH, head) < 10


def test_frames_are_averaged_and_lpips_is_absent_without_weights():
    metrics = ImageMetrics()
    for amount in (2, 40):
        metrics.add(noisy(amount), TRUTH, LABELS)
    summary = metrics.summary()
    assert set(summary) == {"psnr", "psnr_face", "ssim"}
    assert summary["psnr"] == pytest.approx(np.mean(metrics.per_frame("psnr")))
    assert 0 < summary["ssim"] < 1


def test_ssim_is_one_for_equal_pictures_and_falls_with_structure():
    metrics = ImageMetrics()
    metrics.add(TRUTH, TRUTH, LABELS)
    metrics.add(np.roll(TRUTH, 5, axis=1), TRUTH, LABELS)
    same, shifted = metrics.per_frame("ssim")
    assert same == pytest.approx(1, abs=1e-5) and shifted < 0.2


def test_frame_without_a_head_does_not_spoil_the_mean():
    metrics = ImageMetrics()
    metrics.add(noisy(5), TRUTH, np.zeros_like(LABELS))
    metrics.add(noisy(5), TRUTH, LABELS)
    assert np.isfinite(metrics.summary()["psnr_face"])
