"""Landmarks: the 68 points, gaps, and what a user without MediaPipe reads."""

import builtins
from pathlib import Path

import numpy as np
import pytest

from instag.data_utils import landmarks as module
from instag.data_utils.face_mesh import face_triangles, mean_face, rigid_weights, triangles_from_edges
from instag.data_utils.face_points import to_68_points
from instag.data_utils.landmarks import FaceTracker, PersonSegmenter, fill_gaps, track_landmarks
from instag.errors import DataError, InstagError
from instag.synthetic import Speaker, render_frame

# Mirror partners among the 68 points.
MIRROR = [
    *range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1), 45, 44, 43, 42, 47, 46, 39, 38, 37, 36,
    41, 40, *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65,
]  # fmt: skip


@pytest.fixture(scope="module")
def rendered():
    """Two frames of a procedural speaker and what the networks see in them."""
    speaker = Speaker(7, 7)
    performance = speaker.perform(7, 0.4)
    frames = [render_frame(speaker, performance, t, 384).image for t in (0, 5)]
    with PersonSegmenter() as segmenter:
        return frames, track_landmarks(iter(frames)), segmenter(frames[0])


def test_networks_see_the_procedural_speaker(rendered):
    frames, (landmarks, found), person = rendered
    assert found.all() and landmarks.shape == (2, 478, 3) and landmarks.dtype == np.float32
    assert landmarks[..., :2].min() > 0 and landmarks[..., :2].max() < 384
    assert landmarks[0, 4, 2] < landmarks[0, 234, 2]  # the tip of the nose is nearer than the side of the face
    assert person.shape == (256, 256) and person.dtype == np.uint8
    assert person[200, 128] > 200 and person[5, 5] < 50


def test_68_points_stand_where_the_field_has_them(rendered):
    _, (landmarks, _), _ = rendered
    points = to_68_points(landmarks)
    assert points.shape == (2, 68, 2) and points.dtype == np.float32
    x, y = points[0].T
    assert (np.diff(x[:17]) > 0).all() and y[8] == y[:17].max()  # jaw from the subject's right to left, chin lowest
    assert (np.diff(x[17:27]) > 0).all() and y[17:27].max() < y[36:48].min()  # brows above the eyes
    assert (np.diff(y[27:31]) > 0).all() and x[36] < x[39] < x[42] < x[45]
    assert x[48] == x[48:60].min() and x[54] == x[48:60].max() and y[57] == y[48:60].max()
    assert (np.diff(x[60:65]) > 0).all() and (np.diff(x[[60, 67, 66, 65, 64]]) > 0).all()
    assert (points[:, 62] == landmarks[:, 13, :2]).all() and (points[:, 66] == landmarks[:, 14, :2]).all()


def test_68_points_are_symmetric_and_the_jaw_is_even(rendered):
    _, (landmarks, _), _ = rendered
    face = mean_face(landmarks)
    points = to_68_points(face[None])[0]
    mirrored = points[MIRROR] * [-1, 1]
    assert np.abs(mirrored - points).max() < 0.8  # cm; the networks' face is symmetric to some millimetres
    steps = np.linalg.norm(np.diff(points[:17], axis=0), axis=1)
    assert steps.max() / steps.min() < 1.2


def test_triangles_are_those_of_the_network(rendered):
    edges = module.mediapipe_solutions().face_mesh.FACEMESH_TESSELATION
    np.testing.assert_array_equal(triangles_from_edges(edges, (127, 34, 139)), face_triangles())
    triangles = face_triangles()
    assert len(triangles) == 852 and len(np.unique(triangles)) == 468
    directed = triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    assert len(np.unique(directed, axis=0)) == len(directed)  # one orientation throughout
    face = mean_face(rendered[1][0])
    corners = face[triangles]
    outward = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (outward[:, 2] < 0).mean() > 0.95  # to the viewer


def test_mean_face_ignores_pose_and_size(rendered):
    _, (landmarks, _), _ = rendered
    face = mean_face(landmarks)
    angle = 0.3
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    np.testing.assert_allclose(mean_face(landmarks @ turn.T.astype(np.float32) * 1.7 + 11), face, atol=1e-3)
    assert abs(np.linalg.norm(face[263] - face[33]) - 8.8917) < 1e-6
    weights = rigid_weights(face)
    assert 200 < np.count_nonzero(weights) < 330 and weights[13] == weights[152] == 0 and weights[4] == 1


def gap_track(count, missing):
    points = np.arange(count, dtype=np.float32)[:, None, None] * np.ones((1, 478, 3), np.float32)
    found = np.ones(count, bool)
    found[list(missing)] = False
    points[~found] = np.nan
    return points, found


def test_short_gaps_are_bridged():
    points, found = gap_track(30, [0, 1, 7, 8, 9, 10, 11, 29])
    filled = fill_gaps(points, found, "clip.mp4")
    expected = np.arange(30, dtype=float)
    expected[[0, 1, 29]] = [2, 2, 28]  # held at the ends
    np.testing.assert_allclose(filled[:, 0, 0], expected, atol=1e-5)
    whole, found = gap_track(9, [])
    assert fill_gaps(whole, found, "clip.mp4") is whole


def test_long_gaps_are_named():
    with pytest.raises(DataError, match=r"clip.mp4: no face found in frames 7-12 "):
        fill_gaps(*gap_track(30, range(7, 13)), "clip.mp4")
    with pytest.raises(DataError, match="no face found in any frame"):
        fill_gaps(*gap_track(30, range(30)), "clip.mp4")


def test_networks_start_one_thread_each():
    """By themselves they start one for every core of the machine, up to 53."""
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        pytest.skip("threads are counted in /proc")
    before = len(list(tasks.iterdir()))
    with FaceTracker(), PersonSegmenter():
        assert len(list(tasks.iterdir())) - before <= 2


def test_no_face_is_no_face():
    with FaceTracker() as tracker:
        assert tracker(np.full((96, 96, 3), 127, np.uint8)) is None


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("libGL.so.1: cannot open shared object file", "apt-get install -y libgl1 libglib2.0-0"),
        ("No module named 'mediapipe'", "pip install mediapipe==0.10.14"),
    ],
)
def test_without_mediapipe_the_remedy_is_said(monkeypatch, reason, remedy):
    real = builtins.__import__

    def broken(name, *rest, **kwargs):
        if name == "mediapipe":
            raise ImportError(reason)
        return real(name, *rest, **kwargs)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(InstagError, match=remedy) as error:
        FaceTracker()
    assert "\n" not in str(error.value)
