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
from functools import lru_cache
from itertools import repeat
from pathlib import Path

import cv2
import numpy as np

from instag.data.layout import SubjectFolder
from instag.data_utils.align_numba import LEAST_NOISE, align, sample
from instag.data_utils.face_mesh import face_triangles, rigid_weights
from instag.data_utils.pose import REFERENCE_SIZE, HeadTrack, smooth_poses
from instag.data_utils.video import FrameReader
from instag.data_utils.workers import usable_cores

SAMPLES = 4000
TEXTURE_FRAMES = 80
RIGID = 0.9  # weight of a vertex from which on it does not move with expression
RIM = 0.35  # of the normal's z in the head frame: the rim, whose texture depends on the view, is left out
BLURS = (2.5, 1.0)  # px of a 512 picture, coarse to fine
SHADING = 10.0  # px of a 512 picture: what is smoother is taken out, since light stays in the room while the head turns
SHADING_SHRINK = 4  # the smooth part is made in a picture so many times smaller
MARGIN = 72.0  # px of a 512 picture round the face: a pose that is corrected, and what blurs fetch from
PART_STEP = 4  # px: what is cut out begins and ends where a pixel of the shrunk picture does
ROUNDS = (1, 3)  # textures made at each blur
LEAST_SEEN = 0.3  # of the frames that show the sample most often seen
LEAST_BLUR = 0.3  # px
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


@dataclass(frozen=True)
class Detail:
    """A part of a picture without noise and shading.

    Attributes:
        image: float32 [h, w] grey levels.
        center: float64 [2] x, y of the whole picture's middle in it, pixels whose centres are whole numbers.
    """

    image: np.ndarray
    center: np.ndarray


