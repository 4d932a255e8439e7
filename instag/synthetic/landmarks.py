"""Named points of the procedural face, and the MediaPipe FaceMesh points that mean the same.

"R"/"right" is the subject's right, the left half of the image. The correspondences are chosen by hand: each own point
is compared with the mean of the listed FaceMesh points (478-point numbering, refine_landmarks=True). They differ
by definition, most along the brows; compare motion after taking each point's mean over the clip away.
"""

from __future__ import annotations

import numpy as np

from instag.synthetic.animate import Rig
from instag.synthetic.articulation import Articulation
from instag.synthetic.face import EYE_ROW, MOUTH_ROW, Face, nose_rows
from instag.synthetic.identity import Identity
from instag.synthetic.mesh import Mesh
from instag.synthetic.parts import SIDES

# own name -> FaceMesh points whose mean it corresponds to; the order is that of every landmark array.
MEDIAPIPE: dict[str, tuple[int, ...]] = {
    **{f"brow_right_{i}": pair for i, pair in enumerate([(70, 46), (63, 53), (105, 52), (66, 65), (107, 55)])},
    **{f"brow_left_{i}": pair for i, pair in enumerate([(300, 276), (293, 283), (334, 282), (296, 295), (336, 285)])},
    **{"eye_right_outer": (33,), "eye_right_inner": (133,), "eye_left_outer": (263,), "eye_left_inner": (362,)},
    **{"lid_right_upper_outer": (160,), "lid_right_upper": (159,), "lid_right_upper_inner": (158,)},
    **{"lid_right_lower_outer": (144,), "lid_right_lower": (145,), "lid_right_lower_inner": (153,)},
    **{"lid_left_upper_outer": (387,), "lid_left_upper": (386,), "lid_left_upper_inner": (385,)},
    **{"lid_left_lower_outer": (373,), "lid_left_lower": (374,), "lid_left_lower_inner": (380,)},
    **{"iris_right": (468,), "iris_left": (473,)},
    **{"nasion": (168,), "nose_bridge": (195,), "nose_tip": (1, 4), "nose_base": (2,)},
    **{"nose_wing_right": (59,), "nose_wing_left": (289,)},
    **{"mouth_corner_right": (61,), "mouth_corner_left": (291,)},
    **{"lip_upper_inner": (13,), "lip_upper_inner_right": (81,), "lip_upper_inner_left": (311,)},
    **{"lip_lower_inner": (14,), "lip_lower_inner_right": (178,), "lip_lower_inner_left": (402,)},
    **{"lip_upper_outer": (0,), "lip_upper_outer_right": (37,), "lip_upper_outer_left": (267,)},
    **{"lip_lower_outer": (17,), "chin": (199,)},
}
NAMES = tuple(MEDIAPIPE)
IRISES = ("iris_right", "iris_left")  # on the eyeball, so no vertices of the skin

BROW_POINTS = (5.6, 5.05, 4.2, 2.95, 1.4)  # cm from the middle, outermost first
EYE_THIRD = 0.33  # share of the half width at which the side lid points stand
INNER_LIP_SIDE = 0.4  # share of the half width of the mouth
CUPID_BOW = 0.8  # cm


def brow_line(distance: np.ndarray | float, brow_height: float) -> np.ndarray | float:
    """Return the chart height of the middle of the brow at a distance (cm) from the middle of the face."""
    return EYE_ROW + 1.75 + brow_height + 0.42 * np.sin(np.clip((distance - 1.2) / 4.2, 0, 1) * 2.2)


def landmark_vertices(mesh: Mesh, identity: Identity) -> dict[str, int]:
    """Return the skin vertex of each landmark but the irises."""
    face, edges = mesh.face, mesh.face.edges
    tip, base = nose_rows(identity)
    corner = identity.mouth_half_width
    found = {
        "nasion": _nearest(face, 1, 0, EYE_ROW),
        "nose_bridge": _nearest(face, 1, 0, (EYE_ROW + tip) / 2),
        "nose_tip": _nearest(face, 1, 0, tip),
        "nose_base": _nearest(face, 1, 0, base),
        "chin": _nearest(face, 2, 0, -7.6),
        "lip_upper_inner": _along(face, edges["lip_upper"], 0),
        "lip_lower_inner": _along(face, edges["lip_lower"], 0),
        "lip_upper_outer": _nearest(face, 1, 0, MOUTH_ROW + 0.92 * identity.lip_upper),
        "lip_lower_outer": _nearest(face, 2, 0, MOUTH_ROW - identity.lip_lower),
    }
    for side, sign in SIDES.items():
        for i, distance in enumerate(BROW_POINTS):
            height = brow_line(distance, identity.brow_height)
            found[f"brow_{side}_{i}"] = _nearest(face, 0, sign * distance, height)
        eye, half = identity.eye_distance, identity.eye_half_width
        for place, x in (("outer", eye + half), ("inner", eye - half)):
            found[f"eye_{side}_{place}"] = _along(face, edges["lid_upper"], sign * x)
        for lid in ("upper", "lower"):
            for place, x in (("_outer", EYE_THIRD * half), ("", 0), ("_inner", -EYE_THIRD * half)):
                found[f"lid_{side}_{lid}{place}"] = _along(face, edges[f"lid_{lid}"], sign * (eye + x))
            lip = _along(face, edges[f"lip_{lid}"], sign * INNER_LIP_SIDE * corner)
            found[f"lip_{lid}_inner_{side}"] = lip
        found[f"nose_wing_{side}"] = _nearest(face, 1, sign * 1.48 * identity.nose_width, tip - 0.35)
        found[f"mouth_corner_{side}"] = _along(face, edges["lip_upper"], sign * corner)
        found[f"lip_upper_outer_{side}"] = _nearest(face, 1, sign * CUPID_BOW, MOUTH_ROW + identity.lip_upper)
    return {name: found[name] for name in NAMES if name not in IRISES}


def head_landmarks(rig: Rig, indices: dict[str, int], vertices: np.ndarray, pose: Articulation) -> np.ndarray:
    """Return the landmarks [len(NAMES), 3] of deformed vertices, cm, head frame, in the order of NAMES."""
    points = {name: vertices[index] for name, index in indices.items()}
    points |= {name: rig.iris(name.removeprefix("iris_"), pose) for name in IRISES}
    return np.stack([points[name] for name in NAMES])


def openings(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (right lid gap, left lid gap, lip gap) of landmarks [..., len(NAMES), 3], in their unit: [...] each."""
    return tuple(
        np.linalg.norm(landmarks[..., NAMES.index(a), :] - landmarks[..., NAMES.index(b), :], axis=-1)
        for a, b in (
            ("lid_right_upper", "lid_right_lower"),
            ("lid_left_upper", "lid_left_lower"),
            ("lip_upper_inner", "lip_lower_inner"),
        )
    )


def _nearest(face: Face, strip: int, x: float, y: float) -> int:
    points = np.flatnonzero(face.strip == strip)
    return int(points[np.argmin(((face.chart[points] - (x, y)) ** 2).sum(1))])


def _along(face: Face, edge: np.ndarray, x: float) -> int:
    return int(edge[np.argmin(np.abs(face.chart[edge, 0] - x))])
