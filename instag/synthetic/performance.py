"""A performance: what is said and every motion that goes with it, frame by frame.

Co-articulation is Cohen & Massaro's (1993): each phoneme pulls a channel towards its target with a dominance that
decays exponentially before and after it; the weighted mean is the motion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from instag.data.layout import SAMPLE_RATE
from instag.errors import InstagError
from instag.synthetic.articulation import Articulation
from instag.synthetic.phonemes import PHONEMES, Phoneme, Utterance, speak
from instag.synthetic.seeds import generator
from instag.synthetic.style import Style
from instag.synthetic.voice import synthesize

JAW_FULL = 0.23  # rad
LIP_FULL = 1.1  # cm per unit of the lip targets
MOUTH_CHANNELS = ("jaw", "upper", "lower", "wide", "round", "seal", "tuck", "tongue")
# (strength, time constant s) of the dominance: vowels, and consonants per channel.
VOWEL = (1.0, 0.07)
CONSONANT = {
    "jaw": (0.6, 0.055),
    "upper": (0.6, 0.05),
    "lower": (0.6, 0.05),
    "wide": (0.35, 0.05),
    "round": (0.35, 0.05),
    "tuck": (1.0, 0.03),
    "tongue": (1.0, 0.03),
}
SEALING, NOT_SEALING = (4.0, 0.028), (0.5, 0.05)
TUCKING, ROUNDING = (4.0, 0.035), (1.2, 0.10)  # rounding is anticipatory: the longest reach
SEALED_JAW = 1.2  # strength of the jaw's target while the lips must close
OUTSIDE_SHARE = 0.4  # of the dominance, beyond the phoneme's own time

BLINK_CLOSING, BLINK_HOLD, BLINK_OPENING = 0.09, 0.045, 0.16  # s; the hold outlasts a frame, so every blink closes
BLINK_INTERVAL = (0.5, 3.5)  # s, shortest and longest: no 4 s without a blink
BLINK_FIRST = (0.4, 1.2)  # s

# Standard deviations at head_motion = 1: rotation about x, y, z (deg) and translation x, y, z (cm); fastest motion, Hz
ROTATION_SPREAD, TRANSLATION_SPREAD = (2.6, 4.5, 1.8), (0.5, 0.25, 0.5)
ROTATION_BAND, TRANSLATION_BAND = ((0.12, 0.65), (0.07, 0.4), (0.08, 0.45)), ((0.05, 0.3), (0.05, 0.28), (0.04, 0.25))
NOD = 1.2  # deg of pitch at full jaw opening, per head_motion
WAVES = 5  # sinusoids per motion


@dataclass(frozen=True)
class Performance:
    """T frames of one speaker; the audio is exactly as long."""

    fps: float
    seed: int
    audio: np.ndarray  # [samples] float32 in [-1, 1], SAMPLE_RATE
    utterance: Utterance  # phoneme schedule and sentences
    articulation: Articulation  # arrays [T]: mouth, blinks, brows, gaze
    rotation: np.ndarray  # [T, 3, 3] of the head against facing the camera, head axes
    translation: np.ndarray  # [T, 3] cm, head axes

    def __len__(self) -> int:
        return len(self.rotation)


def perform(style: Style, sentence_seed: int, seconds: float, fps: float = 25, language: int = 0) -> Performance:
    """Return a performance of round(seconds * fps) frames.

    Raises:
        InstagError: fewer than one frame is asked for.
    """
    frames = round(seconds * fps) if seconds > 0 and fps > 0 else 0
    if frames < 1:
        raise InstagError(f"{seconds} s at {fps} frames a second is no frame: ask for a longer performance")
    utterance = speak(sentence_seed, frames / fps, style.rate, language)
    time = (np.arange(frames) + 0.5) / fps
    mouth = _mouth(utterance, style, time)
    effort = mouth["jaw"] / JAW_FULL
    random = generator("motion", style.seed, sentence_seed)
    rotation, translation = _head_motion(style, time, effort, random)
    blink = blinks(style, time, random)
    gaze_x, gaze_y = _gaze(time, fps, random)
    articulation = Articulation(
        **mouth,
        blink_left=blink,
        blink_right=0.97 * blink,
        brow=np.clip(style.brow_gain * (0.22 * _wander(time, (0.1, 0.9), random) + 0.10 * (effort - 0.3)), -0.25, 0.7),
        brow_inner=np.clip(0.10 * _wander(time, (0.1, 0.8), random), -0.2, 0.3),
        gaze_x=gaze_x,
        gaze_y=gaze_y,
    )
    samples = round(frames / fps * SAMPLE_RATE)
    audio = synthesize(utterance.sounds, style, samples, sentence_seed)
    return Performance(fps, sentence_seed, audio, utterance, articulation, rotation, translation)


def _mouth(utterance: Utterance, style: Style, time: np.ndarray) -> dict[str, np.ndarray]:
    gains = {
        "jaw": JAW_FULL * style.jaw_gain,
        "upper": LIP_FULL * style.lip_gain,
        "lower": LIP_FULL * style.lip_gain,
        "wide": style.wide_gain,
        "round": style.round_gain,
    }
    return {channel: gains.get(channel, 1.0) * _blend(utterance, channel, time) for channel in MOUTH_CHANNELS}


def _blend(utterance: Utterance, channel: str, time: np.ndarray) -> np.ndarray:
    """Return the dominance-weighted mean of the phonemes' targets, [T]."""
    weighted, total = np.zeros(len(time)), np.full(len(time), 1e-6)
    for sound in utterance.sounds:
        phoneme = PHONEMES[sound.symbol]
        strength, decay = _dominance(phoneme, channel)
        away = np.maximum(0, np.maximum(sound.start - time, time - sound.start - sound.seconds))
        dominance = strength * np.where(away > 0, OUTSIDE_SHARE * np.exp(-away / decay), 1)
        weighted += dominance * getattr(phoneme, channel)
        total += dominance
    return weighted / total


