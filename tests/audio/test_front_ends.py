"""Cepstra and log-mel bands: slow twins, physics, timing."""

import numpy as np
import pytest
from audio_sounds import babble

from instag.audio import cepstra as ce
from instag.audio import mel
from instag.audio.phone_mel import resample_steps

RATE = 16_000


def slow_remove_noise(power: np.ndarray) -> np.ndarray:
    """The noise tracker a frame and a band at a time, as notes/AUDIO.md section 8 words it."""
    out = np.empty_like(power)
    bands = power.shape[1]
    for frame in range(len(power)):
        if frame == 0:
            smoothed, noise, floor, peak = power[0].copy(), power[0].copy(), power[0] / 20, np.zeros(bands)
        gain = np.empty(bands)
        for b in range(bands):
            smoothed[b] = 0.7 * smoothed[b] + 0.3 * power[frame, b]
            keep = 0.995 if smoothed[b] >= noise[b] else 0.5
            noise[b] = keep * noise[b] + (1 - keep) * smoothed[b]
            signal = max(smoothed[b] - noise[b], 1.0)
            keep = 0.995 if signal >= floor[b] else 0.5
            floor[b] = keep * floor[b] + (1 - keep) * signal
            peak[b] *= 0.85
            heard = 0.2 * peak[b] if signal < 0.85 * peak[b] else signal
            peak[b] = max(peak[b], signal)
            gain[b] = np.clip(max(heard, floor[b]) / smoothed[b], 1 / 20, 20)
        for b in range(bands):
            out[frame, b] = power[frame, b] * gain[max(b - 4, 0) : b + 5].mean()
    return out


def test_noise_removal_equals_its_slow_twin():
    rng = np.random.default_rng(0)
    power = np.exp(rng.normal(size=(120, 25)).cumsum(axis=0) * 0.7 + 8)
    np.testing.assert_allclose(ce.remove_noise(power), slow_remove_noise(power), rtol=1e-9)


def test_noise_removal_hears_the_past_only():
    power = np.exp(np.random.default_rng(1).normal(size=(60, 25)) + 8)
    later = power.copy()
    later[40:] *= 50
    np.testing.assert_array_equal(ce.remove_noise(power)[:40], ce.remove_noise(later)[:40])


def test_steady_noise_is_turned_down_and_a_burst_is_kept():
    power = np.full((300, 25), 1e4)
    power[200:210] = 1e8
    gain = ce.remove_noise(power) / power
    assert gain[150].max() < 0.1 and gain[205].min() > 0.8


def test_cepstra_are_the_transform_of_log_band_powers(monkeypatch):
    """Against the definition, on the first frame and with the tracker off."""
    monkeypatch.setattr(ce, "remove_noise", lambda power: power)
    samples = 3000 * np.random.default_rng(2).standard_normal(410 + 160)
    emphasised = np.append(samples[0], samples[1:] - 0.97 * samples[:-1])[160:570]
    spectrum = np.abs(np.fft.fft(emphasised * np.hamming(410), 512)[:257]) ** 2
    logs = np.log(spectrum @ ce._mel_triangles())
    for order in range(13):
        scale = np.sqrt((1 if order == 0 else 2) / 25) * (1 + 11 * np.sin(np.pi * order / 22))
        expected = scale * sum(logs[b] * np.cos(np.pi * order * (b + 0.5) / 25) for b in range(25))
        assert ce.cepstra(samples)[1, order] == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_frames_and_blocks():
    samples = 1000 * np.random.default_rng(3).standard_normal(160 * (ce.FRAMES_PER_BLOCK + 40) + 410)
    whole = ce.cepstra(samples)
    assert len(whole) == ce.FRAMES_PER_BLOCK + 41
    np.testing.assert_allclose(whole[:30], ce.cepstra(samples[: 160 * 29 + 410]), rtol=1e-12, atol=1e-12)
    assert len(ce.cepstra(samples[:410])) == 1


def test_deltas_of_a_ramp_and_a_parabola():
    time = np.arange(20.0)[:, None] * np.ones(13)
    ramp, parabola = ce.with_deltas(3 * time), ce.with_deltas(time**2)
    np.testing.assert_allclose(ramp[4:-4, 13:26], 3 * 4)
    np.testing.assert_allclose(ramp[4:-4, 26:], 0)
    np.testing.assert_allclose(parabola[4:-4, 26:], 2 * 4 * 2)  # d[t+1] - d[t-1] of d = 8 t


def test_mel_filters_follow_slaney():
    filters = mel.slaney_filters()
    assert filters.shape == (401, 32) and (filters >= 0).all()
    assert mel._hertz_to_slaney(np.array([200.0, 1000.0, 6400.0])) == pytest.approx([3, 15, 42])
    hertz = np.geomspace(20, 8000, 50)
    np.testing.assert_allclose(mel._slaney_to_hertz(mel._hertz_to_slaney(hertz)), hertz)
    bins = np.arange(401) * 20.0
    centres = bins[filters.argmax(axis=0)]
    assert (np.diff(centres) > 0).all() and centres[0] > 55 and centres[-1] < 7600
    np.testing.assert_allclose(filters[:, 10:].sum(axis=0) * 20, 1, atol=0.03)  # unit area in hertz


def test_bands_follow_a_tone_and_its_level():
    time = np.arange(RATE) / RATE
    for hertz in (300, 1000, 3000):
        bands = mel.log_mel(8000 * np.sin(2 * np.pi * hertz * time))
        expected = (mel.slaney_filters()[hertz // 20]).argmax()
        assert abs(int(bands[25].argmax()) - int(expected)) <= 1
        quieter = mel.log_mel(800 * np.sin(2 * np.pi * hertz * time))
        assert (bands - quieter)[25, expected] == pytest.approx(np.log(10), abs=1e-3)


@pytest.mark.parametrize("samples", [640, 641, 16_000, 320 * (mel.STEPS_PER_BLOCK + 7)])
def test_step_count(samples):
    bands = mel.log_mel(100 * np.random.default_rng(0).standard_normal(samples))
    assert bands.shape == (samples // 320, 32) and np.isfinite(bands).all()


def test_a_click_stands_at_its_time():
    samples = np.random.default_rng(0).integers(-1, 2, RATE).astype(float)
    samples[8000] = 20_000  # 0.5 s
    assert abs(mel.log_mel(samples).mean(axis=1).argmax() / 50 - 0.5) <= 0.02
    power = ce._band_power(samples).sum(axis=1)
    assert abs(power.argmax() / 100 + ce.FRAME_CENTRE - 0.5) <= 0.006


def test_resampling_is_exact_on_a_ramp_and_holds_the_ends():
    frame_times = ce.FRAME_CENTRE + np.arange(100) / 100
    steps = resample_steps(frame_times[:, None], 60)[:, 0]
    inside = slice(1, 50)
    np.testing.assert_allclose(steps[inside], np.arange(60)[inside] / 50, atol=1e-12)
    assert steps[0] == frame_times[0] and steps[-1] == frame_times[-1]
    assert resample_steps(np.ones((1, 3)), 4).shape == (4, 3)


def test_sound_is_told_from_noise_at_any_level():
    rng = np.random.default_rng(0)
    for level in (1, 30, 600):
        assert mel.sounding_steps(mel.log_mel(level * rng.standard_normal(5 * RATE))) == 0
    for level in (0.02, 0.1, 0.5):
        share = mel.sounding_steps(mel.log_mel(32768.0 * babble(5, level=level))) / 250
        assert 0.25 < share < 0.95
