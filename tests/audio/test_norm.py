"""The record of the normalisation, and the two per-sound norms."""

import json
from dataclasses import replace

import numpy as np
import pytest

from instag.audio import norm as nm
from instag.audio.norm import FeatureNorm, normalise_cepstra, normalise_mel
from instag.data.audio import EXTRACTORS
from instag.errors import DataError

rng = np.random.default_rng(0)


@pytest.mark.parametrize("extractor", EXTRACTORS)
def test_defaults_exist_and_survive_json_exactly(extractor):
    for mode in nm.MODES:
        norm = FeatureNorm.default(extractor, mode)
        assert (norm.extractor, norm.mode) == (extractor, mode)
        again = FeatureNorm.from_json(norm.to_json())
        assert again == norm and hash(again) == hash(norm)
        assert all(isinstance(v, (str, int, list)) for v in norm.to_dict().values())
        again.require_same(norm, "a", "b")


def test_identity_changes_nothing():
    features = rng.normal(size=(5, 16, 29)).astype(np.float32)
    np.testing.assert_array_equal(FeatureNorm.identity("deepspeech").standardise(features), features)


def test_standardise_is_per_dimension():
    norm = replace(FeatureNorm.identity("mel"), mean=tuple(range(32)), std=(2.0,) * 32)
    features = np.arange(32) + 4.0 * np.ones((3, 16, 32))
    np.testing.assert_array_equal(norm.standardise(features), np.full((3, 16, 32), 2, np.float32))


def test_mismatch_is_refused_and_named():
    norm = FeatureNorm.default("phone-mel")
    norm.require("phone-mel", "file", "avatar.safetensors")
    with pytest.raises(DataError, match="avatar.safetensors: made for phone-mel .*got mel"):
        norm.require("mel", "file", "avatar.safetensors")
    with pytest.raises(DataError, match="avatar.safetensors: made with 'file'.*'running'"):
        norm.require("phone-mel", "running", "avatar.safetensors")
    with pytest.raises(DataError, match="revision"):
        replace(norm, revision=nm.REVISION + 1).require("phone-mel", "file", "avatar.safetensors")
    other = replace(norm, mean=(norm.mean[0] + 1e-6, *norm.mean[1:]))
    with pytest.raises(DataError, match="aud_pm.npy.*other constants.*avatar.safetensors"):
        norm.require_same(other, "avatar.safetensors", "aud_pm.npy")


def test_ill_formed_records_are_refused():
    good = FeatureNorm.default("mel").to_dict()
    bad = [
        {**good, "mean": good["mean"][:-1]},
        {**good, "std": [0.0] * 32},
        {**good, "std": [-1.0] * 32},
        {**good, "mean": [float("nan")] * 32},
        {**good, "mode": "utterance"},
        {**good, "extractor": "mfcc"},
        {**good, "extractor": ["mel"]},
        {**good, "mean": "zero"},
        {**good, "mean": ["a"] * 32},
        {**good, "extra": 1},
        {key: value for key, value in good.items() if key != "mel_std"},
        [],
    ]
    for data in bad:
        with pytest.raises(DataError):
            FeatureNorm.from_dict(json.loads(json.dumps(data)), "x.json")
    with pytest.raises(DataError, match=r"x\.json: not JSON"):
        FeatureNorm.from_json("{", "x.json")


def test_file_norm_of_a_long_sound_ignores_the_corpus():
    cepstra, bands = rng.normal(3, 2, (400, 13)), rng.normal(-6, 1.5, (200, 32))
    centred = normalise_cepstra(cepstra, np.full(13, 99.0), "file", trust=1.0)
    np.testing.assert_allclose(centred.mean(axis=0), 0, atol=1e-9)
    normal = normalise_mel(bands, np.full(32, 99.0), np.full(32, 1.5), "file", trust=1.0)
    np.testing.assert_allclose(normal.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(normal.std(axis=0), 1, atol=0.01)


def test_file_norm_without_speech_uses_the_corpus_and_never_blows_noise_up():
    prior, mean, std = np.full(13, 5.0), np.full(32, -6.0), np.full(32, 1.5)
    np.testing.assert_allclose(normalise_cepstra(np.full((50, 13), 7.0), prior, "file", trust=0.0), 2.0)
    noise = -9 + 0.1 * rng.standard_normal((500, 32))
    assert normalise_mel(noise, mean, std, "file", trust=0.0).mean() == pytest.approx(-2, abs=0.05)
    for trust in (0.0, 1.0):
        assert normalise_mel(noise, mean, std, "file", trust=trust).std() < 0.15


def test_trust_grows_with_speech_and_ends_at_one():
    assert [nm.trust_in_file(n) for n in (0, 50, 100, 5000)] == [0.0, 0.5, 1.0, 1.0]


def test_running_norms_start_at_the_prior_hear_the_past_and_end_at_the_file():
    prior, mean, std = rng.normal(size=13), np.full(32, -6.0), np.full(32, 1.5)
    cepstra, bands = rng.normal(3, 2, (30_000, 13)), rng.normal(-5, 1.2, (30_000, 32))
    for values, run in (
        (cepstra, lambda v: normalise_cepstra(v, prior, "running", 1.0)),
        (bands, lambda v: normalise_mel(v, mean, std, "running", 1.0)),
    ):
        np.testing.assert_allclose(run(values)[:100], run(values[:100]), atol=1e-9)
    first = normalise_cepstra(cepstra, prior, "running", 1.0)[0]
    np.testing.assert_allclose(first, (cepstra[0] - prior) * 200 / 201)
    near = mean + 0.5 * std
    np.testing.assert_allclose(normalise_mel(near[None], mean, std, "running", 1.0)[0], 0.5 * 1.5 / 1.51, rtol=0.02)
    late = normalise_mel(bands, mean, std, "running", 1.0)[-1]
    np.testing.assert_allclose(late, normalise_mel(bands, mean, std, "file", 1.0)[-1], atol=0.05)


def test_running_mel_equals_its_definition():
    mean, std = np.full(32, -6.0), np.full(32, 1.5)
    bands = rng.normal(-4, 2, (40, 32))
    t = 27
    heard = bands[: t + 1]
    centre = (heard.sum(0) + 100 * mean) / (t + 1 + 100)
    power = ((heard**2).sum(0) + 100 * (std**2 + mean**2)) / (t + 1 + 100)
    expected = (bands[t] - centre) / (np.sqrt(power - centre**2) + 0.01)
    np.testing.assert_allclose(normalise_mel(bands, mean, std, "running", 1.0)[t], expected)
