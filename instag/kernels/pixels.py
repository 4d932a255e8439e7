"""Pixel terms and the compared images in a few kernels: twin of `instag.losses_pixels.compare_torch`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from gaussian_rasterization import RasterOutput
from gaussian_rasterization.cuda import loader
from torch import Tensor
from torch.autograd.function import once_differentiable

from instag.data.frame import FrameBatch
from instag.data.resident import StoredPrior
from instag.kernels import modules
from instag.losses_pixels import MOST_ATTENTION, AttentionRule, Compared, PixelRules

PIXELS, DEPTH = "pixels.cu", "depth_prior.cu"
THREADS, PIXELS_PER_THREAD = 256, 4
DEPTH_THREADS = 128
SUMS, VALUES, SLOPES, DEPTH_SLOPE = 9, 5, 7, 6  # see pixels.cu
ROW = 5  # see depth_prior.cu
NO_ATTENTION = AttentionRule("", 0, 0.0, 0.0)


def compare_cuda(image: RasterOutput, frames: FrameBatch, key: Tensor, rules: PixelRules) -> Compared:
    """`compare_torch` for float32 images on CUDA and, where there is a prior, one that is stored beside the frames.

    Raises:
        KernelError: more than two attention rules.
    """
    if len(rules.attention) > MOST_ATTENTION:
        raise loader.KernelError(f"{len(rules.attention)} attention rules: the kernel takes at most {MOST_ATTENTION}")
    extra = image.extra if rules.attention else None
    prior = frames.prior if isinstance(frames.prior, StoredPrior) else None
    call = _Call(frames, prior, key, rules)
    normal, depth = image.normal if call.normal else None, image.depth if call.depth else None
    render, target, *values = _Compare.apply(call, image.color, image.alpha, extra, normal, depth)
    names = ("alpha", *(rule.name for rule in rules.attention))
    terms = dict(zip(names, values, strict=False))
    if call.normal:
        terms["normal"] = values[1 + MOST_ATTENTION]
    if call.depth:
        terms["depth"] = values[2 + MOST_ATTENTION]
    return Compared(render if call.redraws else image.color, target, terms)


@dataclass(frozen=True)
class _Call:
    """What does not need a gradient."""

    frames: FrameBatch
    prior: StoredPrior | None
    key: Tensor
    rules: PixelRules

    @property
    def normal(self) -> bool:
        return self.prior is not None and self.rules.normal != 0

    @property
    def depth(self) -> bool:
        return self.prior is not None and self.rules.depth != 0

    @property
    def redraws(self) -> bool:
        """Whether the compared image is another than the branch's."""
        return bool(self.rules.painted or self.rules.matte)

    @property
    def pair(self) -> tuple[float, float, float, int, int, int]:
        """What wrong alpha weighs, over the frame and in the lips; regions that are shown, painted and opaque."""
        rules = self.rules
        shown = rules.shown & ~rules.painted if rules.matte else rules.shown
        weights = map(float, (rules.alpha, rules.matte, rules.matte_lips))
        return *weights, shown, rules.painted, rules.opaque

    @property
    def attention(self) -> tuple[AttentionRule, ...]:
        return (*self.rules.attention, NO_ATTENTION, NO_ATTENTION)[:MOST_ATTENTION]

    @property
    def regions(self) -> tuple[int, ...]:
        """Of attention and normals."""
        return (*(rule.region for rule in self.attention), self.rules.normal_region if self.normal else 0)

    @property
    def frame_labels(self) -> tuple[Tensor, Tensor, Tensor]:
        pictures = self.frames.pictures
        return pictures.labels, pictures.row, self.frames.lip_rectangle

    @property
    def normal_prior(self) -> tuple[Tensor | None, ...]:
        """Poses, stored normals, where they are valid, rows."""
        poses = self.frames.condition.camera.world_to_camera.contiguous()
        return (poses, self.prior.store.normal, self.prior.store.valid, self.prior.row) if self.normal else (None,) * 4

    @property
    def depth_prior(self) -> tuple[Tensor, ...]:
        """Stored depth, where it is valid, ranges, rows."""
        assert self.prior is not None
        store = self.prior.store
        return store.depth, store.valid, store.range, self.prior.row


