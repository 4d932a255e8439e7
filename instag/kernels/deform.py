"""Deform and activate Gaussians in one kernel each way: twin of `GaussianField.deformed`, `opacities` and `sh`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from gaussian_rasterization.cuda import loader
from torch import Tensor
from torch.autograd.function import once_differentiable

from instag.kernels import modules

if TYPE_CHECKING:
    from instag.fields.structure import GaussianField

FILE = "deform.cu"
THREADS = 128
KERNELS = ("deform_forward", "deform_backward", "record_gradients")


def deform_cuda(
    structure: GaussianField,  # N Gaussians
    frames: int,
    d_mean: Tensor | None = None,  # [B, N, 3]
    d_scale: Tensor | None = None,  # [B, N, 3]
    d_rotation: Tensor | None = None,  # [B, N, 4]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Means [B, N, 3], active scales [B, N, 3], quaternions [B, N, 4], active opacities [B, N], sh [N, K, 3].

    A part of the deformation that is None counts as zero. float32 on CUDA.
    """
    offsets = [None if part is None else part.contiguous() for part in (d_mean, d_scale, d_rotation)]
    parameters = (
        structure.means, structure.scales_raw, structure.quaternions_raw, structure.opacities_raw, structure.sh_dc,
        structure.sh_rest,
    )  # fmt: skip
    return _Deform.apply(frames, *parameters, *offsets)


@torch.no_grad()
def record_gradients_cuda(d_projected: Tensor, radii: Tensor, gradient: Tensor, visible: Tensor) -> None:
    """Add |d_projected| [B, N, 2] where radii [B, N] int32 > 0 to `gradient` [N], and those views to `visible` [N]."""
    frames, count = radii.shape
    _module(radii.device).launch(
        "record_gradients", (loader.sizes_in_blocks(count, THREADS),), THREADS,
        count, frames, d_projected.contiguous(), radii, gradient, visible,
    )  # fmt: skip


class _Deform(torch.autograd.Function):
    @staticmethod
    def forward(ctx, frames, *inputs):
        means, scales_raw, _, opacities_raw, _, sh_rest, _, d_scale, _ = inputs
        count, rest = len(means), 3 * sh_rest.shape[1]
        ctx.frames, ctx.rest = frames, rest
        ctx.shapes = [None if each is None else each.shape for each in inputs]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(scales_raw, opacities_raw, d_scale)
        shapes = (
            (frames, count, 3),
            (frames, count, 3),
            (frames, count, 4),
            (frames, count),
            (count, 1 + rest // 3, 3),
        )
        outputs = tuple(torch.empty(shape, device=means.device) for shape in shapes)
        _module(means.device).launch(
            "deform_forward", (loader.sizes_in_blocks(count, THREADS),), THREADS, count, frames, rest, *inputs, *outputs
        )
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx, *d_outputs):
        scales_raw, opacities_raw, d_scale = ctx.saved_tensors
        d_outputs = [None if each is None else each.contiguous() for each in d_outputs]
        wanted = [
            torch.empty(shape, device=scales_raw.device) if needed else None
            for shape, needed in zip(ctx.shapes, ctx.needs_input_grad[1:], strict=True)
        ]
        count = len(scales_raw)
        _module(scales_raw.device).launch(
            "deform_backward", (loader.sizes_in_blocks(count, THREADS),), THREADS,
            count, ctx.frames, ctx.rest, scales_raw, opacities_raw, d_scale, *d_outputs, *wanted,
        )  # fmt: skip
        return None, *wanted


def _module(device: torch.device) -> loader.KernelModule:
    return modules.module(device, FILE).prepare(*KERNELS)
