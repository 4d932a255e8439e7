"""The oracle's equation tile by tile: pure torch, any device and floating dtype, memory bounded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .projection import DEPTH, GEOMETRY, Projection
from .reference import blend_features, blend_weights
from .settings import TILE, RasterSettings

CHUNK_ELEMENTS = 1 << 22  # (pixel, Gaussian) pairs blended at once: few launches on a GPU ...
CHUNK_ELEMENTS_CPU = 1 << 17  # ... and operands that stay in the cache on a CPU
KEPT_ELEMENTS = 1 << 24  # beyond this many pairs in all, the backward pass recomputes chunks instead of storing them


@dataclass(frozen=True)
class TileLists:
    """Which Gaussians each tile of each view sees, front to back. Gaussians and tiles are numbered across views."""

    tiles: Tensor  # [A] occupied tiles, longest list first
    starts: Tensor  # [A] where a tile's list begins in `gaussians`
    counts: Tensor  # [A] its length
    gaussians: Tensor  # [I] b * N + n


@torch.no_grad()
def tile_lists(projection: Projection, settings: RasterSettings) -> TileLists:
    """List every (Gaussian, tile) pair by tile, within a tile by depth, ties by index."""
    views, gaussians, _ = projection.records.shape
    x0, x1, y0, y1 = projection.tiles.flatten(0, 1).unbind(-1)
    order = torch.argsort(projection.records[..., DEPTH].flatten(), stable=True)
    columns = x1 - x0
    pairs = (columns * (y1 - y0))[order]
    owner = torch.repeat_interleave(order, pairs)  # [I]
    ordinal = torch.arange(len(owner), device=owner.device) - torch.repeat_interleave(pairs.cumsum(0) - pairs, pairs)
    row, column = y0[owner] + ordinal // columns[owner], x0[owner] + ordinal % columns[owner]
    per_view = settings.tiles_x * settings.tiles_y
    tile = (owner // max(gaussians, 1)) * per_view + row * settings.tiles_x + column
    by_tile = torch.argsort(tile, stable=True)
    counts = torch.bincount(tile, minlength=views * per_view)
    tiles = torch.argsort(counts, descending=True, stable=True)[: int((counts > 0).sum())]
    return TileLists(tiles, (counts.cumsum(0) - counts)[tiles], counts[tiles], owner[by_tile])


def blend(projection: Projection, settings: RasterSettings) -> Tensor:
    """[B, 8 + E, H, W]: the blended features (r g b, depth, normal, extra), then alpha."""
    lists = tile_lists(projection, settings)
    views, _, width = projection.records.shape
    records = projection.records.flatten(0, 1)
    limit = CHUNK_ELEMENTS_CPU if records.device.type == "cpu" else CHUNK_ELEMENTS
    chunks = _chunks(lists.counts.tolist(), limit) or [(0, 0, 0)]  # with nothing to draw, still a (zero) gradient
    pairs = sum((stop - start) * length for start, stop, length in chunks) * TILE * TILE
    recompute = pairs > KEPT_ELEMENTS and torch.is_grad_enabled()
    blended = []
    for chunk in chunks:
        if recompute:
            blended.append(checkpoint(_blend_chunk, records, lists, chunk, settings, use_reentrant=False))
        else:
            blended.append(_blend_chunk(records, lists, chunk, settings))

    tiles_y, tiles_x = settings.tiles_y, settings.tiles_x
    canvas = records.new_zeros(views * tiles_y * tiles_x, TILE * TILE, width - GEOMETRY + 1)
    canvas = canvas.index_put((lists.tiles,), torch.cat(blended))
    canvas = canvas.unflatten(1, (TILE, TILE)).unflatten(0, (views, tiles_y, tiles_x))  # [B, ty, tx, 16, 16, C]
    image = canvas.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
    return image[..., : settings.height, : settings.width]


def _chunks(counts: list[int], limit: int) -> list[tuple[int, int, int]]:
    """Cut tiles, longest list first, into (start, stop, longest list) of at most `limit` pairs, one tile at least."""
    chunks, start = [], 0
    while start < len(counts):
        stop = min(len(counts), start + max(1, limit // (counts[start] * TILE * TILE)))
        chunks.append((start, stop, counts[start]))
        start = stop
    return chunks


def _blend_chunk(records: Tensor, lists: TileLists, chunk: tuple[int, int, int], settings: RasterSettings) -> Tensor:
    """Tiles start..stop of the lists, padded to the longest of them, to [tiles, 256, 8 + E]."""
    start, stop, length = chunk
    place = torch.arange(length, device=records.device)
    listed = place < lists.counts[start:stop, None]  # [t, L]
    index = lists.gaussians[torch.where(listed, lists.starts[start:stop, None] + place, 0)]
    seen = records.index_select(0, index.flatten()).unflatten(0, index.shape)  # [t, L, 13 + E]

    tile = lists.tiles[start:stop, None] % (settings.tiles_x * settings.tiles_y)
    pixel = torch.arange(TILE * TILE, device=records.device)
    x = tile % settings.tiles_x * TILE + pixel % TILE  # [t, 256]
    y = tile // settings.tiles_x * TILE + pixel // TILE
    weights = blend_weights(seen, listed[:, None], x, y)
    return blend_features(weights, seen, settings)
