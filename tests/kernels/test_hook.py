"""The hook's kernel, emulated and on a GPU, against its torch twin: the same bits."""

from __future__ import annotations

import pytest
import torch

from instag.fields.hook import HOOK_UNIT, VERTICAL, hook_torch


def made(kind: str, frames: int, gaussians: int) -> torch.Tensor:
    motion = torch.randn(frames, gaussians, 3, generator=torch.Generator().manual_seed(0))
    if kind == "ties":
        return (4 * motion).round() / 400
    if kind == "rest":
        return torch.zeros_like(motion)
    if kind == "one sided":
        return motion.abs() * torch.tensor([1.0, -1e-30, 1.0])
    if kind == "one column":  # the largest values all lie with one thread
        motion[:, ::1024] += 10 + torch.arange(len(motion[0, ::1024]))[:, None]
    if kind == "pair":  # as many values above the bound as are asked for
        motion[:] = 0
        motion[:, 0], motion[:, 1024] = 2, 1.5
    return motion


@pytest.mark.parametrize(
    ("kind", "frames", "gaussians"),
    [("normal", 2, 2500), ("ties", 1, 1500), ("rest", 1, 1100), ("one sided", 1, 1024), ("normal", 1, 7),
     ("one column", 1, 61500), ("pair", 1, 1100)],
)  # fmt: skip
def test_equals_torch(device, kind, frames, gaussians) -> None:
    from instag.kernels.hook import hook_cuda

    d_mean = made(kind, frames, gaussians).to(device)
    for rank in (1, 2, 10, torch.tensor([50], device=device)):
        assert torch.equal(hook_cuda(d_mean, rank, VERTICAL, HOOK_UNIT), hook_torch(d_mean, rank)), (kind, rank)
