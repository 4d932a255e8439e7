"""Everything of the person that is not the skin of the head: eyes, mouth interior, ears, hair, neck, torso.

Each part is a grid of points at rest (cm, head frame) with three attributes per point that the painter reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter

from instag.synthetic import materials
from instag.synthetic.face import (
    CROWN,
    EYE_ROW,
    MOUTH_ROW,
    ROUNDNESS,
    depth_section,
    head_profile,
    smooth_step,
    stretch,
    superellipse,
)
from instag.synthetic.identity import Identity
from instag.synthetic.seeds import generator

EYE_RADII = np.array([1.75, 1.35, 1.2])  # cm
EYE_SHEAR = 0.32  # cm of depth per cm sideways: the eyeball's front follows the face outwards
EYE_REACH = 1.1  # rad of the eyeball that exists: a little more than shows, or it would pierce the outer corner
TOOTH_WIDTH = 0.82  # cm
RIM = (2.3, 1.75)  # cm, half width and half height of a rim of the glasses
FRAME_DEPTH = 9.75  # cm, where they stand before the nose
WIRE_RADIUS, WIRE_SIDES = 0.13, 6
SIDES = {"right": -1, "left": 1}  # sign of x
RIGID_WITH_JAW = ("teeth_lower", "tongue")


@dataclass(frozen=True)
class Part:
    """A grid of points of one material."""

    rest: np.ndarray  # [rows, columns, 3] cm
    attribute: np.ndarray  # [rows, columns, 3]
    material: int


def build_parts(identity: Identity) -> dict[str, Part]:
    """Return all parts by name, apart from the lid and lip rolls, which hang on the skin."""
    parts = {f"eye_{name}": _eye(identity, sign) for name, sign in SIDES.items()}
    parts |= {"cavity": _cavity(), "teeth_upper": _teeth(upper=True), "teeth_lower": _teeth(upper=False)}
    parts["tongue"] = _tongue()
    parts |= {f"ear_{name}": _ear(identity, sign) for name, sign in SIDES.items()}
    parts |= {"hair": _hair(identity), "neck": _neck(), "torso": _torso()}
    if identity.glasses:
        parts |= {f"glasses_{name}": _tube(path) for name, path in _glasses(identity).items()}
    return parts


def eye_centre(identity: Identity, sign: int) -> np.ndarray:
    """Return the centre of an eyeball, [3] cm; sign is +1 on the subject's left."""
    front = 8.85 * (1 - (identity.eye_distance / 7.4) ** ROUNDNESS) ** (1 / ROUNDNESS) - 0.02
    return np.array([sign * identity.eye_distance, stretch(EYE_ROW, identity), front - 1.35])


def _sphere(rows: int, columns: int, reach: float = math.pi, pole: float = math.pi / 2) -> np.ndarray:
    """Return unit-sphere points [rows, columns, 3]; rows run downwards, columns turn from -reach to reach."""
    theta, phi = np.meshgrid(np.linspace(-reach, reach, columns), np.linspace(pole, -pole, rows))
    return np.stack([np.sin(theta) * np.cos(phi), np.sin(phi), np.cos(theta) * np.cos(phi)], -1)


def _eye(identity: Identity, sign: int) -> Part:
    ball = _sphere(25, 25, reach=EYE_REACH, pole=1.2) * EYE_RADII
    attribute = ball.copy()
    attribute[..., 2] = sign
    sheared = ball.copy()
    sheared[..., 2] -= EYE_SHEAR * sign * ball[..., 0]
    return Part(sheared + eye_centre(identity, sign), attribute, materials.EYE)


def _cavity() -> Part:
    x, y = np.meshgrid(np.linspace(-2.9, 2.9, 9), np.linspace(MOUTH_ROW + 1.8, MOUTH_ROW - 3.4, 9))
    plate = np.stack([x, y, 5.6 - 0.05 * x**2], -1)
    return Part(plate, plate, materials.CAVITY)


