"""Log-mel bands at 50 Hz, the extractor `mel` and a part of `phone-mel` (notes/AUDIO.md section 8 step 3).

Step k is centred on sample 320 k, at k / 50 s.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

SAMPLE_RATE = 16_000  # Hz
STEP_RATE = 50  # Hz
HOP = SAMPLE_RATE // STEP_RATE  # samples
WINDOW = 800  # samples, also the FFT size
BANDS = 32
BAND_RANGE = (55.0, 7600.0)  # Hz
PRE_EMPHASIS = 0.97
AMPLITUDE_FLOOR = 1e-5  # below the logarithm
INT16_SCALE = 32768.0

# A step counts as sound when its mean log amplitude exceeds the clip's quiet level by this much (13 dB): noise alone,
# at any level, does not; speech does in its vowels and most consonants.
SOUND_MARGIN = 1.5
QUIET_PERCENTILE = 5.0

STEPS_PER_BLOCK = 512


def step_count(samples: int) -> int:
    """Steps at 50 Hz of that many samples: those whose hop is whole, at least 1."""
    return max(samples // HOP, 1)


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Log amplitudes [K, 32] float64 of samples [S] (int16 scale), K = `step_count`; S must exceed 400.

    Pre-emphasis, Hann window of 50 ms (reflected at the ends), amplitude, Slaney mel bands, natural logarithm.
    """
    emphasised = samples / INT16_SCALE
    emphasised[1:] -= PRE_EMPHASIS / INT16_SCALE * samples[:-1]
    padded = np.pad(emphasised, WINDOW // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][: step_count(len(samples))]
    bands = np.empty((len(frames), BANDS))
    window = np.hanning(WINDOW + 1)[:-1]  # periodic
    for start in range(0, len(frames), STEPS_PER_BLOCK):  # blocks keep the memory flat in the length
        amplitude = np.abs(np.fft.rfft(frames[start : start + STEPS_PER_BLOCK] * window, axis=1))
        bands[start : start + STEPS_PER_BLOCK] = amplitude @ slaney_filters()
    return np.log(np.maximum(bands, AMPLITUDE_FLOOR))


def sounding_steps(bands: np.ndarray) -> int:
    """How many of the steps [K, 32] stand clearly above the clip's own quiet level."""
    level = bands.mean(axis=1)
    return int((level > np.percentile(level, QUIET_PERCENTILE) + SOUND_MARGIN).sum())


@lru_cache(maxsize=1)
def slaney_filters() -> np.ndarray:
    """Triangles [401, 32] of unit area on Slaney's mel scale: linear below 1 kHz, logarithmic above."""
    corners = _slaney_to_hertz(np.linspace(*_hertz_to_slaney(np.array(BAND_RANGE)), BANDS + 2))
    bins = np.arange(WINDOW // 2 + 1)[:, None] * (SAMPLE_RATE / WINDOW)
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return np.maximum(0, np.minimum(rising, falling)) * (2 / (right - left))


# Slaney's scale: 3 mel per 200 Hz up to 1 kHz (15 mel), then 27 mel per factor of 6.4.
_HERTZ_PER_MEL = 200 / 3
_KNEE_HERTZ = 1000.0
_KNEE_MEL = _KNEE_HERTZ / _HERTZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27


def _hertz_to_slaney(hertz: np.ndarray) -> np.ndarray:
    above = _KNEE_MEL + np.log(np.maximum(hertz, _KNEE_HERTZ) / _KNEE_HERTZ) / _LOG_STEP
    return np.where(hertz < _KNEE_HERTZ, hertz / _HERTZ_PER_MEL, above)


def _slaney_to_hertz(mel: np.ndarray) -> np.ndarray:
    above = _KNEE_HERTZ * np.exp(_LOG_STEP * (mel - _KNEE_MEL))
    return np.where(mel < _KNEE_MEL, mel * _HERTZ_PER_MEL, above)
