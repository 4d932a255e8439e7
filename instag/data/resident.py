"""Frames and conditions as tensors on one device: the one place where both become a `FrameBatch`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from instag.camera import Camera
from instag.data.audio import audio_windows
from instag.data.frame import Condition, FrameBatch, GeometryPrior

Indices = Sequence[int] | np.ndarray | Tensor


@dataclass(frozen=True)
class ConditionTracks:
    """Everything a `Condition` is cut from, for all T frames, on one device.

    Attributes:
        world_to_camera: float32 [T, 4, 4], OpenCV axes.
        focal: float32 [T], px at the working size.
        expression: float32 [T, 6], order of layout.EXPRESSION_UNITS.
        features: float32 [T', W, D], T' nearly T; empty [0, 0, 0] where no extractor was asked for.
        lip_rectangle: int64 [T, 4] top, bottom, left, right at the working size.
        size: working size, px.
    """

    world_to_camera: Tensor
    focal: Tensor
    expression: Tensor
    features: Tensor
    lip_rectangle: Tensor
    size: int

    def to(self, device: torch.device | str) -> ConditionTracks:
        """The same tracks on a device."""
        moved = [getattr(self, field.name) for field in fields(self)]
        return ConditionTracks(*(value.to(device) if isinstance(value, Tensor) else value for value in moved))

    def condition(self, index: Tensor) -> Condition:
        """Condition of frames `index` [B] (int64, on the tracks' device)."""
        camera = Camera(self.world_to_camera[index], self.focal[index], self.size, self.size)
        if len(self.features):
            audio = audio_windows(self.features, index)  # [B, 8, D, W]
        else:
            audio = self.expression.new_zeros(len(index), 0, 0, 0)
        return Condition(camera, audio, self.expression[index])

    def batch(self, index: Tensor, picture: tuple[Tensor, Tensor, Tensor], prior: GeometryPrior | None) -> FrameBatch:
        """Frames `index` [B] from uint8 image and plate [B, H, W, 3] and labels [B, H, W]."""
        image, plate, labels = picture
        return FrameBatch(
            index=index,
            condition=self.condition(index),
            image=to_float(image),
            background=to_float(plate),
            labels=labels,
            lip_rectangle=self.lip_rectangle[index],
            prior=prior,
        )


class ResidentFrames:
    """Frames of a subject as uint8 tensors on one device; `batch` equals `SubjectDataset.batch`.

    Attributes:
        index: int64 [R], the frame number of each row.
        image, plate: uint8 [R, H, W, 3].
        labels: uint8 [R, H, W].
    """

    def __init__(
        self,
        tracks: ConditionTracks,
        index: Tensor,
        image: Tensor,
        plate: Tensor,
        labels: Tensor,
        prior: Callable[[Tensor, torch.device], GeometryPrior],
    ):
        """Use `SubjectDataset.to_device`. tracks: of all frames, on this device; prior: makes priors on the host."""
        self.index, self.image, self.plate, self.labels = index, image, plate, labels
        self._tracks, self._prior = tracks, prior
        self._row = torch.full((len(tracks.focal),), -1, dtype=torch.int64, device=index.device)
        self._row[index] = torch.arange(len(index), device=index.device)
        self._here = set(index.tolist())

    def __len__(self) -> int:
        return len(self.index)

    @property
    def device(self) -> torch.device:
        """Where the frames are."""
        return self.index.device

    def batch(self, indices: Indices, prior: bool = False) -> FrameBatch:
        """Frames by their numbers in the clip (those uploaded).

        A tensor on an accelerator is trusted, so that nothing is read back; anything else is checked (IndexError). The
        geometry prior is made on the host.
        """
        if isinstance(indices, Tensor) and indices.device.type != "cpu":
            index = indices.long().reshape(-1)
        else:
            numbers = torch.as_tensor(indices).long().reshape(-1)
            absent = [i for i in numbers.tolist() if i not in self._here]
            if absent:
                raise IndexError(f"frame {absent[0]} was not uploaded")
            index = numbers.to(self.device)
        row = self._row[index]
        geometry = self._prior(index, self.device) if prior else None
        return self._tracks.batch(index, (self.image[row], self.plate[row], self.labels[row]), geometry)


def to_float(image: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W] in [0, 1]."""
    return image.permute(0, 3, 1, 2).contiguous().float().div_(255.0)
