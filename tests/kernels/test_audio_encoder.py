"""The audio encoder's kernels, emulated and on a GPU, against the torch module in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from raster_scenes import relative_error

from instag.fields.audio import AudioEncoder

TOLERANCE = 5e-6


def made(width: int, steps: int, windows: int, device: torch.device) -> tuple[AudioEncoder, torch.Tensor]:
    torch.manual_seed(0)
    encoder = AudioEncoder(width, steps)
    with torch.no_grad():  # frames and scores that differ, so that the softmax has a slope
        for parameter in encoder.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2)
    return encoder.to(device), torch.randn(windows, 8, width, steps).to(device)


@pytest.mark.parametrize(("width", "steps", "windows"), [(74, 16, 1), (29, 16, 3), (130, 2, 1), (5, 9, 2)])
def test_against_torch(device, width, steps, windows) -> None:
    from instag.kernels.audio_encoder import audio_encoder_cuda, fits

    assert fits(width, steps)
    encoder, window = made(width, steps, windows, device)
    plain, truth = copy.deepcopy(encoder).cpu(), copy.deepcopy(encoder).cpu().double()  # cuDNN would round to tf32
    output, heard = audio_encoder_cuda(tuple(encoder.parameters()), window), window.cpu()
    expected = truth.forward_torch(heard.double())
    assert relative_error(output, expected) < TOLERANCE
    cotangent = torch.randn(output.shape)
    (output * cotangent.to(device)).sum().backward()
    (plain.forward_torch(heard) * cotangent).sum().backward()
    (expected * cotangent.double()).sum().backward()
    leaves = zip(encoder.named_parameters(), plain.parameters(), truth.parameters(), strict=True)
    for (name, mine), single, right in leaves:  # the softmax's slope is a difference: torch's float32 errs as well
        allowed = max(TOLERANCE, 4 * relative_error(single.grad, right.grad))
        assert relative_error(mine.grad, right.grad) < allowed < 1e-3, name


def test_many_encoders_in_one_call(device) -> None:
    from instag.kernels.audio_encoder import audio_encoder_cuda, audio_encoder_many_cuda

    encoders, windows = zip(*(made(12, 16, 2, device) for _ in range(3)), strict=True)
    for number, encoder in enumerate(encoders):
        torch.nn.init.constant_(encoder.network[-1].bias, float(number))
    together = audio_encoder_many_cuda(encoders, windows[0])
    assert together.shape == (3, 2, 32) and not together.requires_grad
    for encoder, one in zip(encoders, together, strict=True):
        assert torch.equal(one, audio_encoder_cuda(tuple(encoder.parameters()), windows[0]))
