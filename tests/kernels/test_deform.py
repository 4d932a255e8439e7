"""Deform + activate's kernels, emulated and on a GPU, against float64 torch; the statistics of density control."""

from __future__ import annotations

import pytest
import torch
from raster_scenes import relative_error

from instag.fields.motion import Deformation
from instag.fields.structure import GaussianField

COUNT = 150


def made_structure(degree: int) -> GaussianField:
    generator = torch.Generator().manual_seed(degree)
    shapes = ((3,), (3,), (4,), (1,), (1, 3), ((degree + 1) ** 2 - 1, 3))
    field = GaussianField(*(torch.randn(COUNT, *shape, generator=generator) for shape in shapes))
    with torch.no_grad():
        field.scales_raw[0] = 30.0  # where softplus is linear
    return field


@pytest.mark.parametrize(("degree", "frames", "moves"), [(1, 2, "all"), (0, 1, "mean"), (2, 3, "none")])
def test_against_torch(device, degree, frames, moves) -> None:
    from instag.kernels.deform import deform_cuda

    ours, truth = made_structure(degree).to(device), made_structure(degree).double().to(device)
    widths = {"all": (3, 3, 4), "mean": (3,), "none": ()}[moves]
    generator = torch.Generator().manual_seed(1)
    offsets = [0.1 * torch.randn(frames, COUNT, width, generator=generator) for width in widths]
    offsets = [offset.to(device).requires_grad_() for offset in offsets]
    exact = [offset.detach().double().requires_grad_() for offset in offsets]
    found = deform_cuda(ours, frames, *offsets)
    deformation = None
    if moves == "all":
        deformation = Deformation(d_mean=exact[0], d_scale=exact[1], d_rotation=exact[2])
    elif moves == "mean":
        deformation = Deformation(d_mean=exact[0], d_rotation=torch.ones(1, COUNT, 4, device=device), mean_only=True)
    expected = truth.drawn(frames, deformation)
    weights = [torch.randn(each.shape, generator=generator).to(device) for each in found]
    for mine, right in zip(found, expected, strict=True):
        assert mine.shape == right.shape and relative_error(mine, right) < 1e-6
    sum((each * weight).sum() for each, weight in zip(found, weights, strict=True)).backward()
    sum((each * weight.double()).sum() for each, weight in zip(expected, weights, strict=True)).backward()
    for mine, right in zip([*ours.parameters(), *offsets], [*truth.parameters(), *exact], strict=True):
        assert (mine.grad is None) == (right.grad is None)
        assert mine.numel() == 0 or relative_error(mine.grad, right.grad) < 1e-6


def test_only_wanted_gradients_are_made(device) -> None:
    from instag.kernels.deform import deform_cuda

    structure = made_structure(1).to(device).requires_grad_(False)
    structure.sh_dc.requires_grad_(True)
    deform_cuda(structure, 1)[4].sum().backward()
    assert torch.equal(structure.sh_dc.grad, torch.ones_like(structure.sh_dc)) and structure.means.grad is None


def test_statistics_count_visible_views(device) -> None:
    from instag.kernels.deform import record_gradients_cuda

    generator = torch.Generator().manual_seed(0)
    d_projected = torch.randn(2, COUNT, 2, generator=generator)
    radii = torch.randint(0, 2, (2, COUNT), generator=generator, dtype=torch.int32)
    d_projected, radii = d_projected.to(device), radii.to(device)
    gradient, visible = torch.ones(COUNT, device=device), torch.ones(COUNT, device=device)
    record_gradients_cuda(d_projected, radii, gradient, visible)
    torch.testing.assert_close(gradient, 1 + (d_projected.norm(dim=-1) * (radii > 0)).sum(0))
    torch.testing.assert_close(visible, 1 + (radii > 0).sum(0).float())
