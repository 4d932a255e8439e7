"""Which frames a subject is trained and tested on (METHOD.md section 6): pure functions, whose odd turns are said."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from instag.errors import DataError

TEST_FRAMES = 301  # 12 s at 25 fps and one frame (METHOD.md section 6)
MIN_TRAIN_FRAMES = 125  # 5 s: fewer before the test part, and a share of the clip is tested instead
SHORT_TEST_SHARE = 0.2
ALL_VIEWS = -1


@dataclass(frozen=True)
class Split:
    """Frame numbers of both parts, and what the user must be told.

    Attributes:
        train: int64 [n], ascending.
        test: int64 [m], ascending; the last frames of the clip.
        notes: one sentence each, empty when nothing is out of the ordinary.
    """

    train: np.ndarray
    test: np.ndarray
    notes: tuple[str, ...] = ()


def split_frames(total: int, n_views: int = ALL_VIEWS, all_for_train: bool = False) -> Split:
    """Split a clip of `total` frames.

    The last 301 frames are for testing where at least 125 remain before them, else the last 20 %. Training uses the
    first `n_views` frames of the rest (125 / 250 / 500 = 5 / 10 / 20 s), or all of it with -1. With `all_for_train` the
    training part is the whole clip, and the test frames are then seen in training.

    Raises DataError for a clip of fewer than two frames or a useless `n_views`.
    """
    if n_views != ALL_VIEWS and n_views < 1:
        raise DataError(f"--n-views {n_views}: give a number of frames, e.g. 125 (5 s), or -1 for all")
    if total < 2:
        raise DataError(f"{total} frame(s) are too few to split into training and test; use a longer clip")
    notes = []
    test_frames = TEST_FRAMES
    if total - TEST_FRAMES < MIN_TRAIN_FRAMES:
        test_frames = max(1, int(SHORT_TEST_SHARE * total))
        notes.append(
            f"the clip has {total} frames, fewer than {MIN_TRAIN_FRAMES} + {TEST_FRAMES}: "
            f"the last {test_frames} (20 %) are for testing"
        )
    available = total if all_for_train else total - test_frames
    if n_views > available:
        notes.append(f"--n-views {n_views} is more than the training part holds: cut to its {available} frames")
    used = available if n_views == ALL_VIEWS else min(n_views, available)
    if used > total - test_frames:
        seen = used - (total - test_frames)
        notes.append(
            f"--all-for-train: {seen} of {test_frames} test frames are trained on; test figures are not held out"
        )
    return Split(np.arange(used), np.arange(total - test_frames, total), tuple(notes))
