"""The plane of the head's outline, from silhouettes whose plane is known."""

import numpy as np
import pytest
import torch

from instag.camera import Camera
from instag.training.outline import USUAL_DEPTH, USUAL_TILT, OutlinePlane, Silhouette, outline_plane

SIZE, FOCAL, DISTANCE = 256, 600.0, 0.8
HALF_WIDTH, HALF_HEIGHT, CENTER_Y = 0.08, 0.11, 0.04  # of an upright ellipse, head units
TURNS = [(0, 0), (4, 0), (-4, 0), (0, 4), (0, -4), (3, -3)]  # degrees of yaw and pitch


def camera(yaw: float, pitch: float) -> Camera:
    """Before the head, which is turned instead; world y up and z towards the viewer."""
    a, b = np.radians([yaw, pitch])
    turn = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    nod = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    pose = np.eye(4)
    pose[:3, :3] = np.diag([1.0, -1.0, -1.0]) @ nod @ turn
    pose[:3, 3] = 0, 0, DISTANCE
    return Camera(torch.from_numpy(pose)[None].float(), torch.tensor([FOCAL]), SIZE, SIZE)


def silhouette(plane: OutlinePlane, yaw: float = 0, pitch: float = 0) -> Silhouette:
    """A flat head: an ellipse drawn on the plane, so that its outline is the same points from everywhere."""
    seen = Silhouette(np.zeros((SIZE, SIZE), bool), camera(yaw, pitch))
    rows, columns = np.indices((SIZE, SIZE)).reshape(2, -1)
    center, directions = seen.rays(rows, columns)
    x, y, _ = (center + directions * plane.along(center, directions)[:, None]).T
    inside = (x / HALF_WIDTH) ** 2 + ((y - CENTER_Y) / HALF_HEIGHT) ** 2 < 1
    return Silhouette(inside.reshape(SIZE, SIZE), seen.camera)


def found(silhouettes: list[Silhouette]) -> OutlinePlane:
    known = [np.zeros_like(each.mask) for each in silhouettes]
    return outline_plane(silhouettes, known, np.random.default_rng(0))


@pytest.mark.parametrize("true", [OutlinePlane(-0.08, 0.0), OutlinePlane(-0.02, 0.0), OutlinePlane(-0.07, 0.3)])
def test_a_head_that_turns_tells_the_plane(true):
    plane = found([silhouette(true, *turn) for turn in TURNS])
    for y in (0.03, 0.12):  # the sides, the crown
        assert plane.depth + plane.tilt * y == pytest.approx(true.depth + true.tilt * y, abs=0.012)


@pytest.mark.parametrize("frames", [1, 4])
def test_a_head_that_does_not_turn_is_taken_for_usual(frames):
    plane = found([silhouette(OutlinePlane(0.02, 0.4))] * frames)
    assert plane.tilt == pytest.approx(USUAL_TILT, abs=1e-9) and plane.depth == pytest.approx(USUAL_DEPTH, abs=1e-9)


def test_without_an_outline_it_is_the_usual_one():
    everything = [silhouette(OutlinePlane(-0.02, 0.0), *turn) for turn in TURNS]
    plane = outline_plane(everything, [np.ones_like(each.mask) for each in everything], np.random.default_rng(0))
    assert (plane.depth, plane.tilt) == pytest.approx((USUAL_DEPTH, USUAL_TILT))


def test_rays_meet_the_plane_and_come_back_to_their_pixels():
    plane, seen = OutlinePlane(-0.06, 0.3), silhouette(OutlinePlane(-0.06, 0.3), 4, -3)
    rows, columns = np.nonzero(seen.mask)
    center, directions = seen.rays(rows, columns)
    points = center + directions * plane.along(center, directions)[:, None]
    assert np.allclose(points[:, 2], plane.depth + plane.tilt * points[:, 1])
    assert np.array_equal(seen.at(points), np.minimum(seen.distance[rows, columns], 20))
