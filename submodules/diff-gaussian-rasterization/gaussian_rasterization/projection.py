"""World-space Gaussians to one record per Gaussian and view, in differentiable torch; shared by torch and numba.

A record is what blending needs: `u v | conic a b c | opacity | r g b | depth | normal (3) | extra (E)`, see README.md
for every convention and METHOD.md section 3 for their source. Any floating dtype, any device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .settings import TILE, RasterSettings

GEOMETRY = 6  # leading columns of a record: u, v, conic a, b, c, opacity; the blended features follow
FEATURES = 7  # features of every record: r, g, b, depth, normal x, y, z; the extra attributes follow
DEPTH = GEOMETRY + 3  # column of the camera depth

ALPHA_MAX = 0.99  # a single Gaussian never covers more than this; the gradient passes as if unclamped
ALPHA_MIN = 1 / 255  # fainter contributions are skipped
TRANSMITTANCE_MIN = 1e-4  # the Gaussian that would bring a pixel's transmittance below this is dropped and ends it

DILATION = 0.3  # px^2, added to the diagonal of every 2D covariance
JACOBIAN_LIMIT = 1.3  # in units of tan(fov / 2): where the projection's Jacobian stops following X/Z and Y/Z
RADIUS_FLOOR = 0.1  # px^4, least squared half-difference of the two eigenvalues in the three-sigma radius

SH0 = 0.28209479177387814
SH1 = 0.4886025119029199
SH2 = (1.0925484305920792, -1.0925484305920792, 0.31539156525252005, -1.0925484305920792, 0.5462742152960396)
SH3 = (
    -0.5900435899266435,
    2.890611442640554,
    -0.4570457994644658,
    0.3731763325901154,
    -0.4570457994644658,
    1.445305721320277,
    -0.5900435899266435,
)


@dataclass(frozen=True)
class Projection:
    """B views of N Gaussians, ready to be blended."""

    records: Tensor  # [B, N, 13 + E]
    radii: Tensor  # [B, N] int32, 0 = reaches no pixel
    tiles: Tensor  # [B, N, 4] int64, half-open tile ranges x0 x1 y0 y1; empty where the radius is 0


def unit(vectors: Tensor, dim: int = -1) -> Tensor:
    """Vectors along `dim` at length 1; zero stays zero (with a finite gradient)."""
    squared = (vectors * vectors).sum(dim, keepdim=True)  # torch's own norm is many times slower over a leading dim
    return vectors * torch.rsqrt(torch.where(squared > 0, squared, 1.0))


def rotation_matrices(quaternions: Tensor, dim: int = -1) -> Tensor:
    """Quaternions wxyz of any length > 0, [..., 4, ...] to [..., 3, 3, ...], components in `dim`."""
    w, x, y, z = unit(quaternions, dim).unbind(dim)
    entries = [
        1 - 2 * (y * y + z * z),
        2 * (x * y - w * z),
        2 * (x * z + w * y),
        2 * (x * y + w * z),
        1 - 2 * (x * x + z * z),
        2 * (y * z - w * x),
        2 * (x * z - w * y),
        2 * (y * z + w * x),
        1 - 2 * (x * x + y * y),
    ]
    return torch.stack(entries, dim).unflatten(dim, (3, 3))


def sh_basis(directions: Tensor, degree: int, dim: int = -1) -> Tensor:
    """Spherical harmonics in 3DGS's order and signs: unit directions [..., 3, ...] to [..., (degree + 1)^2, ...]."""
    x, y, z = directions.unbind(dim)
    basis = [torch.full_like(x, SH0)]
    if degree >= 1:
        basis += [-SH1 * y, SH1 * z, -SH1 * x]
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        basis += [SH2[0] * x * y, SH2[1] * y * z, SH2[2] * (2 * zz - xx - yy), SH2[3] * x * z, SH2[4] * (xx - yy)]
    if degree >= 3:
        basis += [
            SH3[0] * y * (3 * xx - yy),
            SH3[1] * x * y * z,
            SH3[2] * y * (4 * zz - xx - yy),
            SH3[3] * z * (2 * zz - 3 * xx - 3 * yy),
            SH3[4] * x * (4 * zz - xx - yy),
            SH3[5] * z * (xx - yy),
            SH3[6] * x * (xx - 3 * yy),
        ]
    return torch.stack(basis, dim)


