"""A pool of processes that works a list of jobs off: dependencies, several GPUs, a time limit.

A job that fails stops nothing but the jobs that need it. What is unfinished when time is up is stopped and left to a
later run. This file imports no torch: a worker chooses its GPU before anything else.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)
POLL = 1.0  # s
JOB_LOG = "job.log"

Work = Callable[[Mapping[str, Any]], None]  # must be importable by name: workers are fresh processes


@dataclass(frozen=True)
class Job:
    """A piece of work.

    Attributes:
        name: unique.
        kind: jobs of one kind take about as long.
        payload: what the work is called with, plain values; `folder` is where its log goes.
        needs: names of jobs that must be finished before.
    """

    name: str
    kind: str
    payload: Mapping[str, Any]
    needs: tuple[str, ...] = ()


@dataclass
class Outcome:
    """What became of the jobs: seconds of those done, reasons of those failed, names of those left."""

    done: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)


def run_jobs(
    jobs: Sequence[Job],
    work: Work,
    gpus: Sequence[str],
    per_gpu: int = 1,
    deadline: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Work the jobs off, earlier ones first, each as soon as what it needs is there.

    Args:
        jobs: whose needs name jobs of this list; needs that are not in it count as there.
        work: called in a worker process with a job's payload.
        gpus: numbers of GPUs, "" for a worker without one.
        per_gpu: workers a GPU.
        deadline: by the clock; running jobs are then stopped, and none is started that would likely be.
        clock: seconds.
    """
    outcome = Outcome()
    waiting = {job.name: job for job in jobs}
    pool = [_Worker(work, gpu) for _ in range(per_gpu) for gpu in gpus]  # neighbours are on different GPUs
    durations: dict[str, list[float]] = {}
    try:
        while True:
            for worker in pool:
                if worker.job is None and (job := _next_job(waiting, pool, outcome, durations, deadline, clock())):
                    worker.start(waiting.pop(job.name), clock())
            busy = [worker for worker in pool if worker.job is not None]
            if not busy or (deadline is not None and clock() > deadline):
                break
            for ready in wait([worker.connection for worker in busy], timeout=POLL):
                worker = next(w for w in busy if w.connection is ready)
                _collect(worker, outcome, durations, clock())
    finally:
        outcome.left = [*waiting, *(worker.job.name for worker in pool if worker.job is not None)]
        for worker in pool:
            worker.stop()
    return outcome


def _next_job(
    waiting: Mapping[str, Job],
    pool: Sequence[_Worker],
    outcome: Outcome,
    durations: Mapping[str, list[float]],
    deadline: float | None,
    now: float,
) -> Job | None:
    """The first job whose needs are met and that can end in time."""
    missing = set(waiting) | {worker.job.name for worker in pool if worker.job is not None} | set(outcome.failed)
    for job in waiting.values():
        if missing.intersection(job.needs):
            continue
        past = durations.get(job.kind)
        if deadline is None or past is None or now + statistics.median(past) < deadline:
            return job
    return None


def _collect(worker: _Worker, outcome: Outcome, durations: dict[str, list[float]], now: float) -> None:
    """Note the end of a worker's job; a worker that died is replaced."""
    assert worker.job is not None
    job, seconds = worker.job, now - worker.since
    try:
        reason = worker.connection.recv()
    except (EOFError, ConnectionResetError):
        reason = f"its process died; see {Path(job.payload['folder']) / JOB_LOG}"
        worker.restart()
    worker.job = None
    if reason is None:
        outcome.done[job.name] = seconds
        durations.setdefault(job.kind, []).append(seconds)
        logger.info("done    %s (%.0f s)", job.name, seconds)
    else:
        outcome.failed[job.name] = reason
        logger.error("failed  %s: %s", job.name, reason)


class _Worker:
    """A process that does one job after the other."""

    def __init__(self, work: Work, gpu: str):
        self._work, self._gpu = work, gpu
        self.job: Job | None = None
        self.since = 0.0
        self.restart()

    def restart(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._work), daemon=True)
        os.environ["CUDA_VISIBLE_DEVICES"] = self._gpu  # inherited: it counts from the process's first import on
        self._process.start()
        theirs.close()

    def start(self, job: Job, now: float) -> None:
        logger.info("start   %s%s", job.name, f" on GPU {self._gpu}" if self._gpu else "")
        self.job, self.since = job, now
        self.connection.send(dict(job.payload))

    def stop(self) -> None:
        self._process.terminate()
        self._process.join()
        self.connection.close()


def _serve(connection: Connection, work: Work) -> None:
    """A worker's life."""
    while True:
        try:
            payload = connection.recv()
        except EOFError:
            return
        connection.send(_do(work, payload))


def _do(work: Work, payload: Mapping[str, Any]) -> str | None:
    """Do a job with its output in its own log; the reason where it fails."""
    log = Path(payload["folder"]) / JOB_LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            work(payload)
            return None
        except Exception as error:
            traceback.print_exc()
            return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
