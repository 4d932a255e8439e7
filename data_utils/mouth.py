"""The inside of the mouth: the polygon of the inner lips, whose edge moves to where the colour of the lips ends.

The face mesh draws the gap between the lips too narrow and smooth. Teeth, tongue and the dark differ from the lips in
colour, whatever that is; so the lips of each frame tell, within a narrow band, what is none of theirs.
"""

from __future__ import annotations

import cv2
import numpy as np

from instag.data_utils.face_points import INNER_LIPS_LOOP, OUTER_LIPS_LOOP
from instag.data_utils.image_ops import polygon_mask, scaled_px

BAND_PX = 4  # at 512 px: the edge moves up or down by at most this
BAND_SHARE = 0.35  # and by at most this share of the gap's height: nearly closed lips stay as the mesh has them
EVEN_PX, EVEN_ROWS_PX = 3, 1  # at 512 px: half the columns and rows over which the edge is evened out
UNLIKE_LIPS = 9.0  # squared Mahalanobis distance of LAB colours
COLOUR_NOISE = (16.0, 4.0, 4.0)  # variance of L, a, b added to the lips' own
LEAST_LIPS_PX = 60  # pixels of lips from which their colour is known


def inside_mouth(frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Pixels between the lips, bool [H, W]; `frame` uint8 [H, W, 3] RGB, `landmarks` [478, 2 or 3] px."""
    size = len(frame)
    inner, outer = (landmarks[list(loop), :2] for loop in (INNER_LIPS_LOOP, OUTER_LIPS_LOOP))
    mouth = polygon_mask(inner, size)
    gap = mouth.sum(0).max()
    band = min(scaled_px(BAND_PX, size), int(BAND_SHARE * gap))
    if not band:
        return mouth
    left, top = np.clip(np.floor(outer.min(0)).astype(int), 0, size - 1)
    right, bottom = np.clip(np.ceil(outer.max(0)).astype(int) + 1, 0, size)
    window = slice(top, bottom), slice(left, right)
    hole, lips = mouth[window].astype(np.uint8), polygon_mask(outer, size)[window]
    upright = np.ones((2 * band + 1, 1), np.uint8)
    largest = (cv2.dilate(hole, upright) > 0) & lips
    lips &= ~largest
    if lips.sum() < LEAST_LIPS_PX:
        return mouth
    colours = cv2.cvtColor(frame[window], cv2.COLOR_RGB2LAB).astype(np.float32)
    found = largest & (_distance(colours, colours[lips]) > UNLIKE_LIPS) | (cv2.erode(hole, upright) > 0)
    neighbours = 2 * scaled_px(EVEN_PX, size) + 1, 2 * scaled_px(EVEN_ROWS_PX, size, 0) + 1
    even = cv2.blur(found.astype(np.float32), neighbours)  # they agree
    mouth[window] = (even > 0.5) & largest
    return mouth


def _distance(colours: np.ndarray, lips: np.ndarray) -> np.ndarray:
    """Squared Mahalanobis distance of colours [H, W, 3] to the distribution of `lips` [K, 3]."""
    inverse = np.linalg.inv(np.cov(lips.T) + np.diag(COLOUR_NOISE))
    offset = colours - lips.mean(0)
    return np.einsum("hwi,ij,hwj->hw", offset, inverse, offset)
