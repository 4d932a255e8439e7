"""Makes the helpers of this folder importable (pytest's importlib mode adds no folder to the path); a shared clip."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

CLIP_SECONDS = 2.4


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """Video of a procedural speaker: 60 frames of 256 px, with sound."""
    from instag.synthetic import make_clip

    path = tmp_path_factory.mktemp("speaker") / "speaker.mp4"
    return make_clip(path, 3, 3, 3, CLIP_SECONDS, size=256, supersampling=1, progress=False)
