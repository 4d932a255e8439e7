"""A speaker drawn from ellipses, with 478 landmarks, pose, selfie-like probability and the true label map."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from instag.data.layout import Label
from instag.data_utils.background import Plate
from instag.data_utils.face_points import (
    FACE_OVAL_LOOP,
    INNER_LIPS_LOOP,
    LANDMARKS_478,
    LEFT_BROW_UPPER,
    NOSE_BRIDGE,
    OUTER_LIPS_LOOP,
    RIGHT_BROW_UPPER,
)

DISTANCE_CM, DEPTH_CM = 75.0, 4.0  # of the head from the camera; of the drawing behind the head's origin
SKIN, SHADE, HAIR, SHIRT, CAVITY = (205, 150, 120), (150, 105, 85), (70, 50, 35), (60, 70, 120), (80, 25, 30)
MOUTH_V = 5.0  # cm


@dataclass
class MadeSpeaker:
    """A clip as the picture steps see it; `truth` uint8 [T, H, W], `room` the background uint8 [H, W, 3]."""

    size: int
    frames: np.ndarray
    truth: np.ndarray
    people: np.ndarray
    landmarks: np.ndarray
    rotation: np.ndarray
    translation_cm: np.ndarray
    room: np.ndarray
    plate: Plate | None = None
    focal: float = 0.0

    @property
    def count(self) -> int:
        return len(self.frames)

    def frame(self, i: int) -> np.ndarray:
        return self.frames[i]

    def person(self, i: int) -> np.ndarray:
        return self.people[i]

    def arguments(self, i: int) -> tuple[np.ndarray, ...]:
        """What `Parser.label` takes."""
        return self.frames[i], self.people[i], self.landmarks[i], self.rotation[i], self.translation_cm[i]


def made_room(size: int) -> np.ndarray:
    """A wall with a gradient and a grid, uint8 [size, size, 3]."""
    y, x = np.mgrid[:size, :size] / size
    wall = np.stack([120 + 60 * x, 160 + 30 * y, 150 + 0 * x], -1)
    wall[((x * 8) % 1 < 0.1) | ((y * 8) % 1 < 0.1)] -= 30
    return wall.astype(np.uint8)


def ellipse_loop(count: int, u: float, v: float, width: float, height: float, start: float) -> np.ndarray:
    """Points [count, 2] clockwise as seen in the picture, from the angle `start` (0: right, -pi/2: top)."""
    angle = start + 2 * np.pi * np.arange(count) / count
    return np.stack([u + width * np.cos(angle), v + height * np.sin(angle)], -1)


def make_speaker(size: int, count: int, extras: tuple[str, ...] = ()) -> MadeSpeaker:
    """A clip of `count` frames. The selfie network takes a flag in the corner for a person.

    `extras`: "beard" in the hair's colour, "badge" in the shirt's colour on the hair, "lit neck" in the face's colour,
    and, alone in changing the labels, "long hair" down to the shoulders and darker there.
    """
    rng = np.random.default_rng(0)
    room = made_room(size)
    speaker = MadeSpeaker(
        size,
        np.empty((count, size, size, 3), np.uint8),
        np.empty((count, size, size), np.uint8),
        np.empty((count, size, size), np.uint8),
        np.zeros((count, LANDMARKS_478, 3), np.float32),
        np.tile(np.eye(3, dtype=np.float32), (count, 1, 1)),
        np.zeros((count, 3), np.float32),
        room,
        focal=2.25 * size,
    )
    for i in range(count):
        sway = np.array([1.2 * np.sin(0.9 * i), 0.4 * np.sin(1.7 * i)])
        opening = 0.5 - 0.5 * np.cos(1.3 * i)
        position = np.array([sway[0], -1.5 + sway[1], DISTANCE_CM])
        speaker.translation_cm[i] = position
        scale = speaker.focal / (DISTANCE_CM + DEPTH_CM)
        middle = size / 2 + scale * position[:2]
        labels = _draw_labels(size, middle, scale, opening, "long hair" in extras)
        image = _paint(room, labels, middle, scale, extras)
        noise = rng.normal(0, 2.0, (size, size, 1))
        speaker.frames[i] = np.clip(image + noise, 0, 255).astype(np.uint8)
        speaker.truth[i] = labels
        speaker.people[i] = _selfie(labels)
        speaker.landmarks[i, :, :2] = middle + scale * _landmarks_cm(opening)
    return speaker


def _draw_labels(size: int, middle: np.ndarray, scale: float, opening: float, long_hair: bool) -> np.ndarray:
    """True label map; `middle` and `scale` carry the head's cm to pixels, the torso stands still."""
    y, x = np.mgrid[:size, :size] + 0.5
    u, v = (x - middle[0]) / scale, (y - middle[1]) / scale

    def inside(centre_v: float, width: float, height: np.ndarray | float) -> np.ndarray:
        return (u / width) ** 2 + ((v - centre_v) / height) ** 2 < 1

    still_u, still_v = (x - size / 2) / scale, (y - size / 2) / scale
    shoulders = (still_v > 10.5 + 0.02 * still_u**2) & (np.abs(still_u) < 17)
    labels = np.zeros((size, size), np.uint8)
    labels[shoulders] = Label.TORSO
    labels[(np.abs(u) < 5) & (v > 0) & (still_v < 12.5 - 0.25 * np.abs(still_u))] = Label.NECK
    labels[inside(-1.5, 8.3, 10.3) & (v < 1.5)] = Label.HAIR
    if long_hair:
        labels[(np.abs(np.abs(u) - 7.5) < 2.2 - 0.05 * v) & (v > -2) & (v < 13)] = Label.HAIR
    labels[((np.abs(u) - 7.3) ** 2 / 1.0 + (v - 1) ** 2 / 4 < 1) & (labels != Label.HAIR)] = Label.HEAD
    labels[inside(0.5, 7.0, np.where(v > 0.5, 9 + 0.8 * opening, 8.0))] = Label.HEAD
    labels[inside(MOUTH_V, 2.6, max(1.3 * opening, 1e-6))] = Label.MOUTH
    return labels


