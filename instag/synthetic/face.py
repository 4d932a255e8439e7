"""The skin of the head at rest: one grid of rows (heights) and columns (angles), slit open at the eyes and the mouth.

Units cm; axes of the head frame: x = the subject's left, y up, z forward. The *chart* (X, Y) of a skin point is its
rest position as seen from the front before relief and tilt; it rides along as a vertex attribute, so everything
painted on the skin sticks to it. Behind the ears X goes on growing: nothing drawn near X = 0 shows on the nape.
Proportions by eye from the measurements of notes/PROCEDURAL.md; the heights table was tuned there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

from instag.synthetic.identity import Identity

EYE_ROW, MOUTH_ROW = 2.6, -4.4  # chart heights of the eye slits and of the mouth slit
CROWN, JAW_LINE = 13.6, -9.0  # first and last row of the side of the head
ROUNDNESS = 1.8  # exponent of the superelliptic cross-section; rounder (2 and more) faces are too shallow to track
JAW_TILT = 3.6  # cm: rows below the nose rise towards the ears, so that the lowest row is the jaw line
UNDERSIDE_ROWS = 8

# height, half width, depth of the front, depth of the back, bend of the front (exponent of the angle's cosine)
HEAD_TABLE = np.array(
    [
        (13.6, 0.05, 0.05, 0.05, 1.11),
        (13.3, 2.6, 2.7, 2.8, 1.11),
        (12.6, 4.5, 4.7, 5.0, 1.11),
        (11.2, 6.1, 6.6, 7.0, 1.11),
        (9.2, 7.1, 8.0, 8.7, 1.11),
        (7.0, 7.5, 8.75, 9.6, 1.0),
        (4.6, 7.55, 9.1, 10.0, 0.8),
        (2.6, 7.4, 8.85, 9.9, 0.68),
        (0.0, 7.05, 8.85, 9.2, 0.6),
        (-2.4, 6.6, 9.05, 7.6, 0.58),
        (-4.4, 6.25, 9.05, 6.0, 0.55),
        (-6.0, 5.9, 8.75, 4.6, 0.55),
        (-7.6, 5.5, 8.7, 3.6, 0.55),
        (-8.5, 5.2, 8.3, 3.0, 0.55),
        (-9.0, 4.9, 7.4, 3.0, 0.55),
    ]
)


@dataclass(frozen=True)
class Face:
    """The skin grid. P points; R rows, C columns; three strips: above the eyes, eyes to mouth, below the mouth."""

    rest: np.ndarray  # [P, 3] cm
    chart: np.ndarray  # [P, 2] (X, Y) cm
    angle: np.ndarray  # [P] |column angle|, rad: 0 in front, pi at the nape
    strip: np.ndarray  # [P] 0, 1, 2 from the top
    column: np.ndarray  # [P] 0 .. C-1
    grids: tuple[np.ndarray, np.ndarray, np.ndarray]  # point indices of each strip, welded outside the slits
    eye_columns: np.ndarray  # [C] bool: open at an eye
    mouth_columns: np.ndarray  # [C] bool: open at the mouth

    @property
    def edges(self) -> dict[str, np.ndarray]:
        """Point indices [C] along the two sides of the slits: upper lids, lower lids, upper lip, lower lip."""
        top, middle, bottom = self.grids
        return {"lid_upper": top[-1], "lid_lower": middle[0], "lip_upper": middle[-1], "lip_lower": bottom[0]}


def gauss(x: np.ndarray, y: np.ndarray, at: tuple[float, float], size: tuple[float, float]) -> np.ndarray:
    """Return exp(-((x-x0)/sx)^2 - ((y-y0)/sy)^2)."""
    return np.exp(-(((x - at[0]) / size[0]) ** 2) - ((y - at[1]) / size[1]) ** 2)


def smooth_step(start: float, stop: float, x: np.ndarray) -> np.ndarray:
    """Return 0 before `start`, 1 beyond `stop`, a cubic between; start > stop runs the other way."""
    t = np.clip((x - start) / (stop - start), 0, 1)
    return t * t * (3 - 2 * t)


def spaced(keys: list[float], step) -> np.ndarray:
    """Return points from the first key to the last that hit every key, about step(midpoint) apart between them."""
    points = [np.array(keys[:1])]
    for low, high in zip(keys[:-1], keys[1:], strict=True):
        count = max(1, round(abs(high - low) / step((low + high) / 2)))
        points.append(np.linspace(low, high, count + 1)[1:])
    return np.concatenate(points)


def head_profile(identity: Identity) -> PchipInterpolator:
    """Return height -> (half width, front depth, back depth), all cm, and the bend of the front."""
    table = HEAD_TABLE[::-1].copy()
    table[:, 1] *= identity.width * (1 + (identity.jaw_width - 1) * smooth_step(0, -7, table[:, 0]))
    return PchipInterpolator(table[:, 0], table[:, 1:])


def stretch(y: np.ndarray | float, identity: Identity) -> np.ndarray | float:
    """Return a height after the identity's gain on face height, which leaves the mouth where it is."""
    return MOUTH_ROW + (y - MOUTH_ROW) * identity.height


