"""Head pose, focal length and head shape of a clip from its landmarks (notes: preprocessing, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class HeadTrack:
    """Pose of the head in each frame: X_camera = R X_head + t, OpenCV axes, centimetres.

    Attributes:
        rotation: [T, 3, 3] float64.
        translation_cm: [T, 3] float64.
        focal: pixels of the tracked pictures; the principal point is their centre.
        shape: [468, 3] float64 cm, the clip's mean face in the head frame (x right in the picture, y down, z away
            from the viewer; origin inside the head, 5.2 cm behind the bridge of the nose).
        rmse: weighted distance of the rigid points to the landmarks, pixels.
        cuts: frames at which a new shot begins.
    """

    rotation: np.ndarray
    translation_cm: np.ndarray
    focal: float
    shape: np.ndarray
    rmse: float
    cuts: tuple[int, ...] = ()
