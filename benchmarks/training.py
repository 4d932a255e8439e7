"""Training on a GPU: time per step and kernel, where a whole adaptation's seconds go, captured against called steps.

    python3 benchmarks/training.py SUBJECT [--parts iteration,phases,agreement] [--preset adapt] [--out FILE]

SUBJECT: a processed clip (`.instag` or folder) with a face mesh. An error is its part's result and hides no other.
One JSON (stdout, FILE), tables on stderr. Whole runs with their quality: `benchmarks/adaptation.py`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATHS = [str(ROOT), *(str(path) for path in sorted((ROOT / "submodules").iterdir()))]
sys.path[:0] = PATHS

import torch  # noqa: E402
from agreement import STAGES, agreement, losses_of  # noqa: E402
from agreement import rows as agreement_rows  # noqa: E402
from timing import add_options, interval_ms, kernel_times, measure_parts, table  # noqa: E402

from instag.api import adapt_subject  # noqa: E402
from instag.build import build_face, build_mouth  # noqa: E402
from instag.config_io import load_config  # noqa: E402
from instag.data.dataset import SubjectDataset  # noqa: E402
from instag.head import TalkingHead  # noqa: E402
from instag.kernels.capture import graphs_for  # noqa: E402
from instag.metrics.lpips import CONVOLUTIONS, LPIPS  # noqa: E402
from instag.training.adapt import FaceStage, MouthStage  # noqa: E402
from instag.training.fuse import FuseStage  # noqa: E402
from instag.training.graph import Steps  # noqa: E402
from instag.training.initial import initial_structure  # noqa: E402
from instag.training.run import training_subject  # noqa: E402

POINTS = ["training.face.initial=lifted", "training.face.points=15000", "training.mouth.points=5000"]
WARM_UP, TIMED = 24, 74  # steps; together below 100, so that no density decision falls among them
FACE_STEPS = {  # first of the steps that are timed: what takes part from there on
    "aligned": 2001,
    "hair ignored in 6 of 7": 4001,
    "with geometry prior": 7001,
}
LPIPS_STEP = 9101


def random_lpips(device: torch.device) -> LPIPS:
    """The perceptual term's networks with random weights: its time, not its value."""
    generator = torch.Generator().manual_seed(0)
    trunk, heads = {}, {}
    for layer, (index, inputs, outputs, size, *_) in enumerate(CONVOLUTIONS):
        trunk[f"features.{index}.weight"] = 0.05 * torch.randn(outputs, inputs, size, size, generator=generator)
        trunk[f"features.{index}.bias"] = torch.zeros(outputs)
        heads[f"lin{layer}.model.1.weight"] = torch.rand(1, outputs, 1, 1, generator=generator)
    return LPIPS(trunk, heads).to(device)


def time_steps(steps: Steps, first: int) -> dict:
    """Milliseconds per step from `first` on, by the clock; longest step of the warm-up (captures); replay alone."""
    slowest = 0.0
    for step in range(first, first + WARM_UP):
        start = time.perf_counter()
        steps.run(step)
        torch.cuda.synchronize()
        slowest = max(slowest, time.perf_counter() - start)
    start = time.perf_counter()
    for step in range(first + WARM_UP, first + WARM_UP + TIMED):
        steps.run(step)
    queued = time.perf_counter() - start
    torch.cuda.synchronize()
    result = {
        "step_ms": round(1000 * (time.perf_counter() - start) / TIMED, 4),
        "host_ms": round(1000 * queued / TIMED, 4),
        "slowest_warm_up_ms": round(1000 * slowest, 2),
    }
    if steps._captured:
        replays = {str(choice): interval_ms(step.replay, 5, 10) for choice, step in steps._captured.items()}
        result["replay_ms"] = round(statistics.median(replays.values()), 4)
        result["replays"] = replays
        result["kernels_us"] = kernel_times(next(reversed(steps._captured.values())).replay)
    steps.settle(first)
    return result


def iteration(subject: Path) -> dict:
    """Time per step of every stage, 15,000 Gaussians of the face, 5,000 of the mouth."""
    device = torch.device("cuda", 0)
    config = load_config("adapt", POINTS)
    training, model = config.training, config.model
    result: dict = {}
    with SubjectDataset.open(subject, extractor=model.extractor) as dataset:
        split = dataset.split()
        start = time.perf_counter()
        frames = training_subject(dataset, split.train, training, "cuda")
        result["upload_s"] = round(time.perf_counter() - start, 2)
        start = time.perf_counter()
        frames.resident.load_priors()
        result["priors_s"] = round(time.perf_counter() - start, 2)
        face, mouth = (
            initial_structure(name, getattr(training, name), model.sh_degree, frames, 0) for name in ("face", "mouth")
        )
        head = TalkingHead(build_face(model, face), build_mouth(model, mouth)).to(device)

        def measure(name: str, stage, first: int, degree: int = 1) -> None:
            for branch in (head.face, head.mouth):
                branch.structure.active_sh_degree = degree
            for kind, graph in (("graph", True), ("called", False)):
                torch.cuda.reset_peak_memory_stats()
                steps = Steps(stage, graphs_for(device, graph))
                with steps.active(first - 1):
                    entry = time_steps(steps, first)
                entry["peak_MiB"] = round(torch.cuda.max_memory_allocated() / 2**20)
                result.setdefault(name, {})[kind] = entry

        for name, first in FACE_STEPS.items():
            measure(f"face, {name}", FaceStage(head, frames, training, None), first)
        perceptual = random_lpips(device)
        measure(
            "face, with prior and LPIPS of random weights", FaceStage(head, frames, training, perceptual), LPIPS_STEP
        )
        measure("mouth, aligned", MouthStage(head, frames, training, None), 2001)
        measure("fuse", FuseStage(head, frames, training, None), 101)
        several = replace(training, face=replace(training.face, frames_per_step=4))
        measure("face, aligned, 4 frames a step", FaceStage(head, frames, several, None), 2001)
    return result


