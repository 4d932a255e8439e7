"""What benchmarks/preprocess.py measures on real clips, where no truth is known: does the picture stick to the head?"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

from instag.data.layout import Label
from instag.data_utils.face_mesh import face_triangles, rigid_weights
from instag.data_utils.head_plane import HeadPlane
from instag.data_utils.pose import HeadTrack

SAMPLES = 6000
REFERENCE_SIZE = 512
BLUR = 0.8  # px of a 512 picture
LEAST_FACING = 0.3  # cosine between a sample's normal and the ray: below it, the sample is not seen
GRAZING = 0.5  # of the normal's z in the head frame: samples at the rim are left out
HEAD_LABELS = (Label.HEAD, Label.HAIR)
REST_WEIGHT = 0.9  # vertices with less move with expression


def texture_points(shape: np.ndarray, half: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Samples on the rigid part of the face, in the head frame: points [P, 3] cm and unit normals [P, 3].

    half: "upper" (above the lower lids' height), "lower", or None for both.
    """
    corners = shape[face_triangles()[(rigid_weights(shape)[face_triangles()] > REST_WEIGHT).all(1)]]  # [M, 3, 3]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(normal, axis=1)
    normal /= area[:, None]
    facing = normal[:, 2] < -GRAZING
    corners, normal, area = corners[facing], normal[facing], area[facing]
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(corners), SAMPLES, p=area / area.sum())
    points = np.einsum("pc,pcd->pd", rng.dirichlet([1, 1, 1], SAMPLES), corners[chosen])
    keep = np.ones(SAMPLES, bool)
    if half is not None:
        split = np.median(points[:, 1])
        keep = (points[:, 1] < split) == (half == "upper")
    return points[keep], normal[chosen][keep]


def sample_texture(
    frames: Iterable[np.ndarray], track: HeadTrack, points: np.ndarray, normals: np.ndarray
) -> np.ndarray:
    """Grey levels [T, P] at the samples of each picture, not-a-number where the sample is not seen."""
    rows = []
    for i, frame in enumerate(frames):
        size = len(frame)
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
        grey = cv2.GaussianBlur(grey, (0, 0), BLUR * size / REFERENCE_SIZE)
        camera = points @ track.rotation[i].T + track.translation_cm[i]
        pixel = (track.focal * camera[:, :2] / camera[:, 2:] + size / 2 - 0.5).astype(np.float32)
        values = cv2.remap(grey, pixel[None, :, 0], pixel[None, :, 1], cv2.INTER_LINEAR)[0].astype(np.float64)
        ray = -camera / np.linalg.norm(camera, axis=1, keepdims=True)
        values[((normals @ track.rotation[i].T) * ray).sum(1) < LEAST_FACING] = np.nan
        rows.append(values)
    return np.stack(rows)


def held_out_rms(texture: np.ndarray) -> float:
    """Texture of the even frames, shown in the odd ones: RMS difference in grey levels, gain and offset a frame free.

    texture: [T, P]. The mean over odd frames.
    """
    with np.errstate(all="ignore"):
        seen = np.isfinite(texture)
        template = np.nanmean(_normalised(texture[::2]), axis=0)
    contrast = np.nanstd(texture[::2], axis=1).mean()
    errors = []
    for row, mask in zip(texture[1::2], seen[1::2], strict=True):
        both = mask & np.isfinite(template)
        known = np.column_stack([template[both], np.ones(both.sum())])
        solved = np.linalg.lstsq(known, row[both], rcond=None)[0]
        errors.append(np.sqrt(((known @ solved - row[both]) ** 2).mean()) / max(abs(solved[0]), 1e-6) * contrast)
    return float(np.mean(errors))


def _normalised(texture: np.ndarray) -> np.ndarray:
    return (texture - np.nanmean(texture, 1, keepdims=True)) / np.nanstd(texture, 1, keepdims=True)


def label_unrest(labels: np.ndarray, track: HeadTrack) -> tuple[float, float]:
    """How restless label maps [T, S, S] are, once the head's own motion is taken out: (change, flicker).

    A neighbour's map is laid over a frame's by the motion of the plane through the ears (`HeadPlane`), from pose to
    pose. change: part of head and hair (inside of the mouth left out) whose label differs from the frame before;
    holds real changes, as of hair in the wind. flicker: part of the whole person whose label differs from the one
    that the frames before and after agree on; motion does not look like that.
    """
    planes = [
        HeadPlane.from_pose(track.rotation[t], track.translation_cm[t], track.focal, labels.shape[-1])
        for t in range(len(labels))
    ]
    changed, restless = np.zeros(2), np.zeros(2)  # pixels of that kind, pixels in all
    for t in range(1, len(labels) - 1):
        before, after = (_laid_over(labels[k], planes[k], planes[t]) for k in (t - 1, t + 1))
        here = labels[t]
        head = np.isin(here, HEAD_LABELS) | np.isin(before, HEAD_LABELS)
        head &= (here != Label.MOUTH) & (before != Label.MOUTH)
        changed += (head & (here != before)).sum(), head.sum()
        person = (here != Label.BACKGROUND) | ((before == after) & (before != Label.BACKGROUND))
        restless += (person & (before == after) & (here != before)).sum(), person.sum()
    return float(changed[0] / changed[1]), float(restless[0] / restless[1])


def _laid_over(labels: np.ndarray, plane: HeadPlane, onto: HeadPlane) -> np.ndarray:
    """A label map [S, S] as it would stand in the frame of another plane."""
    centre = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # array indices -> pixels
    back = np.linalg.inv(centre) @ plane.to_pixels @ np.linalg.inv(onto.to_pixels) @ centre
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    return cv2.warpPerspective(labels, back, labels.shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
