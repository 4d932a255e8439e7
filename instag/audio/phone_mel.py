"""The default features: 42 phone posteriors beside 32 log-mel bands, 74 dimensions at 50 Hz (notes/AUDIO.md section 8).

Samples are on the int16 scale, 16 kHz, already dithered (`features.prepare_samples`): exact zeros break the model.
Look-ahead in `running` mode: 25 ms for the bands; for the posteriors 63 ms (half a frame 13, deltas 30, smoothing 10,
interpolation 10).
"""

from __future__ import annotations

import numpy as np

from instag.audio import cepstra, mel
from instag.audio.acoustic_model import AcousticModel
from instag.audio.norm import FeatureNorm, normalise_cepstra, normalise_mel, trust_in_file

SMOOTHING = (0.25, 0.5, 0.25)  # of posteriors at 100 Hz before they are read at 50 Hz


def phone_mel(samples: np.ndarray, norm: FeatureNorm, model: AcousticModel) -> np.ndarray:
    """Posteriors and normalised bands [K, 74] of samples [S], before standardisation; K steps at 50 Hz."""
    bands = mel.log_mel(samples)
    trust = trust_in_file(mel.sounding_steps(bands))
    frames = cepstra.cepstra(samples)
    centred = normalise_cepstra(frames, np.asarray(norm.cmn_prior), norm.mode, trust)
    posteriors = phone_posteriors(centred, len(bands), model)
    return np.concatenate([posteriors, normal_bands(bands, norm, trust)], axis=1)


def mel_only(samples: np.ndarray, norm: FeatureNorm) -> np.ndarray:
    """Normalised bands [K, 32] of samples [S], before standardisation."""
    bands = mel.log_mel(samples)
    return normal_bands(bands, norm, trust_in_file(mel.sounding_steps(bands)))


def normal_bands(bands: np.ndarray, norm: FeatureNorm, trust: float) -> np.ndarray:
    """Log-mel [K, 32] -> normalised by the norm's kind and corpus prior."""
    return normalise_mel(bands, np.asarray(norm.mel_mean), np.asarray(norm.mel_std), norm.mode, trust)


def phone_posteriors(centred: np.ndarray, steps: int, model: AcousticModel) -> np.ndarray:
    """Posteriors [steps, 42] at 50 Hz of mean-normalised cepstra [J, 13] at 100 Hz; each row sums to 1."""
    scores = model.log_likelihoods(cepstra.with_deltas(centred))  # [J, 42]
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    posteriors = scores / scores.sum(axis=1, keepdims=True)
    padded = np.pad(posteriors, ((1, 1), (0, 0)), mode="edge")
    before, here, after = SMOOTHING
    smooth = before * padded[:-2] + here * padded[1:-1] + after * padded[2:]
    return resample_steps(smooth, steps)


def resample_steps(values: np.ndarray, steps: int) -> np.ndarray:
    """Linear interpolation of cepstral frames [J, D], frame j at 0.0128 + j / 100 s, at k / 50 s; ends held."""
    times = np.arange(steps) / mel.STEP_RATE  # s
    position = np.clip((times - cepstra.FRAME_CENTRE) * cepstra.FRAME_RATE, 0, len(values) - 1)
    left = np.minimum(position.astype(np.int64), max(len(values) - 2, 0))
    right = np.minimum(left + 1, len(values) - 1)
    share = (position - left)[:, None]
    return (1 - share) * values[left] + share * values[right]
