"""From sound to the features of an extractor, one row per 25 fps frame: the door of this package."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from instag.audio import phone_mel
from instag.audio.acoustic_model import load_acoustic_model
from instag.audio.io import read_audio
from instag.audio.mel import INT16_SCALE
from instag.audio.norm import FeatureNorm
from instag.data.audio import Extractor, check_features, get_extractor
from instag.data.layout import FPS, SAMPLE_RATE
from instag.errors import DataError
from instag.files import atomic_path, write_text

SAMPLES_PER_FRAME = SAMPLE_RATE // FPS
STEPS_PER_FRAME = 2  # 50 Hz features, 25 fps video
DITHER_SEED = 0
MODEL_EXTRACTORS = ("esperanto", "hubert")
READY_ONLY = {
    "deepspeech": "the DeepSpeech 0.1 network needs TensorFlow 1",
    "ave": "SyncTalk's audio-visual encoder is not part of this program",
}


def extract(
    source: Path | str | np.ndarray,
    extractor: str,
    mode: str | None = None,
    frames: int | None = None,
    *,
    norm: FeatureNorm | None = None,
    model: Path | str | None = None,
    device: str = "cpu",
) -> tuple[np.ndarray, FeatureNorm]:
    """Make the features of one extractor from sound.

    source: a file (`read_audio`), or samples [S], float, mono, 16 kHz, in [-1, 1].
    mode: kind of normalisation, `file` (default) or `running`; the networks know `file` alone.
    frames: T, where something else sets it (the video); default `frame_count`. Beyond the sound's end the last step is
        repeated (`phone-mel`, `mel`) or silence is heard (networks).
    norm: constants to use, as stored in an avatar; default `FeatureNorm.default`. It also sets the mode.
    model: folder or hub name of the network for `esperanto` and `hubert`, folder of the acoustic model for `phone-mel`;
        default: the published network, the model inside the package pocketsphinx. device: where a network runs.
    Returns features float32 [T, W, D], standardised, and the norm that was used.
    Raises DataError: unreadable sound, unknown or ready-only extractor, mode and norm that do not fit.
    """
    kind = get_extractor(extractor)
    if extractor in READY_ONLY:
        raise DataError(
            f"{extractor} features cannot be made from sound here ({READY_ONLY[extractor]}): "
            f"put a ready {kind.files[0]} of shape [T, {kind.frame_shape[0]}, {kind.frame_shape[1]}] beside the video"
        )
    norm = _choose_norm(extractor, mode, norm)
    samples = read_audio(source) if isinstance(source, (str, Path)) else _check_samples(source)
    count = frame_count(len(samples)) if frames is None else frames
    if count < 1:
        raise DataError(f"cannot make {count} frames of audio features; ask for at least 1")
    if extractor in MODEL_EXTRACTORS:
        from instag.audio.huggingface import speech_steps  # the optional extra is imported only when it is asked for

        steps = speech_steps(samples, count * STEPS_PER_FRAME, extractor, model, device)  # [2 T, D]
    elif extractor == "phone-mel":
        acoustic_model = load_acoustic_model(Path(model) if model is not None else None)
        steps = phone_mel.phone_mel(prepare_samples(samples), norm, acoustic_model)  # [K, 74]
    else:
        steps = phone_mel.mel_only(prepare_samples(samples), norm)  # [K, 32]
    return gather_steps(norm.standardise(steps), count, kind), norm


def save_features(path: Path | str, features: np.ndarray, norm: FeatureNorm) -> None:
    """Write features [T, W, D] as `.npy` and their norm beside it as `<stem>.norm.json`, each whole or not at all.

    Raises DataError: another ending than `.npy`, a shape that the norm's extractor does not have; InstagError: the
    folder cannot be written.
    """
    path = Path(path)
    if path.suffix != ".npy":
        raise DataError(f"{path}: audio features are written as .npy; give a name with that ending")
    features = check_features(features, norm.extractor, str(path))
    write_text(path.with_suffix(".norm.json"), norm.to_json())
    with atomic_path(path) as partial, partial.open("wb") as file:
        np.save(file, features)


def frame_count(samples: int) -> int:
    """Frames at 25 fps of that many samples at 16 kHz: floor(seconds * 25 + 1e-6), at least 1."""
    return max(int(samples / SAMPLE_RATE * FPS + 1e-6), 1)


def prepare_samples(samples: np.ndarray) -> np.ndarray:
    """Samples [S] in [-1, 1] -> float64 whole numbers on the int16 scale, dithered, at least one frame (640) long.

    The dither of -1, 0 or +1 is mandatory: digital silence breaks the acoustic model (notes/AUDIO.md section 3). Its
    seed is fixed and it depends on the sample's number alone, so the same sound gives the same features.
    """
    scaled = np.round(np.clip(samples, -1, 1).astype(np.float64) * INT16_SCALE)
    scaled = np.pad(scaled, (0, max(SAMPLES_PER_FRAME - len(scaled), 0)))
    return scaled + np.random.default_rng(DITHER_SEED).integers(-1, 2, len(scaled))


def gather_steps(steps: np.ndarray, frames: int, extractor: Extractor) -> np.ndarray:
    """Steps [K, D] at 50 Hz -> [T, W, D]: frame t takes 2t - before .. 2t - before + W - 1, ends by the pad rule."""
    first = np.arange(frames) * STEPS_PER_FRAME - extractor.steps_before
    index = first[:, None] + np.arange(extractor.steps)  # [T, W]
    gathered = steps[np.clip(index, 0, len(steps) - 1)]  # [T, W, D]
    if extractor.pad == "zeros":
        gathered[(index < 0) | (index >= len(steps))] = 0
    return gathered


def _choose_norm(extractor: str, mode: str | None, norm: FeatureNorm | None) -> FeatureNorm:
    if norm is None:
        norm = FeatureNorm.default(extractor, mode or "file")
    else:
        norm.require(extractor, mode or norm.mode, "audio norm")
    complete = FeatureNorm.default(extractor, norm.mode)
    if (len(norm.cmn_prior), len(norm.mel_mean)) != (len(complete.cmn_prior), len(complete.mel_mean)):
        raise DataError(f"audio norm of {extractor}: lacks the corpus priors; use FeatureNorm.default or a stored norm")
    if extractor in MODEL_EXTRACTORS and norm.mode != "file":
        raise DataError(f"{extractor} hears the whole sound: only the normalisation 'file' exists, not '{norm.mode}'")
    return norm


def _check_samples(samples: np.ndarray) -> np.ndarray:
    if samples.ndim != 1 or samples.size == 0 or samples.dtype.kind != "f" or not np.isfinite(samples).all():
        raise DataError(
            f"sound must be finite floats [S] in [-1, 1] at 16 kHz, got {samples.dtype} {list(samples.shape)}; "
            "use instag.audio.io.read_audio"
        )
    return samples
