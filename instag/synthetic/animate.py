"""Moving the face: articulation -> vertices at rest pose of the head, then head pose -> camera space.

Order matters and is anatomical: brows and lids, lids pushed on to the eyeballs, mouth shape, jaw, seal of the lips.
Weights and sizes are chosen by eye (notes/PROCEDURAL.md, "How it is built").
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from instag.synthetic.articulation import Articulation
from instag.synthetic.face import EYE_ROW, MOUTH_ROW, gauss, smooth_step
from instag.synthetic.identity import Identity
from instag.synthetic.mesh import ROLLS, Mesh
from instag.synthetic.parts import EYE_RADII, EYE_SHEAR, RIGID_WITH_JAW, SIDES, eye_centre

JAW_HINGE = (-0.3, -0.3)  # (y, z) cm
LID_RAISED, LID_LOWERED = 0.60, 0.38  # cm, opening above and below the eye row
CLOSING_LINE = 0.8  # share of the lower opening at which the lids meet
LID_CLEARANCE = 0.13  # cm between eyeball and lid
SEAL_UPPER, SEAL_LOWER = 0.3, 0.7  # shares of the gap that each lip takes
CORNER_JAW = 0.38  # share of the jaw's motion in the mouth corners
NECK_PIVOT = np.array([0, -9.0, -2.0])  # cm, about which the head turns
TORSO_SHARE = 0.5  # share of the head's translation that the torso follows
OPENCV_FROM_HEAD = np.diag([1.0, -1.0, -1.0])  # head frame: y up, z to the viewer; camera: y down, z away
CAMERA_HEIGHT = 0.9  # cm: the head's origin lies this much below the optical axis


@dataclass(frozen=True)
class _Weights:
    """Per skin point [P]: how much of each motion it takes."""

    lid: np.ndarray
    lid_shape: dict[str, np.ndarray]
    near_eye: dict[str, np.ndarray]
    eye_tilt: np.ndarray
    brow: np.ndarray
    brow_inner: np.ndarray
    jaw: np.ndarray
    lip_upper: np.ndarray
    lip_lower: np.ndarray
    mouth: np.ndarray
    rounding: np.ndarray
    corner: np.ndarray
    seal: np.ndarray


class Rig:
    """A mesh that can move. `asymmetry` (1/cm) belongs to the style of speaking."""

    def __init__(self, mesh: Mesh, identity: Identity, asymmetry: float):
        self._mesh, self._identity, self._asymmetry = mesh, identity, asymmetry
        self._weights = _weights(mesh, identity)

    def deform(self, pose: Articulation) -> np.ndarray:
        """Return all vertices [V, 3], cm, head frame."""
        points = self._mesh.face.rest.copy()
        self._move_brows_and_lids(points, pose)
        self._shape_mouth(points, pose)
        _add_weighted(points, _turn_jaw(points, pose.jaw) - points, self._weights.jaw)
        self._seal_lips(points, pose)
        return self._assemble(points, pose)

    def _move_brows_and_lids(self, points: np.ndarray, pose: Articulation) -> None:
        w, identity, strip = self._weights, self._identity, self._mesh.face.strip
        points[:, 1] += pose.brow * w.brow + pose.brow_inner * w.brow_inner + w.eye_tilt
        raised, lowered = LID_RAISED * identity.eye_opening, LID_LOWERED * identity.eye_opening
        follow = 0.6 * pose.gaze_y  # the upper lid follows the gaze
        for side, sign in SIDES.items():
            closed = pose.blink_left if side == "left" else pose.blink_right
            upper = (raised + follow) * (1 - closed) - CLOSING_LINE * lowered * closed
            lower = -lowered * (1 - (1 - CLOSING_LINE) * closed)
            shape = w.lid_shape[side] * w.lid
            points[:, 1] += shape * np.where(strip == 0, upper, lower)
            _push_out_of_eyeball(points, w.near_eye[side], eye_centre(identity, sign), sign)

    def _shape_mouth(self, points: np.ndarray, pose: Articulation) -> None:
        w, x = self._weights, self._mesh.face.chart[:, 0]
        uneven = 1 + self._asymmetry * x
        points[:, 0] += x * (0.13 * pose.wide - 0.24 * pose.round) * w.mouth
        points[:, 1] += 0.35 * np.clip(pose.wide, 0, 2) * w.corner * (1 + 2 * self._asymmetry * np.sign(x))
        points[:, 1] += pose.upper * w.lip_upper * uneven + (0.1 * pose.tuck - pose.lower * uneven) * w.lip_lower
        points[:, 2] += (0.75 * pose.round - 0.25 * pose.wide * smooth_step(0.3, 1.6, np.abs(x))) * w.rounding
        points[:, 2] -= 0.45 * pose.tuck * w.lip_lower

    def _seal_lips(self, points: np.ndarray, pose: Articulation) -> None:
        face = self._mesh.face
        gap = np.where(
            face.mouth_columns[:, None], points[face.edges["lip_upper"]] - points[face.edges["lip_lower"]], 0
        )
        share = np.array([0.0, -SEAL_UPPER, SEAL_LOWER])[face.strip]
        _add_weighted(points, gap[face.column], pose.seal * share * self._weights.seal)

    def _assemble(self, points: np.ndarray, pose: Articulation) -> np.ndarray:
        mesh = self._mesh
        vertices = np.empty((mesh.vertices, 3))
        vertices[: len(points)] = points
        for name, depths in ROLLS.items():
            vertices[mesh.slices[name]] = _roll(points[mesh.face.edges[name]], depths, name).reshape(-1, 3)
        for name, part in mesh.parts.items():
            rest = part.rest.reshape(-1, 3)
            if name == "tongue":
                rest = rest + np.outer(pose.tongue * np.clip((rest[:, 2] - 6.2) / 1.9, 0, 1), [0, 1.0, 0])
            vertices[mesh.slices[name]] = _turn_jaw(rest, pose.jaw) if name in RIGID_WITH_JAW else rest
        return vertices

    def iris(self, side: str, pose: Articulation) -> np.ndarray:
        """Return the centre of the pupil on the eyeball, [3] cm, head frame."""
        offset = iris_offset(pose)
        depth = EYE_RADII[2] * math.sqrt(max(0.1, 1 - float(((offset / EYE_RADII[:2]) ** 2).sum())))
        shear = EYE_SHEAR * SIDES[side] * offset[0]
        return eye_centre(self._identity, SIDES[side]) + np.array([*offset, depth - shear])

    def place(self, vertices: np.ndarray, rotation: np.ndarray, translation: np.ndarray, distance: float) -> np.ndarray:
        """Return vertices [V, 3] in camera space (OpenCV axes, cm): the head moves, the torso follows in part."""
        mesh = self._mesh
        turn, offset = head_to_camera(rotation, translation, distance)
        placed = vertices @ turn.T + offset

        def follow(name: str, share: np.ndarray | float) -> None:
            part = mesh.slices[name]
            body = to_camera(vertices[part] + translation * TORSO_SHARE, distance)
            placed[part] = _blend(placed[part], body, share)

        follow("neck", smooth_step(0, 0.8, mesh.attribute[mesh.slices["neck"], 2:3]))
        follow("torso", 1.0)
        if self._identity.long_hair:  # it lies on the shoulders
            follow("hair", 0.7 * smooth_step(-3, -13, vertices[mesh.slices["hair"], 1:2]))
        return placed


def move_head(points: np.ndarray, rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """Return head points [..., 3] turned by rotation [3, 3] about the neck, then moved by translation [3], cm."""
    return (points - NECK_PIVOT) @ rotation.T + NECK_PIVOT + translation


def to_camera(points: np.ndarray, distance: float) -> np.ndarray:
    """Return points [..., 3] of the head frame at rest in camera space, OpenCV axes, cm."""
    return points @ OPENCV_FROM_HEAD + np.array([0, CAMERA_HEIGHT, distance])


def head_to_camera(rotation: np.ndarray, translation: np.ndarray, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (R [3, 3], t [3] cm) with x_camera = R x_head + t, OpenCV axes: the composition of the two above."""
    return OPENCV_FROM_HEAD @ rotation, to_camera(move_head(np.zeros(3), rotation, translation), distance)


