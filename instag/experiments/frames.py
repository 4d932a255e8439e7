"""Rendered frames in one small file: an AVIF sequence, which Pillow alone writes and reads.

The machine that trains may have no video library and little to send back; 512 px frames of a talking head take about
1.5 KB each. Figures of pixels are computed before this; landmarks are tracked after it, on truth and render alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from instag.errors import InstagError
from instag.files import atomic_path

QUALITY = 70  # of 100; about 39 dB
SPEED = 9  # of 0 (slow) .. 10
FRAME_MS = 40


def pillow():
    """Pillow's image module; InstagError where it cannot write AVIF."""
    from PIL import Image, features

    if not features.check("avif"):
        raise InstagError("this Pillow writes no AVIF: pip install 'pillow>=11.3'")
    return Image


def write_frames(path: Path, frames: Sequence[np.ndarray]) -> Path:
    """Write pictures uint8 RGB [H, W, 3] of one size, in order; returns the path."""
    image = pillow()
    first, *rest = (image.fromarray(np.ascontiguousarray(frame)) for frame in frames)
    with atomic_path(path) as temporary:
        first.save(
            temporary,
            format="AVIF",
            save_all=True,
            append_images=rest,
            quality=QUALITY,
            speed=SPEED,
            duration=FRAME_MS,
            max_threads=2,
        )
    return path


def read_frames(path: Path) -> Iterator[np.ndarray]:
    """The pictures of a file made by `write_frames`, uint8 RGB [H, W, 3]."""
    image = pillow()
    try:
        with image.open(path) as sequence:
            for k in range(getattr(sequence, "n_frames", 1)):
                sequence.seek(k)
                yield np.asarray(sequence.convert("RGB"))
    except OSError as error:
        raise InstagError(f"{path}: no frames of an ablation ({error}); run the row anew") from error
