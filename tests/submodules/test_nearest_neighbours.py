"""Mean squared distance to the nearest neighbours."""

from __future__ import annotations

import nearest_neighbours
import pytest
import torch
from nearest_neighbours import distCUDA2, mean_squared_distance


def by_all_pairs(points: torch.Tensor, k: int) -> torch.Tensor:
    squared = (points[:, None] - points).square().sum(-1)
    squared.fill_diagonal_(torch.inf)
    return squared.sort(1).values[:, :k].mean(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_both_ways_are_all_pairs(dtype: torch.dtype, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.rand(300, 3, dtype=dtype, generator=torch.Generator().manual_seed(0)) + 10  # far from the origin
    truth = by_all_pairs(points, k)
    monkeypatch.setattr(nearest_neighbours, "CHUNK_DISTANCES", 5000)  # several chunks
    pairs = nearest_neighbours._squared_by_pairs(points, k).mean(1)
    for result in (mean_squared_distance(points, k), pairs):
        assert result.dtype == dtype and result.shape == (300,)
        torch.testing.assert_close(result, truth, rtol=1e-5, atol=0)


def test_doubles_count_and_nothing_is_floored() -> None:
    points = torch.tensor([[0.0, 0, 0]] * 4 + [[1.0, 0, 0]])
    expected = [0.0, 0, 0, 0, 1]
    assert mean_squared_distance(points).tolist() == expected
    assert nearest_neighbours._squared_by_pairs(points, 3).mean(1).tolist() == expected
    assert distCUDA2(points).tolist() == expected


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (torch.zeros(4, 2), r"shape \[4, 2\]: give \[N, 3\]"),
        (torch.zeros(3, 3), "3 points and k = 3"),
        (torch.full((9, 3), torch.nan), "NaN or infinity"),
    ],
)
def test_errors(points: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mean_squared_distance(points)


def test_no_gradient_and_any_layout() -> None:
    points = torch.rand(3, 50).T.requires_grad_()
    assert not mean_squared_distance(points).requires_grad
