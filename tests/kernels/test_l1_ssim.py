"""L1 + SSIM's kernels, emulated and on a GPU, against the float64 torch twin."""

from __future__ import annotations

import pytest
import torch
from raster_scenes import relative_error

from instag.losses import photometric_torch


@pytest.mark.parametrize("shape", [(2, 3, 40, 33), (1, 1, 32, 64), (1, 3, 5, 7)])
def test_against_torch(device, shape) -> None:
    from instag.kernels.l1_ssim import photometric_cuda

    generator = torch.Generator().manual_seed(0)
    target = torch.rand(shape, generator=generator)
    render = (target + 0.1 * torch.randn(shape, generator=generator)).clamp(0, 1)
    render, target = render.to(device), target.to(device)
    ours, truth = render.clone().requires_grad_(), render.double().requires_grad_()
    loss = photometric_cuda(ours, target, 0.2)
    (3 * loss).backward()
    expected = photometric_torch(truth, target.double(), 0.2)
    (3 * expected).backward()
    assert abs(float(loss.detach()) / float(expected.detach()) - 1) < 1e-6
    assert relative_error(ours.grad, truth.grad) < 1e-5


def test_equal_images_cost_nothing(device) -> None:
    from instag.kernels.l1_ssim import photometric_cuda

    image = torch.rand(1, 3, 20, 20, device=device).requires_grad_()
    loss = photometric_cuda(image, image.detach())
    loss.backward()
    assert abs(float(loss.detach())) < 1e-6 and float(image.grad.abs().max()) < 1e-6
