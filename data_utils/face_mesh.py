"""The face mesh: its triangles, and a clip's mean face in the head frame made from the landmarks alone.

Head frame: OpenCV axes (x right in the picture, y down, z away from the viewer), centimetres. Needs numpy alone.

MediaPipe's wheel has no canonical face, so scale and origin come from three facts of its published mesh, and the form
from the landmark network's own depth (notes: preprocessing, section 3).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from itertools import combinations
from pathlib import Path

import numpy as np

from instag.data.layout import MESH_VERTICES
from instag.data_utils.face_points import (
    BROW_POINTS,
    CHIN,
    FOREHEAD_TOP,
    LEFT_EYE_OUTER,
    LID_POINTS,
    LIP_POINTS,
    NOSE_BRIDGE,
    RIGHT_EYE_OUTER,
)

TRIANGLES_FILE = Path(__file__).with_name("face_triangles.json")

# MediaPipe's canonical face: distance of the outer eye corners, and where the bridge of the nose lies.
EYE_WIDTH_CM = 8.8917
NOSE_BRIDGE_CM = np.array([0.0, -3.2710, -5.2360])

SAMPLED_FRAMES = 160
PROCRUSTES_ROUNDS = 5
BROW_WEIGHT = 0.2
JAW_BELOW_CM = 2.5  # y in the head frame from which on the face moves with the jaw


@lru_cache(maxsize=1)
def face_triangles() -> np.ndarray:
    """Triangles of the 468 vertices, int16 [852, 3]; cross(v1 - v0, v2 - v0) points out of the face.

    The mesh is open at the oval, the mouth and the eyes.
    """
    return np.array(json.loads(TRIANGLES_FILE.read_text(encoding="utf-8")), np.int16)


def triangles_from_edges(edges: Iterable[tuple[int, int]], outward: tuple[int, int, int]) -> np.ndarray:
    """All 3-cycles of a mesh's edges as one oriented surface: how `face_triangles.json` was made.

    Args:
        edges: pairs of vertices, both directions or one.
        outward: one triangle whose orientation is known; the others follow from it.

    Returns:
        int16 [M, 3], sorted. 3-cycles that are no faces (all of whose edges already have two others) are left out.
    """
    undirected = {tuple(sorted(edge)) for edge in edges}
    neighbours: dict[int, set[int]] = {}
    for a, b in undirected:
        neighbours.setdefault(a, set()).add(b)
        neighbours.setdefault(b, set()).add(a)
    cycles = {tuple(sorted((a, b, c))) for a, b in undirected for c in neighbours[a] & neighbours[b]}
    users: dict[tuple[int, int], list[tuple[int, ...]]] = {}
    for cycle in cycles:
        for edge in combinations(cycle, 2):
            users.setdefault(edge, []).append(cycle)
    holes = {cycle for cycle in cycles if all(len(users[edge]) > 2 for edge in combinations(cycle, 2))}

    oriented = {tuple(sorted(outward)): outward}
    queue = [tuple(sorted(outward))]
    while queue:
        a, b, c = oriented[queue.pop()]
        for start, stop in ((a, b), (b, c), (c, a)):
            for other in users[tuple(sorted((start, stop)))]:
                if other not in oriented and other not in holes:
                    third = next(v for v in other if v not in (start, stop))
                    oriented[other] = (stop, start, third)  # neighbours run along a common edge the other way
                    queue.append(other)
    turned = [min(t, t[1:] + t[:1], t[2:] + t[:2]) for t in oriented.values()]  # smallest vertex first
    return np.array(sorted(turned), np.int16)


def mean_face(landmarks: np.ndarray) -> np.ndarray:
    """A clip's mean face in the head frame, from the network's own three coordinates.

    Procrustes mean over up to 160 frames, aligned by the points that expression does not move, turned so that x runs
    along the outer eye corners and y along the middle line, and scaled to the eye corners' distance.

    Args:
        landmarks: [T, 468 or 478, 3] pixels, finite.

    Returns:
        [468, 3] float64 cm.
    """
    chosen = np.unique(np.linspace(0, len(landmarks) - 1, min(SAMPLED_FRAMES, len(landmarks))).round().astype(int))
    faces = landmarks[chosen, :MESH_VERTICES].astype(np.float64)  # [n, 468, 3]
    still = np.ones(MESH_VERTICES, bool)
    still[list(LIP_POINTS + LID_POINTS + BROW_POINTS)] = False
    mean = faces[0] - faces[0, still].mean(0)
    for _ in range(PROCRUSTES_ROUNDS):
        aligned = _align(faces, mean, still)
        mean = aligned.mean(0)
        mean -= mean[still].mean(0)
    return _to_head_frame(mean)


def _align(faces: np.ndarray, target: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Each face [n, V, 3] moved onto target [V, 3] by the similarity that fits best at the given points."""
    centred = faces - faces[:, points].mean(1, keepdims=True)
    covariance = np.einsum("npi,pj->nij", centred[:, points], target[points])
    u, s, vt = np.linalg.svd(covariance)
    s[:, 2] *= np.sign(np.linalg.det(u @ vt))
    u[:, :, 2] *= np.sign(np.linalg.det(u @ vt))[:, None]
    scale = s.sum(1) / (centred[:, points] ** 2).sum((1, 2))
    return scale[:, None, None] * (centred @ (u @ vt))


def _to_head_frame(face: np.ndarray) -> np.ndarray:
    x = face[LEFT_EYE_OUTER] - face[RIGHT_EYE_OUTER]
    width = np.linalg.norm(x)
    x = x / width
    y = face[CHIN] - face[FOREHEAD_TOP]
    y = y - (y @ x) * x
    y = y / np.linalg.norm(y)
    axes = np.stack([x, y, np.cross(x, y)], axis=1)  # columns
    return (face - face[NOSE_BRIDGE]) @ axes * (EYE_WIDTH_CM / width) + NOSE_BRIDGE_CM


def rigid_weights(face: np.ndarray) -> np.ndarray:
    """How far each vertex speaks for the pose of the head, [468]: 1 rigid, .2 brows, 0 lips, lids, all near the jaw.

    face: [468, 3] cm in the head frame.
    """
    weights = np.ones(MESH_VERTICES)
    weights[list(BROW_POINTS)] = BROW_WEIGHT
    weights[list(LIP_POINTS + LID_POINTS)] = 0.0
    weights[face[:, 1] > JAW_BELOW_CM] = 0.0
    return weights
