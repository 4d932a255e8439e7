"""Compositing's kernels, emulated and on a GPU, against the float64 torch twin."""

from __future__ import annotations

import pytest
import torch
from gaussian_rasterization import RasterOutput
from raster_scenes import relative_error

from instag.data.frame import PictureRows, to_float
from instag.render.composite import composite

VIEWS, HEIGHT, WIDTH = 2, 19, 23


def branch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(VIEWS, channels, HEIGHT, WIDTH, generator=generator) for channels in (3, 1))


def output(color: torch.Tensor, alpha: torch.Tensor) -> RasterOutput:
    return RasterOutput(color, alpha, color, alpha, alpha, torch.zeros(VIEWS, 1, dtype=torch.int32))


@pytest.mark.parametrize("mouth", [True, False])
def test_against_torch(device, mouth) -> None:
    from instag.kernels.composite import composite_frames_cuda

    generator = torch.Generator().manual_seed(9)
    shape = (3, HEIGHT, WIDTH, 3)
    plate, image = (torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8) for _ in range(2))
    plate, image, row = plate.to(device), image.to(device), torch.tensor([2, 1], device=device)
    ours = [part.to(device).requires_grad_() for seed in range(1 + mouth) for part in branch(seed)]
    truth = [part.detach().double().requires_grad_() for part in ours]
    branches = [[output(*parts[k : k + 2]) for k in range(0, len(parts), 2)] for parts in (ours, truth)]
    (face, *inside), (exact_face, *exact_inside) = branches
    found, target = composite_frames_cuda(face, inside[0] if mouth else None, PictureRows(image, plate, image, row))
    expected = composite(exact_face, exact_inside[0] if mouth else None, to_float(plate[row]).double())
    assert relative_error(found, expected) < 1e-6
    # divided as IEEE says, like torch on the CPU; on a GPU torch multiplies by a rounded 1 / 255
    assert torch.equal(target.cpu(), to_float(image[row].cpu())) and not target.requires_grad
    weight = torch.randn(found.shape, generator=generator).to(device)
    (found * weight).sum().backward()
    (expected * weight.double()).sum().backward()
    for mine, right in zip(ours, truth, strict=True):
        assert relative_error(mine.grad, right.grad) < 1e-5
