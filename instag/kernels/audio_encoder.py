"""The audio encoder in two kernels each way: twin of `instag.fields.audio.AudioEncoder.forward_torch`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from gaussian_rasterization.cuda import loader
from torch import Tensor
from torch.autograd.function import once_differentiable

from instag.kernels import modules

FILE = "audio_encoder.cu"
KERNELS = ("audio_frames", "audio_attention", "audio_backward", "audio_gradients")
THREADS, BACKWARD_THREADS = 1024, 256
FRAMES, FEATURES = 8, 32  # of a window; of an encoded one
LONGEST = 16  # steps of a frame: four halvings leave one
LARGEST = 4096  # features of a frame that a block keeps in shared memory
PARAMETERS = 24  # tensors: weight and bias of twelve layers
ATTENTION_CHANNELS = (32, 16, 8, 4, 2, 1)


def fits(width: int, steps: int) -> bool:
    """Whether the kernels serve D = width features in W = steps; one step has another network."""
    return 2 <= steps <= LONGEST and width * steps <= LARGEST


def audio_encoder_cuda(parameters: Sequence[Tensor], window: Tensor) -> Tensor:
    """[B, 8, D, W] -> [B, 32], differentiable towards the parameters, not towards the window.

    Args:
        parameters: `AudioEncoder.parameters()`, 24 tensors in their order.
        window: float32 on CUDA.
    """
    return _AudioEncoder.apply(window.detach().contiguous(), *parameters)


@torch.no_grad()
def audio_encoder_many_cuda(encoders: Sequence[torch.nn.Module], window: Tensor, which: Tensor | None = None) -> Tensor:
    """k encoders of equal sizes on one window [B, 8, D, W] -> [k, B, 32], without gradients, in two launches.

    which: int64 [k'] on the device, only these of them.
    """
    parameters = [tuple(encoder.parameters()) for encoder in encoders]
    return _forward(parameters, window.detach().contiguous(), which)[2]


class _AudioEncoder(torch.autograd.Function):
    @staticmethod
    def forward(ctx, window, *parameters):
        kept, attention, audio = _forward([parameters], window)
        ctx.save_for_backward(window, kept, attention, *parameters)
        return audio[0]

    @staticmethod
    @once_differentiable
    def backward(ctx, d_audio):
        window, kept, attention, *parameters = ctx.saved_tensors
        windows, sizes = len(window), [parameter.numel() for parameter in parameters]
        d_kept, d_attention = torch.empty_like(kept), torch.empty_like(attention)
        d_parameters = torch.empty(sum(sizes), device=window.device)
        module = _module(window, parameters)
        table = _addresses([parameters])
        module.launch(
            "audio_backward", (FRAMES * windows,), BACKWARD_THREADS,
            table, kept, attention, d_audio.contiguous(), d_kept, d_attention,
        )  # fmt: skip
        module.launch(
            "audio_gradients", (loader.sizes_in_blocks(sum(sizes), BACKWARD_THREADS),), BACKWARD_THREADS,
            windows, window, kept, attention, d_kept, d_attention, d_parameters,
        )  # fmt: skip
        pieces = d_parameters.split(sizes)
        return None, *(piece.view_as(parameter) for piece, parameter in zip(pieces, parameters, strict=True))


def _forward(
    encoders: Sequence[Sequence[Tensor]], window: Tensor, which: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """What backward needs of each frame and of each window, and the result [k, B, 32]."""
    table = _addresses(encoders) if which is None else _addresses(encoders).view(-1, PARAMETERS)[which]
    count, windows = len(encoders) if which is None else len(which), len(window)
    frame_floats, window_floats = _row_sizes(*window.shape[2:], len(encoders[0][0]))
    kept = torch.empty(count, FRAMES * windows, frame_floats, device=window.device)
    attention = torch.empty(count, windows, window_floats, device=window.device)
    audio = torch.empty(count, windows, FEATURES, device=window.device)
    module = _module(window, encoders[0])
    module.launch("audio_frames", (FRAMES * windows, count), THREADS, table, window, kept)
    module.launch("audio_attention", (windows, count), THREADS, table, kept, attention, audio)
    return kept, attention, audio


def _row_sizes(width: int, steps: int, narrow: int) -> tuple[int, int]:
    """FRAME_FLOATS and WINDOW_FLOATS of audio_encoder.cu."""
    lengths = [steps]
    for _ in range(3):
        lengths.append((lengths[-1] - 1) // 2 + 1)
    frame = narrow * (lengths[1] + lengths[2]) + 64 * lengths[3] + 64 + 64 + FEATURES
    return frame, FRAMES * (sum(ATTENTION_CHANNELS) + 1)


def _addresses(encoders: Sequence[Sequence[Tensor]]) -> Tensor:
    """[k, 24] addresses of the parameters, on their device."""
    for parameters in encoders:
        if len(parameters) != PARAMETERS or not all(each.is_contiguous() for each in parameters):
            raise loader.KernelError(f"audio encoder: {PARAMETERS} contiguous parameters wanted")
    return _table(tuple(each.data_ptr() for parameters in encoders for each in parameters), encoders[0][0].device)


@cache  # never dropped: captured graphs point to them
def _table(addresses: tuple[int, ...], device: torch.device) -> Tensor:
    """The addresses as a device tensor, made at the first call: a captured graph finds it there."""
    if loader.is_capturing(device):
        raise loader.KernelError("audio encoder: its first call in a capture; run the step eagerly before")
    return torch.tensor(addresses, dtype=torch.int64).to(device)


def macros(width: int, steps: int, narrow: int) -> tuple[str, ...]:
    """Compile-time options of audio_encoder.cu."""
    return f"-DWIDTH={width}", f"-DSTEPS={steps}", f"-DNARROW={narrow}"


def _module(window: Tensor, parameters: Sequence[Tensor]) -> loader.KernelModule:
    options = macros(*window.shape[2:], len(parameters[0]))
    return modules.module(window.device, FILE, *options).prepare(*KERNELS)
