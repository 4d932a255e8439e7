"""The points of MediaPipe's 478-point face mesh by name, and the field's 68 points made from them.

Left and right are those of the subject (its right is left in the picture). Numbers and the three corrections of the
68-point map: notes, preprocessing, section 2. Needs numpy alone.
"""

from __future__ import annotations

import numpy as np

LANDMARKS_478 = 478

INNER_LIPS_LOOP = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95)
OUTER_LIPS_LOOP = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146)
FACE_OVAL_LOOP = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
JAW_LINE = (132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361)
RIGHT_EYE_LOOP = (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7)
LEFT_EYE_LOOP = (263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249)
RIGHT_BROW_UPPER, RIGHT_BROW_LOWER = (70, 63, 105, 66, 107), (46, 53, 52, 65, 55)
LEFT_BROW_UPPER, LEFT_BROW_LOWER = (300, 293, 334, 296, 336), (276, 283, 282, 295, 285)
MIDLINE = (10, 151, 9, 8, 168, 6, 197, 195, 5, 4, 1, 2, 0, 13, 14, 17, 152)

FOREHEAD_TOP, NOSE_BRIDGE, CHIN = 10, 168, 152
UPPER_INNER_LIP, LOWER_INNER_LIP = 13, 14
RIGHT_EYE_OUTER, RIGHT_EYE_INNER = 33, 133
LEFT_EYE_OUTER, LEFT_EYE_INNER = 263, 362
# (upper, lower) lid points whose distances over the eye's width make the eye aspect ratio.
RIGHT_LID_PAIRS = ((159, 145), (158, 153), (160, 144))
LEFT_LID_PAIRS = ((386, 374), (385, 380), (387, 373))

# Points that move with expression, and so carry no or little weight for the pose of the head.
LIP_POINTS = (
    61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95, 185, 40, 39, 37,
    0, 267, 269, 270, 409, 415, 310, 311, 312, 13, 82, 81, 42, 183, 78, 80, 191, 76, 62, 184, 74, 73, 72, 11, 302, 303,
    304, 408, 306, 292, 307, 320, 404, 315, 16, 85, 180, 90, 77, 96, 89, 179, 86, 15, 316, 403, 319, 325, 38, 41, 12,
    268, 271, 272, 407,
)  # fmt: skip
LID_POINTS = tuple(sorted({*RIGHT_EYE_LOOP, *LEFT_EYE_LOOP} - {33, 133, 263, 362}))
BROW_POINTS = RIGHT_BROW_UPPER + RIGHT_BROW_LOWER + LEFT_BROW_UPPER + LEFT_BROW_LOWER

# The jaw line of the 68 points runs from temple to temple; each half is resampled by arc length to 8 steps.
_JAW_RIGHT = (127, 234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152)
_JAW_LEFT = (152, 377, 400, 378, 379, 365, 397, 288, 361, 323, 454, 356)
_JAW_STEPS = 8
_NOSE = (168, 197, 5, 4, 75, 97, 2, 326, 305)
_EYES = (33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380)
_OUTER_LIPS = (61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181)
_INNER_LIPS = (78, 81, 13, 311, 308, 402, 14, 178)


def to_68_points(landmarks: np.ndarray) -> np.ndarray:
    """The field's 68 points (jaw 0-16, brows 17-26, nose 27-35, eyes 36-47, lips 48-67) from the face mesh.

    Args:
        landmarks: [T, 478 or 468, >= 2] pixels.

    Returns:
        [T, 68, 2] in the dtype given.
    """
    points = landmarks[..., :2]
    right_brow = 0.5 * (points[:, RIGHT_BROW_UPPER] + points[:, RIGHT_BROW_LOWER])
    left_brow = 0.5 * (points[:, LEFT_BROW_UPPER[::-1]] + points[:, LEFT_BROW_LOWER[::-1]])
    right_jaw = _resample(points[:, _JAW_RIGHT], _JAW_STEPS + 1)
    left_jaw = _resample(points[:, _JAW_LEFT], _JAW_STEPS + 1)
    rest = points[:, _NOSE + _EYES + _OUTER_LIPS + _INNER_LIPS]
    parts = [right_jaw, left_jaw[:, 1:], right_brow, left_brow, rest]
    return np.concatenate(parts, axis=1).astype(landmarks.dtype)


def _resample(lines: np.ndarray, count: int) -> np.ndarray:
    """Polylines [T, n, 2] -> `count` points at equal arc length, ends kept."""
    steps = np.linalg.norm(np.diff(lines, axis=1), axis=2)
    length = np.concatenate([np.zeros((len(lines), 1)), steps.cumsum(1)], axis=1)  # [T, n]
    out = np.empty((len(lines), count, 2))
    for t, (line, along) in enumerate(zip(lines, length, strict=True)):
        wanted = np.linspace(0, along[-1], count)
        out[t] = np.stack([np.interp(wanted, along, line[:, axis]) for axis in (0, 1)], axis=1)
    return out
