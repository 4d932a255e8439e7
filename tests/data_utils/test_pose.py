"""Head pose: known poses come back, the derivatives are those of the projection, shots do not smear."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from instag.data_utils.bundle import (
    Priors,
    Scene,
    _jacobians,
    adjust,
    fit_each_pose,
    project,
    rotation_matrix,
    to_camera,
)
from instag.data_utils.pose import find_cuts, fit_poses, smooth_poses

FRAMES, SIZE = 60, 512


def made_face():
    """[468, 3] cm: a half ellipsoid with the named points where a face has them; y down, z away."""
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-1, 1, (2, 4000))
    inside = x**2 + y**2 < 0.95
    x, y = x[inside][:468], y[inside][:468]
    face = np.stack([7.2 * x, 8.8 * y, -6.5 * np.sqrt(1 - x**2 - y**2)], axis=1)
    face[33], face[263] = (-4.4459, -2.664, -3.173), (4.4459, -2.664, -3.173)
    face[10], face[152], face[168] = (0, -8.26, -4.48), (0, 9.4, -4.26), (0, -3.271, -5.236)
    return face


def made_landmarks(seed=0, focal=1150.0, noise=0.0, frames=FRAMES, size=SIZE):
    """Landmarks [T, 478, 3] px of a swaying head, with their poses; z as the network gives it, relative."""
    rng = np.random.default_rng(seed)
    t = np.arange(frames)
    angles = 0.18 * np.stack([np.sin(t / 9), np.sin(t / 13 + 1), 0.4 * np.sin(t / 7)], axis=1)
    rotation = Rotation.from_rotvec(angles).as_matrix()
    translation = np.stack([2 * np.sin(t / 17), np.cos(t / 11), 78 + 3 * np.sin(t / 23)], axis=1)
    camera = to_camera(Scene(rotation, translation, made_face(), focal))
    pixels = focal * camera[..., :2] / camera[..., 2:] + size / 2 + noise * rng.standard_normal((frames, 468, 2))
    depth = (camera[..., 2:] - translation[:, None, 2:]) * focal / translation[:, None, 2:]
    points = np.concatenate([pixels, depth], axis=2)
    return np.pad(points, ((0, 0), (0, 10), (0, 0)), mode="edge").astype(np.float32), rotation, translation


def degrees_between(a, b):
    return np.degrees(np.linalg.norm(Rotation.from_matrix(a @ b.transpose(0, 2, 1)).as_rotvec(), axis=1))


def test_known_poses_come_back():
    landmarks, rotation, translation = made_landmarks(noise=0.3)
    track = fit_poses(landmarks, SIZE)
    turn = Rotation.from_matrix(track.rotation.transpose(0, 2, 1) @ rotation).mean()  # of the head frame: a convention
    assert turn.magnitude() < np.radians(3)
    assert degrees_between(track.rotation @ turn.as_matrix(), rotation).max() < 1.0
    assert abs(np.log(track.focal / 1150)) < 0.2  # hardly visible: mostly the prior
    scale = track.focal / 1150
    assert np.abs(track.translation_cm / [1, 1, scale] - translation).max() < 1.5
    assert track.rmse < 0.6 and track.cuts == ()
    error = np.linalg.norm(track.shape - made_face(), axis=1)
    assert np.median(error) < 0.3  # cm


def test_nothing_changes_with_the_pictures_size():
    landmarks, *_ = made_landmarks(noise=0.3)
    large, small = fit_poses(landmarks, SIZE), fit_poses(landmarks / 2, SIZE // 2)
    np.testing.assert_allclose(small.rotation, large.rotation, atol=1e-4)
    np.testing.assert_allclose(small.translation_cm, large.translation_cm, atol=0.02)
    assert small.focal == pytest.approx(large.focal / 2, rel=1e-3)
    assert small.rmse == pytest.approx(large.rmse / 2, rel=1e-2)


def test_wild_points_do_not_pull():
    landmarks, rotation, _ = made_landmarks(noise=0.3)
    landmarks[::3, 100:110, :2] += 40  # a hand over the cheek
    assert np.median(degrees_between(fit_poses(landmarks, SIZE).rotation, rotation)) < 2.0


def test_rotations_are_rotations():
    vectors = np.random.default_rng(0).normal(size=(20, 3))
    vectors[0] = 0
    vectors[1] = 1e-12
    matrices = rotation_matrix(vectors)
    np.testing.assert_allclose(matrices, Rotation.from_rotvec(vectors).as_matrix(), atol=1e-12)
    np.testing.assert_allclose(matrices @ matrices.transpose(0, 2, 1), np.tile(np.eye(3), (20, 1, 1)), atol=1e-12)


def test_derivatives_match_differences():
    rng = np.random.default_rng(1)
    rotation = Rotation.from_rotvec(rng.normal(size=(2, 3)) * 0.3).as_matrix()
    scene = Scene(rotation, np.array([[1.0, 2, 70], [-3, 0, 60]]), rng.normal(size=(5, 3)) * 5, 1100.0)
    by_pose, by_camera = _jacobians(scene, to_camera(scene))
    step = 1e-5
    for k in range(6):
        change = np.zeros(6)
        change[k] = step
        turned = rotation_matrix(change[None, :3]) @ scene.rotation
        moved = Scene(turned, scene.translation + change[3:], scene.points, scene.focal)
        np.testing.assert_allclose((project(moved) - project(scene)) / step, by_pose[..., k], atol=2e-3)
    for k in range(3):
        points = scene.points + step * np.eye(3)[k]
        moved = Scene(scene.rotation, scene.translation, points, scene.focal)
        expected = (by_camera @ scene.rotation[:, None])[..., k]
        np.testing.assert_allclose((project(moved) - project(scene)) / step, expected, atol=2e-3)


def test_adjustment_lowers_the_error_and_heeds_the_priors():
    landmarks, rotation, translation = made_landmarks(noise=0.5, frames=20)
    face, pixels = made_face(), landmarks[:, :468, :2].astype(float) - SIZE / 2
    start = Scene(rotation, translation + 2, face + 0.2, 1000.0)
    before = np.linalg.norm(project(start) - pixels, axis=-1).mean()
    priors = Priors(face, 0.35, 1150.0, 0.2)
    fitted = adjust(start, pixels, np.full(468, 0.05), priors, iterations=15)
    assert np.linalg.norm(project(fitted) - pixels, axis=-1).mean() < 0.8 < before
    stiff = adjust(start, pixels, np.full(468, 0.05), Priors(face, 1e-3, 700.0, 1e-4), iterations=15)
    assert stiff.focal == pytest.approx(700, rel=0.01) and np.abs(stiff.points - face).max() < 0.01
    alone = fit_each_pose(Scene(rotation, translation + 2, face, 1150.0), pixels, np.ones(468))
    assert degrees_between(alone.rotation, rotation).max() < 0.5


def test_smoothing_is_zero_phase_and_stops_at_cuts():
    still = np.tile(np.eye(3), (40, 1, 1))
    line = np.linspace(0, 39, 40)[:, None] * np.ones(3)
    rotation, translation = smooth_poses(still, line, ())
    np.testing.assert_allclose(rotation, still, atol=1e-12)
    np.testing.assert_allclose(translation[5:-5], line[5:-5], atol=1e-9)
    jump = np.repeat([[0.0, 0, 70], [5.0, 0, 70]], 20, axis=0)
    np.testing.assert_allclose(smooth_poses(still, jump, (20,))[1], jump, atol=1e-12)
    assert np.abs(smooth_poses(still, jump, ())[1] - jump).max() > 0.5


def test_cuts_are_jumps_of_the_whole_face():
    landmarks, *_ = made_landmarks(noise=0.5)
    assert find_cuts(landmarks) == ()
    landmarks[25:, :, 0] += 25
    assert find_cuts(landmarks) == (25,)
    landmarks[40:, 60:100, :2] += 25  # the mouth alone moves
    assert find_cuts(landmarks) == (25,)