def iris_offset(pose: Articulation) -> np.ndarray:
    """Return where the pupil stands on the eyeball, [2] cm from the middle."""
    return EYE_RADII[2] * np.sin([pose.gaze_x, pose.gaze_y])


def _blend(a: np.ndarray, b: np.ndarray, share: np.ndarray | float) -> np.ndarray:
    return (1 - share) * a + share * b


def _add_weighted(points: np.ndarray, motion: np.ndarray, weight: np.ndarray) -> None:
    points += motion * weight[:, None]


def _turn_jaw(points: np.ndarray, angle: float) -> np.ndarray:
    y, z = points[:, 1] - JAW_HINGE[0], points[:, 2] - JAW_HINGE[1]
    cos, sin = math.cos(angle), math.sin(angle)
    return np.column_stack([points[:, 0], JAW_HINGE[0] + cos * y - sin * z, JAW_HINGE[1] + sin * y + cos * z])


def _push_out_of_eyeball(points: np.ndarray, near: np.ndarray, centre: np.ndarray, sign: int) -> None:
    """Raise skin that would cut the eyeball on to it: a smooth maximum, so that no crease shows."""
    softness = 0.25  # cm
    x, y, z = points[near].T
    inside = 1 - ((x - centre[0]) / (EYE_RADII[0] + 0.12)) ** 2 - ((y - centre[1]) / (EYE_RADII[1] + 0.12)) ** 2
    bulge = np.sign(inside) * np.sqrt(np.abs(inside))  # beyond the rim it falls away, so that the push fades out
    front = centre[2] - EYE_SHEAR * sign * (x - centre[0]) + (EYE_RADII[2] + LID_CLEARANCE) * bulge
    share = np.clip(0.5 + 0.5 * (front - z) / softness, 0, 1)
    points[near, 2] = z * (1 - share) + front * share + softness * share * (1 - share)


