"""Sphinx cepstra: the front end that the acoustic model was trained with (notes/AUDIO.md section 8 step 2).

Samples are on the int16 scale, 16 kHz. Frame j covers samples 160 j .. 160 j + 409, so it is centred at
0.0128 + j / 100 s. Pre-emphasis, Hamming window, power spectrum, 25 triangular mel bands, spectral noise removal,
logarithm, orthonormal DCT, lifter.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

SAMPLE_RATE = 16_000  # Hz
FRAME_RATE = 100  # Hz
HOP = SAMPLE_RATE // FRAME_RATE  # samples
FRAME = 410  # samples, 25.6 ms
FRAME_CENTRE = FRAME / 2 / SAMPLE_RATE  # s, of frame 0
PRE_EMPHASIS = 0.97
FFT = 512
BANDS = 25
BAND_RANGE = (130.0, 6800.0)  # Hz
CEPSTRA = 13
LIFTER = 22
POWER_FLOOR = 1e-4  # below the logarithm
DELTA_REACH = 3  # frames that the second deltas look ahead and back

# Noise tracker: the weights with which running values keep their past.
POWER_MEMORY = 0.7
RISE_MEMORY = 0.995  # a lower envelope follows rising values slowly,
FALL_MEMORY = 0.5  # and falling ones fast
PEAK_MEMORY = 0.85
MASKED_SHARE = 0.2  # of the remembered peak, in place of a value that the peak masks
SIGNAL_FLOOR = 1.0  # power
GAIN_LIMIT = 20.0  # gains stay within 1/20 .. 20
GAIN_SMOOTHING = 4  # bands to either side over which gains are averaged

FRAMES_PER_BLOCK = 512


def cepstra(samples: np.ndarray) -> np.ndarray:
    """Cepstra [J, 13] float64 of samples [S] (int16 scale), J = (S - 410) // 160 + 1; S must be at least 410."""
    power = _band_power(samples)
    log_power = np.log(np.maximum(remove_noise(power), POWER_FLOOR))
    return log_power @ _cosine_transform()


def with_deltas(values: np.ndarray) -> np.ndarray:
    """Cepstra [J, 13] -> [J, 39]: values, d[t] = c[t+2] - c[t-2], d[t+1] - d[t-1]; edges repeated."""
    count = len(values)
    padded = np.pad(values, ((DELTA_REACH, DELTA_REACH), (0, 0)), mode="edge")

    def shifted(frames: int) -> np.ndarray:
        return padded[DELTA_REACH + frames : DELTA_REACH + frames + count]

    first = shifted(2) - shifted(-2)
    second = (shifted(3) - shifted(-1)) - (shifted(1) - shifted(-3))
    return np.concatenate([values, first, second], axis=1)


def remove_noise(power: np.ndarray) -> np.ndarray:
    """Band powers [J, 25] times the gain of Sphinx's noise tracker, which hears the past only.

    Per band: smoothed power; its slow lower envelope is the noise; what exceeds it is the signal, replaced by a share
    of the recent peak where that masks it, and never below its own slow lower envelope; gain = signal / power.
    """
    first = power[0]
    smoothed = _smooth(power)
    noise = _lower_envelope(smoothed, first)
    signal = np.maximum(smoothed - noise, SIGNAL_FLOOR)
    floor = _lower_envelope(signal, first / GAIN_LIMIT)
    audible = np.maximum(_mask_temporally(signal), floor)
    gain = np.clip(audible / np.maximum(smoothed, 1e-9), 1 / GAIN_LIMIT, GAIN_LIMIT)
    return power * (gain @ _band_average())


def _smooth(power: np.ndarray) -> np.ndarray:  # [J, 25] -> [J, 25]
    """Running mean that forgets exponentially; begins at the first frame's. SciPy's `lfilter` takes 1 s to import."""
    smoothed = (1 - POWER_MEMORY) * power
    previous = power[0]
    for current in smoothed:
        current += POWER_MEMORY * previous
        previous = current
    return smoothed


def _lower_envelope(values: np.ndarray, start: np.ndarray) -> np.ndarray:  # [J, 25], [25] -> [J, 25]
    """Running value that rises slowly and falls fast."""
    envelope = np.empty_like(values)
    previous = start
    for current, out in zip(values, envelope, strict=True):
        change = current - previous
        # A rise keeps its small share; a fall, being negative, is smaller with its large share.
        np.minimum((1 - RISE_MEMORY) * change, (1 - FALL_MEMORY) * change, out=change)
        np.add(previous, change, out=out)
        previous = out
    return envelope


def _mask_temporally(signal: np.ndarray) -> np.ndarray:  # [J, 25] -> [J, 25]
    """Replace values that lie below the decaying memory of a recent peak by a share of that memory."""
    peaks = np.empty_like(signal)  # decayed peak before each frame
    peak = np.zeros_like(signal[0])
    for current, decayed in zip(signal, peaks, strict=True):
        np.multiply(peak, PEAK_MEMORY, out=decayed)
        peak = np.maximum(decayed, current)
    return np.where(signal < PEAK_MEMORY * peaks, MASKED_SHARE * peaks, signal)


def _band_power(samples: np.ndarray) -> np.ndarray:  # [S] -> [J, 25]
    emphasised = samples.astype(np.float64)
    emphasised[1:] -= PRE_EMPHASIS * samples[:-1]
    frames = np.lib.stride_tricks.sliding_window_view(emphasised, FRAME)[::HOP]  # [J, 410], a view
    bands = np.empty((len(frames), BANDS))
    for start in range(0, len(frames), FRAMES_PER_BLOCK):  # blocks keep the memory flat in the length
        block = frames[start : start + FRAMES_PER_BLOCK] * np.hamming(FRAME)
        spectrum = np.fft.rfft(block, FFT, axis=1)
        bands[start : start + FRAMES_PER_BLOCK] = (spectrum.real**2 + spectrum.imag**2) @ _mel_triangles()
    return bands


@lru_cache(maxsize=1)
def _mel_triangles() -> np.ndarray:  # [257, 25]
    """Triangles of unit area (in Hz) with corners equally spaced in mel (2595 log10), rounded to FFT bins."""
    low, high = (2595 * np.log10(1 + f / 700) for f in BAND_RANGE)
    corners = 700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1)
    spacing = SAMPLE_RATE / FFT
    corners = np.floor(corners / spacing + 0.5) * spacing
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    bins = np.arange(FFT // 2 + 1)[:, None] * spacing
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return np.maximum(0, np.minimum(rising, falling)) * (2 / (right - left))


@lru_cache(maxsize=1)
def _band_average() -> np.ndarray:  # [25, 25]; columns average the bands within reach
    distance = np.abs(np.arange(BANDS)[:, None] - np.arange(BANDS))
    near = (distance <= GAIN_SMOOTHING).astype(np.float64)
    return near / near.sum(axis=0)


@lru_cache(maxsize=1)
def _cosine_transform() -> np.ndarray:  # [25, 13]
    """Orthonormal DCT-II with the sinusoidal lifter."""
    order = np.arange(CEPSTRA)
    basis = np.cos(np.pi * order * (np.arange(BANDS)[:, None] + 0.5) / BANDS) * np.sqrt(2 / BANDS)
    basis[:, 0] *= np.sqrt(0.5)
    return basis * (1 + LIFTER / 2 * np.sin(np.pi * order / LIFTER))
