"""Face over mouth over torso over background (METHOD.md section 6)."""

from __future__ import annotations

import torch.nn.functional as F
from gaussian_rasterization import RasterOutput
from torch import Tensor

from instag import kernels
from instag.data.frame import FrameBatch

DILATION = 13  # px at 512: window of the max-pooled mouth alpha
DILATION_SIZE = 512


def composite(face: RasterOutput, mouth: RasterOutput | None, background: Tensor, dilate: bool = False) -> Tensor:
    """Lay the branches, drawn on black, over a background.

    Args:
        face, mouth: images on black, i.e. colours premultiplied by alpha; the mouth may be missing.
        background: [B, 3, H, W] in [0, 1], torso over plate.
        dilate: widen the mouth alpha that weighs the background (the published scripts' option); it closes gaps
            between the lips at the price of a dark rim of up to half the window.

    Returns:
        [B, 3, H, W], not clamped.
    """
    if mouth is not None:
        alpha = mouth.alpha
        if dilate:
            window = max(3, round(DILATION * background.shape[-1] / DILATION_SIZE) | 1)  # odd
            alpha = F.max_pool2d(alpha, window, stride=1, padding=window // 2)
        background = mouth.color + (1 - alpha) * background
    return face.color + (1 - face.alpha) * background


def composite_frames(face: RasterOutput, mouth: RasterOutput | None, frames: FrameBatch) -> tuple[Tensor, Tensor]:
    """The branches over their frames' plates, and the frames: both [B, 3, H, W]; by one kernel where it applies."""
    if kernels.usable(face.color):
        from instag.kernels.composite import composite_frames_cuda  # needs the `gpu` extra

        return composite_frames_cuda(face, mouth, frames.pictures)
    return composite(face, mouth, frames.background), frames.image
