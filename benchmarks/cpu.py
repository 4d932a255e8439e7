"""The CPU path: rasterizer, hash grid, L1 + SSIM against their torch twins, and synthesis to mp4. One JSON, one table.

    python3 benchmarks/cpu.py [--avatar AVATAR] [--audio speech.wav] [--frames 250] [--threads 2] [--out cpu.json]

Without AVATAR (`avatar.safetensors` of a run; 256 px is what the bar speaks of) synthesis is left out; without a sound
its features are made. Each figure is the median wall time and the processor time per call: on a busy machine the second
is the one to trust; over the threads it bounds what a quiet machine gives.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), *(str(path) for path in sorted((ROOT / "submodules").iterdir()))]

import numba  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from gaussian_rasterization import RasterSettings, rasterize  # noqa: E402
from timing import environment  # noqa: E402

from instag import losses  # noqa: E402
from instag.api import load_avatar  # noqa: E402
from instag.data.audio import get_extractor  # noqa: E402
from instag.data.layout import FPS  # noqa: E402
from instag.fields import encoding  # noqa: E402
from instag.synthesize import synthesize  # noqa: E402

REPEATS, WARM_UP = 5, 1
SCENES = ((128, 5_000), (256, 10_000))  # px, Gaussians
SPREAD, SCALE, DISTANCE, FOCAL_SHARE = 0.08, 0.004, 0.72, 2.25  # a head: head units, and focal length over size
POINTS, PLANE = 5_000, 512


def measure(call: Callable[[], object]) -> dict[str, float]:
    """Median milliseconds per call: wall and processor."""
    for _ in range(WARM_UP):
        call()
    walls, processors = [], []
    for _ in range(REPEATS):
        wall, processor = time.perf_counter(), time.process_time()
        call()
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
    return {
        "wall_ms": round(1e3 * statistics.median(walls), 2),
        "cpu_ms": round(1e3 * statistics.median(processors), 2),
    }


def rasterizer() -> dict:
    """A ball of Gaussians, forward and forward + backward, numba and torch."""
    result = {}
    for size, count in SCENES:
        generator = torch.Generator().manual_seed(0)
        means = (SPREAD * torch.randn(1, count, 3, generator=generator)).clamp(-2 * SPREAD, 2 * SPREAD)
        scales = SCALE * (0.5 + torch.rand(1, count, 3, generator=generator))
        turns = torch.randn(1, count, 4, generator=generator)
        opacities = 0.1 + 0.8 * torch.rand(count, generator=generator)
        sh = torch.randn(count, 4, 3, generator=generator)
        pose = torch.diag(torch.tensor([1.0, -1, -1, 1]))[None].clone()
        pose[:, 2, 3] = DISTANCE
        fixed = (pose, torch.tensor([FOCAL_SHARE * size]), torch.zeros(3), RasterSettings(size, size, 1))
        inputs = [tensor.requires_grad_() for tensor in (means, scales, turns, opacities, sh)]
        for backend in ("numba", "torch"):

            def forward(inputs=inputs, fixed=fixed, backend=backend):
                with torch.no_grad():
                    return rasterize(*inputs, *fixed, backend=backend)

            def both(inputs=inputs, fixed=fixed, backend=backend):
                image = rasterize(*inputs, *fixed, backend=backend)
                (image.color.sum() + image.depth.sum()).backward()

            name = f"rasterizer {size} px, {count} Gaussians, {backend}"
            result[f"{name}, forward"], result[f"{name}, forward + backward"] = measure(forward), measure(both)
    return result


def hash_grid() -> dict:
    """The face's tri-plane encoding, forward + backward."""
    grid = encoding.TriPlaneEncoding(*encoding.REFERENCE_FACE)
    x = (0.3 * torch.rand(POINTS, 3, generator=torch.Generator().manual_seed(0)) - 0.15).requires_grad_()
    calls = {
        "numba": lambda: grid(x).sum().backward(),
        "torch": lambda: encoding.encode_torch(x, grid.table, grid.layout, grid.bound).sum().backward(),
    }
    return {f"hash grid, {POINTS} points, {name}": measure(call) for name, call in calls.items()}


def loss() -> dict:
    """L1 + SSIM of one picture, forward + backward."""
    generator = torch.Generator().manual_seed(0)
    picture, target = (torch.rand(1, 3, PLANE, PLANE, generator=generator) for _ in range(2))
    picture.requires_grad_()
    calls = {
        "numba": lambda: losses.photometric(picture, target, 0.2).backward(),
        "torch": lambda: losses.photometric_torch(picture, target, 0.2).backward(),
    }
    return {f"L1 + SSIM, {PLANE} px, {name}": measure(call) for name, call in calls.items()}


def synthesis(path: Path, audio: Path | None, frames: int, threads: int) -> dict:
    """`instag synthesize` end to end behind the imports: features to mp4; frames per second."""
    avatar = load_avatar(path, "cpu")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if audio is None:
            shape = get_extractor(avatar.model.extractor).frame_shape
            audio = folder / "made.npy"
            noise = np.random.default_rng(0).standard_normal((frames, *shape))
            np.save(audio, noise.astype(np.float32))
        synthesize(avatar, audio, folder / "warm.mp4", progress=False)
        wall, processor = time.perf_counter(), time.process_time()
        video = synthesize(avatar, audio, folder / "video.mp4", progress=False)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        count = frame_count(video)
    return {
        "size": avatar.size,
        "gaussians": len(avatar.head.face.structure) + len(avatar.head.mouth.structure),
        "frames": count,
        "fps": round(count / wall, 1),
        "fps_bound_of_processor_time": round(threads * count / processor, 1),
        "cpu_ms_per_frame": round(1e3 * processor / count, 2),
        "times_real_time": round(count / wall / FPS, 2),
    }


def frame_count(video: Path) -> int:
    """Frames of a video file."""
    import av

    with av.open(str(video)) as container:
        return sum(1 for _ in container.decode(video=0))


def table(result: dict) -> str:
    """The figures as Markdown."""
    lines = ["| figure | wall ms | processor ms |", "|---|---|---|"]
    lines += [f"| {name} | {v['wall_ms']} | {v['cpu_ms']} |" for name, v in result["kernels"].items()]
    if "synthesis" in result:
        lines += ["", "| synthesis to mp4 | |", "|---|---|"]
        lines += [f"| {name} | {value} |" for name, value in result["synthesis"].items()]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--avatar", type=Path)
    parser.add_argument("--audio", type=Path)
    parser.add_argument("--frames", type=int, default=250)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    numba.set_num_threads(min(flags.threads, numba.config.NUMBA_NUM_THREADS))
    result: dict = {"environment": environment(), "threads": flags.threads}
    if flags.avatar is not None:
        result["synthesis"] = synthesis(flags.avatar, flags.audio, flags.frames, flags.threads)
    result["kernels"] = {**rasterizer(), **hash_grid(), **loss()}
    print(table(result))
    if flags.out is not None:
        flags.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
