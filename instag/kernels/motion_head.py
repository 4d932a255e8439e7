"""The motion fields' networks behind the encoding, one kernel each way: twins of what `FaceMotionField`,
`MouthMotionField`, `PersonalizedMouthField` and `MotionAligner` do after `encoding` (METHOD.md section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from gaussian_rasterization.cuda import loader
from torch import Tensor
from torch.autograd.function import once_differentiable

from instag.kernels import modules

FORWARD, BACKWARD = "motion_head_forward.cu", "motion_head_backward.cu"
POINT_FEATURES, POINT_COLUMNS = 36, 40  # columns: padded to tiles of 8
AUDIO = 32
ROWS_PER_WARP = 16
WARPS = (8, 4, 2)  # of the backward kernel, the first that fits into a block's shared memory
FORWARD_WARPS = (16, 8, 4, 2)
SLACK = 64  # of motion_head_backward.cu
SUM_THREADS = 256
NETWORKS = 9  # pointers that the kernels take
OLDEST_CAPABILITY = (8, 0)  # tf32 products


class HeadWeights(NamedTuple):
    """The face's networks as torch holds them, [out, in], no biases."""

    audio_1: Tensor  # [32, 36]
    audio_2: Tensor  # [32, 32]
    eye_1: Tensor  # [16, 36]
    eye_2: Tensor  # [6, 16]
    decoder_1: Tensor  # [hidden, 74]
    decoder_2: Tensor  # [hidden, hidden]
    decoder_3: Tensor  # [11, hidden]
    expression_1: Tensor  # [16, 5]
    expression_2: Tensor  # [5, 16]


class MouthWeights(NamedTuple):
    """The mouth's networks, [out, in]."""

    decoder_1: Tensor  # [32, 71]
    decoder_2: Tensor  # [32, 32]
    decoder_3: Tensor  # [7, 32]
    tau_1: Tensor  # [16, 39]
    tau_2: Tensor  # [16, 16]
    tau_3: Tensor  # [1, 16]


class OwnMouthWeights(NamedTuple):
    """The personalised mouth's networks, [out, in]."""

    audio_1: Tensor  # [32, 36]
    audio_2: Tensor  # [32, 32]
    decoder_1: Tensor  # [16, 68]
    decoder_2: Tensor  # [16, 16]
    decoder_3: Tensor  # [7, 16]


class AlignerWeights(NamedTuple):
    """The aligner's network, [out, in]."""

    decoder_1: Tensor  # [hidden, 36]
    decoder_2: Tensor  # [6, hidden]


class HeadOutput(NamedTuple):
    """What a head says about N points in B frames; units as in `fields.motion.Deformation`. None: it does not say."""

    d_mean: Tensor  # [B, N, 3]; the aligner's offset
    d_rotation: Tensor | None = None  # [B, N, 4]
    d_opacity: Tensor | None = None  # [B, N, 1]
    d_scale: Tensor | None = None  # [B, N, 3]; the aligner's scale
    audio_length: Tensor | None = None  # [N] |w|
    eye_length: Tensor | None = None  # [N] |v|