def facing_normals(rotations: Tensor, scales: Tensor, rays: Tensor) -> Tensor:
    """The thinnest axis of each Gaussian, [B, 3, N], turned against its viewing ray; choice and sign: no gradient."""
    x, y, z = scales.unbind(1)
    axis_z, axis_y = ((z < x) & (z < y))[:, None], ((y < x) & (y < z))[:, None]
    normals = torch.where(axis_z, rotations[:, :, 2], torch.where(axis_y, rotations[:, :, 1], rotations[:, :, 0]))
    away = (normals * rays).sum(1, keepdim=True) > 0
    return torch.where(away, -normals, normals)


def screen_axes(view: Tensor, depth: Tensor, axes: Tensor, focal: Tensor, settings: RasterSettings) -> list[Tensor]:
    """The Gaussians' three axes on the screen, in px: rows u and v of J W R S, each [B, 3, N].

    `view` [B, 3, N] and `axes` [B, 3, 3, N] (axes in columns, scaled) are in camera space, `depth` [B, N] is positive.
    """
    magnification = (focal / depth)[:, None]
    rows = []
    for row, size in enumerate((settings.width, settings.height)):
        limit = JACOBIAN_LIMIT * size / (2 * focal)
        slope = torch.clamp(view[:, row] / depth, -limit, limit)[:, None]
        rows.append(magnification * (axes[:, row] - slope * axes[:, 2]))
    return rows


def squared_area(a: Tensor, b: Tensor) -> Tensor:
    """|a x b|^2, [B, 3, N] and [B, 3, N] to [B, N]."""
    (a0, a1, a2), (b0, b1, b2) = a.unbind(1), b.unbind(1)
    return (a1 * b2 - a2 * b1).square() + (a2 * b0 - a0 * b2).square() + (a0 * b1 - a1 * b0).square()


def project(
    means: Tensor,  # [B, N, 3]
    scales: Tensor,  # [B, N, 3]
    quaternions: Tensor,  # [B, N, 4]
    opacities: Tensor,  # [B, N]
    sh: Tensor,  # [N, K, 3]
    world_to_camera: Tensor,  # [B, 4, 4]
    focal: Tensor,  # [B]
    settings: RasterSettings,
    extra: Tensor,  # [B, N, E]
    means2d: Tensor | None,  # [B, N, 2] normalised device units
) -> Projection:
    """Project every Gaussian into every view; arguments as `rasterize` has checked and expanded them."""
    rotation, translation = world_to_camera[:, :3, :3], world_to_camera[:, :3, 3:]
    focal = focal[:, None]
    # Components first, Gaussians last: every operation below then runs over contiguous memory.
    means, scales, quaternions, extra = (t.transpose(1, 2).contiguous() for t in (means, scales, quaternions, extra))
    view = rotation @ means + translation
    in_front = view[:, 2] > settings.near
    depth = torch.where(in_front, view[:, 2], 1.0)  # anything harmless to divide by where nothing is drawn

    u = focal * view[:, 0] / depth + (settings.width / 2 - 0.5)
    v = focal * view[:, 1] / depth + (settings.height / 2 - 0.5)
    if means2d is not None:
        u = u + means2d[..., 0] * (settings.width / 2)
        v = v + means2d[..., 1] * (settings.height / 2)

    rotations = rotation_matrices(quaternions, dim=1)
    axes = (rotation @ rotations.flatten(2)).view_as(rotations) * scales[:, None]
    along_u, along_v = screen_axes(view, depth, axes, focal, settings)
    raw_uu, cov_uv, raw_vv = (along_u * along_u).sum(1), (along_u * along_v).sum(1), (along_v * along_v).sum(1)
    cov_uu, cov_vv = raw_uu + DILATION, raw_vv + DILATION
    # det(A A^T + dI) by Cauchy-Binet: positive by construction, where uu * vv - uv^2 cancels for long thin splats
    det = squared_area(along_u, along_v) + DILATION * (raw_uu + raw_vv) + DILATION**2

    rays = means + rotation.transpose(1, 2) @ translation  # mean - camera centre
    basis = sh_basis(unit(rays, dim=1), settings.sh_degree, dim=1)
    color = (basis[:, :, None] * sh[:, : basis.shape[1]].permute(1, 2, 0).contiguous()).sum(1) + 0.5
    normals = facing_normals(rotations, scales, rays)

    geometry = torch.stack([u, v, cov_vv / det, -cov_uv / det, cov_uu / det, opacities], 1)
    records = torch.cat([geometry, color.clamp_min(0), depth[:, None], normals, extra], 1).transpose(1, 2).contiguous()
    with torch.no_grad():
        reach = tile_ranges_exact if settings.extent == "exact" else tile_ranges_three_sigma
        radius = three_sigma_radius(cov_uu, cov_uv, cov_vv)
        tiles = reach(u, v, cov_uu, cov_vv, opacities, radius, settings)
        drawn = in_front & (tiles[..., 1] > tiles[..., 0]) & (tiles[..., 3] > tiles[..., 2])
        return Projection(records, torch.where(drawn, radius, 0).int(), torch.where(drawn[..., None], tiles, 0))


