"""The English acoustic model that the `pocketsphinx` wheel carries, read as plain data and evaluated in numpy.

A phonetically tied mixture model: 42 phones, each with a codebook of 128 diagonal Gaussians in each of 3 feature
streams (cepstra, deltas, second deltas), and 3 states that weigh the densities of their phone's codebook. Only the
context-independent states are used. Neither the decoder nor its compiled module is imported.

Files (little-endian): `means`, `variances` ("s3" arrays), `mdef` (phone names, state numbers), `sendump` (8-bit mixture
weights), `feat.params` (front end). Licence of the model: BSD 2-clause, Carnegie Mellon University / Alpha Cephei.
"""

from __future__ import annotations

import importlib.util
import os
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from instag.errors import DataError, InstagError

PHONES = 42
STATES = 3  # emitting states a phone
STREAMS = 3
DENSITIES = 128  # a codebook and stream
CEPSTRA = 13  # dimensions a stream
VARIANCE_FLOOR = 1e-4
LOG_WEIGHT_STEP = 1024 * np.log(1.0001)  # a weight byte v stands for exp(-v * this): log base 1.0001, shifted 10 bits
SILENCE = "SIL"

# The front end of `instag.audio.cepstra`; a model made with another one would give nonsense without an error.
FRONT_END = {
    "-lowerf": "130",
    "-upperf": "6800",
    "-nfilt": "25",
    "-transform": "dct",
    "-lifter": "22",
    "-feat": "1s_c_d_dd",
    "-svspec": "0-12/13-25/26-38",
    "-agc": "none",
    "-varnorm": "no",
    "-remove_noise": "yes",
}

FRAMES_PER_BLOCK = 64  # frames scored together: the working set, 64 * 5376 floats, stays in the cache


@dataclass(frozen=True)
class AcousticModel:
    """Context-independent part of the model, arranged for scoring."""

    phones: tuple[str, ...]  # 42 names, e.g. "AA", "SIL", "+NSN+"
    quadratic: np.ndarray  # [3, 42 * 128, 27] float32: coefficients of (x^2, x, 1) in each log density
    weights: np.ndarray  # [3, 42, 3, 128] float32 mixture weights: stream, phone, state, density

    def log_likelihoods(self, features: np.ndarray) -> np.ndarray:
        """Log-likelihood of each phone: features [T, 39] (cepstra, deltas, second deltas) -> float32 [T, 42].

        Sum over streams of log sum_k w_k N_k per state, then log-sum-exp over the 3 states (notes/AUDIO.md section 8).
        """
        scores = np.empty((len(features), PHONES), np.float32)
        for start in range(0, len(features), FRAMES_PER_BLOCK):
            block = features[start : start + FRAMES_PER_BLOCK]
            scores[start : start + FRAMES_PER_BLOCK] = self._score_block(block)
        return scores

    def _score_block(self, features: np.ndarray) -> np.ndarray:  # [T, 39] -> [T, 42]
        states = np.zeros((PHONES, STATES, len(features)), np.float32)
        for stream in range(STREAMS):
            x = features[:, stream * CEPSTRA : (stream + 1) * CEPSTRA].T  # [13, T]
            basis = np.concatenate([x * x, x, np.ones_like(x[:1])]).astype(np.float32)  # [27, T]
            density = (self.quadratic[stream] @ basis).reshape(PHONES, DENSITIES, -1)  # [42, 128, T]
            best = density.max(axis=1, keepdims=True)  # [42, 1, T]
            density -= best
            np.exp(density, out=density)
            mixture = self.weights[stream] @ density  # [42, 3, T]
            states += np.log(np.maximum(mixture, np.finfo(np.float32).tiny)) + best
        return np.logaddexp.reduce(states, axis=1).T