PHASES = (  # (module, function or Class.method, name); nested ones are inside the first that is running
    ("instag.data.pack", "PackSource.__init__", "open pack"),
    ("instag.training.run", "initial_structure", "first Gaussians"),
    ("instag.data.dataset", "SubjectDataset.to_device", "read and upload frames"),
    ("instag.data.resident", "ResidentFrames.load_priors", "geometry priors"),
    ("instag.data.dataset", "SubjectDataset.statistics_of", "frame statistics"),
    ("instag.kernels.capture", "CudaGraphs.capture", "capture"),
    ("instag.training.graph", "Steps._keep", "keep state"),
    ("instag.training.stage", "BranchStage.decide", "density control"),
    ("instag.training.trainer", "save_checkpoint", "checkpoint"),
    ("instag.training.run", "save_avatar", "save avatar"),
    ("gaussian_rasterization.cuda.loader", "KernelModule.__init__", "load kernels"),
)


def adaptation_phases(subject: Path, folder: Path, preset: str, started: float, options: list[str]) -> dict:
    """Inclusive seconds and calls of each phase of an adaptation in this process; `started`: before the process."""
    imported = time.time()
    seconds: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)

    def measured(name: str, work: Callable) -> Callable:
        def wrapper(*args, **kwargs):
            capturing = torch.cuda.is_current_stream_capturing()  # then the device may not be waited for
            if not capturing:
                torch.cuda.synchronize()
            start = time.perf_counter()
            result = work(*args, **kwargs)
            if not capturing and name != "capture":
                torch.cuda.synchronize()
            seconds[name] += time.perf_counter() - start
            calls[name] += 1
            return result

        return wrapper

    for module, path, name in PHASES:
        owner = importlib.import_module(module)
        *parents, attribute = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        setattr(owner, attribute, measured(name, getattr(owner, attribute)))
    torch.cuda.init()
    start = time.time()
    adapt_subject(subject, folder, preset, options, "cuda", universal="none", progress=False)
    end = time.time()
    result: dict = {"process start and imports": imported - started, "CUDA context": start - imported}
    result |= {name: seconds[name] for _, _, name in PHASES if calls[name]}
    result["whole"] = end - started
    result = {name: round(value, 3) for name, value in result.items()}
    return {"seconds": result, "calls": dict(calls), "peak_MiB": torch.cuda.max_memory_allocated() / 2**20}


def phases(options: argparse.Namespace) -> dict:
    """A whole adaptation in a process of its own: seconds by phase and stage, Gaussians over time, peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        arguments = ["--child", str(out), "--preset", options.preset, "--started", repr(time.time())]
        command = [sys.executable, __file__, str(options.subject), *arguments, "--set", *options.set]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wall = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(done.stderr[-1500:])
        result = {"wall_s": round(wall, 2), **json.loads(done.stdout.splitlines()[-1])}
        result["notes"] = [line for line in done.stderr.splitlines() if "back from step" in line]
        for stage, lines in losses_of(out).items():
            half = lines[len(lines) // 2]
            per_step = (lines[-1]["seconds"] - half["seconds"]) / max(1, lines[-1]["step"] - half["step"])
            result[stage] = {
                "seconds": lines[-1]["seconds"],
                "second_half_ms": round(1000 * per_step, 4),
                "gaussians": [line.get("gaussians") for line in lines[:: max(1, len(lines) // 10)]],
                "last": lines[-1],
            }
        return result


def tables(part: str, entry: dict) -> str:
    """The figures of a part to read."""
    if part == "agreement":
        return table(agreement_rows(entry))
    if part == "phases":
        rows = {name: {"seconds": s, "calls": entry["calls"].get(name, "")} for name, s in entry["seconds"].items()}
        rows |= {f"stage {name}": {"seconds": entry[name]["seconds"]} for name in STAGES}
        return f"whole adaptation {entry['wall_s']} s\n{table(rows)}"
    rows = {}
    for name, measured in ((name, value) for name, value in entry.items() if isinstance(value, dict)):
        graph, kernels = measured["graph"], measured["graph"].get("kernels_us", {})
        rows[name] = {"called ms": measured["called"]["step_ms"], "graph ms": graph["step_ms"]}
        rows[name] |= {"replay ms": graph.get("replay_ms"), "kernels us": kernels.get("sum")}
        rows[name] |= {"launches": kernels.get("launches"), "MiB": graph["peak_MiB"]}
    return table(rows)


PARTS: dict[str, Callable[[argparse.Namespace], dict]] = {
    "iteration": lambda options: iteration(options.subject),
    "phases": phases,
    "agreement": lambda options: agreement(options.subject),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", type=Path)
    add_options(parser, PARTS)
    parser.add_argument("--preset", default="adapt", help="of the part phases")
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.NAME=VALUE", help="of the part phases")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)  # the measured process of the part phases
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.subject = options.subject.resolve()
    if options.child:
        settings = ["training.log_interval=100", *options.set]
        print(json.dumps(adaptation_phases(options.subject, options.child, options.preset, options.started, settings)))
        return
    measure_parts({name: partial(part, options) for name, part in PARTS.items()}, options, tables)


if __name__ == "__main__":
    main()