def _teeth(upper: bool) -> Part:
    """One row of teeth: a curved band whose edge shows the gaps between the teeth."""
    x = np.linspace(-2.35, 2.35, 41)
    v = np.linspace(0, 1, 7)[:, None]  # 0 at the biting edge, 1 at the root
    edge, root = (MOUTH_ROW - 0.13, MOUTH_ROW + 1.2) if upper else (MOUTH_ROW - 0.22, MOUTH_ROW - 1.2)
    middle = np.abs(np.sin(x / TOOTH_WIDTH * math.pi))[None] ** 0.5  # 1 in the middle of a tooth, 0 in a gap
    y = edge + (root - edge) * v + (1 - v) ** 4 * 0.12 * np.sign(root - edge) * (1 - middle)
    z = 8.45 - 0.30 * x**2 - 0.12 * (1 - middle) - 0.15 * (1 - v) - (0 if upper else 0.22)
    points = np.stack(np.broadcast_arrays(x[None], y, z), -1)
    return Part(points, points, materials.TEETH)


def _tongue() -> Part:
    points = _sphere(13, 25) * [1.75, 0.75, 1.9] + [0, MOUTH_ROW - 0.95, 6.2]
    return Part(points, points, materials.TONGUE)


def _ear(identity: Identity, sign: int) -> Part:
    ball = _sphere(13, 25)
    x, y, z = np.moveaxis(ball, -1, 0)
    hollow = np.exp(-(((y - 0.1) / 0.55) ** 2) - ((z - 0.15) / 0.5) ** 2)
    depth = z * 1.75 * (1 - 0.35 * smooth_step(0.2, -1, y))
    out = np.abs(x) * 0.75 - 0.55 * hollow - 0.30 * depth
    attach = head_profile(identity)(0.6)[0] - 0.35
    points = np.stack([sign * (out + attach), 3.1 * y + 0.6, depth - 1.1], -1)
    return Part(points, np.stack([y, z, hollow], -1), materials.EAR)


def _hair(identity: Identity) -> Part:
    """A shell round the skull; its attribute is (angle, height, height above the hairline), cut when rasterised."""
    long = identity.long_hair
    rows = np.concatenate([np.linspace(CROWN, 7, 16), np.linspace(6.6, -3, 26), np.linspace(-3.6, -17, 20)])
    front = np.linspace(-0.88, 0.88, 50)
    columns = np.concatenate([np.linspace(-math.pi, -0.9, 40), front, np.linspace(0.9, math.pi, 40)])
    angle, y = np.meshgrid(columns, rows)
    width, front, back, bend = head_profile(identity)(np.clip(rows, -2 if long else -6, CROWN)).T[..., None]

    waves = gaussian_filter(generator("hair", identity.seed).normal(size=angle.shape), (3, 2), mode="wrap")
    waves *= smooth_step(CROWN, 9, y) / waves.std()  # none at the crown, where all columns meet
    above = y - _hairline(angle, identity)
    thickness = (1.25 if long else 0.95) + 0.12 * waves
    thickness = thickness * (0.12 + 0.88 * np.sqrt(np.clip(above / 2.2, 0, 1)))
    below = np.clip(-2 - y, 0, None)
    flare = 1 + (0.016 * below + 0.02 * waves * smooth_step(0, 5, below)) * long
    x = (width + thickness) * superellipse(np.sin(angle)) * flare
    z = depth_section(np.cos(angle), front + thickness, back + thickness, bend)
    lifted = stretch(y, identity) + thickness * smooth_step(6, 13, y)
    return Part(np.stack([x, lifted, z], -1), np.stack([angle, y, above], -1), materials.HAIR)


def _hairline(angle: np.ndarray, identity: Identity) -> np.ndarray:
    """Return the height at which hair ends, for each angle round the head (0 = forehead)."""
    top, long = identity.hairline, identity.long_hair
    ends = -17.0 if long else -4.6
    temples = [ends] * 4 if long else [0.4, 2.0, 3.0, 2.5]  # long hair falls; short hair leaves the ears free
    knots = [0, 0.35, 0.7, 0.95, 1.08, 1.2, 1.38, 1.50, 1.62, 1.95, 2.1, math.pi]
    line = np.interp(np.abs(angle), knots, [top, top + 0.15, top - 0.1, top - 1.6, 3.6, 1.6, *temples, ends, ends])
    peak = identity.widow_peak * np.exp(-(((np.abs(angle) - 0.55) / 0.28) ** 2))
    return line + peak + 0.5 * np.exp(-(((angle - identity.parting) / 0.12) ** 2))


