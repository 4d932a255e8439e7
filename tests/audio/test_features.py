"""From sound to [T, W, D]."""

import time
from dataclasses import replace

import numpy as np
import pytest
from audio_sounds import babble, real_clip

from instag.audio import mel
from instag.audio.acoustic_model import AcousticModel, load_acoustic_model
from instag.audio.features import extract, frame_count, gather_steps, prepare_samples, save_features
from instag.audio.io import read_audio
from instag.audio.norm import FeatureNorm
from instag.audio.phone_mel import phone_mel
from instag.data.audio import EXTRACTORS, Extractor, check_features, load_features
from instag.errors import DataError, InstagError

RATE = 16_000


@pytest.fixture(scope="module")
def acoustic_model() -> AcousticModel:
    return load_acoustic_model()


@pytest.mark.parametrize("extractor", ["phone-mel", "mel"])
@pytest.mark.parametrize("mode", ["file", "running"])
def test_shape_type_norm_and_determinism(extractor, mode):
    sound = babble(2.5)
    features, norm = extract(sound, extractor, mode)
    assert features.shape == (62, *EXTRACTORS[extractor].frame_shape)
    check_features(features, extractor, "here")
    assert (norm.extractor, norm.mode) == (extractor, mode)
    again, _ = extract(sound.copy(), extractor, mode)
    np.testing.assert_array_equal(features, again)


def test_file_is_the_default_kind():
    sound = babble(1)
    assert extract(sound, "mel")[1] == FeatureNorm.default("mel", "file")


@pytest.mark.parametrize(
    ("samples", "frames"), [(1, 1), (639, 1), (640, 1), (1279, 1), (1280, 2), (160_000, 250), (159_999, 249)]
)
def test_frame_count(samples, frames):
    assert frame_count(samples) == frames


@pytest.mark.parametrize("samples", [1, 100, 640, 700, 1300])
def test_very_short_sounds_work(samples):
    sound = 0.1 * np.random.default_rng(0).standard_normal(samples)
    for extractor in ("phone-mel", "mel"):
        features, _ = extract(sound, extractor)
        assert features.shape[0] == frame_count(samples)
        assert np.isfinite(features).all()


def test_frames_cut_or_repeat_the_end():
    sound = babble(2)
    natural, _ = extract(sound, "phone-mel")
    short, _ = extract(sound, "phone-mel", frames=20)
    long, _ = extract(sound, "phone-mel", frames=70)
    np.testing.assert_array_equal(short, natural[:20])
    np.testing.assert_array_equal(long[:50], natural)
    assert (long[60:] == natural[-1, 9]).all()  # step 99, the last, is step 9 of frame 49: 2 * 49 - 8 + 9
    with pytest.raises(DataError, match="0 frames"):
        extract(sound, "mel", frames=0)


def test_steps_of_a_frame():
    steps = np.arange(100.0)[:, None]
    edge = gather_steps(steps, 50, EXTRACTORS["mel"])[:, :, 0]
    assert edge[20].tolist() == list(range(32, 48))  # 2 * 20 - 8 ..
    assert edge[0].tolist() == [0] * 8 + list(range(8))
    assert edge[49].tolist() == [*range(90, 100), *[99] * 6]
    zeros = gather_steps(steps + 1, 50, EXTRACTORS["esperanto"])[:, :, 0]
    assert zeros[0].tolist() == [0] * 8 + list(range(1, 9))
    assert zeros[49].tolist() == [*range(91, 101), *[0] * 6]
    hubert = gather_steps(steps, 50, EXTRACTORS["hubert"])[:, :, 0]
    assert hubert[[0, 49]].tolist() == [[0, 1], [98, 99]]


@pytest.mark.parametrize("extractor", ["phone-mel", "mel"])
def test_a_sound_moves_the_features_at_its_time(extractor):
    """A burst at 1.0 s is frame 25: steps 50, 51 stand at places 8, 9 of its window."""
    quiet = 1e-3 * np.random.default_rng(0).standard_normal(2 * RATE)
    burst = quiet.copy()
    burst[RATE : RATE + 480] += babble(1)[4000:4480] * 3
    change = np.abs(extract(burst, extractor, "running")[0] - extract(quiet, extractor, "running")[0])
    at_step = change[25].mean(axis=1)
    assert 8 <= at_step.argmax() <= 10
    assert change[:20].max() == 0 if extractor == "mel" else change[:18].max() < 1e-6


@pytest.mark.parametrize("mode", ["file", "running"])
def test_silence_is_silence(mode, acoustic_model):
    silence = acoustic_model.phones.index("SIL")
    rng = np.random.default_rng(1)
    sounds = {"zeros": np.zeros(4 * RATE), "noise at -70 dBFS": 10 ** (-70 / 20) * rng.standard_normal(4 * RATE)}
    for name, sound in sounds.items():
        norm = FeatureNorm.default("phone-mel", mode)
        posteriors = phone_mel(prepare_samples(sound), norm, acoustic_model)[:, :42]
        # The running mean slowly becomes that of the silence itself: there the bar is lower.
        bar = {"zeros": 0.85, "noise at -70 dBFS": 0.7}[name] - (0.15 if mode == "running" else 0)
        assert posteriors[:, silence].mean() > bar, name
        np.testing.assert_allclose(posteriors.sum(axis=1), 1, atol=1e-5)


def test_dither_is_what_saves_digital_silence(acoustic_model):
    norm = FeatureNorm.default("phone-mel")
    bare = phone_mel(np.zeros(2 * RATE), norm, acoustic_model)[:, acoustic_model.phones.index("SIL")]
    assert bare.mean() < 0.1


