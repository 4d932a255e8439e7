"""Colour models: smoothed histograms over LAB cells."""

from __future__ import annotations

import cv2
import numpy as np

_BINS = 32  # a side
_CHROMA_START, _CHROMA_STEP = 64, 4  # OpenCV's a and b lie round 128; skin, hair and cloth within +-64
_LEVELS = np.arange(256)
_CHROMA = np.clip((_LEVELS - _CHROMA_START) // _CHROMA_STEP, 0, _BINS - 1)
_CELL_OF_LEVEL = np.stack([_LEVELS * _BINS // 256, _CHROMA, _CHROMA], -1)[:, None].astype(np.uint8)  # [256, 1, 3]


def colour_bins(image: np.ndarray) -> np.ndarray:
    """uint8 RGB [H, W, 3] -> index of the LAB cell, int32 [H, W] in [0, 32^3)."""
    cells = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2LAB), _CELL_OF_LEVEL)
    light, green_red, blue_yellow = (channel.astype(np.int32) for channel in cv2.split(cells))
    return (light * _BINS + green_red) * _BINS + blue_yellow


class ColourCounts:
    """A histogram of LAB cells under construction."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS**3)

    def add(self, bins: np.ndarray, weight: np.ndarray | float = 1.0) -> None:
        """Count pixels (any shape), each with its weight."""
        weights = np.broadcast_to(weight, bins.shape).ravel()
        self._counts += np.bincount(bins.ravel(), weights=weights, minlength=_BINS**3)

    def add_anything(self, pixels: float) -> None:
        """Count pixels of unknown colour."""
        self._counts += pixels / len(self._counts)

    def log_likelihood(self) -> np.ndarray:
        """Natural log of the smoothed density of each cell, float32 [32^3]."""
        cube = self._counts.astype(np.float32).reshape(_BINS, _BINS, _BINS)
        for axis in range(3):
            flat = np.moveaxis(cube, axis, 0).reshape(_BINS, -1)
            flat = cv2.GaussianBlur(flat, (1, 7), sigmaX=1.0, sigmaY=1.0, borderType=cv2.BORDER_REPLICATE)
            cube = np.moveaxis(flat.reshape(_BINS, _BINS, _BINS), 0, axis)
        density = cube.ravel() + 1e-3
        return np.log(density / density.sum()).astype(np.float32)
