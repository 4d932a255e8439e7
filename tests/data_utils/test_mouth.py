import cv2
import numpy as np
import pytest

from instag.data_utils.face_points import INNER_LIPS_LOOP, LANDMARKS_478, OUTER_LIPS_LOOP
from instag.data_utils.image_ops import polygon_mask
from instag.data_utils.mouth import inside_mouth

LIPS, SKIN, CAVITY, TEETH = (170, 90, 90), (205, 150, 120), (40, 15, 15), (235, 230, 220)


def loop(count, height, width):
    angle = np.pi + 2 * np.pi * np.arange(count) / count
    return np.stack([128 + width * np.cos(angle), 128 + height * np.sin(angle)], -1)


def picture(opening, size=256):
    """A mouth of half-height `opening` px, its upper third teeth; returns frame, truth, landmarks a third too low."""
    landmarks = np.zeros((LANDMARKS_478, 3), np.float32)
    landmarks[list(OUTER_LIPS_LOOP), :2] = loop(len(OUTER_LIPS_LOOP), opening + 12, 50)
    landmarks[list(INNER_LIPS_LOOP), :2] = loop(len(INNER_LIPS_LOOP), opening * 2 / 3, 40)
    truth = polygon_mask(loop(64, opening, 40), size)
    frame = np.full((size, size, 3), SKIN, np.uint8)
    frame[polygon_mask(landmarks[list(OUTER_LIPS_LOOP), :2], size)] = LIPS
    frame[truth] = CAVITY
    frame[truth & (np.arange(size)[:, None] < 128 - opening / 3)] = TEETH
    noise = np.random.default_rng(0).normal(0, 4, frame.shape)
    frame = cv2.GaussianBlur(np.clip(frame + noise, 0, 255).astype(np.uint8), (0, 0), 0.7)
    return frame, truth, landmarks


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("opening", [6, 8])
def test_the_edge_moves_to_the_lips(opening):
    frame, truth, landmarks = picture(opening)
    polygon = polygon_mask(landmarks[list(INNER_LIPS_LOOP), :2], 256)
    assert iou(polygon, truth) < 0.75
    assert iou(inside_mouth(frame, landmarks), truth) > 0.88


def test_the_edge_moves_a_little_only():
    frame, _, landmarks = picture(6)
    polygon = polygon_mask(landmarks[list(INNER_LIPS_LOOP), :2], 256)
    black = np.zeros_like(frame)
    np.testing.assert_array_equal(inside_mouth(black, landmarks) & ~polygon, False)
    reach = cv2.dilate(polygon.astype(np.uint8), np.ones((5, 1), np.uint8)) > 0
    assert not (inside_mouth(frame, landmarks) & ~reach).any()


def test_closed_lips_have_no_inside():
    frame, _, landmarks = picture(0.2)
    assert not inside_mouth(frame, landmarks).any()
