"""Whole adaptations on a GPU: wall clock of the command and quality on held-out frames, mean and spread over seeds.

    python3 benchmarks/adaptation.py SUBJECT --runs faithful fast --seeds 3 [--set data.n_views=250] [--out FILE]

Every run is `instag adapt` in a process of its own, so that imports, reading, uploading and capturing are in its
seconds; when all are done, `instag evaluate` of several at a time. Runs:

    faithful          preset adapt, shipped universal fields     scratch     the same without universal fields
    fast              preset adapt_fast                          eager       faithful, called step by step
    fast/2, fast*2    adapt_fast with half, twice the steps (time-to-quality curve; any number)

`--gpus 0,1` runs several at a time, one per GPU. LMD and lip r need mediapipe; without it their columns are empty.
`--keep FILE` keeps the first run's avatar.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

ROOT = Path(__file__).resolve().parent.parent
PATHS = [str(ROOT), *(str(path) for path in sorted((ROOT / "submodules").iterdir()))]
sys.path[:0] = PATHS

from timing import environment, table  # noqa: E402

from instag.config import scale_clocks  # noqa: E402
from instag.config_io import load_config  # noqa: E402

STAGES = ("face", "mouth", "fuse")
MEASURED_AT_ONCE = 6  # runs, after all adaptations: following faces takes a core half a minute
COLUMNS = ("wall_s", "psnr", "psnr_face", "ssim", "lmd", "lip_r", "jitter", "peak_MiB", "gaussians")
RUN = """
import json, sys, time
start = time.time()
from pathlib import Path
import torch
from instag.api import adapt_subject
imported = time.time()
subject, output, preset, universal, *options = sys.argv[1:]
adapt_subject(Path(subject), Path(output), preset, options, "cuda", universal=universal, progress=False)
print(json.dumps({"imports_s": imported - start, "peak_MiB": torch.cuda.max_memory_allocated() / 2**20}))
"""
MEASURE = """
import sys
from pathlib import Path
from instag.api import evaluate_avatar
evaluate_avatar(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), device="cuda", progress=False)
"""


def run_settings(name: str) -> tuple[str, str, list[str]]:
    """Preset, universal fields and further settings of a run's name."""
    plain = {
        "faithful": ("adapt", "shipped", []),
        "scratch": ("adapt", "none", []),
        "eager": ("adapt", "shipped", ["training.graph=false"]),
        "fast": ("adapt_fast", "shipped", []),
        "fast-scratch": ("adapt_fast", "none", []),
    }
    if name in plain:
        return plain[name]
    match = re.fullmatch(r"fast([*/])(\d+(?:\.\d+)?)", name)
    if match is None:
        raise SystemExit(f"--runs {name}: give one of {', '.join(plain)}, fast/N or fast*N")
    factor = float(match[2]) if match[1] == "*" else 1 / float(match[2])
    return "adapt_fast", "shipped", scaled_steps(factor)


def scaled_steps(factor: float) -> list[str]:
    """Settings that stretch every clock of `adapt_fast`."""
    training = load_config("adapt_fast").training
    options = []
    for name in ("face", "mouth"):
        before, after = getattr(training, name), scale_clocks(getattr(training, name), factor)
        for key, value in vars(after).items():
            if value != getattr(before, key) and isinstance(value, (int, tuple)):
                options.append(f"training.{name}.{key}={list(value) if isinstance(value, tuple) else value}")
        options.append(f"training.{name}.density.stop_before_end={after.density.stop_before_end}")
    return [*options, f"training.fuse.iterations={max(1, round(training.fuse.iterations * factor))}"]


def call(script: str, gpu: str, *arguments: str) -> str:
    """Output of a Python program that sees one GPU; RuntimeError with the end of its complaint where it fails."""
    paths = os.pathsep.join([*PATHS, *filter(None, [os.environ.get("PYTHONPATH")])])
    variables = os.environ | {"PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": gpu}
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-1500:])
    return done.stdout


