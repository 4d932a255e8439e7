"""How a procedural person speaks and moves: named numbers drawn from one seed of its own, apart from the identity.

The same style on two identities is "the same mouth on another face"; two styles on one identity are the reverse.
"""

from __future__ import annotations

from dataclasses import dataclass

from instag.synthetic.seeds import Draw


@dataclass(frozen=True)
class Style:
    """One way of speaking. Gains multiply the articulation that the phonemes ask for."""

    seed: int
    jaw_gain: float
    lip_gain: float  # parting of the lips
    wide_gain: float  # spreading, as in /i/
    round_gain: float  # rounding, as in /u/
    asymmetry: float  # 1/cm: the subject's left side of the mouth opens more where positive
    rate: float  # gain on the speaking rate
    pitch: float  # Hz, mean fundamental frequency
    tract: float  # gain on the formants (short vocal tract > 1)
    brow_gain: float
    head_motion: float  # gain on rotation and translation
    blink_rate: float  # 1/s, beyond the shortest interval


def draw_style(seed: int) -> Style:
    """Return the style that belongs to `seed`; ranges by eye."""
    draw = Draw("style", seed)
    return Style(
        seed=seed,
        jaw_gain=draw.normal("jaw_gain", 1, 0.15),
        lip_gain=draw.normal("lip_gain", 1, 0.15),
        wide_gain=draw.normal("wide_gain", 1, 0.25),
        round_gain=draw.normal("round_gain", 1, 0.25),
        asymmetry=draw.normal("asymmetry", 0, 0.12),
        rate=draw.normal("rate", 1, 0.08),
        pitch=draw.uniform("pitch", 90, 210),
        tract=draw.normal("tract", 1, 0.05),
        brow_gain=draw.uniform("brow_gain", 0.3, 1),
        head_motion=draw.uniform("head_motion", 0.5, 1.2),
        blink_rate=draw.uniform("blink_rate", 0.2, 0.45),
    )
