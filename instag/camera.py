"""Cameras and every axis conversion.

Inside: OpenCV axes (x right, y down, z forward), world-to-camera. On disk: OpenGL axes, camera-to-world.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # preprocessing starts without torch
    import torch
    from torch import Tensor

# Negates the camera's y and z axes: OpenCV <-> OpenGL (x right, y up, looking along -z).
_FLIP_YZ = np.diag([1.0, -1.0, -1.0, 1.0])

# Head frame of the face mesh (x subject's left in the image's right, y down, z away from the viewer, OpenCV-like)
# -> world of the field's data sets (y up, z towards the viewer).
HEAD_FLIP = np.diag([1.0, -1.0, -1.0])
CENTIMETRES_PER_UNIT = 100.0


@dataclass(frozen=True)
class Camera:
    """Pinhole cameras with the principal point at the image centre.

    Attributes:
        world_to_camera: [B, 4, 4] OpenCV axes, head units.
        focal: [B] pixels.
        width, height: image size in pixels.
    """

    world_to_camera: Tensor
    focal: Tensor
    width: int
    height: int

    @property
    def centers(self) -> Tensor:
        """Camera centres in world space, [B, 3]."""
        rotation, translation = self.world_to_camera[:, :3, :3], self.world_to_camera[:, :3, 3]
        return -(rotation * translation[..., None]).sum(1)  # no matrix product: a GPU's first one readies cuBLAS

    def to(self, device: torch.device | str) -> Camera:
        """The same cameras on a device."""
        return Camera(self.world_to_camera.to(device), self.focal.to(device), self.width, self.height)


def opengl_to_opencv(camera_to_world: np.ndarray) -> np.ndarray:
    """`transform_matrix` of transforms_*.json [..., 4, 4] -> world-to-camera in OpenCV axes [..., 4, 4]."""
    return np.linalg.inv(np.asarray(camera_to_world, np.float64) @ _FLIP_YZ)


def opencv_to_opengl(world_to_camera: np.ndarray) -> np.ndarray:
    """Inverse of `opengl_to_opencv`: world-to-camera (OpenCV) -> camera-to-world (OpenGL)."""
    return np.linalg.inv(np.asarray(world_to_camera, np.float64)) @ _FLIP_YZ


def head_pose_to_camera(rotation: np.ndarray, translation_cm: np.ndarray) -> np.ndarray:
    """Pose of the tracked head -> world-to-camera with the head static in the world (notes: preprocessing, section 3).

    Args:
        rotation: [T, 3, 3], X_camera = R X_head + t, both in OpenCV axes (head: x right, y down, z away).
        translation_cm: [T, 3] centimetres.

    Returns:
        [T, 4, 4] OpenCV axes, head units; the world has y up and z towards the viewer.
    """
    pose = np.zeros((len(rotation), 4, 4))
    pose[:, :3, :3] = rotation @ HEAD_FLIP
    pose[:, :3, 3] = translation_cm / CENTIMETRES_PER_UNIT
    pose[:, 3, 3] = 1.0
    return pose


def scene_extent(world_to_camera: np.ndarray, floor: float) -> float:
    """1.1 x the largest distance of a camera centre from their mean, at least `floor` (METHOD.md section 3)."""
    rotation, translation = world_to_camera[:, :3, :3], world_to_camera[:, :3, 3]
    centers = -np.einsum("tji,tj->ti", rotation, translation)
    return max(1.1 * float(np.linalg.norm(centers - centers.mean(0), axis=1).max()), floor)
