"""Landmark figures of finished rows, from their collected frames: where the face tracker is installed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from instag.data.dataset import SubjectDataset
from instag.experiments.fields import TRUTH
from instag.experiments.frames import read_frames
from instag.experiments.jobs import FRAMES
from instag.experiments.plan import ADAPT, result_of
from instag.files import atomic_path, write_json
from instag.metrics.evaluate import face_metrics, silence_metrics
from instag.metrics.landmarks import FaceTrack, lip_opening, pearson, track_faces

logger = logging.getLogger(__name__)
LANDMARKS = "landmarks.json"
TRACKS = "tracks"  # folder below the output: tracked truth, one file a clip and range of frames
Tracker = Callable[[Iterable[np.ndarray]], FaceTrack]


def measure_rows(output: Path, find: Callable[[str], Path], track: Tracker = track_faces) -> list[Path]:
    """Write landmarks.json beside every finished row that has none yet.

    Args:
        output: of the run.
        find: path of a subject by its name.
        track: the tracker.

    Returns:
        What was written.
    """
    written = []
    for folder in sorted((output / ADAPT).glob("*")):
        result = result_of(folder)
        if result is None or not (folder / FRAMES).is_file() or (folder / LANDMARKS).is_file():
            continue
        logger.info("landmarks of %s", folder.name)
        write_json(folder / LANDMARKS, _measure(folder, result, output / TRACKS, find(result["recipe"]["test"]), track))
        written.append(folder / LANDMARKS)
    return written


def _measure(folder: Path, result: dict[str, Any], tracks: Path, subject: Path, track: Tracker) -> dict[str, Any]:
    frames = result["frames"]
    size = result["recipe"]["settings"]["data"]["size"]
    with SubjectDataset.open(subject, size=size, extractor=None) as dataset:
        truth = true_track(tracks / f"{dataset.id}-{dataset.size}-{frames[0]}-{frames[-1]}.npz", dataset, frames, track)
        render = track(read_frames(folder / FRAMES))
        figures = face_metrics(render, truth, dataset.world_to_camera[frames], frames)
        notes: list[str] = []
        figures |= silence_metrics(lip_opening(render), dataset, frames, notes)
    known = subject.with_suffix(TRUTH)
    if known.is_file():
        figures |= against_truth(lip_opening(render), known, frames)
    return {**figures, "notes": notes}


def true_track(path: Path, dataset: SubjectDataset, frames: list[int], track: Tracker) -> FaceTrack:
    """Landmarks of the true pictures, tracked once and kept."""
    if not path.is_file():
        found = track(dataset.picture(i).image for i in frames)
        with atomic_path(path) as temporary:
            np.savez(temporary, mesh=found.mesh, found=found.found)
    with np.load(path) as arrays:
        return FaceTrack(arrays["mesh"], arrays["found"])


def against_truth(opening: np.ndarray, truth: Path, frames: list[int]) -> dict[str, float]:
    """Rendered lip opening against a made speaker's exact one, both over the distance of the outer eye corners.

    Returns:
        `true_opening_r`: correlation; `true_opening_error`: mean absolute difference after the rendered opening's mean
        is moved to the true one's (the tracker's lip points are not the generator's).
    """
    from instag.synthetic.landmarks import NAMES

    with np.load(truth) as arrays:
        gap = arrays["mouth_opening"][frames].astype(np.float64)
        points = arrays["landmarks"][frames].astype(np.float64)
    corners = [points[:, NAMES.index(f"eye_{side}_outer")] for side in ("right", "left")]
    exact = gap / np.linalg.norm(corners[0] - corners[1], axis=1)
    difference = (opening - opening.mean()) - (exact - exact.mean())
    return {"true_opening_r": pearson(opening, exact), "true_opening_error": float(np.abs(difference).mean())}