def nose_rows(identity: Identity) -> tuple[float, float]:
    """Return the chart heights of the tip of the nose and of its base."""
    tip = EYE_ROW - 4.1 * identity.nose_length
    return tip, tip - 0.95


def build_face(identity: Identity) -> Face:
    """Return the skin of this person at rest."""
    profile = head_profile(identity)
    angles, rows, strips = _columns(identity, profile), *_rows()
    columns = len(angles)
    height, width, front, back, bend, tilt = (
        np.repeat(v[:, None], columns, 1) for v in _row_geometry(rows, strips, profile)
    )
    cos, sin = np.cos(angles)[None], np.sin(angles)[None]
    x = width * superellipse(sin)
    z = depth_section(cos, front, back, bend)
    y = height + tilt * np.clip(1 - cos, 0, 1)
    behind = np.sign(x + 1e-12) * width * (1 + np.clip(np.abs(angles) - math.pi / 2, 0, None))
    chart_x, chart_y = np.where(cos >= 0, x, behind), np.repeat(rows[:, None], columns, 1)
    z = z + relief(chart_x, chart_y, identity) * smooth_step(0, 0.35, cos)
    y = stretch(y, identity)

    index = np.arange(rows.size * columns).reshape(rows.size, columns)
    top, middle, bottom = (index[strips == s].copy() for s in range(3))
    eye_x, mouth_x = chart_x[len(top) - 1], chart_x[len(top) + len(middle) - 1]
    eye = np.abs(np.abs(eye_x) - identity.eye_distance) < identity.eye_half_width - 1e-4
    mouth = np.abs(mouth_x) < identity.mouth_half_width - 1e-4
    middle[0] = np.where(eye, middle[0], top[-1])
    bottom[0] = np.where(mouth, bottom[0], middle[-1])
    return Face(
        rest=np.stack([x, y, z], -1).reshape(-1, 3),
        chart=np.stack([chart_x, chart_y], -1).reshape(-1, 2),
        angle=np.tile(np.abs(angles), rows.size),
        strip=np.repeat(strips, columns),
        column=np.tile(np.arange(columns), rows.size),
        grids=(top, middle, bottom),
        eye_columns=eye,
        mouth_columns=mouth,
    )


def superellipse(v: np.ndarray) -> np.ndarray:
    """Return what takes the place of a sine or cosine round a cross-section of ROUNDNESS."""
    return np.sign(v) * np.abs(v) ** (2 / ROUNDNESS)


def depth_section(cos: np.ndarray, front: np.ndarray, back: np.ndarray, bend: np.ndarray) -> np.ndarray:
    """Return z round a cross-section: the face is flatter than the back of the head, and its sides steeper."""
    return np.where(cos > 0, front * np.abs(cos) ** bend, back * superellipse(cos))


def _columns(identity: Identity, profile: PchipInterpolator) -> np.ndarray:
    """Return the column angles -pi .. pi; columns stand exactly at the corners of the eyes and of the mouth."""
    eye_width, mouth_width = profile(EYE_ROW)[0], profile(MOUTH_ROW)[0]
    at_x = lambda x, width: math.asin((x / width) ** (ROUNDNESS / 2))  # noqa: E731
    eye, half = identity.eye_distance, identity.eye_half_width
    keys = [0.0, 0.85, 1.35, math.pi, at_x(identity.mouth_half_width, mouth_width)]
    keys += [at_x(x, eye_width) for x in (eye - half, eye, eye + half)]
    left = spaced(sorted(keys), lambda a: 0.018 if a < 0.7 else 0.045 if a < 1.7 else 0.12)
    return np.concatenate([-left[:0:-1], left])


def _rows() -> tuple[np.ndarray, np.ndarray]:
    """Return chart heights [R] and strips [R]; the eye row and the mouth row end a strip and begin the next."""
    top = spaced([CROWN, 7.2, 5.6, EYE_ROW], lambda y: 0.5 if y > 7 else 0.25 if y > 5.6 else 0.11)
    middle = spaced([EYE_ROW, MOUTH_ROW], lambda y: 0.13)
    bottom = spaced([MOUTH_ROW, -6.2, JAW_LINE], lambda y: 0.13 if y > -6.2 else 0.2)
    under = JAW_LINE - 2 * _underside()
    rows = np.concatenate([top, middle, bottom, under])
    return rows, np.repeat([0, 1, 2], [len(top), len(middle), len(bottom) + len(under)])


def _underside() -> np.ndarray:
    return np.arange(1, UNDERSIDE_ROWS + 1) / UNDERSIDE_ROWS


