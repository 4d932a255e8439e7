"""Depth and normals of the face from its mesh: vertices in camera space, and a rasteriser for them.

METHOD.md section 6 (geometry prior), notes: preprocessing, section 8. The mesh covers the face oval without eyes and
mouth; where it is not, nothing is valid. Needs numpy alone, so that training can use it.
"""

from __future__ import annotations

import numpy as np

from instag.camera import CENTIMETRES_PER_UNIT

SLACK = 1e-4  # of barycentric coordinates: pixels on an edge belong to both triangles
SMALLEST_AREA = 1e-6  # px^2


def camera_mesh(
    landmarks: np.ndarray, rotation: np.ndarray, translation_cm: np.ndarray, shape: np.ndarray, focal: float, size: int
) -> np.ndarray:
    """Vertices of each frame's face: on the ray of their landmark, at the depth of the posed mean shape.

    Args:
        landmarks: [T, >= 468, >= 2] pixels.
        rotation, translation_cm: poses [T, 3, 3], [T, 3], `HeadTrack`.
        shape: [468, 3] cm.
        focal: pixels.
        size: side of the picture.

    Returns:
        [T, 468, 3] float32 head units (cm / 100), camera space, OpenCV axes.
    """
    depth = np.einsum("tj,vj->tv", rotation[:, 2], shape) + translation_cm[:, 2:]  # [T, V] cm
    rays = (landmarks[:, : len(shape), :2] - size / 2) / focal  # [T, V, 2]
    vertices = np.concatenate([rays * depth[..., None], depth[..., None]], axis=-1)
    return (vertices / CENTIMETRES_PER_UNIT).astype(np.float32)


def vertex_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Unit normals [V, 3] that point out of the surface, in the axes of the vertices [V, 3]."""
    corners = vertices[triangles]  # [M, 3, 3]
    of_face = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])  # area-weighted
    normals = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(normals, triangles[:, corner], of_face)
    return normals / (np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12)


def rasterize_mesh(
    vertices: np.ndarray, triangles: np.ndarray, focal: float, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth and smooth normals of a mesh as a pinhole camera sees it, principal point at the centre.

    Args:
        vertices: [V, 3] camera space, OpenCV axes, any unit; in front of the camera.
        triangles: [M, 3] `instag.data_utils.face_mesh.face_triangles()`; cross(v1 - v0, v2 - v0) points outwards.
        focal: pixels.
        size: side of the picture in pixels.

    Returns:
        depth [size, size] float32, Z in the unit given, 0 where nothing is;
        normal [size, size, 3] float32 unit, OpenGL camera axes (x right, y up, z to the viewer), 0 where nothing is;
        valid [size, size] bool.
    """
    vertices = np.asarray(vertices, np.float64)
    triangles = np.asarray(triangles, np.int64)
    normals = vertex_normals(vertices, triangles) * np.array([1.0, -1.0, -1.0])  # OpenCV -> OpenGL
    corners = (vertices[:, :2] / vertices[:, 2:] * focal + size / 2)[triangles]  # [M, 3, 2] pixels
    owner, pixel, weight = _covered(corners, size)

    index = triangles[owner]  # [K, 3]
    perspective = weight / vertices[:, 2][index]  # [K, 3]
    z = 1.0 / perspective.sum(1)
    order = np.argsort(-z, kind="stable")  # farthest first: the nearest is written last
    pixel, z = pixel[order], z[order]
    depth = np.zeros(size * size, np.float32)
    winner = np.full(size * size, -1)
    depth[pixel] = z
    winner[pixel] = order
    valid = winner >= 0

    chosen = winner[valid]
    blended = np.einsum("kc,kcd->kd", perspective[chosen], normals[index[chosen]])
    normal = np.zeros((size * size, 3), np.float32)
    normal[valid] = blended / (np.linalg.norm(blended, axis=1, keepdims=True) + 1e-12)
    return depth.reshape(size, size), normal.reshape(size, size, 3), valid.reshape(size, size)


def _covered(corners: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which pixel centres lie in which triangle.

    corners: [M, 3, 2] pixels. Returns owner [K] (triangle), pixel [K] (row * size + column), barycentric weight [K, 3].
    """
    first = np.ceil(corners.min(1) - 0.5 - SLACK).astype(np.int64).clip(0, size)  # centres lie at +0.5
    last = np.floor(corners.max(1) - 0.5 + SLACK).astype(np.int64).clip(-1, size - 1)
    extent = (last - first + 1).clip(0)  # [M, 2] columns, rows
    count = extent.prod(1)
    owner = np.repeat(np.arange(len(corners)), count)
    within = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count)
    width = extent[owner, 0]
    row, column = np.divmod(within, np.maximum(width, 1))
    column, row = column + first[owner, 0], row + first[owner, 1]

    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    ab, ac = b - a, c - a
    area = ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]
    area = np.where(np.abs(area) < SMALLEST_AREA, np.inf, area)  # edge-on: covers nothing
    x, y = column + 0.5 - a[owner, 0], row + 0.5 - a[owner, 1]
    second = (x * ac[owner, 1] - y * ac[owner, 0]) / area[owner]
    third = (ab[owner, 0] * y - ab[owner, 1] * x) / area[owner]
    weight = np.stack([1 - second - third, second, third], axis=1)
    inside = (weight >= -SLACK).all(1) & np.isfinite(area[owner])
    return owner[inside], (row * size + column)[inside], weight[inside]
