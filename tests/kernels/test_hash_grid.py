"""The tri-plane hash grid's kernels, emulated and on a GPU, against the float64 torch twin."""

from __future__ import annotations

import pytest
import torch
from raster_scenes import relative_error

from instag.fields.encoding import PAPER_FACE, REFERENCE_FACE, REFERENCE_MOUTH, encode_torch, grid_layout

BOUND = 0.125  # exact in float32, so that both precisions agree on what lies outside


def compare(layout, points: int, device: torch.device, tolerance: float = 1e-5) -> None:
    from instag.kernels.hash_grid import encode_cuda

    generator = torch.Generator().manual_seed(0)
    x = 2.2 * BOUND * (torch.rand(points, 3, generator=generator) - 0.5)  # one in ten lies outside
    x[0], x[1] = BOUND, -BOUND  # the bounds are inside
    table = torch.randn(3, layout.entries, generator=generator)
    cotangent = torch.randn(points, 3 * len(layout.sizes), generator=generator)
    x, table, cotangent = (each.to(device) for each in (x, table, cotangent))
    ours = [each.clone().requires_grad_() for each in (x, table)]
    features = encode_cuda(*ours, layout, BOUND)
    features.backward(cotangent)
    truth = [each.double().requires_grad_() for each in (x, table)]
    expected = encode_torch(*truth, layout, BOUND)
    expected.backward(cotangent.double())
    assert relative_error(features.detach(), expected.detach()) < tolerance
    assert relative_error(ours[1].grad, truth[1].grad) < tolerance
    # at a cell's edge the slope jumps: a point that float32 puts into the neighbouring cell has another gradient
    slope_error = (ours[0].grad - truth[0].grad).abs().amax(1) / truth[0].grad.abs().amax()
    assert (slope_error > 1e-4).double().mean() < 0.02
    assert relative_error(ours[0].grad[slope_error <= 1e-4], truth[0].grad[slope_error <= 1e-4]) < 2e-5


@pytest.mark.parametrize("grid", [REFERENCE_FACE, REFERENCE_MOUTH, PAPER_FACE], ids=["face", "mouth", "paper"])
def test_against_torch(device, grid) -> None:
    compare(grid_layout(*grid), 300, device)


def test_hashed_levels_and_odd_counts(device) -> None:
    layout = grid_layout(16, 256, levels=5, log2_table_size=10)
    assert sum(layout.hashed) == 4
    compare(layout, 70, device)


def test_no_points(device) -> None:
    from instag.kernels.hash_grid import encode_cuda

    layout = grid_layout(*REFERENCE_FACE)
    x, table = torch.zeros(0, 3, device=device), torch.zeros(3, layout.entries, device=device)
    assert encode_cuda(x, table, layout, BOUND).shape == (0, 36)


def test_groups_cover_the_levels_and_fit_shared_memory() -> None:
    pytest.importorskip("gaussian_rasterization.cuda.loader", reason="cuda-core is not installed")
    from instag.kernels.hash_grid import PRIVATE_LIMIT, level_groups

    layout = grid_layout(*REFERENCE_MOUTH)
    groups = level_groups(layout)
    assert groups[0] == 0 and groups[-1] == 12 and list(groups) == sorted(set(groups))
    assert all(sum(layout.sizes[a:b]) <= PRIVATE_LIMIT for a, b in zip(groups, groups[1:], strict=False))
    assert level_groups(grid_layout(*REFERENCE_FACE)) == (0, 12)
