"""Audio network and temporal attention: a window of features -> one vector per frame (METHOD.md section 2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from instag import kernels

AUDIO_FEATURES = 32
WINDOW_FRAMES = 8
SLOPE = 0.02  # of every LeakyReLU
WIDE_INPUT = 128  # from this many channels on, the first two convolutions have 128 channels instead of 32


def convolutional_network(width: int) -> nn.Sequential:
    """[n, D, W] -> [n, 32] for W up to 16: four strided convolutions, then two linear layers."""
    narrow = WIDE_INPUT if width >= WIDE_INPUT else 32
    channels = (width, narrow, narrow, 64, 64)
    layers: list[nn.Module] = []
    for inputs, outputs in zip(channels, channels[1:], strict=False):
        layers += [nn.Conv1d(inputs, outputs, kernel_size=3, stride=2, padding=1), nn.LeakyReLU(SLOPE, inplace=True)]
    layers += [nn.Flatten(), nn.Linear(64, 64), nn.LeakyReLU(SLOPE, inplace=True), nn.Linear(64, AUDIO_FEATURES)]
    return nn.Sequential(*layers)


def linear_network(width: int) -> nn.Sequential:
    """[n, D, W] or [n, W, D] with W = 1 -> [n, 32]: the network for `ave`, whose frames have one step."""
    sizes = (width, 256, 128, AUDIO_FEATURES)
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), nn.LeakyReLU(SLOPE, inplace=True)]
    return nn.Sequential(*layers[:-1])


class TemporalAttention(nn.Module):
    """Softmax weights over the 8 frames of a window and their weighted sum (AD-NeRF's; METHOD.md section 2)."""

    def __init__(self) -> None:
        super().__init__()
        channels = (AUDIO_FEATURES, 16, 8, 4, 2, 1)
        layers: list[nn.Module] = []
        for inputs, outputs in zip(channels, channels[1:], strict=False):
            layers += [nn.Conv1d(inputs, outputs, kernel_size=3, padding=1), nn.LeakyReLU(SLOPE, inplace=True)]
        self.convolutions = nn.Sequential(*layers)
        self.linear = nn.Linear(WINDOW_FRAMES, WINDOW_FRAMES)

    def forward(self, frames: Tensor) -> Tensor:
        """[B, 8, 32] -> [B, 32]."""
        scores = self.convolutions(frames.transpose(1, 2))[:, 0]  # [B, 8]
        weights = F.softmax(self.linear(scores), dim=1)
        return (weights[:, None] @ frames)[:, 0]


class AudioEncoder(nn.Module):
    """Audio condition a of METHOD.md section 4.

    Args:
        width: D, features per step.
        steps: W, steps per frame; 1 selects the linear network.
    """

    def __init__(self, width: int, steps: int) -> None:
        super().__init__()
        self.network = linear_network(width) if steps == 1 else convolutional_network(width)
        self.attention = TemporalAttention()

    def forward(self, window: Tensor) -> Tensor:
        """[B, 8, D, W] (`ave`: [B, 8, 1, D]) -> [B, 32]."""
        parameters = tuple(self.parameters())
        if kernels.usable(window, *parameters) and not window.requires_grad:
            from instag.kernels.audio_encoder import audio_encoder_cuda, fits  # needs the `gpu` extra

            if fits(*window.shape[2:]):
                return audio_encoder_cuda(parameters, window)
        return self.forward_torch(window)

    def forward_torch(self, window: Tensor) -> Tensor:
        """`forward` in torch, any device."""
        frames = self.network(window.flatten(0, 1))  # [8 B, 32]
        return self.attention(frames.view(-1, WINDOW_FRAMES, AUDIO_FEATURES))
