"""Negative contrast on the GPU, loss and gradient in one kernel: twin of `instag.losses.negative_contrast`."""

from __future__ import annotations

import torch
from gaussian_rasterization.cuda import loader
from torch import Tensor
from torch.autograd.function import once_differentiable

from instag.kernels import modules

THREADS = 256


def contrast_cuda(d_mean: Tensor, others: Tensor) -> Tensor:
    """sum_j mean(max(0, d_i . d_j)): d_mean [B, N, 3] of this identity, others [k, B, N, 3], no gradient into them."""
    return _Contrast.apply(d_mean.contiguous(), others.contiguous())


class _Contrast(torch.autograd.Function):
    @staticmethod
    def forward(ctx, d_mean, others):
        vectors = d_mean.numel() // 3
        blocks = loader.sizes_in_blocks(vectors, THREADS)
        slope, partial = torch.empty_like(d_mean), torch.empty(blocks, device=d_mean.device)
        modules.module(d_mean.device, "contrast.cu").launch(
            "contrast", (blocks,), THREADS, vectors, len(others), d_mean, others, slope, partial
        )
        ctx.save_for_backward(slope)
        return partial.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, d_loss):
        (slope,) = ctx.saved_tensors
        return slope * d_loss, None
