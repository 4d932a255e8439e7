"""Mean squared distance to the nearest neighbours: how large a Gaussian should start."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["distCUDA2", "mean_squared_distance"]

CHUNK_DISTANCES = 1 << 22  # distances held at once where there is no tree: 16 MiB in float32


@torch.no_grad()
def mean_squared_distance(points: Tensor, k: int = 3) -> Tensor:
    """Mean over the k nearest other points of the squared distance, [N, 3] to [N].

    Points on top of each other count as neighbours at distance 0, and nothing is floored: callers that take a
    logarithm floor first (METHOD.md section 3: at 1e-7). A k-d tree on the CPU (in double precision), all pairs in
    chunks on other devices. No gradient.

    Raises:
        ValueError: not [N, 3], not finite, or no more than k points.
    """
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points has shape {list(points.shape)}: give [N, 3]")
    if k < 1 or len(points) <= k:
        raise ValueError(f"{len(points)} points and k = {k}: give k >= 1 and more than k points")
    if not bool(torch.isfinite(points).all()):
        raise ValueError("points holds NaN or infinity: remove those points first")
    squared = _squared_by_tree(points, k) if points.device.type == "cpu" else _squared_by_pairs(points, k)
    return squared.mean(1)


def distCUDA2(points: Tensor) -> Tensor:
    """`mean_squared_distance` to the 3 nearest, under the name of the package that it stands in for."""
    return mean_squared_distance(points)


def _squared_by_tree(points: Tensor, k: int) -> Tensor:
    """[N, k]; each point finds itself (or its double) first, at distance 0."""
    from scipy.spatial import cKDTree

    array = points.double().numpy()
    distances, _ = cKDTree(array).query(array, k + 1)
    return torch.from_numpy(distances[:, 1:] ** 2).to(points.dtype)


def _squared_by_pairs(points: Tensor, k: int) -> Tensor:
    """[N, k]; without the matrix product, whose cancellation would cost near neighbours their digits.

    Nor by `torch.cdist`, which gives every pair a block of threads: 0.2 s for 12k points on an H200.
    """
    rows = max(1, CHUNK_DISTANCES // len(points))
    nearest = []
    for some in points.split(rows):
        squared = sum((a[:, None] - b).square() for a, b in zip(some.T, points.T, strict=True))  # [rows, N]
        nearest.append(squared.topk(k + 1, largest=False).values)
    return torch.cat(nearest)[:, 1:]
