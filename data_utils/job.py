"""Running named steps that resume: what a run shares, what a step is, and which steps are to be run.

A step is done when `subject.json` says so for its settings and its outputs are there. Killed at any time and started
again, the work goes on where it stopped; a step run anew makes those that build on it run anew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from instag.data.layout import SubjectFolder
from instag.data_utils.clip import WorkFiles
from instag.data_utils.manifest import Manifest, settings_hash
from instag.data_utils.workers import FramePool, give_back_memory
from instag.errors import DataError

T = TypeVar("T")
log = logging.getLogger("instag.data_utils")

BAR_SECONDS = 0.5  # between two states of a progress bar


@dataclass
class Job:
    """One run: what is to be made, and the tools that the steps share.

    Attributes:
        clip: the video file. folder: where everything goes.
        size: side of the pictures in pixels. limit_seconds: how much of the clip is looked at.
        shot: number of the take to use (`shots.choose_shot`). best: seconds of the most informative part, or None.
        lag: frames by which the lips are late, to be put right. fix_lag: put right what is measured.
        poses: "photometric" (refined on the pictures) or "landmarks" (by these alone).
        parser: file of a face parsing network, or None. geometry: files of depth and normal networks.
        extractor, norm: audio features and their normalisation.
        manifest: subject.json. pool: processes for the pictures.
        step: name of the step that runs. version: hash of its settings and of those before it.
        resumed: it was begun before with these settings: pictures that exist are kept.
    Each step has a copy of its own, for the last three; what they write to the manifest is the same for all.
    """

    clip: Path
    folder: SubjectFolder
    size: int
    limit_seconds: float | None
    shot: int | None
    best: float | None
    lag: int | None
    fix_lag: bool
    poses: str
    parser: str | None
    geometry: Sequence[str] | None
    extractor: str
    norm: str
    manifest: Manifest
    pool: FramePool
    step: str = ""
    version: str = ""
    resumed: bool = False

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
        return tqdm(items, desc=self.step.replace("_", " ").ljust(13), total=total, unit=unit, mininterval=BAR_SECONDS)

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
        beside: it takes one core for a while: done on a thread while the steps after it go on that need it not.
    """

    name: str
    needs: tuple[str, ...]
    run: Callable[[Job], None]
    outputs: Callable[[Job], list[Path]]
    settings: Callable[[Job], dict[str, Any]] = lambda job: {}
    beside: bool = False


def run_steps(job: Job, steps: Sequence[Step], only: Sequence[str] | None = None, force: bool = False) -> None:
    """Run the steps that are not done, in order; or those named in `only`, done or not. `force`: done ones as well.

    Raises DataError for an unknown name, and for a step whose needs are not done.
    """
    by_name = {step.name: step for step in steps}
    unknown = [name for name in only or () if name not in by_name]
    if unknown:
        raise DataError(f"unknown step '{unknown[0]}'; choose from {', '.join(by_name)}")
    hashes: dict[str, str] = {}
    running: dict[str, Future[None]] = {}
    with ThreadPoolExecutor(1) as beside:
        for step in steps:
            needs = {name: hashes[name] for name in step.needs}
            hashes[step.name] = settings_hash({"step": step.name, "own": step.settings(job), "needs": needs})
            if only is not None and step.name not in only:
                continue
            _wait(future for name, future in running.items() if name in step.needs or future.done())
            done = _is_done(job, step, hashes[step.name])
            if done and only is None and not force:
                continue
            missing = [name for name in step.needs if not job.manifest.is_done(name, hashes[name])]
            if missing:
                raise DataError(
                    f"{job.folder.root}: step '{step.name}' needs '{missing[0]}' with the same settings; run that first"
                )
            run = partial(_run_one, job, step, hashes[step.name], done or force, dependents(step.name, steps))
            if step.beside:
                running[step.name] = beside.submit(run)
            else:
                run()
        _wait(running.values())


def _wait(futures: Iterable[Future[None]]) -> None:
    """For their end; their errors are raised here."""
    for future in futures:
        future.result()


def _is_done(job: Job, step: Step, settings: str) -> bool:
    return job.manifest.is_done(step.name, settings) and all(path.is_file() for path in step.outputs(job))


def _run_one(job: Job, step: Step, settings: str, anew: bool, dependents: list[str]) -> None:
    resumed = not anew and job.manifest.was_begun(step.name, settings)
    job = replace(job, step=step.name, version=settings, resumed=resumed)
    job.manifest.begin(step.name, settings, dependents)
    started = time.perf_counter()
    step.run(job)
    give_back_memory()
    job.manifest.finish(step.name, time.perf_counter() - started)


def dependents(name: str, steps: Sequence[Step]) -> list[str]:
    """Names of the steps that read, directly or not, what a step writes."""
    found: list[str] = []
    for step in steps:  # in order: a step stands after those that it needs
        if name in step.needs or any(other in step.needs for other in found):
            found.append(step.name)
    return found
