"""What was done to features so that they are comparable: constants, their record, and the two per-sound norms.

Two named kinds (notes/AUDIO.md section 8). `file`: means and deviations of the whole sound. `running`: of the sound so
far, begun with a prior from the pre-training corpus, so that it works on a stream. Train and drive with the same kind.
After either, each dimension is standardised with fixed constants. `FeatureNorm` holds kind and constants; it travels
with features, checkpoints and avatars, and a mismatch is an error.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from instag.data.audio import get_extractor
from instag.errors import DataError

MODES = ("file", "running")
# Raise when the same sound gives other features than before: older avatars are then refused, not driven wrongly.
REVISION = 1
CONSTANTS_FILE = Path(__file__).with_name("norm.json")  # written by scripts/compute_audio_norm.py

CMN_PRIOR_FRAMES = 200  # at 100 Hz: the running mean starts as if 2 s of corpus had been heard
MEL_PRIOR_STEPS = 100  # at 50 Hz: likewise
FULL_TRUST_STEPS = 100  # steps of sound (2 s) from which `file` statistics replace the corpus prior entirely
MEL_STD_FLOOR = 0.5  # of the corpus deviation: a sound of mere noise is not blown up into lip motion
MEL_STD_OFFSET = 1e-2


@dataclass(frozen=True)
class FeatureNorm:
    """Kind and constants of the normalisation behind some features. Plain tuples: comparable, hashable, JSON."""

    extractor: str
    mode: str  # "file" or "running"
    mean: tuple[float, ...]  # [D], fixed standardisation (x - mean) / std
    std: tuple[float, ...]  # [D], positive
    cmn_prior: tuple[float, ...] = ()  # [13] cepstral mean of the corpus; `phone-mel` only
    mel_mean: tuple[float, ...] = ()  # [32] log-mel mean and
    mel_std: tuple[float, ...] = ()  # [32] within-clip deviation of the corpus; `phone-mel` and `mel` only
    revision: int = REVISION

    def __post_init__(self) -> None:
        width = get_extractor(self.extractor).width
        check_mode(self.mode)
        if len(self.mean) != width or len(self.std) != width or len(self.mel_mean) != len(self.mel_std):
            raise DataError(
                f"audio norm of {self.extractor}: {len(self.mean)} means and {len(self.std)} deviations for {width} "
                "dimensions; make the features anew with `instag features`"
            )
        numbers = np.array(self.mean + self.std + self.cmn_prior + self.mel_mean + self.mel_std, float)
        if not np.isfinite(numbers).all() or min(self.std + self.mel_std) <= 0:
            raise DataError(f"audio norm of {self.extractor}: constants must be finite, deviations positive")

    @classmethod
    def identity(cls, extractor: str, mode: str = "file") -> FeatureNorm:
        """No standardisation: the field's own extractors give their raw values to the network."""
        width = get_extractor(extractor).width
        return cls(extractor, mode, mean=(0.0,) * width, std=(1.0,) * width)

    @classmethod
    def default(cls, extractor: str, mode: str = "file") -> FeatureNorm:
        """Built-in constants: `norm.json` for `phone-mel` and `mel`, identity for the others."""
        check_mode(mode)
        if extractor in built_in_norms():
            return built_in_norms()[extractor][mode]
        return cls.identity(extractor, mode)

    def standardise(self, features: np.ndarray) -> np.ndarray:
        """(features - mean) / std over the last dimension D; float32 of the same shape."""
        return ((features - np.asarray(self.mean)) / np.asarray(self.std)).astype(np.float32)

    def require(self, extractor: str, mode: str, source: str) -> None:
        """Raise DataError unless this is the norm of that extractor and kind; `source` names whose norm this is."""
        if self.extractor != extractor:
            raise DataError(
                f"{source}: made for {self.extractor} audio features, got {extractor}; "
                f"use --audio-extractor {self.extractor}"
            )
        if self.mode != mode:
            raise DataError(
                f"{source}: made with '{self.mode}' audio normalisation, got '{mode}'; "
                f"make the features anew with '{self.mode}'"
            )
        if self.revision != REVISION:
            raise DataError(
                f"{source}: audio features of revision {self.revision}, this program makes revision {REVISION}; "
                "make the features and the avatar anew, or use the version of instag that made them"
            )

    def require_same(self, other: FeatureNorm, source: str, other_source: str) -> None:
        """Raise DataError unless both norms are equal to the last constant: then features are interchangeable."""
        self.require(other.extractor, other.mode, source)
        if self != other:
            raise DataError(
                f"{other_source}: its audio features were standardised with other constants than those in {source}; "
                "make the features anew with the norm stored there"
            )

    def to_dict(self) -> dict[str, Any]:
        """Strings, a whole number and lists of floats: for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any], source: str = "audio norm") -> FeatureNorm:
        """Inverse of `to_dict`; DataError naming `source` when a key is missing, unknown or ill-typed."""
        expected = {field.name for field in fields(cls)}
        if not isinstance(data, dict) or set(data) != expected:
            raise DataError(f"{source}: an audio norm must have the keys {', '.join(sorted(expected))}; make it anew")
        try:
            values = {k: tuple(map(float, v)) if isinstance(v, (list, tuple)) else v for k, v in data.items()}
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise DataError(f"{source}: ill-typed audio norm ({error}); make it anew") from None

    def to_json(self) -> str:
        """One line of JSON, as for safetensors metadata. Floats survive exactly."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str, source: str = "audio norm") -> FeatureNorm:
        """Inverse of `to_json`; DataError naming `source`."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise DataError(f"{source}: not JSON ({error}); make it anew") from None
        return cls.from_dict(data, source)


def check_mode(mode: str) -> None:
    """DataError for an unknown kind of normalisation."""
    if mode not in MODES:
        raise DataError(f"unknown audio normalisation '{mode}': choose one of {', '.join(MODES)}")


@lru_cache(maxsize=1)
def built_in_norms() -> dict[str, dict[str, FeatureNorm]]:
    """Constants shipped with the program: extractor -> kind -> norm."""
    data = json.loads(CONSTANTS_FILE.read_text(encoding="utf-8"))
    return {
        extractor: {mode: FeatureNorm.from_dict(norm, str(CONSTANTS_FILE)) for mode, norm in modes.items()}
        for extractor, modes in data.items()
    }


def trust_in_file(sounding: int) -> float:
    """Weight in 0..1 of a sound's own statistics against the corpus prior, by its steps (50 Hz) of sound.

    Two seconds of sound are needed for full weight. A shorter sound, or one of noise alone, would otherwise have its
    noise normalised into speech (notes/AUDIO.md section 3, probes; this blend is ours and was not measured there).
    """
    return min(sounding / FULL_TRUST_STEPS, 1.0)


def normalise_cepstra(values: np.ndarray, prior: np.ndarray, mode: str, trust: float) -> np.ndarray:
    """Cepstral mean normalisation: [J, 13] at 100 Hz, corpus mean [13] -> [J, 13]."""
    if mode == "file":
        return values - (trust * values.mean(axis=0) + (1 - trust) * prior)
    heard = np.arange(1, len(values) + 1)[:, None]
    return values - (np.cumsum(values, axis=0) + CMN_PRIOR_FRAMES * prior) / (heard + CMN_PRIOR_FRAMES)


def normalise_mel(bands: np.ndarray, mean: np.ndarray, std: np.ndarray, mode: str, trust: float) -> np.ndarray:
    """Mean and deviation normalisation of log-mel bands [K, 32] at 50 Hz, with corpus mean and std [32]."""
    if mode == "file":
        centre = trust * bands.mean(axis=0) + (1 - trust) * mean
        spread = trust * bands.std(axis=0) + (1 - trust) * std
    else:
        heard = np.arange(1, len(bands) + 1)[:, None] + MEL_PRIOR_STEPS
        # Deviations from the prior mean keep the sums of squares small.
        shifted = bands - mean
        drift = np.cumsum(shifted, axis=0) / heard
        power = (np.cumsum(shifted**2, axis=0) + MEL_PRIOR_STEPS * std**2) / heard
        centre = mean + drift
        spread = np.sqrt(np.maximum(power - drift**2, 0))
    return (bands - centre) / (np.maximum(spread, MEL_STD_FLOOR * std) + MEL_STD_OFFSET)
