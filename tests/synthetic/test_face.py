"""The head at rest has the proportions of people's: depth of the face against MediaPipe's canonical face."""

import numpy as np
import pytest
from scipy.interpolate import LinearNDInterpolator

from instag.synthetic import Speaker
from instag.synthetic.articulation import Articulation

EYE_WIDTH = 8.89  # cm between the outer corners, to which all is scaled
# |x| and height above the bridge of the nose -> depth of the canonical face behind it, cm: forehead, temple, cheek.
CANONICAL = {
    **{(3.5, 4.0): 1.23, (5.5, 3.0): 2.69, (6.0, -1.0): 3.24, (5.5, -2.0): 2.57, (6.0, -2.0): 3.08},
    **{(5.0, -3.0): 2.00, (5.5, -3.0): 2.50, (4.5, -4.0): 1.56, (3.5, -5.0): 0.99, (5.0, -5.0): 2.06},
}


def depths(seed):
    """Depth of the front of the skin behind the bridge of the nose at the points of CANONICAL."""
    speaker = Speaker(seed, seed)
    points = speaker.rig.deform(Articulation())
    at = speaker.landmark_vertices
    scale = EYE_WIDTH / (points[at["eye_left_outer"], 0] - points[at["eye_right_outer"], 0])
    skin = (points[: len(speaker.mesh.face.rest)] - points[at["nasion"]]) * scale
    skin = skin[(speaker.mesh.face.angle < np.pi / 2) & (skin[:, 0] > 2)]
    return -LinearNDInterpolator(skin[:, :2], skin[:, 2])(list(CANONICAL))


def test_the_face_is_as_deep_as_the_canonical_one():
    every, canonical = np.stack([depths(seed) for seed in range(200, 204)]), np.array(list(CANONICAL.values()))
    assert np.abs(every.mean(0) - canonical).max() < 0.4
    assert np.abs(every - canonical).max() < 1.0  # people differ


@pytest.mark.parametrize("seed", [5, 207])
def test_it_is_as_deep_on_the_left_as_on_the_right(seed):
    face = Speaker(seed, seed).mesh.face
    at = {tuple(np.round(point, 6)) for point in face.rest}
    assert all(tuple(np.round(point * [-1, 1, 1], 6)) in at for point in face.rest[:: len(face.rest) // 200])