def _row_geometry(rows: np.ndarray, strips: np.ndarray, profile: PchipInterpolator) -> list[np.ndarray]:
    """Return height, half width, front and back depth, bend and tilt of each row [R]; the underside curls inwards."""
    clipped = np.clip(rows, JAW_LINE, CROWN)
    width, front, back, bend = profile(clipped).T
    height, k = rows.copy(), _underside()
    under = slice(len(rows) - UNDERSIDE_ROWS, None)
    height[under] = -9.15 + 0.15 * np.cos(3 * k) + 1.2 * k**2
    width[under] *= 1 - 0.5 * k
    front[under] *= 1 - 0.75 * k
    return [height, width, front, back, bend, JAW_TILT * smooth_step(1.5, JAW_LINE, clipped)]


def relief(x: np.ndarray, y: np.ndarray, identity: Identity) -> np.ndarray:
    """Return how far the face stands out (cm, along z) from the plain head at chart points (x, y)."""
    return _nose(x, y, identity) + _sockets_and_cheeks(np.abs(x), y, identity) + _mouth_and_chin(x, y, identity)


def _nose(x: np.ndarray, y: np.ndarray, identity: Identity) -> np.ndarray:
    ax, width = np.abs(x), identity.nose_width
    tip, base = nose_rows(identity)
    t = np.clip((EYE_ROW + 0.5 - y) / (EYE_ROW + 0.5 - tip), 0, 1)  # 0 between the eyes, 1 at the tip
    above = (2.05 + identity.nose_bridge * np.sin(math.pi * t)) * t**1.15 + 0.12 * (1 - t)
    below = 2.05 * np.sin(np.clip((y - base) / (tip - base), 0, 1) * math.pi / 2) ** 0.8
    ridge = np.where(y > tip, above, below) * smooth_step(EYE_ROW + 2.2, EYE_ROW + 0.4, y)
    ridge = 1.15 * (ridge - 0.15 * np.exp(-(((y - tip - 1.1) / 0.6) ** 2)))
    across = np.exp(-((ax / ((0.56 + 0.30 * t**3) * width)) ** 2.4))
    ball = 0.5 * gauss(x, y, (0, tip + 0.05), (0.70 * width, 0.55))
    wings = 0.95 * gauss(ax, y, (1.32 * width, tip - 0.25), (0.52, 0.55))
    nostrils = 0.45 * gauss(ax, y, (0.62 * width, tip - 0.4), (0.30, 0.18))
    return ridge * across + ball + wings - nostrils


def _sockets_and_cheeks(ax: np.ndarray, y: np.ndarray, identity: Identity) -> np.ndarray:
    eye = identity.eye_distance
    sockets = 1.4 * gauss(ax, y, (eye - 0.1, EYE_ROW - 0.15), (1.8, 1.2))
    inner_corners = 0.35 * gauss(ax, y, (1.75, EYE_ROW + 0.1), (0.6, 0.8))
    brow_ridge = 0.45 * gauss(ax, y, (3.1, EYE_ROW + 1.8), (2.2, 0.8))
    cheekbones = (0.05 + identity.cheek) * gauss(ax, y, (4.7, -0.3), (1.7, 1.5))
    cheeks = (-0.1 + identity.cheek) * gauss(ax, y, (3.6, -3.2), (1.5, 1.6))
    return brow_ridge + cheekbones + cheeks - sockets - inner_corners


def _mouth_and_chin(x: np.ndarray, y: np.ndarray, identity: Identity) -> np.ndarray:
    ax, corner = np.abs(x), identity.mouth_half_width
    above, upper, lower = y - MOUTH_ROW, identity.lip_upper, identity.lip_lower
    along = np.clip(1 - (x / corner) ** 2, 0, 1) ** 0.7
    upper_lip = 0.42 * np.exp(-(((above - 0.42 * upper) / (0.55 * upper)) ** 2))
    lower_lip = 0.55 * np.exp(-(((above + 0.5 * lower) / (0.55 * lower)) ** 2))
    lips = along * np.where(above >= 0, upper_lip, lower_lip)
    chin = (0.45 + identity.chin) * gauss(x, y, (0, -7.6), (1.5, 0.9))
    chin_fold = 0.42 * gauss(x, y, (0, -6.15), (1.9, 0.55))
    philtrum = 0.10 * gauss(x, y, (0, MOUTH_ROW + 1.3), (0.28, 0.55))
    corners = 0.18 * gauss(ax, y, (corner + 0.15, MOUTH_ROW), (0.35, 0.4))
    fold_x = 2.0 + 0.5 * np.clip(-2.2 - y, 0, 4)
    folds = 0.10 * np.exp(-(((ax - fold_x) / 0.35) ** 2)) * smooth_step(-1.5, -2.5, y) * smooth_step(-6, -4.5, y)
    return lips + chin - chin_fold - philtrum - corners - folds
