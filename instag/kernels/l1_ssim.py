"""L1 + weight * (1 - SSIM) on the GPU in two kernels: twin of `instag.losses.photometric_torch`."""

from __future__ import annotations

import torch
from gaussian_rasterization.cuda import loader
from torch import Tensor
from torch.autograd.function import once_differentiable

from instag.kernels import modules
from instag.losses import DSSIM_WEIGHT

TILE = 32
THREADS = 256
FILE = "l1_ssim.cu"


def photometric_cuda(render: Tensor, target: Tensor, weight: float = DSSIM_WEIGHT) -> Tensor:
    """Mean absolute difference + weight * (1 - mean SSIM) of [..., H, W] in [0, 1]; gradient to `render` alone."""
    return photometric_parts(render, target, weight).sum()


def photometric_parts(render: Tensor, target: Tensor, weight: float = DSSIM_WEIGHT) -> Tensor:
    """`photometric_cuda` in parts [P] that are to be summed (`instag.losses.total`)."""
    return _L1Ssim.apply(render.contiguous(), target.detach().contiguous(), weight)


class _L1Ssim(torch.autograd.Function):
    @staticmethod
    def forward(ctx, render, target, weight):
        *_, height, width = render.shape
        planes = render.numel() // (height * width)
        ctx.size = (height, width)
        ctx.grid = (-(-width // TILE), -(-height // TILE), planes)
        ctx.weights = (1.0 / render.numel(), weight / render.numel())
        slopes = torch.empty(3, planes, height, width, device=render.device)
        partial = torch.empty(ctx.grid[0] * ctx.grid[1] * planes, device=render.device)
        _module(render).launch(
            "l1_ssim_forward", ctx.grid, THREADS, *ctx.size, *ctx.weights, render, target, slopes, partial
        )
        ctx.save_for_backward(render, target, slopes)
        return partial

    @staticmethod
    @once_differentiable
    def backward(ctx, d_loss):  # uniform, since the parts are summed
        render, target, slopes = ctx.saved_tensors
        d_render = torch.empty_like(render)
        _module(render).launch(
            "l1_ssim_backward", ctx.grid, THREADS, *ctx.size, *ctx.weights, render, target, slopes, d_loss, d_render
        )
        return d_render, None, None


def _module(render: Tensor) -> loader.KernelModule:
    return modules.module(render.device, FILE).prepare("l1_ssim_forward", "l1_ssim_backward")
