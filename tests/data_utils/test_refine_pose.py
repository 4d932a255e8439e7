"""Photometric refinement: known poses of a textured ball come back; neither light nor a hand pulls."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from instag.data_utils.pose import HeadTrack
from instag.data_utils.refine_pose import (
    Skin,
    Texture,
    align_frame,
    detail_picture,
    face_part,
    fit_textures,
    make_texture,
    refine_poses,
    steady_poses,
)

SIZE, FOCAL, RADIUS, FRAMES = 192, 432.0, 8.0, 12
WHOLE = (slice(0, SIZE), slice(0, SIZE))
WAVES = np.random.default_rng(0).normal(0, 1.6, (40, 3))  # rad / cm
PHASES = np.random.default_rng(1).uniform(0, 6.28, 40)


def paint(points):
    """Grey levels of points on the head, whatever the pose. [..., 3] cm -> [...]."""
    return 120 + 9 * np.sin(points @ WAVES.T + PHASES).sum(-1)


def picture(rotation, translation, light=1.0):
    """A textured ball of the head's size before a grey wall, uint8 [SIZE, SIZE, 3]."""
    axis = (np.arange(SIZE) + 0.5 - SIZE / 2) / FOCAL
    ray = np.stack([*np.meshgrid(axis, axis), np.ones((SIZE, SIZE))], -1)
    a, b, c = (ray**2).sum(-1), ray @ translation, translation @ translation - RADIUS**2
    root = b**2 - a * c
    hit = root > 0
    camera = ray * ((b - np.sqrt(np.where(hit, root, 0))) / a)[..., None]
    grey = np.where(hit, paint((camera - translation) @ rotation), 90)
    return np.repeat(np.clip(grey * light, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.fixture(scope="module")
def skin():
    rng = np.random.default_rng(2)
    normals = rng.normal(size=(9000, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    normals = normals[normals[:, 2] < -0.5]
    return Skin(RADIUS * normals, normals)


@pytest.fixture(scope="module")
def truth():
    t = np.arange(FRAMES)
    angles = np.radians(8) * np.stack([np.sin(t / 2), np.sin(t / 3 + 1), 0.4 * np.sin(t)], axis=1)
    translation = np.stack([np.sin(t / 2), np.cos(t / 3), 75 + np.sin(t)], axis=1)
    return HeadTrack(Rotation.from_rotvec(angles).as_matrix(), translation, FOCAL, np.zeros((468, 3)), 0.0)


@pytest.fixture(scope="module")
def trembling(truth):
    rng = np.random.default_rng(3)
    turns = Rotation.from_rotvec(np.radians(rng.normal(0, 0.4, (FRAMES, 3))))
    shift = rng.normal(0, [0.05, 0.05, 0.5], (FRAMES, 3))
    rotation = (turns * Rotation.from_matrix(truth.rotation)).as_matrix()
    return HeadTrack(rotation, truth.translation_cm + shift, FOCAL, truth.shape, 0.0)


@pytest.fixture(scope="module")
def frames(truth):
    light = 1 + 0.1 * np.sin(np.arange(FRAMES))
    poses = zip(truth.rotation, truth.translation_cm, light, strict=True)
    return [picture(*pose) for pose in poses]


def turn_error(a, b):
    """Deg [T, 3] between rotations, less what all frames share."""
    between = Rotation.from_matrix(a @ b.transpose(0, 2, 1))
    return np.degrees((between * between.mean().inv()).as_rotvec())


def test_trembling_poses_are_steadied(frames, truth, trembling, skin):
    textures = fit_textures(lambda numbers: [frames[i][..., 0] for i in numbers], trembling, skin)
    rotation, translation = refine_poses(frames.__getitem__, range(FRAMES), trembling, skin, textures)
    before, after = (turn_error(r, truth.rotation).std() for r in (trembling.rotation, rotation))
    assert before > 0.3 and after < before / 4
    shift = lambda t: (t - truth.translation_cm).std(0)  # noqa: E731
    assert (shift(translation)[:2] < 0.02).all() and shift(translation)[2] < shift(trembling.translation_cm)[2] / 2


def test_refined_poses_are_smoothed_within_each_shot(truth):
    rng, count, cut = np.random.default_rng(3), 60, 25
    turns = Rotation.from_rotvec(np.radians(rng.normal(0, 0.1, (count, 3)))).as_matrix()
    places = np.where(np.arange(count) < cut, 0.0, 9.0)[:, None] + rng.normal(0, 0.02, (count, 3))
    steadied = steady_poses(replace(truth, cuts=(cut,)), np.split(turns, 3), np.split(places, 3))
    tremble = lambda r: np.diff(Rotation.from_matrix(r).as_rotvec(), 2, axis=0).std()  # noqa: E731
    assert tremble(steadied.rotation) < 0.75 * tremble(turns)
    assert np.abs(steadied.translation_cm - places).max() < 0.1  # nothing flows over the cut
    assert steadied.focal == truth.focal and steadied.cuts == (cut,)


def test_a_frame_alone_gives_what_it_gives_among_others(frames, trembling, skin):
    textures = fit_textures(lambda numbers: [frames[i][..., 0] for i in numbers], trembling, skin)
    together = refine_poses(frames.__getitem__, range(FRAMES), trembling, skin, textures)
    alone = refine_poses(frames.__getitem__, range(5, 6), trembling, skin, textures)
    np.testing.assert_array_equal(together[0][5], alone[0][0])
    np.testing.assert_array_equal(together[1][5], alone[1][0])


def test_a_hand_over_the_cheek_does_not_pull(frames, truth, trembling, skin):
    greys = [frame[..., 0] for frame in frames]
    details = [detail_picture(grey, 2.0, WHOLE) for grey in greys]
    texture = make_texture(details, skin, truth.rotation, truth.translation_cm, FOCAL, 2.0)
    covered = greys[4].copy()
    covered[100:130, 60:95] = 230
    believed = trembling.rotation[4], trembling.translation_cm[4]
    free, pulled = (align_frame(grey, skin, [texture], believed, FOCAL) for grey in (greys[4], covered))
    apart = Rotation.from_matrix(free[0] @ pulled[0].T).magnitude()
    assert np.degrees(apart) < 0.6 and np.abs(free[1] - pulled[1])[:2].max() < 0.06  # an eighth of the face hidden


def test_pictures_that_say_nothing_leave_the_landmarks_pose(trembling, skin):
    believed = trembling.rotation[0], trembling.translation_cm[0]
    flat = np.full((SIZE, SIZE), 128, np.uint8)
    unseen = Texture(1.0, np.zeros(len(skin.points)), np.zeros(len(skin.points)))
    for texture in (
        unseen,
        make_texture([detail_picture(flat, 1.0, WHOLE)], skin, *(part[None] for part in believed), FOCAL, 1.0),
    ):
        rotation, translation = align_frame(flat, skin, [texture], believed, FOCAL)
        np.testing.assert_allclose(rotation, believed[0], atol=1e-9)
        np.testing.assert_allclose(translation, believed[1], atol=1e-9)
    outside = believed[0], believed[1] + [500.0, 0, 0]
    assert align_frame(flat, skin, [unseen], outside, FOCAL)[1][0] == outside[1][0]


def test_a_pose_far_from_the_landmarks_is_not_believed(frames, truth, skin):
    detail = detail_picture(frames[0][..., 0], 3.0, WHOLE)
    texture = make_texture([detail], skin, truth.rotation[:1], truth.translation_cm[:1], FOCAL, 3.0)
    believed = Rotation.from_euler("y", -8, degrees=True).as_matrix() @ truth.rotation[0], truth.translation_cm[0]
    result = align_frame(frames[0][..., 0], skin, [texture] * 3, believed, FOCAL)
    assert result[0] is believed[0] or np.degrees(Rotation.from_matrix(result[0] @ believed[0].T).magnitude()) <= 6.0


def test_the_part_with_the_face_is_the_whole_pictures(frames, truth, skin):
    grey, pose = frames[3][..., 0], (truth.rotation[3], truth.translation_cm[3])
    part = face_part(skin, pose, 4 * FOCAL, 4 * SIZE)
    grey = cv2.resize(grey, (4 * SIZE, 4 * SIZE), interpolation=cv2.INTER_CUBIC)
    textures = []
    for where in (part, (slice(0, 4 * SIZE),) * 2):
        detail = detail_picture(grey, 1.0, where)
        textures.append(make_texture([detail], skin, *(each[None] for each in pose), 4 * FOCAL, 1.0))
    assert part[0].stop - part[0].start < 4 * SIZE
    np.testing.assert_allclose(textures[0].values, textures[1].values, atol=1e-4)
    np.testing.assert_array_equal(textures[0].weights, textures[1].weights)


def test_a_face_outside_the_picture_has_a_part_all_the_same(truth, skin):
    for shift in ([500, 0, 0], [-500, 0, 0], [0, 500, 0], [0, -500, 0]):
        rows, columns = face_part(skin, (truth.rotation[0], truth.translation_cm[0] + shift), FOCAL, 66)
        assert 0 <= rows.start < 62 and rows.stop > rows.start + 4 and 0 <= columns.start < 62
