"""From a video file to a subject folder: the steps, in order. How they are run and resumed: `job`."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from instag.data.audio import get_extractor
from instag.data.layout import FPS
from instag.data.pack import write_pack
from instag.data_utils import ingest, networks, subject_files
from instag.data_utils.action_units import action_units, write_csv
from instag.data_utils.background import fit_plate
from instag.data_utils.clip import (
    ClipView,
    PersonMasks,
    load_landmarks,
    load_track,
    read_grey,
    save_plate,
    save_track,
    write_pngs,
)
from instag.data_utils.contact_sheet import SheetRow, write_contact_sheet
from instag.data_utils.face_mesh import face_triangles
from instag.data_utils.files import read_image, write_image
from instag.data_utils.job import Job, Step
from instag.data_utils.manifest import file_hash
from instag.data_utils.pictures import read_labels, write_pictures
from instag.data_utils.pose import fit_poses
from instag.data_utils.priors import camera_mesh, rasterize_mesh
from instag.data_utils.refine_pose import fit_textures, refine_chunk, sample_skin, steady_poses
from instag.data_utils.segmentation import fit_parser
from instag.data_utils.video import FrameReader
from instag.errors import DataError
from instag.files import atomic_path
from instag.media import VideoWriter

SHEET_FRAMES = 4  # of the contact sheet, besides the one with the mouth widest open


# --- the steps from the poses on; those before: `ingest` --------------------------------------------------------------
def _pose(job: Job) -> None:
    track = fit_poses(load_landmarks(job.work.landmarks), job.size)
    save_track(job.work.pose, track)
    job.manifest.facts |= {"focal": round(track.focal, 3), "pose_rmse_px": round(track.rmse, 4)}


def _refine_pose(job: Job) -> None:
    track = load_track(job.work.pose)
    if job.poses == "photometric":
        skin = sample_skin(track.shape)
        textures = fit_textures(partial(read_grey, job.folder.frames, readers=job.pool.workers), track, skin)
        poses = zip(*job.run_chunks(refine_chunk, track, skin, textures), strict=True)
        track = steady_poses(track, *poses)
    save_track(job.work.track, track)
    subject_files.write_transforms(job.folder, track, job.size)


def _background(job: Job) -> None:
    frames = FrameReader(job.folder.frames)
    person = PersonMasks(job.work.person, job.size)
    plate = fit_plate(frames, person, job.count)
    save_plate(job.work.plate, plate)
    write_image(job.folder.background, plate.image)


def _pictures(job: Job) -> None:
    folder = job.folder
    if not job.resumed:
        for path in (folder.parsing(0), folder.torso(0), folder.image(0), folder.ground_truth(0), folder.teeth(0)):
            shutil.rmtree(path.parent, ignore_errors=True)
    parser = fit_parser(ClipView.open(folder))
    if job.parser is not None:
        path = Path(job.parser)
        networks.load_network(path)  # a useless file is found out here, not in the workers
        parser = networks.NetworkParser(path, networks.read_table(path), parser)
    with VideoWriter(folder.plates, FPS, job.size, **ingest.ENCODING) as writer:

        def label_maps() -> Iterator[bytes]:
            for plates, maps in job.run_chunks(write_pictures, parser):
                for picture in plates:
                    writer.write(picture)
                yield from maps

        write_pngs(job.work.labels, label_maps())
    subject_files.write_empty_teeth(folder, job.count, job.size)


def _network_files(job: Job) -> dict[str, Any]:
    """What of the user's networks changes the label maps."""
    if job.parser is None:
        return {}
    table = networks.read_table(Path(job.parser))
    return {"parser": file_hash(Path(job.parser)), "table": None if table is None else asdict(table)}


def _geometry(job: Job) -> None:
    if not job.geometry:
        return
    files = [Path(name) for name in job.geometry]
    frames, made = FrameReader(job.folder.frames), []
    for path in files:
        network = networks.load_network(path)
        kind, _ = networks.geometry_of(network, path, frames(0))
        made.append(kind)
        if not job.resumed:
            shutil.rmtree(job.folder.network_prior(kind, 0).parent.parent, ignore_errors=True)
        for i in job.progress(range(job.count)):
            file = job.folder.network_prior(kind, i)
            if not file.is_file():
                with atomic_path(file) as unfinished, unfinished.open("wb") as stream:
                    np.save(stream, networks.geometry_of(network, path, frames(i))[1])
    if sorted(made) != sorted(networks.GEOMETRY.values()):
        raise DataError(
            f"{files[0]}: with the other file gives {' and '.join(made)}; give one of depth, one of normals"
        )


def _action_units(job: Job) -> None:
    with np.load(job.work.landmarks) as arrays:
        landmarks, found = arrays["landmarks"], arrays["found"]
    write_csv(job.folder.action_units, action_units(landmarks, load_track(job.work.track).rotation), found, FPS)


