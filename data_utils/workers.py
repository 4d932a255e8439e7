"""Work on the frames of a clip by several processes or threads; memory bounded, results in order."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, suppress
from queue import Full, Queue, SimpleQueue
from threading import Event, Thread
from typing import Generic, TypeVar

import numpy as np

from instag.closing import Closing
from instag.data_utils.blas import set_blas_threads
from instag.data_utils.video import BLOCK
from instag.errors import InstagError

T = TypeVar("T")
N = TypeVar("N")

READ_AHEAD = 4  # pictures decoded while others are worked on
STOP_SECONDS = 0.1  # after which a reader that is no longer wanted notices
_ARRAY_BYTES = 31 << 20  # glibc learns from arrays of up to 32 MB
CHUNKS_AHEAD = 2  # per process: results that wait hold pictures


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class FramePool(Closing):
    """Runs `function(start, stop, *arguments)` on chunks of frames.

    The processes are forked from a server that has imported `modules`: from this process they cannot be, since the
    landmark networks leave threads behind, and spawned ones import everything anew (1.2 s and 90 MB each). They start
    with `start` or the first call and serve all later ones. With one worker everything runs in this process.
    """

    def __init__(self, workers: int | None = None, modules: Sequence[str] = ()) -> None:
        self.workers = usable_cores() if workers is None else workers
        self._modules = modules
        if self.workers <= 1:  # all is done here
            _keep_memory()
        self._executor: ProcessPoolExecutor | None = None
        self._starting: Thread | None = None

    def start(self) -> None:
        """Start the processes, while this one goes on with something else."""
        if self.workers > 1 and self._executor is None:
            self._starting = Thread(target=self._running().submit, args=(_nothing,))  # `submit` waits for the server
            self._starting.start()

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
            method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
            context = multiprocessing.get_context(method)
            if method == "forkserver":
                context.set_forkserver_preload(["__main__", *self._modules])
            self._executor = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_start_worker)
        return self._executor

    def close(self) -> None:
        """End the processes."""
        if self._starting is not None:
            self._starting.join()
            self._starting = None
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
            self._executor = None


def _start_worker() -> None:
    """One thread each: the processes share the cores already."""
    import cv2

    cv2.setNumThreads(1)
    set_blas_threads(1)
    _keep_memory()


def _keep_memory() -> None:
    """Let this process keep the memory that its arrays give back, up to 62 MB of it.

    glibc hands the end of the heap back to the system when twice the largest array that was freed lies there unused;
    a frame's arrays then come as fresh pages again and again: 3500 page faults, 9 of 60 ms a frame. Elsewhere: nothing.
    """
    np.empty(_ARRAY_BYTES, np.uint8)


def give_back_memory() -> None:
    """Hand what arrays of earlier steps left free back to the system: 100 to 200 MB of a process that reads pictures.

    glibc keeps it otherwise, in pieces that the next step's arrays do not fit into. Elsewhere: nothing.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _nothing() -> None:
    """The first task, with which the processes start."""


class Crew(Generic[N]):
    """Some networks, each with a thread: `function(network, *arguments)` for many arguments, several at a time.

    With `make()` they are opened and closed. What they compute must not depend on what they saw before.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[N]], count: int) -> None:
        self._stack, self._count = ExitStack(), count
        self._idle: SimpleQueue[N] = SimpleQueue()
        for _ in range(count):
            self._idle.put(self._stack.enter_context(make()))
        self._threads = ThreadPoolExecutor(count)

    def map(self, function: Callable[..., T], arguments: Iterable[tuple], waiting: int = 1) -> Iterator[T]:
        """The results in order; besides those at work, `waiting` arguments are drawn in advance."""
        running: deque[Future[T]] = deque()
        for each in arguments:
            running.append(self._threads.submit(self._call, function, each))
            if len(running) >= self._count + waiting:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()

    def _call(self, function: Callable[..., T], arguments: tuple) -> T:
        network = self._idle.get()
        try:
            return function(network, *arguments)
        finally:
            self._idle.put(network)

    def __enter__(self) -> Crew[N]:
        return self

    def __exit__(self, *error: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._stack.close()


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
