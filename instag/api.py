"""The main job as functions: subject -> avatar -> video -> report. The CLI and the scripts call these."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from instag.avatar import Avatar
from instag.config import load_config
from instag.data.dataset import SubjectDataset
from instag.errors import InstagError
from instag.synthesize import Blink, Poses, synthesize
from instag.training.run import AVATAR, adapt

logger = logging.getLogger(__name__)


def resolve_device(device: str) -> str:
    """`auto`, `cpu`, `cuda`, `cuda:1` or a GPU's number -> what torch understands.

    Raises:
        InstagError: a GPU is asked for and there is none.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return device
    name = f"cuda:{device}" if device.isdigit() else device
    try:
        index = torch.device(name).index or 0
    except RuntimeError as error:
        raise InstagError(f"--device {device}: give cpu, cuda or a GPU's number") from error
    if index >= torch.cuda.device_count():
        raise InstagError(f"--device {device}: {torch.cuda.device_count()} GPU(s) here; use --device cpu")
    return name


def adapt_subject(
    subject: Path,
    output: Path,
    preset: str = "adapt",
    assignments: Sequence[str] = (),
    device: str = "auto",
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Adapt to a subject; returns the avatar's path. See `instag.training.run.adapt`.

    Args:
        subject: folder or `.instag` file.
        output: folder of the run; an interrupted run with the same settings continues.
        preset: name in configs/ or YAML file.
        assignments: `section.name=value` settings.
        device: see `resolve_device`.
        overwrite: delete an earlier run in `output`.
        progress: show bars.
    """
    config = load_config(preset, assignments)
    device = resolve_device(device)
    data = config.data
    with SubjectDataset.open(
        subject, size=data.size, extractor=config.model.extractor, cache_bytes=data.cache_mb << 20
    ) as dataset:
        split = dataset.split(data.n_views, data.all_for_train)
        for note in (*dataset.notes, *split.notes):
            logger.info("note: %s", note)
        if overwrite and output.exists():
            _remove_run(output)
        return adapt(dataset, split, output, config, device, progress)


def _remove_run(folder: Path) -> None:
    """Delete an earlier run, and nothing that is not one."""
    if any(folder.iterdir()) and not (folder / "config.json").is_file():
        raise InstagError(f"{folder} is no run of instag: choose another output folder instead of overwriting it")
    shutil.rmtree(folder)


def load_avatar(path: Path, device: str) -> Avatar:
    """An avatar on a device, by its file or the folder of its run.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    return Avatar.load(path / AVATAR if path.is_dir() else path, resolve_device(device))


def synthesize_video(
    avatar: Path,
    audio: Path,
    output: Path,
    poses: Poses = "all",
    blink: Blink = "clip",
    dilate: bool = False,
    frames: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> Path:
    """Make an avatar say a sound. See `instag.synthesize.synthesize`."""
    return synthesize(
        load_avatar(avatar, device),
        audio,
        output,
        poses=poses,
        blink=blink,
        dilate=dilate,
        frames=frames,
        progress=progress,
    )


def evaluate_avatar(
    avatar: Path,
    subject: Path,
    output: Path,
    part: Literal["test", "train"] = "test",
    dilate: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> Path:
    """Measure an avatar on its subject, self-driven. See `instag.metrics.evaluate.evaluate_avatar`."""
    from instag.metrics.evaluate import evaluate_avatar as measure

    person = load_avatar(avatar, device)
    with SubjectDataset.open(subject, size=person.size, extractor=person.model.extractor) as dataset:
        indices = person.split.test if part == "test" else person.split.train
        return measure(person, dataset, indices, output, dilate=dilate, part=part, progress=progress)
