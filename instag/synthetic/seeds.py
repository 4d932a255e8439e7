"""Random numbers that stay put: each drawn value has a name, so adding a parameter changes no other one."""

from __future__ import annotations

import zlib

import numpy as np

NORMAL_LIMIT = 1.8  # standard deviations: further out lies the grotesque


def generator(name: str, *seeds: int) -> np.random.Generator:
    """Return the random generator that belongs to `name` under `seeds`."""
    return np.random.default_rng([zlib.crc32(name.encode()), *seeds])


class Draw:
    """Named draws under one seed, independent of the order in which they are asked for."""

    def __init__(self, topic: str, seed: int):
        self._topic, self._seed = topic, seed

    def _generator(self, name: str) -> np.random.Generator:
        return generator(f"{self._topic}/{name}", self._seed)

    def normal(self, name: str, mean: float, deviation: float) -> float:
        """Return a draw from N(mean, deviation), cut at NORMAL_LIMIT deviations."""
        return mean + deviation * float(np.clip(self._generator(name).normal(), -NORMAL_LIMIT, NORMAL_LIMIT))

    def uniform(self, name: str, low: float, high: float) -> float:
        """Return a draw from U(low, high)."""
        return float(self._generator(name).uniform(low, high))

    def index(self, name: str, count: int) -> int:
        """Return one of 0 .. count - 1."""
        return int(self._generator(name).integers(count))
