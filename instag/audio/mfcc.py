"""Mel cepstra at 100 Hz as SyncNet hears them: HTK mel scale, 26 bands, 13 cepstra, the first one log energy."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.fft import dct

WINDOW_SECONDS, HOP_SECONDS = 0.025, 0.010
FFT_SIZE = 512
BANDS, CEPSTRA = 26, 13
PRE_EMPHASIS = 0.97
LIFTER = 22
FLOOR = np.finfo(float).eps  # in place of zero energy, below the logarithm


def mfcc(samples: np.ndarray, rate: int) -> np.ndarray:
    """Cepstra [K, 13] of samples [S] (int16 scale); step k starts at k / 100 s, zeros past the end."""
    window, hop = round(WINDOW_SECONDS * rate), round(HOP_SECONDS * rate)
    emphasised = np.append(samples[:1], samples[1:] - PRE_EMPHASIS * samples[:-1])
    steps = 1 + max(0, -(-(len(samples) - window) // hop))
    padded = np.pad(emphasised, (0, max(0, (steps - 1) * hop + window - len(emphasised))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop][:steps]  # no window function
    power = np.abs(np.fft.rfft(frames, FFT_SIZE)) ** 2 / FFT_SIZE  # [K, 257]
    bands = np.log(_floored(power @ mel_triangles(rate)))
    lift = 1 + LIFTER / 2 * np.sin(np.pi * np.arange(CEPSTRA) / LIFTER)
    cepstra = dct(bands, type=2, axis=1, norm="ortho")[:, :CEPSTRA] * lift
    cepstra[:, 0] = np.log(_floored(power.sum(1)))
    return cepstra


def _floored(energy: np.ndarray) -> np.ndarray:
    return np.where(energy == 0, FLOOR, energy)


@lru_cache(maxsize=1)
def mel_triangles(rate: int) -> np.ndarray:
    """Triangles [257, 26] of unit height between bins that are equally spaced in mel from 0 to rate / 2."""
    mel = np.linspace(0, 2595 * np.log10(1 + rate / 2 / 700), BANDS + 2)
    corners = np.floor((FFT_SIZE + 1) * 700 * (10 ** (mel / 2595) - 1) / rate)
    bins = np.arange(FFT_SIZE // 2 + 1)[:, None]
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    rising = (bins - left) / np.maximum(centre - left, 1)
    falling = (right - bins) / np.maximum(right - centre, 1)
    return np.where((bins >= left) & (bins < centre), rising, np.where((bins >= centre) & (bins < right), falling, 0))
