"""Work on the frames of a clip in chunks of a second, by several processes; memory bounded, results in order."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from importlib import import_module
from queue import Full, Queue
from threading import Event, Thread
from types import TracebackType
from typing import TypeVar

from instag.data_utils.video import BLOCK
from instag.errors import InstagError

T = TypeVar("T")

READ_AHEAD = 4  # pictures decoded while others are worked on
STOP_SECONDS = 0.1  # after which a reader that is no longer wanted notices
CHUNKS_AHEAD = 2  # per process: results that wait hold pictures


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class FramePool:
    """Runs `function(start, stop, *arguments)` on chunks of frames.

    The processes are spawned, not forked: the landmark networks leave threads behind. They start with `start` or the
    first call and serve all later ones. With one worker everything runs in this process.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = usable_cores() if workers is None else workers
        self._executor: ProcessPoolExecutor | None = None

    def start(self, *modules: str) -> None:
        """Start the processes and let them import modules, while this one goes on with something else."""
        if self.workers > 1:
            executor = self._running()
            for _ in range(self.workers):
                executor.submit(_import, modules)

    def map(self, function: Callable[..., T], count: int, *arguments: object) -> Iterator[tuple[range, T]]:
        """Yield (frames, result) chunk by chunk, in order. Function and arguments must be picklable."""
        chunks = [range(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]
        if self.workers <= 1 or len(chunks) <= 1:
            for chunk in chunks:
                yield chunk, function(chunk.start, chunk.stop, *arguments)
            return
        executor = self._running()
        waiting: deque[tuple[range, Future[T]]] = deque()
        try:
            for chunk in chunks:
                waiting.append((chunk, executor.submit(function, chunk.start, chunk.stop, *arguments)))
                if len(waiting) >= CHUNKS_AHEAD * self.workers:
                    done, future = waiting.popleft()
                    yield done, future.result()
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()
        except BrokenProcessPool:
            raise InstagError("a worker process died, perhaps for lack of memory; run again with --workers 1") from None
        finally:
            for _, future in waiting:
                future.cancel()

    def _running(self) -> ProcessPoolExecutor:
        if self._executor is None:
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_start_worker)
        return self._executor

    def close(self) -> None:
        """End the processes."""
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
            self._executor = None

    def __enter__(self) -> FramePool:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _start_worker() -> None:
    """One thread each: the processes share the cores already."""
    import cv2

    cv2.setNumThreads(1)


def _import(modules: Sequence[str]) -> None:
    for name in modules:
        import_module(name)


def ahead(items: Iterable[T], depth: int = READ_AHEAD) -> Iterator[T]:
    """The items in order, made by a thread that is up to `depth` of them ahead; its errors are raised here."""
    ready: Queue[tuple[bool, object]] = Queue(depth)
    stopped = Event()

    def put(entry: tuple[bool, object]) -> None:
        while not stopped.is_set():
            with suppress(Full):
                return ready.put(entry, timeout=STOP_SECONDS)

    def produce() -> None:
        try:
            for item in items:
                put((False, item))
                if stopped.is_set():
                    return
            put((True, None))
        except BaseException as error:  # whatever it is belongs to the one who asks
            put((True, error))

    thread = Thread(target=produce, daemon=True)
    thread.start()
    try:
        while True:
            last, item = ready.get()
            if not last:
                yield item
            elif item is None:
                return
            else:
                raise item
    finally:
        stopped.set()
        thread.join()
