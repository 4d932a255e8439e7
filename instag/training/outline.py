"""How deep the head's outline lies, from how it moves over the training frames.

Ears and hair have no mesh. A ray through the outline touches the head, and the point where it does lies on the outline
of the other frames too (nearly, for small turns). So frames that differ by a few degrees tell its depth: the visual
hull's constraint (Laurentini 1994). Not in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from instag.camera import Camera
from instag.data.pictures import opencv

DEPTHS = np.linspace(-0.12, 0.04, 17)  # head units, world z that are tried at the middle of the outline
TILTS = np.linspace(-0.6, 0.6, 13)  # change of z with y
USUAL_DEPTH, USUAL_TILT = -0.05, 0.0  # a head's widest section; it holds where hardly anything moves
DEPTH_WEIGHT, TILT_WEIGHT = 80.0, 0.8  # px per squared head unit and squared tilt: .2 px at .05 and .5
RIM = 3.0  # px, inside the outline
FARTHEST = 20.0  # px: an outline that is farther off does not count for more
POINTS = 50  # of a frame's outline


@dataclass(frozen=True)
class Silhouette:
    """A frame's head.

    Attributes:
        mask: bool [H, W].
        camera: of the frame alone, on the host.
    """

    mask: np.ndarray
    camera: Camera

    @cached_property
    def distance(self) -> np.ndarray:
        """Float32 [H, W] px to the outline, negative outside."""
        cv2 = opencv()
        inside, outside = (
            cv2.distanceTransform(m.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5) for m in (self.mask, ~self.mask)
        )
        return inside - outside

    @cached_property
    def pose(self) -> np.ndarray:
        """World to camera, float64 [4, 4]."""
        return self.camera.world_to_camera[0].numpy().astype(np.float64)

    def rays(self, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The camera's centre [3] in world space, and directions [P, 3] of pixels, of unit depth."""
        rotation, translation = self.pose[:3, :3], self.pose[:3, 3]
        middle = np.array([self.camera.width, self.camera.height]) / 2
        slopes = (np.stack([columns, rows], 1) + 0.5 - middle) / float(self.camera.focal[0])
        return -translation @ rotation, np.concatenate([slopes, np.ones((len(rows), 1))], 1) @ rotation

    def at(self, points: np.ndarray) -> np.ndarray:
        """Distance [...] to the outline, within FARTHEST, where world points [..., 3] are seen."""
        there = points @ self.pose[:3, :3].T + self.pose[:3, 3]
        size = np.array([self.camera.width, self.camera.height])
        pixel = there[..., :2] / there[..., 2:] * float(self.camera.focal[0]) + size / 2
        column, row = np.moveaxis(np.clip(pixel.astype(int), 0, size - 1), -1, 0)
        return np.clip(self.distance[row, column], -FARTHEST, FARTHEST)


@dataclass(frozen=True)
class OutlinePlane:
    """Where the outline lies: world z = depth + tilt y."""

    depth: float
    tilt: float

    def along(self, center: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """How far from a centre [3] along directions [P, 3] the plane is met, [P]."""
        return (self.depth + self.tilt * center[1] - center[2]) / (directions[:, 2] - self.tilt * directions[:, 1])


def outline_plane(
    silhouettes: Sequence[Silhouette], known: Sequence[np.ndarray], generator: np.random.Generator
) -> OutlinePlane:
    """The plane on which a point of one frame's outline lies on the other frames' outlines best.

    Args:
        silhouettes: frames.
        known: bool [H, W] each: pixels whose depth is known otherwise and that are not asked.
        generator: draws POINTS pixels of each outline.
    """
    places, distances = [], []
    for one, elsewhere in zip(silhouettes, known, strict=True):
        rows, columns = np.nonzero((one.distance > 0) & (one.distance < RIM) & ~elsewhere)
        drawn = generator.permutation(len(rows))[:POINTS]
        center, directions = one.rays(rows[drawn], columns[drawn])
        along = (DEPTHS - center[2]) / directions[:, 2:]  # [P, D]
        places.append(center + directions[:, None] * along[..., None])  # [P, D, 3]
        distances.append(one.distance[rows[drawn], columns[drawn]])
    points, distance = np.concatenate(places), np.concatenate(distances)
    height = points[..., 1].mean(1)
    upper = height > 0  # hair below lies on shoulders that do not turn with the head
    points, distance = points[upper], distance[upper, None]
    # its own frame agrees with a point at every depth, so it tells none from another
    cost = np.mean([np.abs(each.at(points) - distance) for each in silhouettes], 0)  # [P, D] px
    return _best_plane(height[upper], cost)


def _best_plane(height: np.ndarray, cost: np.ndarray) -> OutlinePlane:
    """From the world y [P] of points and what each of DEPTHS costs them, px [P, D]."""
    depth, tilt = np.meshgrid(DEPTHS, TILTS, indexing="ij")  # at the middle of the points
    total = DEPTH_WEIGHT * (depth - USUAL_DEPTH) ** 2 + TILT_WEIGHT * (tilt - USUAL_TILT) ** 2
    middle = float(np.median(height)) if len(height) else 0.0
    for y, row in zip(height, cost, strict=True):
        total = total + np.interp(depth + tilt * (y - middle), DEPTHS, row) / len(height)
    best = np.unravel_index(total.argmin(), total.shape)
    return OutlinePlane(float(depth[best] - tilt[best] * middle), float(tilt[best]))
