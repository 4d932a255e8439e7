"""The fused heads' kernels, emulated (on a GPU where there is one), against the fields' networks in float64."""

from __future__ import annotations

import pytest
import torch
from raster_scenes import relative_error

from instag.fields.motion import FACE_OUTPUTS, MEAN_UNIT, MOUTH_DIRECTION
from instag.kernels import reason_missing

pytest.importorskip("gaussian_rasterization.cuda.loader", reason="cuda-core is not installed")
TOLERANCE = 5e-6
MANY_POINTS, MANY_TOLERANCE = 10_000, 1e-5  # the project's bar, where weights' gradients are sums over so many points


def random_weights(kind, shapes, generator):
    return kind(*(torch.randn(shape, generator=generator) / shape[1] ** 0.5 for shape in shapes))


def made_weights(hidden: int, generator: torch.Generator):
    """Of the face."""
    from instag.kernels.motion_head import HeadWeights

    gates = [(32, 36), (32, 32), (16, 36), (6, 16)]
    decoder = [(hidden, 74), (hidden, hidden), (11, hidden)]
    return random_weights(HeadWeights, [*gates, *decoder, (16, 5), (5, 16)], generator)


BENDS: list[torch.Tensor] = []  # inputs of every ReLU that a twin has evaluated, [..., points, width]
BEND = 1e-5  # nearer to zero than this, float32 may see the other slope than float64


def relu(x):
    BENDS.append(x.detach())
    return torch.relu(x)


def mlp(x, *layers):
    for layer in layers[:-1]:
        x = relu(x @ layer.T)
    return x @ layers[-1].T


def away_from_bends(features, evaluate):
    """The features, with zeros at the points where some ReLU's input is so small that its slope is rounding's."""
    BENDS.clear()
    evaluate(features.double())
    near = torch.zeros(len(features), dtype=torch.bool)
    for x in BENDS:
        if x.shape[-2] == len(features):
            near |= (x.abs() < BEND).any(-1).reshape(-1, len(features)).any(0).cpu()
    return torch.where(near[:, None], 0.0, features)


def per_frame(features, conditions):
    return torch.stack([torch.cat([features, row.expand(len(features), -1)], 1) for row in conditions])


def twin(features, audio, expression, weights):
    """METHOD.md section 4, in the words of torch: the face."""
    w = mlp(features, weights.audio_1, weights.audio_2)
    v = relu(mlp(features, weights.eye_1, weights.eye_2))
    driver = torch.cat([mlp(expression[:, :5], weights.expression_1, weights.expression_2), expression[:, 5:]], 1)
    frames = [torch.cat([features, w * a, v * e], 1) for a, e in zip(audio, driver, strict=True)]
    h = mlp(torch.stack(frames), weights.decoder_1, weights.decoder_2, weights.decoder_3)
    d_mean, *rest = h.split(FACE_OUTPUTS, -1)
    return MEAN_UNIT * d_mean, *rest, w.norm(dim=1), v.norm(dim=1)


def mouth_twin(features, audio, phi, weights):
    h = mlp(per_frame(features, torch.cat([audio, phi], 1)), *weights[:3])
    tau = 2 * torch.sigmoid(mlp(per_frame(features, phi), *weights[3:]))
    unit = MEAN_UNIT * torch.tensor(MOUTH_DIRECTION, dtype=features.dtype, device=features.device)
    return unit * h[..., :3] * tau, h[..., 3:]


def own_mouth_twin(features, audio, weights):
    w = mlp(features, weights.audio_1, weights.audio_2)
    h = mlp(torch.stack([torch.cat([features, w * a], 1) for a in audio]), *weights[2:])
    return MEAN_UNIT * h[..., :3], h[..., 3:], w.norm(dim=1)


def aligner_twin(features, weights):
    offset, scale = mlp(features, *weights).split(3, -1)
    return 0.01 * offset, 1 + 0.25 * torch.tanh(scale / 5)


def case(name: str, generator: torch.Generator):
    """A head's kernel, its twin, the kind of its weights and their values, and the widths of its conditions."""
    from instag.kernels import motion_head as fused

    kind, _, hidden = name.partition(" ")
    if kind == "face":
        return fused.motion_head_cuda, twin, made_weights(int(hidden), generator), (32, 6)
    if kind == "mouth":
        shapes = [(32, 71), (32, 32), (7, 32), (16, 39), (16, 16), (1, 16)]
        return fused.mouth_head_cuda, mouth_twin, random_weights(fused.MouthWeights, shapes, generator), (32, 3)
    if kind == "own-mouth":
        shapes = [(32, 36), (32, 32), (16, 68), (16, 16), (7, 16)]
        return (
            fused.own_mouth_head_cuda,
            own_mouth_twin,
            random_weights(fused.OwnMouthWeights, shapes, generator),
            (32,),
        )
    shapes = [(int(hidden), 36), (6, int(hidden))]
    return fused.aligner_head_cuda, aligner_twin, random_weights(fused.AlignerWeights, shapes, generator), ()


