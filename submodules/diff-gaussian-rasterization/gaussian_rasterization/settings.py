"""What a rasterizer call is given beside tensors, and what it returns. The contract of every back end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

TILE = 16  # px; side of a square tile
NEAR = 0.2  # world units; METHOD.md section 3
MAX_SH_DEGREE = 3

Extent = Literal["exact", "three_sigma"]


class RasterizerError(ValueError):
    """A rasterizer call that cannot be served; one line that names the culprit and the remedy."""


@dataclass(frozen=True)
class RasterSettings:
    """Everything of a rasterizer call that is not a tensor."""

    width: int
    """Image width in pixels."""
    height: int
    """Image height in pixels."""
    sh_degree: int
    """Active degree of the spherical harmonics, 0..3."""
    extent: Extent = "exact"
    """Which pixels a Gaussian may reach: all where its alpha is at least 1/255, or the tiles within three sigma."""
    near: float = NEAR
    """Gaussians at camera depth <= near are not drawn; world units, > 0."""
    detach_extra: bool = False
    """The extra channels' gradient reaches the extra attributes alone, not geometry and opacity."""

    @property
    def tiles_x(self) -> int:
        """Tiles in a row, the last one perhaps cut off."""
        return -(-self.width // TILE)

    @property
    def tiles_y(self) -> int:
        """Tiles in a column, the last one perhaps cut off."""
        return -(-self.height // TILE)


@dataclass(frozen=True)
class RasterOutput:
    """The images of B views."""

    color: Tensor  # [B, 3, H, W]  background blended in with the final transmittance
    depth: Tensor  # [B, 1, H, W]  sum of alpha T z, world units, not normalised
    normal: Tensor  # [B, 3, H, W]  unit vector in world axes where something was hit, zero elsewhere
    alpha: Tensor  # [B, 1, H, W]  in [0, 1)
    extra: Tensor  # [B, E, H, W]  sum of alpha T extra
    radii: Tensor  # [B, N] int32  three-sigma radius in px; 0 = reaches no pixel (see README.md)
