"""Structure field: the Gaussians' parameters, activations and first values (METHOD.md section 3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from gaussian_rasterization.projection import sh_basis
from nearest_neighbours import mean_squared_distance
from torch import Tensor, nn

from instag import kernels
from instag.fields.motion import Deformation

SH_DC = 0.28209479  # the constant spherical harmonic; colour = SH_DC * dc + 0.5
INITIAL_COLOR = 127 / 255
INITIAL_OPACITY = 0.1
HEAD_RADIUS = 0.1  # first points: uniform in [-0.1, 0.1]^3, head units
HEAD_POINTS, MOUTH_POINTS = 2000, 5000
MOUTH_SHRINK, MOUTH_DROP = 0.5, 0.05  # the mouth's first points: halved coordinates, lowered in y
NEIGHBOURS = 3
SPACING_FLOOR = 1e-7  # of the mean squared distance to the neighbours


class InitialPoints(NamedTuple):
    """means [N, 3] head units; spacing [N], the root of the mean squared distance to the 3 nearest neighbours."""

    means: Tensor
    spacing: Tensor


class DeformedGaussians(NamedTuple):
    """means [B, N, 3]; scales [B, N, 3] active, head units; quaternions [B, N, 4] wxyz, not normalised."""

    means: Tensor
    scales: Tensor
    quaternions: Tensor


class DrawnGaussians(NamedTuple):
    """The Gaussians as the rasterizer takes them: `DeformedGaussians`, opacities [B, N] active, sh [N, K, 3]."""

    means: Tensor
    scales: Tensor
    quaternions: Tensor
    opacities: Tensor
    sh: Tensor


def point_spacing(points: Tensor, device: torch.device | str | None = None) -> Tensor:
    """Root of the mean squared distance to the 3 nearest neighbours, floored: [N, 3] -> [N]; N > 3.

    device: where the neighbours are looked for (a GPU needs no SciPy, whose import takes 0.4 s); None: where they lie.
    """
    squared = mean_squared_distance(points.detach().to(device or points.device), NEIGHBOURS).to(points.device)
    return squared.clamp_min(SPACING_FLOOR).sqrt()


def random_head_points(
    count: int = HEAD_POINTS, generator: torch.Generator | None = None, device: torch.device | str | None = None
) -> InitialPoints:
    """Uniform in the cube around the head, on the host; device: of `point_spacing`."""
    means = (2 * torch.rand(count, 3, generator=generator) - 1) * HEAD_RADIUS
    return InitialPoints(means, point_spacing(means, device))


def random_mouth_points(
    count: int = MOUTH_POINTS, generator: torch.Generator | None = None, device: torch.device | str | None = None
) -> InitialPoints:
    """Uniform in a cube of half the size below the centre; spacing as before the halving (METHOD.md section 3)."""
    means, spacing = random_head_points(count, generator, device)
    return InitialPoints(MOUTH_SHRINK * means - torch.tensor([0.0, MOUTH_DROP, 0.0]), spacing)


class GaussianField(nn.Module):
    """theta: N Gaussians.

    Parameters, raw: means [N, 3] head units, scales_raw [N, 3], quaternions_raw [N, 4] wxyz, opacities_raw [N, 1],
    sh_dc [N, 1, 3], sh_rest [N, K - 1, 3] with K = (max_sh_degree + 1)^2.

    Attributes:
        max_sh_degree: degree that the parameters hold.
        active_sh_degree: degree that is drawn now; the training loop raises it (`schedule.sh_degree`).
    """

    def __init__(
        self,
        means: Tensor,
        scales_raw: Tensor,
        quaternions_raw: Tensor,
        opacities_raw: Tensor,
        sh_dc: Tensor,
        sh_rest: Tensor,
        active_sh_degree: int = 0,
    ) -> None:
        super().__init__()
        self.means = nn.Parameter(means)
        self.scales_raw = nn.Parameter(scales_raw)
        self.quaternions_raw = nn.Parameter(quaternions_raw)
        self.opacities_raw = nn.Parameter(opacities_raw)
        self.sh_dc = nn.Parameter(sh_dc)
        self.sh_rest = nn.Parameter(sh_rest)
        self.active_sh_degree = active_sh_degree

    @classmethod
    def from_points(
        cls,
        means: Tensor,
        spacing: Tensor | None = None,
        color: float | Tensor = INITIAL_COLOR,
        opacity: float = INITIAL_OPACITY,
        max_sh_degree: int = 1,
    ) -> GaussianField:
        """First Gaussians (METHOD.md section 3): raw scale = ln of the spacing, identity rotation.

        Args:
            means: [N, 3].
            spacing: [N], else `point_spacing(means)`; positive.
            color: in [0, 1]: one number or [N, 3].
            opacity: in (0, 1).
            max_sh_degree: 0..3.
        """
        count = len(means)
        spacing = point_spacing(means) if spacing is None else spacing
        dc = (torch.as_tensor(color).to(means) - 0.5) / SH_DC
        return cls(
            means=means.clone(),
            scales_raw=spacing.log()[:, None].repeat(1, 3),
            quaternions_raw=means.new_tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1),
            opacities_raw=torch.logit(means.new_full((count, 1), opacity)),
            sh_dc=dc.expand(count, 3)[:, None].clone(),
            sh_rest=means.new_zeros(count, (max_sh_degree + 1) ** 2 - 1, 3),
        )

    def __len__(self) -> int:
        return len(self.means)

    @property
    def max_sh_degree(self) -> int:
        """Degree that the SH parameters hold."""
        return round((self.sh_rest.shape[1] + 1) ** 0.5) - 1

    @property
    def scales(self) -> Tensor:
        """[N, 3] head units: softplus of the raw scale."""
        return F.softplus(self.scales_raw)

    @property
    def opacities(self) -> Tensor:
        """[N, 1] in (0, 1)."""
        return torch.sigmoid(self.opacities_raw)

    @property
    def sh(self) -> Tensor:
        """[N, K, 3], all degrees; the rasterizer reads those up to `active_sh_degree`."""
        return torch.cat([self.sh_dc, self.sh_rest], 1)

    def colors(self, center: Tensor) -> Tensor:
        """Colours [N, 3], at least 0, of the undeformed Gaussians as seen from a camera centre [3]."""
        directions = F.normalize(self.means - center, dim=-1)
        basis = sh_basis(directions, self.active_sh_degree)  # [N, k]
        return ((basis[..., None] * self.sh[:, : basis.shape[1]]).sum(1) + 0.5).clamp_min(0)

    def deformed(self, deformation: Deformation | None = None) -> DeformedGaussians:
        """The Gaussians of B frames, ready to draw; without a deformation B = 1.

        Opacity and colour stay; the offsets are added to the raw quaternion and the raw scale (METHOD.md section 4).
        """
        if deformation is None:
            return DeformedGaussians(self.means[None], self.scales[None], self.quaternions_raw[None])
        means = self.means + deformation.d_mean
        frames = len(means)
        if deformation.mean_only:
            scales, quaternions = self.scales, self.quaternions_raw
            return DeformedGaussians(means, scales.expand(frames, -1, -1), quaternions.expand(frames, -1, -1))
        scales = F.softplus(self.scales_raw + deformation.d_scale)
        return DeformedGaussians(means, scales, self.quaternions_raw + deformation.d_rotation)

    def drawn(self, frames: int, deformation: Deformation | None = None) -> DrawnGaussians:
        """The Gaussians of B = `frames` frames, deformed or at rest; by one kernel where it applies."""
        if kernels.usable(self.means):
            from instag.kernels.deform import deform_cuda  # needs the `gpu` extra

            if deformation is None:
                return DrawnGaussians(*deform_cuda(self, frames))
            others = (None, None) if deformation.mean_only else (deformation.d_scale, deformation.d_rotation)
            return DrawnGaussians(*deform_cuda(self, frames, deformation.d_mean, *others))
        parts = (part.expand(frames, -1, -1) for part in self.deformed(deformation))
        return DrawnGaussians(*parts, self.opacities[:, 0].expand(frames, -1), self.sh)