def _dominance(phoneme: Phoneme, channel: str) -> tuple[float, float]:
    """Return (strength, time constant) with which a phoneme pulls a channel."""
    target = getattr(phoneme, channel)
    if channel == "seal":
        return SEALING if target > 0.3 else NOT_SEALING
    if channel == "tuck" and target > 0:
        return TUCKING
    if channel == "round" and target > 0.3:
        return ROUNDING
    strength, decay = VOWEL if phoneme.kind == "vowel" else CONSONANT[channel]
    return (SEALED_JAW, decay) if channel == "jaw" and phoneme.seal > 0.9 else (strength, decay)


def blinks(style: Style, time: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return lid closure 0..1, [T]; some frame of every 4 s is fully closed."""
    closure = np.zeros(len(time))
    at = random.uniform(*BLINK_FIRST)
    while at < time[-1] + BLINK_CLOSING:
        since = time - at  # from the moment of full closure
        opening = 1 - (since - BLINK_HOLD) / BLINK_OPENING
        closure = np.maximum(closure, np.clip(np.where(since < 0, 1 + since / BLINK_CLOSING, opening), 0, 1))
        shortest, longest = BLINK_INTERVAL
        at += min(longest, shortest + random.exponential(1 / style.blink_rate))
    return closure * closure * (3 - 2 * closure)


def _wander(time: np.ndarray, band: tuple[float, float], random: np.random.Generator) -> np.ndarray:
    """Return smooth motion of unit deviation in the long run, [T]: sinusoids at random frequencies of a band (Hz)."""
    frequencies = np.exp(random.uniform(*np.log(band), WAVES))
    phases = random.uniform(0, 2 * math.pi, WAVES)
    waves = np.sin(2 * math.pi * frequencies * time[:, None] + phases)
    return waves.sum(1) * math.sqrt(2 / WAVES)


def _head_motion(
    style: Style, time: np.ndarray, effort: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return rotations [T, 3, 3] and translations [T, 3] cm."""
    degrees = [s * _wander(time, band, random) for s, band in zip(ROTATION_SPREAD, ROTATION_BAND, strict=True)]
    degrees[0] = degrees[0] + NOD * effort
    centimetres = [
        s * _wander(time, band, random) for s, band in zip(TRANSLATION_SPREAD, TRANSLATION_BAND, strict=True)
    ]
    angles = np.radians(style.head_motion * np.stack(degrees, 1))
    return rotations(angles), style.head_motion * np.stack(centimetres, 1)


def rotations(angles: np.ndarray) -> np.ndarray:
    """Return Rz Ry Rx, [T, 3, 3], for angles (x: nodding down, y: to the subject's left, z) [T, 3] in rad."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles).T, np.sin(angles).T
    rows = [
        [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
        [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
        [-sy, cy * sx, cy * cx],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def _gaze(time: np.ndarray, fps: float, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return gaze (x, y) in rad, [T] each: fixations joined by quick saccades."""
    slow_x, slow_y = 1.2 * _wander(time, (0.1, 0.6), random), 0.8 * _wander(time, (0.1, 0.5), random)
    saccade = 0.02 * fps  # frames
    x, y = (gaussian_filter1d(np.round(slow), saccade) for slow in (slow_x, slow_y))
    return 0.09 * x, 0.05 * y
