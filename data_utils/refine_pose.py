"""Photometric refinement of head poses: the picture of the face stays where it is on the head.

Landmarks tremble by a fraction of a pixel, each frame by itself; the skin's own texture does not. Samples on the rigid
part of the face carry the clip's mean texture; each frame's pose is turned and moved until the frame shows that texture
(Gauss-Newton on grey levels with gain and offset free, Cauchy weights, coarse to fine), not far from the landmarks'
pose. The texture comes from the poses and the poses from the texture, so both are iterated (notes: preprocessing,
section 3). Texture from at most 80 frames; then every frame by itself, so memory does not grow with the clip; last, the
whole clip's poses are smoothed a little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path

import cv2
import numba
import numpy as np

from instag.data.layout import SubjectFolder
from instag.data_utils.face_mesh import face_triangles, rigid_weights
from instag.data_utils.pose import REFERENCE_SIZE, HeadTrack, smooth_poses
from instag.data_utils.video import FrameReader
from instag.data_utils.workers import usable_cores

SAMPLES = 4000
TEXTURE_FRAMES = 80
RIGID = 0.9  # weight of a vertex from which on it does not move with expression
RIM = 0.35  # of the normal's z in the head frame: the rim, whose texture depends on the view, is left out
LEAST_FACING = 0.25  # cosine between normal and ray
BLURS = (2.5, 1.0)  # px of a 512 picture, coarse to fine
SHADING = 10.0  # px of a 512 picture: what is smoother is taken out, since light stays in the room while the head turns
SHADING_SHRINK = 4  # the smooth part is made in a picture so many times smaller
ROUNDS = (1, 3)  # textures made at each blur
STEPS = 5  # Gauss-Newton steps a frame and texture
CONVERGED = 2e-5  # rad and part of the distance
CORRELATED_SAMPLES = 20.0  # neighbouring samples see the same pixels: so many count as one
LEAST_SEEN = 0.3  # of the frames that show the sample most often seen
LEAST_BLUR = 0.3  # px
LEAST_NOISE = 1.0  # grey levels: a residual's deviation is never taken to be less
CAUCHY = 2.0  # deviations at which a residual counts half
# How far the landmarks' pose is believed: deg about the camera's x, y, z, and cm.
PRIOR_DEGREES = (2.0, 2.0, 1.0)
PRIOR_CM = (0.2, 0.2, 2.0)
# From the landmarks' pose: where it ends farther away, something else than the face was followed.
FARTHEST_DEGREES = 6.0
REFINED_SIGMA = 0.6  # frames, zero phase: what is left of each frame's own noise (docs/experiments.md)


@dataclass(frozen=True)
class Skin:
    """Samples on the rigid part of a face, in the head frame.

    Attributes:
        points: [P, 3] cm. normals: [P, 3] unit, out of the face.
    """

    points: np.ndarray
    normals: np.ndarray


@dataclass(frozen=True)
class Texture:
    """What the samples look like at one blur.

    Attributes:
        blur: px of a 512 picture.
        values: [P] grey levels.
        weights: [P] 0..1, how far a sample is to be believed; 0 where it was never seen.
    """

    blur: float
    values: np.ndarray
    weights: np.ndarray


def sample_skin(shape: np.ndarray, count: int = SAMPLES) -> Skin:
    """Samples spread evenly over forehead, nose and cheeks of a face [468, 3] cm; the same for the same face."""
    triangles = face_triangles()
    corners = shape[triangles[(rigid_weights(shape)[triangles] > RIGID).all(1)]]  # [M, 3, 3]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(normals, axis=1)
    normals /= area[:, None]
    facing = normals[:, 2] < -RIM
    corners, normals, area = corners[facing], normals[facing], area[facing]
    rng = np.random.default_rng(0)
    chosen = np.searchsorted(np.cumsum(area) / area.sum(), (np.arange(count) + 0.5) / count)
    root, share = np.sqrt(rng.uniform(size=count)), rng.uniform(size=count)
    weights = np.stack([1 - root, root * (1 - share), root * share], axis=1)  # uniform in a triangle
    return Skin(np.einsum("pc,pcd->pd", weights, corners[chosen]), normals[chosen])


def detail_picture(grey: np.ndarray, blur: float) -> np.ndarray:
    """Grey levels without noise and shading, float32 [H, W]: uint8 [H, W] blurred, less what is smooth."""
    height, width = grey.shape
    scale = height / REFERENCE_SIZE
    fine = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), max(LEAST_BLUR, blur * scale))
    small = cv2.resize(grey, (width // SHADING_SHRINK, height // SHADING_SHRINK), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small.astype(np.float32), (0, 0), SHADING * scale / SHADING_SHRINK)
    return fine - cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


@numba.njit(cache=True, nogil=True)
def _look_up(image: np.ndarray, x: float, y: float) -> float:
    """Bilinear; x, y in pixels whose centres are whole numbers, inside the picture by a pixel."""
    column, row = int(x), int(y)
    right, down = x - column, y - row
    above = image[row, column] * (1 - right) + image[row, column + 1] * right
    below = image[row + 1, column] * (1 - right) + image[row + 1, column + 1] * right
    return above * (1 - down) + below * down


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
def _sample(
    image: np.ndarray,
    points: np.ndarray,
    normals: np.ndarray,
    rotation: np.ndarray,
    translation: np.ndarray,
    focal: float,
    by_pose: np.ndarray,
    values: np.ndarray,
) -> None:
    """Grey level at each sample into values [P] (not-a-number: not seen) and its derivatives by a rotation about the
    head's origin (rad) and a shift (cm), both in camera axes, into by_pose [P, 6]."""
    height, width = image.shape
    for p in range(len(points)):
        values[p] = np.nan
        right, down, away = _turned(rotation, points[p])  # of the head's origin
        x, y, z = right + translation[0], down + translation[1], away + translation[2]
        normal = _turned(rotation, normals[p])
        if -(normal[0] * x + normal[1] * y + normal[2] * z) < LEAST_FACING * np.sqrt(x * x + y * y + z * z):
            continue
        u, v = focal * x / z + 0.5 * width - 0.5, focal * y / z + 0.5 * height - 0.5
        if not (1.0 <= u < width - 2.0 and 1.0 <= v < height - 2.0):
            continue
        values[p] = _look_up(image, u, v)
        along_u = 0.5 * (_look_up(image, u + 1.0, v) - _look_up(image, u - 1.0, v)) * focal / z
        along_v = 0.5 * (_look_up(image, u, v + 1.0) - _look_up(image, u, v - 1.0)) * focal / z
        along_z = -(along_u * x + along_v * y) / z
        by_pose[p, 0] = down * along_z - away * along_v
        by_pose[p, 1] = away * along_u - right * along_z
        by_pose[p, 2] = right * along_v - down * along_u
        by_pose[p, 3], by_pose[p, 4], by_pose[p, 5] = along_u, along_v, along_z


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
def _rotation(vector: np.ndarray) -> np.ndarray:
    """Rodrigues, [3] rad -> [3, 3]."""
    angle = np.sqrt((vector**2).sum())
    x, y, z = vector
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    if angle < 1e-12:
        return np.eye(3) + cross
    return np.eye(3) + np.sin(angle) / angle * cross + (1 - np.cos(angle)) / angle**2 * (cross @ cross)


