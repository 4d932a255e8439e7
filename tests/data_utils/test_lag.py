"""Lips against sound: a shift that is made is found, and put right in the sound that is written."""

import json

import numpy as np
import pytest

from instag.audio.io import read_audio
from instag.data.layout import FPS, SAMPLE_RATE, SubjectFolder
from instag.data_utils.clip_check import Check, Level, judge_lag, judge_sound, sound_signals
from instag.data_utils.lag import NATURAL_LEAD, PHONE_OPENING, Lag, heard_opening, measure_lag
from instag.data_utils.subject_files import write_audio


def signals(frames=300, noise=0.3, seed=0):
    """Openings that the lips show, and that the sound promises."""
    rng = np.random.default_rng(seed)
    opening = np.clip(np.convolve(rng.normal(0, 1, frames), np.ones(3) / 2, "same"), 0, None)
    return 0.1 * opening, opening + noise * rng.normal(0, 1, frames)


@pytest.mark.parametrize("late", [-11, -3, 0, 5, 11])
def test_a_shift_is_found(late):
    seen, heard = signals()
    lag = measure_lag(np.roll(seen, late), heard)
    assert lag.frames == late + NATURAL_LEAD and lag.sure
    assert lag.off == (abs(late + NATURAL_LEAD) > 2)


def test_what_does_not_go_together_is_not_believed():
    seen, _ = signals(seed=1)
    _, heard = signals(seed=2)
    assert not measure_lag(seen, heard).sure
    assert not measure_lag(seen, np.zeros(300)).sure
    assert not measure_lag(np.full(300, np.nan), heard).sure
    assert not measure_lag(seen[:30], heard[:30]).sure


def test_lost_frames_do_no_harm():
    seen, heard = signals()
    seen[40:44] = np.nan
    assert measure_lag(np.roll(seen, 4), heard).frames == 4 + NATURAL_LEAD


def test_lips_shut_for_m_and_open_for_a():
    heard = heard_opening(np.eye(3), ("AA", "M", "SIL"))
    assert heard[0] > heard[2] > heard[1]
    assert len(PHONE_OPENING) == 39


def test_posteriors_stand_at_the_frames(clip):
    samples = read_audio(clip)
    posteriors, phones = sound_signals(samples, 60)
    assert posteriors.shape == (60, 42) and len(phones) == 42
    np.testing.assert_allclose(posteriors.sum(1), 1, atol=1e-4)
    late, _ = sound_signals(np.pad(samples, (SAMPLE_RATE // FPS * 3, 0)), 63)
    assert np.corrcoef(late[3:60].ravel(), posteriors[:57].ravel())[0, 1] > 0.9


@pytest.mark.parametrize("lag", [-7, 0, 7])
def test_the_sound_is_put_off_by_the_lag(tmp_path, lag):
    from scipy.io import wavfile

    folder, step = SubjectFolder(tmp_path / "a"), SAMPLE_RATE // FPS
    samples = np.repeat(np.arange(100) / 200, step).astype(np.float32)  # each frame says its number
    write_audio(folder, samples, 90, start=10, lag=lag)
    _, written = wavfile.read(folder.audio)
    assert len(written) == 90 * step
    heard = np.round(written.reshape(90, step)[:, 5] / 32767 * 200)
    expected = np.arange(10, 100) - lag
    np.testing.assert_array_equal(heard, np.where((expected >= 0) & (expected < 100), expected, 0))


def test_findings_name_direction_and_remedy():
    check = Check()
    judge_lag(check, Lag(11, 0.5, 0.3))
    judge_lag(check, Lag(-4, 0.5, 0.3))
    judge_lag(check, Lag(1, 0.5, 0.3))
    late, early, fine = map(str, check.findings)
    assert "11 frames (440 ms) late" in late and "--fix-lag" in late and "4 frames (160 ms) early" in early
    assert check.findings[2].level is Level.FINE and "go together" in fine and check.verdict == "usable"
    judge_sound(check, np.zeros(32000, np.float32))
    assert check.verdict == "not usable"


def test_fix_lag_reaches_the_sound_and_the_manifest(clip, tmp_path, monkeypatch):
    from instag.data_utils import ingest, pipeline
    from instag.data_utils.process import process

    monkeypatch.setattr(pipeline, "STEPS", tuple(s for s in pipeline.STEPS if s.name in ("survey", "video", "audio")))
    monkeypatch.setattr(ingest, "lag_of", lambda landmarks, samples: Lag(6, 0.6, 0.4))
    plain = process(clip, tmp_path / "a", size=64, workers=1).audio.read_bytes()
    assert "6 frames (240 ms) late" in (tmp_path / "a" / "subject.json").read_text()
    fixed = process(clip, tmp_path / "a", fix_lag=True, workers=1).audio.read_bytes()
    given = process(clip, tmp_path / "a", lag=6, workers=1).audio.read_bytes()
    assert fixed == given != plain
    facts = json.loads((tmp_path / "a" / "subject.json").read_text())
    assert facts["lag"] == {"measured": 6, "correlation": 0.6, "margin": 0.4, "corrected": 6}
    assert process(clip, tmp_path / "a", workers=1).audio.read_bytes() == plain  # the choice is not remembered
