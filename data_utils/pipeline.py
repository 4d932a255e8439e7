"""From a video file to a subject folder: the steps, in order, each resumable.

A step is done when `subject.json` says so for its settings and its outputs are there. Killed at any time and started
again, the work goes on where it stopped; a step run anew makes those that build on it run anew.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from instag.data.audio import get_extractor
from instag.data.layout import FPS, SubjectFolder
from instag.data_utils import subject_files
from instag.data_utils.action_units import action_units, write_csv
from instag.data_utils.background import fit_plate
from instag.data_utils.clip import (
    ClipView,
    PersonMasks,
    WorkFiles,
    load_landmarks,
    load_track,
    save_arrays,
    save_plate,
    save_track,
    write_person_masks,
)
from instag.data_utils.files import write_image
from instag.data_utils.landmarks import FaceTracker, PersonSegmenter, collect_landmarks, fill_gaps
from instag.data_utils.manifest import Manifest, file_hash, settings_hash
from instag.data_utils.pictures import write_images, write_labels, write_torso
from instag.data_utils.pose import fit_poses
from instag.data_utils.segmentation import fit_parser
from instag.data_utils.video import FrameReader, iterate_frames, probe, read_all, square_crop
from instag.data_utils.workers import FramePool
from instag.errors import DataError
from instag.media import VideoWriter

T = TypeVar("T")
log = logging.getLogger("instag.data_utils")

CROP_SAMPLES_PER_SECOND = 2.0
LEAST_CROP = 0.75  # of the size asked for: below it the pictures are enlarged noticeably
FRAMES_CRF = 12
KEY_FRAMES = FPS  # one a second


@dataclass
class Job:
    """One run: what is to be made, and the tools that the steps share."""

    clip: Path
    folder: SubjectFolder
    size: int
    limit_seconds: float | None
    extractor: str
    norm: str
    manifest: Manifest
    pool: FramePool
    step: str = ""
    version: str = ""
    resumed: bool = False
    _hashes: dict[str, str] = field(default_factory=dict)

    @property
    def work(self) -> WorkFiles:
        """Intermediate files."""
        return WorkFiles(self.folder)

    @property
    def count(self) -> int:
        """Number of frames."""
        return int(self.manifest.facts["frames"])

    def progress(self, items: Iterable[T], total: int | None = None, unit: str = "frame") -> Iterator[T]:
        """The items, with a bar that names the step."""
        return tqdm(items, desc=self.step.replace("_", " ").ljust(13), total=total, unit=unit, smoothing=0.1)

    def warn(self, text: str) -> None:
        """Tell the user, and keep it in subject.json."""
        log.warning("%s", text)
        self.manifest.warnings.setdefault(self.step, []).append(text)

    def run_chunks(self, function: Callable[..., T], *arguments: object) -> Iterator[T]:
        """`function` on all frames by the pool, with a bar over frames."""
        bar = self.progress([], self.count)
        with bar:
            for chunk, result in self.pool.map(function, self.count, self.folder.root, self.version, *arguments):
                yield result
                bar.update(len(chunk))


@dataclass(frozen=True)
class Step:
    """One named part of the work.

    Attributes:
        name: as `--task` takes it.
        needs: steps whose output it reads.
        run: does it.
        outputs: files that must be there afterwards (of pictures, the first and the last).
        settings: what changes the output besides the needed steps.
    """

    name: str
    needs: tuple[str, ...]
    run: Callable[[Job], None]
    outputs: Callable[[Job], list[Path]]
    settings: Callable[[Job], dict[str, Any]] = lambda job: {}


# --- the steps ----------------------------------------------------------------------------------------------------
def _video(job: Job) -> None:
    info = probe(job.clip)
    if not info.has_audio:
        raise DataError(f"{job.clip}: has no sound, which the lips are learnt from; give a clip with speech")
    seconds = info.seconds if job.limit_seconds is None else min(info.seconds, job.limit_seconds)
    sampled = iterate_frames(job.clip, CROP_SAMPLES_PER_SECOND, seconds or job.limit_seconds)
    with FaceTracker() as tracker:
        faces = [
            p for p in map(tracker, job.progress(sampled, round(seconds * CROP_SAMPLES_PER_SECOND))) if p is not None
        ]
    if not faces:
        raise DataError(f"{job.clip}: no face found in any frame; give a clip that shows one face from the front")
    crop = square_crop(np.stack(faces), info.width, info.height)
    if crop.side < LEAST_CROP * job.size:
        job.warn(
            f"the face fills only a {crop.side} px square of the clip, enlarged to {job.size} px: expect soft pictures"
        )
    frames = iterate_frames(job.clip, FPS, job.limit_seconds)
    with VideoWriter(job.folder.frames, FPS, job.size, crf=FRAMES_CRF, gop=KEY_FRAMES) as writer:
        for frame in job.progress(frames, round(seconds * FPS)):
            writer.write(crop.apply(frame, job.size))
    if info.seconds and writer.frames < (seconds - 1) * FPS:
        job.warn(f"only {writer.frames / FPS:.1f} s of {seconds:.1f} s could be decoded")
    job.manifest.facts |= {
        "source": {"name": job.clip.name, "sha256": file_hash(job.clip), "seconds": round(info.seconds, 3)},
        "crop": {"left": crop.left, "top": crop.top, "side": crop.side},
        "size": job.size,
        "fps": FPS,
        "frames": writer.frames,
    }


def _audio(job: Job) -> None:
    subject_files.write_audio(job.folder, job.clip, job.count)


def _landmarks(job: Job) -> None:
    points = []

    def masks(tracker: FaceTracker, segmenter: PersonSegmenter) -> Iterator[np.ndarray]:
        for frame in job.progress(read_all(job.folder.frames), job.count):
            points.append(tracker(frame))
            yield segmenter(frame)

    with FaceTracker() as tracker, PersonSegmenter() as segmenter:
        write_person_masks(job.work.person, masks(tracker, segmenter))
    landmarks, found = collect_landmarks(points)
    landmarks = fill_gaps(landmarks, found, str(job.clip))
    if not found.all():
        job.warn(f"no face in {int((~found).sum())} frames; their landmarks are interpolated")
    save_arrays(job.work.landmarks, landmarks=landmarks, found=found)


def _pose(job: Job) -> None:
    track = fit_poses(load_landmarks(job.work.landmarks), job.size)
    save_track(job.work.track, track)
    subject_files.write_transforms(job.folder, track, job.size)
    job.manifest.facts |= {"focal": round(track.focal, 3), "pose_rmse_px": round(track.rmse, 4)}
    if track.cuts:
        job.warn(f"the clip is cut at frame {', '.join(map(str, track.cuts))}; one uninterrupted take is better")


def _background(job: Job) -> None:
    frames = FrameReader(job.folder.frames)
    person = PersonMasks(job.work.person, job.size)
    plate = fit_plate(frames, person, job.count)
    save_plate(job.work.plate, plate)
    write_image(job.folder.background, plate.image)


def _segmentation(job: Job) -> None:
    if not job.resumed:
        shutil.rmtree(job.folder.parsing(0).parent, ignore_errors=True)
    parser = fit_parser(ClipView.open(job.folder))
    for _ in job.run_chunks(write_labels, parser):
        pass


def _torso(job: Job) -> None:
    if not job.resumed:
        shutil.rmtree(job.folder.torso(0).parent, ignore_errors=True)
    with VideoWriter(job.folder.plates, FPS, job.size, crf=FRAMES_CRF, gop=KEY_FRAMES) as writer:
        for plates in job.run_chunks(write_torso):
            for picture in plates:
                writer.write(picture)


def _images(job: Job) -> None:
    if not job.resumed:
        for path in (job.folder.image(0), job.folder.ground_truth(0)):
            shutil.rmtree(path.parent, ignore_errors=True)
    for _ in job.run_chunks(write_images):
        pass


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
    from instag.data.pack import write_pack

    write_pack(job.folder)


def _ends(path: Callable[[int], Path], job: Job) -> list[Path]:
    return [path(0), path(job.count - 1)]


STEPS = (
    Step(
        "video",
        (),
        _video,
        lambda job: [job.folder.frames],
        lambda job: {"clip": file_hash(job.clip), "size": job.size, "limit": job.limit_seconds},
    ),
    Step("audio", ("video",), _audio, lambda job: [job.folder.audio]),
    Step("landmarks", ("video",), _landmarks, lambda job: [job.work.landmarks, job.work.person]),
    Step(
        "pose",
        ("landmarks",),
        _pose,
        lambda job: [job.work.track, *(job.folder.transforms(split) for split in subject_files.SPLITS)],
    ),
    Step("background", ("landmarks",), _background, lambda job: [job.work.plate, job.folder.background]),
    Step("segmentation", ("pose", "background"), _segmentation, lambda job: _ends(job.folder.parsing, job)),
    Step("torso", ("segmentation",), _torso, lambda job: [job.folder.plates, *_ends(job.folder.torso, job)]),
    Step(
        "images",
        ("segmentation",),
        _images,
        lambda job: [*_ends(job.folder.image, job), *_ends(job.folder.ground_truth, job)],
    ),
    Step("action_units", ("pose",), _action_units, lambda job: [job.folder.action_units]),
    Step(
        "features",
        ("audio",),
        _features,
        lambda job: [job.folder.root / get_extractor(job.extractor).files[0]],
        lambda job: {"extractor": job.extractor, "norm": job.norm},
    ),
    Step("tracks", ("pose",), _tracks, lambda job: [job.folder.tracks]),
    Step(
        "pack",
        ("audio", "torso", "images", "action_units", "features", "tracks"),
        _pack,
        lambda job: [job.folder.pack],
    ),
)
STEP_NAMES = tuple(step.name for step in STEPS)


# --- running them -------------------------------------------------------------------------------------------------
def run(job: Job, steps: Sequence[str] | None, force: bool) -> None:
    """Run the steps that are not done: all, or those named, which are run in any case."""
    unknown = [name for name in steps or () if name not in STEP_NAMES]
    if unknown:
        raise DataError(f"unknown step '{unknown[0]}'; choose from {', '.join(STEP_NAMES)}")
    for step in STEPS:
        settings = _settings(job, step)
        done = job.manifest.is_done(step.name, settings) and all(path.is_file() for path in step.outputs(job))
        if steps is not None and step.name not in steps:
            continue
        if done and not force and steps is None:
            continue
        missing = [name for name in step.needs if not job.manifest.steps.get(name, {}).get("done")]
        if missing:
            raise DataError(
                f"{job.folder.root}: step '{step.name}' needs '{missing[0]}', which is not done; run it first"
            )
        _run_one(job, step, settings, keep=not done and not force)


def _run_one(job: Job, step: Step, settings: str, keep: bool) -> None:
    job.step, job.version = step.name, settings
    job.resumed = keep and job.manifest.was_begun(step.name, settings)
    job.manifest.begin(step.name, settings, _dependents(step.name))
    started = time.perf_counter()
    step.run(job)
    job.manifest.finish(step.name, time.perf_counter() - started)


def _settings(job: Job, step: Step) -> str:
    """Hash of what the step's output depends on."""
    if step.name not in job._hashes:
        needs = {name: _settings(job, next(s for s in STEPS if s.name == name)) for name in step.needs}
        job._hashes[step.name] = settings_hash({"step": step.name, "own": step.settings(job), "needs": needs})
    return job._hashes[step.name]


def _dependents(name: str) -> list[str]:
    """Steps that read, directly or not, what a step writes."""
    found: list[str] = []
    for step in STEPS:
        if name in step.needs or any(n in step.needs for n in found):
            found.append(step.name)
    return found
