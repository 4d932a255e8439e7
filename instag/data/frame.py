"""What one training or synthesis step is about: `Condition` drives the head, `FrameBatch` adds what was filmed."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Protocol

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

    def to(self, device: torch.device | str) -> GeometryPrior:
        """The same prior on a device."""
        return GeometryPrior(*(getattr(self, field.name).to(device) for field in fields(self)))


class Prior(Protocol):
    """What a `GeometryPrior` says, however it is kept."""

    @property
    def depth(self) -> Tensor:
        """[B, 1, H, W]."""

    @property
    def normal(self) -> Tensor:
        """[B, 3, H, W]."""

    @property
    def valid(self) -> Tensor:
        """Bool [B, 1, H, W]."""

    def to(self, device: torch.device | str) -> Prior:
        """The same prior on a device."""


@dataclass(frozen=True)
class PictureRows:
    """B frames by their rows in uint8 stores, from which kernels read them without a copy.

    Attributes:
        image, plate: uint8 [R, H, W, 3]: person over the clean plate; torso over the plate.
        labels: uint8 [R, H, W], values of layout.Label.
        row: int64 [B].
    """

    image: Tensor
    plate: Tensor
    labels: Tensor
    row: Tensor

    def to(self, device: torch.device | str) -> PictureRows:
        """These B frames on a device."""
        parts = (part[self.row].to(device) for part in (self.image, self.plate, self.labels))
        return PictureRows(*parts, torch.arange(len(self.row), device=device))


def to_float(image: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W] in [0, 1]."""
    return image.permute(0, 3, 1, 2).contiguous().float().div_(255.0)


@dataclass(frozen=True)
class FrameBatch:
    """B filmed frames with their conditions. Pictures become floats when they are first asked for.

    Attributes:
        index: [B] int64, number of the frame in its video.
        condition: what drives the head in these frames.
        pictures: image, plate and labels as uint8.
        lip_rectangle: [B, 4] int64 top, bottom, left, right; half-open, clipped to the image.
        prior: geometry prior, or None where it was not asked for.
    """

    index: Tensor
    condition: Condition
    pictures: PictureRows
    lip_rectangle: Tensor
    prior: Prior | None = None

    @cached_property
    def image(self) -> Tensor:
        """[B, 3, H, W] in [0, 1], person over the clean plate."""
        return to_float(self.pictures.image.index_select(0, self.pictures.row))

    @cached_property
    def background(self) -> Tensor:
        """[B, 3, H, W] in [0, 1], torso over the plate."""
        return to_float(self.pictures.plate.index_select(0, self.pictures.row))

    @cached_property
    def labels(self) -> Tensor:
        """[B, H, W] uint8, values of layout.Label."""
        return self.pictures.labels.index_select(0, self.pictures.row)

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
        return FrameBatch(
            self.index.to(device),
            self.condition.to(device),
            self.pictures.to(device),
            self.lip_rectangle.to(device),
            self.prior and self.prior.to(device),
        )
