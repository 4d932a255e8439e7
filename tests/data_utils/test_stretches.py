"""Landmarks in stretches: the same by any number of networks, each fresh at its stretch, the speaker's own."""

from itertools import islice

import numpy as np
import pytest

from instag.data_utils import stretches
from instag.data_utils.faces import Focus
from instag.data_utils.stretches import STRETCH, WARM_UP, follow_in_stretches
from instag.data_utils.video import iterate_frames

COUNT = 2 * STRETCH + 5


class MovingTracker:
    """Says which frames it has seen since it was restarted."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def restart(self):
        self.seen = []

    def __call__(self, frame):
        self.seen.append(int(frame[0, 0, 0]))
        return np.array([[self.seen[0], self.seen[-1], len(self.seen)]], np.float32)


@pytest.mark.parametrize("trackers", [1, 2, 3])
def test_each_stretch_begins_some_frames_early(monkeypatch, trackers):
    monkeypatch.setattr(stretches, "FaceTracker", MovingTracker)
    frames = (np.full((8, 8, 3), i, np.uint8) for i in range(COUNT))
    looks = follow_in_stretches(frames, Focus([]), trackers, lambda frame, face: int(frame[0, 0, 0]))
    points, measured = zip(*looks, strict=True)
    begun = [max(0, i // STRETCH * STRETCH - WARM_UP) for i in range(COUNT)]
    expected = [[first, i, i - first + 1] for i, first in enumerate(begun)]
    np.testing.assert_array_equal(np.concatenate(points), expected)
    assert measured == tuple(range(COUNT))


def test_errors_of_the_frames_arrive(monkeypatch):
    monkeypatch.setattr(stretches, "FaceTracker", MovingTracker)

    def frames():
        yield np.zeros((8, 8, 3), np.uint8)
        raise ValueError("cut off")

    with pytest.raises(ValueError, match="cut off"):
        list(follow_in_stretches(frames(), Focus([]), 2, lambda *_: None))


def test_real_networks_agree_to_the_last_bit(clip, monkeypatch):
    monkeypatch.setattr(stretches, "STRETCH", 4)
    monkeypatch.setattr(stretches, "WARM_UP", 2)
    pictures = list(islice(iterate_frames(clip), 9))
    one, two = ([face for face, _ in follow_in_stretches(pictures, Focus([]), n, lambda *_: None)] for n in (1, 2))
    np.testing.assert_array_equal(np.stack(one), np.stack(two))
