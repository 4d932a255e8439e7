"""What a label map cannot show: islands, torso in mid-air, hair that hangs from nothing; handed to what is around."""

from __future__ import annotations

import cv2
import numpy as np

from instag.data.layout import Label
from instag.data_utils.image_ops import (
    box,
    coarse_component_filter,
    component_filter,
    fill_from_nearest,
    scaled_px,
)
from instag.data_utils.posterior import CLASSES, HAIR, HEAD, NECK, NOBODY, TORSO

SECOND_BEST = 0.02  # probability from which a pixel's second class is tried before that of its neighbours
# Areas at 512 px.
SPECK_PX = 150  # of any class
PIECE_PX = 400  # least area of a piece of skin or hair
STRAND_GAP_PX = 10  # hair on the shoulders hangs from the head's, with gaps up to twice this (an ear, the edge)
HAIR_SHARE = 0.03  # of the largest piece of hair: smaller ones are none


def tidy(
    posterior: np.ndarray, likeliest: np.ndarray, person: np.ndarray, nose: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Hand regions that cannot be what they claim to their neighbours; changed in place and returned: posterior float32
    [h, w, 4] and its `likeliest` class int8 [h, w].

    Torso reaches the bottom of the picture, neck touches the head and is no sliver along the jaw, hair and skin come
    in large pieces. `person` bool [h, w]: only there; `nose` (x, y) px.
    """
    labels = np.where(person, likeliest, np.int8(NOBODY))
    wrong = _impossible(labels, nose)
    if not wrong.any():
        return posterior, likeliest
    at = np.nonzero(wrong)
    rest = posterior[at]  # [K, 4]
    rest[np.arange(len(rest)), labels[at]] = 0
    likely = rest.max(1)
    second = labels.copy()
    second[at] = np.where(likely > SECOND_BEST, rest.argmax(1), labels[at])
    wrong &= (second == labels) | _impossible(second, nose)
    posterior[at] = rest / np.maximum(rest.sum(1, keepdims=True), 1e-6)
    likeliest[at] = rest.argmax(1)
    nearest = np.maximum(fill_from_nearest(second, wrong | ~person)[wrong], 0)
    posterior[wrong], likeliest[wrong] = np.eye(len(CLASSES), dtype=np.float32)[nearest], nearest
    return posterior, likeliest


def _impossible(labels: np.ndarray, nose: np.ndarray) -> np.ndarray:
    """Where classes (int [h, w], -1: nobody) cannot be what they claim, bool [h, w]; see `tidy`."""
    size = len(labels)
    area = (size / 512) ** 2
    head, hair, neck, torso = (labels == k for k in (HEAD, HAIR, NECK, TORSO))
    near_head = cv2.dilate((head | hair).view(np.uint8), box(scaled_px(8, size))).view(bool)
    at_nose, at_bottom, high = (np.zeros(labels.shape, bool) for _ in range(3))
    x, y = np.clip(nose[:2].astype(int), 0, size - 1)
    at_nose[y, x] = True
    high[:y] = True
    at_bottom[-max(2, scaled_px(3, size)) :] = True
    thick = cv2.morphologyEx(neck.view(np.uint8), cv2.MORPH_OPEN, box(scaled_px(4, size))).view(bool)
    wrong = neck & ~thick
    wrong |= component_filter(thick, lambda at, n: at & (n > SPECK_PX * area), near_head)
    wrong |= component_filter(torso, lambda at, _: at, at_bottom)
    wrong |= component_filter(head, lambda at, n: at | (n > PIECE_PX * area), at_nose)
    wrong |= component_filter(hair, lambda _, n: n >= max(PIECE_PX * area, HAIR_SHARE * n[1:].max()))
    strands = cv2.dilate((hair & ~wrong).view(np.uint8), box(scaled_px(STRAND_GAP_PX, size))).view(bool)
    return wrong | hair & component_filter(strands, lambda at, _: at, high & hair)


def remove_specks(labels: np.ndarray) -> np.ndarray:
    """Islands of the person and holes in it smaller than SPECK_PX become what is nearest to them."""
    least = SPECK_PX * (len(labels) / 512) ** 2
    person = labels != Label.BACKGROUND
    specks = coarse_component_filter(person, lambda _, areas: areas >= least)
    specks |= coarse_component_filter(~person, lambda _, areas: areas >= least)
    return fill_from_nearest(labels, specks)