def _paint(
    room: np.ndarray, labels: np.ndarray, middle: np.ndarray, scale: float, extras: tuple[str, ...]
) -> np.ndarray:
    """Colours with a little shading, float64 [H, W, 3]."""
    axis = np.arange(len(labels)) + 0.5
    u, v = ((axis - middle[0]) / scale)[None], ((axis - middle[1]) / scale)[:, None]
    neck = SKIN if "lit neck" in extras else SHADE
    image = np.array([(0, 0, 0), SKIN, HAIR, neck, SHIRT, CAVITY], np.float64)[labels]
    if "beard" in extras:
        image[(labels == Label.HEAD) & (v > 2.5) & (np.abs(u) < 7)] = HAIR
    if "badge" in extras:
        image[(labels == Label.HAIR) & ((u - 2) ** 2 + (v + 9.5) ** 2 < 1)] = SHIRT
    if "long hair" in extras:
        image[labels == Label.HAIR] *= np.clip(1 - 0.04 * (v + 0 * u), 0.5, 1)[labels == Label.HAIR][:, None]
    image *= 1 - 0.012 * np.abs(u)[..., None]
    image[labels == Label.BACKGROUND] = room[labels == Label.BACKGROUND]
    return image


def _selfie(labels: np.ndarray) -> np.ndarray:
    """What a segmentation network gives: soft, a bit too wide, and wrong in a corner."""
    size = len(labels)
    reach = 2 * max(1, size // 128) + 1
    person = cv2.dilate((labels != Label.BACKGROUND).astype(np.uint8), np.ones((reach, reach), np.uint8))
    person[: size // 8, : size // 10] = 1
    return (255 * cv2.GaussianBlur(person.astype(np.float32), (0, 0), size / 170)).astype(np.uint8)


def _landmarks_cm(opening: float) -> np.ndarray:
    """[478, 2] (u, v); points that no picture step reads lie on the nose."""
    points = np.zeros((LANDMARKS_478, 2))
    oval = ellipse_loop(len(FACE_OVAL_LOOP), 0, 0, 7.0, 1.0, -np.pi / 2)
    oval[:, 1] = 0.5 + oval[:, 1] * np.where(oval[:, 1] > 0, 9 + 0.8 * opening, 8.0)
    points[list(FACE_OVAL_LOOP)] = oval
    points[list(OUTER_LIPS_LOOP)] = ellipse_loop(len(OUTER_LIPS_LOOP), 0, MOUTH_V, 3.3, 0.8 + 1.3 * opening, np.pi)
    points[list(INNER_LIPS_LOOP)] = ellipse_loop(len(INNER_LIPS_LOOP), 0, MOUTH_V, 2.6, 1.3 * opening, np.pi)
    for brow, side in ((RIGHT_BROW_UPPER, -1), (LEFT_BROW_UPPER, 1)):
        points[list(brow)] = np.stack([side * np.linspace(5, 1.5, len(brow)), np.full(len(brow), -3.0)], -1)
    points[NOSE_BRIDGE] = (0, -1.5)
    return points
