"""One self-contained file per person: the trained head, its pose and expression track, and the torso behind it."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from instag.build import build_empty_head
from instag.camera import Camera
from instag.config import ModelConfig
from instag.config_io import from_dict, to_dict
from instag.data.audio import audio_windows
from instag.data.dataset import SubjectDataset
from instag.data.frame import Condition, to_float
from instag.data.pictures import VideoFrames, resize_image
from instag.data.split import Split
from instag.errors import CheckpointError
from instag.files import load_tensors, save_tensors
from instag.head import DEFAULT_MODE, Mode, TalkingHead
from instag.version import __version__

FORMAT = 1


@dataclass
class Avatar:
    """A person who can be made to speak. Load with `Avatar.load`.

    Attributes:
        id: name of the subject.
        head: the trained fields.
        model: what the head was built from; names the audio extractor.
        norm: normalisation of the audio features that it was trained with, as plain JSON.
        size: side of the pictures it was trained on, px.
        focal: px at that size.
        world_to_camera: [T, 4, 4] poses of the clip.
        expression: [T, 6] action units of the clip.
        split: which of the clip's frames it has been trained on.
        provenance: version and settings that made it.
        mode: how it is drawn; an imported one may be drawn as the reference does.
    """

    id: str
    head: TalkingHead
    model: ModelConfig
    norm: Mapping[str, Any] | None
    size: int
    focal: float
    world_to_camera: Tensor
    expression: Tensor
    split: Split
    provenance: Mapping[str, Any]
    mode: Mode
    _plates: VideoFrames = field(repr=False)

    def __len__(self) -> int:
        return len(self.world_to_camera)

    @property
    def device(self) -> torch.device:
        """Where the head is."""
        return self.world_to_camera.device

    @classmethod
    def load(cls, path: Path | str, device: torch.device | str = "cpu") -> Avatar:
        """Read an avatar; nothing in the file is executed.

        Raises:
            CheckpointError: missing, damaged, or written in another format.
        """
        path = Path(path)
        tensors, header = load_tensors(path, "avatar")
        if header.get("kind") != "avatar" or header.get("format") != FORMAT:
            raise CheckpointError(f"{path} is no avatar of this format: make it with `instag adapt`")
        try:
            model = from_dict(ModelConfig, header["model"])
            state = {name[5:]: t for name, t in tensors.items() if name.startswith("head.")}
            mouth_count = None if model.single_branch else len(state["mouth.structure.means"])
            head = build_empty_head(model, len(state["face.structure.means"]), mouth_count)
            head.load_state_dict(state)
            for name, branch in (("face", head.face), ("mouth", head.mouth)):
                if branch is not None:
                    branch.structure.active_sh_degree = int(header[f"{name}_sh_degree"])
            split = Split(tensors["train"].numpy(), tensors["test"].numpy())
            tracks = tensors["world_to_camera"].to(device), tensors["expression"].to(device)
            plates = _video(tensors["plates"], len(tracks[0]), f"{path}: plates")
            size, focal = int(header["size"]), float(header["focal"])
            return cls(
                header["id"], head.to(device).eval().requires_grad_(False), model, header["norm"], size, focal,
                *tracks, split, header["provenance"], from_dict(Mode, header.get("mode", {})), plates,
            )  # fmt: skip
        except (KeyError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"avatar {path} is damaged ({reason}): make it anew with `instag adapt`") from error

    def plate(self, index: int) -> np.ndarray:
        """Torso over the background for a frame of the clip, uint8 [H, W, 3]."""
        return resize_image(self._plates.read(index), self.size)

    def plates(self, indices: Sequence[int]) -> Tensor:
        """Torso over the background for frames of the clip, [B, 3, H, W] in [0, 1]."""
        images = [self.plate(int(i)) for i in indices]
        return to_float(torch.from_numpy(np.stack(images)).to(self.device))

    def condition(
        self, indices: Sequence[int] | Tensor, features: Tensor, frames: Sequence[int] | Tensor, expression: Tensor
    ) -> Condition:
        """Conditions that mix a pose of the clip with any sound.

        Args:
            indices: [B] frames of the clip whose pose is taken.
            features: [T', W, D] audio features of the sound.
            frames: [B] output frames, rows of `features`.
            expression: [B, 6].
        """
        index = torch.as_tensor(indices, device=self.device)
        camera = Camera(
            self.world_to_camera[index],
            torch.full((len(index),), self.focal, device=self.device),
            self.size,
            self.size,
        )
        windows = audio_windows(features, torch.as_tensor(frames, device=features.device)).to(self.device)
        return Condition(camera, windows, expression.to(self.device))

    @torch.no_grad()
    def render(self, condition: Condition, plates: Tensor, dilate: bool = False) -> Tensor:
        """Composite of head and background, [B, 3, H, W] in [0, 1]."""
        return self.head(condition, self.mode).over(plates, dilate).clamp(0.0, 1.0)


def save_avatar(
    path: Path,
    head: TalkingHead,
    dataset: SubjectDataset,
    split: Split,
    model: ModelConfig,
    settings: Mapping[str, Any],
    mode: Mode = DEFAULT_MODE,
) -> None:
    """Write an avatar at once or not at all.

    Args:
        path: `*.safetensors`.
        head: trained, all its branches.
        dataset: its subject: poses, expressions and the torso layer come from here.
        split: what it was trained on.
        model: what the head was built from.
        settings: for the provenance.
        mode: how it is to be drawn; of it, the hook's expression and the Gaussians' extent are kept.
    """
    tensors = {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
    tensors |= {
        "world_to_camera": torch.from_numpy(dataset.world_to_camera),
        "expression": torch.from_numpy(dataset.expression),
        "train": torch.from_numpy(split.train),
        "test": torch.from_numpy(split.test),
        "plates": torch.frombuffer(bytearray(dataset.source.plates_video()), dtype=torch.uint8),
    }
    header = {
        "format": FORMAT,
        "kind": "avatar",
        "id": dataset.id,
        "model": to_dict(model),
        "norm": dataset.norm,
        "size": dataset.size,
        "focal": dataset.focal,
        "face_sh_degree": head.face.structure.active_sh_degree,
        "mode": {"hook_expression": mode.hook_expression, "extent": mode.extent},
        "mouth_sh_degree": None if head.mouth is None else head.mouth.structure.active_sh_degree,
        "provenance": {"written_by": f"instag {__version__}", "settings": dict(settings)},
    }
    save_tensors(path, tensors, header)


def _video(data: Tensor, frames: int, label: str) -> VideoFrames:
    """The embedded video, copied to a temporary file that disappears with the reader."""
    folder = Path(tempfile.mkdtemp(prefix="instag-"))
    path = folder / "plates.mp4"
    path.write_bytes(data.numpy().tobytes())
    video = VideoFrames(path, frames, label)
    weakref.finalize(video, shutil.rmtree, folder, ignore_errors=True)
    return video
