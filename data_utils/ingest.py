"""The first steps: what of a clip is used, its pictures cut square, its sound, its landmarks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial

import numpy as np

from instag.audio.io import read_audio
from instag.data.layout import FPS, SAMPLE_RATE
from instag.data_utils import subject_files
from instag.data_utils.best import Signals, best_window, explain
from instag.data_utils.clip import write_person_masks
from instag.data_utils.clip_check import Check, Level, judge_lag, judge_pictures, judge_sound, lag_of, sound_signals
from instag.data_utils.files import save_arrays
from instag.data_utils.job import Job
from instag.data_utils.landmarks import PersonSegmenter, fill_gaps
from instag.data_utils.manifest import file_hash
from instag.data_utils.shots import ALL_SHOTS, Shot, choose_shot, find_cuts, split_shots
from instag.data_utils.survey import Survey, load_survey, save_survey, survey_clip
from instag.data_utils.video import SHORTEST_CLIP, Crop, iterate_frames, probe, square_crop
from instag.data_utils.workers import Crew, ahead
from instag.errors import DataError
from instag.media import VideoWriter

log = logging.getLogger("instag.data_utils")

# Of frames.mp4 and plates.mp4. `superfast` takes less than half the time of `faster`, is .1 dB better
# at the same CRF, but a half larger (german20s, 512 px, 6 s: 6.7 against 15.5 ms a frame, 51.05 against 50.94 dB, 2.1
# against 1.4 MB). With `vlc` 5.7 against 7.0 ms, and decoded in 1.8 against 2.8: each frame is read twice or more.
ENCODING = {"crf": 12, "preset": "superfast", "coder": "vlc", "gop": FPS}

MOST_SEGMENTERS = 4  # the encoder keeps up with no more
MASKS_BEHIND = 4  # frames whose masks are waited for while the encoder goes on


def survey(job: Job) -> None:
    """Look at the whole clip once: `survey`."""
    info = probe(job.clip)
    if 0 < info.seconds < SHORTEST_CLIP:
        raise DataError(f"{job.clip}: {info.seconds:.1f} s long, {SHORTEST_CLIP:.0f} s are needed; give a longer clip")
    seconds = info.seconds if job.limit_seconds is None else min(info.seconds, job.limit_seconds)
    show = partial(job.progress, total=round(seconds * FPS) or None)
    seen = survey_clip(job.clip, info, job.limit_seconds, show, job.pool.workers)
    if seconds and len(seen) < (seconds - 1) * FPS:
        job.warn(f"only {len(seen) / FPS:.1f} s of {seconds:.1f} s could be decoded")
    save_survey(job.work.survey, seen)
    source = {"name": job.clip.name, "sha256": file_hash(job.clip), "seconds": round(info.seconds, 3)}
    job.manifest.facts |= {"source": source}


def _chosen_frames(job: Job, survey: Survey) -> Shot:
    if job.best is None:
        return choose_shot(survey, job.shot, str(job.clip))
    shots = split_shots(survey)
    if job.shot is not None or not shots:
        shots = [choose_shot(survey, job.shot, str(job.clip))]
    signals = Signals(survey, *sound_signals(read_audio(job.clip), len(survey)))
    best, first = best_window(signals, shots, job.best)
    if best.shot.seconds < job.best - 0.5 / FPS:
        job.warn(f"the longest take without a cut has only {best.shot.seconds:.1f} s")
    job.manifest.facts["best"] = explain(best, first)
    log.info("%s", job.manifest.facts["best"])
    return best.shot


def video(job: Job) -> None:
    """Choose the part to use and its square, write it, and where the person is."""
    seen = load_survey(job.work.survey)
    job.manifest.facts.pop("best", None)
    shot = _chosen_frames(job, seen)
    at = slice(shot.start, shot.stop)
    crop = square_crop(seen.landmarks[at][seen.found[at]], seen.width, seen.height, seen.bars)
    check = Check()
    judge_pictures(check, seen, shot, job.size, chosen=job.shot is not None or job.best is not None)
    for finding in check.findings:
        if finding.level is Level.WARNING:
            job.warn(str(finding))
    cuts = find_cuts(seen.change[at], seen.repeated[at]) if job.shot == ALL_SHOTS else ()
    if cuts:
        job.warn(f"the picture is cut at frame {', '.join(map(str, cuts))}; an uninterrupted take is better")
    frames = iterate_frames(job.clip, FPS, len(shot) / FPS, shot.start)
    with VideoWriter(job.folder.frames, FPS, job.size, **ENCODING) as writer:
        write_person_masks(job.work.person, _crop_and_encode(job, frames, crop, writer, len(shot)))
    if writer.frames < len(shot):
        raise DataError(
            f"{job.clip}: gave {writer.frames} of {len(shot)} frames when read again; copy it and try again"
        )
    job.manifest.facts |= {
        "crop": {"left": crop.left, "top": crop.top, "side": crop.side},
        "start": shot.start,
        "size": job.size,
        "fps": FPS,
        "frames": writer.frames,
    }


def _crop_and_encode(
    job: Job, frames: Iterator[np.ndarray], crop: Crop, writer: VideoWriter, count: int
) -> Iterator[np.ndarray]:
    """Write the frames; yields their person masks. Networks and encoder let go of Python while they run."""

    def pictures() -> Iterator[tuple[np.ndarray]]:
        for frame in job.progress(ahead(frames), count):
            picture = crop.apply(frame, job.size)
            writer.write(picture)
            yield (picture,)

    with Crew(PersonSegmenter, min(job.pool.workers, MOST_SEGMENTERS)) as crew:
        yield from crew.map(PersonSegmenter.__call__, pictures(), MASKS_BEHIND)


def audio(job: Job) -> None:
    """The sound of the chosen part, put right against the lips where that is asked for."""
    samples, start = read_audio(job.clip), int(job.manifest.facts["start"])
    check, step = Check(), SAMPLE_RATE // FPS
    at = slice(start, start + job.count)
    judge_sound(check, samples[at.start * step : at.stop * step])
    lag = lag_of(load_survey(job.work.survey).landmarks[at], samples[at.start * step : at.stop * step])
    shift = job.lag or 0
    if job.fix_lag and lag.sure:
        shift = lag.frames
    elif job.fix_lag:
        job.warn(
            f"the lag of the lips cannot be measured (correlation {lag.correlation:.2f}); the sound stays as it is"
        )
    if not shift:
        judge_lag(check, lag)
    for finding in check.findings:
        if finding.level is Level.FATAL:
            raise DataError(f"{job.clip}: {finding}")
        if finding.level is Level.WARNING:
            job.warn(str(finding))
    subject_files.write_audio(job.folder, samples, job.count, start, shift)
    job.manifest.facts["lag"] = {
        "measured": lag.frames,
        "correlation": round(lag.correlation, 3),
        "margin": round(lag.margin, 3),
        "corrected": shift,
    }


def landmarks(job: Job) -> None:
    """The survey's landmarks of the chosen part, in pixels of the cropped pictures."""
    facts = job.manifest.facts
    crop, start = Crop(**facts["crop"]), int(facts["start"])
    seen = load_survey(job.work.survey)
    at = slice(start, start + job.count)
    landmarks, found = seen.landmarks[at] - np.float32((crop.left, crop.top, 0)), seen.found[at]
    landmarks *= np.float32(job.size / crop.side)
    landmarks = fill_gaps(landmarks, found, str(job.clip))
    if not found.all():
        job.warn(f"no face in {int((~found).sum())} frames; their landmarks are interpolated")
    save_arrays(job.work.landmarks, landmarks=landmarks, found=found)