class _Compare(torch.autograd.Function):
    """Render, target, and the values alpha, two attention terms, normal, depth."""

    @staticmethod
    def forward(ctx, call, color, alpha, extra, normal, depth):
        views, _, height, width = color.shape
        ctx.call, ctx.size, ctx.channels = call, (views, height, width), 0 if extra is None else extra.shape[1]
        blocks = loader.sizes_in_blocks(height * width, THREADS * PIXELS_PER_THREAD)
        color, alpha, extra, normal, depth = (
            None if each is None else each.contiguous() for each in (color, alpha, extra, normal, depth)
        )
        rules, pictures = call.rules, call.frames.pictures
        render = torch.empty_like(color) if call.redraws else None
        target = torch.empty_like(color)
        partial = torch.empty(views * blocks, SUMS, device=color.device)
        values = torch.empty(VALUES + SLOPES, device=color.device)
        labels, rows, rectangles = call.frame_labels
        pixels = _pixels(color.device)
        pixels.launch(
            "pixels_forward", (blocks, views), THREADS,
            height, width, ctx.channels, *call.pair, *call.regions,
            pictures.image, labels, rows, rectangles, call.key, color, alpha, extra, normal, *call.normal_prior,
            render, target, partial,
        )  # fmt: skip
        row_statistics, row_slopes, depth_partial = _depth_forward(call, depth) if call.depth else (None,) * 3
        weights = [number for rule in call.attention for number in (rule.audio, rule.eye)]
        pixels.launch(
            "pixels_finish", (1,), THREADS,
            views * blocks, 1 / (views * height * width), *map(float, weights), float(rules.normal),
            float(rules.depth), partial, views * height, depth_partial, values[:VALUES], values[VALUES:],
        )  # fmt: skip
        ctx.save_for_backward(depth, row_statistics, row_slopes, values[VALUES:])
        ctx.mark_non_differentiable(target)
        ctx.set_materialize_grads(False)
        return render, target, *values[:VALUES].unbind()

    @staticmethod
    @once_differentiable
    def backward(ctx, d_render, _, g_alpha, g_attention_0, g_attention_1, g_normal, g_depth):
        depth, row_statistics, row_slopes, slopes = ctx.saved_tensors
        call, (views, height, width) = ctx.call, ctx.size

        def wanted(which: int, channels: int) -> Tensor | None:
            if not ctx.needs_input_grad[which] or channels == 0:
                return None
            return torch.empty(views, channels, height, width, device=slopes.device)

        d_color = wanted(1, 3) if call.redraws else None
        d_alpha, d_extra, d_normal = wanted(2, 1), wanted(3, ctx.channels), wanted(4, 3 if call.normal else 0)
        d_render = None if d_render is None else d_render.contiguous()
        blocks = loader.sizes_in_blocks(height * width, THREADS * PIXELS_PER_THREAD)
        _pixels(slopes.device).launch(
            "pixels_backward", (blocks, views), THREADS,
            height, width, ctx.channels, *call.pair, *call.regions, call.frames.pictures.image, *call.frame_labels,
            *call.normal_prior, slopes, d_render, g_alpha, g_attention_0, g_attention_1, g_normal, d_color, d_alpha,
            d_extra, d_normal,
        )  # fmt: skip
        d_depth = None
        if call.depth and g_depth is not None and ctx.needs_input_grad[5]:
            d_depth = torch.empty_like(depth)
            _depth(slopes.device).launch(
                "depth_backward", (height, views), DEPTH_THREADS,
                height, width, call.rules.depth_region, depth, *call.depth_prior, *call.frame_labels,
                row_statistics, row_slopes, slopes[DEPTH_SLOPE], g_depth, d_depth,
            )  # fmt: skip
        return None, d_color, d_alpha, d_extra, d_normal, d_depth


def _depth_forward(call: _Call, depth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Statistics of the rows [B, H, 5], their slopes [B, H, 2], partial sums [B * H, 2]."""
    views, _, height, width = depth.shape
    rows, slopes, partial = (torch.empty(views * height, width, device=depth.device) for width in (ROW, 2, 2))
    module, grid = _depth(depth.device), (height, views)
    module.launch("depth_rows", grid, DEPTH_THREADS, height, width, depth, *call.depth_prior, rows)
    module.launch(
        "depth_forward", grid, DEPTH_THREADS,
        height, width, call.rules.depth_region, depth, *call.depth_prior, *call.frame_labels, rows, partial, slopes,
    )  # fmt: skip
    return rows, slopes, partial


def _pixels(device: torch.device) -> loader.KernelModule:
    return modules.module(device, PIXELS).prepare("pixels_forward", "pixels_finish", "pixels_backward")


def _depth(device: torch.device) -> loader.KernelModule:
    return modules.module(device, DEPTH).prepare("depth_rows", "depth_forward", "depth_backward")
