"""How training's cost grows on a GPU: with the number of Gaussians, with the resolution, with the length of the clip.

    python3 benchmarks/scaling.py SUBJECT [--parts gaussians,resolution,length] [--lengths 125,1500,7500] [--out FILE]

SUBJECT: a processed clip (`.instag`) with a face mesh. Larger pictures than it holds are enlarged ones, longer clips
the same clip several times over in a pack of its own (needs PyAV), read in a process each. One JSON (stdout, FILE),
tables on stderr. An error is its part's result and hides no other. The number of videos: `benchmarks/pretraining.py`.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from training import FACE_STEPS, TIMED, WARM_UP  # puts the repository on the path

import cv2  # isort: skip
import numpy as np
import safetensors.numpy
import torch
from timing import add_options, measure_parts

from instag.build import build_face, build_mouth
from instag.config_io import load_config
from instag.data.dataset import SubjectDataset
from instag.data.layout import Pack
from instag.data.pack import safetensors_metadata
from instag.head import TalkingHead
from instag.kernels.capture import graphs_for
from instag.training.adapt import FaceStage
from instag.training.graph import Steps
from instag.training.initial import initial_structure
from instag.training.run import training_subject
from instag.training.stage import Subject

GAUSSIANS = (5_000, 10_000, 15_000, 30_000, 60_000)  # of the face
SIZES = (256, 512, 1024)  # px
LENGTHS = (125, 1500, 7500)  # frames: 5 s, 1 min, 5 min
FRAMES = 125  # of the parts without a length
POINTS = 15_000
STEP = FACE_STEPS["aligned"]
STAYING = 0.25  # of a streamed clip's frames
MIB = 1 << 20


class Enlarged:
    """A source whose pictures and tracks are `factor` times as large; see `FrameSource`."""

    def __init__(self, source, factor: int):
        self._source, self._factor = source, factor
        self.size = source.size * factor
        tracks = source.tracks
        self.tracks = replace(tracks, focal=tracks.focal * factor, landmarks=tracks.landmarks * np.float32(factor))

    def __getattr__(self, name: str):
        return getattr(self._source, name)

    def _resized(self, picture: np.ndarray, how: int) -> np.ndarray:
        return cv2.resize(picture, (self.size, self.size), interpolation=how)

    def image(self, i: int) -> np.ndarray:
        """Frame i."""
        return self._resized(self._source.image(i), cv2.INTER_CUBIC)

    def plate(self, i: int) -> np.ndarray:
        """Torso over the plate."""
        return self._resized(self._source.plate(i), cv2.INTER_CUBIC)

    def labels(self, i: int) -> np.ndarray:
        """Label map."""
        return self._resized(self._source.labels(i), cv2.INTER_NEAREST)

    def twin(self) -> Enlarged:
        """With decoders of its own."""
        return Enlarged(self._source.twin(), self._factor)


def open_at(path: Path, size: int, extractor: str) -> SubjectDataset:
    """The subject at a size, enlarged where it is stored smaller."""
    dataset = SubjectDataset.open(path, extractor=extractor)
    factor = -(-size // dataset.source.size)
    if factor == 1:
        dataset.close()
        return SubjectDataset.open(path, size=size, extractor=extractor)
    return SubjectDataset(Enlarged(dataset.source, factor), size, extractor, 0)


def time_face(subject: Subject, points: int) -> dict:
    """Milliseconds of an aligned face step, captured, and what the GPU holds meanwhile."""
    config = load_config("adapt", ["training.face.initial=lifted", f"training.face.points={points}"])
    training, model, device = config.training, config.model, torch.device("cuda", 0)
    face = initial_structure("face", training.face, model.sh_degree, subject, 0)
    mouth = initial_structure("mouth", training.mouth, model.sh_degree, subject, 0)
    torch.cuda.reset_peak_memory_stats()
    head = TalkingHead(build_face(model, face), build_mouth(model, mouth)).to(device)
    steps = Steps(FaceStage(head, subject, training, None), graphs_for(device))
    with steps.active(STEP - 1):
        for step in range(STEP, STEP + WARM_UP):
            steps.run(step)
        torch.cuda.synchronize()
        start = time.perf_counter()
        for step in range(STEP + WARM_UP, STEP + WARM_UP + TIMED):
            steps.run(step)
        queued = time.perf_counter() - start
        torch.cuda.synchronize()
        whole = time.perf_counter() - start
        settled = steps.settle(STEP + WARM_UP + TIMED) == STEP + WARM_UP + TIMED
    return {
        "gaussians": len(face),
        "step_ms": round(1000 * whole / TIMED, 4),
        "host_ms": round(1000 * queued / TIMED, 4),
        "peak_MiB": round(torch.cuda.max_memory_allocated() / MIB),
        "lists_were_long_enough": settled,
    }


def uploaded(dataset: SubjectDataset, frames: int, limit: int | None = None) -> Subject:
    indices = np.arange(min(frames, len(dataset)))
    with tempfile.TemporaryDirectory() as scratch:
        return training_subject(dataset, indices, load_config("adapt").training, "cuda", limit, Path(scratch))


def by_gaussians(options: argparse.Namespace) -> dict:
    """Steps by the number of the face's Gaussians, at the stored size."""
    with SubjectDataset.open(options.subject) as dataset:
        subject = uploaded(dataset, FRAMES)
        return {str(points): time_face(subject, points) for points in options.gaussians}


