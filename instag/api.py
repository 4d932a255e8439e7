"""The main job as functions: subject -> avatar -> video -> report. The CLI and the scripts call these."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from instag.avatar import Avatar, save_avatar
from instag.config_io import load_config
from instag.data.audio import find_features
from instag.data.dataset import SubjectDataset
from instag.data.layout import PACK_SUFFIX, SubjectFolder
from instag.errors import CheckpointError, DataError, InstagError
from instag.head import DEFAULT_MODE, REFERENCE_MODE
from instag.kernels.ahead import compile_ahead
from instag.synthesize import Blink, Poses, choose_poses, synthesize
from instag.training.run import AVATAR, adapt, pretrain
from instag.universal import find_universal

logger = logging.getLogger(__name__)

LARGEST_KEPT = 31 << 20  # bytes, just below the limit of glibc's threshold


def resolve_device(device: str) -> str:
    """`auto`, `cpu`, `cuda`, `cuda:1` or a GPU's number -> what torch understands; readies the allocator of a CPU.

    Raises:
        InstagError: a GPU is asked for and there is none.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        _keep_freed_memory()
        return device
    name = f"cuda:{device}" if device.isdigit() else device
    try:
        index = torch.device(name).index or 0
    except RuntimeError as error:
        raise InstagError(f"--device {device}: give cpu, cuda or a GPU's number") from error
    if index >= torch.cuda.device_count():
        raise InstagError(f"--device {device}: {torch.cuda.device_count()} GPU(s) here; use --device cpu")
    return name


def _keep_freed_memory() -> None:
    """Have glibc keep up to 64 MB of freed memory: given back in each training step, it costs 1,700 page faults there.

    Its threshold follows the largest block that was ever freed, at most 32 MB (mallopt(3), M_MMAP_THRESHOLD).
    """
    torch.empty(LARGEST_KEPT, dtype=torch.uint8)  # freed at once, never touched


def make_features(source: Path, output: Path | None, extractor: str, mode: str) -> tuple[Path, int]:
    """Audio features of a sound file, or of a subject folder, whose packed file is then written anew.

    Args:
        source: sound or video file, or subject folder.
        output: the `.npy` to write; None for a subject folder, which names its own files.
        extractor: kind of features (`instag.data.audio.EXTRACTORS`).
        mode: their normalisation, "file" or "running".

    Returns:
        Path of the features and their number of frames.

    Raises:
        InstagError: unreadable sound, a folder that is no subject, a missing or superfluous `output`.
    """
    if source.is_dir():
        if output is not None:
            raise InstagError(f"{output}: a subject folder names its own feature file; leave the second path out")
        return _subject_features(SubjectFolder(source), extractor, mode)
    if output is None:
        raise InstagError(f"{source}: no name for its features; give one that ends in .npy")
    from instag.audio.features import extract, save_features

    features, norm = extract(source, extractor, mode=mode)
    save_features(output, features, norm)
    return output, len(features)


def _subject_features(folder: SubjectFolder, extractor: str, mode: str) -> tuple[Path, int]:
    from instag.data.pack import write_pack
    from instag.data_utils.subject_files import write_features

    with SubjectDataset.open(folder.root, extractor=None) as dataset:
        frames = len(dataset)
    write_features(folder, extractor, mode, frames)
    if folder.pack.is_file():
        write_pack(folder)
    return find_features(folder.root, extractor), frames