def three_sigma_radius(cov_uu: Tensor, cov_uv: Tensor, cov_vv: Tensor) -> Tensor:
    """Whole pixels, [B, N] floating: ceil(3 sqrt(larger eigenvalue)) with METHOD.md's floor on the discriminant."""
    middle = 0.5 * (cov_uu + cov_vv)
    spread = (0.5 * (cov_uu - cov_vv)).square() + cov_uv.square()  # = middle^2 - det, without its cancellation
    return torch.ceil(3 * torch.sqrt(middle + torch.sqrt(spread.clamp_min(RADIUS_FLOOR))))


def tile_ranges_three_sigma(
    u: Tensor, v: Tensor, cov_uu: Tensor, cov_vv: Tensor, opacities: Tensor, radius: Tensor, settings: RasterSettings
) -> Tensor:
    """[B, N, 4]: the tiles that the square of half side `radius` reaches, by the reference's own rounding."""

    def span(center: Tensor, tiles: int) -> list[Tensor]:
        first, last = (center - radius) / TILE, (center + radius + TILE - 1) / TILE
        return [edge.trunc().clamp(0, tiles).long() for edge in (first, last)]

    return torch.stack(span(u, settings.tiles_x) + span(v, settings.tiles_y), -1)


def tile_ranges_exact(
    u: Tensor, v: Tensor, cov_uu: Tensor, cov_vv: Tensor, opacities: Tensor, radius: Tensor, settings: RasterSettings
) -> Tensor:
    """[B, N, 4]: the tiles of the pixels in the bounding box of the ellipse alpha = 1/255."""
    squared_sigmas = 2 * torch.log(opacities / ALPHA_MIN)  # negative or -inf: too faint anywhere

    def span(center: Tensor, variance: Tensor, size: int) -> list[Tensor]:
        half = torch.sqrt(squared_sigmas.clamp_min(0) * variance)
        first = (center - half).ceil().clamp(0, size)
        last = (center + half).floor().clamp(-1, size - 1)
        reached = (squared_sigmas > 0) & (last >= first)
        return [torch.where(reached, tile, 0).long() for tile in (first.div(TILE).floor(), last.div(TILE).floor() + 1)]

    return torch.stack(span(u, cov_uu, settings.width) + span(v, cov_vv, settings.height), -1)
