"""Training on a GPU: captured steps against called ones, time per step and kernel, a whole adaptation. One JSON.

    python3 benchmarks/gpu_train_check.py SUBJECT [--parts agreement,iteration] [--out FILE]

SUBJECT: a processed clip (`.instag` or folder) with a face mesh. An error is its part's result and hides no other.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATHS = [str(ROOT), *(str(path) for path in sorted((ROOT / "submodules").iterdir()))]
sys.path[:0] = PATHS

import numpy as np  # noqa: E402
import torch  # noqa: E402
from timing import environment, interval_ms, kernel_times  # noqa: E402

from instag.api import adapt_subject, load_avatar  # noqa: E402
from instag.build import build_face, build_mouth  # noqa: E402
from instag.config import load_config  # noqa: E402
from instag.data.dataset import SubjectDataset  # noqa: E402
from instag.head import TalkingHead  # noqa: E402
from instag.kernels.capture import graphs_for  # noqa: E402
from instag.metrics.lpips import CONVOLUTIONS, LPIPS  # noqa: E402
from instag.training.adapt import FaceStage, MouthStage  # noqa: E402
from instag.training.fuse import FuseStage  # noqa: E402
from instag.training.graph import Steps  # noqa: E402
from instag.training.initial import initial_structure  # noqa: E402
from instag.training.run import training_subject  # noqa: E402

STAGES = ("face", "mouth", "fuse")
STEPS = 100  # compared with the called ones
EVERY_SWITCH = [  # all that a faithful run switches in 10,000 steps, in 100
    *(f"training.{stage}.iterations={STEPS}" for stage in STAGES),
    "training.face.align_from=20",
    "training.face.hair_ignored=[30,60]",
    "training.face.prior_from=60",
    "training.face.depth_pause=[20,5]",
    "training.face.sh_interval=45",
    "training.mouth.align_from=20",
    "training.mouth.freeze_last=20",
    "training.log_interval=1",
]
POINTS = ["training.face.initial=lifted", "training.face.points=15000", "training.mouth.points=5000"]
WARM_UP, TIMED = 24, 74  # steps; together below 100, so that no density decision falls among them
FACE_STEPS = {  # first of the steps that are timed: what takes part from there on
    "aligned": 2001,
    "hair ignored in 6 of 7": 4001,
    "with geometry prior": 7001,
}
LPIPS_STEP = 9101


def losses_of(folder: Path) -> dict[str, list[dict]]:
    return {stage: [json.loads(line) for line in (folder / f"{stage}.jsonl").open()] for stage in STAGES}


def worst_difference(expected: list[dict], found: list[dict]) -> dict[str, float]:
    """Largest |a - b| / |a| of the loss, and of any term relative to the loss."""
    loss, term, at = 0.0, 0.0, 0
    for a, b in zip(expected, found, strict=True):
        assert a.keys() == b.keys(), (a.keys(), b.keys())
        difference = abs(a["loss"] - b["loss"]) / abs(a["loss"])
        if difference > loss:
            loss, at = difference, a["step"]
        others = [k for k in a if k not in ("step", "seconds", "loss", "gaussians")]
        term = max(term, *(abs(a[k] - b[k]) / abs(a["loss"]) for k in others))
    return {"loss": loss, "at_step": at, "term": term}


def agreement(subject: Path) -> dict:
    """Losses of the first 100 steps of each stage: replayed against called, and called against called (atomics)."""
    with tempfile.TemporaryDirectory() as folder:
        runs = {}
        for name, graph in (("called", False), ("called again", False), ("replayed", True)):
            out = Path(folder) / name
            options = [*EVERY_SWITCH, f"training.graph={graph}".lower()]
            adapt_subject(subject, out, "adapt", options, "cuda", universal="none", progress=False)
            runs[name] = losses_of(out)
    return {
        stage: {
            name: worst_difference(runs["called"][stage], runs[name][stage]) for name in ("called again", "replayed")
        }
        for stage in STAGES
    }


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
        parts = (
            initial_structure(name, getattr(training, name), model.sh_degree, dataset, split.train, 0)
            for name in ("face", "mouth")
        )
        start = time.perf_counter()
        frames = training_subject(dataset, split.train, training, "cuda")
        result["upload_s"] = round(time.perf_counter() - start, 2)
        start = time.perf_counter()
        frames.resident.load_priors()
        result["priors_s"] = round(time.perf_counter() - start, 2)
        face, mouth = parts
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


RUN = """
import time; start = time.time()
import json, sys
from pathlib import Path
import torch
from instag.api import adapt_subject
imported = time.time()
options = ["training.log_interval=100"]
adapt_subject(Path(sys.argv[1]), Path(sys.argv[2]), "adapt", options, "cuda", universal="none", progress=False)
print(json.dumps({"imports_s": imported - start, "peak_MiB": torch.cuda.max_memory_allocated() / 2**20}))
"""


def adaptation(subject: Path) -> dict:
    """The whole faithful adaptation in a process of its own, from its start to its end; then its quality."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(subject), str(out)],
            capture_output=True, text=True, check=False, env=child_environment(),
        )  # fmt: skip
        wall = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(done.stderr[-1500:])
        result = {"wall_s": round(wall, 2), **json.loads(done.stdout.splitlines()[-1])}
        result["notes"] = [line for line in done.stderr.splitlines() if "back from step" in line]
        for stage, lines in losses_of(out).items():
            half = lines[len(lines) // 2]
            per_step = (lines[-1]["seconds"] - half["seconds"]) / (lines[-1]["step"] - half["step"])
            result[stage] = {
                "seconds": lines[-1]["seconds"],
                "second_half_ms": round(1000 * per_step, 4),
                "gaussians": [line.get("gaussians") for line in lines[:: max(1, len(lines) // 10)]],
                "last": lines[-1],
            }
        return result | {"quality": quality(subject, out)}


def child_environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(PATHS)}


@torch.no_grad()
def quality(subject: Path, folder: Path) -> dict:
    avatar = load_avatar(folder, "cuda")
    with SubjectDataset.open(subject, extractor=avatar.model.extractor) as dataset:
        errors = []
        for i in avatar.split.test:
            batch = dataset.batch([int(i)], "cuda")
            image = avatar.render(batch.condition, batch.background)
            errors.append(float(-10 * ((image - batch.image) ** 2).mean().log10()))
    counts = [len(avatar.head.face.structure), len(avatar.head.mouth.structure)]
    return {"psnr_full": round(float(np.mean(errors)), 3), "test_frames": len(errors), "gaussians": counts}


def startup(subject: Path) -> dict:
    """Where the time goes that is not steps: a profile of 60 steps in all."""
    profile = cProfile.Profile()
    options = [f"training.{stage}.iterations=20" for stage in STAGES] + ["training.face.prior_from=5"]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        profile.runcall(
            adapt_subject, subject, Path(folder) / "run", "adapt", options, "cuda", universal="none", progress=False
        )
        seconds = time.perf_counter() - start
    result: dict = {"seconds": round(seconds, 2)}
    for order in ("cumulative", "tottime"):
        text = io.StringIO()
        pstats.Stats(profile, stream=text).strip_dirs().sort_stats(order).print_stats(45)
        result[order] = [line for line in text.getvalue().splitlines() if line[:1] == " " and line.strip()][4:]
    return result


PARTS: dict[str, Callable[[Path], dict]] = {
    "agreement": agreement,
    "iteration": iteration,
    "adaptation": adaptation,
    "startup": startup,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", type=Path)
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated subset")
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("gpu_train_check: torch sees no CUDA device; run it on a machine with one")
    result: dict = {"environment": environment()}
    for name in options.parts.split(","):
        start = time.perf_counter()
        try:
            result[name] = PARTS[name](options.subject.resolve())
        except Exception:
            result[name] = {"error": traceback.format_exc().strip().splitlines()[-12:]}
        result[name]["part_s"] = round(time.perf_counter() - start, 2)
        print(f"{name}: {result[name]['part_s']} s", file=sys.stderr, flush=True)
        if options.out:
            options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