@dataclass(frozen=True)
class Head:
    """One form of heads.cuh. Sizes are in floats unless they say otherwise."""

    number: int  # HEAD
    hidden: int  # HIDDEN
    layers: int
    conditions: int  # audio and what follows it
    audio_gate: bool
    eye_gate: bool
    outputs: tuple[int, int, int, int]  # width of d_mean, d_rotation, d_opacity, d_scale; 0: none

    @property
    def input_columns(self) -> int:
        """Of the decoder's first layer."""
        return POINT_COLUMNS + -(-self.conditions // 8) * 8

    @property
    def weights(self) -> int:
        """WEIGHT_FLOATS."""
        gates = self.audio_gate * 64 * _pitched(40) + self.eye_gate * (16 * _pitched(40) + 8 * _pitched(16))
        last = (16 + self.hidden * (self.layers - 2)) * _pitched(self.hidden)
        return gates + self.hidden * _pitched(self.input_columns) + last

    def forward_bytes(self, warps: int, frames: int) -> int:
        """Shared memory of a block of `motion_head_forward`."""
        row = self.input_columns + max(self.hidden, 32 * self.audio_gate)
        return 4 * (self.weights + _fours(frames * self.conditions) + ROWS_PER_WARP * warps * _pitched(row))

    def backward_bytes(self, warps: int, frames: int) -> int:
        """Shared memory of a block of `motion_head_backward`."""
        row = self.input_columns + (self.layers - 1) * self.hidden + 16 + 32 * self.audio_gate + 16 * self.eye_gate
        rows = ROWS_PER_WARP * warps * _pitched(row) + SLACK
        return 4 * (self.weights + 2 * _fours(frames * self.conditions) + rows)

    def macros(self, warps: int) -> tuple[str, ...]:
        """Compile-time options of either file's kernel."""
        values = {"HEAD": self.number, "HIDDEN": self.hidden, "WARPS": warps}
        return tuple(f"-D{name}={value}" for name, value in values.items())


def _pitched(columns: int) -> int:
    return columns // 16 * 16 + 8


def _fours(count: int) -> int:
    return -(-count // 4) * 4


FACE = {hidden: Head(0, hidden, 3, 38, True, True, (3, 4, 1, 3)) for hidden in (64, 32)}
MOUTH = Head(1, 48, 3, 35, False, False, (3, 4, 0, 0))
OWN_MOUTH = Head(2, 16, 3, 32, True, False, (3, 4, 0, 0))
ALIGNER = {hidden: Head(3, hidden, 2, 0, False, False, (3, 0, 0, 3)) for hidden in (32, 16)}
HEADS = (*FACE.values(), MOUTH, OWN_MOUTH, *ALIGNER.values())
MOUTH_WIDTHS = (32, 16)  # hidden layers of decoder and tau
MAXIMAL_FRAMES = 64  # in one call; more conditions than these would need too much shared memory


def motion_head_cuda(
    features: Tensor,  # [N, 36]
    audio: Tensor,  # [B, 32]
    expression: Tensor,  # [B, 6]
    weights: HeadWeights,
) -> HeadOutput:
    """The face: w, v, the expression's network and the last network for N points in B frames; float32 on CUDA.

    Args:
        features: H(mu), shared by the frames.
        audio: the audio encoder's vectors.
        expression: e, five action units and the blink.
        weights: audio weights, eye weights, the last network and the expression's.

    Raises:
        KernelError: a hidden width that is not compiled, or a GPU whose blocks have too little shared memory.
    """
    return _run(_known(FACE, weights.decoder_1), features, audio, expression, weights)


def mouth_head_cuda(features: Tensor, audio: Tensor, phi: Tensor, weights: MouthWeights) -> HeadOutput:
    """The mouth: features [N, 36], audio [B, 32], phi [B, 3] -> d_mean times tau, and d_rotation."""
    return _run(MOUTH, features, audio, phi, weights)


def own_mouth_head_cuda(features: Tensor, audio: Tensor, weights: OwnMouthWeights) -> HeadOutput:
    """The personalised mouth: features [N, 36], audio [B, 32] -> d_mean, d_rotation and |w|."""
    return _run(OWN_MOUTH, features, audio, None, weights)


def aligner_head_cuda(features: Tensor, weights: AlignerWeights) -> tuple[Tensor, Tensor]:
    """The aligner: features [N, 36] -> offset [N, 3] in head units, scale [N, 3]."""
    output = _run(_known(ALIGNER, weights.decoder_1), features, None, None, weights)
    assert output.d_scale is not None
    return output.d_mean.flatten(0, 1), output.d_scale.flatten(0, 1)  # of the one frame; [0]'s gradient is a copy


def fits(device: torch.device, point_features: int, head: Head | None, frames: int = 1) -> bool:
    """Whether the kernels serve this head on this GPU: compiled for it, sm_80 or newer, enough shared memory."""
    return (
        head is not None
        and point_features == POINT_FEATURES
        and frames <= MAXIMAL_FRAMES
        and modules.capability(device) >= OLDEST_CAPABILITY
        and head.backward_bytes(WARPS[-1], frames) <= modules.shared_memory_limit(device)
    )


def warps_of(device: torch.device, head: Head, frames: int) -> tuple[int, int]:
    """Warps per block of the backward and the forward kernel: as many as shared memory holds."""
    limit = modules.shared_memory_limit(device)
    backward = [warps for warps in WARPS if head.backward_bytes(warps, frames) <= limit]
    forward = [warps for warps in FORWARD_WARPS if head.forward_bytes(warps, frames) <= limit]
    if not backward or not forward:
        raise loader.KernelError(
            f"fused motion head: a block needs {head.backward_bytes(WARPS[-1], frames)} bytes of shared memory, this "
            f"GPU gives {limit}: use the torch field"
        )
    return backward[0], forward[0]


def sources(device: torch.device, head: Head, frames: int = 1) -> tuple[loader.KernelSource, loader.KernelSource]:
    """What a head's gradient and the head itself launch on this GPU."""
    backward, forward = warps_of(device, head, frames)
    return modules.source(BACKWARD, *head.macros(backward)), modules.source(FORWARD, *head.macros(forward))


def pointers(weights: Sequence[Tensor]) -> tuple[int, ...]:
    """Addresses of a field's weights as the kernels read them, nine of them."""
    return (*(weight.data_ptr() for weight in weights), *[0] * (NETWORKS - len(weights)))


@torch.no_grad()
def many_heads_d_mean(
    head: Head,
    features: Tensor,  # [k, N, 36]
    audio: Tensor,  # [k, B, 32]
    extra: Tensor | None,  # [B, 6]
    table: Tensor,  # [k, 9] int64 on the device, a row of `pointers` per field
) -> Tensor:
    """d_mean [k, B, N, 3] of k fields of one form under the same conditions, in one launch; no gradient."""
    fields, points, frames = len(features), features.shape[1], audio.shape[1]
    d_mean = torch.empty(fields, frames, points, 3, device=features.device)
    none = (None,) * NETWORKS
    _launch_forward(head, fields, points, frames, features, audio, extra, *none, table, d_mean, *(None,) * 5)
    return d_mean


def _known(forms: dict[int, Head], first: Tensor) -> Head:
    if len(first) not in forms:
        raise loader.KernelError(f"fused motion head: hidden width {len(first)} is not one of {tuple(forms)}")
    return forms[len(first)]


def _run(
    head: Head, features: Tensor, audio: Tensor | None, extra: Tensor | None, weights: Sequence[Tensor]
) -> HeadOutput:
    conditions = [each if each is None else each.contiguous() for each in (audio, extra)]
    return HeadOutput(*_MotionHead.apply(head, features.contiguous(), *conditions, *weights))


def _launch_forward(head: Head, fields: int, points: int, frames: int, *arguments: Tensor | None) -> None:
    features = arguments[0]
    assert features is not None
    _, warps = warps_of(features.device, head, frames)
    blocks = min(max(1, -(-points // ROWS_PER_WARP)), modules.multiprocessors(features.device))
    grid = (max(1, -(-blocks // fields)), fields)
    modules.module(features.device, FORWARD, *head.macros(warps)).launch(
        "motion_head_forward", grid, 32 * warps, points, frames, *arguments,
        shared_bytes=head.forward_bytes(warps, frames),
    )  # fmt: skip


class _MotionHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx, head, features, audio, extra, *weights):
        weights = tuple(weight.contiguous() for weight in weights)
        ctx.head = head
        ctx.save_for_backward(features, audio, extra, *weights)
        ctx.set_materialize_grads(False)
        points, frames = len(features), 1 if audio is None else len(audio)
        outputs = [torch.empty(frames, points, n, device=features.device) if n else None for n in head.outputs]
        gates = (head.audio_gate, head.eye_gate)
        lengths = [torch.empty(points, device=features.device) if gate else None for gate in gates]
        none = (None,) * (NETWORKS - len(weights))
        _launch_forward(
            head, 1, points, frames, features, audio, extra, *weights, *none, None, *outputs, *lengths
        )  # fmt: skip
        return *outputs, *lengths

    @staticmethod
    @once_differentiable
    def backward(ctx, *d_outputs):
        features, audio, extra, *weights = ctx.saved_tensors
        head, device = ctx.head, features.device
        points, frames = len(features), 1 if audio is None else len(audio)
        d_outputs = [None if each is None else each.contiguous() for each in d_outputs]
        reduced = weights[:7] if head.eye_gate else weights  # the expression's come from the conditions' gradient
        sizes = [weight.numel() for weight in reduced]
        columns = sum(sizes) + frames * head.conditions
        warps, _ = warps_of(device, head, frames)
        blocks = min(max(1, -(-points // (ROWS_PER_WARP * warps))), modules.multiprocessors(device))
        d_features = torch.empty_like(features)
        partial = torch.empty(blocks, columns, device=device)
        module = modules.module(device, BACKWARD, *head.macros(warps))
        none = (None,) * (NETWORKS - len(weights))
        module.launch(
            "motion_head_backward", (blocks,), 32 * warps,
            points, frames, features, audio, extra, *weights, *none, *d_outputs, d_features, partial,
            shared_bytes=head.backward_bytes(warps, frames),
        )  # fmt: skip
        sums = torch.empty(columns, device=device)
        expression = (extra, *weights[7:]) if head.eye_gate else ()
        d_expression = [torch.empty_like(each) for each in expression]
        tail = (*expression, *d_expression) if expression else (None,) * 6
        module.launch(
            "sum_rows", (loader.sizes_in_blocks(columns, 32) + head.eye_gate,), SUM_THREADS,
            blocks, columns, partial, sums, frames, *tail, shared_bytes=4 * frames * 6,
        )  # fmt: skip
        *d_weights, d_conditions = sums.split([*sizes, frames * head.conditions])
        d_weights = [d.view_as(weight) for d, weight in zip(d_weights, reduced, strict=True)]
        if audio is None:
            return None, d_features, None, None, *d_weights
        d_audio, d_extra = d_conditions.view(frames, head.conditions).split([AUDIO, head.conditions - AUDIO], 1)
        if expression:
            d_extra, *d_networks = d_expression
            d_weights += d_networks
        return None, d_features, d_audio, None if extra is None else d_extra, *d_weights
