"""One adaptation from a subject to an avatar: face, mouth, fuse."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from instag.avatar import save_avatar
from instag.build import build_face, build_mouth
from instag.camera import scene_extent
from instag.config import Config, TrainingConfig, to_dict
from instag.data.dataset import SubjectDataset
from instag.data.split import Split
from instag.files import write_json
from instag.head import TalkingHead
from instag.metrics.lpips import load_lpips
from instag.training.adapt import FaceStage, MouthStage
from instag.training.fuse import FuseStage
from instag.training.initial import initial_structure
from instag.training.stage import Subject
from instag.training.trainer import train

logger = logging.getLogger(__name__)
AVATAR = "avatar.safetensors"


def adapt(
    dataset: SubjectDataset, split: Split, folder: Path, config: Config, device: str, progress: bool = True
) -> Path:
    """Learn a person's head from the training part of a subject.

    Args:
        dataset: the subject.
        split: which frames train and which test.
        folder: of the run; logs, checkpoints and `avatar.safetensors` go here. An interrupted run continues.
        config: settings.
        device: "cpu" or "cuda".
        progress: show bars.

    Returns:
        The avatar's path.
    """
    torch.manual_seed(config.training.seed)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", to_dict(config))
    training, model = config.training, config.model
    # Nothing is pre-trained here, so there is nothing to be careful with during the warm-up.
    training = replace(
        training,
        face=replace(training.face, warmup_rate=1.0),
        mouth=replace(training.mouth, warmup_rate=1.0),
    )
    face, mouth = (
        initial_structure(name, stage, model.sh_degree, dataset, split.train, training.seed)
        for name, stage in (("face", training.face), ("mouth", training.mouth))
    )
    head = TalkingHead(build_face(model, face), build_mouth(model, mouth)).to(device)
    subject = training_subject(dataset, split.train, training, device)
    perceptual = load_lpips(device)
    identity = {"configuration": to_dict(config), "subject": dataset.id, "frames": split.train.tolist()}

    for stage in (FaceStage, MouthStage, FuseStage):
        train(
            stage(head, subject, training, perceptual),
            folder,
            identity,
            training.log_interval,
            training.checkpoint_interval,
            progress,
        )
    path = folder / AVATAR
    save_avatar(path, head, dataset, split, model, to_dict(config))
    return path


def training_subject(dataset: SubjectDataset, indices: np.ndarray, training: TrainingConfig, device: str) -> Subject:
    """A subject's training frames; on an accelerator they are uploaded once, as uint8."""
    extent = scene_extent(dataset.world_to_camera[indices], training.extent_floor)
    resident = None if device == "cpu" else dataset.to_device(device, indices)
    return Subject(dataset, indices, extent, resident)