@numba.njit(cache=True, nogil=True)
def _align(
    image: np.ndarray,
    points: np.ndarray,
    normals: np.ndarray,
    target: np.ndarray,
    weights: np.ndarray,
    rotation: np.ndarray,
    translation: np.ndarray,
    believed_rotation: np.ndarray,
    believed_translation: np.ndarray,
    focal: float,
    prior: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """One frame's pose, from `rotation`, `translation`, not far from the believed one; prior [6] inverse variances."""
    count = len(points)
    values, by_pose = np.empty(count), np.zeros((count, 6))
    shift = np.empty(6)
    row = np.empty(8)
    for _ in range(STEPS):
        _sample(image, points, normals, rotation, translation, focal, by_pose, values)
        gain, offset = _light(values, target, weights)
        residual = values - (gain * target + offset)
        seen = np.abs(residual[~np.isnan(residual) & (weights > 0)])
        if len(seen) < 100:
            break
        noise = max(LEAST_NOISE, 1.4826 * np.median(seen))
        hessian, gradient = np.zeros((8, 8)), np.zeros(8)
        for p in range(count):
            if weights[p] <= 0 or np.isnan(residual[p]):
                continue
            weight = weights[p] / (1 + (residual[p] / (CAUCHY * noise)) ** 2)
            row[:6] = by_pose[p]
            row[6], row[7] = -target[p], -1.0
            for i in range(8):
                gradient[i] += weight * row[i] * residual[p]
                for j in range(i, 8):
                    hessian[i, j] += weight * row[i] * row[j]
        for i in range(8):
            for j in range(i):
                hessian[i, j] = hessian[j, i]
        scale = 1 / (noise**2 * CORRELATED_SAMPLES)
        hessian *= scale
        gradient *= scale
        turn = rotation @ believed_rotation.T
        shift[0], shift[1], shift[2] = (
            0.5 * (turn[2, 1] - turn[1, 2]),
            0.5 * (turn[0, 2] - turn[2, 0]),
            0.5 * (turn[1, 0] - turn[0, 1]),
        )
        shift[3:] = translation - believed_translation
        for i in range(6):
            hessian[i, i] += prior[i]
            gradient[i] += prior[i] * shift[i]
        hessian[6, 6] += 1e-12
        hessian[7, 7] += 1e-12
        step = -np.linalg.solve(hessian, gradient)
        rotation = _rotation(step[:3]) @ rotation
        translation = translation + step[3:6]
        if np.abs(step[:3]).max() < CONVERGED and np.abs(step[3:6]).max() < CONVERGED * translation[2]:
            break
    return rotation, translation


def prior_precision() -> np.ndarray:
    """Inverse variances [6] of the distance from the landmarks' pose: 1 / rad^2, 1 / cm^2."""
    return np.concatenate([np.radians(PRIOR_DEGREES), PRIOR_CM]) ** -2.0


def align_frame(
    grey: np.ndarray,
    skin: Skin,
    textures: Sequence[Texture],
    start: tuple[np.ndarray, np.ndarray],
    believed: tuple[np.ndarray, np.ndarray],
    focal: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Pose at which a picture, uint8 [H, W], shows the textures, coarse to fine: rotation [3, 3], translation [3] cm.

    start, believed: where to begin, and the landmarks' pose that is not to be left far.
    """
    rotation, translation = (np.ascontiguousarray(part, np.float64) for part in start)
    for texture in textures:
        rotation, translation = _align(
            detail_picture(grey, texture.blur),
            *(skin.points, skin.normals, texture.values, texture.weights),
            *(rotation, translation),
            *(np.ascontiguousarray(part, np.float64) for part in believed),
            *(focal, prior_precision()),
        )
    away = np.degrees(np.arccos(np.clip((np.trace(rotation @ believed[0].T) - 1) / 2, -1, 1)))
    return (rotation, translation) if away <= FARTHEST_DEGREES else believed


def make_texture(
    greys: Sequence[np.ndarray], skin: Skin, rotation: np.ndarray, translation: np.ndarray, focal: float, blur: float
) -> Texture:
    """What the pictures, uint8 [H, W] each, show at the samples: the median, each picture's contrast taken out."""
    values, unused = np.empty((len(greys), len(skin.points))), np.zeros((len(skin.points), 6))
    for i, grey in enumerate(greys):
        pose = np.ascontiguousarray(rotation[i]), np.ascontiguousarray(translation[i])
        _sample(detail_picture(grey, blur), skin.points, skin.normals, *pose, focal, unused, values[i])
    seen = np.isfinite(values).mean(0)  # [P] part of the frames
    steady = (seen >= LEAST_SEEN * seen.max()) & (seen > 0)
    values = values[:, steady]
    values = values[np.isfinite(values).any(1)]
    if not values.size:  # the face is nowhere in the picture
        return Texture(blur, np.zeros(len(steady)), np.zeros(len(steady)))
    spread = np.maximum(np.nanstd(values, 1), LEAST_NOISE)
    level = (values - np.nanmean(values, 1)[:, None]) / spread[:, None]
    target = np.zeros(len(steady))
    target[steady] = np.median(spread) * np.nanmedian(level, 0)
    return Texture(blur, target, steady.astype(np.float64))


def fit_textures(read: Callable[[int], np.ndarray], track: HeadTrack, skin: Skin) -> tuple[Texture, ...]:
    """The clip's textures, coarse to fine, from some of its frames; `read(i)` gives frame i, uint8 [H, W, 3] RGB."""
    count = len(track.rotation)
    chosen = np.unique(np.linspace(0, count - 1, min(count, TEXTURE_FRAMES)).round().astype(int))
    greys = [cv2.cvtColor(read(int(i)), cv2.COLOR_RGB2GRAY) for i in chosen]
    believed = [(track.rotation[i], track.translation_cm[i]) for i in chosen]
    poses = believed
    made: dict[float, Texture] = {}  # by blur
    for blur in (blur for blur, rounds in zip(BLURS, ROUNDS, strict=True) for _ in range(rounds)):
        if made:
            last = list(made.values())[-1:]
            given = greys, repeat(skin), repeat(last), poses, believed, repeat(track.focal)
            with ThreadPoolExecutor(usable_cores()) as threads:  # OpenCV and numba let go of Python
                poses = list(threads.map(align_frame, *given))
        made[blur] = make_texture(greys, skin, *map(np.stack, zip(*poses, strict=True)), track.focal, blur)
    return tuple(made.values())


def refine_poses(
    read: Callable[[int], np.ndarray], frames: range, track: HeadTrack, skin: Skin, textures: Sequence[Texture]
) -> tuple[np.ndarray, np.ndarray]:
    """Refined poses of some frames: rotation [n, 3, 3], translation [n, 3] cm; `read(i)` gives frame i as RGB."""
    poses = []
    for i in frames:
        believed = track.rotation[i], track.translation_cm[i]
        grey = cv2.cvtColor(read(i), cv2.COLOR_RGB2GRAY)
        poses.append(align_frame(grey, skin, textures, believed, believed, track.focal))
    rotation, translation = map(np.stack, zip(*poses, strict=True))
    return rotation, translation


def steady_poses(track: HeadTrack, rotation: Sequence[np.ndarray], translation: Sequence[np.ndarray]) -> HeadTrack:
    """The track with refined poses, chunks [n, 3, 3] and [n, 3] cm in order, smoothed along time within each shot."""
    poses = np.concatenate(rotation), np.concatenate(translation)
    rotation, translation = smooth_poses(*poses, track.cuts, REFINED_SIGMA)
    return replace(track, rotation=rotation, translation_cm=translation)


def refine_chunk(
    start: int, stop: int, root: Path, version: str, track: HeadTrack, skin: Skin, textures: Sequence[Texture]
) -> tuple[np.ndarray, np.ndarray]:
    """`refine_poses` of frames start .. stop-1 of a subject folder, in a worker process."""
    return refine_poses(FrameReader(SubjectFolder(root).frames), range(start, stop), track, skin, textures)
