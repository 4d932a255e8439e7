"""Measure rendered frames against a subject's true ones, and the self-driven evaluation of an avatar."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from instag.data.dataset import SubjectDataset
from instag.errors import DataError, InstagError
from instag.frame_output import FrameFolder, FrameFolderWriter, OrderedWriter
from instag.metrics import landmarks as faces
from instag.metrics.image import ImageMetrics
from instag.metrics.lpips import LPIPS, load_lpips
from instag.metrics.report import Evaluation, write_report
from instag.metrics.silence import SilenceTest, silence_test
from instag.metrics.syncnet import SyncNet, load_syncnet, measure_sync
from instag.synthesize import PROGRESS_DELAY, Drivable, batch_frames, to_uint8
from instag.version import __version__

logger = logging.getLogger(__name__)

SELF_DRIVEN = (
    "Self-driven: pose, action units and torso of each frame are the true ones, as the field evaluates; "
    "only the sound drives the mouth."
)
FRAMES_FOLDER = "frames"
LPIPS_SMALLEST = 32  # px

Tracker = Callable[..., faces.FaceTrack]


def evaluate(
    rendered: Sequence[np.ndarray],
    dataset: SubjectDataset,
    indices: Sequence[int] | np.ndarray,
    *,
    lpips: LPIPS | None = None,
    syncnet: SyncNet | None = None,
    device: torch.device | str = "cpu",
    track_faces: Tracker = faces.track_faces,
    progress: bool = True,
) -> Evaluation:
    """Compare lossless rendered frames with the true ones; memory stays flat in their number.

    Args:
        rendered: n pictures uint8 RGB [H, W, 3] at the dataset's size, e.g. a `FrameFolder`.
        dataset: the truth.
        indices: their n numbers in the clip, ascending.
        lpips: the network; its figures are absent without it.
        syncnet: the network; its figures are absent without it, and a note says so.
        device: where SSIM and LPIPS run.
        track_faces: the tracker; where it is not installed its figures are absent, and a note says so.
        progress: show a bar.

    Raises:
        DataError: number or size of the pictures does not fit.
    """
    frames = [int(i) for i in indices]
    _check_frames(rendered, dataset, frames)
    images = ImageMetrics(lpips if dataset.size >= LPIPS_SMALLEST else None, device)
    for k, i in enumerate(tqdm(frames, desc="images", delay=PROGRESS_DELAY, disable=not progress)):
        picture = dataset.picture(i)
        images.add(rendered[k], picture.image, picture.labels)
    metrics: dict[str, Any] = {
        "subject": dataset.id,
        "frames": len(frames),
        "first_frame": frames[0],
        "last_frame": frames[-1],
        "size": dataset.size,
        **images.summary(),
    }
    notes: list[str] = []
    try:
        truth = track_faces(dataset.picture(i).image for i in frames)
        render = track_faces(rendered[k] for k in range(len(frames)))
    except InstagError as error:
        notes.append(f"landmark figures are absent: {error}")
        return Evaluation({**metrics, "notes": notes}, images.per_frame("psnr"), notes=notes)
    opening_truth, opening_render = faces.lip_opening(truth), faces.lip_opening(render)
    metrics |= face_metrics(render, truth, dataset.world_to_camera[frames], frames)
    tracks = {"": (rendered, render), "_truth": (_Truth(dataset, frames), truth)}
    metrics |= _sync(syncnet, tracks, dataset, frames, notes)
    metrics |= silence_metrics(opening_render, dataset, frames, notes)
    metrics["notes"] = notes
    return Evaluation(metrics, images.per_frame("psnr"), opening_truth, opening_render, notes)


def _check_frames(rendered: Sequence[np.ndarray], dataset: SubjectDataset, frames: list[int]) -> None:
    if not frames or len(rendered) != len(frames):
        raise DataError(f"{len(rendered)} rendered frames for {len(frames)} true ones; render the same frames")
    shape, expected = rendered[0].shape, (dataset.size, dataset.size, 3)
    if shape != expected:
        raise DataError(f"rendered frames are {list(shape)}, the truth {list(expected)}; open the subject at that size")


def face_metrics(
    render: faces.FaceTrack, truth: faces.FaceTrack, world_to_camera: np.ndarray, frames: list[int]
) -> dict[str, Any]:
    """Lip opening, LMD, AUE and jitter; what is not defined is absent."""
    openings = faces.lip_opening(render), faces.lip_opening(truth)
    correlation = faces.lagged_correlation(*openings)
    numbers = np.array(frames)
    metrics: dict[str, Any] = {
        "lip_r": correlation.r,
        "lip_best_r": correlation.best_r,
        "lip_best_lag": correlation.best_lag,
        "lmd": faces.mouth_distance(render, truth),
        "lmd_still": faces.still_distance(truth),
        **{f"opening_mean{of}": float(each.mean()) for of, each in zip(("", "_truth"), openings, strict=True)},
        **{f"opening_deviation{of}": float(each.std()) for of, each in zip(("", "_truth"), openings, strict=True)},
        "jitter": faces.jitter(render),
        "jitter_truth": faces.jitter(truth),
        "no_face_rendered": numbers[~render.found].tolist(),
        "no_face_truth": numbers[~truth.found].tolist(),
    }
    for group, error in faces.unit_errors(render, truth, world_to_camera).items():
        metrics[f"aue_{group}"] = error.value
        metrics[f"aue_{group}_units"] = list(error.units)
    return {name: value for name, value in metrics.items() if value is not None}


class _Truth(Sequence[np.ndarray]):
    """True pictures uint8 [H, W, 3], read when they are asked for."""

    def __init__(self, dataset: SubjectDataset, frames: list[int]) -> None:
        self.dataset, self.frames = dataset, frames

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: Any) -> Any:
        return self.dataset.picture(self.frames[index]).image


def _sync(
    network: SyncNet | None,
    clips: dict[str, tuple[Sequence[np.ndarray], faces.FaceTrack]],
    dataset: SubjectDataset,
    frames: list[int],
    notes: list[str],
) -> dict[str, Any]:
    """Sync-C, Sync-D and lag of clips by the ending of their names; absent, with a note, where they cannot be had."""
    if network is None:
        notes.append("Sync-C and Sync-D are absent: give SyncNet's weights by --syncnet")
        return {}
    metrics: dict[str, Any] = {}
    try:
        sound = dataset.sound_of(frames)
        for ending, (pictures, track) in clips.items():
            scores = measure_sync(network, pictures, track, *sound)
            values = {"sync_c": scores.confidence, "sync_d": scores.distance, "sync_lag": scores.lag}
            metrics |= {f"{name}{ending}": value for name, value in values.items()}
    except DataError as error:
        notes.append(f"Sync-C and Sync-D are absent: {error}")
        return {}
    return metrics


def silence_metrics(
    opening: np.ndarray, dataset: SubjectDataset, frames: list[int], notes: list[str]
) -> dict[str, Any]:
    """The silence test on the sound of these frames; absent, with a note, where there is no sound or no pause."""
    try:
        samples, rate = dataset.sound_of(frames)
    except DataError as error:
        notes.append(f"silence test absent: {error}")
        return {}
    test = silence_test(opening, samples, rate)
    if test.ratio is None:
        notes.append(f"silence test absent: {test.speech_frames} frames of speech, {test.pause_frames} of pauses")
        return {}
    return {
        "opening_range_speech": test.speech,
        "opening_range_pauses": test.pause,
        "opening_speech_over_pauses": test.ratio,
        "pause_frames": test.pause_frames,
    }


def silence_of_frames(
    frames: Iterable[np.ndarray], samples: np.ndarray, rate: int, track_faces: Tracker = faces.track_faces
) -> SilenceTest:
    """The silence test on rendered frames (uint8 RGB, in order) and the sound that drove them: [S] and Hz."""
    return silence_test(faces.lip_opening(track_faces(frames)), samples, rate)


# --- an avatar ----------------------------------------------------------------------------------------------------
def render_self_driven(
    avatar: Drivable,
    dataset: SubjectDataset,
    indices: Sequence[int] | np.ndarray,
    folder: Path,
    *,
    dilate: bool = False,
    progress: bool = True,
) -> FrameFolder:
    """Render frames of the avatar's own clip from their true conditions into a folder of lossless PNGs.

    Raises DataError where the dataset has another size, extractor or normalisation than the avatar.
    """
    check_same_conditions(avatar, dataset)
    bar = tqdm(total=len(indices), unit="frame", desc="render", delay=PROGRESS_DELAY, disable=not progress)
    with OrderedWriter([FrameFolderWriter(folder)]) as writer, bar:
        step = batch_frames(dataset.size)
        for start in range(0, len(indices), step):
            rows = np.asarray(indices[start : start + step])
            with torch.no_grad():
                batch = dataset.batch(rows, avatar.device)
                writer.write(to_uint8(avatar.render(batch.condition, batch.background, dilate)))
            bar.update(len(rows))
    return FrameFolder(folder)


def check_same_conditions(avatar: Drivable, dataset: SubjectDataset) -> None:
    """DataError unless the dataset gives the conditions that the avatar was trained with."""
    if dataset.size != avatar.size:
        raise DataError(f"avatar '{avatar.id}' renders {avatar.size} px, {dataset.source.path} is read at "
                        f"{dataset.size} px; open it at {avatar.size}")  # fmt: skip
    if dataset.extractor != avatar.model.extractor:
        raise DataError(f"avatar '{avatar.id}' is driven by {avatar.model.extractor} features, "
                        f"not {dataset.extractor}; use --audio-extractor {avatar.model.extractor}")  # fmt: skip
    if avatar.norm is not None and dataset.norm is not None and dict(avatar.norm) != dict(dataset.norm):
        raise DataError(f"{dataset.source.path}: its audio features are normalised otherwise than those of avatar "
                        f"'{avatar.id}'; make them anew with `instag features`")  # fmt: skip


def evaluate_avatar(
    avatar: Drivable,
    dataset: SubjectDataset,
    indices: Sequence[int] | np.ndarray,
    output: Path | str,
    *,
    dilate: bool = False,
    part: str = "test",
    syncnet: Path | None = None,
    track_faces: Tracker = faces.track_faces,
    progress: bool = True,
) -> Path:
    """Render frames self-driven and measure them: metrics.json, report.html, side_by_side.mp4, frames/ in `output`.

    Args:
        avatar: who is measured.
        dataset: its subject at the avatar's size, with its extractor.
        indices: consecutive frames, e.g. `avatar.split.test`.
        output: folder of the report.
        dilate: as in synthesis.
        part: what the report calls these frames.
        syncnet: file of SyncNet's weights; without it its figures are absent.
        track_faces: see `evaluate`.
        progress: show bars.

    Returns:
        Path of metrics.json.
    """
    output = Path(output)
    network = None if syncnet is None else load_syncnet(syncnet, avatar.device)  # before anything is rendered
    rendered = render_self_driven(avatar, dataset, indices, output / FRAMES_FOLDER, dilate=dilate, progress=progress)
    lpips = load_lpips(avatar.device)
    result = evaluate(
        rendered,
        dataset,
        indices,
        lpips=lpips,
        syncnet=network,
        device=avatar.device,
        track_faces=track_faces,
        progress=progress,
    )
    head = {
        "avatar": avatar.id,
        "part": part,
        "protocol": SELF_DRIVEN,
        "instag": __version__,
        "dilate": dilate,
        "trained_on": _seen(avatar, dataset, indices),
    }
    result.metrics.update(head)
    if avatar.id != dataset.id:
        result.notes.append(f"the avatar is called '{avatar.id}', the subject '{dataset.id}'")
    for note in result.notes:
        logger.warning("note: %s", note)
    return write_report(output, result, rendered, dataset, [int(i) for i in indices])


def _seen(avatar: Drivable, dataset: SubjectDataset, indices: Sequence[int] | np.ndarray) -> int:
    """How many of these frames the avatar was trained on; none where they are another clip's."""
    if avatar.id != dataset.id:
        return 0
    return len(set(map(int, indices)) & set(map(int, avatar.split.train)))
