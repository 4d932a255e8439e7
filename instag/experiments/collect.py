"""The results of a run in a few files that travel, and back: zip files of at most PART_BYTES."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path

from instag.errors import InstagError
from instag.experiments.jobs import CONFIG, FRAMES, PROFILE, RESULT, UNIVERSAL
from instag.experiments.measure import LANDMARKS
from instag.experiments.plan import ADAPT, PRETRAIN
from instag.files import atomic_path

logger = logging.getLogger(__name__)
PART_BYTES = 15 << 20
MOST_PARTS = 8
FIRST, LAST = (RESULT, CONFIG, LANDMARKS), (PROFILE, FRAMES)


def pack_results(output: Path, folder: Path) -> list[Path]:
    """Write results-<k>.zip into a folder: figures and universal fields first, then pictures, as long as they fit."""
    jobs = [path.parent for kind in (PRETRAIN, ADAPT) for path in sorted((output / kind).glob(f"*/{RESULT}"))]
    files = [path for names in (FIRST, (UNIVERSAL,), *((name,) for name in LAST)) for job in jobs for name in names
             if (path := job / name).is_file()]  # fmt: skip
    parts: list[list[Path]] = [[]]
    used = 0
    for path in files:
        size = path.stat().st_size + 2 * len(str(path)) + 256
        if used + size > PART_BYTES:
            if len(parts) == MOST_PARTS:
                logger.warning("%s and what follows do not fit into %d files and stay behind", path, MOST_PARTS)
                break
            parts.append([])
            used = 0
        parts[-1].append(path)
        used += size
    written = []
    for k, part in enumerate(parts):
        written.append(folder / f"results-{k}.zip")
        with atomic_path(written[-1]) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for path in part:
                archive.write(path, path.relative_to(output))
    return written


def unpack_results(files: Sequence[Path], output: Path) -> None:
    """Put the results of earlier runs below an output folder, whose finished rows are then not made again.

    Raises:
        InstagError: a file that `pack_results` has not made.
    """
    for path in files:
        try:
            with zipfile.ZipFile(path) as archive:
                if any(not name.startswith((f"{PRETRAIN}/", f"{ADAPT}/")) for name in archive.namelist()):
                    raise InstagError(f"{path}: holds other things than results of ablations; give results-*.zip")
                archive.extractall(output)
        except (OSError, zipfile.BadZipFile) as error:
            raise InstagError(f"{path}: cannot be unpacked ({error}); give results-*.zip") from error
