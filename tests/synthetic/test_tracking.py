"""The procedural head is tracked like a real one: tolerances of notes/PROCEDURAL.md, on identities nobody tuned on."""

from types import SimpleNamespace

import numpy as np
import pytest

from instag.data_utils.landmarks import FaceTracker, PersonSegmenter
from instag.synthetic import Speaker, render_frame
from instag.synthetic.landmarks import MEDIAPIPE, NAMES, openings

FRAMES, SIZE = 40, 512
EYE_LINES = ((159, 145), (158, 153), (160, 144), (386, 374), (385, 380), (387, 373))


@pytest.fixture(scope="module", params=[(101, "short"), (102, "long")], ids=["short", "long"])
def tracked(request):
    """FRAMES consecutive frames, with a blink among them, as MediaPipe sees them and as they are."""
    seed, hair = request.param
    speaker = Speaker(seed, seed, hair)
    performance = speaker.perform(seed, FRAMES / 25)
    points, frames, overlap = [], [], []
    with FaceTracker() as tracker, PersonSegmenter() as segmenter:
        for t in range(FRAMES):
            frame = render_frame(speaker, performance, t, SIZE)
            points.append(tracker(frame.image))
            frames.append(frame)
            if t % 10 == 0:
                mask = segmenter(frame.image) > 127
                person = frame.person.reshape(256, 2, 256, 2).mean((1, 3)) > 0.5
                overlap.append((mask & person).sum() / (mask | person).sum())
    return SimpleNamespace(points=points, frames=frames, overlap=overlap)


def test_tracked_within_the_tolerances(tracked):
    assert all(points is not None for points in tracked.points)
    seen = np.stack(tracked.points)[..., :2]
    gap = lambda a, b: np.linalg.norm(seen[:, a] - seen[:, b], axis=-1)  # noqa: E731
    truth = np.stack([frame.landmarks_2d for frame in tracked.frames])
    right, left, mouth = openings(np.stack([frame.landmarks for frame in tracked.frames]))

    error = np.stack([seen[:, list(MEDIAPIPE[name])].mean(1) for name in NAMES], 1) - truth
    motion = np.linalg.norm(error - error.mean(0), axis=-1).mean()  # px, what is left without each point's own offset
    mouth_r = np.corrcoef(gap(13, 14) / gap(33, 263), mouth)[0, 1]
    eye_r = np.corrcoef(sum(gap(a, b) for a, b in EYE_LINES) / gap(33, 263), right + left)[0, 1]
    assert motion < 2.5 and mouth_r > 0.95 and eye_r > 0.90
    offset = np.linalg.norm(error.mean(0), axis=-1) / gap(33, 263).mean()  # how far the definitions differ
    assert offset.mean() < 0.04 and offset.max() < 0.12
    assert np.mean(tracked.overlap) > 0.98
