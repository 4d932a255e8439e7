"""CUDA graphs: work that is queued once, recorded, and repeated without Python (training steps, batches of frames)."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from instag import kernels

T = TypeVar("T")


class Captured(Protocol, Generic[T]):
    """Recorded work."""

    def replay(self) -> T:
        """Queue the work; what it returned when it was captured, written anew and valid until the next replay."""


class Graphs(Protocol):
    """What records work."""

    def active(self) -> AbstractContextManager[None]:
        """Context of everything that is recorded, replayed or called beside it."""

    def capture(self, work: Callable[[], T]) -> Captured[T]:
        """Record work without running it; it has run before, so that all that is made at first use is there."""

    def overflow_flag(self) -> Tensor:
        """[1], on the device: not 0 once a tile's list was too short in a replay; what was drawn since is wrong."""

    def overflow(self) -> str | None:
        """Read the flag, which waits for the device: why replays may be wrong, once; None where they are right."""


class CudaWork(Generic[T]):
    """A CUDA graph and what its work returned."""

    def __init__(self, graph: torch.cuda.CUDAGraph, result: T):
        self._graph, self._result = graph, result

    def replay(self) -> T:
        """Queue the work."""
        self._graph.replay()
        return self._result


class CudaGraphs:
    """Records on a stream of its own; all graphs share one pool of memory, as they run one after the other."""

    def __init__(self, device: torch.device):
        """device: on which everything lies."""
        self._device = device if device.index is not None else torch.device("cuda", torch.cuda.current_device())
        self._stream = torch.cuda.Stream(self._device)
        self._pool = torch.cuda.graph_pool_handle()
        self._last: torch.cuda.CUDAGraph | None = None  # the pool's memory is kept while one of its graphs lives

    @contextmanager
    def active(self) -> Iterator[None]:
        """Queue everything on the stream that is recorded: autograd's nodes remember the stream they were made on."""
        outside = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(outside)
        with torch.cuda.stream(self._stream):
            yield
        outside.wait_stream(self._stream)

    def capture(self, work: Callable[[], T]) -> Captured[T]:
        """Record work. No garbage is collected meanwhile: what it would free may not be freed during a capture."""
        graph = torch.cuda.CUDAGraph()
        collecting = gc.isenabled()
        gc.disable()
        try:
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                result = work()
            finally:
                graph.capture_end()
        finally:
            if collecting:
                gc.enable()
        self._last = graph
        return CudaWork(graph, result)

    def overflow_flag(self) -> Tensor:
        """The flag that captured rasterizer calls share."""
        from gaussian_rasterization.cuda.tiles import overflow_flag

        return overflow_flag(self._device, capturing=True)

    def overflow(self) -> str | None:
        """Read and lower the flag; later captures have room for what did not fit."""
        from gaussian_rasterization.cuda import TileOverflowError, check_overflow

        try:
            check_overflow(self._device)
        except TileOverflowError as error:
            return str(error)
        return None


def graphs_for(device: torch.device, wanted: bool = True) -> Graphs | None:
    """CUDA graphs where they are wanted and can be had: on CUDA, with the kernel packages installed."""
    return CudaGraphs(device) if wanted and device.type == "cuda" and kernels.reason_missing() is None else None