def by_resolution(options: argparse.Namespace) -> dict:
    """Steps by the side of the pictures."""
    result = {}
    for size in options.sizes:
        with open_at(options.subject, size, load_config("adapt").model.extractor) as dataset:
            result[str(size)] = time_face(uploaded(dataset, FRAMES), POINTS)
        torch.cuda.empty_cache()
    return result


def by_length(options: argparse.Namespace) -> dict:
    """Reading, uploading and steps by the clip's length, all frames on the GPU and a quarter of them."""
    result: dict = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.instag"
        write_long_pack(options.subject, path, max(options.lengths))
        for frames in options.lengths:
            for mode in ("resident", "streamed"):
                command = [sys.executable, __file__, str(path), "--child", mode, "--lengths", str(frames)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                lines = done.stdout.splitlines()
                entry = (
                    json.loads(lines[-1]) if done.returncode == 0 else {"error": done.stderr.strip().splitlines()[-8:]}
                )
                result[f"{frames} {mode}"] = entry
    failed = {name: entry["error"][-1:] for name, entry in result.items() if "error" in entry}
    return result | (
        {"error": [f"{name}: {line}" for name, lines in failed.items() for line in lines]} if failed else {}
    )


def length_child(path: Path, frames: int, mode: str) -> dict:
    """One length in this process."""
    torch.cuda.init()
    torch.zeros(1, device="cuda")
    result: dict = {"host_MiB_before": host_mib()}
    start = time.perf_counter()
    with SubjectDataset.open(path) as dataset:
        result["open_s"] = round(time.perf_counter() - start, 3)
        start = time.perf_counter()
        dataset.statistics_of(np.arange(frames))
        result["statistics_s"] = round(time.perf_counter() - start, 3)
        start = time.perf_counter()
        limit = None if mode == "resident" else int(STAYING * frames) * 13 * dataset.size**2
        subject = uploaded(dataset, frames, limit)
        torch.cuda.synchronize()
        result["upload_s"] = round(time.perf_counter() - start, 3)
        result["kind"] = type(subject.resident).__name__
        result["frames_MiB"] = round(torch.cuda.memory_allocated() / MIB)
        result |= time_face(subject, POINTS)
    return result | {"host_MiB": host_mib()}


def host_mib() -> int:
    """Peak memory of this process so far (getrusage would count the parent's as well)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def write_long_pack(source: Path, target: Path, frames: int) -> None:
    """A pack that repeats another one, whole, until it has at least so many frames."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        meta = json.loads(old.read(Pack.META))
        length = meta["frames"]
        times = -(-frames // length)
        for name in old.namelist():
            data = old.read(name)
            if name == Pack.META:
                new.writestr(name, json.dumps(meta | {"frames": times * length}))
            elif name in (Pack.FRAMES, Pack.PLATES):
                new.writestr(name, repeated_video(data, times, length / meta["fps"]))
            elif name.endswith(".safetensors"):
                arrays = {k: np.concatenate([v[:length]] * times) for k, v in safetensors.numpy.load(data).items()}
                new.writestr(name, safetensors.numpy.save(arrays, safetensors_metadata(data)))
            elif not name.startswith("labels/"):
                new.writestr(name, data)
        for i in range(times * length):
            new.writestr(Pack.labels(i), old.read(Pack.labels(i % length)))


def repeated_video(data: bytes, times: int, seconds: float) -> bytes:
    """An MP4 file whose packets come `times` times."""
    import av

    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as target:
        stream = None
        for k in range(times):
            with av.open(io.BytesIO(data)) as source:
                video = source.streams.video[0]
                stream = stream or target.add_stream_from_template(video)
                shift = round(k * seconds / video.time_base)
                for packet in source.demux(video):
                    if packet.dts is not None:
                        packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                        target.mux(packet)
    return out.getvalue()


def tables(part: str, entries: dict) -> str:
    """A row per measurement of a part."""
    rows = {name: entry for name, entry in entries.items() if isinstance(entry, dict) and "error" not in entry}
    columns = list(dict.fromkeys(key for entry in rows.values() for key in entry))
    lines = [f"| {part} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {n} | " + " | ".join(str(e.get(c, "")) for c in columns) + " |" for n, e in rows.items()]
    return "\n".join(lines)


PARTS: dict[str, Callable[[argparse.Namespace], dict]] = {
    "gaussians": by_gaussians,
    "resolution": by_resolution,
    "length": by_length,
}


def numbers(text: str) -> list[int]:
    """ "5,10" -> [5, 10]."""
    return [int(number) for number in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", type=Path)
    add_options(parser, PARTS)
    parser.add_argument("--gaussians", type=numbers, default=list(GAUSSIANS))
    parser.add_argument("--sizes", type=numbers, default=list(SIZES), help="px")
    parser.add_argument("--lengths", type=numbers, default=list(LENGTHS), help="frames")
    parser.add_argument("--child", choices=("resident", "streamed"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(length_child(options.subject, options.lengths[0], options.child)))
        return
    measure_parts({name: partial(part, options) for name, part in PARTS.items()}, options, tables)


if __name__ == "__main__":
    main()