def _glasses(identity: Identity) -> dict[str, np.ndarray]:
    """Return the middle lines [n, 3] of the wires: a rim before each eye, the bridge between, an arm to each ear."""
    eye, (x_half, y_half) = stretch(EYE_ROW, identity), RIM
    turn = np.linspace(0, 2 * math.pi, 65)
    lines = {"bridge": [(x, eye + 0.35 - 0.25 * x**2, FRAME_DEPTH + 0.15) for x in np.linspace(-0.9, 0.9, 9)]}
    ear = head_profile(identity)(EYE_ROW)[0] + 0.25
    for name, sign in SIDES.items():
        x = identity.eye_distance + 0.1 + x_half * superellipse(np.cos(turn))
        rim = np.stack([sign * x, eye - 0.25 + y_half * superellipse(np.sin(turn)), _frame_depth(x)], 1)
        hinge = identity.eye_distance + 0.1 + x_half
        arm = [
            (sign * hinge, eye + 0.3, _frame_depth(hinge)),
            (sign * (ear - 0.6), eye + 0.35, _frame_depth(hinge) - 1.2),
        ]
        lines |= {f"rim_{name}": rim, f"arm_{name}": [*arm, (sign * (ear + 0.15), eye + 0.1, -0.8)]}
    return {name: np.array(line) for name, line in lines.items()}


def _frame_depth(x: np.ndarray | float) -> np.ndarray | float:
    return FRAME_DEPTH - 0.035 * x**2


def _tube(line: np.ndarray) -> Part:
    """A wire along a line of points [n, 3]."""
    along = np.gradient(line, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    side = np.cross(along, [0.3, 0.2, 1.0])  # of no wire the direction
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    turn = np.linspace(0, 2 * math.pi, WIRE_SIDES + 1)[:, None, None]
    points = line + WIRE_RADIUS * (np.cos(turn) * side + np.sin(turn) * np.cross(along, side))
    return Part(points, np.zeros_like(points), materials.GLASSES)


def _neck() -> Part:
    theta, v = np.meshgrid(np.linspace(-math.pi, math.pi, 41), np.linspace(0, 1, 13))
    y = -3.5 - 14 * v
    flare = 1 + 0.35 * np.clip((v - 0.55) / 0.45, 0, 1) ** 2
    points = np.stack([5.35 * flare * np.sin(theta), y, 5.2 * flare * np.cos(theta) - 1.9 - 1.2 * v], -1)
    return Part(points, np.stack([theta, y, v], -1), materials.NECK)


def _torso() -> Part:
    theta, v = np.meshgrid(np.linspace(-math.pi, math.pi, 61), np.linspace(0, 1, 25))
    half_width = PchipInterpolator([0, 0.06, 0.18, 0.35, 1], [4.8, 8.2, 14.5, 18.6, 21])(v)
    half_depth = PchipInterpolator([0, 0.1, 0.4, 1], [4.6, 6.6, 9.5, 11])(v)
    y = PchipInterpolator([0, 0.06, 0.18, 0.35, 1], [-12.4, -13.4, -15.2, -18.2, -42])(v)
    sin = np.sin(theta)
    x, z = half_width * np.sign(sin) * np.abs(sin) ** 0.8, half_depth * np.cos(theta) - 3.2
    collar_dip = 1.1 * np.exp(-((x / 5) ** 2)) * (z > -2) * (1 - v) ** 6
    points = np.stack([x, y - collar_dip, z], -1)
    attribute = points.copy()
    attribute[..., 2] = v
    return Part(points, attribute, materials.TORSO)
