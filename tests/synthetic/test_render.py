"""Pictures and their ground truth agree with each other and with geometry."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from instag.data.layout import Label
from instag.errors import InstagError
from instag.synthetic import Speaker, background_plate, render_frame
from instag.synthetic.animate import Rig
from instag.synthetic.articulation import Articulation
from instag.synthetic.landmarks import IRISES, MEDIAPIPE, NAMES, head_landmarks
from instag.synthetic.render import HEAD_UNIT

SIZE = 128


@pytest.fixture(scope="module")
def speaker():
    return Speaker(21, 22, hair="short")


@pytest.fixture(scope="module")
def performance(speaker):
    return speaker.perform(23, 4)


@pytest.fixture(scope="module")
def open_mouth(performance):
    return int(np.argmax(performance.articulation.jaw - performance.articulation.seal))


@pytest.fixture(scope="module")
def frame(speaker, performance, open_mouth):
    return render_frame(speaker, performance, open_mouth, SIZE, supersampling=2)


def test_the_same_arguments_give_the_same_bytes_from_any_thread(speaker, performance):
    render = lambda t: render_frame(speaker, performance, t, 64).image  # noqa: E731
    alone = [render(t) for t in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(render, range(4)))
    anew = render_frame(Speaker(21, 22, hair="short"), performance, 3, 64).image
    np.testing.assert_array_equal(np.stack(alone), np.stack(together))
    np.testing.assert_array_equal(alone[3], anew)
    assert np.abs(alone[0].astype(int) - alone[3]).max() > 5  # the grain and the person move


def test_every_class_is_there_and_the_person_is_what_is_not_background(frame):
    assert set(np.unique(frame.labels)) == set(Label)
    np.testing.assert_array_equal(frame.person, frame.labels != Label.BACKGROUND)
    np.testing.assert_array_equal(frame.person, np.isfinite(frame.depth))
    assert 0.3 < frame.person.mean() < 0.8
    rows = {label: np.flatnonzero((frame.labels == label).any(1)).mean() for label in Label}
    assert rows[Label.HAIR] < rows[Label.HEAD] < rows[Label.MOUTH] < rows[Label.NECK] < rows[Label.TORSO]


def test_the_background_plate_shows_where_nobody_is(speaker, frame):
    plate = background_plate(speaker, SIZE)
    outside = ~frame.person
    outside[1:] &= outside[:-1]
    outside[:-1] &= outside[1:]
    outside[:, 1:] &= outside[:, :-1]
    outside[:, :-1] &= outside[:, 1:]
    error = frame.image[outside].astype(float) - plate[outside]
    assert abs(error.mean()) < 0.1 and 0.8 < error.std() < 1.6  # the grain


def test_landmarks_follow_the_pose_into_the_picture(speaker, performance, open_mouth, frame):
    pose = performance.articulation.at(open_mouth)
    rest = head_landmarks(speaker.rig, speaker.landmark_vertices, speaker.rig.deform(pose), pose) / HEAD_UNIT
    rotation, offset = frame.world_to_camera[:3, :3], frame.world_to_camera[:3, 3]
    np.testing.assert_allclose(rest @ rotation.T + offset, frame.landmarks, atol=1e-9)
    projected = frame.focal * frame.landmarks[:, :2] / frame.landmarks[:, 2:] + SIZE / 2
    np.testing.assert_allclose(projected, frame.landmarks_2d, atol=1e-9)
    assert np.linalg.det(rotation) == pytest.approx(1)
    assert 0.6 < offset[2] < 0.9


def test_the_subjects_right_is_the_images_left_and_up_is_up(frame):
    at = dict(zip(NAMES, frame.landmarks_2d, strict=True))
    assert at["eye_right_outer"][0] < at["eye_right_inner"][0] < at["eye_left_inner"][0] < at["eye_left_outer"][0]
    assert at["brow_left_2"][1] < at["lid_left_upper"][1] < at["nose_tip"][1] < at["chin"][1]
    assert len(set(sum(MEDIAPIPE.values(), ()))) == sum(map(len, MEDIAPIPE.values()))


def test_depth_meets_the_landmarks(frame):
    """Depth of the pixel under each landmark of the open face equals the landmark's own."""
    names = [n for n in NAMES if n.startswith(("nasion", "nose_t", "nose_br", "chin", "lip_lower_outer", *IRISES))]
    for name in names:
        x, y = np.floor(frame.landmarks_2d[NAMES.index(name)]).astype(int)
        assert frame.depth[y, x] == pytest.approx(frame.landmarks[NAMES.index(name), 2], abs=0.004), name


