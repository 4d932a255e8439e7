"""Pictures and other files of the steps, written whole or not at all. Imports no torch: the workers start fast."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from instag.errors import DataError
from instag.files import PARTIAL, atomic_path

# Twice as fast as OpenCV's default for masks and torso layers (512 px: 2 and 5 ms). Run lengths alone would be a tenth
# smaller (masks: half), but take twice as long to read.
PNG_FAST = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT]
PNG_FLAT = list(PNG_FAST)  # for areas of one colour: read twice as fast
if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # OpenCV 4.12
    PNG_FAST += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
    PNG_FLAT += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]
JPEG_FINE = [cv2.IMWRITE_JPEG_QUALITY, 95]


def remove_leavings(root: Path) -> None:
    """Delete what killed runs left half-written below a folder."""
    for path in root.rglob(f".*{PARTIAL}.*"):
        path.unlink(missing_ok=True)


def write_image(path: Path, picture: np.ndarray, png: Sequence[int] = PNG_FAST) -> None:
    """Write uint8 [H, W], [H, W, 3] RGB or [H, W, 4] RGBA as PNG or JPEG, by the ending of the name.

    `png`: OpenCV's options, PNG_FAST or PNG_FLAT.
    """
    if picture.ndim == 3:  # OpenCV writes BGR(A)
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR if picture.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    done, data = cv2.imencode(path.suffix, picture, JPEG_FINE if path.suffix == ".jpg" else png)
    if not done:
        raise DataError(f"{path}: the picture cannot be encoded")
    with atomic_path(path) as partial:
        partial.write_bytes(data)


def read_image(path: Path) -> np.ndarray:
    """Read what `write_image` wrote: uint8, RGB or RGBA."""
    if not path.is_file():
        raise DataError(f"{path}: missing; run the preprocessing again with --force")
    picture = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise DataError(f"{path}: damaged; run the preprocessing again with --force")
    if picture.ndim == 2:
        return picture
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB if picture.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)


def save_arrays(path: Path, **arrays: np.ndarray) -> None:
    """`np.savez`, atomic."""
    with atomic_path(path) as partial:
        np.savez(partial, **arrays)
