"""Clone, split, prune, reset and removals of Gaussians, together with their optimiser state (METHOD.md section 3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from gaussian_rasterization.projection import rotation_matrices
from torch import Tensor, nn

from instag import kernels
from instag.camera import Camera
from instag.config import DensityConfig
from instag.fields.structure import GaussianField
from instag.render.gaussians import BranchRender
from instag.training.optimizers import GroupedOptimizer

SPLIT_CHILDREN = 2
SPLIT_SHRINK = 1.6  # children's scale relative to the parent's
RESET_OPACITY = 0.01  # ceiling after a reset
Removal = Callable[[GaussianField, Camera, int], Tensor]  # structure, current camera, step -> bool [N], to remove


def inverse_softplus(scales: Tensor) -> Tensor:
    """Raw scale of an active one (> 0)."""
    return scales + torch.log(-torch.expm1(-scales))


@dataclass
class Statistics:
    """Screen-space gradients since the last density decision, per Gaussian."""

    gradient: Tensor  # [N] sum of norms, device units
    visible: Tensor  # [N] iterations in which it was drawn

    @staticmethod
    def zeros(count: int, device: torch.device) -> Statistics:
        """Nothing seen yet."""
        return Statistics(torch.zeros(count, device=device), torch.zeros(count, device=device))


class DensityControl:
    """Adaptive density control of one structure field.

    Args:
        structure: its parameters are replaced when their number changes.
        optimizer: holds the structure's groups; moments follow the Gaussians.
        config: thresholds and intervals.
        steps: length of the stage; control ends `config.stop_before_end` before it.
        extent: scene extent, head units.
        generator: noise of the splits.
        removal: Gaussians that never belong (key-coloured, behind the head), asked at every decision, also after
            control has ended.
    """

    def __init__(
        self,
        structure: GaussianField,
        optimizer: GroupedOptimizer,
        config: DensityConfig,
        steps: int,
        extent: float,
        generator: torch.Generator,
        removal: Removal | None = None,
    ):
        self.structure = structure
        self.optimizer = optimizer
        self.config = config
        self.last = steps - config.stop_before_end
        self.extent = extent
        self.generator = generator
        self.removal = removal
        self.statistics = Statistics.zeros(len(structure), structure.means.device)

    def counts(self, step: int) -> bool:
        """Whether gradients of this step (from 1) are recorded."""
        return step < self.last

    def decides(self, step: int) -> bool:
        """Whether `decide` may change anything in this step."""
        return step % self.config.interval == 0

    @torch.no_grad()
    def record(self, render: BranchRender) -> None:
        """Add a step's screen-space gradients, in place."""
        assert render.projected is not None and render.projected.grad is not None
        if kernels.usable(render.projected.grad):
            from instag.kernels.deform import record_gradients_cuda  # needs the `gpu` extra

            statistics = (self.statistics.gradient, self.statistics.visible)
            return record_gradients_cuda(render.projected.grad, render.image.radii, *statistics)
        norms = render.projected.grad.norm(dim=-1)  # [B, N]
        seen = render.image.radii > 0
        self.statistics.gradient += (norms * seen).sum(0)
        self.statistics.visible += seen.sum(0)

    @torch.no_grad()
    def decide(self, camera: Camera, step: int) -> bool:
        """Act on what was recorded, where the step is a multiple of the interval.

        Returns:
            Whether parameters were replaced.
        """
        config = self.config
        if not self.decides(step):
            return False
        changed = False
        if config.start < step < self.last:
            changed |= self._densify()
            changed |= self._prune(step)
        if config.opacity_reset_interval and step < self.last and step % config.opacity_reset_interval == 0:
            self._reset_opacities()
        if self.removal is not None:
            changed |= self._keep(~self.removal(self.structure, camera, step))
        return changed

    def _densify(self) -> bool:
        mean = self.statistics.gradient / self.statistics.visible.clamp_min(1)
        self.statistics.gradient.zero_()  # in place: captured steps go on recording there
        self.statistics.visible.zero_()
        chosen = mean >= self.config.gradient_threshold
        if self.config.max_gaussians is not None:
            room = self.config.max_gaussians - len(self.structure)
            if int(chosen.sum()) > room:
                best = mean.topk(max(room, 0)).indices
                chosen = chosen & torch.zeros_like(chosen).index_fill_(0, best, True)
        if not bool(chosen.any()):
            return False
        large = self.structure.scales.amax(1) > self.config.split_scale * self.extent
        clones, parents = (chosen & ~large).nonzero()[:, 0], (chosen & large).nonzero()[:, 0]
        rows = self._rows(clones)
        children = self._split(parents)
        added = {name: torch.cat([rows[name], children[name]]) for name in rows}
        keep = torch.ones_like(chosen).index_fill_(0, parents, False)
        self._replace(keep.nonzero()[:, 0], added)
        return True

    def _rows(self, index: Tensor) -> dict[str, Tensor]:
        return {name: p.detach()[index] for name, p in self.structure.named_parameters(recurse=False)}

    def _split(self, parents: Tensor) -> dict[str, Tensor]:
        """Children drawn from the parent's own distribution, smaller by SPLIT_SHRINK."""
        index = parents.repeat(SPLIT_CHILDREN)
        rows = self._rows(index)
        scales = self.structure.scales[index]
        noise = torch.randn(scales.shape, generator=self.generator).to(scales)
        axes = rotation_matrices(F.normalize(rows["quaternions_raw"], dim=1))  # [2 P, 3, 3]
        rows["means"] = rows["means"] + (axes * (noise * scales)[:, None]).sum(2)  # as in Camera.centers
        rows["scales_raw"] = inverse_softplus(scales / SPLIT_SHRINK)
        return rows

    def _prune(self, step: int) -> bool:
        config = self.config
        threshold = config.min_opacity + config.min_opacity_gain * step / self.last
        keep = self.structure.opacities[:, 0] >= threshold
        if step > config.max_scale_from:
            keep &= self.structure.scales.amax(1) <= config.max_scale * self.extent
        return self._keep(keep)

    def _keep(self, keep: Tensor) -> bool:
        if bool(keep.all()):
            return False
        if not bool(keep.any()):
            keep = self.structure.opacities[:, 0] == self.structure.opacities.max()  # never remove the last one
        index = keep.nonzero()[:, 0]
        self.statistics = Statistics(self.statistics.gradient[index], self.statistics.visible[index])
        self._replace(index, self._rows(index[:0]))
        return True

    def _replace(self, keep: Tensor, added: dict[str, Tensor]) -> None:
        """Keep some Gaussians with their moments and append others with zero moments."""
        for name, old in list(self.structure.named_parameters(recurse=False)):
            new = nn.Parameter(torch.cat([old.detach()[keep], added[name]]))
            fresh = torch.zeros_like(added[name])
            moments = {k: torch.cat([m[keep], fresh]) for k, m in self.optimizer.moments(old).items()}
            self.optimizer.replace(old, new, moments)
            setattr(self.structure, name, new)
        count = len(self.structure)
        if len(self.statistics.gradient) != count:
            self.statistics = Statistics.zeros(count, keep.device)

    def _reset_opacities(self) -> None:
        parameter = self.structure.opacities_raw
        parameter.clamp_(max=torch.logit(torch.tensor(RESET_OPACITY)).item())
        for moment in self.optimizer.moments(parameter).values():
            moment.zero_()
