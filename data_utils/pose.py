"""Head pose, focal length and head shape of a clip from its landmarks (notes: preprocessing, section 3).

The focal length is hardly visible in a frontal face at a constant distance: the prior decides most of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from instag.data.layout import MESH_VERTICES
from instag.data_utils.bundle import Priors, Scene, adjust, fit_each_pose, fit_points, project
from instag.data_utils.face_mesh import mean_face, rigid_weights
from instag.data_utils.face_points import LEFT_EYE_OUTER, RIGHT_EYE_OUTER
from instag.errors import DataError

REFERENCE_SIZE = 512  # the pixels in which the numbers below are given
PRIOR_FOCAL, PRIOR_LOG_FOCAL_SIGMA = 1150.0, 0.2
PRIOR_SHAPE_SIGMA = 0.35  # cm
ADJUSTED_FRAMES = 160
ROUND_ITERATIONS = (8, 8)
ALL_FRAMES_ITERATIONS = 8
CORRELATED_POINTS = 20.0  # neighbouring landmarks err together: so many count as one
VARIANCE_FLOOR = 0.5  # px^2, of a point's weight in the second round
FULL_SHAPE_PIXEL_SIGMA = 2.0
SMOOTHING_SIGMA = 0.6  # frames, zero phase
# A new shot: the landmarks move (median) by this part of the eye corners' distance from one frame to the next, and so
# many times farther than two frames before and after. cnn2's four cuts: .10 to .12; its fastest nod: .06, not isolated.
CUT_JUMP, CUT_ISOLATION, CUT_NEIGHBOURS = 0.07, 3.0, 2


@dataclass(frozen=True)
class HeadTrack:
    """Pose of the head in each frame: X_camera = R X_head + t, OpenCV axes, centimetres.

    Attributes:
        rotation: [T, 3, 3] float64.
        translation_cm: [T, 3] float64.
        focal: pixels of the tracked pictures; the principal point is their centre.
        shape: [468, 3] float64 cm, the clip's mean face in the head frame (x right in the picture, y down, z away
            from the viewer; origin inside the head, 5.2 cm behind the bridge of the nose).
        rmse: weighted distance of the rigid points to the landmarks, pixels.
        cuts: frames at which a new shot begins.
    """

    rotation: np.ndarray
    translation_cm: np.ndarray
    focal: float
    shape: np.ndarray
    rmse: float
    cuts: tuple[int, ...] = ()


def fit_poses(landmarks: np.ndarray, size: int) -> HeadTrack:
    """Pose of every frame, one focal length and one shape for the clip.

    Args:
        landmarks: [T, 468 or 478, 3] pixels of square pictures, finite.
        size: side of the pictures in pixels.

    Raises:
        DataError: the landmarks allow no pose (a degenerate clip).
    """
    scale = REFERENCE_SIZE / size
    pixels = landmarks[:, :MESH_VERTICES, :2].astype(np.float64) * scale - REFERENCE_SIZE / 2
    face = mean_face(landmarks)
    weights = rigid_weights(face)
    rigid = np.flatnonzero(weights)

    scene, weights = _adjust_sample(pixels[:, rigid], face[rigid], weights[rigid])
    rotation, translation = _initial_poses(pixels[:, rigid], scene.points, scene.focal)
    scene = Scene(rotation, translation, scene.points, scene.focal)
    scene = fit_each_pose(scene, pixels[:, rigid], weights, ALL_FRAMES_ITERATIONS)
    error = _rmse(scene, pixels[:, rigid], weights)
    cuts = find_cuts(landmarks)
    rotation, translation = smooth_poses(scene.rotation, scene.translation, cuts)
    shape = _full_shape(Scene(rotation, translation, face, scene.focal), pixels)
    if not (np.isfinite(rotation).all() and np.isfinite(translation).all() and (translation[:, 2] > 0).all()):
        raise DataError("no head pose fits the landmarks of this clip; give one that shows the face from the front")
    return HeadTrack(rotation, translation, scene.focal / scale, shape, error / scale, cuts)


def _sample(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))


def _adjust_sample(pixels: np.ndarray, points: np.ndarray, weights: np.ndarray) -> tuple[Scene, np.ndarray]:
    """Bundle adjustment on some frames; the weights of the second round are those of steady points."""
    pixels = pixels[_sample(len(pixels), ADJUSTED_FRAMES)]
    priors = Priors(points, PRIOR_SHAPE_SIGMA, PRIOR_FOCAL, PRIOR_LOG_FOCAL_SIGMA)
    rotation, translation = _initial_poses(pixels, points, PRIOR_FOCAL)
    scene = Scene(rotation, translation, points, PRIOR_FOCAL)
    scene = adjust(scene, pixels, weights / CORRELATED_POINTS, priors, ROUND_ITERATIONS[0])
    variance = ((project(scene) - pixels) ** 2).sum(-1).mean(0)  # [P] px^2
    weights = weights / (VARIANCE_FLOOR + variance)
    return adjust(scene, pixels, weights / CORRELATED_POINTS, priors, ROUND_ITERATIONS[1]), weights


def _initial_poses(pixels: np.ndarray, points: np.ndarray, focal: float) -> tuple[np.ndarray, np.ndarray]:
    """Each frame's pose by SQPnP: rotation [N, 3, 3], translation [N, 3] cm."""
    camera = np.diag([focal, focal, 1.0])
    rotation, translation = np.empty((len(pixels), 3, 3)), np.empty((len(pixels), 3))
    for i, frame in enumerate(pixels):
        frame = np.ascontiguousarray(frame)
        solved, vector, shift = cv2.solvePnP(points, frame, camera, None, flags=cv2.SOLVEPNP_SQPNP)
        if not solved:
            raise DataError(f"no head pose fits the landmarks of frame {i}; cut that part out of the clip")
        rotation[i], translation[i] = cv2.Rodrigues(vector)[0], shift[:, 0]
    return rotation, translation