def _roll(edge: np.ndarray, depths: np.ndarray, name: str) -> np.ndarray:
    """Return rows [len(depths), C, 3] that continue an edge [C, 3] into the head."""
    rows = np.repeat(edge[None], len(depths), 0)
    rows[..., 2] -= depths[:, None]
    if name.startswith("lip"):
        rows[..., 1] += (0.25 if name == "lip_upper" else -0.25) * np.clip(depths - 0.15, 0, 1)[:, None]
        rows[..., 0] *= (1 - 0.05 * depths)[:, None]
    return rows


def _weights(mesh: Mesh, identity: Identity) -> _Weights:
    face = mesh.face
    x, y = face.chart.T
    ax, strip = np.abs(x), face.strip
    eye_x = x[face.edges["lid_upper"]][face.column]  # of the point's own column, on the eye row
    mouth_x = x[face.edges["lip_upper"]][face.column]
    from_eye, from_mouth = np.abs(y - EYE_ROW), np.abs(y - MOUTH_ROW)
    upper, middle, lower = (strip == s for s in range(3))
    eye, half = identity.eye_distance, identity.eye_half_width

    def lid_shape(sign: int) -> np.ndarray:
        t = (eye_x - sign * eye) / half
        return np.clip(1 - t**2, 0, 1) ** 0.75 * (1 - 0.12 * sign * t)

    near_eye = {side: (np.abs(x - sign * eye) < 2.6) & ~lower & (face.rest[:, 2] > 3) for side, sign in SIDES.items()}
    off_centre = (mouth_x / identity.mouth_half_width) ** 2  # 0 in the middle, 1 in the corners
    open_column = off_centre < 1
    beyond = CORNER_JAW * np.exp(-1.6 * (np.sqrt(off_centre) - 1))
    jaw_upper = np.where(open_column, CORNER_JAW * off_centre, beyond)
    jaw_lower = np.where(open_column, 1 - (1 - CORNER_JAW) * off_centre, beyond)
    jaw = np.where(lower, 1 - (1 - jaw_lower) * np.exp(-from_mouth / 1.4), jaw_upper * np.exp(-from_mouth / 1.6))
    lip = np.clip(1 - off_centre, 0, 1) ** 0.8
    above_lids = np.where(upper, np.clip(from_eye / 1.2, 0, 1), 0)
    return _Weights(
        lid=np.where(upper, np.exp(-from_eye / 0.95), np.where(middle, np.exp(-from_eye / 0.8), 0)),
        lid_shape={side: lid_shape(sign) for side, sign in SIDES.items()},
        near_eye={side: np.flatnonzero(near) for side, near in near_eye.items()},
        eye_tilt=np.where(
            near_eye["left"] | near_eye["right"],
            identity.eye_tilt * (ax - eye) * np.exp(-((from_eye / 1.3) ** 2)) * smooth_step(2.6, 1.6, np.abs(ax - eye)),
            0,
        ),
        brow=gauss(ax, y, (3.2, EYE_ROW + 2.1), (3.0, 1.5)) * above_lids,
        brow_inner=gauss(ax, y, (1.3, EYE_ROW + 2.0), (1.2, 1.3)) * above_lids,
        jaw=jaw * smooth_step(1.9, 1.2, face.angle) * ~upper,
        lip_upper=np.where(middle, lip * np.exp(-from_mouth / 1.3), 0),
        lip_lower=np.where(lower, lip * np.exp(-from_mouth / 1.2), 0),
        mouth=np.exp(-((x / 3.6) ** 4) - ((y - MOUTH_ROW) / 2.3) ** 2),
        rounding=np.exp(-((x / 2.4) ** 4) - ((y - MOUTH_ROW) / 1.5) ** 2),
        corner=gauss(ax, y, (identity.mouth_half_width, MOUTH_ROW), (0.9, 1.2)),
        seal=np.where(middle, np.exp(-from_mouth / 1.5), np.where(lower, np.exp(-from_mouth / 1.3), 0)) * open_column,
    )
