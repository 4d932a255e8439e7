"""Formant synthesis: a phoneme schedule -> a waveform. Pulses through five resonators, noise through one.

A source-filter voice as in Klatt (1980), reduced to what makes articulation audible; no data, no model.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from scipy.ndimage import gaussian_filter1d

from instag.data.layout import SAMPLE_RATE
from instag.synthetic.phonemes import PHONEMES, Sound
from instag.synthetic.seeds import generator
from instag.synthetic.style import Style

CLOSURE = 0.65  # share of a stop that is silent before its burst
UPPER_FORMANTS = (3500.0, 4500.0)  # Hz
BANDWIDTHS = (70.0, 90.0, 130.0, 200.0, 250.0)  # Hz
NASAL_BANDWIDTH = 120.0  # Hz added to the first formant
FLOOR = 5e-4  # of the peak, -66 dB: exact zeros would hit the floor of log-mel features
FRICATION_GAIN = 0.07
PEAK = 0.8
PITCH_KNOT = SAMPLE_RATE // 40  # samples between the knots of the pitch's wander


def synthesize(sounds: tuple[Sound, ...], style: Style, samples: int, seed: int) -> np.ndarray:
    """Return the voice, float32 [samples] in [-1, 1] at SAMPLE_RATE."""
    random = generator("voice", seed)
    formants, voicing, frication, centre, width, nasal = _tracks(sounds, samples)
    formants = _smooth(formants, 14) * style.tract
    upper = np.tile(np.array(UPPER_FORMANTS) * style.tract, (samples, 1))
    bandwidths = np.tile(BANDWIDTHS, (samples, 1))
    bandwidths[:, 0] += NASAL_BANDWIDTH * _smooth(nasal, 8)
    voicing = _smooth(voicing, 7)
    source = voicing * (_glottis(_pitch(style, samples, random)) + 0.02 * random.normal(size=samples))
    voiced = _resonate(source, np.column_stack([formants, upper]), bandwidths)
    noise = _filter_noise(random.normal(size=samples), centre, width)
    wave = voiced / (np.abs(voiced).max() + 1e-9) + FRICATION_GAIN * _smooth(frication, 3) * noise / noise.std()
    wave += FLOOR * random.normal(size=samples)
    return (PEAK * wave / np.abs(wave).max()).astype(np.float32)


def _tracks(sounds: tuple[Sound, ...], samples: int) -> tuple[np.ndarray, ...]:
    """Return the stepwise targets over time: formants [S, 3], then voicing, frication, centre, width, nasal [S]."""
    formants = np.tile(np.array(PHONEMES["_"].formants, float), (samples, 1))
    voicing, frication, nasal = np.zeros(samples), np.zeros(samples), np.zeros(samples)
    centre, width = np.full(samples, 3000.0), np.full(samples, 1000.0)
    for sound in sounds:
        phoneme = PHONEMES[sound.symbol]
        begin, end = (min(samples, round(s * SAMPLE_RATE)) for s in (sound.start, sound.start + sound.seconds))
        span = slice(begin, end)
        formants[span], voicing[span], frication[span] = phoneme.formants, phoneme.voicing, phoneme.frication
        centre[span], width[span] = phoneme.noise_centre, phoneme.noise_width
        nasal[span] = phoneme.kind == "nasal"
        if phoneme.kind == "stop":
            burst = begin + int(CLOSURE * (end - begin))
            frication[begin:burst] = 0
            frication[burst:end] *= np.linspace(1.6, 0.2, end - burst)
            voicing[burst:end] *= 0.6
    return formants, voicing, frication, centre, width, nasal


def _smooth(track: np.ndarray, milliseconds: float) -> np.ndarray:
    return gaussian_filter1d(track, milliseconds * SAMPLE_RATE / 1000, axis=0, truncate=3)


def _pitch(style: Style, samples: int, random: np.random.Generator) -> np.ndarray:
    knots = gaussian_filter1d(random.normal(size=samples // PITCH_KNOT + 8), 10, mode="wrap")
    wander = np.interp(np.arange(samples), np.arange(len(knots)) * PITCH_KNOT, knots / (knots.std() + 1e-9))
    sway = 0.04 * np.sin(1.3 * np.arange(samples) / SAMPLE_RATE)
    return style.pitch * (1 + 0.10 * wander - sway)


def _glottis(pitch: np.ndarray) -> np.ndarray:
    """Return the derivative of the flow through the glottis: open for 60 % of each period."""
    phase = np.cumsum(pitch / SAMPLE_RATE) % 1
    flow = np.where(phase < 0.6, phase**2 * (0.6 - phase) * 26, 0)
    return 30 * np.diff(flow, prepend=0)


@njit(cache=True, nogil=True)
def _resonate(source, frequencies, bandwidths):
    """Cascade of second-order resonators whose frequencies and bandwidths [S, K] vary per sample; unit gain at 0 Hz."""
    wave = source.copy()
    for k in range(frequencies.shape[1]):
        before, before2 = 0.0, 0.0
        for i in range(len(wave)):
            radius = math.exp(-math.pi * bandwidths[i, k] / SAMPLE_RATE)
            turn = 2 * radius * math.cos(2 * math.pi * frequencies[i, k] / SAMPLE_RATE)
            value = (1 - turn + radius * radius) * wave[i] + turn * before - radius * radius * before2
            before2, before = before, value
            wave[i] = value
    return wave


@njit(cache=True, nogil=True)
def _filter_noise(noise, centre, width):
    wave = np.zeros_like(noise)
    before, before2 = 0.0, 0.0
    for i in range(len(noise)):
        radius = math.exp(-math.pi * max(width[i], 200.0) / SAMPLE_RATE)
        turn = 2 * radius * math.cos(2 * math.pi * centre[i] / SAMPLE_RATE)
        value = 2 * (1 - radius) * noise[i] + turn * before - radius * radius * before2
        before2, before = before, value
        wave[i] = value
    return wave
