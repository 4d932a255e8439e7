"""Motion Aligner: where a new head's points are in the universal field, and how far they move (paper Eq. 8, 9)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from instag import kernels
from instag.fields.encoding import MLP, REFERENCE_FACE, GridRange, TriPlaneEncoding

OFFSET_UNIT = 0.01  # head units per unit of the network's output
SCALE_RANGE = 0.25  # tau_A lies in 1 +- 0.25
SCALE_SOFTNESS = 5.0


class Alignment(NamedTuple):
    """offset [N, 3] head units, added to the point that the motion field is asked at; scale [N, 3] of its d_mean."""

    offset: Tensor
    scale: Tensor


class MotionAligner(nn.Module):
    """mu -> (d_mu_A, tau_A) (METHOD.md section 4). The mouth uses the offset alone: there the hook scales.

    Args:
        encoding: its own tri-plane.
        hidden: width of its network.
        offset, scale: without one of them it is 0, or 1, everywhere (the paper's table 8).
    """

    def __init__(self, encoding: TriPlaneEncoding, hidden: int, offset: bool = True, scale: bool = True) -> None:
        super().__init__()
        self.encoding = encoding
        self.decoder = MLP(encoding.features, hidden, 6, layers=2)
        self.offset, self.scale = offset, scale

    def forward(self, x: Tensor) -> Alignment:
        """Alignment of points x [N, 3]; not detached, so the loss reaches the points through the offset."""
        points = self.encoding(x)  # [N, 36]
        alignment = self._fused(points)
        if alignment is None:
            offset, scale = self.decoder(points).split(3, -1)
            alignment = Alignment(OFFSET_UNIT * offset, 1 + SCALE_RANGE * torch.tanh(scale / SCALE_SOFTNESS))
        offset, scale = alignment
        return Alignment(
            offset if self.offset else torch.zeros_like(offset), scale if self.scale else torch.ones_like(scale)
        )

    def _fused(self, points: Tensor) -> Alignment | None:
        """The network behind the encoding in one kernel, where a GPU has it: points [N, 36]."""
        if not kernels.usable(points):
            return None
        from instag.kernels import motion_head  # needs the `gpu` extra

        head = motion_head.ALIGNER.get(len(self.decoder.layers[0].weight))
        if not motion_head.fits(points.device, points.shape[1], head):
            return None
        weights = motion_head.AlignerWeights(*(layer.weight for layer in self.decoder.layers))
        return Alignment(*motion_head.aligner_head_cuda(points, weights))


def build_face_aligner(grid: GridRange = REFERENCE_FACE, offset: bool = True, scale: bool = True) -> MotionAligner:
    """Aligner of the face."""
    return MotionAligner(TriPlaneEncoding(*grid), hidden=32, offset=offset, scale=scale)


def build_mouth_aligner(grid: GridRange = REFERENCE_FACE) -> MotionAligner:
    """Aligner of the mouth; its tri-plane has the face's range too (METHOD.md section 4)."""
    return MotionAligner(TriPlaneEncoding(*grid), hidden=16)
