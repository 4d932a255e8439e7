"""Least squares of poses, head shape and focal length to landmarks: Levenberg-Marquardt with a Schur complement.

Pure functions of numpy arrays. Conventions: X_camera = R X_head + t in OpenCV axes and centimetres; pixels are measured
from the principal point, x = focal * X / Z.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

HUBER = 2.0  # pixels (of a 512 picture) from which on a residual counts linearly
FIRST_DAMPING = 1e-3
LAST_DAMPING = 1e-9
CONVERGED = 1e-7  # relative decrease of the cost
LARGEST_FOCAL_STEP = 0.3  # of log focal, per iteration
POSES_AT_ONCE = 400  # bounds the memory of `fit_each_pose`


@dataclass(frozen=True)
class Scene:
    """Unknowns of the adjustment.

    Attributes:
        rotation: [N, 3, 3]. translation: [N, 3] cm. points: [P, 3] cm. focal: pixels.
    """

    rotation: np.ndarray
    translation: np.ndarray
    points: np.ndarray
    focal: float


@dataclass(frozen=True)
class Priors:
    """What is believed before looking.

    Attributes:
        points: [P, 3] cm, with standard deviation `point_sigma` cm.
        focal: pixels, log-normal with deviation `log_focal_sigma`.
    """

    points: np.ndarray
    point_sigma: float
    focal: float
    log_focal_sigma: float


def rotation_matrix(vector: np.ndarray) -> np.ndarray:
    """Rotation vectors [..., 3] rad -> matrices [..., 3, 3] (Rodrigues)."""
    angle = np.linalg.norm(vector, axis=-1)[..., None, None]
    cross = cross_matrix(vector)
    small = angle < 1e-8
    safe = np.where(small, 1.0, angle)
    first = np.where(small, 1.0, np.sin(safe) / safe)
    second = np.where(small, 0.5, (1 - np.cos(safe)) / safe**2)
    return np.eye(3) + first * cross + second * (cross @ cross)


def cross_matrix(vector: np.ndarray) -> np.ndarray:
    """[..., 3] -> [..., 3, 3] with cross_matrix(a) @ b = a x b."""
    x, y, z = np.moveaxis(vector, -1, 0)
    zero = np.zeros_like(x)
    return np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(*vector.shape[:-1], 3, 3)


def to_camera(scene: Scene) -> np.ndarray:
    """The points in each camera, [N, P, 3] cm."""
    return scene.points @ scene.rotation.transpose(0, 2, 1) + scene.translation[:, None]


def project(scene: Scene) -> np.ndarray:
    """The points in each picture, [N, P, 2] pixels from the principal point."""
    camera = to_camera(scene)
    return scene.focal * camera[..., :2] / camera[..., 2:]


def _robust(residual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Huber cost and weight of residual vectors [..., 2]."""
    length = np.linalg.norm(residual, axis=-1)
    inside = length < HUBER
    cost = np.where(inside, 0.5 * length**2, HUBER * (length - 0.5 * HUBER))
    return cost, np.where(inside, 1.0, HUBER / np.maximum(length, 1e-9))


