"""The motion's size and the loss's sum, emulated and on a GPU, against their torch twins."""

from __future__ import annotations

import pytest
import torch
from raster_scenes import relative_error

from instag import losses


def made(device: torch.device, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(device).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("count", [1, 3, 6])
def test_magnitude(device, count) -> None:
    from instag.kernels.terms import magnitude_cuda

    ours = made(device, (2, 700, 3), (2, 700, 4), (2, 700, 1), (2, 700, 3), (700, 3), (5000, 3))[:count]
    truth = [each.detach().double().requires_grad_() for each in ours]
    parts = magnitude_cuda(*ours, weight=0.5)
    expected = losses.magnitude(*truth, weight=0.5)
    assert parts.sum().item() == pytest.approx(expected.item(), rel=1e-6)
    (3 * parts).sum().backward()
    (3 * expected).backward()
    for mine, right in zip(ours, truth, strict=True):
        assert relative_error(mine.grad, right.grad) < 1e-6


def test_a_frozen_tensor_gets_no_gradient(device) -> None:
    from instag.kernels.terms import magnitude_cuda

    moving, still = made(device, (40, 3), (40, 3))
    magnitude_cuda(moving, still.detach()).sum().backward()
    assert moving.grad is not None and still.grad is None


def test_total(device) -> None:
    from instag.kernels.terms import total_cuda

    terms = dict(zip("abc", made(device, (768,), (), (1,)), strict=True))
    loss, values = total_cuda(terms)
    expected, right = losses.total({name: term.detach().double() for name, term in terms.items()})
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert values.keys() == right.keys() and not any(value.requires_grad for value in values.values())
    for name, value in values.items():
        assert value.item() == pytest.approx(right[name].item(), abs=1e-5)
    (2 * loss).backward()
    for term in terms.values():
        assert torch.equal(term.grad, torch.full_like(term, 2.0))
