"""What a label map cannot show: islands, torso in mid-air, hair that hangs from nothing; handed to what is around."""

from __future__ import annotations

import cv2
import numpy as np

from instag.data.layout import Label
from instag.data_utils.image_ops import box, fill_from_nearest, scaled_px
from instag.data_utils.pieces import Pieces
from instag.data_utils.posterior import CLASSES, HAIR, HEAD, NECK, NOBODY

SECOND_BEST = 0.02  # probability from which a pixel's second class is tried before that of its neighbours
# Areas at 512 px.
SPECK_PX = 150  # of any class
PIECE_PX = 400  # least area of a piece of skin or hair
STRAND_GAP_PX = 10  # hair on the shoulders hangs from the head's, with gaps up to twice this (an ear, the edge)
SURROUNDINGS_PX = 32  # at 512 px: neighbours are looked for this far round
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
    left, top, width, height = cv2.boundingRect(wrong.view(np.uint8))
    around = scaled_px(SURROUNDINGS_PX, len(labels))
    window = slice(max(0, top - around), top + height + around), slice(max(0, left - around), left + width + around)
    wrong = wrong[window]
    nearest = np.maximum(fill_from_nearest(second[window], wrong | ~person[window])[wrong], 0)
    likeliest[window][wrong] = nearest
    posterior[window][wrong] = np.eye(len(CLASSES), dtype=np.float32)[nearest]
    return posterior, likeliest


def _impossible(labels: np.ndarray, nose: np.ndarray) -> np.ndarray:
    """Where classes (int8 [h, w] or NOBODY) cannot be what they claim, bool [h, w]; see `tidy`."""
    size = len(labels)
    head, hair, neck = (labels == k for k in (HEAD, HAIR, NECK))
    near_head = cv2.dilate((head | hair).view(np.uint8), box(scaled_px(8, size))).view(bool)
    x, y = np.clip(nose[:2].astype(int), 0, size - 1)
    thin = neck & (cv2.morphologyEx(neck.view(np.uint8), cv2.MORPH_OPEN, box(scaled_px(4, size))) == 0)
    thick = labels.copy()
    thick[thin] = NOBODY
    pieces = Pieces.of(thick)
    is_head, is_hair, is_neck, is_torso = (pieces.label == k for k in range(len(CLASSES)))
    area = pieces.area * (512 / size) ** 2
    at_nose = np.arange(len(area)) == pieces.at(y, x)
    wrong = is_neck & ~(pieces.touching(near_head) & (area > SPECK_PX))
    wrong |= is_torso & (pieces.last_row < size - max(2, scaled_px(3, size)))
    wrong |= is_head & ~(at_nose | (area > PIECE_PX))
    wrong |= is_hair & (area < max(PIECE_PX, HAIR_SHARE * area[is_hair].max(initial=0)))
    impossible = thin | pieces.mask(wrong)
    strands = Pieces.of(cv2.dilate((hair & ~impossible).view(np.uint8), box(scaled_px(STRAND_GAP_PX, size))))
    high = hair.copy()
    high[y:] = False
    return impossible | hair & strands.mask((strands.label != 0) & ~strands.touching(high))


def remove_specks(labels: np.ndarray) -> np.ndarray:
    """Islands of the person and holes in it smaller than SPECK_PX become what is nearest to them."""
    pieces = Pieces.of(labels != Label.BACKGROUND)
    return fill_from_nearest(labels, pieces.mask(pieces.area < SPECK_PX * (len(labels) / 512) ** 2))
