"""The class interface that 3DGS code calls, over `rasterize`: same names, one view, also depth, normal and extra."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .core import rasterize
from .projection import SH0
from .settings import Extent, RasterizerError, RasterSettings

FOCAL_TOLERANCE = 1e-3  # relative difference of the two focal lengths up to which pixels count as square


@dataclass(frozen=True)
class GaussianRasterizationSettings:
    """A camera and its background, as 3DGS spells them."""

    image_height: int
    image_width: int
    tanfovx: float
    """tan(fov_x / 2); the focal length follows, the principal point is the image centre."""
    tanfovy: float
    """Must give the same focal length in px as tanfovx: pixels are square."""
    bg: Tensor
    """[3] background colour."""
    scale_modifier: float
    """Multiplies every scale."""
    viewmatrix: Tensor
    """[4, 4] world to camera (OpenCV axes), transposed, as the field passes it."""
    projmatrix: Tensor | None = None
    """Not used: it follows from the rest."""
    sh_degree: int = 0
    """Active degree, 0..3."""
    campos: Tensor | None = None
    """Not used: it follows from viewmatrix."""
    prefiltered: bool = False
    """Not used: every Gaussian is tested against the near plane."""
    debug: bool = False
    """Not used."""
    extent: Extent = "exact"
    """Ours: see `RasterSettings`; "three_sigma" for the field's tile rule."""


class Rasterized(NamedTuple):
    """What `GaussianRasterizer` returns, to be unpacked in this order."""

    color: Tensor  # [3, H, W]
    depth: Tensor  # [1, H, W]
    normal: Tensor  # [3, H, W]
    alpha: Tensor  # [1, H, W]
    radii: Tensor  # [N] int32
    extra: Tensor  # [E, H, W]


class GaussianRasterizer(nn.Module):
    """Draws Gaussians with one camera; `backend` as in `rasterize`."""

    def __init__(self, raster_settings: GaussianRasterizationSettings, backend: str = "auto") -> None:
        super().__init__()
        self.raster_settings = raster_settings
        self.backend = backend

    def forward(
        self,
        means3D: Tensor,
        means2D: Tensor | None,
        opacities: Tensor,  # [N, 1] or [N]
        shs: Tensor | None = None,  # [N, K, 3]
        colors_precomp: Tensor | None = None,  # [N, 3]
        scales: Tensor | None = None,  # [N, 3]
        rotations: Tensor | None = None,  # [N, 4]
        cov3Ds_precomp: Tensor | None = None,
        extra_attrs: Tensor | None = None,  # [N, E]
    ) -> Rasterized:
        """Draw one view. All values activated: scales positive, opacities in (0, 1), rotations wxyz of any length.

        Args:
            means2D: zeros whose first two columns receive dLoss/d(u, v) in normalised device units.
            shs, colors_precomp: exactly one of them; given colours are used as they are, floored at 0.
            cov3Ds_precomp: not supported: the normal is an axis of the Gaussian, so give scales and rotations.

        Raises:
            RasterizerError: as `rasterize`, and for the argument combinations above.
        """
        settings = self.raster_settings
        if cov3Ds_precomp is not None or scales is None or rotations is None:
            raise RasterizerError("cov3Ds_precomp is not supported: give scales and rotations (normals need the axes)")
        if (shs is None) == (colors_precomp is None):
            raise RasterizerError("give exactly one of shs and colors_precomp")
        if colors_precomp is not None:
            shs = ((colors_precomp - 0.5) / SH0)[:, None]
        output = rasterize(
            means3D[None],
            scales[None] * settings.scale_modifier,
            rotations[None],
            opacities.reshape(-1),
            shs,
            settings.viewmatrix.T[None].to(means3D),
            torch.full((1,), _focal(settings), dtype=means3D.dtype, device=means3D.device),
            settings.bg.to(means3D),
            RasterSettings(
                width=settings.image_width,
                height=settings.image_height,
                sh_degree=settings.sh_degree if colors_precomp is None else 0,
                extent=settings.extent,
            ),
            extra=None if extra_attrs is None else extra_attrs[None],
            means2d=None if means2D is None else means2D[None, :, :2],
            backend=self.backend,
        )
        return Rasterized(
            output.color[0], output.depth[0], output.normal[0], output.alpha[0], output.radii[0], output.extra[0]
        )


def _focal(settings: GaussianRasterizationSettings) -> float:
    """The one focal length, in px, of both fields of view."""
    focal_x = settings.image_width / (2 * settings.tanfovx)
    focal_y = settings.image_height / (2 * settings.tanfovy)
    if not math.isclose(focal_x, focal_y, rel_tol=FOCAL_TOLERANCE):
        raise RasterizerError(
            f"tanfovx and tanfovy give focal lengths of {focal_x:.2f} and {focal_y:.2f} px: pixels must be square"
        )
    return focal_x
