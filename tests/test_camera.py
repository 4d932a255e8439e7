import numpy as np
import torch
from scipy.spatial.transform import Rotation

from instag.camera import Camera, head_pose_to_camera, opencv_to_opengl, opengl_to_opencv, scene_extent


def poses(count, seed=0):
    generator = np.random.default_rng(seed)
    pose = np.tile(np.eye(4), (count, 1, 1))
    pose[:, :3, :3] = Rotation.from_rotvec(0.3 * generator.standard_normal((count, 3))).as_matrix()
    pose[:, :3, 3] = generator.standard_normal((count, 3))
    return pose


def test_axis_conversions_are_inverse():
    pose = poses(5)
    np.testing.assert_allclose(opengl_to_opencv(opencv_to_opengl(pose)), pose, atol=1e-12)
    np.testing.assert_allclose(opencv_to_opengl(opengl_to_opencv(pose)), pose, atol=1e-12)


def test_opengl_camera_looks_along_minus_z():
    camera_to_world = np.eye(4)  # OpenGL camera at the origin
    ahead = np.array([0.1, 0.2, -3.0, 1.0])  # right, up, in front
    x, y, z, _ = opengl_to_opencv(camera_to_world) @ ahead
    assert (x, y, z) == (0.1, -0.2, 3.0)  # OpenCV: y points down, z forward


def test_head_pose_agrees_with_the_tracker():
    rotation, translation = poses(3)[:, :3, :3], np.array([[1.0, 2.0, 70.0]] * 3)
    point = np.array([3.0, -4.0, 2.0])  # tracker's head frame, cm
    in_camera = rotation @ point + translation  # cm
    world = np.append(np.diag([1, -1, -1]) @ point / 100, 1.0)  # the same point in the world, head units
    np.testing.assert_allclose((head_pose_to_camera(rotation, translation) @ world)[:, :3], in_camera / 100, atol=1e-12)


def test_centers_and_extent():
    pose = poses(4, seed=1)
    camera = Camera(torch.from_numpy(pose), torch.ones(4), 8, 8)
    center = np.linalg.inv(pose)[:, :3, 3]
    np.testing.assert_allclose(camera.centers, center, atol=1e-12)
    expected = 1.1 * np.linalg.norm(center - center.mean(0), axis=1).max()
    assert np.isclose(scene_extent(pose, floor=0.0), expected)
    assert scene_extent(pose[:1], floor=0.1) == 0.1
