"""FusedAdam, emulated and on a GPU, against torch's Adam and AdamW in float64."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch


@pytest.mark.parametrize("decoupled", [False, True])
def test_against_torch(device, monkeypatch, decoupled) -> None:
    from instag.kernels import adam
    from instag.kernels.adam import FusedAdam

    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 3), (300,), (1,), (7, 2, 2), (4,), (6,), (9,), (3, 3), (2,), (2100,)]
    monkeypatch.setattr(adam, "SEGMENTS", 4)  # more than one launch
    ours = [torch.randn(shape, generator=generator).to(device).requires_grad_() for shape in shapes]
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
            p.grad = torch.randn(p.shape, generator=generator).to(device)
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
            torch.testing.assert_close(state[key].double().cpu(), expected[key].double().cpu(), rtol=2e-6, atol=3e-8)


def test_state_survives_a_checkpoint(device) -> None:
    from instag.kernels.adam import FusedAdam

    parameter = torch.ones(4, device=device, requires_grad=True)
    first = FusedAdam([parameter], lr=0.1)
    parameter.grad = torch.ones_like(parameter)
    first.step()
    other = parameter.detach().clone().requires_grad_()
    second = FusedAdam([other], lr=0.1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for p, optimizer in ((parameter, first), (other, second)):
        p.grad = torch.full_like(p, 0.5)
        optimizer.step()
    assert torch.equal(parameter, other)


def test_optimisers_step_together(device) -> None:
    from instag.kernels import adam

    generator = torch.Generator().manual_seed(0)
    shapes = [(3000,), (2, 3), (5,)]
    alone, joined = [], []
    for built in (alone, joined):
        generator.manual_seed(0)
        for decoupled in (False, True):
            parameters = [torch.randn(shape, generator=generator).to(device).requires_grad_() for shape in shapes]
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator).to(device)
            built.append((parameters, adam.FusedAdam(parameters, lr=0.1, weight_decay=0.2, decoupled=decoupled)))
    for _ in range(2):
        for _, optimizer in alone:
            optimizer.step()
        adam.step_together([optimizer for _, optimizer in joined])
    for (one, first), (other, second) in zip(alone, joined, strict=True):
        for p, q in zip(one, other, strict=True):
            assert torch.equal(p, q) and float(second.state[q]["step"]) == float(first.state[p]["step"]) == 2


def test_moving_average(device) -> None:
    from instag.kernels.adam import SEGMENTS, average_cuda

    generator = torch.Generator().manual_seed(0)
    sizes = [2500, *range(1, SEGMENTS + 2)]
    means, values = ([torch.randn(size, generator=generator).to(device) for size in sizes] for _ in range(2))
    expected = [torch.lerp(m.double(), v.double(), 0.3) for m, v in zip(means, values, strict=True)]
    average_cuda(means, values, torch.tensor(0.3, device=device))
    for mean, truth in zip(means, expected, strict=True):
        torch.testing.assert_close(mean.double(), truth, rtol=1e-6, atol=1e-6)


def test_torch_s_compiler_is_not_imported() -> None:
    """It takes a second or two at the start of every command; torch's own optimisers import it."""
    pytest.importorskip("gaussian_rasterization.cuda.loader", reason="cuda-core is not installed")
    code = (
        "import sys, torch; from instag.kernels.adam import FusedAdam\n"
        "FusedAdam([torch.nn.Parameter(torch.zeros(3))]).zero_grad(); sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