def test_dither_depends_on_the_place_alone():
    long, short = prepare_samples(np.zeros(5000)), prepare_samples(np.zeros(3000))
    np.testing.assert_array_equal(long[:3000], short)
    assert set(np.unique(long)) == {-1, 0, 1}
    assert abs(long.mean()) < 0.05
    assert prepare_samples(np.array([2.0, -2.0]))[:2] == pytest.approx([32768, -32768], abs=1)


def test_running_features_do_not_hear_the_future():
    whole, _ = extract(babble(4), "phone-mel", "running")
    part, _ = extract(babble(4)[: 2 * RATE], "phone-mel", "running")
    # Frame t looks at steps up to 2t + 7, each 63 ms ahead: 5 + 2 frames short of the cut they agree.
    np.testing.assert_allclose(part[:43], whole[:43], atol=1e-5)


def test_file_features_ignore_the_level_of_speech():
    loud, _ = extract(babble(6, level=0.2), "phone-mel")
    quiet, _ = extract(babble(6, level=0.2) / 4, "phone-mel")
    assert np.corrcoef(loud.ravel(), quiet.ravel())[0, 1] > 0.95


def test_statistics_of_a_file_norm(acoustic_model):
    """Six seconds are enough for the sound's own mean and deviation in every band."""
    bands = phone_mel(prepare_samples(babble(6)), FeatureNorm.default("phone-mel"), acoustic_model)[:, 42:]
    np.testing.assert_allclose(bands.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(bands.std(axis=0), 1, atol=0.02)


def test_a_stored_norm_is_used_and_a_wrong_one_refused():
    sound = babble(1)
    stored = replace(FeatureNorm.default("mel", "running"), mean=(1.0,) * 32)
    features, norm = extract(sound, "mel", norm=stored)
    assert norm == stored
    assert not np.allclose(features, extract(sound, "mel", "running")[0])
    with pytest.raises(DataError, match="got phone-mel"):
        extract(sound, "phone-mel", norm=stored)
    with pytest.raises(DataError, match="'running'.*'file'"):
        extract(sound, "mel", "file", norm=stored)
    with pytest.raises(DataError, match="corpus priors"):
        extract(sound, "phone-mel", norm=FeatureNorm.identity("phone-mel"))


def test_saved_features_come_back_with_their_norm(tmp_path):
    features, norm = extract(babble(1), "mel")
    save_features(tmp_path / "speech.npy", features, norm)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["speech.norm.json", "speech.npy"]
    np.testing.assert_array_equal(load_features(tmp_path / "speech.npy", "mel"), features)
    assert FeatureNorm.from_json((tmp_path / "speech.norm.json").read_text()) == norm
    for path, values in ((tmp_path / "speech.wav", features), (tmp_path / "other.npy", features[:, :, :5])):
        with pytest.raises(DataError, match=path.name):
            save_features(path, values, norm)
        assert not path.exists()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InstagError, match="speech"):
        save_features(tmp_path / "file" / "speech.npy", features, norm)


def test_what_cannot_be_made_is_said():
    sound = np.zeros(RATE)
    with pytest.raises(DataError, match=r"ave .*ready aud_ave\.npy of shape \[T, 512, 1\]"):
        extract(sound, "ave")
    with pytest.raises(DataError, match=r"deepspeech .*aud\.npy of shape \[T, 16, 29\]"):
        extract(sound, "deepspeech")
    with pytest.raises(DataError, match="unknown audio extractor 'mfcc'"):
        extract(sound, "mfcc")
    with pytest.raises(DataError, match="unknown audio normalisation 'utterance'"):
        extract(sound, "mel", "utterance")
    for bad in (np.zeros((2, RATE)), np.zeros(0), np.zeros(RATE, np.int16), np.full(RATE, np.nan)):
        with pytest.raises(DataError, match="sound must be finite floats"):
            extract(bad, "mel")


def test_a_real_clip(acoustic_model):
    samples = read_audio(real_clip("adapt/cnn2.mp4"))[: 6 * RATE]
    prepared = prepare_samples(samples)
    values = phone_mel(prepared, FeatureNorm.default("phone-mel"), acoustic_model)
    posteriors = values[:, :42]
    np.testing.assert_allclose(posteriors.sum(axis=1), 1, atol=1e-5)
    assert posteriors.min() >= 0
    emphasised = np.pad(prepared[1:] - 0.97 * prepared[:-1], 400)
    energy = np.array([np.log(np.square(emphasised[320 * k : 320 * k + 800]).sum()) for k in range(len(values))])
    loudness = np.logaddexp.reduce(2 * mel.log_mel(prepared), axis=1)
    assert np.corrcoef(loudness, energy)[0, 1] > 0.9
    silence = posteriors[:, acoustic_model.phones.index("SIL")]
    assert silence[energy < np.percentile(energy, 5)].mean() > 4 * silence[energy > np.percentile(energy, 50)].mean()
    features, _ = extract(samples, "phone-mel")
    assert features.shape == (150, 16, 74)
    assert abs(features.mean()) < 0.2 and 0.7 < features.std() < 1.4
    running, _ = extract(samples, "phone-mel", "running")
    assert np.corrcoef(features.ravel(), running.ravel())[0, 1] > 0.9


def test_speed(acoustic_model):
    """At most 30 ms a second of sound on one idle core; four times that is allowed on a busy one."""
    sound = babble(10)
    extract(sound, "phone-mel")
    start = time.process_time()
    extract(sound, "phone-mel")
    assert (time.process_time() - start) / 10 < 0.12


def test_extractor_pad_rules_are_known():
    assert all(isinstance(kind, Extractor) and kind.pad in ("zeros", "edge") for kind in EXTRACTORS.values())
