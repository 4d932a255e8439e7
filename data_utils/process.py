"""Video file -> subject folder: `python data_utils/process.py data/<ID>/<ID>.mp4`, or `instag process`."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # run as a script: the checkout is to be searched for modules, not this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from instag.data.layout import SubjectFolder
from instag.errors import DataError, InstagError

if TYPE_CHECKING:
    from instag.data_utils.workers import FramePool

POSES = ("photometric", "landmarks")
DEFAULTS = {"size": 512, "extractor": "phone-mel", "norm": "file", "fix_lag": False, "poses": POSES[0]}
# What says which part of the clip is used and how: not remembered when the whole is made again without it.
CHOICE = ("limit_seconds", "shot", "best", "lag", "fix_lag")
# Settings are named by a hash of their JSON, in which 10 and 10.0 differ.
NUMBERS = {"size": int, "limit_seconds": float, "shot": int, "best": float, "lag": int, "fix_lag": bool}
# What the pool's processes need: they start before the pipeline is imported here.
WORKER_MODULES = ("instag.data_utils.refine_pose", "instag.data_utils.pictures")
SMALLEST_SIZE = 64
SHORTEST_LIMIT = 2.0  # seconds
LARGEST_SHIFT = 250  # frames


def process(
    clip: Path | str,
    folder: Path | str,
    *,
    size: int | None = None,
    limit_seconds: float | None = None,
    shot: int | None = None,
    best: float | None = None,
    lag: int | None = None,
    fix_lag: bool | None = None,
    poses: str | None = None,
    parser: Path | str | None = None,
    geometry: Sequence[Path | str] | None = None,
    extractor: str | None = None,
    norm: str | None = None,
    steps: Sequence[str] | None = None,
    force: bool = False,
    workers: int | None = None,
) -> SubjectFolder:
    """Make a subject folder from a video of one speaker; CPU, nothing downloaded.

    Steps that are done are skipped, so that an interrupted run is continued by starting it again.

    Args:
        clip: any video file with sound that FFmpeg reads.
        folder: `data/<ID>`; made if it is not there.
        size: side of the square pictures in pixels, even; default as before in this folder, else 512.
        limit_seconds: use the beginning of the clip only; default all of it (with `steps`: as before, as for the next).
        shot: of a clip with cuts, the take to use, from 1; 0 for the whole clip, cuts and all; default the longest.
        best: use only the most informative part, of so many seconds.
        lag: frames of 25 a second by which the lips are late: the sound is put off by them (negative: brought forward).
        fix_lag: measure it and put it right where the measurement is sure.
        poses: `photometric`, refined on the pictures, or by `landmarks` alone; default as before, else photometric.
        parser: a face parsing network to take instead of our own, .onnx or TorchScript (`networks`); default as before.
        geometry: TorchScript networks of Sapiens' convention, one for depth and one for normals; default as before.
        extractor: audio features, a name of `instag.data.audio.EXTRACTORS`; default as before, else `phone-mel`.
        norm: their normalisation, `file` or `running`; default as before, else `file`.
        steps: names of `instag.data_utils.pipeline.STEPS` to run (again) alone; None for all that are not done.
        force: run steps that are done again.
        workers: processes for the picture steps; default one a core.

    Returns:
        The folder, complete where `steps` is None.

    Raises:
        InstagError: a clip that cannot be used, a folder that cannot be written, a missing package.
    """
    clip, folder = Path(clip), SubjectFolder(Path(folder))
    asked = {
        **{"size": size, "limit_seconds": limit_seconds, "shot": shot, "best": best, "lag": lag, "fix_lag": fix_lag},
        **{"poses": poses, "extractor": extractor, "norm": norm},
        "parser": None if parser is None else str(parser),
        "geometry": None if geometry is None else [str(path) for path in geometry],
    }
    _check_numbers(asked)
    with preprocessing_packages():
        from instag.data_utils.video import probe, require_file
        from instag.data_utils.workers import FramePool
    require_file(clip)
    if clip.resolve() in (folder.frames.resolve(), folder.plates.resolve()):
        raise DataError(f"{clip}: this name is needed for a result; rename the clip")
    if not probe(clip).has_audio:
        raise DataError(f"{clip}: has no sound, which the lips are learnt from; give a clip with speech")
    with FramePool(workers, WORKER_MODULES) as pool:
        if not folder.manifest.is_file():
            pool.start()  # its processes import meanwhile what they need
        _make(clip, folder, asked, steps, force, pool)
    return folder


def _make(
    clip: Path,
    folder: SubjectFolder,
    asked: Mapping[str, Any],
    steps: Sequence[str] | None,
    force: bool,
    pool: FramePool,
) -> None:
    with preprocessing_packages():
        from instag.audio.norm import check_mode
        from instag.data.audio import get_extractor
        from instag.data_utils.blas import one_blas_thread
        from instag.data_utils.clip import WorkFiles
        from instag.data_utils.files import remove_leavings
        from instag.data_utils.job import Job, run_steps
        from instag.data_utils.manifest import Manifest, file_hash
        from instag.data_utils.pipeline import INGESTION, STEPS
    known = folder.manifest.is_file()
    manifest = Manifest.load(folder.manifest, WorkFiles(folder).timings)
    source = manifest.facts.get("source", {})
    if source and source.get("sha256") != file_hash(clip) and not force:
        name = source.get("name")
        raise DataError(f"{folder.root}: holds the subject of another clip ({name}); take a new folder or --overwrite")
    before = manifest.facts.get("settings", {})
    if steps is None:
        before = {name: value for name, value in before.items() if name not in CHOICE}
    chosen = {name: before.get(name, DEFAULTS.get(name)) if value is None else value for name, value in asked.items()}
    chosen |= {name: kind(chosen[name]) for name, kind in NUMBERS.items() if chosen[name] is not None}
    get_extractor(chosen["extractor"])
    check_mode(chosen["norm"])
    manifest.facts["settings"] = chosen
    made_root = not folder.root.exists()
    remove_leavings(folder.root)
    manifest.save()  # a folder that cannot be written is found out before the work
    try:
        with one_blas_thread():
            run_steps(Job(clip, folder, **chosen, manifest=manifest, pool=pool), STEPS, steps, force)
    except DataError:  # the clip cannot be used: of a folder that is new, leave nothing
        if not known and set(manifest.steps) <= set(INGESTION):
            _remove(folder, made_root)
        raise


def _check_numbers(asked: Mapping[str, Any]) -> None:
    size, limit, shot, best = (asked[name] for name in ("size", "limit_seconds", "shot", "best"))
    if size is not None and (size < SMALLEST_SIZE or size % 2):
        raise DataError(f"size {size}: the pictures' side must be even and at least {SMALLEST_SIZE} px; take 512")
    for name, seconds in (("limit", limit), ("best", best)):
        if seconds is not None and not seconds >= SHORTEST_LIMIT:
            raise DataError(f"{name} of {seconds} s: at least {SHORTEST_LIMIT:.0f} s of a clip are needed")
    if asked["poses"] not in (None, *POSES):
        raise DataError(f"poses '{asked['poses']}': no such way to find them; choose from {', '.join(POSES)}")
    if shot is not None and shot < 0:
        raise DataError(f"shot {shot}: shots are counted from 1; 0 takes the whole clip")
    if shot == 0 and best is not None:
        raise DataError("shot 0 and best: the best seconds are looked for between cuts; leave one of both out")
    if asked["lag"] is not None and asked["fix_lag"]:
        raise DataError("lag and fix-lag: either give the lag or let it be measured; leave one of both out")
    if asked["lag"] is not None and abs(asked["lag"]) > LARGEST_SHIFT:
        raise DataError(f"lag {asked['lag']}: frames of 25 a second, at most {LARGEST_SHIFT}; check the figure")


def _remove(folder: SubjectFolder, whole: bool) -> None:
    """Undo the first steps: the whole folder where it was made for them."""
    if whole:
        shutil.rmtree(folder.root, ignore_errors=True)
        return
    shutil.rmtree(folder.root / "work", ignore_errors=True)
    for path in (folder.manifest, folder.frames, folder.audio):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def preprocessing_packages() -> Iterator[None]:
    """Around imports: says how to get the packages that preprocessing needs where one is missing."""
    try:
        yield
    except ImportError as error:
        raise InstagError(_import_remedy(error)) from None


def _import_remedy(error: ImportError) -> str:
    text = str(error)
    if "libGL" in text or "libgthread" in text or "libglib" in text:
        return f"OpenCV needs a system library ({text}): apt-get install -y libgl1 libglib2.0-0"
    if getattr(error, "name", None) == "cv2":
        return f"preprocessing needs OpenCV ({text}): pip install '.[preprocess]' in the checkout"
    return f"preprocessing lacks a package ({text}): pip install '.[preprocess]' in the checkout"


def main(arguments: Sequence[str] | None = None) -> int:
    """The script's entry; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip", type=Path, help="video file; its folder becomes the subject folder")
    parser.add_argument("--folder", type=Path, help="write elsewhere than beside the clip")
    parser.add_argument("--task", action="append", help="run this step alone, even if done (may be repeated)")
    parser.add_argument("--size", type=int, help="side of the square pictures, px (default 512)")
    parser.add_argument("--limit-seconds", type=float, help="use only the beginning of the clip")
    parser.add_argument(
        "--shot", type=int, help="of a clip with cuts, the take to use, from 1; 0: all (default longest)"
    )
    parser.add_argument("--best", type=float, help="use only the most informative part, of so many seconds")
    parser.add_argument("--lag", type=int, help="frames by which the lips are late: put the sound off by them")
    parser.add_argument("--fix-lag", action="store_true", default=None, help="measure the lag and put it right")
    parser.add_argument("--parser", type=Path, help="face parsing network of your own, .onnx or TorchScript")
    parser.add_argument("--geometry", type=Path, nargs=2, help="depth and normal network of your own, TorchScript")
    parser.add_argument("--extractor", help="audio features (default phone-mel)")
    parser.add_argument("--poses", choices=POSES, help="refined on the pictures (default), or by landmarks alone")
    parser.add_argument("--norm", help="normalisation of the features: file (default) or running")
    parser.add_argument("--force", action="store_true", help="run done steps again")
    parser.add_argument("--workers", type=int, help="processes for the picture steps (default: one a core)")
    options = parser.parse_args(arguments)
    try:
        folder = process(
            options.clip,
            options.folder or options.clip.parent,
            size=options.size,
            limit_seconds=options.limit_seconds,
            shot=options.shot,
            best=options.best,
            lag=options.lag,
            fix_lag=options.fix_lag,
            poses=options.poses,
            parser=options.parser,
            geometry=options.geometry,
            extractor=options.extractor,
            norm=options.norm,
            steps=options.task,
            force=options.force,
            workers=options.workers,
        )
    except InstagError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"subject folder: {folder.root}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
