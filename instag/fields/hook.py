"""Face-mouth hook: how far the face opens, as the mouth's condition (paper Eq. 10, METHOD.md section 4)."""

from __future__ import annotations

import torch
from torch import Tensor

HOOK_RANK = 10  # k-th largest and smallest instead of the extremes, against outliers
HOOK_UNIT = 100.0  # phi is in hundredths of a head unit
VERTICAL = 1  # world y


def hook_displacement(d_mean: Tensor, rank: int = HOOK_RANK) -> Tensor:
    """phi = 100 {max, min, max - min} of the face's vertical motion, detached from the face.

    Args:
        d_mean: [B, N, 3] face motion, head units.
        rank: k; "max" is the k-th largest and "min" the k-th smallest over the Gaussians (at most N).

    Returns:
        [B, 3].
    """
    vertical = HOOK_UNIT * d_mean.detach()[..., VERTICAL]  # [B, N]
    rank = min(rank, vertical.shape[1])
    highest = vertical.topk(rank, dim=1).values[:, -1]
    lowest = vertical.topk(rank, dim=1, largest=False).values[:, -1]
    return torch.stack([highest, lowest, highest - lowest], 1)
