"""Face-mouth hook on the GPU in one kernel: twin of `instag.fields.hook.hook_torch`."""

from __future__ import annotations

import torch
from torch import Tensor

from instag.kernels import modules

FILE = "hook.cu"
THREADS = 1024
HIGHEST_RANK = 50  # bounds what is kept in shared memory


def fits(gaussians: int, device: torch.device) -> bool:
    """Whether a block's shared memory holds what may have to be sorted out."""
    return _shared_bytes(gaussians) <= modules.shared_memory_limit(device)


def hook_cuda(d_mean: Tensor, rank: int | Tensor, component: int, unit: float) -> Tensor:
    """unit * {k-th largest, k-th smallest, difference} of one component over the Gaussians; no gradient.

    Args:
        d_mean: [B, N, 3] float32, N >= 1.
        rank: k of at most 50; an int64 tensor [1] stays on its device. Above N it counts as N.

    Returns:
        [B, 3].
    """
    frames, gaussians, components = d_mean.shape
    phi = torch.empty(frames, 3, device=d_mean.device)
    on_device = rank.contiguous() if isinstance(rank, Tensor) else None
    number = 0 if isinstance(rank, Tensor) else rank
    shared_bytes = _shared_bytes(gaussians)
    modules.module(d_mean.device, FILE).prepare("hook_select", shared_bytes=shared_bytes).launch(
        "hook_select", (frames,), THREADS, gaussians, components, number, min(HIGHEST_RANK, gaussians), unit,
        d_mean.detach().contiguous().view(-1)[component:], on_device, phi, shared_bytes=shared_bytes,
    )  # fmt: skip
    return phi


def _shared_bytes(gaussians: int) -> int:
    """Keys of the columns' best, and of all values of the columns that may lie above the bound."""
    return 4 * (THREADS + (HIGHEST_RANK - 1) * -(-gaussians // THREADS))