def _rmse(scene: Scene, pixels: np.ndarray, weights: np.ndarray) -> float:
    squared = ((project(scene) - pixels) ** 2).sum(-1)
    return float(np.sqrt((weights * squared).sum() / (weights.sum() * len(pixels))))


def _full_shape(scene: Scene, pixels: np.ndarray) -> np.ndarray:
    """All vertices [468, 3] cm: the mean expression of the clip."""
    chosen = _sample(len(pixels), ADJUSTED_FRAMES)
    scene = Scene(scene.rotation[chosen], scene.translation[chosen], scene.points, scene.focal)
    return fit_points(scene, pixels[chosen], scene.points, PRIOR_SHAPE_SIGMA, FULL_SHAPE_PIXEL_SIGMA)


def find_cuts(landmarks: np.ndarray) -> tuple[int, ...]:
    """Frames at which a new shot begins: the whole face jumps, once. landmarks: [T, >= 468, >= 2]."""
    eyes = landmarks[:, LEFT_EYE_OUTER, :2] - landmarks[:, RIGHT_EYE_OUTER, :2]
    steps = np.linalg.norm(np.diff(landmarks[..., :2], axis=0), axis=2)  # [T-1, V]
    jump = np.median(steps, axis=1) / np.linalg.norm(eyes, axis=1)[:-1]
    padded = np.pad(jump, CUT_NEIGHBOURS)
    offsets = [k for k in range(2 * CUT_NEIGHBOURS + 1) if k != CUT_NEIGHBOURS]
    around = np.max([padded[k : k + len(jump)] for k in offsets], axis=0)
    return tuple(int(i) + 1 for i in np.flatnonzero((jump > CUT_JUMP) & (jump > CUT_ISOLATION * around)))


def smooth_poses(
    rotation: np.ndarray, translation: np.ndarray, cuts: tuple[int, ...], sigma: float = SMOOTHING_SIGMA
) -> tuple[np.ndarray, np.ndarray]:
    """Zero-phase Gaussian along time within each shot; rotation [T, 3, 3], translation [T, 3], sigma in frames."""
    rotation, translation = rotation.copy(), translation.copy()
    for start, stop in zip((0, *cuts), (*cuts, len(rotation)), strict=True):
        shot = slice(start, stop)
        middle = Rotation.from_matrix(rotation[(start + stop) // 2])
        vectors = (middle.inv() * Rotation.from_matrix(rotation[shot])).as_rotvec()
        vectors = gaussian_filter1d(vectors, sigma, axis=0, mode="nearest")
        rotation[shot] = (middle * Rotation.from_rotvec(vectors)).as_matrix()
        translation[shot] = gaussian_filter1d(translation[shot], sigma, axis=0, mode="nearest")
    return rotation, translation