def adapt_once(name: str, seed: int, gpu: str, output: Path, options: argparse.Namespace) -> dict:
    """One adaptation into the folder `output`: wall clock, seconds by stage, Gaussians."""
    preset, universal, settings = run_settings(name)
    seed_setting = f"training.seed={seed}"
    start = time.perf_counter()
    shown = call(
        RUN, gpu, str(options.subject.resolve()), str(output), preset, universal, *settings, *options.set, seed_setting
    )
    result = {"run": name, "seed": seed, "wall_s": round(time.perf_counter() - start, 2)}
    result |= json.loads(shown.splitlines()[-1])
    for stage in STAGES:
        path = output / f"{stage}.jsonl"
        lines = [json.loads(line) for line in path.open()] if path.exists() else []
        if lines:
            result[stage] = {
                "seconds": lines[-1]["seconds"],
                "gaussians": [line.get("gaussians") for line in lines[:: max(1, len(lines) // 10)]],
            }
    result["gaussians"] = (result["face"]["gaussians"] or [None])[-1]
    if options.keep and not options.keep.exists():
        shutil.copyfile(output / "avatar.safetensors", options.keep)
    return result


def measured(output: Path, gpu: str, options: argparse.Namespace) -> dict:
    """Figures of a finished run on its held-out frames."""
    report = output.with_name(f"{output.name}-report")
    call(MEASURE, gpu, str(output), str(options.subject.resolve()), str(report))
    figures = json.loads((report / "metrics.json").read_text())
    return {key: value for key, value in figures.items() if not isinstance(value, list)}


def summary(rows: list[dict]) -> dict[str, dict]:
    """Mean and, from several seeds, deviation of each column, one entry per run."""
    result = {}
    for name in dict.fromkeys(row["run"] for row in rows):
        done = [row for row in rows if row["run"] == name and "error" not in row]
        cells: dict[str, object] = {"seeds": len(done)}
        for column in COLUMNS:
            values = [float(row[column]) for row in done if row.get(column) is not None]
            spread = f" ± {statistics.stdev(values):.3g}" if len(values) > 1 else ""
            cells[column] = f"{statistics.mean(values):.4g}{spread}" if values else ""
        result[name] = cells
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", type=Path)
    parser.add_argument("--runs", nargs="+", default=["fast", "faithful"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--gpus", default="0", help="comma-separated; one run at a time on each")
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.NAME=VALUE", help="settings of every run")
    parser.add_argument("--scratch", type=Path, default=None, help="folder for runs; default: the system's")
    parser.add_argument("--keep", type=Path, help="copy the first run's avatar here")
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    options = parser.parse_args()
    for name in options.runs:
        run_settings(name)
    gpus = options.gpus.split(",")
    free: Queue[str] = Queue()
    for gpu in gpus:
        free.put(gpu)
    jobs = [(seed, name) for seed in range(options.seeds) for name in options.runs]
    rows: list[dict] = [{"run": name, "seed": seed} for seed, name in jobs]
    result: dict = {"environment": environment(), "subject": options.subject.stem, "set": options.set, "rows": rows}

    def noted(row: dict, work: Callable[[], dict]) -> None:
        try:
            row |= work()
        except RuntimeError as error:
            row["error"] = str(error).splitlines()[-8:]
        if options.out:
            options.out.write_text(json.dumps(result, indent=1) + "\n")

    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        outputs = [Path(scratch) / f"run{i}" for i in range(len(jobs))]

        def adapt(i: int) -> None:
            gpu = free.get()
            try:
                noted(rows[i], lambda: adapt_once(jobs[i][1], jobs[i][0], gpu, outputs[i], options))
            finally:
                free.put(gpu)

        def measure(i: int) -> None:
            if "error" not in rows[i]:
                noted(rows[i], lambda: measured(outputs[i], gpus[i % len(gpus)], options))

        for work, workers in ((adapt, len(gpus)), (measure, MEASURED_AT_ONCE)):
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(work, range(len(jobs))))
    print(json.dumps(result, indent=1))
    print(table(summary(result["rows"])), file=sys.stderr)


if __name__ == "__main__":
    main()
