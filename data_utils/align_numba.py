"""Where a picture shows a texture: a frame's head pose by Gauss-Newton on grey levels, loops compiled by numba.

Gain and offset of the light are free, Cauchy weights. The samples, what they look like and the pictures: `refine_pose`.
"""

from __future__ import annotations

import numba
import numpy as np

from instag.data_utils.bundle import rotation_matrix

LEAST_FACING = 0.25  # cosine between normal and ray
STEPS = 5  # Gauss-Newton steps a frame and texture
CONVERGED = 2e-5  # rad and part of the distance
CORRELATED_SAMPLES = 20.0  # neighbouring samples see the same pixels: so many count as one
CAUCHY = 2.0  # deviations at which a residual counts half
LEAST_SAMPLES = 100  # seen; with fewer a pose stays as it is
TINY = 1e-12  # keeps gain and offset determined
LEAST_NOISE = 1.0  # grey levels: a residual's deviation is never taken to be less


@numba.njit(cache=True, nogil=True)
def _turned(rotation: np.ndarray, vector: np.ndarray) -> tuple[float, float, float]:
    """rotation [3, 3] @ vector [3], without an array."""
    x, y, z = vector
    return (
        rotation[0, 0] * x + rotation[0, 1] * y + rotation[0, 2] * z,
        rotation[1, 0] * x + rotation[1, 1] * y + rotation[1, 2] * z,
        rotation[2, 0] * x + rotation[2, 1] * y + rotation[2, 2] * z,
    )


@numba.njit(cache=True, nogil=True)
def sample(
    image: np.ndarray,
    center: np.ndarray,
    points: np.ndarray,
    normals: np.ndarray,
    rotation: np.ndarray,
    translation: np.ndarray,
    focal: float,
    by_pose: np.ndarray,
    values: np.ndarray,
) -> None:
    """Grey level at each sample into values [P] (not-a-number: not seen) and its derivatives by a rotation about the
    head's origin (rad) and a shift (cm), both in camera axes, into by_pose [>= 6, P]."""
    height, width = image.shape
    for p in range(len(points)):
        values[p] = np.nan
        right, down, away = _turned(rotation, points[p])  # of the head's origin
        x, y, z = right + translation[0], down + translation[1], away + translation[2]
        normal = _turned(rotation, normals[p])
        facing = -(normal[0] * x + normal[1] * y + normal[2] * z)
        if facing < 0 or facing * facing < LEAST_FACING**2 * (x * x + y * y + z * z):
            continue
        scale = focal / z  # pixels a cm
        u, v = scale * x + center[0], scale * y + center[1]
        if not (1.0 <= u < width - 2.0 and 1.0 <= v < height - 2.0):
            continue
        i, j = int(v), int(u)
        beside, below = u - j, v - i
        # Bilinear look-ups at the sample and a pixel to either side of it: all have the same shares.
        a1, a2 = image[i - 1, j], image[i - 1, j + 1]
        b0, b1, b2, b3 = image[i, j - 1], image[i, j], image[i, j + 1], image[i, j + 2]
        c0, c1, c2, c3 = image[i + 1, j - 1], image[i + 1, j], image[i + 1, j + 1], image[i + 1, j + 2]
        d1, d2 = image[i + 2, j], image[i + 2, j + 1]
        across_a, across_b = a1 + beside * (a2 - a1), b1 + beside * (b2 - b1)
        across_c, across_d = c1 + beside * (c2 - c1), d1 + beside * (d2 - d1)
        values[p] = across_b + below * (across_c - across_b)
        step_b = (b2 - b0) + beside * ((b3 - b1) - (b2 - b0))
        step_c = (c2 - c0) + beside * ((c3 - c1) - (c2 - c0))
        step_1, step_2 = across_c - across_a, across_d - across_b
        along_u = 0.5 * scale * (step_b + below * (step_c - step_b))
        along_v = 0.5 * scale * (step_1 + below * (step_2 - step_1))
        along_z = -(along_u * x + along_v * y) / z
        by_pose[0, p] = down * along_z - away * along_v
        by_pose[1, p] = away * along_u - right * along_z
        by_pose[2, p] = right * along_v - down * along_u
        by_pose[3, p], by_pose[4, p], by_pose[5, p] = along_u, along_v, along_z


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _dot(first: np.ndarray, second: np.ndarray) -> float:
    total = 0.0
    for p in range(len(first)):
        total += first[p] * second[p]
    return total


