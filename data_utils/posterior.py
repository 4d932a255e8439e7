"""Which class a person's pixels are likely to be: colours times place, smoothed along the picture's edges, enlarged.

Compiled loops, since each passes over the picture once where arrays would be made and read a dozen times.
"""

from __future__ import annotations

import numba
import numpy as np

from instag.data.layout import Label
from instag.data_utils.guided import guided_model
from instag.data_utils.image_ops import scaled_px

SMOOTHING_PX, SMOOTHING_EPSILON = 8, 4e-4  # at 512 px; of a guide in [0, 1]
CLASSES = (Label.HEAD, Label.HAIR, Label.NECK, Label.TORSO)
HEAD, HAIR, NECK, TORSO = range(len(CLASSES))  # their place in the last axis of shares
NOBODY = -1  # where a class is asked for and no person is
_COUNT = len(CLASSES)
_BACKGROUND, _FIRST_CLASS = int(Label.BACKGROUND), int(CLASSES[0])


def class_shares(
    bins: np.ndarray,
    colours: np.ndarray,
    place: np.ndarray,
    face: np.ndarray,
    evidence: np.ndarray,
    guide: np.ndarray,
    where: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Probability of each of CLASSES, float32 [h, w, 4], sums to 1, and the likeliest class, int8 [h, w].

    `bins` int32 [h, w], colour cells, whose likelihoods are `colours` float32 [cells, 4]; `place` float32 [h, w, 4],
    the prior; `face` uint8 [h, w] counts into `evidence` float32, by which skin of the head is likelier; `guide` uint8
    [h, w], grey. Found where the mask `where` (bool [h, w]) says so; elsewhere 0 and NOBODY.
    """
    odds = np.empty(place.shape, np.float32)
    _multiply(bins, colours, place, face, evidence, odds)
    slope, offset = guided_model(odds, guide, scaled_px(SMOOTHING_PX, len(guide)), SMOOTHING_EPSILON)
    shares = np.zeros(place.shape, np.float32)
    likeliest = np.full(bins.shape, NOBODY, np.int8)
    _evaluate(slope, offset, guide, where, shares, likeliest)
    return shares, likeliest


def enlarged_labels(shares: np.ndarray, likeliest: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Label map uint8 [H, W]: the class with the largest share, interpolated bilinearly, where alpha [H, W] >= 0.5.

    `shares` float32 [h, w, 4] and their `likeliest` class int8 [h, w] (NOBODY: not known) of a smaller picture.
    """
    labels = np.empty(alpha.shape, np.uint8)
    _enlarge(shares, likeliest, alpha, labels)
    return labels


@numba.njit(cache=True, nogil=True)
def _multiply(bins, colours, place, face, evidence, odds):
    """odds [h, w, CLASSES]: colour times place times evidence of a face, as shares."""
    height, width = bins.shape
    for y in range(height):
        for x in range(width):
            cell = bins[y, x]
            total = np.float32(0)
            for k in range(_COUNT):
                value = colours[cell, k] * place[y, x, k]
                if k == HEAD:
                    value *= evidence[face[y, x]]
                odds[y, x, k] = value
                total += value
            share = np.float32(1) / total
            for k in range(_COUNT):
                odds[y, x, k] *= share


@numba.njit(cache=True, nogil=True)
def _between(position: int, scale: float, count: int) -> tuple[int, int, np.float32]:
    """Where an element's middle lies among `count` coarser ones, `scale` of them to one: before, after, its weight."""
    exact = max(0.0, (position + 0.5) * scale - 0.5)
    first = min(int(exact), count - 1)
    return first, min(first + 1, count - 1), np.float32(exact - first)


@numba.njit(cache=True, nogil=True)
def _evaluate(slope, offset, guide, where, shares, likeliest):
    """Guided filters' results as shares [H, W, CLASSES], and the largest's index, from models [h, w, CLASSES]."""
    height, width, _ = slope.shape
    full_height, full_width = guide.shape
    row = np.empty((2, width, _COUNT), np.float32)
    for y in range(full_height):
        top, bottom, down = _between(y, height / full_height, height)
        for x in range(width):
            for k in range(_COUNT):
                row[0, x, k] = slope[top, x, k] + down * (slope[bottom, x, k] - slope[top, x, k])
                row[1, x, k] = offset[top, x, k] + down * (offset[bottom, x, k] - offset[top, x, k])
        for x in range(full_width):
            if not where[y, x]:
                continue
            left, right, across = _between(x, width / full_width, width)
            grey = np.float32(guide[y, x])
            total, most = np.float32(1e-6), np.float32(-1)
            for k in range(_COUNT):
                by_grey = row[0, left, k] + across * (row[0, right, k] - row[0, left, k])
                value = by_grey * grey + row[1, left, k] + across * (row[1, right, k] - row[1, left, k])
                value = min(max(value, np.float32(0)), np.float32(1))
                shares[y, x, k] = value
                total += value
                if value > most:
                    most, likeliest[y, x] = value, k
            share = np.float32(1) / total
            for k in range(_COUNT):
                shares[y, x, k] *= share


@numba.njit(cache=True, nogil=True)
def _enlarge(shares, likeliest, alpha, labels):
    """`enlarged_labels`."""
    height, width, _ = shares.shape
    full_height, full_width = labels.shape
    for y in range(full_height):
        top, bottom, down = _between(y, height / full_height, height)
        for x in range(full_width):
            if alpha[y, x] < np.float32(0.5):
                labels[y, x] = _BACKGROUND
                continue
            left, right, across = _between(x, width / full_width, width)
            index = likeliest[top, left]
            alike = index == likeliest[top, right] == likeliest[bottom, left] == likeliest[bottom, right]
            if not alike or index == NOBODY:  # else it has the largest share in between as well
                index, most = 0, np.float32(-1)
                for k in range(_COUNT):
                    above = shares[top, left, k] + across * (shares[top, right, k] - shares[top, left, k])
                    below = shares[bottom, left, k] + across * (shares[bottom, right, k] - shares[bottom, left, k])
                    value = above + down * (below - above)
                    if value > most:
                        index, most = k, value
            labels[y, x] = index + _FIRST_CLASS
