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
        test: int64 [m], ascending; by default the last frames of the clip.
        notes: one sentence each, empty when nothing is out of the ordinary.
    """

    train: np.ndarray
    test: np.ndarray
    notes: tuple[str, ...] = ()


def split_frames(
    total: int,
    n_views: int = ALL_VIEWS,
    all_for_train: bool = False,
    first: int = 0,
    test: tuple[int, int] | None = None,
) -> Split:
    """Split a clip of `total` frames.

    The last 301 frames are for testing where at least 125 remain before them, else the last 20 %. Training uses the
    first `n_views` frames of the rest (125 / 250 / 500 = 5 / 10 / 20 s), or all of it with -1. With `all_for_train` the
    training part is the whole clip, and the test frames are then seen in training.

    Args:
        total: frames of the clip.
        n_views, all_for_train: as above.
        first: the first training frame, to choose a shot or to repeat somebody's figures.
        test: first and one past the last test frame, instead of the end of the clip.

    Raises:
        DataError: a clip of fewer than two frames, a useless `n_views`, frames that the clip has not.
    """
    if n_views != ALL_VIEWS and n_views < 1:
        raise DataError(f"--n-views {n_views}: give a number of frames, e.g. 125 (5 s), or -1 for all")
    if total < 2:
        raise DataError(f"{total} frame(s) are too few to split into training and test; use a longer clip")
    notes = []
    tested, note = (np.arange(*test), "") if test else _last_frames(total)
    if not len(tested) or tested[0] < 0 or tested[-1] >= total:
        raise DataError(f"data.test_frames {list(test or ())}: give [first, one past the last] within 0..{total}")
    if note:
        notes.append(note)
    end = total if all_for_train or first > tested[-1] else int(tested[0])
    if not 0 <= first < end:
        raise DataError(f"data.first_frame {first}: give one of the {end} frames from 0 on that may be trained on")
    if n_views > end - first:
        notes.append(f"--n-views {n_views} is more than the training part holds: cut to its {end - first} frames")
    train = np.arange(first, end if n_views == ALL_VIEWS else min(first + n_views, end))
    if seen := np.intersect1d(train, tested).size:
        notes.append(
            f"--all-for-train: {seen} of {len(tested)} test frames are trained on; test figures are not held out"
        )
    return Split(train, tested, tuple(notes))


def _last_frames(total: int) -> tuple[np.ndarray, str]:
    """Test frames at the end of a clip, and what the user must be told of them."""
    if total - TEST_FRAMES >= MIN_TRAIN_FRAMES:
        return np.arange(total - TEST_FRAMES, total), ""
    count = max(1, int(SHORT_TEST_SHARE * total))
    return np.arange(total - count, total), (
        f"the clip has {total} frames, fewer than {MIN_TRAIN_FRAMES} + {TEST_FRAMES}: "
        f"the last {count} (20 %) are for testing"
    )