def default_model_folder() -> Path:
    """Folder of the en-us model inside the installed `pocketsphinx` package (or below POCKETSPHINX_PATH, as there).

    Found without importing the package: its compiled module and its sound library are not needed.
    """
    override = os.environ.get("POCKETSPHINX_PATH")
    if override:
        return Path(override) / "en-us" / "en-us"
    spec = importlib.util.find_spec("pocketsphinx")
    if spec is None or not spec.submodule_search_locations:
        raise InstagError(
            "phone-mel features need the model inside the package pocketsphinx, which is not installed: "
            "pip install 'pocketsphinx>=5.0.4,<6', or use the extractor 'mel'"
        )
    return Path(spec.submodule_search_locations[0]) / "model" / "en-us" / "en-us"


@lru_cache(maxsize=2)
def load_acoustic_model(folder: Path | None = None) -> AcousticModel:
    """Read the model, once per folder (default: `default_model_folder()`).

    Raises DataError naming the file that is missing or damaged, InstagError when pocketsphinx is not installed.
    """
    folder = folder or default_model_folder()
    _check_front_end(folder / "feat.params")
    phones = read_phone_names(folder / "mdef")
    means = read_gaussians(folder / "means")
    variances = read_gaussians(folder / "variances")
    if (variances < 0).any():
        raise _damaged(folder / "variances", "negative variance")
    log_weights = read_log_weights(folder / "sendump")
    return AcousticModel(phones, _quadratic(means, np.maximum(variances, VARIANCE_FLOOR)), np.exp(log_weights))


def read_gaussians(path: Path) -> np.ndarray:
    """Means or variances of all codebooks from an "s3" file: float32 [42, 3, 128, 13]. The checksum is verified."""
    data = _read(path)
    header, separator, body = data.partition(b"endhdr\n")
    if not separator or not header.startswith(b"s3\n") or b"chksum0 yes" not in header:
        raise _damaged(path, "no s3 header with a checksum")
    if body[:4] != struct.pack("<I", 0x11223344):
        raise _damaged(path, "byte order mark missing")
    payload, checksum = body[4:-4], body[-4:]
    sizes = (PHONES, STREAMS, DENSITIES) + (CEPSTRA,) * STREAMS + (PHONES * STREAMS * DENSITIES * CEPSTRA,)
    found = struct.unpack(f"<{len(sizes)}i", payload[: 4 * len(sizes)].ljust(4 * len(sizes), b"\0"))
    if found != sizes:
        raise _damaged(path, f"sizes {list(found)} in place of {list(sizes)}")
    values = np.frombuffer(payload[4 * len(sizes) :], "u1")
    if values.size != 4 * sizes[-1]:
        raise _damaged(path, f"{values.size} bytes of values in place of {4 * sizes[-1]}")
    if _checksum(payload) != struct.unpack("<I", checksum)[0]:
        raise _damaged(path, "checksum does not agree")
    return values.view("<f4").astype(np.float32).reshape(PHONES, STREAMS, DENSITIES, CEPSTRA)


def read_phone_names(path: Path) -> tuple[str, ...]:
    """Names of the 42 phones from `mdef`, after checking that phone p owns states 3p, 3p+1, 3p+2."""
    data = _read(path)
    if data[:8] != b"BMDF" + struct.pack("<i", 1):
        raise _damaged(path, "not a version 1 binary model definition")
    try:
        (description,) = struct.unpack_from("<i", data, 8)
        offset = 12 + description
        phones, total, states, ci_states, senones, _, sequences, _, tree, _ = struct.unpack_from("<10i", data, offset)
        if (phones, states, ci_states) != (PHONES, STATES, PHONES * STATES) or senones < ci_states:
            raise _damaged(path, f"{phones} phones, {states} states, {ci_states} context-independent states")
        offset += 40
        first = offset
        names = []
        for _ in range(phones):
            end = data.index(b"\0", offset)
            names.append(data[offset:end].decode("ascii"))
            offset = end + 1
        offset += -(offset - first) % 4  # names are padded to whole words
        phone_table = offset + 8 * tree
        sequence_of_phone = np.frombuffer(data, "<i4", 3 * phones, phone_table).reshape(phones, 3)[:, 0]
        state_table = phone_table + 12 * total + 4
        state_numbers = np.frombuffer(data, "<u2", sequences * states, state_table).reshape(sequences, states)
        owned = state_numbers[sequence_of_phone]  # [42, 3]
    except (struct.error, ValueError, IndexError) as error:
        raise _damaged(path, f"ends early or is inconsistent: {error}") from None
    if not np.array_equal(owned, np.arange(PHONES * STATES).reshape(PHONES, STATES)) or SILENCE not in names:
        raise _damaged(path, "states are not in phone order")
    return tuple(names)


