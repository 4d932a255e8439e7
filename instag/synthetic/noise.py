"""Tileable noise textures, the same for everybody, and their look-up inside compiled code."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from scipy.ndimage import gaussian_filter

from instag.synthetic.seeds import generator

SIZE = 256  # a power of two
LAST = SIZE - 1  # also the mask that wraps an index round


def _texture(name: str, octaves: list[tuple[float, float]]) -> np.ndarray:
    """Return a [SIZE, SIZE] float32 texture about .5; octaves are (blur in texels, strength)."""
    random = generator(name, 0)
    layers = [gaussian_filter(random.normal(size=(SIZE, SIZE)), s, mode="wrap") * s * a for s, a in octaves]
    total = np.sum(layers, axis=0)
    total = (total - total.mean()) / total.std()
    return (0.5 + 0.2 * np.clip(total, -2.5, 2.5)).astype(np.float32)


COARSE = _texture("coarse", [(6, 1), (3, 0.6), (1.5, 0.4)])
FINE = _texture("fine", [(1.0, 1), (0.6, 0.8)])


@njit(cache=True, nogil=True, fastmath=True)
def sample(texture, row, column):
    """Return the bilinear value at (row, column) in texels, wrapping round."""
    i, j = math.floor(row), math.floor(column)
    a, b = row - i, column - j
    i, j = i & LAST, j & LAST
    below, right = (i + 1) & LAST, (j + 1) & LAST
    upper = texture[i, j] * (1 - b) + texture[i, right] * b
    lower = texture[below, j] * (1 - b) + texture[below, right] * b
    return upper * (1 - a) + lower * a


@njit(cache=True, nogil=True, fastmath=True)
def grain(x, y, channel, frame):
    """Return film grain of about unit deviation from a hash of the arguments: the same wherever it is computed."""
    state = np.uint32(np.uint32(x) * np.uint32(0x9E3779B1) ^ np.uint32(y) * np.uint32(0x85EBCA77))
    state ^= np.uint32(np.uint32(frame) * np.uint32(0xC2B2AE3D) ^ np.uint32(channel) * np.uint32(0x27D4EB2F))
    total = 0.0
    for _ in range(3):  # the sum of three uniforms is close enough to a Gaussian
        state = np.uint32((state ^ state >> np.uint32(16)) * np.uint32(0x7FEB352D))
        state = np.uint32((state ^ state >> np.uint32(15)) * np.uint32(0x846CA68B))
        state ^= state >> np.uint32(16)
        total += state * (1.0 / 4294967296.0) - 0.5
    return 2.0 * total
