"""Rewrite a subject's pose files for evaluation: the last 301 frames (12 s) for testing (METHOD.md section 6).

`python data_utils/split.py data/<ID>`: for other programs of the field. Our own training and evaluation split by the
same rule whatever stands in these files.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # run as a script: the checkout is to be searched for modules, not this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from instag.data.layout import SubjectFolder
from instag.data.split import split_frames
from instag.errors import DataError, InstagError
from instag.files import write_json

SPLITS = ("train", "val")


def split_poses(root: Path | str) -> tuple[int, int]:
    """Rewrite transforms_train.json and transforms_val.json of a subject folder.

    Returns the numbers of training and test frames. Raises DataError where the files are missing or not the field's.
    """
    folder = SubjectFolder(Path(root))
    contents = [_load(folder.transforms(split)) for split in SPLITS]
    frames = sorted((frame for content in contents for frame in content["frames"]), key=lambda frame: frame["img_id"])
    split = split_frames(len(frames))
    for note in split.notes:
        print(note, file=sys.stderr)
    for name, content, numbers in zip(SPLITS, contents, (split.train, split.test), strict=True):
        write_json(folder.transforms(name), content | {"frames": [frames[i] for i in numbers]})
    return len(split.train), len(split.test)


def _load(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if all("img_id" in frame for frame in content["frames"]):
            return content
        reason = "frames without img_id"
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = str(error)
    raise DataError(f"{path}: not a pose file of the field ({reason}); make it with `instag process`")


def main(arguments: Sequence[str] | None = None) -> int:
    """The script's entry; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="subject folder data/<ID>")
    options = parser.parse_args(arguments)
    try:
        train, test = split_poses(options.folder)
    except InstagError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.folder}: {train} frames for training, {test} for testing")
    return 0


if __name__ == "__main__":
    sys.exit(main())
