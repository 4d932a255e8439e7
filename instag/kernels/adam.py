"""Adam and AdamW over many tensors in one kernel per eight: drop-in for torch's, capturable, rates on the device."""

from __future__ import annotations

import torch
from gaussian_rasterization.cuda import loader
from torch import Tensor, nn

from instag.kernels import modules

SEGMENTS = 8  # tensors per launch
THREADS = 256
STATES = 3  # of a parameter: step, exp_avg, exp_avg_sq
VALUES_PER_THREAD = 4  # below the largest tensor's size, threads loop
FILE = "adam.cu"


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
        self._rates: Tensor | None = None

    @torch.no_grad()
    def upload_rates(self) -> None:
        """Copy every group's numbers to the device; a few hundred bytes, no wait for earlier work."""
        rows = [
            [float(group["lr"]), 1 - group["betas"][0], 1 - group["betas"][1], group["eps"], group["weight_decay"]]
            for group in self.param_groups
        ]
        values = torch.tensor(rows, dtype=torch.float32)
        if self._rates is None or len(self._rates) != len(rows):
            self._rates = values.to(self.param_groups[0]["params"][0].device)
        else:
            self._rates.copy_(values, non_blocking=True)  # staged by the driver: the host does not wait

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """One update of every parameter that has a gradient."""
        if closure is not None:
            raise loader.KernelError("FusedAdam.step takes no closure")
        if not loader.is_capturing(self.param_groups[0]["params"][0].device):
            self.upload_rates()
        segments, steps = [], []
        for index, group in enumerate(self.param_groups):
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self._state_of(parameter)
                    steps.append(state["step"])
                    segments.append((parameter, state, index))
        if segments:
            torch._foreach_add_(steps, 1)
        for first in range(0, len(segments), SEGMENTS):
            self._launch(segments[first : first + SEGMENTS])

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

    def _launch(self, segments: list[tuple[nn.Parameter, dict[str, Tensor], int]]) -> None:
        assert self._rates is not None
        arguments: list[loader.Argument] = []
        for parameter, state, index in segments:
            gradient = parameter.grad
            if not parameter.is_contiguous() or gradient is None or gradient.dtype != torch.float32:
                raise loader.KernelError(
                    f"FusedAdam: parameter of shape {list(parameter.shape)} must be contiguous float32"
                )
            arguments += [parameter.numel(), parameter, gradient.contiguous(), state["exp_avg"], state["exp_avg_sq"]]
            arguments += [state["step"], self._rates[index]]
        arguments += [0, None, None, None, None, None, None] * (SEGMENTS - len(segments))
        largest = max(parameter.numel() for parameter, _, _ in segments)
        blocks = loader.sizes_in_blocks(largest, THREADS * VALUES_PER_THREAD)
        device = segments[0][0].device
        modules.module(device, FILE).prepare("adam_step").launch(
            "adam_step", (blocks, len(segments)), THREADS, int(self.decoupled), *arguments
        )
