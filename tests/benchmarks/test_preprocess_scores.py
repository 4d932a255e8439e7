"""The preprocessing benchmark measures what it says: known errors come out as such."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from instag.data.layout import Label

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import preprocess_real as real
import preprocess_scores as scores

FRAMES = 80


def swaying(amplitude_deg=(3.0, 10.0, 2.0)):
    t = np.arange(FRAMES)[:, None]
    angles = np.array(amplitude_deg) * np.sin(t / np.array([7.0, 11.0, 5.0]))
    return Rotation.from_euler("yxz", angles[:, [1, 0, 2]], degrees=True)


def test_a_constant_turn_of_the_head_frame_is_no_error():
    true = swaying()
    turn = Rotation.from_euler("xyz", [6, -2, 1], degrees=True)
    error, constant = scores.rotation_error((true * turn).as_matrix(), true.as_matrix())
    np.testing.assert_allclose(error, 0, atol=1e-6)
    np.testing.assert_allclose(constant, np.degrees(turn.as_rotvec()), atol=1e-6)


def test_pose_errors_come_out_on_their_axis():
    true, rng = swaying(), np.random.default_rng(0)
    truth = SimpleNamespace(rotation=true.as_matrix(), translation_cm=np.tile([1.0, 2.0, 75.0], (FRAMES, 1)))
    noise = np.radians(rng.normal(0, [0.5, 0.0, 0.1], (FRAMES, 3)))
    found = (true * Rotation.from_rotvec(noise)).as_matrix()
    result = scores.pose_scores(found, truth.translation_cm * 1.1, truth)
    assert result["pitch_std"] == pytest.approx(0.5, rel=0.25) and result["pitch_jitter"] == pytest.approx(0.5, rel=0.4)
    assert result["yaw_std"] < 0.02 and result["roll_jitter"] < 0.2 and result["tz_std_cm"] < 1e-6
    assert result["yaw_slope"] == pytest.approx(1.0, abs=0.02)


def test_jitter_ignores_steady_motion():
    line = np.linspace(0, 30, FRAMES)[:, None]
    assert scores.jitter(line)[0] == pytest.approx(0, abs=1e-9)
    noise = np.random.default_rng(1).normal(0, 0.2, (4000, 1))
    assert scores.jitter(noise)[0] == pytest.approx(0.2, rel=0.1)


def test_blinks_are_counted_as_events():
    closure, intensity = np.zeros(60), np.zeros(60)
    closure[10:14] = closure[30:33] = 1.0
    intensity[12:14] = 2.5  # hit
    intensity[50:52] = 2.0  # invented
    counts = scores.blink_counts(intensity, closure)
    assert counts == {"true": 2, "hit": 1, "invented": 1}
    assert scores.f1([counts]) == {"blinks": 2, "precision": 0.5, "recall": 0.5, "f1": 0.5}


def test_masks_are_scored_by_label():
    true = np.full((3, 20, 20), Label.BACKGROUND, np.uint8)
    true[:, 2:12, 5:15] = Label.HEAD
    true[:, 12:18, 2:18] = Label.TORSO
    found = true.copy()
    found[1, 2:7, 5:15] = Label.HAIR
    result = scores.mask_scores(found, true)
    assert result["person"] == result["torso"] == 1.0
    assert result["head"] == pytest.approx(250 / 300)
    assert result["wrong_head_hair_neck"] == pytest.approx(50 / 300)
    assert result["flicker"] == pytest.approx(100 / (2 * 196)) and "mouth_open" not in result


def test_relief_and_normals_of_the_true_surface_are_perfect():
    y, x = np.mgrid[:16, :16] / 16
    true_depth, true_normal = 70 + x + y, np.tile([0.0, 0.0, -1.0], (16, 16, 1))
    result = scores.geometry_scores(true_depth / 50, true_normal, np.ones((16, 16), bool), true_depth, true_normal)
    assert result["relief_cm"] < 1e-9 and result["normal_deg"] < 1e-3 and result["covered"] == 1.0


def test_labels_that_move_with_the_head_are_at_rest_and_those_that_blink_are_not():
    """A head of two halves that slides by two pixels a frame; then one label that comes and goes."""
    size, cm_per_px = 96, 0.3
    labels = np.full((6, size, size), Label.BACKGROUND, np.uint8)
    for t in range(6):
        labels[t, 20:60, 20 + 2 * t : 60 + 2 * t] = Label.HEAD
        labels[t, 20:40, 20 + 2 * t : 60 + 2 * t] = Label.HAIR
    focal, distance = 200.0, 60.0
    shift = np.zeros((6, 3))
    shift[:, 0], shift[:, 2] = 2 * np.arange(6) * cm_per_px, distance - 4
    track = SimpleNamespace(rotation=np.tile(np.eye(3), (6, 1, 1)), translation_cm=shift, focal=focal)
    assert focal / distance * cm_per_px == pytest.approx(1)
    assert real.label_unrest(labels, track) == (0.0, 0.0)
    still = SimpleNamespace(**vars(track) | {"translation_cm": np.tile(shift[0], (6, 1))})
    change, flicker = real.label_unrest(labels, still)
    assert change > 0.03 and flicker == 0  # motion is change, not flicker
    labels[3, 50:54, 40:50] = Label.NECK
    change, flicker = real.label_unrest(labels, track)
    pixels = 40 * 40
    assert flicker == pytest.approx(40 / (4 * pixels))
    assert change == pytest.approx(80 / (4 * pixels))


def test_held_out_texture_sees_misplacement_and_not_light():
    rng = np.random.default_rng(0)
    texture = rng.normal(100, 20, 500)
    light = np.linspace(0.8, 1.2, 10)[:, None] * texture + np.linspace(-20, 20, 10)[:, None]
    assert real.held_out_rms(light) < 1e-6
    assert real.held_out_rms(light + rng.normal(0, 5, light.shape)) > 3
