"""How the benchmarks measure: medians of CUDA-event intervals, captured graphs, time per kernel, what ran where."""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable

import torch

BATCHES, CALLS = 20, 20  # a time is the median over 20 intervals of 20 calls
WARM_UP = 5
KERNELS_SHOWN = 24


def interval_ms(call: Callable[[], object], batches: int = BATCHES, calls: int = CALLS) -> float:
    """Median milliseconds per call, by events around batches."""
    for _ in range(WARM_UP):
        call()
    times = []
    for _ in range(batches):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / calls)
    return round(statistics.median(times), 5)


def capture(call: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """The call as a CUDA graph, after three calls on a side stream."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph


def timed(call: Callable[[], object]) -> dict:
    """Milliseconds per call, eager and as a graph."""
    result: dict = {"eager": interval_ms(call)}
    try:
        result["graph"] = interval_ms(capture(call).replay)
    except Exception as error:
        result["graph"] = f"{type(error).__name__}: {error}"
        torch.cuda.synchronize()
    return result


def kernel_times(call: Callable[[], object], calls: int = 10) -> dict[str, float]:
    """Microseconds per call spent in each kernel, by torch's profiler, with how often it ran; largest first."""
    from torch.profiler import ProfilerActivity, profile

    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
    sums, launches = {}, 0.0
    for event in recorded.key_averages():
        microseconds = getattr(event, "self_device_time_total", 0.0) / calls
        if microseconds > 0:
            launches += event.count / calls
            sums[f"{event.key[:70]} x{event.count / calls:g}"] = round(microseconds, 2)
    shown = dict(sorted(sums.items(), key=lambda item: -item[1])[:KERNELS_SHOWN])
    return {"sum": round(sum(sums.values()), 1), "launches": launches, **shown}


def environment() -> dict:
    """Hardware and versions."""
    import importlib.metadata

    versions = {}
    for package in ("torch", "triton", "numpy", "cuda-core", "cuda-bindings", "nvidia-cuda-nvrtc", "numba"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    result: dict = {"python": sys.version.split()[0], "cores": os.cpu_count(), "packages": versions}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        result |= {
            "gpu": properties.name,
            "capability": [properties.major, properties.minor],
            "multiprocessors": properties.multi_processor_count,
            "shared_memory_per_block": properties.shared_memory_per_block_optin,
            "cuda": torch.version.cuda,
        }
    return result
