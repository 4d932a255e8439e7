"""Mesh priors: depth and normals of known surfaces, the signs, and what lies in front."""

import numpy as np
import pytest

from instag.data_utils.face_mesh import face_triangles
from instag.data_utils.priors import camera_mesh, rasterize_mesh, vertex_normals

SIZE, FOCAL = 96, 200.0


def grid_mesh(surface, steps=24, half=0.15):
    """A height field z = surface(x, y) that faces the camera: vertices [V, 3], triangles [M, 3]."""
    x, y = np.meshgrid(np.linspace(-half, half, steps), np.linspace(-half, half, steps))
    vertices = np.stack([x, y, surface(x, y)], axis=-1).reshape(-1, 3)
    i = np.arange(steps * steps).reshape(steps, steps)
    a, b, c, d = i[:-1, :-1].ravel(), i[:-1, 1:].ravel(), i[1:, :-1].ravel(), i[1:, 1:].ravel()
    return vertices, np.concatenate([np.stack([a, c, b], 1), np.stack([b, c, d], 1)])


def test_plane():
    vertices, triangles = grid_mesh(lambda x, y: 0.7 + 0.3 * x)
    depth, normal, valid = rasterize_mesh(vertices, triangles, FOCAL, SIZE)
    centres = (np.arange(SIZE) + 0.5 - SIZE / 2) / FOCAL
    expected = np.broadcast_to(0.7 / (1 - 0.3 * centres), (SIZE, SIZE))  # Z where the ray (u, v, 1) meets the plane
    np.testing.assert_allclose(depth[valid], expected[valid], rtol=1e-5)
    towards = np.array([0.3, 0, 1]) / np.hypot(0.3, 1)  # OpenGL: x right, z to the viewer; the right side is farther
    np.testing.assert_allclose(normal[valid], np.tile(towards, (valid.sum(), 1)), atol=1e-5)
    assert (depth[~valid] == 0).all() and (normal[~valid] == 0).all()
    assert abs(valid.sum() / (0.3 * FOCAL / 0.7) ** 2 - 1) < 0.05


def test_sphere_normals_point_outwards():
    def sphere(x, y):
        return 0.8 - np.sqrt(np.maximum(0.2**2 - x**2 - y**2, 1e-6))

    vertices, triangles = grid_mesh(sphere, steps=60, half=0.13)
    _, normal, valid = rasterize_mesh(vertices, triangles, FOCAL, SIZE)
    assert (normal[valid][:, 2] > 0).all()
    rows, columns = np.nonzero(valid)
    right, upper = normal[valid][:, 0], normal[valid][:, 1]
    away = np.abs(columns - SIZE / 2) > 8
    assert (np.sign(right[away]) == np.sign(columns[away] - SIZE / 2)).all()
    away = np.abs(rows - SIZE / 2) > 8
    assert (np.sign(upper[away]) == -np.sign(rows[away] - SIZE / 2)).all()


def test_the_nearest_surface_wins():
    near, triangles = grid_mesh(lambda x, y: 0.5 + 0 * x, steps=4, half=0.05)
    far, more = grid_mesh(lambda x, y: 0.9 + 0 * x, steps=4, half=0.2)
    for order in (1, -1):
        meshes = [(near, triangles), (far, more)][::order]
        vertices = np.concatenate([meshes[0][0], meshes[1][0]])
        both = np.concatenate([meshes[0][1], meshes[1][1] + len(meshes[0][0])])
        depth, _, valid = rasterize_mesh(vertices, both, FOCAL, SIZE)
        assert depth[SIZE // 2, SIZE // 2] == pytest.approx(0.5, rel=1e-5)
        assert depth[valid].max() == pytest.approx(0.9, rel=1e-5)


def test_outside_the_picture_is_cut_off():
    vertices, triangles = grid_mesh(lambda x, y: 0.2 + 0 * x, half=0.5)
    _, _, valid = rasterize_mesh(vertices, triangles, FOCAL, SIZE)
    assert valid.all()
    vertices[:, 0] += 5
    assert not rasterize_mesh(vertices, triangles, FOCAL, SIZE)[2].any()


def test_mesh_projects_onto_its_landmarks():
    rng = np.random.default_rng(0)
    landmarks = rng.uniform(10, 80, (2, 478, 3)).astype(np.float32)
    shape = rng.normal(size=(468, 3)) * 5
    rotation, translation = np.tile(np.eye(3), (2, 1, 1)), np.array([[1.0, 2, 70], [0, 0, 65]])
    mesh = camera_mesh(landmarks, rotation, translation, shape, FOCAL, SIZE)
    assert mesh.shape == (2, 468, 3) and mesh.dtype == np.float32
    pixels = mesh[..., :2] / mesh[..., 2:] * FOCAL + SIZE / 2
    np.testing.assert_allclose(pixels, landmarks[:, :468, :2], atol=1e-3)
    np.testing.assert_allclose(mesh[0, :, 2] * 100, shape[:, 2] + 70, rtol=1e-5)


def test_face_triangles_make_unit_normals():
    normals = vertex_normals(np.random.default_rng(0).normal(size=(468, 3)), face_triangles().astype(int))
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-6)