def face_part(skin: Skin, pose: tuple[np.ndarray, np.ndarray], focal: float, size: int) -> tuple[slice, slice]:
    """Rows and columns of a picture [size, size] in which a pose near to this one may show the skin."""
    camera = skin.points @ pose[0].T + pose[1]
    at = focal * camera[:, :2] / camera[:, 2:] + 0.5 * size
    margin = MARGIN * size / REFERENCE_SIZE
    low, high = ((at.min(0) - margin) // PART_STEP).astype(int), ((at.max(0) + margin) // PART_STEP + 1).astype(int)
    most = -(-size // PART_STEP)
    low = low.clip(0, most - 2)
    high = np.maximum(high.clip(0, most), low + 2)
    (left, top), (right, bottom) = PART_STEP * low, PART_STEP * high
    return slice(int(top), int(bottom)), slice(int(left), int(right))


def detail_picture(grey: np.ndarray, blur: float, part: tuple[slice, slice]) -> Detail:
    """Part of a picture, uint8 [H, W]: blurred (px of a 512 picture), less what is smooth."""
    middle = np.array([0.5 * grey.shape[1] - 0.5 - part[1].start, 0.5 * grey.shape[0] - 0.5 - part[0].start])
    scale = grey.shape[0] / REFERENCE_SIZE
    grey = grey[part]
    height, width = grey.shape
    fine = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), max(LEAST_BLUR, blur * scale))
    small = cv2.resize(grey, (width // SHADING_SHRINK, height // SHADING_SHRINK), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small.astype(np.float32), (0, 0), SHADING * scale / SHADING_SHRINK)
    smooth = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    return Detail(np.subtract(fine, smooth, out=fine), middle)


def prior_precision() -> np.ndarray:
    """Inverse variances [6] of the distance from the landmarks' pose: 1 / rad^2, 1 / cm^2."""
    return np.concatenate([np.radians(PRIOR_DEGREES), PRIOR_CM]) ** -2.0


def _align_to(
    detail: Detail,
    skin: Skin,
    texture: Texture,
    start: tuple[np.ndarray, np.ndarray],
    believed: tuple[np.ndarray, np.ndarray],
    focal: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Pose at which a picture shows a texture, from `start`."""
    start = np.ascontiguousarray(start[0]), np.ascontiguousarray(start[1])
    samples = skin.points, skin.normals, texture.values, texture.weights
    return align(detail.image, detail.center, *samples, start, believed, focal, prior_precision())


def _not_far(
    pose: tuple[np.ndarray, np.ndarray], believed: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    away = np.degrees(np.arccos(np.clip((np.trace(pose[0] @ believed[0].T) - 1) / 2, -1, 1)))
    return pose if away <= FARTHEST_DEGREES else believed


def align_frame(
    grey: np.ndarray, skin: Skin, textures: Sequence[Texture], believed: tuple[np.ndarray, np.ndarray], focal: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pose at which a picture, uint8 [H, W], shows the textures, coarse to fine: rotation [3, 3], translation [3] cm.

    believed: the landmarks' pose, where to begin and what is not to be left far.
    """
    part = face_part(skin, believed, focal, len(grey))
    pose = believed
    for texture in textures:
        pose = _align_to(detail_picture(grey, texture.blur, part), skin, texture, pose, believed, focal)
    return _not_far(pose, believed)


def make_texture(
    details: Sequence[Detail], skin: Skin, rotation: np.ndarray, translation: np.ndarray, focal: float, blur: float
) -> Texture:
    """What the pictures show at the samples: the median, each picture's contrast taken out."""
    values, unused = np.empty((len(details), len(skin.points))), np.zeros((6, len(skin.points)))
    for i, detail in enumerate(details):
        pose = np.ascontiguousarray(rotation[i]), np.ascontiguousarray(translation[i])
        sample(detail.image, detail.center, skin.points, skin.normals, *pose, focal, unused, values[i])
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


def fit_textures(
    read: Callable[[Sequence[int]], list[np.ndarray]], track: HeadTrack, skin: Skin
) -> tuple[Texture, ...]:
    """The clip's textures, coarse to fine, from some of its frames; `read(numbers)` gives them, uint8 [H, W] each."""
    count = len(track.rotation)
    chosen = np.unique(np.linspace(0, count - 1, min(count, TEXTURE_FRAMES)).round().astype(int))
    greys = read(chosen.tolist())
    poses = believed = [(track.rotation[i], track.translation_cm[i]) for i in chosen]
    parts = [face_part(skin, pose, track.focal, len(grey)) for pose, grey in zip(poses, greys, strict=True)]
    made: list[Texture] = []
    with ThreadPoolExecutor(usable_cores()) as threads:  # OpenCV and numba let go of Python
        for blur, rounds in zip(BLURS, ROUNDS, strict=True):
            details = list(threads.map(detail_picture, greys, repeat(blur), parts))
            for last in (*(rounds - 1) * [False], True):
                texture = make_texture(details, skin, *map(np.stack, zip(*poses, strict=True)), track.focal, blur)
                if not (last and blur == BLURS[-1]):
                    given = details, repeat(skin), repeat(texture), poses, believed, repeat(track.focal)
                    poses = [_not_far(*pair) for pair in zip(threads.map(_align_to, *given), believed, strict=True)]
            made.append(texture)
    return tuple(made)


def refine_poses(
    read: Callable[[int], np.ndarray], frames: range, track: HeadTrack, skin: Skin, textures: Sequence[Texture]
) -> tuple[np.ndarray, np.ndarray]:
    """Refined poses of some frames: rotation [n, 3, 3], translation [n, 3] cm; `read(i)` gives frame i as RGB."""
    poses = []
    for i in frames:
        grey = cv2.cvtColor(read(i), cv2.COLOR_RGB2GRAY)
        poses.append(align_frame(grey, skin, textures, (track.rotation[i], track.translation_cm[i]), track.focal))
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
    return refine_poses(_frames(root, version), range(start, stop), track, skin, textures)


@lru_cache(maxsize=1)
def _frames(root: Path, version: str) -> FrameReader:
    """The frames that this process works on. `version` names the settings of the steps before."""
    return FrameReader(SubjectFolder(root).frames)
