"""Adam, AdamW and moving averages over many tensors in one kernel: capturable, rates and step counts on the device."""

from __future__ import annotations

import ctypes
import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from gaussian_rasterization.cuda import loader
from torch import Tensor, nn

from instag.kernels import modules

SEGMENTS = 60  # tensors per launch
CHUNK = 1024  # values of a block
THREADS = 256
STATES = 3  # of a parameter: step, exp_avg, exp_avg_sq
FILE = "adam.cu"
KERNELS = ("adam_step", "average_step")


class Segment(ctypes.Structure):
    """See adam.cu."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("value", "other", "first", "second", "step", "group", "ticket")),
        *((name, ctypes.c_int) for name in ("count", "first_block")),
    ]


class Table(ctypes.Structure):
    """See adam.cu."""

    _fields_ = [("segments", Segment * SEGMENTS), ("used", ctypes.c_int)]


class FusedAdam(torch.optim.Optimizer):
    """Adam, or AdamW where `decoupled`, with torch's state (`step`, `exp_avg`, `exp_avg_sq`); float32 on one device.

    Rates, betas, eps and decay of the groups live in a device tensor. `step` refreshes it, except while a CUDA graph is
    captured: there, call `upload_rates` before each replay. Gradients that the graph allocates are found by address.

    Args:
        params, lr, betas, eps, weight_decay: as torch's, per group where a group says so. No AMSGrad.
        decoupled: AdamW's decay instead of L2.
    """

    def __init__(
        self,
        params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled: bool = False,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.decoupled = decoupled
        self._rates: Tensor | None = None  # [groups, 6]
        self._tickets: Tensor | None = None  # [parameters] zeros: the kernel counts its blocks here, and sets them back

    # torch wraps these two so that its compiler leaves them alone, and imports that compiler to say so: 1 to 2 s.
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's."""
        inspect.unwrap(torch.optim.Optimizer.add_param_group)(self, param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's."""
        inspect.unwrap(torch.optim.Optimizer.zero_grad)(self, set_to_none)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.param_groups[0]["params"][0].device

    @torch.no_grad()
    def upload_rates(self) -> None:
        """Copy every group's numbers to the device; a few hundred bytes, no wait for earlier work."""
        rows = [
            [float(group["lr"]), 1 - group["betas"][0], 1 - group["betas"][1], group["eps"], group["weight_decay"],
             float(self.decoupled)]
            for group in self.param_groups
        ]  # fmt: skip
        values = torch.tensor(rows, dtype=torch.float32)
        if self._rates is None or self._tickets is None or len(self._rates) != len(rows):
            self._rates = values.to(self.device)
            parameters = sum(len(group["params"]) for group in self.param_groups)
            self._tickets = torch.zeros(parameters, dtype=torch.int32, device=self.device)
        else:
            self._rates.copy_(values, non_blocking=True)  # staged by the driver: the host does not wait

    def step(self, closure=None) -> None:
        """One update of every parameter that has a gradient."""
        if closure is not None:
            raise loader.KernelError("FusedAdam.step takes no closure")
        step_together([self])

    def segments(self) -> Iterable[tuple[Tensor, ...]]:
        """Of every parameter with a gradient: the tensors of `Segment`; refreshes the rates outside a capture."""
        if not loader.is_capturing(self.device):
            self.upload_rates()
        assert self._rates is not None and self._tickets is not None
        number = -1
        for row, group in zip(self._rates, self.param_groups, strict=True):
            for parameter in group["params"]:
                number += 1
                gradient = parameter.grad
                if gradient is None:
                    continue
                if not parameter.is_contiguous() or gradient.dtype != torch.float32:
                    raise loader.KernelError(
                        f"FusedAdam: parameter of shape {list(parameter.shape)} must be contiguous float32"
                    )
                state = self._state_of(parameter)
                moments = (state["exp_avg"], state["exp_avg_sq"], state["step"])
                yield parameter, gradient.contiguous(), *moments, row, self._tickets[number]

    def _state_of(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        state = self.state[parameter]
        if len(state) < STATES and loader.is_capturing(parameter.device):
            raise loader.KernelError("FusedAdam: a parameter's first step in a capture; run the step eagerly before")
        if "step" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        for moment in ("exp_avg", "exp_avg_sq"):
            if moment not in state:
                state[moment] = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
        if state["step"].device != parameter.device:  # as torch's own Adam keeps it
            state["step"] = state["step"].to(parameter.device, torch.float32)
        return state


@torch.no_grad()
def step_together(optimizers: Sequence[FusedAdam]) -> None:
    """One update by each of these optimisers of one device, in one launch per 60 tensors."""
    _launch("adam_step", [segment for optimizer in optimizers for segment in optimizer.segments()])


@torch.no_grad()
def average_cuda(means: Sequence[Tensor], values: Sequence[Tensor], share: Tensor) -> None:
    """means[i] += share * (values[i] - means[i]), in place; float32, contiguous means; twin of `Tensor.lerp_`."""
    contiguous = [value.contiguous() for value in values]
    segments = [(mean, value, None, None, None, share) for mean, value in zip(means, contiguous, strict=True)]
    if not all(mean.is_contiguous() for mean in means):
        raise loader.KernelError("moving average: every mean must be contiguous")
    _launch("average_step", segments)


def _launch(kernel: str, segments: Sequence[tuple[Tensor | None, ...]]) -> None:
    """Queue the kernel over all tensors; `segments`: the pointers of `Segment`, which live until all is queued."""
    for first in range(0, len(segments), SEGMENTS):
        table, blocks = Table(), 0
        for slot, tensors in zip(table.segments, segments[first : first + SEGMENTS], strict=False):
            for (name, _), tensor in zip(Segment._fields_, tensors, strict=False):
                if tensor is not None:
                    setattr(slot, name, tensor.data_ptr())
            slot.count, slot.first_block = tensors[0].numel(), blocks
            blocks += loader.sizes_in_blocks(slot.count, CHUNK)
            table.used += 1
        device = segments[0][0].device
        modules.module(device, FILE).prepare(*KERNELS).launch(kernel, (blocks,), THREADS, table)
