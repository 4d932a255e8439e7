"""How the benchmarks measure and report: medians of CUDA-event intervals, captured graphs, time per kernel, what ran
where; parts one after the other, one JSON, readable tables. Importing it makes the program importable without
installation, and the helpers of `tests/kernels` with it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(path) for path in (ROOT, *sorted((ROOT / "submodules").iterdir()), ROOT / "tests/kernels")]

BATCHES, CALLS = 20, 20  # a time is the median over 20 intervals of 20 calls
WARM_UP = 5
KERNELS_SHOWN = 24
TRACEBACK_LINES = 12


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


def run_parts(description: str, parts: Mapping[str, Callable[[], dict]]) -> None:
    """The command of a benchmark without arguments of its own: `--parts`, `--out`; see `measure_parts`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, parts)
    options = parser.parse_args()
    measure_parts(parts, options, lambda _, entry: table(entry))


def add_options(parser: argparse.ArgumentParser, parts: Iterable[str]) -> None:
    """The options that `measure_parts` reads."""
    parser.add_argument("--parts", default=",".join(parts), help="comma-separated subset")
    parser.add_argument("--out", type=Path, help="write the JSON here as well")


def measure_parts(
    parts: Mapping[str, Callable[[], dict]], options: argparse.Namespace, show: Callable[[str, dict], str]
) -> None:
    """Run the wanted parts one after the other: JSON on stdout, what `show` makes of each part's result on stderr.

    An error is its part's result ("error": last lines of its traceback) and hides no other.
    """
    program, wanted = Path(sys.argv[0]).stem, options.parts.split(",")
    if unknown := set(wanted) - set(parts):
        raise SystemExit(f"{program}: no part {sorted(unknown)[0]!r}; there are {', '.join(parts)}")
    if not torch.cuda.is_available():
        raise SystemExit(f"{program}: torch sees no CUDA device; run it on a machine with one")
    result: dict = {"environment": environment()}
    for name in wanted:
        start = time.perf_counter()
        try:
            torch.cuda.synchronize()
            result[name] = parts[name]()
            shown = show(name, result[name])
        except Exception:
            result[name] = {"error": traceback.format_exc().strip().splitlines()[-TRACEBACK_LINES:]}
            shown = "\n".join(result[name]["error"])
        result[name]["part_s"] = round(time.perf_counter() - start, 2)
        print(f"\n{name} ({result[name]['part_s']} s)\n{shown}", file=sys.stderr, flush=True)
        if options.out:
            options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def table(entries: Mapping[str, object]) -> str:
    """Markdown: a row an entry, a column each number in it; of a list of kernels the sum and the launches."""
    rows = {name: _cells(entry if isinstance(entry, Mapping) else {"": entry}) for name, entry in entries.items()}
    columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(cells.get(c, "") for c in columns) + " |" for name, cells in rows.items()]
    return "\n".join(lines)


def _cells(entry: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    cells: dict[str, str] = {}
    for name, value in entry.items():
        if name.startswith("kernels_us") and isinstance(value, Mapping):
            cells[f"{prefix}kernels us"], cells[f"{prefix}launches"] = f"{value['sum']:g}", f"{value['launches']:g}"
        elif isinstance(value, Mapping):
            cells |= _cells(value, f"{prefix}{name} ")
        else:
            cells[f"{prefix}{name}".strip()] = f"{value:.4g}" if isinstance(value, float) else str(value)
    return cells
