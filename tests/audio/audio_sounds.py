"""Made sounds and the way to the real clips."""

from pathlib import Path

import numpy as np
import pytest

RATE = 16_000
CLIPS = Path(__file__).resolve().parents[3] / "shared" / "clips"


def real_clip(name: str) -> Path:
    """Path of a real clip; the test is skipped where the clips are absent."""
    path = CLIPS / name
    if not path.is_file():
        pytest.skip(f"{path} is absent: real clips are not part of the repository")
    return path


def babble(seconds: float, seed: int = 0, level: float = 0.1) -> np.ndarray:
    """Speech-like: a breathy buzz with a wandering formant, two syllables a second, over faint noise. [S]."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    pitch = 2 * np.pi * np.cumsum(120 + 20 * np.sin(2 * np.pi * 0.7 * time)) / RATE
    formant = 800 + 500 * np.sin(2 * np.pi * 1.3 * time + seed)
    sound = 0.5 * rng.standard_normal(len(time))
    for harmonic in range(1, 30):
        sound += np.sin(harmonic * pitch) * np.exp(-(((harmonic * 120 - formant) / 400) ** 2))
    syllables = np.maximum(np.sin(2 * np.pi * 2 * time), 0)
    sound = level * sound / 4 * syllables
    return (sound + 3e-4 * rng.standard_normal(len(time))).astype(np.float32)
