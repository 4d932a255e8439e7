"""Tri-plane encoding: layout, bounds, interpolation, and its numba twin against the torch oracle."""

import pytest
import torch

from instag.fields import encoding
from instag.fields.encoding import (
    BOUND,
    MLP,
    PAPER_FACE,
    PAPER_MOUTH,
    REFERENCE_FACE,
    REFERENCE_MOUTH,
    TriPlaneEncoding,
    encode_torch,
    grid_layout,
)

HASHED = (16.0, 96.0, 6, 10)  # base, top, levels, log2 of the table: small, its upper levels hash


def points(count: int, reach: float = 1.2 * BOUND, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Uniform, some outside the bound, with the corners of the domain among them."""
    inside = (2 * torch.rand(count - 2, 3, dtype=torch.float64) - 1) * reach
    corners = torch.tensor([[BOUND] * 3, [-BOUND] * 3], dtype=torch.float64)
    return torch.cat([inside, corners]).to(dtype)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("grid", "entries"),
    [(REFERENCE_FACE, 9464), (REFERENCE_MOUTH, 46600), (PAPER_FACE, 168056), (PAPER_MOUTH, 509280)],
)
def test_planes_have_the_stated_number_of_entries(grid, entries):
    assert grid_layout(*grid).entries == entries


def test_levels_follow_each_other_in_aligned_blocks_and_only_the_largest_hash():
    face, mouth, paper = (grid_layout(*grid) for grid in (REFERENCE_FACE, REFERENCE_MOUTH, PAPER_MOUTH))
    assert face.resolutions == (16, 18, 19, 21, 22, 24, 26, 28, 31, 33, 36, 39)
    assert mouth.resolutions == (64, 64, 63, 63, 62, 62, 61, 60, 60, 59, 59, 58)
    assert paper.hashed == (False,) * 11 + (True,)
    assert not any(face.hashed + mouth.hashed)
    for layout in (face, mouth, paper):
        assert all(size % 8 == 0 for size in layout.sizes)
        ends = [offset + size for offset, size in zip(layout.offsets, layout.sizes, strict=True)]
        assert list(layout.offsets) == [0, *ends[:-1]]


def test_a_linear_field_is_reproduced():
    # Entry (i, j) of a level holds the coordinates of its node; bilinear interpolation then returns the position.
    layout = grid_layout(*REFERENCE_FACE)
    table = torch.zeros(3, layout.entries, dtype=torch.float64)
    for scale, resolution, offset in zip(layout.scales, layout.resolutions, layout.offsets, strict=True):
        row, column = torch.meshgrid(*[torch.arange(resolution + 1, dtype=torch.float64)] * 2, indexing="ij")
        nodes = 2 * (column - 0.5) / scale + 3 * (row - 0.5) / scale
        table[:, offset : offset + (resolution + 1) ** 2] = nodes.reshape(-1)
    x = points(50, reach=BOUND, dtype=torch.float64)
    unit = (x + BOUND) / (2 * BOUND)
    features = encode_torch(x, table, layout, BOUND).view(-1, 3, 12)
    for plane, (first, second) in enumerate(((0, 1), (1, 2), (0, 2))):
        expected = 2 * unit[:, first] + 3 * unit[:, second]
        torch.testing.assert_close(features[:, plane], expected[:, None].expand(-1, 12))


def test_a_hashed_level_finds_its_entry_as_instant_ngp_does(monkeypatch):
    layout = grid_layout(*HASHED)
    column, row = 70, 41
    first = (
        column ^ (row * 2654435761 & 0xFFFFFFFF)
    ) % 2**10  # at the cell's first corner interpolation reads one entry
    unit = (torch.tensor([column, row, row]) - 0.5) / layout.scales[-1]
    x = (unit * 2 * BOUND - BOUND)[None].double()
    table = torch.arange(3 * layout.entries, dtype=torch.float64).view(3, -1)
    features = encode_torch(x, table, layout, BOUND).view(3, -1)
    assert features[0, -1].item() == pytest.approx(layout.offsets[-1] + first, abs=0.1)


@pytest.mark.parametrize("with_numba", [True, False])
def test_a_point_outside_loses_only_the_planes_that_see_it_outside(monkeypatch, with_numba):
    monkeypatch.setattr(encoding, "HAS_NUMBA", with_numba)
    field = TriPlaneEncoding(*REFERENCE_FACE)
    x = torch.tensor([[0.2, 0.0, 0.0], [0.0, 0.0, -0.16], [BOUND, -BOUND, BOUND], [float("nan"), 0.0, 0.0]])
    seen = (field(x).view(-1, 3, 12) != 0).any(-1)  # planes (x,y), (y,z), (x,z)
    assert seen.tolist() == [[False, True, False], [True, False, False], [True, True, True], [False, True, False]]


@pytest.mark.parametrize("sizes", [(*REFERENCE_FACE, 12, 17), (*REFERENCE_MOUTH, 12, 17), HASHED])
def test_the_numba_twin_agrees_with_the_oracle(sizes):
    encode_numba = pytest.importorskip("instag.fields.encoding_numba").encode_numba
    layout = grid_layout(*sizes)
    assert any(layout.hashed) == (sizes == HASHED)
    x, table = points(400), torch.randn(3, layout.entries)
    cotangent = torch.randn(400, 3 * len(layout.scales), dtype=torch.float64)
    results = []
    # The oracle in float32 as well: at a cell's border the gradient jumps, and float64 may stand on the other side.
    for encode in (encode_numba, encode_torch):
        leaves = [x.clone().requires_grad_(), table.clone().requires_grad_()]
        out = encode(*leaves, layout, BOUND)
        results.append((out.detach(), *torch.autograd.grad((out * cotangent).sum(), leaves)))
    for ours, oracle in zip(*results, strict=True):
        assert (ours - oracle).norm() <= 2e-6 * oracle.norm()
    exact = encode_torch(x.double(), table.double(), layout, BOUND)
    inside = slice(0, -2)  # in float64 the rounded corners lie just outside
    assert (results[0][0] - exact)[inside].norm() <= 1e-5 * exact[inside].norm()


def test_the_numba_twin_gives_the_same_bits_twice():
    encode_numba = pytest.importorskip("instag.fields.encoding_numba").encode_numba
    layout = grid_layout(*REFERENCE_FACE)
    x, table = points(2000).requires_grad_(), torch.randn(3, layout.entries, requires_grad=True)
    first, second = (
        torch.autograd.grad(encode_numba(x, table, layout, BOUND).square().sum(), (x, table)) for _ in "ab"
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("sizes", [(16.0, 38.4, 3, 17), HASHED])
def test_the_oracle_has_the_derivatives_of_its_own_values(sizes):
    layout = grid_layout(*sizes)
    x = points(6, dtype=torch.float64)[:-2].requires_grad_()  # at the corners the derivative is one-sided
    table = torch.randn(3, layout.entries, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: encode_torch(x, table, layout, BOUND), x, eps=1e-9, atol=1e-3)
    # Linear in the table: the derivative along a direction is the value at that direction.
    direction = torch.randn_like(table)
    table.requires_grad_()
    cotangent = torch.randn(4, 3 * sizes[2], dtype=torch.float64)
    (grad,) = torch.autograd.grad((encode_torch(x, table, layout, BOUND) * cotangent).sum(), table)
    along = (encode_torch(x, direction, layout, BOUND) * cotangent).sum()
    torch.testing.assert_close((grad * direction).sum(), along)


def test_the_module_takes_any_leading_shape_and_starts_near_zero():
    field = TriPlaneEncoding(*REFERENCE_FACE)
    x = points(24)
    torch.testing.assert_close(field(x.view(2, 12, 3)), field(x).view(2, 12, 36))
    assert field.table.shape == (3, 9464)
    assert 0.9e-4 < field.table.abs().max() <= 1e-4


def test_gates_and_conditions_are_the_plain_network_on_broadcast_inputs():
    mlp = MLP(7, 16, 3, layers=3).double()
    x, gain = torch.randn(11, 7).double(), torch.randn(4, 7).double()
    torch.testing.assert_close(mlp.gated(x, gain), mlp(x * gain[:, None]))
    x, condition = torch.randn(11, 5).double(), torch.randn(4, 2).double()
    broadcast = torch.cat([x.expand(4, -1, -1), condition[:, None].expand(-1, 11, -1)], -1)
    torch.testing.assert_close(mlp.conditioned(x, condition), mlp(broadcast))
    assert all(layer.bias is None for layer in mlp.layers)
