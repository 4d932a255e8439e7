"""The oracle: every Gaussian at every pixel, in as many lines as the definition needs. Slow; meant for float64."""

from __future__ import annotations

import torch
from torch import Tensor

from .projection import ALPHA_MAX, ALPHA_MIN, DEPTH, FEATURES, GEOMETRY, TRANSMITTANCE_MIN, Projection
from .settings import TILE, RasterSettings

PIXELS_AT_ONCE = 4096


def blend_weights(
    records: Tensor,  # [..., L, 13 + E] front to back
    reaches: Tensor,  # [..., P, L] bool (or broadcastable): may this Gaussian touch this pixel
    x: Tensor,  # [..., P] pixel indices
    y: Tensor,  # [..., P]
) -> Tensor:
    """The weight alpha T of every Gaussian at every pixel, [..., P, L]."""
    u, v, a, b, c, opacity = (column[..., None, :] for column in records[..., :GEOMETRY].unbind(-1))
    dx, dy = u - x[..., None], v - y[..., None]
    power = -0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy
    raw = opacity * torch.exp(power)
    alpha = raw + (raw.clamp_max(ALPHA_MAX) - raw).detach()  # the gradient passes as if unclamped, see README.md
    alpha = torch.where(reaches & (power <= 0) & (alpha >= ALPHA_MIN), alpha, 0.0)
    after = torch.cumprod(1 - alpha, -1)  # transmittance behind each Gaussian
    before = torch.cat([torch.ones_like(after[..., :1]), after[..., :-1]], -1)
    return torch.where(after >= TRANSMITTANCE_MIN, alpha * before, 0.0)


def blend_features(weights: Tensor, records: Tensor, settings: RasterSettings) -> Tensor:
    """Weights [..., P, L] times the features of records [..., L, 13 + E], then alpha: [..., P, 8 + E]."""
    features, extra = records[..., GEOMETRY : GEOMETRY + FEATURES], records[..., GEOMETRY + FEATURES :]
    extra_weights = weights.detach() if settings.detach_extra else weights
    return torch.cat([weights @ features, extra_weights @ extra, weights.sum(-1, keepdim=True)], -1)


def blend(projection: Projection, settings: RasterSettings) -> Tensor:
    """[B, 8 + E, H, W]: the blended features (r g b, depth, normal, extra), then alpha."""
    views = zip(projection.records, projection.radii, projection.tiles, strict=True)
    return torch.stack([_blend_view(*view, settings) for view in views])


def _blend_view(records: Tensor, radii: Tensor, tiles: Tensor, settings: RasterSettings) -> Tensor:
    drawn = radii.nonzero().squeeze(-1)
    order = drawn[torch.argsort(records[drawn, DEPTH], stable=True)]
    records, tiles = records[order], tiles[order]
    rows = []
    for pixels in torch.arange(settings.width * settings.height, device=records.device).split(PIXELS_AT_ONCE):
        x, y = pixels % settings.width, pixels // settings.width
        weights = blend_weights(records, _reaches(tiles, x, y, settings), x, y)  # [P, n]
        rows.append(blend_features(weights, records, settings))
    return torch.cat(rows).T.unflatten(-1, (settings.height, settings.width))


def _reaches(tiles: Tensor, x: Tensor, y: Tensor, settings: RasterSettings) -> Tensor:
    """[P, n]: the exact extent knows no tiles; the other one is made of them."""
    if settings.extent == "exact":
        return torch.ones((), dtype=torch.bool, device=x.device)
    x0, x1, y0, y1 = tiles.unbind(-1)
    tile_x, tile_y = (x // TILE)[:, None], (y // TILE)[:, None]
    return (tile_x >= x0) & (tile_x < x1) & (tile_y >= y0) & (tile_y < y1)
