"""Tri-plane hash encoding and the small MLP: the one copy of both (paper Eq. 2, METHOD.md section 4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instag import kernels

BOUND = 0.15  # head units; the motion fields' domain is the cube [-0.15, 0.15]^3
LEVELS = 12
LOG2_TABLE_SIZE = 17
PLANES = ((0, 1), (1, 2), (0, 2))  # axes of the planes (x,y), (y,z), (x,z), in this order
HASH_PRIME = 2654435761  # instant-ngp's second prime; the first is 1
TABLE_INIT = 1e-4  # entries start uniform in +-1e-4
ENTRY_ALIGNMENT = 8  # a level's entries are rounded up to a multiple of 8


class GridRange(NamedTuple):
    """Resolution of the coarsest and the finest level, cells per plane side (METHOD.md section 4)."""

    base: float
    top: float


# The reference multiplies the paper's upper end by the bound 0.15; the published figures were made with that.
REFERENCE_FACE = GridRange(16.0, 256.0 * BOUND)
REFERENCE_MOUTH = GridRange(64.0, 384.0 * BOUND)  # falls: 64 -> 57.6
PAPER_FACE = GridRange(16.0, 256.0)
PAPER_MOUTH = GridRange(64.0, 384.0)


@dataclass(frozen=True)
class GridLayout:
    """Where the levels of one plane lie in its array; all tuples have one item per level.

    Attributes:
        scales: cells per unit side; a position is u * scale + 0.5 (cell-centred).
        resolutions: ceil(scale) + 1; dense rows hold resolution + 1 entries.
        sizes: entries of the level.
        offsets: first entry of the level.
        hashed: True where (resolution + 1)^2 entries do not fit into the table.
    """

    scales: tuple[float, ...]
    resolutions: tuple[int, ...]
    sizes: tuple[int, ...]
    offsets: tuple[int, ...]
    hashed: tuple[bool, ...]

    @property
    def entries(self) -> int:
        """Entries of a plane."""
        return self.offsets[-1] + self.sizes[-1]


@lru_cache
def grid_layout(base: float, top: float, levels: int = LEVELS, log2_table_size: int = LOG2_TABLE_SIZE) -> GridLayout:
    """Levels between two resolutions, geometrically spaced (METHOD.md section 4). `top` may be below `base`."""
    growth = (top / base) ** (1 / (levels - 1))
    scales = tuple(base * growth**level - 1 for level in range(levels))
    resolutions = tuple(math.ceil(scale) + 1 for scale in scales)
    dense = [(resolution + 1) ** 2 for resolution in resolutions]
    capped = [min(count, 2**log2_table_size) for count in dense]
    sizes = tuple(-(-count // ENTRY_ALIGNMENT) * ENTRY_ALIGNMENT for count in capped)
    offsets = tuple(sum(sizes[:level]) for level in range(levels))
    hashed = tuple(count > size for count, size in zip(dense, sizes, strict=True))
    return GridLayout(scales, resolutions, sizes, offsets, hashed)


class LevelTensors(NamedTuple):
    """A layout's levels as tensors [L, 1] on a device."""

    scales: Tensor
    strides: Tensor
    sizes: Tensor
    offsets: Tensor
    hashed: Tensor


@lru_cache
def _level_tensors(layout: GridLayout, device: torch.device, dtype: torch.dtype) -> LevelTensors:
    """Made once per device: a copy to it on every call would wait for it, and cannot be captured in a CUDA graph."""
    whole = {"dtype": torch.int64, "device": device}
    return LevelTensors(
        torch.tensor(layout.scales, dtype=dtype, device=device)[:, None],
        torch.tensor(layout.resolutions, **whole)[:, None] + 1,
        torch.tensor(layout.sizes, **whole)[:, None],
        torch.tensor(layout.offsets, **whole)[:, None],
        torch.tensor(layout.hashed, device=device)[:, None],
    )


def _corner_entries(column: Tensor, row: Tensor, levels: LevelTensors, any_hashed: bool) -> Tensor:
    """Entries at the corners of cells: column, row [..., L] int64 -> [..., L, 4], offsets included.

    Corners in the order (i, j), (i+1, j), (i, j+1), (i+1, j+1).
    """
    columns = torch.stack([column, column + 1, column, column + 1], -1)
    rows = torch.stack([row, row, row + 1, row + 1], -1)
    entries = columns + rows * levels.strides
    if any_hashed:
        hashes = (columns ^ (rows * HASH_PRIME % 2**32)) % levels.sizes
        entries = torch.where(levels.hashed, hashes, entries)
    return entries + levels.offsets


