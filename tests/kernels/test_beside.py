"""The audio network beside the hash grid: the same as one after the other, called and captured; on a GPU."""

from __future__ import annotations

import pytest
import torch

from instag import kernels
from instag.fields import motion, personalized
from instag.kernels.beside import beside
from instag.kernels.capture import CudaGraphs

WIDTH, STEPS, POINTS, FRAMES = 74, 16, 15_000, 2
ROUNDS = 20
SAME_GRADIENT = 1e-2  # relative, by norm: sums in another order differ by up to 1e-4; two windows are 1 apart
EXPRESSION, PHI = 6, 3
BUILD = {
    "face": (motion.build_face_field, EXPRESSION),
    "mouth": (motion.build_mouth_field, PHI),
    "own mouth": (personalized.build_personalized_mouth, 0),
}


def test_on_the_cpu_it_is_a_call() -> None:
    x = torch.ones(3)
    assert torch.equal(beside(lambda: 2 * x, x)(), 2 * x)


def step(field, x, window, driver):
    """A pass both ways: its outputs, and its gradients by name. The window is let go before the way back.

    No graph is held afterwards: autograd remembers the stream it was built on, and the default one fails captures.
    """
    said = field(x, window.clone(), *driver)
    outputs = [each for each in vars(said).values() if isinstance(each, torch.Tensor)]
    names, leaves = zip(*field.named_parameters(), strict=True)
    gradients = torch.autograd.grad([each.square().sum() for each in outputs], leaves, allow_unused=True)
    found = {name: each for name, each in zip(names, gradients, strict=True) if each is not None}
    return [each.detach() for each in outputs], found


def assert_same(found, expected) -> None:
    for mine, theirs in zip(found[0], expected[0], strict=True):
        assert torch.equal(mine, theirs)
    assert any(name.startswith("audio.") for name in expected[1])
    for name, gradient in expected[1].items():  # atomics add up the grid's, and the heads' towards the audio
        apart = (found[1][name] - gradient).double().norm() / gradient.double().norm()
        assert apart < SAME_GRADIENT, (name, float(apart))


@pytest.mark.skipif(kernels.reason_missing() is not None, reason="two streams need a GPU")
@pytest.mark.parametrize("name", BUILD)
def test_the_same_as_one_after_the_other(monkeypatch, name) -> None:
    torch.manual_seed(0)
    build, extra = BUILD[name]
    field = build(WIDTH, STEPS).cuda()
    torch.nn.init.normal_(field.encoding.table)
    x = 0.3 * (torch.rand(POINTS, 3, device="cuda") - 0.5)
    windows = torch.randn(ROUNDS, FRAMES, 8, WIDTH, STEPS, device="cuda")
    driver = [torch.rand(FRAMES, extra, device="cuda")] if extra else []
    with monkeypatch.context() as serial:
        for module in (motion, personalized):
            serial.setattr(module, "beside", lambda work, *reads: work)
        expected = [step(field, x, window, driver) for window in windows]
    called = [step(field, x, window, driver) for window in windows]  # the host runs ahead; memory is used again
    graphs, given = CudaGraphs(torch.device("cuda")), torch.empty_like(windows[0])
    captured = []
    with graphs.active():
        step(field, x, given, driver)
        work = graphs.capture(lambda: step(field, x, given, driver))
        for window in windows:
            given.copy_(window)
            outputs, gradients = work.replay()
            captured.append(([o.clone() for o in outputs], {k: v.clone() for k, v in gradients.items()}))
    for one, other, replayed in zip(expected, called, captured, strict=True):
        assert_same(other, one)
        assert_same(replayed, one)
