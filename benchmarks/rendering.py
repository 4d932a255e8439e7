"""Rendering on a GPU: the captured batch alone, frames delivered to the host, a whole video. One JSON, one table.

    python3 benchmarks/rendering.py AVATAR [--frames 2000] [--out FILE]

AVATAR: `avatar.safetensors` of a run. The sound is made: only its length matters. Without PyAV the video is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), *(str(path) for path in sorted((ROOT / "submodules").iterdir()))]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from timing import environment, interval_ms, kernel_times, table  # noqa: E402

from instag.api import load_avatar  # noqa: E402
from instag.data.audio import get_extractor  # noqa: E402
from instag.kernels.capture import graphs_for  # noqa: E402
from instag.render import batches  # noqa: E402
from instag.synthesize import draw_frames, synthesize, to_bytes, track_schedule  # noqa: E402

BATCHES = (1, 4, 8, 16)


def made_features(extractor: str, frames: int) -> np.ndarray:
    """Smooth noise [F, W, D] in the features' usual range."""
    rows, columns = get_extractor(extractor).frame_shape
    noise = np.random.default_rng(0).standard_normal((frames, rows, columns)).astype(np.float32)
    return np.cumsum(noise, 0, dtype=np.float32) / np.sqrt(np.arange(1, frames + 1, dtype=np.float32))[:, None, None]


@torch.no_grad()
def captured_batches(avatar, features: torch.Tensor) -> dict:
    """GPU part: motion, face, mouth, compositing and conversion to bytes, one graph for B frames; plates resident."""
    result = {}
    for count in BATCHES:
        index = torch.arange(count, device=avatar.device)
        plates = torch.zeros(count, 3, avatar.size, avatar.size, device=avatar.device)
        expression = avatar.expression[index]

        def work(index=index, plates=plates, expression=expression) -> torch.Tensor:
            return to_bytes(avatar.render(avatar.condition(index, features, index, expression), plates))

        graphs = graphs_for(avatar.device)
        with graphs.active():
            truth = work().clone()
            captured = graphs.capture(work)
            equal = bool(torch.equal(captured.replay(), truth))
            milliseconds = interval_ms(captured.replay)
            entry = {"ms": milliseconds, "fps": round(1000 * count / milliseconds), "equal_to_called": equal}
            entry["kernels_us"] = kernel_times(captured.replay)
            entry["overflow"] = graphs.overflow()
        result[f"{count} frames"] = entry
    return result


def delivered(avatar, features: torch.Tensor, frames: int) -> dict:
    """Frames as bytes on the host, in order, by `draw_frames`: first and second time (plates decoded before)."""
    schedule = track_schedule(len(avatar), frames)
    expression = avatar.expression[torch.from_numpy(schedule).to(avatar.device)]
    result = {}
    for name in ("with decoding", "again"):
        start, seen, first = time.perf_counter(), 0, 0.0
        for pictures in draw_frames(avatar, schedule, features, expression):
            first = first or time.perf_counter() - start
            seen += len(pictures)
        seconds = time.perf_counter() - start
        result[name] = {
            "frames": seen,
            "seconds": round(seconds, 3),
            "fps": round(seen / seconds),
            "first_s": round(first, 3),
        }
    return result


def without_decoding(avatar, features: torch.Tensor, frames: int) -> dict:
    """The same with plates that cost nothing to read: how fast the frames themselves come."""
    blank = np.zeros((avatar.size, avatar.size, 3), np.uint8)
    kept = avatar.plate
    avatar.plate = lambda index: blank
    try:
        return delivered(avatar, features, frames)
    finally:
        avatar.plate = kept


def video(avatar, features: np.ndarray) -> dict | str:
    """`synthesize` from features to mp4 (libx264 veryfast, CRF 18, AAC), start-up of the process aside."""
    if importlib.util.find_spec("av") is None:
        return "PyAV is not installed here"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "features.npy"
        np.save(source, features)
        result = {}
        for name in ("first", "again"):
            start = time.perf_counter()
            path = synthesize(avatar, source, Path(folder) / "out.mp4", progress=False)
            seconds = time.perf_counter() - start
            result[name] = {
                "seconds": round(seconds, 3),
                "fps": round(len(features) / seconds),
                "bytes": path.stat().st_size,
            }
    return result


def rates(result: dict) -> dict[str, dict]:
    """Frames per second of every part that has them, a row each."""
    return {
        f"{part}, {name}": {"FPS": entry["fps"]}
        for part, entries in result.items()
        if isinstance(entries, dict)
        for name, entry in entries.items()
        if isinstance(entry, dict) and "fps" in entry
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("avatar", type=Path)
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("rendering: torch sees no CUDA device; run it on a machine with one")
    avatar = load_avatar(options.avatar, "cuda")
    made = made_features(avatar.model.extractor, options.frames)
    features = torch.from_numpy(made).cuda()
    assert batches.FRAMES in BATCHES
    result = {
        "environment": environment(),
        "gaussians": [len(avatar.head.face.structure), len(avatar.head.mouth.structure)],
    }
    parts = {
        "captured": lambda: captured_batches(avatar, features),
        "delivered": lambda: delivered(avatar, features, options.frames),
        "delivered, plates free": lambda: without_decoding(avatar, features, options.frames),
        "video": lambda: video(avatar, made),
    }
    for name, part in parts.items():
        try:
            result[name] = part()
        except Exception as error:
            import traceback

            result[name] = {"error": traceback.format_exc().strip().splitlines()[-12:], "kind": type(error).__name__}
        if options.out:
            options.out.write_text(json.dumps(result, indent=1) + "\n")
    result["peak_MiB"] = round(torch.cuda.max_memory_allocated() / 2**20)
    text = json.dumps(result, indent=1)
    if options.out:
        options.out.write_text(text + "\n")
    print(text)
    print(table(rates(result)), file=sys.stderr)


if __name__ == "__main__":
    main()