def encode_torch(x: Tensor, table: Tensor, layout: GridLayout, bound: float) -> Tensor:
    """Bilinear features of three planes; any device, float32 or float64: the oracle of the faster twins.

    Args:
        x: [N, 3] world, head units. A plane on which a point lies outside +-bound gives zeros (the bounds are inside).
        table: [3, entries], planes (x,y), (y,z), (x,z).
        layout: `grid_layout` that the table was made for.
        bound: half side of the domain.

    Returns:
        [N, 3 L] plane-major: L of (x,y), L of (y,z), L of (x,z). Differentiable in x and table.
    """
    unit = (x + bound) / (2 * bound)  # [N, 3] in [0, 1]
    uv = torch.stack([unit[:, axes] for axes in PLANES], 1)  # [N, 3, 2]
    inside = ((uv >= 0) & (uv <= 1)).all(-1)  # [N, 3]
    uv = torch.where(inside[..., None], uv, 0.5)
    levels = _level_tensors(layout, x.device, x.dtype)
    position = uv[:, :, None] * levels.scales + 0.5  # [N, 3, L, 2]
    cell = position.detach().floor()
    right, down = (position - cell).unbind(-1)  # [N, 3, L]
    plane_start = torch.arange(len(PLANES), device=x.device)[:, None, None] * table.shape[1]
    entries = _corner_entries(*cell.long().unbind(-1), levels, any(layout.hashed)) + plane_start  # [N, 3, L, 4]
    corners = table.reshape(-1).index_select(0, entries.reshape(-1)).view(entries.shape)
    upper = corners[..., 0] * (1 - right) + corners[..., 1] * right
    lower = corners[..., 2] * (1 - right) + corners[..., 3] * right
    features = upper * (1 - down) + lower * down
    return torch.where(inside[..., None], features, 0.0).flatten(1)


HAS_NUMBA = find_spec("numba") is not None


def encode(x: Tensor, table: Tensor, layout: GridLayout, bound: float) -> Tensor:
    """`encode_torch`, by its CUDA or numba twin where one applies (float32)."""
    if kernels.usable(x, table):
        from instag.kernels.hash_grid import encode_cuda  # needs the `gpu` extra

        return encode_cuda(x, table, layout, bound)
    if HAS_NUMBA and x.device.type == "cpu" and x.dtype == table.dtype == torch.float32:
        from instag.fields.encoding_numba import encode_numba  # numba takes 0.5 s to import: only where it is used

        return encode_numba(x, table, layout, bound)
    return encode_torch(x, table, layout, bound)


class TriPlaneEncoding(nn.Module):
    """H(mu): three 2D multi-resolution grids, 1 feature a level (paper Eq. 2, METHOD.md section 4).

    `table` [3, entries] holds the planes (x,y), (y,z), (x,z); within a plane the levels follow each other.
    """

    def __init__(
        self,
        base: float,
        top: float,
        bound: float = BOUND,
        levels: int = LEVELS,
        log2_table_size: int = LOG2_TABLE_SIZE,
    ) -> None:
        super().__init__()
        self.bound = bound
        self.layout = grid_layout(base, top, levels, log2_table_size)
        self.table = nn.Parameter(torch.empty(len(PLANES), self.layout.entries).uniform_(-TABLE_INIT, TABLE_INIT))

    @property
    def features(self) -> int:
        """Width of the output."""
        return len(PLANES) * len(self.layout.scales)

    def forward(self, x: Tensor) -> Tensor:
        """[..., 3] world -> [..., features]; zeros of a plane on which the point lies outside the bound."""
        features = encode(x.reshape(-1, 3), self.table, self.layout, self.bound)
        return features.view(*x.shape[:-1], self.features)


class MLP(nn.Module):
    """Linear layers without bias, ReLU between them (METHOD.md section 4)."""

    def __init__(self, inputs: int, hidden: int, outputs: int, layers: int) -> None:
        super().__init__()
        sizes = [inputs, *[hidden] * (layers - 1), outputs]
        self.layers = nn.ModuleList(
            nn.Linear(narrow, wide, bias=False) for narrow, wide in zip(sizes, sizes[1:], strict=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        return _deeper(self.layers[0](x), self.layers[1:])

    def gated(self, x: Tensor, gain: Tensor) -> Tensor:
        """forward(x * gain) for points that B frames share: x [N, inputs], gain [B, inputs] -> [B, N, outputs].

        The gain scales the columns of the first layer instead of the points, so nothing of size B x N x inputs exists.
        """
        weight = self.layers[0].weight * gain[:, None]  # [B, hidden, inputs]
        return _deeper(x @ weight.transpose(1, 2), self.layers[1:])

    def conditioned(self, x: Tensor, condition: Tensor) -> Tensor:
        """forward([x, condition]) for points that B frames share: x [N, P], condition [B, C] -> [B, N, outputs].

        P + C = inputs. The condition is the same for all points, so in the first layer it is one vector per frame.
        """
        over_points, over_frames = self.layers[0].weight.split([x.shape[-1], condition.shape[-1]], 1)
        first = F.linear(x, over_points) + F.linear(condition, over_frames)[:, None]
        return _deeper(first, self.layers[1:])


def _deeper(hidden: Tensor, layers: Sequence[nn.Module]) -> Tensor:
    """What follows the first layer. `hidden` is the caller's own fresh product: the ReLU may overwrite it."""
    for layer in layers:
        hidden = layer(F.relu(hidden, inplace=True))
    return hidden
