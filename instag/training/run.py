"""Whole runs: a subject to an avatar (face, mouth, fuse), and several videos to universal fields (face, mouth)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from instag.avatar import save_avatar
from instag.build import build_face_motion, build_head, build_mouth_motion, build_personal
from instag.camera import scene_extent
from instag.config import Config, DataConfig, TrainingConfig
from instag.config_io import to_dict
from instag.data.dataset import SubjectDataset
from instag.data.split import Split
from instag.fields.structure import GaussianField
from instag.files import make_folder, write_json
from instag.head import FaceBranch, MouthBranch, TalkingHead
from instag.metrics.lpips import load_lpips
from instag.training.adapt import FaceStage, MouthStage
from instag.training.fuse import FuseStage
from instag.training.initial import initial_structure
from instag.training.pretrain import pretrain_stage, scaled_config
from instag.training.stage import Subject
from instag.training.trainer import Stage, train
from instag.universal import Universal
from instag.version import __version__

AVATAR = "avatar.safetensors"
UNIVERSAL = "universal.safetensors"
FRAMES_SHARE = 0.6  # of the free memory of an accelerator


def adapt(
    dataset: SubjectDataset,
    split: Split,
    folder: Path,
    config: Config,
    universal: Universal | None,
    device: str,
    progress: bool = True,
) -> Path:
    """Learn a person's head from the training part of a subject.

    Args:
        dataset: the subject.
        split: which frames train and which test.
        folder: of the run; logs, checkpoints and `avatar.safetensors` go here. An interrupted run continues.
        config: settings.
        universal: pre-trained motion fields, or None to learn them from this subject alone.
        device: "cpu" or "cuda".
        progress: show bars.

    Returns:
        The avatar's path.
    """
    training, model = config.training, config.model
    if universal is None:  # nothing is pre-trained, so there is nothing to be careful with during the warm-up
        stages = {name: replace(getattr(training, name), warmup_rate=1.0) for name in ("face", "mouth")}
        training = replace(training, **stages)
    else:
        universal.require(model, dataset.norm)
    prior_from = None if training.long else training.face.prior_from
    if prior_from is not None and prior_from < training.face.iterations:
        dataset.prior(split.train[:1])  # a subject without one is refused now, not after thousands of steps
    torch.manual_seed(training.seed)
    make_folder(folder)
    write_json(folder / "config.json", to_dict(config))
    subject = training_subject(dataset, split.train, training, device, frame_memory(device, config.data), folder)
    branches = ("face",) if model.single_branch else ("face", "mouth")
    structures = {
        name: initial_structure(name, getattr(training, name), model.sh_degree, subject, training.seed)
        for name in branches
    }
    head = build_head(model, structures["face"], structures.get("mouth"))
    if universal is not None:
        universal.load_into(head)
    head.to(device)
    perceptual = load_lpips(device)
    origin = None if universal is None else dict(universal.provenance)
    identity = {
        "configuration": to_dict(config),
        "subject": dataset.id,
        "frames": split.train.tolist(),
        "universal weights": origin,
    }
    for stage in (FaceStage, FuseStage) if model.single_branch else (FaceStage, MouthStage, FuseStage):
        part = stage(head, subject, training, perceptual)
        _train(part, folder, identity, training, progress)
    path = folder / AVATAR
    save_avatar(path, head, dataset, split, model, {"configuration": to_dict(config), "universal": origin})
    return path


def pretrain(
    datasets: Sequence[SubjectDataset], folder: Path, config: Config, device: str, progress: bool = True
) -> Path:
    """Learn the universal motion fields from several people (METHOD.md section 5): face, then mouth.

    Args:
        datasets: one video each, of different people; first `config.pretrain.max_frames` frames are used.
        folder: of the run; logs, checkpoints and `universal.safetensors` go here. An interrupted run continues.
        config: settings; step counts are scaled to the number of videos.
        device: "cpu" or "cuda".
        progress: show bars.

    Returns:
        Path of the universal fields (EMA weights).
    """
    training, model = config.training, replace(config.model, aligner=False, sh_degree=config.pretrain.sh_degree)
    settings = scaled_config(config.pretrain, len(datasets))
    torch.manual_seed(training.seed)
    make_folder(folder)
    write_json(folder / "config.json", to_dict(config))
    used = [np.arange(min(len(dataset), settings.max_frames)) for dataset in datasets]
    pairs = list(zip(datasets, used, strict=True))
    share = frame_memory(device, config.data) // len(pairs)
    subjects = [training_subject(dataset, indices, training, device, share, folder) for dataset, indices in pairs]
    identity = {
        "configuration": to_dict(config),
        "subjects": {dataset.id: len(indices) for dataset, indices in pairs},
    }

    def structures(name: str) -> list[GaussianField]:
        stage = getattr(settings, name)
        made = [
            initial_structure(name, stage, model.sh_degree, subject, training.seed + i).to(device)
            for i, subject in enumerate(subjects[:1] if settings.shared_structure else subjects)
        ]
        return made * len(pairs) if settings.shared_structure else made

    def head_of(structure: GaussianField) -> TalkingHead:
        branch = FaceBranch(structure, motion, None, personal("face"))
        return TalkingHead(branch, None, model.hook, model.single_branch).to(device)

    def personal(name: str) -> nn.Module | None:
        return build_personal(model, name).to(device) if settings.personalized else None

    motion = build_face_motion(model).to(device)
    heads = [head_of(structure) for structure in structures("face")]
    face = pretrain_stage("face", heads, subjects, motion, training, settings)
    _train(face, folder, identity, training, progress)

    averages = {"face": face.average}
    if not model.single_branch:
        motion = build_mouth_motion(model).to(device)
        for head, structure in zip(heads, structures("mouth"), strict=True):
            # The hook reads the trained universal field alone, at this video's own face Gaussians.
            head.face = FaceBranch(head.face.structure, face.average)
            head.mouth = MouthBranch(structure, motion, None, personal("mouth")).to(device)
        mouth = pretrain_stage("mouth", heads, subjects, motion, training, settings)
        _train(mouth, folder, identity, training, progress)
        averages["mouth"] = mouth.average

    path = folder / UNIVERSAL
    weights = {name: {k: t.cpu() for k, t in average.state_dict().items()} for name, average in averages.items()}
    Universal(
        face=weights["face"],
        mouth=weights.get("mouth", {}),
        extractor=model.extractor,
        hash_ranges=model.hash_ranges,
        norm=datasets[0].norm,
        provenance={**identity, "version": __version__},
    ).save(path)
    return path


def _train(stage: Stage, folder: Path, identity: dict, training: TrainingConfig, progress: bool) -> None:
    train(stage, folder, identity, training.log_interval, training.checkpoint_interval, progress, training.graph)


def frame_memory(device: str, data: DataConfig) -> int:
    """Bytes of an accelerator's memory that frames may take; 0 on the CPU, where none are uploaded."""
    if device == "cpu":
        return 0
    if data.gpu_cache_mb is not None:
        return data.gpu_cache_mb << 20
    free, _ = torch.cuda.mem_get_info(torch.device(device))
    return int(FRAMES_SHARE * free)


def training_subject(
    dataset: SubjectDataset,
    indices: np.ndarray,
    training: TrainingConfig,
    device: str,
    memory: int | None = None,
    scratch: Path | None = None,
) -> Subject:
    """A subject's training frames; on an accelerator they are uploaded once, as uint8, in `memory` bytes (None: any).

    What does not fit is streamed from a file in the folder `scratch`.
    """
    extent = scene_extent(dataset.world_to_camera[indices], training.extent_floor)
    resident = None if device == "cpu" else dataset.to_device(device, indices, memory, scratch)
    return Subject(dataset, indices, extent, resident)
