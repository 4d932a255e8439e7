"""What runs on a stream beside other work gives the same as one after the other, called and captured; on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pytest
import torch

from instag import head as heads
from instag import kernels
from instag.build import build_face, build_mouth
from instag.camera import Camera
from instag.config import ModelConfig
from instag.data.frame import Condition
from instag.fields import motion, personalized
from instag.fields.structure import GaussianField, random_head_points, random_mouth_points
from instag.kernels.beside import beside
from instag.kernels.capture import CudaGraphs

WIDTH, STEPS, POINTS, FRAMES = 74, 16, 15_000, 2
SIZE, ROUNDS = 256, 20
SAME_GRADIENT = 1e-2  # relative, by norm: sums in another order differ by up to 1e-4; two windows are 1 apart
EXPRESSION, PHI = 6, 3
BUILD = {
    "face": (motion.build_face_field, EXPRESSION),
    "mouth": (motion.build_mouth_field, PHI),
    "own mouth": (personalized.build_personalized_mouth, 0),
}


@dataclass
class Two:
    one: torch.Tensor
    other: tuple[torch.Tensor, None]


def test_on_the_cpu_it_is_a_call() -> None:
    x = torch.ones(3)
    assert torch.equal(beside(lambda: 2 * x, Two(x, (x, None)))(), 2 * x)


def step(parts, module, window):
    """A pass both ways: what `parts` makes of a window, and its gradients by name. The window is let go before that.

    No graph is held afterwards: autograd remembers the stream it was built on, and the default one fails captures.
    """
    outputs = parts(window.clone())
    names, leaves = zip(*module.named_parameters(), strict=True)
    gradients = torch.autograd.grad([each.square().sum() for each in outputs], leaves, allow_unused=True)
    found = {name: each for name, each in zip(names, gradients, strict=True) if each is not None}
    return [each.detach() for each in outputs], found


def assert_same(found, expected) -> None:
    for mine, theirs in zip(found[0], expected[0], strict=True):
        assert torch.equal(mine, theirs)
    assert any("audio." in name for name in expected[1])
    wrong = []
    for name, gradient in expected[1].items():  # atomics add up the grid's, and the heads' towards the audio
        apart, size = (float(each.double().norm()) for each in (found[1][name] - gradient, gradient))
        if not apart <= SAME_GRADIENT * size:
            wrong.append((name, apart, size))
    assert not wrong


def assert_same_as_one_after_the_other(parts, module, monkeypatch) -> None:
    windows = torch.randn(ROUNDS, FRAMES, 8, WIDTH, STEPS, device="cuda")
    with monkeypatch.context() as serial:
        for place in (motion, heads):
            serial.setattr(place, "beside", lambda work, *reads: work)
        expected = [step(parts, module, window) for window in windows]
    called = [step(parts, module, window) for window in windows]  # the host runs ahead; memory is used again
    graphs, given = CudaGraphs(torch.device("cuda")), torch.empty_like(windows[0])
    captured = []
    with graphs.active():
        step(parts, module, windows[0])
        work = graphs.capture(lambda: step(parts, module, given))
        for window in windows:
            given.copy_(window)
            outputs, gradients = work.replay()
            captured.append(([o.clone() for o in outputs], {k: v.clone() for k, v in gradients.items()}))
    assert graphs.overflow() is None
    for one, other, replayed in zip(expected, called, captured, strict=True):
        assert_same(other, one)
        assert_same(replayed, one)


needs_gpu = pytest.mark.skipif(kernels.reason_missing() is not None, reason="two streams need a GPU")


@needs_gpu
@pytest.mark.parametrize("name", BUILD)
def test_a_field_is_the_same_as_one_after_the_other(monkeypatch, name) -> None:
    torch.manual_seed(0)
    build, extra = BUILD[name]
    field = build(WIDTH, STEPS).cuda()
    torch.nn.init.normal_(field.encoding.table)
    x = 0.3 * (torch.rand(POINTS, 3, device="cuda") - 0.5)
    driver = [torch.rand(FRAMES, extra, device="cuda")] if extra else []

    def parts(window):
        return [each for each in vars(field(x, window, *driver)).values() if isinstance(each, torch.Tensor)]

    assert_same_as_one_after_the_other(parts, field, monkeypatch)


def drawn(head, mode, camera, expression, window):
    """Images of the head's branches; the condition is let go."""
    camera = Camera(camera.world_to_camera.clone(), camera.focal.clone(), camera.width, camera.height)
    render = head(Condition(camera, window, expression.clone()), mode)
    branches = [branch for branch in (render.face, render.mouth) if branch is not None]
    return [getattr(branch.image, name) for branch in branches for name in ("color", "depth", "normal", "alpha")]


@needs_gpu
@pytest.mark.parametrize(
    "mode", [heads.Mode(), heads.Mode(face=False), heads.Mode(mouth=False)], ids=("both", "mouth", "face")
)
def test_a_head_is_the_same_as_one_after_the_other(monkeypatch, mode) -> None:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    face = GaussianField.from_points(*random_head_points(POINTS // 3, generator), color=0.7, opacity=0.3)
    # more of the mouth than of the face: drawn beside it, it ends later, and where a join is forgotten that is seen
    mouth = GaussianField.from_points(*random_mouth_points(POINTS, generator), color=0.3, opacity=0.3)
    with torch.no_grad():  # no balls, as the mouth's would stay: the gradient towards their turning is rounding alone
        for structure in (face, mouth):
            structure.quaternions_raw.normal_(generator=generator)
            structure.scales_raw.add_(0.3 * torch.randn(structure.scales_raw.shape, generator=generator))
    model = ModelConfig()
    head = heads.TalkingHead(build_face(model, face), build_mouth(model, mouth)).cuda()
    for name, parameter in head.named_parameters():
        if "encoding" in name:
            torch.nn.init.uniform_(parameter, -0.5, 0.5)
    pose = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])).repeat(FRAMES, 1, 1)  # looks at the face from +z, y down
    pose[:, 2, 3] = 0.7
    camera = Camera(pose, torch.full((FRAMES,), 2.2 * SIZE), SIZE, SIZE).to("cuda")
    parts = partial(drawn, head, mode, camera, torch.rand(FRAMES, EXPRESSION, device="cuda"))
    assert parts(torch.randn(FRAMES, 8, WIDTH, STEPS, device="cuda"))[3].max() > 0.5  # something is in sight
    assert_same_as_one_after_the_other(parts, head, monkeypatch)
