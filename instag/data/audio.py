"""Audio conditions: the table of extractors, the feature files on disk and the windows around a frame.

METHOD.md section 2. This module needs numpy and torch alone: training and synthesis from ready features import no
speech package. Making features from sound is `instag.audio`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import numpy as np

from instag.errors import DataError

if TYPE_CHECKING:  # preprocessing starts without torch
    from torch import Tensor

WINDOW_BEFORE = 4  # frames t-4 .. t-1
WINDOW_AFTER = 4  # frames t .. t+3
WINDOW_FRAMES = WINDOW_BEFORE + WINDOW_AFTER

# What stands outside the sound when the steps of one frame are gathered: silence as zeros, or the nearest step again.
PadRule = Literal["zeros", "edge"]


@dataclass(frozen=True)
class Extractor:
    """One kind of audio feature: sizes, file names and layout (METHOD.md section 2)."""

    name: str
    width: int  # D, the channels that the audio network sees
    steps: int  # W, time steps of one frame
    files: tuple[str, ...]  # names below data/<ID>/, preferred first
    steps_before: int  # frame t starts at step 2t - steps_before of the extractor's 50 Hz (`ave`: is vector t)
    pad: PadRule  # at both ends of the sound, when those steps are gathered
    width_first: bool = False  # on disk [T, D, W] in place of [T, W, D]

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Shape of one frame on disk: (W, D), or (D, W) for `ave`."""
        return (self.width, self.steps) if self.width_first else (self.steps, self.width)

    @property
    def window_shape(self) -> tuple[int, int, int]:
        """Shape of one frame's condition for the audio network: (8, D, W), or (8, W, D) for `ave`."""
        rows, columns = self.frame_shape
        return WINDOW_FRAMES, columns, rows

    @property
    def norm_file(self) -> str:
        """Name of the JSON beside the features that holds their normalisation (`instag.audio.norm.FeatureNorm`)."""
        return Path(self.files[0]).stem + ".norm.json"


EXTRACTORS: MappingProxyType[str, Extractor] = MappingProxyType(
    {
        extractor.name: extractor
        for extractor in (
            # aud.npy in adaptation data, aud_ds.npy in pre-training data: the same content.
            Extractor("deepspeech", 29, 16, ("aud.npy", "aud_ds.npy"), steps_before=8, pad="zeros"),
            Extractor("esperanto", 44, 16, ("aud_eo.npy",), steps_before=8, pad="zeros"),
            Extractor("hubert", 1024, 2, ("aud_hu.npy",), steps_before=0, pad="zeros"),
            # The encoder gives one vector a frame; its input, not its output, was padded by 2 frames.
            Extractor("ave", 512, 1, ("aud_ave.npy",), steps_before=0, pad="edge", width_first=True),
            Extractor("phone-mel", 74, 16, ("aud_pm.npy",), steps_before=8, pad="edge"),
            Extractor("mel", 32, 16, ("aud_mel.npy",), steps_before=8, pad="edge"),
        )
    }
)
DEFAULT_EXTRACTOR = "phone-mel"


def get_extractor(name: str) -> Extractor:
    """Extractor of that name; DataError, naming the known ones, for any other."""
    if name not in EXTRACTORS:
        raise DataError(f"unknown audio extractor '{name}': choose one of {', '.join(EXTRACTORS)}")
    return EXTRACTORS[name]


def find_features(folder: Path | str, extractor: str) -> Path:
    """Path of an extractor's features below a subject folder, whichever of its file names is there.

    Raises DataError when none is.
    """
    kind = get_extractor(extractor)
    for name in kind.files:
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    names = " or ".join(kind.files)
    raise DataError(
        f"{folder}: no {names} ({extractor} features); make them with `instag features`, or copy them there"
    )


def load_features(path: Path | str, extractor: str) -> np.ndarray:
    """Read ready features from a `.npy` file.

    path: the file, or a subject folder in which the extractor's file names are tried in order.
    Returns float32 [T, W, D], one row per frame at 25 fps (`ave`: [T, 512, 1]); all values finite.
    Raises DataError with file, expected and found shape.
    """
    kind = get_extractor(extractor)
    path = Path(path)
    if path.is_dir():
        path = find_features(path, extractor)
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; make {extractor} features with `instag features`") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not a readable .npy array ({error}); make it anew with `instag features`") from None
    return check_features(array, kind.name, str(path))


def check_features(array: np.ndarray, extractor: str, source: str) -> np.ndarray:
    """The array as contiguous float32 after the checks of `load_features`; `source` is named in errors."""
    kind = get_extractor(extractor)
    rows, columns = kind.frame_shape
    found = list(getattr(array, "shape", ()))
    if not isinstance(array, np.ndarray) or array.ndim != 3 or array.shape[1:] != (rows, columns) or not len(array):
        expected = f"[T, {rows}, {columns}]"
        raise DataError(
            f"{source}: expected shape {expected} for {extractor}, found {found}; "
            "choose the extractor that made this file, or make the features anew"
        )
    if array.dtype.kind not in "fiu":
        raise DataError(f"{source}: expected numbers, found dtype {array.dtype}; make the features anew")
    array = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(array).all():
        frame = int(np.flatnonzero(~np.isfinite(array).all(axis=(1, 2)))[0])
        raise DataError(f"{source}: not-a-number or infinity in frame {frame}; make the features anew")
    return array


def audio_windows(features: np.ndarray | Tensor, frame_indices: int | Sequence[int] | np.ndarray | Tensor) -> Tensor:
    """Windows of frames t-4 .. t+3, zeros past both ends (METHOD.md section 2, "audio a").

    features: [T, W, D] (`ave`: [T, 512, 1]), numpy or torch. frame_indices: [B] whole numbers; anything outside the
    clip is silence (zeros), so nothing is read back from the device to check them.
    Returns [B, 8, D, W] (`ave`: [B, 8, 1, 512]), contiguous, on the device and in the dtype of the features.
    """
    import torch

    values = torch.as_tensor(features)  # [T, W, D]
    if values.ndim != 3 or len(values) == 0:
        raise ValueError(f"features must be [T, W, D] with T > 0, got {list(values.shape)}")
    centre = torch.as_tensor(frame_indices, device=values.device).long().reshape(-1)  # [B]
    offsets = torch.arange(-WINDOW_BEFORE, WINDOW_AFTER, device=values.device)  # [8]
    index = centre[:, None] + offsets  # [B, 8]
    outside = (index < 0) | (index >= len(values))  # [B, 8]
    windows = values[index.clamp(0, len(values) - 1)]  # [B, 8, W, D]
    windows = windows.masked_fill(outside[:, :, None, None], 0)
    return windows.transpose(2, 3).contiguous()  # [B, 8, D, W]


def window_table(features: Tensor, frames: int) -> Tensor:
    """All windows of a clip as a view [T, 8, D, W]: row t is `audio_windows` of frame t, for t < T = `frames`.

    features: [T', W, D]; what is missing up to T counts as silence. Rows share memory: do not copy the view whole.
    """
    from torch.nn.functional import pad

    after = max(0, frames - len(features)) + WINDOW_AFTER
    padded = pad(features.transpose(1, 2), (0, 0, 0, 0, WINDOW_BEFORE, after)).contiguous()  # [4 + T' + after, D, W]
    step, *inner = padded.stride()
    return padded.as_strided((frames, WINDOW_FRAMES, *padded.shape[1:]), (step, step, *inner))
