"""Compositing over the frames' plates in one kernel each way: twin of `instag.render.composite.composite`."""

from __future__ import annotations

import torch
from gaussian_rasterization import RasterOutput
from gaussian_rasterization.cuda import loader
from torch import Tensor
from torch.autograd.function import once_differentiable

from instag.data.frame import PictureRows
from instag.kernels import modules

FILE = "composite.cu"
THREADS = 256


def composite_frames_cuda(
    face: RasterOutput, mouth: RasterOutput | None, pictures: PictureRows
) -> tuple[Tensor, Tensor]:
    """The branches over B frames' plates, and the frames themselves: both [B, 3, H, W], the second in [0, 1]."""
    mouth_images = (None, None) if mouth is None else (mouth.color, mouth.alpha)
    image, target = _Composite.apply(pictures, face.color, face.alpha, *mouth_images)
    return image, target


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pictures, *images):
        face_color, *others = (None if each is None else each.contiguous() for each in images)
        views, _, height, width = face_color.shape
        ctx.pictures, ctx.pixels = pictures, height * width
        ctx.grid = (loader.sizes_in_blocks(ctx.pixels, THREADS), views)
        image, target = torch.empty_like(face_color), torch.empty_like(face_color)
        _module(image).launch(
            "composite_forward", ctx.grid, THREADS,
            ctx.pixels, pictures.plate, pictures.image, pictures.row, face_color, *others, image, target,
        )  # fmt: skip
        ctx.save_for_backward(*others)
        ctx.mark_non_differentiable(target)
        ctx.set_materialize_grads(False)  # no zeros for the target
        return image, target

    @staticmethod
    @once_differentiable
    def backward(ctx, d_image, _):
        others, d_image = ctx.saved_tensors, d_image.contiguous()
        wanted = [
            torch.empty_like(each) if needed else None
            for each, needed in zip(others, ctx.needs_input_grad[2:], strict=True)
        ]
        _module(d_image).launch(
            "composite_backward", ctx.grid, THREADS,
            ctx.pixels, ctx.pictures.plate, ctx.pictures.row, *others, d_image, *wanted,
        )  # fmt: skip
        return None, d_image if ctx.needs_input_grad[1] else None, *wanted


def _module(tensor: Tensor) -> loader.KernelModule:
    return modules.module(tensor.device, FILE).prepare("composite_forward", "composite_backward")