def test_normals_are_unit_face_the_camera_and_agree_with_depth(speaker, performance, open_mouth):
    frame = render_frame(speaker, performance, open_mouth, 256)
    normal, valid = frame.normal, frame.normal_valid
    np.testing.assert_allclose(np.linalg.norm(normal[valid], axis=-1), 1, atol=1e-5)
    assert (normal[~valid] == 0).all() and not (valid & ~frame.person).any()

    rows, columns = np.mgrid[:256, :256] + 0.5
    rays = np.stack([(columns - 128) / frame.focal, (rows - 128) / frame.focal, np.ones((256, 256))], -1)
    assert ((normal * rays).sum(-1)[valid] < 0).all()
    points = rays * np.where(frame.person, frame.depth, 0)[..., None]
    across = points[1:-1, 2:] - points[1:-1, :-2]
    down = points[2:, 1:-1] - points[:-2, 1:-1]
    measured = np.cross(down, across)
    measured /= np.linalg.norm(measured, axis=-1, keepdims=True) + 1e-12
    cosine = (measured * normal[1:-1, 1:-1]).sum(-1)
    smooth = valid[1:-1, 1:-1] & (frame.labels[1:-1, 1:-1] == Label.HEAD) & (normal[1:-1, 1:-1, 2] < -0.5)
    assert np.median(cosine[smooth]) > 0.99 and np.mean(cosine[smooth] > 0.9) > 0.93


def test_style_leaves_the_face_at_rest_alone_and_identity_does_not():
    rest = [s.rig.deform(Articulation()) for s in (Speaker(1, 2), Speaker(1, 3))]
    np.testing.assert_array_equal(*rest)
    tips = [s.rig.deform(Articulation())[s.landmark_vertices["nose_tip"]] for s in (Speaker(1, 2), Speaker(4, 2))]
    assert np.abs(tips[0] - tips[1]).max() > 0.02


@pytest.mark.parametrize("seed", [0, 5])
def test_articulation_does_what_it_says(seed):
    speaker = Speaker(seed, 0)
    symmetric = Rig(speaker.mesh, speaker.identity, asymmetry=0.0)

    def face(**pose):
        pose = Articulation(**pose)
        points = head_landmarks(symmetric, speaker.landmark_vertices, symmetric.deform(pose), pose)
        return dict(zip(NAMES, points, strict=True))

    def lips(points):
        return points["lip_upper_inner"][1] - points["lip_lower_inner"][1]

    def width(points):
        return points["mouth_corner_left"][0] - points["mouth_corner_right"][0]

    def lids(points, side):
        return points[f"lid_{side}_upper"][1] - points[f"lid_{side}_lower"][1]

    rest = face()
    assert lips(rest) == pytest.approx(0, abs=1e-9) and lids(rest, "left") > 0.5
    assert lips(face(jaw=0.2)) > lips(face(jaw=0.1)) > 0.5
    assert lips(face(jaw=0.2, seal=1)) == pytest.approx(0, abs=1e-6)
    assert width(face(round=1)) < width(rest) < width(face(wide=1))
    assert face(round=1)["lip_upper_outer"][2] > rest["lip_upper_outer"][2] + 0.3
    blink = face(blink_left=1)
    assert lids(blink, "left") == pytest.approx(0, abs=1e-3) and lids(blink, "right") == lids(rest, "right")
    assert face(brow=0.5)["brow_left_2"][1] > rest["brow_left_2"][1] + 0.2
    assert face(gaze_x=0.2)["iris_left"][0] > rest["iris_left"][0]
    for name, point in face(jaw=0.15, wide=0.5).items():  # left and right mirror each other
        twin = name.replace("left", "?").replace("right", "left").replace("?", "right")
        np.testing.assert_allclose(face(jaw=0.15, wide=0.5)[twin] * [-1, 1, 1], point, atol=0.05)


def test_glasses_stand_before_the_face_and_change_nothing_else(speaker, performance, frame, open_mouth):
    wearer = Speaker(21, 22, hair="short", glasses=True)
    with_glasses = render_frame(wearer, performance, open_mouth, SIZE, supersampling=2)
    wire = with_glasses.depth < frame.depth - 0.002  # head units
    assert 0.002 < wire.mean() < 0.05 and (with_glasses.labels[wire] == Label.HEAD).all()
    assert with_glasses.image[wire].mean() < 0.6 * frame.image[wire].mean()
    np.testing.assert_array_equal(with_glasses.landmarks, frame.landmarks)
    x, y = np.floor(frame.landmarks_2d[NAMES.index("iris_right")]).astype(int)
    assert not wire[y - 1 : y + 2, x - 1 : x + 2].any()
    eyes = [frame.landmarks_2d[NAMES.index(f"iris_{side}")] for side in ("right", "left")]
    assert all(wire[int(eye[1]) :, int(eye[0])].any() and wire[: int(eye[1]), int(eye[0])].any() for eye in eyes)


def test_bad_arguments_name_the_remedy(speaker, performance):
    with pytest.raises(InstagError, match="use 0 .. 99"):
        render_frame(speaker, performance, 100, 64)
    with pytest.raises(InstagError, match="at least 1"):
        render_frame(speaker, performance, 0, 64, supersampling=0)
    with pytest.raises(InstagError, match="'short', 'long' or None"):
        Speaker(0, 0, hair="curly")
