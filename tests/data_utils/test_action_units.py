"""Action units from made faces: each answers to its own movement and not to the pose of the head."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from instag.data.subject_folder import read_action_units
from instag.data_utils.action_units import ACTION_UNITS, action_units, write_csv
from instag.data_utils.face_points import LEFT_LID_PAIRS, RIGHT_LID_PAIRS

FRAMES, EYES = 100, 160.0  # px between the outer eye corners
UPPER_LIDS = [pair[0] for pair in RIGHT_LID_PAIRS + LEFT_LID_PAIRS]
LOWER_LIDS = [pair[1] for pair in RIGHT_LID_PAIRS + LEFT_LID_PAIRS]
INNER_BROWS, OUTER_BROWS, CHEEKS = [55, 107, 285, 336], [70, 63, 300, 293], [50, 205, 280, 425]


def face():
    """A still face [T, 478, 3] px in the head frame: only the points that the formulas use stand anywhere sensible."""
    points = np.zeros((FRAMES, 478, 3))
    for index, (x, y) in {33: (-80, 0), 133: (-30, 0), 362: (30, 0), 263: (80, 0), 13: (0, 90), 14: (0, 91)}.items():
        points[:, index, :2] = x, y
    for upper, lower, x in zip(UPPER_LIDS, LOWER_LIDS, (-65, -55, -45, 45, 55, 65), strict=True):
        points[:, upper, :2], points[:, lower, :2] = (x, -9), (x, 7)
    for index, x in zip(INNER_BROWS + OUTER_BROWS, (-18, -25, 18, 25, -75, -65, 75, 65), strict=True):
        points[:, index, :2] = x, -35
    for index, x in zip(CHEEKS, (-60, -50, 60, 50), strict=True):
        points[:, index, :2] = x, 60
    return points


def measured(points, rotation=None):
    rotation = np.tile(np.eye(3), (FRAMES, 1, 1)) if rotation is None else rotation
    return action_units(points @ rotation.transpose(0, 2, 1) + 250, rotation)


def move(indices, axis, by):
    """The face with some points moved by `by` px in frames 40 to 59."""
    points = face()
    points[40:60, indices, axis] += by
    return points


@pytest.mark.parametrize(
    ("unit", "indices", "by"),
    [
        ("AU01", INNER_BROWS, -6),
        ("AU02", OUTER_BROWS, -6),
        ("AU04", INNER_BROWS, 5),
        ("AU05", UPPER_LIDS, -2),
        ("AU06", CHEEKS, -5),
        ("AU07", LOWER_LIDS, -2),
        ("AU25", [14], 12),
        ("AU45", UPPER_LIDS, 15),
    ],
)
def test_each_unit_answers_to_its_movement(unit, indices, by):
    units = measured(move(indices, 1, by))
    assert tuple(units) == ACTION_UNITS
    assert units[unit][45:55].min() > 1.0 and units[unit][:30].max() < 0.3
    for values in units.values():
        assert values.shape == (FRAMES,) and values.min() >= 0 and values.max() <= 5
    others = {name: values for name, values in units.items() if name not in (unit, "AU07", "AU05")}
    assert max(values[45:55].max() for values in others.values()) < 0.5


def test_the_networks_depth_does_not_open_the_mouth():
    assert measured(move([14], 2, 20))["AU25"].max() < 0.3


def test_pose_and_size_do_not_matter():
    points = move(UPPER_LIDS, 1, 15)
    still = measured(points)
    t = np.arange(FRAMES)
    rotation = Rotation.from_rotvec(0.3 * np.stack([np.sin(t / 9), np.cos(t / 7), np.sin(t / 5)], axis=1)).as_matrix()
    for moved in (measured(points, rotation), measured(points * 0.4)):
        for name in ACTION_UNITS:
            np.testing.assert_allclose(moved[name], still[name], atol=1e-6)


@pytest.mark.parametrize("frames", [1, 7])
def test_a_clip_shorter_than_the_blinks_margin_is_measured(frames):
    still = measured(face())
    brief = action_units(face()[:frames] + 250, np.tile(np.eye(3), (frames, 1, 1)))
    for name in ACTION_UNITS:
        np.testing.assert_allclose(brief[name], still[name][:frames], atol=1e-6)


def test_csv_is_read_as_the_fields(tmp_path):
    units = measured(move([14], 1, 12))
    found = np.ones(FRAMES, bool)
    found[3] = False
    write_csv(tmp_path / "au.csv", units, found, 25)
    header, *rows = (tmp_path / "au.csv").read_text().splitlines()
    assert " AU45_r" in header.split(",") and header.startswith("frame, timestamp, success, AU01_r")
    assert len(rows) == FRAMES and rows[3].split(",")[2] == " 0"
    names, values = read_action_units(tmp_path / "au.csv")
    assert names == ACTION_UNITS
    np.testing.assert_allclose(values, np.stack([units[name] for name in names], axis=1), atol=1e-3)
