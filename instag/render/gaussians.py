"""From deformed Gaussians to images: the only place that calls the rasterizer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from gaussian_rasterization import RasterOutput, RasterSettings, rasterize
from gaussian_rasterization.settings import Extent
from torch import Tensor

from instag.camera import Camera
from instag.fields.motion import Deformation
from instag.fields.structure import GaussianField


@dataclass(frozen=True)
class Motion:
    """How the N Gaussians of a branch move in B frames.

    Attributes:
        total: what deforms them.
        universal, personal: its summands; the second only where there is a personalised field.
        offset: the aligner's displacement of the query points [N, 3], or None.
    """

    total: Deformation
    universal: Deformation
    personal: Deformation | None = None
    offset: Tensor | None = None

    def attention_maps(self) -> Tensor:
        """Audio then eye attention of the universal, then of the personalised field, [B, N, 2 | 4]."""
        fields = [field for field in (self.universal, self.personal) if field is not None]
        return torch.cat([m for field in fields for m in (field.audio_attention, field.eye_attention)], -1)


@dataclass(frozen=True)
class BranchRender:
    """One branch of the head, drawn into B views.

    Attributes:
        image: colour, depth, normal, alpha, radii; `extra` holds the attention maps where they were asked for.
        motion: what moved the Gaussians; None for the static structure.
        projected: [B, N, 2] zeros whose gradient is dLoss/d(u, v) in device units, for density control; None when
            no gradient is recorded.
    """

    image: RasterOutput
    motion: Motion | None
    projected: Tensor | None


def render_branch(
    structure: GaussianField,
    camera: Camera,
    key: Tensor,
    motion: Motion | None = None,
    attention: bool = False,
    extent: Extent = "exact",
) -> BranchRender:
    """Deform a structure field and draw it.

    Args:
        structure: N Gaussians.
        camera: B views.
        key: [3] background colour in [0, 1].
        motion: B frames, or None for the static structure.
        attention: draw the attention maps as extra channels, geometry detached (METHOD.md section 4).
        extent: which pixels a Gaussian may reach.
    """
    views = len(camera.focal)
    gaussians = structure.drawn(views, motion and motion.total)
    projected = None
    if torch.is_grad_enabled():
        projected = gaussians.means.new_zeros(*gaussians.means.shape[:2], 2, requires_grad=True)
    image = rasterize(
        gaussians.means,
        gaussians.scales,
        gaussians.quaternions,
        gaussians.opacities,
        gaussians.sh,
        camera.world_to_camera,
        camera.focal,
        key,
        RasterSettings(camera.width, camera.height, structure.active_sh_degree, extent, detach_extra=True),
        extra=motion.attention_maps() if motion and attention else None,
        means2d=projected,
    )
    return BranchRender(image, motion, projected)
