import cv2
import numpy as np
from made_speaker import make_speaker

from instag.data_utils.head_plane import (
    CELL_CM,
    CELLS,
    PLANE_DEPTH_CM,
    HeadPlane,
    JawLine,
    JawShift,
    cell_coordinates,
    geometric_prior,
)

SIZE, FOCAL = 128, 288.0


def turned_plane():
    rotation = cv2.Rodrigues(np.array([0.15, -0.2, 0.1]))[0]
    translation = np.array([1.5, -0.7, 72.0])
    return HeadPlane.from_pose(rotation, translation, FOCAL, SIZE), rotation, translation


def test_projection_is_the_pinhole_camera_s():
    plane, rotation, translation = turned_plane()
    points = np.array([[0.0, 0.0], [-7.0, 3.0], [5.0, -9.0]])
    inside = np.column_stack([points, np.full(3, PLANE_DEPTH_CM)]) @ rotation.T + translation
    expected = FOCAL * inside[:, :2] / inside[:, 2:] + SIZE / 2
    np.testing.assert_allclose(plane.project(points), expected, atol=1e-9)
    np.testing.assert_allclose(plane.unproject(expected), points, atol=1e-9)


def test_coordinates_are_those_of_pixel_centres():
    plane, *_ = turned_plane()
    u, v = plane.coordinates(SIZE)
    at = plane.unproject(np.array([30.5, 99.5]))
    np.testing.assert_allclose((u[99, 30], v[99, 30]), at, atol=1e-4)


def test_map_and_picture_agree_with_coordinates():
    plane, *_ = turned_plane()
    cells = np.stack(cell_coordinates(), -1)
    seen = plane.to_image(cells, SIZE)
    u, v = plane.coordinates(SIZE)
    inside = (np.abs(u) < 15) & (np.abs(v) < 15)
    np.testing.assert_allclose(seen[inside], np.stack([u, v], -1)[inside], atol=0.03)
    back = plane.to_map(seen)
    middle = (np.abs(cells) < 9).all(-1)
    np.testing.assert_allclose(back[middle], cells[middle], atol=0.05)


def test_scaled_plane_is_that_of_the_smaller_picture():
    plane, rotation, translation = turned_plane()
    half = HeadPlane.from_pose(rotation, translation, FOCAL / 2, SIZE / 2)
    point = np.array([3.0, 4.0])
    np.testing.assert_allclose(plane.scaled(0.5).project(point), half.project(point), atol=1e-9)


def jaw_lines():
    speaker = make_speaker(SIZE, 8)
    planes = [
        HeadPlane.from_pose(speaker.rotation[i], speaker.translation_cm[i], speaker.focal, SIZE) for i in range(8)
    ]
    return [JawLine.from_landmarks(speaker.landmarks[i], planes[i]) for i in range(8)]


def test_jaw_line_moves_with_the_jaw_but_not_with_the_head():
    lines = jaw_lines()  # the head sways; the chin lies at 9.5 + 0.8 * opening
    chins = [line.chin for line in lines]
    expected = [9.5 + 0.8 * (0.5 - 0.5 * np.cos(1.3 * i)) for i in range(8)]
    np.testing.assert_allclose(chins, expected, atol=0.02)
    median = JawLine.median(lines)
    assert min(chins) < median.chin < max(chins)
    assert abs(median.at(np.array(0.0)) - median.chin) < 0.05
    assert median.at(np.array(99.0)) == np.float32(median.points[-1, 1])


def test_jaw_shift_carries_the_chin_and_leaves_eyes_and_collar():
    lines = jaw_lines()
    closed, opened = lines[0], lines[2]
    drop = opened.chin - closed.chin
    assert drop > 0.5
    heights = cell_coordinates()[1]
    shifted = JawShift(closed, opened).to_frame(heights)
    row = {v: int(v / CELL_CM + CELLS / 2) for v in (-6, 9.5 + drop, 15)}
    middle = CELLS // 2
    assert shifted[row[9.5 + drop], middle] < heights[row[9.5 + drop], middle] - 0.7 * drop
    for v in (-6, 15):
        assert abs(shifted[row[v], middle] - heights[row[v], middle]) < 1e-3
    there_and_back = JawShift(closed, opened).to_median(shifted)
    assert np.abs(there_and_back - heights)[4:-4].max() < 0.25
    np.testing.assert_allclose(JawShift(closed, closed).to_frame(heights), heights, atol=1e-5)


def test_geometric_prior_is_a_distribution_that_knows_up_from_down():
    line = jaw_lines()[0]
    prior = geometric_prior(line, forehead=-7.5)
    np.testing.assert_allclose(prior.sum(-1), 1, atol=1e-5)
    assert prior.min() > 0

    def likeliest(u, v):
        return int(prior[int(v / CELL_CM + CELLS / 2), int(u / CELL_CM + CELLS / 2)].argmax())

    assert [likeliest(*at) for at in ((0, 2), (0, -11), (0, 11.5), (12, 14))] == [0, 1, 2, 3]
