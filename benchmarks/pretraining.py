"""Pre-training on a GPU: milliseconds per step, and memory as the number of videos grows. One JSON, one table.

    python3 benchmarks/pretraining.py CORPUS [--videos 1,2,5,8,16] [--steps 1500] [--points 20000]
        [--mouth-points 5000] [--out FILE]

CORPUS: a folder of processed clips (`.instag` files or folders), taken in order of their names and again from the start
where there are fewer than asked for. Every count is a process of its own that runs `instag pretrain` with all terms of
the loss. Structure fields start with `--points` Gaussians each (mouth: `--mouth-points`, by default the published
start) and keep them, so that counts can be compared.
`frames_MiB` is what the videos' pictures hold of the peak; the rest, per further video, is what a video costs:
structure and personalised field with their optimisers, density statistics, the state to go back to.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATHS = [str(ROOT), *(str(path) for path in sorted((ROOT / "submodules").iterdir()))]
sys.path[:0] = PATHS

import torch  # noqa: E402
from timing import environment, table  # noqa: E402

from instag.api import find_subjects  # noqa: E402
from instag.data.layout import PACK_SUFFIX  # noqa: E402

BRANCHES = ("face", "mouth")
SETTLED = 0.6  # share of the steps after which every video's graph has been captured
PROFILED = 0.55  # share of the steps after which the kernels are listed, over further steps
RUN = """
import json, sys
from pathlib import Path
import torch
from timing import kernel_times
from instag.api import pretrain_fields
from instag.data.dataset import SubjectDataset
from instag.training.graph import Steps
corpus, output, size, profiled, *options = sys.argv[1:]
kernels, take = {}, Steps.run
def run(self, step):
    if step == int(profiled):
        kernels[self._stage.name] = {"kernels_us": kernel_times(lambda: take(self, step), 40)}
    return take(self, step)
Steps.run = run
frames, upload = 0, SubjectDataset.to_device
def counted(*arguments):
    global frames
    before = torch.cuda.memory_allocated()
    made = upload(*arguments)
    frames += torch.cuda.memory_allocated() - before
    return made
SubjectDataset.to_device = counted
pretrain_fields(Path(corpus), Path(output), "pretrain", [f"data.size={size}", *options], "cuda", progress=False)
print(json.dumps({"peak_MiB": torch.cuda.max_memory_allocated() / 2**20, "frames_MiB": frames / 2**20} | kernels))
"""


def settings(videos: int, steps: int, points: dict[str, int]) -> list[str]:
    """A short schedule in which everything that a long one does happens, except density control."""
    common = {
        "iterations": steps, "static_steps": steps // 10, "warmup": steps // 5, "initial": "lifted",
        "density": "null", "sh_interval": steps // 4,  # both raises, which capture every video anew, are early
    }  # fmt: skip
    values = {f"pretrain.{branch}.{name}": value for branch in BRANCHES for name, value in common.items()}
    values |= {f"pretrain.{branch}.points": count for branch, count in points.items()}
    values |= {"pretrain.videos": videos, "pretrain.late_steps": steps // 10, "training.log_interval": steps // 10}
    values["training.checkpoint_interval"] = 10 * steps
    return [f"{name}={value}" for name, value in values.items()]


def link_corpus(subjects: list[Path], count: int, folder: Path) -> None:
    """A corpus of `count` videos: links to packs, some of them twice where there are too few."""
    folder.mkdir()
    for i in range(count):
        source = subjects[i % len(subjects)].resolve()
        suffix = PACK_SUFFIX if source.is_file() else ""
        (folder / f"video{i:02d}{suffix}").symlink_to(source, target_is_directory=source.is_dir())


def measure(subjects: list[Path], count: int, options: argparse.Namespace) -> dict:
    """One run: ms per step after the captures, peak memory."""
    with tempfile.TemporaryDirectory() as scratch:
        corpus, output = Path(scratch) / "corpus", Path(scratch) / "run"
        link_corpus(subjects, count, corpus)
        command = [sys.executable, "-c", RUN, str(corpus), str(output), str(options.size)]
        command.append(str(int(PROFILED * options.steps)))
        command += settings(count, options.steps, {"face": options.points, "mouth": options.mouth_points})
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "benchmarks"), *PATHS])},
        )
        if done.returncode:
            return {"error": done.stderr.strip().splitlines()[-6:]}
        result = json.loads(done.stdout.splitlines()[-1])
        for branch in BRANCHES:
            lines = [json.loads(line) for line in (output / f"{branch}.jsonl").open()]
            late = [line for line in lines if line["step"] >= SETTLED * options.steps]
            first, last = late[0], late[-1]
            result[f"{branch}_ms"] = round(
                1000 * (last["seconds"] - first["seconds"]) / (last["step"] - first["step"]), 3
            )
        return result


def memory_per_video(rows: dict[int, dict]) -> float | None:
    """MiB that each further video takes besides its pictures: the slope of a line through the counts that ran."""
    held = {count: row["peak_MiB"] - row["frames_MiB"] for count, row in rows.items() if "peak_MiB" in row}
    return round(statistics.linear_regression(list(held), list(held.values())).slope, 2) if len(held) > 1 else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--videos", default="1,2,5,8,16", help="counts of videos")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--points", type=int, default=20_000, help="of each face")
    parser.add_argument("--mouth-points", type=int, default=5_000, help="of each mouth")
    parser.add_argument("--size", type=int, default=512, help="px; clips are scaled to it")
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("pretraining: torch sees no CUDA device; run it on a machine with one")
    subjects = find_subjects(options.corpus)
    result: dict = {"environment": environment(), "points": [options.points, options.mouth_points]}
    result["size"] = options.size
    rows: dict[int, dict] = {}
    for count in (int(each) for each in options.videos.split(",")):
        row = rows[count] = result[f"{count} videos"] = measure(subjects, count, options)
        print(f"{count} videos: {row}", file=sys.stderr, flush=True)
        result["MiB_per_video"] = memory_per_video(rows)
        if options.out:
            options.out.write_text(json.dumps(result, indent=1) + "\n")
    cost = {"each further video": {"MiB besides its pictures": result["MiB_per_video"]}}
    print(table({f"{count} videos": row for count, row in rows.items()} | cost), file=sys.stderr)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
