"""The fused motion head's kernels, emulated, against FaceMotionField's networks in float64."""

from __future__ import annotations

import pytest
import torch
from cuda_emulation import needs_compiler
from raster_scenes import relative_error

from instag.fields.motion import FACE_OUTPUTS, MEAN_UNIT

pytestmark = needs_compiler
TOLERANCE = 5e-6


def made_weights(hidden: int, generator: torch.Generator):
    from instag.kernels.motion_head import HeadWeights

    shapes = [(32, 36), (32, 32), (16, 36), (6, 16), (hidden, 74), (hidden, hidden), (11, hidden)]
    return HeadWeights(*(torch.randn(shape, generator=generator) / shape[1] ** 0.5 for shape in shapes))


def twin(features, audio, expression, weights):
    """METHOD.md section 4, in the words of torch."""
    w = torch.relu(features @ weights.audio_1.T) @ weights.audio_2.T
    v = torch.relu(torch.relu(features @ weights.eye_1.T) @ weights.eye_2.T)
    frames = [torch.cat([features, w * a, v * e], 1) for a, e in zip(audio, expression, strict=True)]
    hidden = torch.relu(torch.stack(frames) @ weights.decoder_1.T)
    h = torch.relu(hidden @ weights.decoder_2.T) @ weights.decoder_3.T
    d_mean, *rest = h.split(FACE_OUTPUTS, -1)
    return MEAN_UNIT * d_mean, *rest, w.norm(dim=1), v.norm(dim=1)


@pytest.mark.parametrize(
    ("points", "frames", "hidden", "shared_kib"), [(37, 1, 64, 227), (150, 2, 64, 99), (20, 1, 32, 227)]
)
def test_against_torch(emulated, monkeypatch, points, frames, hidden, shared_kib) -> None:
    from instag.kernels import modules
    from instag.kernels.motion_head import HeadWeights, motion_head_cuda, warps_per_block

    monkeypatch.setattr(modules, "EMULATED_SHARED_BYTES", shared_kib * 1024)
    monkeypatch.setattr(modules, "multiprocessors", lambda device: 2)
    assert warps_per_block(torch.device("cpu"), hidden) == (8 if shared_kib == 227 else 4)
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator) for shape in ((points, 36), (frames, 32), (frames, 6))]
    weights = made_weights(hidden, generator)
    ours = [each.clone().requires_grad_() for each in (*inputs, *weights)]
    truth = [each.double().requires_grad_() for each in (*inputs, *weights)]
    outputs = motion_head_cuda(*ours[:3], HeadWeights(*ours[3:]))
    expected = twin(*truth[:3], HeadWeights(*truth[3:]))
    loss, true_loss = 0.0, 0.0
    for name, output, true_output in zip(outputs._fields, outputs, expected, strict=True):
        assert relative_error(output, true_output) < TOLERANCE, name
        cotangent = torch.randn(output.shape, generator=generator)
        loss, true_loss = loss + (output * cotangent).sum(), true_loss + (true_output * cotangent.double()).sum()
    loss.backward()
    true_loss.backward()
    names = ("features", "audio", "expression", *HeadWeights._fields)
    for name, leaf, true_leaf in zip(names, ours, truth, strict=True):
        assert relative_error(leaf.grad, true_leaf.grad) < TOLERANCE, name


def test_missing_gradients_count_as_zero(emulated) -> None:
    from instag.kernels.motion_head import HeadWeights, motion_head_cuda

    generator = torch.Generator().manual_seed(0)
    weights = made_weights(32, generator)
    features = torch.randn(20, 36, generator=generator).requires_grad_()
    leaf = weights.decoder_3.clone().requires_grad_()
    output = motion_head_cuda(features, torch.ones(1, 32), torch.ones(1, 6), weights._replace(decoder_3=leaf))
    output.d_rotation.sum().backward()
    assert leaf.grad[3:7].any() and not leaf.grad[:3].any() and not leaf.grad[7:].any()
    assert isinstance(weights, HeadWeights) and features.grad.any()


def test_too_little_shared_memory_is_said(emulated, monkeypatch) -> None:
    from gaussian_rasterization.cuda.loader import KernelError

    from instag.kernels import modules
    from instag.kernels.motion_head import warps_per_block

    monkeypatch.setattr(modules, "EMULATED_SHARED_BYTES", 64 * 1024)
    with pytest.raises(KernelError, match="shared memory"):
        warps_per_block(torch.device("cpu"), 64)
