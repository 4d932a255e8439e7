"""The motion's size, and the loss as the sum of its terms: twins of `instag.losses.magnitude` and `total`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from gaussian_rasterization.cuda import loader
from torch import Tensor
from torch.autograd.function import once_differentiable

from instag.kernels import modules

FILE = "terms.cu"
THREADS = 256
MOST_TENSORS, MOST_TERMS = 6, 12  # see terms.cu
VALUES_PER_BLOCK = 512  # two a thread: what a kernel of few values waits for is the chain of its loads
KERNELS = ("magnitude_forward", "magnitude_backward", "sum_terms")


def magnitude_cuda(*offsets: Tensor, weight: float = 1.0) -> Tensor:
    """weight * the sum of the mean absolute values of at most 6 tensors, in parts [P] that are to be summed."""
    return _Magnitude.apply(float(weight), *(offset.contiguous() for offset in offsets))


class _Magnitude(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, *offsets):
        if len(offsets) > MOST_TENSORS:
            raise loader.KernelError(f"magnitude of {len(offsets)} tensors: the kernel takes at most {MOST_TENSORS}")
        ctx.save_for_backward(*offsets)
        ctx.weight = weight
        ctx.blocks = loader.sizes_in_blocks(max(offset.numel() for offset in offsets), VALUES_PER_BLOCK)
        partial = torch.empty(ctx.blocks, device=offsets[0].device)
        _module(partial).launch(
            "magnitude_forward", (ctx.blocks,), THREADS, weight, *_padded(offsets, MOST_TENSORS), partial
        )
        return partial

    @staticmethod
    @once_differentiable
    def backward(ctx, d_partial):  # uniform, since the parts are summed
        offsets = ctx.saved_tensors
        wanted = [
            torch.empty_like(offset) if needed else None
            for offset, needed in zip(offsets, ctx.needs_input_grad[1:], strict=True)
        ]
        _module(d_partial).launch(
            "magnitude_backward", (ctx.blocks,), THREADS, ctx.weight, *_padded(offsets, MOST_TENSORS), d_partial,
            *wanted, *(None,) * (MOST_TENSORS - len(wanted)),
        )  # fmt: skip
        return None, *wanted


def total_cuda(terms: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, and each term's value without a gradient: `instag.losses.total` for at most 12 terms."""
    loss, values = _Total.apply(*terms.values())
    return loss, dict(zip(terms, values.unbind(), strict=True))


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *terms):
        if len(terms) > MOST_TERMS:
            raise loader.KernelError(f"{len(terms)} loss terms: the kernel takes at most {MOST_TERMS}")
        ctx.shapes = [term.shape for term in terms]
        totals = torch.empty(1 + len(terms), device=terms[0].device)
        _module(totals).launch("sum_terms", (1,), THREADS, len(terms), *_padded(terms, MOST_TERMS), totals)
        loss, values = totals[0], totals[1:]
        ctx.mark_non_differentiable(values)
        ctx.set_materialize_grads(False)  # no zeros for the values
        return loss, values

    @staticmethod
    @once_differentiable
    def backward(ctx, d_loss, _):
        return tuple(d_loss.expand(shape) for shape in ctx.shapes)


def _padded(tensors: tuple[Tensor, ...], most: int) -> tuple[int | Tensor | None, ...]:
    """Sizes, then the tensors, up to the number that the kernel takes."""
    missing = most - len(tensors)
    contiguous = (tensor.contiguous() for tensor in tensors)
    return (*(tensor.numel() for tensor in tensors), *(0,) * missing, *contiguous, *(None,) * missing)


def _module(tensor: Tensor) -> loader.KernelModule:
    return modules.module(tensor.device, FILE).prepare(*KERNELS)