def _features(job: Job) -> None:
    subject_files.write_features(job.folder, job.extractor, job.norm, job.count)


def _tracks(job: Job) -> None:
    landmarks, track = load_landmarks(job.work.landmarks), load_track(job.work.track)
    units = action_units(landmarks, track.rotation)
    subject_files.write_tracks(job.folder, landmarks, track, units, job.size)


def _pack(job: Job) -> None:
    with zipfile.ZipFile(job.work.labels) as maps:
        write_pack(job.folder, labels=lambda i: maps.read(f"{i}.png"))


def _contact_sheet(job: Job) -> None:
    clip, track = ClipView.open(job.folder), load_track(job.work.track)
    lips = action_units(clip.landmarks, clip.rotation)["AU25"]
    chosen = {*np.linspace(0, job.count - 1, SHEET_FRAMES).round().astype(int).tolist(), int(lips.argmax())}

    def row(i: int, frame: np.ndarray) -> SheetRow:
        pose = (part[i : i + 1] for part in (clip.landmarks, clip.rotation, clip.translation_cm))
        mesh = camera_mesh(*pose, track.shape, track.focal, job.size)[0]
        depth, normal, _ = rasterize_mesh(mesh, face_triangles(), track.focal, job.size)
        pictures = frame, clip.landmarks[i], read_labels(job.folder, i), clip.plate.image
        return SheetRow(i, *pictures, read_image(job.folder.torso(i)), normal, depth)

    with ThreadPoolExecutor(job.pool.workers) as threads:
        rows = list(threads.map(row, sorted(chosen), map(clip.frame, sorted(chosen))))
    title = f"{job.folder.id}: {job.count} frames, focal {track.focal:.0f} px, pose error {track.rmse:.2f} px"
    write_contact_sheet(job.folder.contact_sheet, rows, title)


def _ends(path: Callable[[int], Path], job: Job) -> list[Path]:
    return [path(0), path(job.count - 1)]


# Where a clip may turn out to be unusable.
INGESTION = ("survey", "video", "audio", "features", "landmarks", "background", "pose")
STEPS = (
    Step(
        "survey",
        (),
        ingest.survey,
        lambda job: [job.work.survey],
        lambda job: {"clip": file_hash(job.clip), "limit": job.limit_seconds},
    ),
    Step(
        "video",
        ("survey",),
        ingest.video,
        lambda job: [job.folder.frames, job.work.person],
        lambda job: {"size": job.size, "shot": job.shot, "best": job.best},
    ),
    Step(
        "audio",
        ("video",),
        ingest.audio,
        lambda job: [job.folder.audio],
        lambda job: {"lag": job.lag, "fix_lag": job.fix_lag},
        beside=True,
    ),
    Step(
        "features",
        ("audio",),
        _features,
        lambda job: [job.folder.root / get_extractor(job.extractor).files[0]],
        lambda job: {"extractor": job.extractor, "norm": job.norm},
        beside=True,
    ),
    Step("landmarks", ("video",), ingest.landmarks, lambda job: [job.work.landmarks]),
    Step("background", ("landmarks",), _background, lambda job: [job.work.plate, job.folder.background], beside=True),
    Step(
        "pose",
        ("landmarks",),
        _pose,
        lambda job: [job.work.pose],
    ),
    Step(
        "refine_pose",
        ("pose",),
        _refine_pose,
        lambda job: [job.work.track, *(job.folder.transforms(split) for split in subject_files.SPLITS)],
        lambda job: {"poses": job.poses},
    ),
    Step("action_units", ("refine_pose",), _action_units, lambda job: [job.folder.action_units], beside=True),
    Step("tracks", ("refine_pose",), _tracks, lambda job: [job.folder.tracks], beside=True),
    Step(
        "geometry",
        ("video",),
        _geometry,
        lambda job: [
            path
            for kind in (networks.GEOMETRY.values() if job.geometry else ())
            for path in _ends(partial(job.folder.network_prior, kind), job)
        ],
        lambda job: {"networks": [file_hash(Path(name)) for name in job.geometry or ()]},
    ),
    Step(
        "pictures",
        ("refine_pose", "background"),
        _pictures,
        lambda job: [
            job.folder.plates,
            job.work.labels,
            *_ends(job.folder.parsing, job),
            *_ends(job.folder.torso, job),
            *_ends(job.folder.image, job),
            *_ends(job.folder.ground_truth, job),
            *_ends(job.folder.teeth, job),
        ],
        _network_files,
    ),
    Step("contact_sheet", ("pictures", "tracks"), _contact_sheet, lambda job: [job.folder.contact_sheet], beside=True),
    Step(
        "pack",
        ("audio", "pictures", "action_units", "features", "tracks"),
        _pack,
        lambda job: [job.folder.pack],
    ),
)