def read_log_weights(path: Path) -> np.ndarray:
    """Log mixture weights of the context-independent states from `sendump`: float32 [3, 42, 3, 128].

    The file has a list of header strings, each after its length and the last of length 0, then rows, columns and
    uint8 [3 streams][128 densities][senones], context-independent senones first.
    """
    data = _read(path)
    header: list[bytes] = []
    offset = 0
    try:
        while (length := struct.unpack_from("<i", data, offset)[0]) != 0:
            if not 0 < length <= len(data):
                raise _damaged(path, f"header string of length {length}")
            header.append(data[offset + 4 : offset + 4 + length].split(b"\0")[0])
            offset += 4 + length
        rows, senones = struct.unpack_from("<2i", data, offset + 4)
    except struct.error as error:
        raise _damaged(path, f"ends early: {error}") from None
    if b"cluster_count 0" not in header or b"feature_count 3" not in header:
        raise _damaged(path, "not the unclustered 3-stream kind")
    payload = data[offset + 12 :]
    if rows != DENSITIES or senones < PHONES * STATES or len(payload) != STREAMS * rows * senones:
        raise _damaged(path, f"{len(payload)} bytes for {rows} densities and {senones} states")
    levels = np.frombuffer(payload, "u1").reshape(STREAMS, rows, senones)[:, :, : PHONES * STATES]
    by_state = levels.transpose(0, 2, 1).reshape(STREAMS, PHONES, STATES, DENSITIES)
    return (by_state * -LOG_WEIGHT_STEP).astype(np.float32)


def _quadratic(means: np.ndarray, variances: np.ndarray) -> np.ndarray:  # 2 x [42, 3, 128, 13] -> [3, 42 * 128, 27]
    """Coefficients (a, b, c) of log N(x) = a . x^2 + b . x + c, computed in float64."""
    mean, variance = means.astype(np.float64), variances.astype(np.float64)
    square = -0.5 / variance
    linear = mean / variance
    constant = -0.5 * (mean * mean / variance + np.log(2 * np.pi * variance)).sum(-1, keepdims=True)
    coefficients = np.concatenate([square, linear, constant], axis=-1)  # [42, 3, 128, 27]
    by_stream = coefficients.transpose(1, 0, 2, 3).reshape(STREAMS, PHONES * DENSITIES, 2 * CEPSTRA + 1)
    return np.ascontiguousarray(by_stream, np.float32)


def _check_front_end(path: Path) -> None:
    words = _read(path).decode("ascii", "replace").split()
    found = dict(zip(words[::2], words[1::2], strict=False))
    for key, expected in FRONT_END.items():
        if found.get(key) != expected:
            raise _damaged(path, f"{key} is {found.get(key)}, this program evaluates {expected}")


def _checksum(payload: bytes) -> int:
    """Sphinx's checksum of little-endian words: rotate the sum left by 20 bits, add the word, modulo 2^32."""
    total = 0
    for word in np.frombuffer(payload, "<u4").tolist():
        total = (((total << 20) | (total >> 12)) + word) & 0xFFFFFFFF
    return total


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from None


def _damaged(path: Path, what: str) -> DataError:
    return DataError(
        f"{path}: acoustic model unusable ({what}); reinstall it: "
        "pip install --force-reinstall 'pocketsphinx>=5.0.4,<6'"
    )
