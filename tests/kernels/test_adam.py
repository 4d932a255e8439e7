"""FusedAdam, emulated, against torch's Adam and AdamW in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from cuda_emulation import needs_compiler

pytestmark = needs_compiler


@pytest.mark.parametrize("decoupled", [False, True])
def test_against_torch(emulated, decoupled) -> None:
    from instag.kernels.adam import FusedAdam

    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 3), (300,), (1,), (7, 2, 2), (4,), (6,), (9,), (3, 3), (2,), (1100,)]  # more than one launch
    ours = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    truth = [p.detach().double().requires_grad_() for p in ours]

    def groups(parameters):
        return [
            {"params": parameters[:4], "lr": 1e-2, "weight_decay": 0.1},
            {"params": parameters[4:], "lr": 3e-3, "betas": (0.9, 0.99), "eps": 1e-15},
        ]

    fused = FusedAdam(groups(ours), eps=1e-8, decoupled=decoupled)
    reference = (torch.optim.AdamW if decoupled else torch.optim.Adam)(groups(truth), eps=1e-8, weight_decay=0.0)
    for step in range(4):
        for p, q in zip(ours, truth, strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.double()
        ours[2].grad = truth[2].grad = None  # left alone
        for optimizer in (fused, reference):
            optimizer.param_groups[0]["lr"] = 1e-2 / (step + 1)
            optimizer.step()
    for p, q in zip(ours, truth, strict=True):
        torch.testing.assert_close(p.detach().double(), q.detach(), rtol=2e-6, atol=2e-7)
        state, expected = fused.state[p], reference.state[q]
        assert set(state) == set(expected)
        for key in state:
            torch.testing.assert_close(state[key].double(), expected[key].double(), rtol=2e-6, atol=3e-8)


def test_state_survives_a_checkpoint(emulated) -> None:
    from instag.kernels.adam import FusedAdam

    parameter = torch.ones(4, requires_grad=True)
    first = FusedAdam([parameter], lr=0.1)
    parameter.grad = torch.ones(4)
    first.step()
    other = parameter.detach().clone().requires_grad_()
    second = FusedAdam([other], lr=0.1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for p, optimizer in ((parameter, first), (other, second)):
        p.grad = torch.full((4,), 0.5)
        optimizer.step()
    assert torch.equal(parameter, other)
