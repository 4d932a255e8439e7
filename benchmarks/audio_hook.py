"""Audio encoder and face-mouth hook on a GPU, beside their torch twins.

python3 benchmarks/audio_hook.py [--out FILE]      # no data needed
"""

from __future__ import annotations

from collections.abc import Callable

import timing
import torch
from timing import kernel_times, timed

from instag.fields.audio import AudioEncoder
from instag.fields.hook import HIGHEST_RANK, HOOK_RANK, HOOK_UNIT, VERTICAL, hook_torch
from instag.kernels.audio_encoder import audio_encoder_cuda, audio_encoder_many_cuda
from instag.kernels.hook import hook_cuda

DEVICE = torch.device("cuda", 0)
ENCODERS = {"phone-mel": (74, 16), "deepspeech": (29, 16), "hubert": (1024, 2)}  # D, W
WINDOWS = (1, 8, 16)
RIVALS = (4, 12)
HOOKS = ((1, 15_000), (1, 30_000), (1, 60_000), (8, 15_000))  # frames, Gaussians


def beside(ours: Callable[[], object], plain: Callable[[], object]) -> dict:
    """Times of both and the kernels of ours."""
    return {"ours": timed(ours), "torch": timed(plain), "kernels_us": kernel_times(ours)}


def audio_encoder() -> dict:
    """Forward, and forward + backward towards all weights."""
    result = {}
    for name, (width, steps) in ENCODERS.items():
        for windows in WINDOWS:
            torch.manual_seed(0)
            encoder = AudioEncoder(width, steps).to(DEVICE)
            parameters = tuple(encoder.parameters())
            window, cotangent = (
                torch.randn(windows, 8, width, steps, device=DEVICE),
                torch.randn(windows, 32, device=DEVICE),
            )

            def ours(parameters=parameters, window=window):
                return audio_encoder_cuda(parameters, window)

            def plain(encoder=encoder, window=window):
                return encoder.forward_torch(window)

            def backward(forward, parameters=parameters, cotangent=cotangent):
                return lambda: torch.autograd.grad(forward(), parameters, cotangent)

            def alone(forward):
                return torch.no_grad()(forward)

            result[f"{name}, {windows} windows, forward"] = beside(alone(ours), alone(plain))
            result[f"{name}, {windows} windows, both ways"] = beside(backward(ours), backward(plain))
    return result


def many_encoders() -> dict:
    """k encoders on one window, without gradients."""
    result = {}
    width, steps = ENCODERS["phone-mel"]
    for count in RIVALS:
        encoders = [AudioEncoder(width, steps).to(DEVICE) for _ in range(count)]
        window = torch.randn(1, 8, width, steps, device=DEVICE)

        def ours(encoders=encoders, window=window):
            return audio_encoder_many_cuda(encoders, window)

        @torch.no_grad()
        def plain(encoders=encoders, window=window):
            return [encoder.forward_torch(window) for encoder in encoders]

        result[f"{count} encoders"] = beside(ours, plain)
    return result


def hook() -> dict:
    """k-th largest and smallest, k on the device."""
    result = {}
    rank = torch.tensor([HOOK_RANK], device=DEVICE)
    assert HOOK_RANK <= HIGHEST_RANK
    for frames, gaussians in HOOKS:
        motion = torch.randn(frames, gaussians, 3, device=DEVICE) / 100
        assert torch.equal(hook_cuda(motion, rank, VERTICAL, HOOK_UNIT), hook_torch(motion, rank))

        def ours(motion=motion):
            return hook_cuda(motion, rank, VERTICAL, HOOK_UNIT)

        def plain(motion=motion):
            return hook_torch(motion, rank)

        result[f"{frames} x {gaussians}"] = beside(ours, plain)
    return result


if __name__ == "__main__":
    timing.run_parts(__doc__, {"hook": hook, "audio_encoder": audio_encoder, "many_encoders": many_encoders})
