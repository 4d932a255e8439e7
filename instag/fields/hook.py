"""Face-mouth hook: how far the face opens, as the mouth's condition (paper Eq. 10, METHOD.md section 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from instag import kernels

HOOK_RANK = 10  # k-th largest and smallest instead of the extremes, against outliers
HOOK_UNIT = 100.0  # phi is in hundredths of a head unit
VERTICAL = 1  # world y


HIGHEST_RANK = 50  # that may be asked for by a tensor


def hook_displacement(d_mean: Tensor, rank: int | Tensor = HOOK_RANK) -> Tensor:
    """phi = 100 {max, min, max - min} of the face's vertical motion, detached from the face.

    Args:
        d_mean: [B, N, 3] face motion, head units.
        rank: k; "max" is the k-th largest and "min" the k-th smallest over the Gaussians (at most N). A tensor [1] of
            at most HIGHEST_RANK stays on its device, so that a captured step may be replayed with another rank.

    Returns:
        [B, 3].
    """
    if kernels.usable(d_mean) and (isinstance(rank, Tensor) or rank <= HIGHEST_RANK):
        from instag.kernels.hook import fits, hook_cuda  # needs the `gpu` extra

        if fits(d_mean.shape[1], d_mean.device):
            return hook_cuda(d_mean, rank, VERTICAL, HOOK_UNIT)
    return hook_torch(d_mean, rank)


def hook_torch(d_mean: Tensor, rank: int | Tensor) -> Tensor:
    """`hook_displacement` in torch, any device."""
    vertical = HOOK_UNIT * d_mean.detach()[..., VERTICAL]  # [B, N]
    most = min(HIGHEST_RANK if isinstance(rank, Tensor) else rank, vertical.shape[1])
    highest, lowest = (vertical.topk(most, dim=1, largest=largest).values for largest in (True, False))  # [B, most]
    if isinstance(rank, Tensor):
        wanted = rank.clamp(max=most) - 1
        highest, lowest = highest.index_select(1, wanted), lowest.index_select(1, wanted)
    highest, lowest = highest[:, -1], lowest[:, -1]
    return torch.stack([highest, lowest, highest - lowest], 1)
