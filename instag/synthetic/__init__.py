"""Procedural talking speakers: made data with exact ground truth, for tests, demo and benchmarks.

No person's data, no model weights. An identity seed gives a look, a style seed a way of speaking, a sentence seed what
is said. Benchmarks on it show speed and correctness, not photographic quality.

    speaker = Speaker(identity_seed=1, style_seed=2)
    performance = speaker.perform(sentence_seed=3, seconds=10)
    frame = render_frame(speaker, performance, t=0, size=512, supersampling=2)
    make_clip("speaker.mp4", identity_seed=1, style_seed=2, sentence_seed=3, seconds=10)

The first call compiles the renderer (about 15 s, once per machine).
"""

from instag.synthetic.clip import Truth, make_clip, read_truth, truth_path
from instag.synthetic.performance import Performance
from instag.synthetic.render import RenderedFrame, Speaker, background_plate, render_frame

__all__ = [
    "Performance",
    "RenderedFrame",
    "Speaker",
    "Truth",
    "background_plate",
    "make_clip",
    "read_truth",
    "render_frame",
    "truth_path",
]
