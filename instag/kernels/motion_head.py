"""The face motion field behind its encoding, one kernel each way: twin of `FaceMotionField` after `encoding`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from gaussian_rasterization.cuda import loader
from torch import Tensor
from torch.autograd.function import once_differentiable

from instag.kernels import modules

FILE = "motion_head.cu"
POINT_FEATURES, AUDIO, EXPRESSION = 36, 32, 6
OUTPUTS = (3, 4, 1, 3)  # d_mean, d_rotation, d_opacity, d_scale
HIDDEN = (64, 32)  # widths of the last network that are compiled: universal and personalised field
ROWS_PER_WARP = 16
EXCHANGE_PITCH = 72
SUM_THREADS = 256
BLOCKS_PER_MULTIPROCESSOR = 2  # of the forward kernel


class HeadWeights(NamedTuple):
    """The networks' weights as torch holds them, [out, in], no biases."""

    audio_1: Tensor  # [32, 36]
    audio_2: Tensor  # [32, 32]
    eye_1: Tensor  # [16, 36]
    eye_2: Tensor  # [6, 16]
    decoder_1: Tensor  # [hidden, 74]
    decoder_2: Tensor  # [hidden, hidden]
    decoder_3: Tensor  # [11, hidden]


class HeadOutput(NamedTuple):
    """What the field says about N points in B frames; units as in `fields.motion.Deformation`."""

    d_mean: Tensor  # [B, N, 3]
    d_rotation: Tensor  # [B, N, 4]
    d_opacity: Tensor  # [B, N, 1]
    d_scale: Tensor  # [B, N, 3]
    audio_length: Tensor  # [N] |w|
    eye_length: Tensor  # [N] |v|


def motion_head_cuda(
    features: Tensor,  # [N, 36]
    audio: Tensor,  # [B, 32]
    expression: Tensor,  # [B, 6]
    weights: HeadWeights,
) -> HeadOutput:
    """w, v and the last network for N points in B frames; float32 on CUDA.

    Args:
        features: H(mu), shared by the frames.
        audio: the audio encoder's vectors.
        expression: e' of METHOD.md section 4: five values behind their network, then the blink.
        weights: audio weights, eye weights and the last network.

    Raises:
        KernelError: a hidden width that is not compiled, or a GPU whose blocks have too little shared memory.
    """
    return HeadOutput(*_MotionHead.apply(features.contiguous(), audio.contiguous(), expression.contiguous(), *weights))


def fits(device: torch.device, point_features: int, hidden: int) -> bool:
    """Whether the kernels serve these sizes on this GPU (not before sm_80: a block's shared memory is too small)."""
    return (
        point_features == POINT_FEATURES
        and hidden in HIDDEN
        and _backward_bytes(hidden, 4, frames=1) <= modules.shared_memory_limit(device)
    )


def warps_per_block(device: torch.device, hidden: int) -> int:
    """8, or 4 where 8 warps' exchange does not fit into a block's shared memory."""
    limit = modules.shared_memory_limit(device)
    for warps in (8, 4):
        if _backward_bytes(hidden, warps, frames=1) <= limit:
            return warps
    raise loader.KernelError(
        f"fused motion head: a block needs {_backward_bytes(hidden, 4, 1)} bytes of shared memory, this GPU gives "
        f"{limit}: use the torch field"
    )


def weight_floats(hidden: int) -> int:
    """WEIGHT_FLOATS of motion_head.cu."""
    return (32 + 32 + 16) * 40 + 8 * 24 + hidden * 88 + (hidden + 16) * (hidden + 8)


def _backward_bytes(hidden: int, warps: int, frames: int) -> int:
    exchange = 2 * ROWS_PER_WARP * warps * EXCHANGE_PITCH
    return 4 * (weight_floats(hidden) + exchange + frames * (AUDIO + EXPRESSION))


def head_macros(hidden: int, warps: int) -> tuple[str, str]:
    """Compile-time options of motion_head.cu."""
    return f"-DHIDDEN={hidden}", f"-DWARPS={warps}"


class _MotionHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features, audio, expression, *weights):
        hidden = weights[5].shape[0]
        if hidden not in HIDDEN:
            raise loader.KernelError(f"fused motion head: hidden width {hidden} is not one of {HIDDEN}")
        weights = tuple(weight.contiguous() for weight in weights)
        ctx.warps = warps_per_block(features.device, hidden)
        ctx.save_for_backward(features, audio, expression, *weights)
        ctx.set_materialize_grads(False)
        points, frames = len(features), len(audio)
        outputs = [torch.empty(frames, points, width, device=features.device) for width in OUTPUTS]
        lengths = torch.empty(2, points, device=features.device)
        tiles = -(-points // (ROWS_PER_WARP * ctx.warps))
        blocks = min(max(1, tiles), BLOCKS_PER_MULTIPROCESSOR * modules.multiprocessors(features.device))
        _module(features, hidden, ctx.warps).launch(
            "motion_head_forward", (blocks,), 32 * ctx.warps,
            points, frames, features, audio, expression, *weights, *outputs, lengths[0], lengths[1],
            shared_bytes=4 * weight_floats(hidden),
        )  # fmt: skip
        return *outputs, lengths[0], lengths[1]

    @staticmethod
    @once_differentiable
    def backward(ctx, *d_outputs):
        features, audio, expression, *weights = ctx.saved_tensors
        hidden, points, frames = weights[5].shape[0], len(features), len(audio)
        d_outputs = [None if each is None else each.contiguous() for each in d_outputs]
        sizes = [weight.numel() for weight in weights]
        columns = sum(sizes) + frames * (AUDIO + EXPRESSION)
        tiles = max(1, -(-points // (ROWS_PER_WARP * ctx.warps)))
        blocks = min(tiles, modules.multiprocessors(features.device))
        d_features = torch.empty_like(features)
        partial = torch.empty(blocks, columns, device=features.device)
        sums = torch.empty(columns, device=features.device)
        module = _module(features, hidden, ctx.warps)
        module.launch(
            "motion_head_backward", (blocks,), 32 * ctx.warps,
            points, frames, features, audio, expression, *weights, *d_outputs, d_features, partial,
            shared_bytes=_backward_bytes(hidden, ctx.warps, frames),
        )  # fmt: skip
        module.launch("sum_rows", (loader.sizes_in_blocks(columns, 32),), SUM_THREADS, blocks, columns, partial, sums)
        *d_weights, d_conditions = sums.split([*sizes, frames * (AUDIO + EXPRESSION)])
        d_audio, d_expression = d_conditions.view(frames, AUDIO + EXPRESSION).split([AUDIO, EXPRESSION], 1)
        shaped = [d.view_as(weight) for d, weight in zip(d_weights, weights, strict=True)]
        return d_features, d_audio, d_expression, *shaped


def _module(features: Tensor, hidden: int, warps: int) -> loader.KernelModule:
    return modules.module(features.device, FILE, *head_macros(hidden, warps))
