"""Video file -> subject folder: `python data_utils/process.py data/<ID>/<ID>.mp4`, or `instag process`."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # run as a script: the checkout is to be searched for modules, not this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from instag.data.layout import SubjectFolder
from instag.errors import DataError, InstagError

DEFAULTS = {"size": 512, "limit_seconds": None, "extractor": "phone-mel", "norm": "file"}
SMALLEST_SIZE = 64
SHORTEST_LIMIT = 2.0  # seconds


def process(
    clip: Path | str,
    folder: Path | str,
    *,
    size: int | None = None,
    limit_seconds: float | None = None,
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
        limit_seconds: use the beginning of the clip only; default all of it (with `steps`: as before).
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
    if size is not None and (size < SMALLEST_SIZE or size % 2):
        raise DataError(f"size {size}: the pictures' side must be even and at least {SMALLEST_SIZE} px; take 512")
    if limit_seconds is not None and limit_seconds < SHORTEST_LIMIT:
        raise DataError(f"limit of {limit_seconds} s: at least {SHORTEST_LIMIT:.0f} s of a clip are needed")
    if not clip.is_file():
        raise DataError(f"{clip}: no such file; give the path of a video")
    if clip.resolve() in (folder.frames.resolve(), folder.plates.resolve()):
        raise DataError(f"{clip}: this name is needed for a result; rename the clip")
    try:
        from instag.audio.norm import check_mode
        from instag.data.audio import get_extractor
        from instag.data_utils.files import remove_leavings
        from instag.data_utils.job import Job, run_steps
        from instag.data_utils.manifest import Manifest
        from instag.data_utils.pipeline import STEPS
        from instag.data_utils.video import probe
        from instag.data_utils.workers import FramePool
    except ImportError as error:
        raise InstagError(_import_remedy(error)) from None
    if not probe(clip).has_audio:
        raise DataError(f"{clip}: has no sound, which the lips are learnt from; give a clip with speech")
    manifest = Manifest.load(folder.manifest)
    asked = {"size": size, "limit_seconds": limit_seconds, "extractor": extractor, "norm": norm}
    before = manifest.facts.get("settings", {})
    if steps is None:
        before = before | {"limit_seconds": None}
    settings = {name: value or before.get(name) or DEFAULTS[name] for name, value in asked.items()}
    get_extractor(settings["extractor"])
    check_mode(settings["norm"])
    manifest.facts["settings"] = settings
    remove_leavings(folder.root)
    manifest.save()  # a folder that cannot be written is found out before the work
    try:
        with FramePool(workers) as pool:
            run_steps(Job(clip, folder, **settings, manifest=manifest, pool=pool), STEPS, steps, force)
    except InstagError:
        if not any(mark.get("done") for mark in manifest.steps.values()):  # nothing came of it: leave nothing
            manifest.path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # unless there is something else in it
                folder.root.rmdir()
        raise
    return folder


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
    parser.add_argument("--extractor", help="audio features (default phone-mel)")
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