def adapt_subject(
    subject: Path,
    output: Path,
    preset: str = "adapt",
    assignments: Sequence[str] = (),
    device: str = "auto",
    overwrite: bool = False,
    universal: str = "shipped",
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
        universal: pre-trained motion fields: "shipped", "none", or a file. See `instag.universal.find_universal`.
        progress: show bars.
    """
    config = load_config(preset, assignments)
    device = resolve_device(device)
    data = config.data
    with (
        compile_ahead(config.model, device),
        SubjectDataset.open(
            subject, size=data.size, extractor=config.model.extractor, cache_bytes=data.cache_mb << 20
        ) as dataset,
    ):
        split = dataset.split(data.n_views, data.all_for_train, data.first_frame, data.test_frames)
        for note in (*dataset.notes, *split.notes):
            logger.info("note: %s", note)
        if overwrite and output.exists():
            _remove_run(output)
        fields = find_universal(universal, config.model.extractor)
        logger.info("universal fields: %s", "none, learned from this clip alone" if fields is None else universal)
        return adapt(dataset, split, output, config, fields, device, progress)


def pretrain_fields(
    corpus: Path,
    output: Path,
    preset: str = "pretrain",
    assignments: Sequence[str] = (),
    device: str = "auto",
    ids: Sequence[str] = (),
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Pre-train on the subjects below a folder; returns the path of the universal fields.

    Args:
        corpus: holds one folder or `.instag` file per video.
        output: folder of the run; an interrupted run continues.
        preset, assignments, device, overwrite, progress: as `adapt_subject`.
        ids: names of the subjects to use; all by default.

    Raises:
        DataError: no subject there, or one that is named is missing.
    """
    config = load_config(preset, assignments)
    device = resolve_device(device)
    data = config.data
    with contextlib.ExitStack() as stack:
        stack.enter_context(compile_ahead(config.model, device, pretraining=True))
        datasets = [
            stack.enter_context(
                SubjectDataset.open(
                    path, size=data.size, extractor=config.model.extractor, cache_bytes=data.cache_mb << 20
                )
            )
            for path in find_subjects(corpus, ids)
        ]
        for note in (f"{dataset.id}: {note}" for dataset in datasets for note in dataset.notes):
            logger.info("note: %s", note)
        if overwrite and output.exists():
            _remove_run(output)
        return pretrain(datasets, output, config, device, progress)


def find_subjects(corpus: Path, ids: Sequence[str] = ()) -> list[Path]:
    """Packs and subject folders below `corpus`, by name; a pack wins over the folder of the same name."""
    if not corpus.is_dir():
        raise DataError(f"{corpus} is no folder: give one that holds subjects")
    found: dict[str, Path] = {}
    for path in sorted(corpus.iterdir()):
        if path.is_dir() and SubjectFolder(path).transforms("train").is_file():
            pack = SubjectFolder(path).pack
            found.setdefault(path.name, pack if pack.is_file() else path)
        elif path.suffix == PACK_SUFFIX:
            found[path.stem] = path
    missing = [name for name in ids if name not in found]
    if missing or not found:
        raise DataError(
            f"{corpus}: no subject {', '.join(missing) or 'at all'}; there are: {', '.join(found) or 'none'}; "
            "make them with `instag process`"
        )
    return [found[name] for name in ids] if ids else list(found.values())


def _remove_run(folder: Path) -> None:
    """Delete an earlier run, and nothing that is not one."""
    if not folder.is_dir():
        raise InstagError(f"{folder}: cannot be written, it is a file; choose another output folder")
    if any(folder.iterdir()) and not (folder / "config.json").is_file():
        raise InstagError(f"{folder} is no run of instag: choose another output folder instead of overwriting it")
    shutil.rmtree(folder)


def load_avatar(path: Path, device: str, extractor: str | None = None) -> Avatar:
    """An avatar on a device, by its file or the folder of its run.

    Args:
        path: the file or folder.
        device: see `resolve_device`.
        extractor: audio features that it must listen to; None: any.

    Raises:
        CheckpointError: there is none, it is damaged, or it listens to other features.
    """
    avatar = Avatar.load(path / AVATAR if path.is_dir() else path, resolve_device(device))
    if extractor not in (None, avatar.model.extractor):
        raise CheckpointError(
            f"--audio-extractor {extractor}: avatar '{avatar.id}' is driven by {avatar.model.extractor} features; "
            "leave the flag out, or adapt with that extractor"
        )
    return avatar


def import_reference(
    checkpoints: Sequence[Path],
    output: Path,
    subject: Path | None = None,
    n_views: int = -1,
    all_for_train: bool = False,
    extractor: str | None = None,
    size: int | None = None,
    as_reference: bool = False,
) -> Path:
    """Checkpoints of the reference program -> universal fields, or an avatar; nothing in them is executed.

    Args:
        checkpoints: `chkpnt_ema_face_latest.pth` and `chkpnt_ema_mouth_latest.pth`, or `chkpnt_fuse_latest.pth` alone.
        output: `*.safetensors`; for an avatar also the folder of a run.
        subject: for an avatar: the folder or pack of its training.
        n_views, all_for_train: for an avatar: what it was trained on, as in adaptation.
        extractor: audio features that the file must listen to; None: those that its shapes tell.
        size: for an avatar: side of its pictures, px; None: the subject's.
        as_reference: draw the avatar as the reference does (`instag.head.REFERENCE_MODE`).

    Returns:
        Path of what was written.
    """
    from instag import reference_checkpoint as reference

    if len(checkpoints) != 1 or not reference.holds_head(checkpoints[0]):
        if subject is not None or as_reference:
            raise InstagError("--subject and --as-reference are for a chkpnt_fuse_latest.pth: leave them out")
        reference.read_universal(checkpoints, extractor).save(output)
        return output
    if subject is None:
        raise InstagError(f"{checkpoints[0]} is a head without poses and background: give --subject data/<ID>")
    path = output if output.suffix else output / AVATAR
    head, model = reference.read_head(checkpoints[0], extractor)
    with SubjectDataset.open(subject, size=size, extractor=model.extractor) as dataset:
        split = dataset.split(n_views, all_for_train)
        for note in (*dataset.notes, *split.notes):
            logger.info("note: %s", note)
        settings = {"imported_from": checkpoints[0].name}
        save_avatar(path, head, dataset, split, model, settings, REFERENCE_MODE if as_reference else DEFAULT_MODE)
    return path


def synthesize_video(
    avatar: Path,
    audio: Path,
    output: Path,
    poses: Poses = "all",
    blink: Blink = "clip",
    dilate: bool = False,
    frames: bool = False,
    device: str = "auto",
    extractor: str | None = None,
    progress: bool = True,
) -> Path:
    """Make an avatar say a sound. See `instag.synthesize.synthesize`."""
    return synthesize(
        load_avatar(avatar, device, extractor),
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
    part: Literal["test", "train", "all"] = "test",
    dilate: bool = False,
    device: str = "auto",
    syncnet: Path | None = None,
    extractor: str | None = None,
    progress: bool = True,
) -> Path:
    """Measure an avatar on its subject, self-driven. See `instag.metrics.evaluate.evaluate_avatar`.

    `part` "all" takes every frame of the subject: another take of the same person.
    """
    from instag.metrics.evaluate import evaluate_avatar as measure

    person = load_avatar(avatar, device, extractor)
    with SubjectDataset.open(subject, size=person.size, extractor=person.model.extractor) as dataset:
        indices = choose_poses(person.split, len(dataset), part)
        return measure(person, dataset, indices, output, dilate=dilate, part=part, syncnet=syncnet, progress=progress)