@numba.njit(cache=True, nogil=True)
def _light(values: np.ndarray, target: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Gain and offset that carry the texture to the frame."""
    total = t1 = v1 = tt = tv = 0.0
    for p in range(len(values)):
        if weights[p] > 0 and not np.isnan(values[p]):
            total += weights[p]
            t1 += weights[p] * target[p]
            v1 += weights[p] * values[p]
            tt += weights[p] * target[p] * target[p]
            tv += weights[p] * target[p] * values[p]
    spread = tt * total - t1 * t1
    if spread <= 0:
        return 1.0, 0.0
    gain = (tv * total - t1 * v1) / spread
    return gain, (v1 - gain * t1) / total


@numba.njit(cache=True, nogil=True)
def _compare(
    values: np.ndarray, target: np.ndarray, weights: np.ndarray, residual: np.ndarray, sizes: np.ndarray
) -> int:
    """What is left of values [P] less the texture in the best light, into residual [P], 0 where a sample is not seen;
    how much it is into the first of sizes [P], for samples that are believed. Returns how many those are."""
    gain, offset = _light(values, target, weights)
    count = 0
    for p in range(len(values)):
        if np.isnan(values[p]):
            residual[p] = 0.0
            continue
        residual[p] = values[p] - (gain * target[p] + offset)
        if weights[p] > 0:
            sizes[count] = abs(residual[p])
            count += 1
    return count


@numba.njit(cache=True, nogil=True)
def _normal_equations(
    rows: np.ndarray,
    values: np.ndarray,
    residual: np.ndarray,
    weights: np.ndarray,
    half: float,
    weight: np.ndarray,
    weighted: np.ndarray,
    hessian: np.ndarray,
    gradient: np.ndarray,
) -> None:
    """hessian [8, 8] and gradient [8] of the residuals, rows [8, P] their derivatives; one of `half` weighs half.

    weight, weighted: [P], to work in.
    """
    for p in range(len(values)):
        share = residual[p] / half
        weight[p] = 0.0 if np.isnan(values[p]) else weights[p] / (1 + share * share)
    for i in range(8):
        for p in range(len(values)):
            weighted[p] = weight[p] * rows[i, p]
        gradient[i] = _dot(weighted, residual)
        for j in range(i + 1):
            hessian[i, j] = hessian[j, i] = _dot(weighted, rows[j])


def align(
    image: np.ndarray,
    center: np.ndarray,
    points: np.ndarray,
    normals: np.ndarray,
    target: np.ndarray,
    weights: np.ndarray,
    start: tuple[np.ndarray, np.ndarray],
    believed: tuple[np.ndarray, np.ndarray],
    focal: float,
    prior: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """One frame's pose, rotation [3, 3] and translation [3] cm, from `start`, not far from the believed one.

    image: float32 [h, w]; center: [2] of the whole picture in it; points, normals: [P, 3]; target, weights: [P], the
    texture; prior: [6] inverse variances. The loops alone are compiled: all of it took 12 s, these take 3.
    """
    rotation, translation = start
    values, residual, sizes, weight, weighted = np.empty((5, len(points)))
    rows = np.zeros((8, len(points)))  # derivatives of the residuals by the pose, gain and offset
    rows[6], rows[7] = -target, -1.0
    hessian, gradient = np.empty((8, 8)), np.empty(8)
    for _ in range(STEPS):
        sample(image, center, points, normals, rotation, translation, focal, rows, values)
        seen = _compare(values, target, weights, residual, sizes)
        if seen < LEAST_SAMPLES:
            break
        noise = max(LEAST_NOISE, 1.4826 * float(np.median(sizes[:seen])))
        _normal_equations(rows, values, residual, weights, CAUCHY * noise, weight, weighted, hessian, gradient)
        scale = 1 / (noise**2 * CORRELATED_SAMPLES)
        turn = 0.5 * (rotation @ believed[0].T)
        shift = np.concatenate([(turn - turn.T)[[2, 0, 1], [1, 2, 0]], translation - believed[1]])
        stiff = np.diag(np.concatenate([prior, 2 * [TINY]]))
        pull = np.concatenate([prior * shift, [0.0, 0.0]])
        step = -np.linalg.solve(scale * hessian + stiff, scale * gradient + pull)
        rotation, translation = rotation_matrix(step[:3]) @ rotation, translation + step[3:6]
        if np.abs(step[:3]).max() < CONVERGED and np.abs(step[3:6]).max() < CONVERGED * translation[2]:
            break
    return rotation, translation