def _jacobians(scene: Scene, camera: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the pixel by a left-hand rotation and the translation, [N, P, 2, 6], and by X_camera, [N, P, 2, 3]."""
    inverse = 1.0 / camera[..., 2]
    by_camera = np.zeros((*camera.shape[:2], 2, 3))
    by_camera[..., 0, 0] = by_camera[..., 1, 1] = scene.focal * inverse
    by_camera[..., 0, 2] = -scene.focal * camera[..., 0] * inverse**2
    by_camera[..., 1, 2] = -scene.focal * camera[..., 1] * inverse**2
    turned = camera - scene.translation[:, None]
    return np.concatenate([-by_camera @ cross_matrix(turned), by_camera], axis=-1), by_camera


def fit_each_pose(scene: Scene, pixels: np.ndarray, weights: np.ndarray, iterations: int = 8) -> Scene:
    """Each frame's pose with points and focal length as they are; each frame has its own damping.

    pixels: [N, P, 2] from the principal point; weights: [P].
    """
    parts = []
    for start in range(0, len(pixels), POSES_AT_ONCE):
        chunk = slice(start, start + POSES_AT_ONCE)
        part = replace(scene, rotation=scene.rotation[chunk], translation=scene.translation[chunk])
        parts.append(_fit_chunk(part, pixels[chunk], weights, iterations))
    return replace(
        scene,
        rotation=np.concatenate([p.rotation for p in parts]),
        translation=np.concatenate([p.translation for p in parts]),
    )


def _fit_chunk(scene: Scene, pixels: np.ndarray, weights: np.ndarray, iterations: int) -> Scene:
    damping = np.full(len(pixels), FIRST_DAMPING)
    cost = (weights * _robust(project(scene) - pixels)[0]).sum(1)
    for _ in range(iterations):
        by_pose, _ = _jacobians(scene, to_camera(scene))
        residual = project(scene) - pixels
        weighted = by_pose * (weights * _robust(residual)[1])[..., None, None]
        hessian = np.einsum("npai,npaj->nij", weighted, by_pose, optimize=True)
        gradient = np.einsum("npai,npa->ni", weighted, residual, optimize=True)
        hessian += damping[:, None, None] * np.einsum("nii->ni", hessian)[:, :, None] * np.eye(6)
        step = -np.linalg.solve(hessian, gradient[..., None])[..., 0]
        rotation = rotation_matrix(step[:, :3]) @ scene.rotation
        trial = replace(scene, rotation=rotation, translation=scene.translation + step[:, 3:])
        trial_cost = (weights * _robust(project(trial) - pixels)[0]).sum(1)
        better = trial_cost < cost
        scene = replace(
            scene,
            rotation=np.where(better[:, None, None], trial.rotation, scene.rotation),
            translation=np.where(better[:, None], trial.translation, scene.translation),
        )
        damping = np.where(better, np.maximum(damping / 5, LAST_DAMPING), damping * 10)
        if not (cost - trial_cost > CONVERGED * cost).any():
            break
        cost = np.where(better, trial_cost, cost)
    return scene


def adjust(scene: Scene, pixels: np.ndarray, weights: np.ndarray, priors: Priors, iterations: int = 8) -> Scene:
    """Bundle adjustment: all poses, the common points and the focal length together.

    pixels: [N, P, 2] from the principal point; weights: [P] inverse variances, 1 / px^2.
    """
    damping, cost = FIRST_DAMPING, _total_cost(scene, pixels, weights, priors)
    for _ in range(iterations):
        trial = _step(scene, pixels, weights, priors, damping)
        trial_cost = _total_cost(trial, pixels, weights, priors)
        if trial_cost >= cost:
            damping *= 10
            continue
        converged = cost - trial_cost < CONVERGED * cost
        scene, cost, damping = trial, trial_cost, max(damping / 5, LAST_DAMPING)
        if converged:
            break
    return scene


def _total_cost(scene: Scene, pixels: np.ndarray, weights: np.ndarray, priors: Priors) -> float:
    data = (weights * _robust(project(scene) - pixels)[0]).sum()
    shape = 0.5 * (((scene.points - priors.points) / priors.point_sigma) ** 2).sum()
    focal = 0.5 * (np.log(scene.focal / priors.focal) / priors.log_focal_sigma) ** 2
    return float(data + shape + focal)


def _step(scene: Scene, pixels: np.ndarray, weights: np.ndarray, priors: Priors, damping: float) -> Scene:
    """One damped Gauss-Newton step; the poses are eliminated, so that only points and focal are solved for at once."""
    camera = to_camera(scene)
    by_pose, by_camera = _jacobians(scene, camera)
    projected = project(scene)
    residual = projected - pixels  # [N, P, 2]
    weight = weights * _robust(residual)[1]  # [N, P]
    by_point = by_camera @ scene.rotation[:, None]  # [N, P, 2, 3]

    weighted = by_pose * weight[..., None, None]
    pose_block = np.einsum("npai,npaj->nij", weighted, by_pose, optimize=True)
    pose_block += damping * np.einsum("nii->ni", pose_block)[:, :, None] * np.eye(6)
    pose_gradient = np.einsum("npai,npa->ni", weighted, residual, optimize=True)

    shared_block, shared_gradient = _shared_normal(scene, priors, by_point, projected, residual, weight)
    shared_block += damping * np.diag(np.diag(shared_block))
    count, unknowns = len(pixels), len(shared_gradient)
    mixed = np.empty((count, 6, unknowns))
    mixed[..., :-1] = np.einsum("npai,npaj->nipj", weighted, by_point, optimize=True).reshape(count, 6, -1)
    mixed[..., -1] = np.einsum("npai,npa->ni", weighted, projected, optimize=True)

    inverse = np.linalg.inv(pose_block)
    eliminated = inverse @ mixed  # [N, 6, S]
    flat = (count * 6, unknowns)
    schur = shared_block - mixed.reshape(flat).T @ eliminated.reshape(flat)
    right = shared_gradient - eliminated.reshape(flat).T @ pose_gradient.reshape(-1)
    shared = -np.linalg.solve(schur, right)
    pose = -(inverse @ pose_gradient[..., None])[..., 0] - eliminated @ shared
    return Scene(
        rotation=rotation_matrix(pose[:, :3]) @ scene.rotation,
        translation=scene.translation + pose[:, 3:],
        points=scene.points + shared[:-1].reshape(-1, 3),
        focal=scene.focal * float(np.exp(np.clip(shared[-1], -LARGEST_FOCAL_STEP, LARGEST_FOCAL_STEP))),
    )


def _shared_normal(
    scene: Scene, priors: Priors, by_point: np.ndarray, projected: np.ndarray, residual: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Normal matrix [S, S] and gradient [S] of points and log focal (last); d pixel / d log focal is the pixel."""
    count = len(scene.points)
    weighted = by_point * weight[..., None, None]
    block = np.zeros((3 * count + 1, 3 * count + 1))
    diagonal = np.einsum("npai,npaj->pij", weighted, by_point, optimize=True)
    by_vertex = block[:-1, :-1].reshape(count, 3, count, 3)
    by_vertex[np.arange(count), :, np.arange(count)] = diagonal + np.eye(3) / priors.point_sigma**2
    block[:-1, -1] = block[-1, :-1] = np.einsum("npai,npa->pi", weighted, projected, optimize=True).ravel()
    block[-1, -1] = (weight[..., None] * projected**2).sum() + priors.log_focal_sigma**-2
    gradient = np.empty(3 * count + 1)
    gradient[:-1] = np.einsum("npai,npa->pi", weighted, residual, optimize=True).ravel()
    gradient[:-1] += ((scene.points - priors.points) / priors.point_sigma**2).ravel()
    gradient[-1] = (weight[..., None] * projected * residual).sum()
    gradient[-1] += np.log(scene.focal / priors.focal) / priors.log_focal_sigma**2
    return block, gradient


def fit_points(
    scene: Scene, pixels: np.ndarray, prior: np.ndarray, prior_sigma: float, pixel_sigma: float, iterations: int = 5
) -> np.ndarray:
    """The points [P, 3] for given poses and focal, each by itself; all frames together count as 40 observations."""
    effective_observations = 40.0  # landmark errors of neighbouring frames are not independent
    each = effective_observations / len(pixels) / pixel_sigma**2
    for _ in range(iterations):
        camera = to_camera(scene)
        by_point = _jacobians(scene, camera)[1] @ scene.rotation[:, None]
        residual = project(scene) - pixels
        block = each * np.einsum("npai,npaj->pij", by_point, by_point, optimize=True) + np.eye(3) / prior_sigma**2
        gradient = each * np.einsum("npai,npa->pi", by_point, residual, optimize=True)
        gradient += (scene.points - prior) / prior_sigma**2
        scene = replace(scene, points=scene.points - np.linalg.solve(block, gradient[..., None])[..., 0])
    return scene.points