def check(name: str, points: int, frames: int, device: torch.device) -> None:
    """Outputs and gradients under random cotangents."""
    generator = torch.Generator().manual_seed(0)
    kernel, truth, weights, widths = case(name, generator)
    kind = type(weights)
    tolerance = TOLERANCE if points < MANY_POINTS else MANY_TOLERANCE
    inputs = [torch.randn(points, 36, generator=generator)]
    inputs += [torch.randn(frames, width, generator=generator) for width in widths]
    doubles = [each.double() for each in (*inputs[1:], *weights)]
    inputs[0] = away_from_bends(inputs[0], lambda x: truth(x, *doubles[: len(widths)], kind(*doubles[len(widths) :])))
    ours = [each.to(device).requires_grad_() for each in (*inputs, *weights)]
    exact = [each.detach().double().requires_grad_() for each in ours]
    count = len(inputs)
    outputs = [each for each in kernel(*ours[:count], kind(*ours[count:])) if each is not None]
    expected = truth(*exact[:count], kind(*exact[count:]))
    for output, true_output in zip(outputs, expected, strict=True):
        assert relative_error(output, true_output) < tolerance
    cotangents = [torch.randn(each.shape, generator=generator).to(device) for each in outputs]
    gradients = torch.autograd.grad(outputs, ours, cotangents)
    true_gradients = torch.autograd.grad(expected, exact, [each.double() for each in cotangents])
    names = ("features", "audio", "extra")[:count] + kind._fields
    for field, gradient, true_gradient in zip(names, gradients, true_gradients, strict=True):
        assert relative_error(gradient, true_gradient) < tolerance, field


CASES = [  # head, points, frames, KiB of shared memory, warps that follow
    ("face 64", 37, 1, 227, (8, 16)),
    ("face 64", 70, 2, 160, (4, 8)),
    ("face 64", 70, 1, 99, (2, 4)),
    ("face 32", 20, 1, 227, (8, 16)),
    ("mouth", 140, 2, 227, (8, 16)),
    ("own-mouth", 140, 2, 227, (8, 16)),
    ("aligner 32", 140, 1, 227, (8, 16)),
    ("aligner 16", 20, 1, 227, (8, 16)),
]


def head_of(name: str):
    from instag.kernels import motion_head as fused

    kind, _, hidden = name.partition(" ")
    forms = {"face": fused.FACE, "aligner": fused.ALIGNER}
    return forms[kind][int(hidden)] if kind in forms else {"mouth": fused.MOUTH, "own-mouth": fused.OWN_MOUTH}[kind]


@pytest.mark.parametrize(("name", "points", "frames", "shared_kib", "warps"), CASES)
def test_against_torch(emulated, monkeypatch, name, points, frames, shared_kib, warps) -> None:
    from instag.kernels import modules
    from instag.kernels.motion_head import warps_of

    monkeypatch.setattr(modules, "EMULATED_SHARED_BYTES", shared_kib * 1024)
    monkeypatch.setattr(modules, "multiprocessors", lambda device: 2)
    assert warps_of(torch.device("cpu"), head_of(name), frames) == warps
    check(name, points, frames, torch.device("cpu"))


@pytest.mark.skipif(reason_missing() is not None, reason=f"the real kernels: {reason_missing()}")
@pytest.mark.parametrize("name", ["face 64", "face 32", "mouth", "own-mouth", "aligner 32", "aligner 16"])
@pytest.mark.parametrize(("points", "frames"), [(1, 1), (4999, 1), (33_333, 2)])
def test_on_the_gpu(name, points, frames) -> None:
    check(name, points, 1 if name.startswith("aligner") else frames, torch.device("cuda"))


def test_missing_gradients_count_as_zero(device) -> None:
    from instag.kernels.motion_head import motion_head_cuda

    generator = torch.Generator().manual_seed(0)
    weights = made_weights(32, generator)
    weights = type(weights)(*(each.to(device) for each in weights))
    features = torch.randn(20, 36, generator=generator).to(device).requires_grad_()
    leaf = weights.decoder_3.clone().requires_grad_()
    audio, expression = torch.ones(1, 32, device=device), torch.ones(1, 6, device=device)
    output = motion_head_cuda(features, audio, expression, weights._replace(decoder_3=leaf))
    output.d_rotation.sum().backward()
    assert leaf.grad[3:7].any() and not leaf.grad[:3].any() and not leaf.grad[7:].any()
    assert features.grad.any()


def test_many_fields_in_one_launch(device) -> None:
    from instag.kernels.motion_head import FACE, HeadWeights, many_heads_d_mean, pointers

    generator = torch.Generator().manual_seed(0)
    fields = [HeadWeights(*(each.to(device) for each in made_weights(32, generator))) for _ in range(3)]
    features, audio = torch.randn(3, 37, 36, generator=generator), torch.randn(3, 2, 32, generator=generator)
    expression = torch.randn(2, 6, generator=generator)
    features, audio, expression = (each.to(device) for each in (features, audio, expression))
    table = torch.tensor([pointers(each) for each in fields], device=device)
    d_mean = many_heads_d_mean(FACE[32], features, audio, expression, table)
    for i, weights in enumerate(fields):
        doubles = HeadWeights(*(each.double() for each in weights))
        truth = twin(features[i].double(), audio[i].double(), expression.double(), doubles)
        assert relative_error(d_mean[i], truth[0]) < TOLERANCE


def test_too_little_shared_memory_is_said(emulated, monkeypatch) -> None:
    from gaussian_rasterization.cuda.loader import KernelError

    from instag.kernels import modules
    from instag.kernels.motion_head import FACE, fits, warps_of

    device = torch.device("cpu")
    assert fits(device, 36, FACE[64])
    monkeypatch.setattr(modules, "EMULATED_SHARED_BYTES", 64 * 1024)
    assert not fits(device, 36, FACE[64])
    with pytest.raises(KernelError, match="shared memory"):
        warps_of(device, FACE[64], 1)
    monkeypatch.undo()
    monkeypatch.setattr(modules, "capability", lambda device: (7, 5))
    assert not fits(device, 36, FACE[64])
