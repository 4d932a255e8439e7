"""The acoustic model: scores against a plain evaluation and against PocketSphinx itself, damaged files."""

import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from audio_sounds import babble

from instag.audio import acoustic_model as am
from instag.audio.cepstra import cepstra, with_deltas
from instag.audio.features import prepare_samples
from instag.errors import DataError, InstagError


@pytest.fixture(scope="module")
def acoustic_model() -> am.AcousticModel:
    return am.load_acoustic_model()


def test_the_model_is_the_one_that_is_described(acoustic_model):
    assert len(acoustic_model.phones) == len(set(acoustic_model.phones)) == 42
    assert {"SIL", "AA", "M", "ZH", "+SPN+"} <= set(acoustic_model.phones)
    sums = acoustic_model.weights.sum(axis=-1)
    assert sums.min() > 0.9 and sums.max() <= 1.0  # 8-bit weights: notes/AUDIO.md section 4


def test_scores_equal_a_plain_double_precision_evaluation(acoustic_model):
    folder = am.default_model_folder()
    means, variances = (am.read_gaussians(folder / name).astype(float) for name in ("means", "variances"))
    weights = np.exp(am.read_log_weights(folder / "sendump").astype(float))
    features = np.random.default_rng(0).normal(size=(am.FRAMES_PER_BLOCK + 3, 39)) * ([8] * 13 + [3] * 26)
    features[0] *= 4  # far from every density
    for frame in (0, 5, am.FRAMES_PER_BLOCK + 2):
        states = np.zeros((42, 3))
        for stream in range(3):
            x = features[frame, 13 * stream : 13 * stream + 13]
            variance = np.maximum(variances[:, stream], 1e-4)
            density = -0.5 * ((x - means[:, stream]) ** 2 / variance + np.log(2 * np.pi * variance)).sum(-1)
            states += np.log((weights[stream] * np.exp(density - density.max(-1, keepdims=True))[:, None]).sum(-1))
            states += density.max(-1, keepdims=True)
        expected = np.log(np.exp(states - states.max()).sum(1)) + states.max()
        np.testing.assert_allclose(acoustic_model.log_likelihoods(features)[frame], expected, rtol=1e-5, atol=2e-3)


def test_agreement_with_pocketsphinx_itself(acoustic_model, tmp_path):
    """Its decoder dumps its own cepstra and scores; it keeps 4 densities in 8 bits, so some best phones differ."""
    from pocketsphinx import Decoder, get_model_path

    samples = prepare_samples(babble(3))
    decoder = Decoder(
        lm=None,
        allphone=str(Path(get_model_path()) / "en-us" / "en-us-phone.lm.bin"),
        mfclogdir=str(tmp_path),
        senlogdir=str(tmp_path),
        compallsen=True,
        loglevel="FATAL",
    )
    decoder.start_utt()
    decoder.process_raw(samples.astype("<i2").tobytes(), full_utt=True)
    decoder.end_utt()
    theirs = np.frombuffer(next(tmp_path.glob("*.mfc")).read_bytes(), ">f4", offset=4).reshape(-1, 13)
    ours = cepstra(samples)
    frames = min(len(ours), len(theirs))
    assert abs(len(ours) - len(theirs)) <= 1
    for k in range(13):
        assert np.corrcoef(ours[:frames, k], theirs[:frames, k])[0, 1] > 0.98

    dump = next(tmp_path.glob("*.sen")).read_bytes().partition(b"endhdr\n")[2][4:]
    states = np.frombuffer(dump, "<i2").reshape(-1, 5127)[:, 1:127]  # a count, then costs, context-independent first
    their_phone = states.reshape(-1, 42, 3).min(axis=2).argmin(axis=1)[:frames]
    our_phone = acoustic_model.log_likelihoods(with_deltas(ours - ours.mean(axis=0))).argmax(axis=1)[:frames]
    agreement = np.mean(their_phone == our_phone)
    assert agreement > 0.7
    assert agreement > np.mean(their_phone[1:] == our_phone[:-1]) + 0.2  # and not one frame late


@pytest.fixture
def model_copy(tmp_path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(am.default_model_folder(), folder)
    return folder


def overwrite(path: Path, position: int, content: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[position : position + len(content)] = content
    path.write_bytes(bytes(data))


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


DAMAGE = {
    "means: a flipped bit": ("means", lambda p: overwrite(p, 500_001, b"\x55")),
    "means: cut": ("means", lambda p: cut(p, 400_000)),
    "means: only a header": ("means", lambda p: cut(p, 70)),
    "means: longer": ("means", lambda p: p.write_bytes(p.read_bytes() + b"1234")),
    "variances: not s3": ("variances", lambda p: overwrite(p, 0, b"xx")),
    "variances: other sizes": ("variances", lambda p: overwrite(p, 0x2C, struct.pack("<i", 41))),
    "variances: missing": ("variances", lambda p: p.unlink()),
    "mdef: not a definition": ("mdef", lambda p: overwrite(p, 0, b"ELF!")),
    "mdef: empty": ("mdef", lambda p: p.write_bytes(b"")),
    "mdef: cut": ("mdef", lambda p: cut(p, 1500)),
    "mdef: negative length": ("mdef", lambda p: overwrite(p, 8, struct.pack("<i", -999_999))),
    "mdef: other phones": ("mdef", lambda p: overwrite(p, 12 + 1052, struct.pack("<i", 40))),
    "sendump: cut": ("sendump", lambda p: cut(p, 1_000_000)),
    "sendump: no end of header": ("sendump", lambda p: overwrite(p, 0, b"\xff\xff\xff\x7f")),
    "sendump: other features": ("sendump", lambda p: overwrite(p, 0x27D - 2, b"4")),
    "feat.params: another front end": ("feat.params", lambda p: p.write_text(p.read_text().replace("6800", "3500"))),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_model_is_named(case, model_copy):
    name, damage = DAMAGE[case]
    damage(model_copy / name)
    with pytest.raises(DataError, match=f"{name}: acoustic model unusable") as error:
        am.load_acoustic_model(model_copy)
    assert "\n" not in str(error.value)


def test_a_sound_copy_of_the_model_is_accepted(model_copy, acoustic_model):
    np.testing.assert_array_equal(am.load_acoustic_model(model_copy).quadratic, acoustic_model.quadratic)


def test_without_pocketsphinx_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(am.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InstagError, match="pip install 'pocketsphinx.*'mel'"):
        am.default_model_folder()


def test_ready_features_need_no_speech_or_video_package():
    code = (
        "import sys; from unittest.mock import MagicMock\n"
        "sys.modules |= {name: MagicMock() for name in ('torch', 'torch.nn', 'torch.nn.functional')}\n"  # slow to load
        "import instag.data.audio, instag.audio.norm as norm; norm.built_in_norms()\n"
        "assert not {'av', 'pocketsphinx', 'transformers', 'mediapipe', 'cv2'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[2])
