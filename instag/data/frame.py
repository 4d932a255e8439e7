"""What one training or synthesis step is about: `Condition` drives the head, `FrameBatch` adds what was filmed."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from instag.camera import Camera
from instag.data.layout import Label


@dataclass(frozen=True)
class Condition:
    """Everything the head needs to be drawn (METHOD.md section 2).

    Attributes:
        camera: B cameras.
        audio: [B, 8, D, W] windows of features around the frame.
        expression: [B, 6] action units, order of layout.EXPRESSION_UNITS.
    """

    camera: Camera
    audio: Tensor
    expression: Tensor

    def __len__(self) -> int:
        return len(self.audio)

    def to(self, device: torch.device | str) -> Condition:
        """The same condition on a device."""
        return Condition(self.camera.to(device), self.audio.to(device), self.expression.to(device))


@dataclass(frozen=True)
class GeometryPrior:
    """Depth and normals from a face mesh or a network, where they are valid.

    Attributes:
        depth: [B, 1, H, W] larger when farther (any scale and offset).
        normal: [B, 3, H, W] unit, OpenGL camera axes (x right, y up, z to the viewer).
        valid: [B, 1, H, W] bool.
    """

    depth: Tensor
    normal: Tensor
    valid: Tensor


@dataclass(frozen=True)
class FrameBatch:
    """B filmed frames with their conditions.

    Attributes:
        index: [B] int64, number of the frame in its video.
        condition: what drives the head in these frames.
        image: [B, 3, H, W] in [0, 1], person over the clean plate.
        background: [B, 3, H, W] in [0, 1], torso over the plate.
        labels: [B, H, W] uint8, values of layout.Label.
        lip_rectangle: [B, 4] int64 top, bottom, left, right; half-open, clipped to the image.
        prior: geometry prior, or None where it was not asked for.
    """

    index: Tensor
    condition: Condition
    image: Tensor
    background: Tensor
    labels: Tensor
    lip_rectangle: Tensor
    prior: GeometryPrior | None = None

    def __len__(self) -> int:
        return len(self.index)

    def mask(self, *labels: Label) -> Tensor:
        """Where the label map holds one of the labels, bool [B, 1, H, W]."""
        out = torch.zeros_like(self.labels, dtype=torch.bool)
        for label in labels:
            out |= self.labels == int(label)
        return out[:, None]

    def lip_mask(self) -> Tensor:
        """Inside the lip rectangle, bool [B, 1, H, W]."""
        height, width = self.labels.shape[1:]
        rows = torch.arange(height, device=self.labels.device)[None, :, None]
        columns = torch.arange(width, device=self.labels.device)[None, None, :]
        top, bottom, left, right = (edge[:, None, None] for edge in self.lip_rectangle.unbind(1))
        return ((rows >= top) & (rows < bottom) & (columns >= left) & (columns < right))[:, None]

    def to(self, device: torch.device | str) -> FrameBatch:
        """The same frames on a device."""
        moved = {
            f.name: value.to(device)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), (Tensor, Condition))
        }
        prior = self.prior and GeometryPrior(*(getattr(self.prior, f.name).to(device) for f in fields(self.prior)))
        return replace(self, **moved, prior=prior)
