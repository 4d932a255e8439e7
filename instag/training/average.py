"""What a stage ends with: the mean of a motion field over its last steps, and a pull towards the universal field."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from instag.training.optimizers import average


class TailAverage:
    """Mean of parameters over the steps first + 1 .. last, which the parameters then take (Polyak-Ruppert averaging).

    Single frames make single steps noisy; the mean of the last ones is the better field for frames never seen.

    Args:
        parameters: whose number and shapes stay.
        first, last: steps; last <= first: nothing is averaged.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], first: int, last: int):
        self.parameters = list(parameters)
        self.first, self.last = first, last
        self.means: list[Tensor] = []
        self.share = torch.zeros((), device=self.parameters[0].device)  # of the new values in the mean

    def covers(self, step: int) -> bool:
        """Whether a step's result belongs to the mean."""
        return self.first < step <= self.last

    @torch.no_grad()
    def prepare(self, step: int) -> None:
        """Before a step that is covered: make room, set the share."""
        if not self.means:
            self.means = [parameter.detach().clone() for parameter in self.parameters]
        self.share.fill_(1.0 / (step - self.first))

    def update(self) -> None:
        """After the optimiser's step; capturable."""
        average(self.means, self.parameters, self.share)

    @torch.no_grad()
    def finish(self, step: int) -> None:
        """After the last step that is covered the parameters become their means."""
        if step == self.last and self.means:
            for parameter, mean in zip(self.parameters, self.means, strict=True):
                parameter.copy_(mean)

    def tensors(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {str(i): mean for i, mean in enumerate(self.means)}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of `tensors`."""
        device = self.share.device
        self.means = [tensors[str(i)].to(device, copy=True) for i in range(len(tensors))]


class Anchor:
    """Decoupled decay of parameters towards the values they have now, instead of towards zero (L2-SP, Li et al. 2018).

    Args:
        parameters: of a pre-trained field.
        share: of the way back, each step.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], share: float):
        self.parameters = list(parameters)
        self.origin = [parameter.detach().clone() for parameter in self.parameters]
        self.share = torch.full((), share, device=self.parameters[0].device)

    def pull(self) -> None:
        """After the optimiser's step; capturable."""
        average([parameter.data for parameter in self.parameters], self.origin, self.share)
