"""Named parameter groups over Adam (torch's, or ours on the GPU), with the surgery that density control needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from instag import kernels

STRUCTURE_GROUPS = ("means", "sh_dc", "sh_rest", "opacities_raw", "scales_raw", "quaternions_raw")
MOMENTS = ("exp_avg", "exp_avg_sq")


class GroupedOptimizer:
    """Adam or AdamW over named groups whose rates are set from outside each step.

    Args:
        groups: name -> parameters, in a fixed order.
        decay: name -> weight decay (decoupled for AdamW, L2 for Adam); absent means 0.
        decoupled: AdamW instead of Adam.
        betas, eps: as torch's.
    """

    def __init__(
        self,
        groups: Mapping[str, Iterable[nn.Parameter]],
        decay: Mapping[str, float] | None = None,
        decoupled: bool = False,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-15,
    ):
        decay = decay or {}
        specs = [
            {"params": list(parameters), "name": name, "lr": 0.0, "weight_decay": decay.get(name, 0.0)}
            for name, parameters in groups.items()
        ]
        self.torch = _adam(specs, betas, eps, decoupled)

    def set_rates(self, rates: Mapping[str, float]) -> None:
        """Learning rate of every group named here; the others rest at 0."""
        for group in self.torch.param_groups:
            group["lr"] = rates.get(group["name"], 0.0)

    def upload_rates(self) -> None:
        """Let captured steps see the rates; eager steps see them without."""
        if not isinstance(self.torch, (torch.optim.Adam, torch.optim.AdamW)):
            self.torch.upload_rates()

    def step(self) -> None:
        """Move the parameters and drop their gradients."""
        step_all(self)

    def moments(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """First and second moments of a parameter; empty before its first step."""
        return {k: v for k, v in self.torch.state.get(parameter, {}).items() if k in MOMENTS}

    def replace(self, old: nn.Parameter, new: nn.Parameter, moments: Mapping[str, Tensor]) -> None:
        """Put `new` in the place of `old`, with these moments and the old step count."""
        state = self.torch.state.pop(old, None)
        for group in self.torch.param_groups:
            group["params"] = [new if p is old else p for p in group["params"]]
        if state is not None:
            self.torch.state[new] = {**state, **moments}

    def tensors(self) -> dict[str, Tensor]:
        """All moments and step counts under `group.index.name`, for a checkpoint."""
        out = {}
        for group in self.torch.param_groups:
            for i, parameter in enumerate(group["params"]):
                for key, value in self.torch.state.get(parameter, {}).items():
                    out[f"{group['name']}.{i}.{key}"] = value
        return out

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of `tensors`; moments of parameters that it does not name are dropped."""
        self.torch.state.clear()
        for group in self.torch.param_groups:
            for i, parameter in enumerate(group["params"]):
                prefix = f"{group['name']}.{i}."
                state = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
                if state:
                    moved = {k: v.to(parameter.device, copy=True) for k, v in state.items()}
                    self.torch.state[parameter] = moved


def step_all(*optimizers: GroupedOptimizer) -> None:
    """`GroupedOptimizer.step` of each; of all that the fused kernel serves in one launch."""
    fused = []
    for each in optimizers:
        if isinstance(each.torch, (torch.optim.Adam, torch.optim.AdamW)):
            each.torch.step()
        else:
            fused.append(each.torch)
    if fused:
        from instag.kernels.adam import step_together  # needs the `gpu` extra

        step_together(fused)
    for each in optimizers:
        each.torch.zero_grad(set_to_none=True)


@torch.no_grad()
def average(means: Iterable[Tensor], values: Iterable[Tensor], share: Tensor) -> None:
    """means[i] += share * (values[i] - means[i]), in place; share: a number on the tensors' device."""
    means, values = list(means), list(values)
    if kernels.usable(*means, *values):
        from instag.kernels.adam import average_cuda  # needs the `gpu` extra

        average_cuda(means, values, share)
    else:
        for mean, value in zip(means, values, strict=True):
            mean.lerp_(value, share)


def _adam(
    specs: list[dict[str, Any]], betas: tuple[float, float], eps: float, decoupled: bool
) -> torch.optim.Optimizer:
    """Adam with torch's state: our kernel for all groups where it serves these parameters, else torch's fused one."""
    if kernels.usable(*(parameter for spec in specs for parameter in spec["params"])):
        from instag.kernels.adam import FusedAdam  # needs the `gpu` extra

        return FusedAdam(specs, lr=0.0, betas=betas, eps=eps, decoupled=decoupled)
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    return kind(specs, lr=0.0, betas=betas, eps=eps, fused=True)
