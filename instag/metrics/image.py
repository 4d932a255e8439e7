"""Image metrics: PSNR of the whole composite and of the true head, SSIM, LPIPS where its weights are installed.

METHOD.md section 8. Pictures are uint8 RGB [H, W, 3]; a clip's figure is the mean over its frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from instag.data.frame import to_float
from instag.data.layout import Label
from instag.losses import ssim
from instag.metrics.lpips import LPIPS

PEAK = 255.0
SMALLEST_MSE = 1e-10 * PEAK**2  # identical pictures count as 100 dB: a mean over frames stays finite
HEAD_LABELS = (Label.HEAD, Label.HAIR, Label.MOUTH)  # the head as the losses see it: skin, hair, inner mouth


def psnr(render: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB (at most 100), over the pixels of a mask [H, W] where given.

    Not-a-number where the mask is empty.
    """
    error = (render.astype(np.float64) - truth.astype(np.float64)) ** 2
    if mask is not None:
        error = error[mask]
    if not error.size:
        return float("nan")
    return float(10 * np.log10(PEAK**2 / max(error.mean(), SMALLEST_MSE)))


def head_mask(labels: np.ndarray) -> np.ndarray:
    """Where the true head is, bool [H, W]: skin, hair and inner mouth of a label map."""
    return np.isin(labels, HEAD_LABELS)


@dataclass
class ImageMetrics:
    """Collects the image metrics of a clip frame by frame.

    Attributes:
        lpips: the network, or None: its figures are then absent.
        device: where SSIM and LPIPS run.
    """

    lpips: LPIPS | None = None
    device: torch.device | str = "cpu"
    _values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, render: np.ndarray, truth: np.ndarray, labels: np.ndarray) -> None:
        """One more frame: two pictures uint8 [H, W, 3] and the true label map [H, W]."""
        head = head_mask(labels)
        self._append("psnr", psnr(render, truth))
        self._append("psnr_face", psnr(render, truth, head))
        a, b = self._tensor(render), self._tensor(truth)
        self._append("ssim", float(ssim(a, b)))
        if self.lpips is not None:
            self._append("lpips", float(self.lpips(a, b).mean()))
            shown = torch.from_numpy(head).to(a.device)[None, None]
            self._append("lpips_face", float(self.lpips(a * shown, b * shown).mean()))

    def summary(self) -> dict[str, float]:
        """Means over the frames by name: psnr, psnr_face (dB), ssim, and lpips, lpips_face where it is on."""
        return {name: float(np.nanmean(values)) for name, values in self._values.items() if np.isfinite(values).any()}

    def per_frame(self, name: str) -> list[float]:
        """Values of one metric, frame by frame."""
        return list(self._values.get(name, ()))

    def _append(self, name: str, value: float) -> None:
        self._values.setdefault(name, []).append(value)

    def _tensor(self, picture: np.ndarray) -> Tensor:
        """uint8 [H, W, 3] -> [1, 3, H, W] in [0, 1]."""
        return to_float(torch.from_numpy(np.ascontiguousarray(picture))[None].to(self.device))
