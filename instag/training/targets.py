"""What each branch is compared with, as rules over regions of a frame (METHOD.md sections 5 and 6)."""

from __future__ import annotations

from torch import Tensor

from instag.config import LossConfig
from instag.losses_pixels import HAIR, HEAD_AND_HAIR, IN_LIPS, MOUTH, SKIN, AttentionRule, PixelRules


def face_rules(weights: LossConfig, ignore_hair: bool, prior: bool, depth: bool, inside: bool = False) -> PixelRules:
    """The face: skin and hair of the frame, key colour elsewhere, also where the inside of the mouth is.

    Args:
        weights: of the stage.
        ignore_hair: hair is painted over in render and target, and attention is free there; alpha belongs there still.
        prior, depth: whether the geometry prior takes part, and its depth too (never inside the mouth).
        inside: the face is the only branch and draws the inside of the mouth too.
    """
    attention = (AttentionRule("attention_lips", IN_LIPS, 0.0, weights.attention_lips),)
    if not ignore_hair:
        attention += (AttentionRule("attention_hair", HAIR, weights.attention_hair, weights.attention_hair),)
    mouth = MOUTH if inside else 0
    return PixelRules(
        shown=(SKIN if ignore_hair else HEAD_AND_HAIR) | mouth,
        painted=HAIR if ignore_hair else 0,
        opaque=HEAD_AND_HAIR | mouth,
        alpha=weights.alpha,
        matte=weights.matte,
        matte_lips=weights.lips,
        attention=attention,
        normal_region=HEAD_AND_HAIR,
        normal=weights.normal if prior else 0.0,
        depth_region=SKIN,
        depth=weights.depth if depth else 0.0,
    )


def mouth_rules(weights: LossConfig) -> PixelRules:
    """The mouth: the frame inside the mouth, key colour elsewhere.

    Lips and skin inside the lip rectangle are ignored (painted over in the render); outside the rectangle the render
    must be the key colour.
    """
    return PixelRules(shown=MOUTH, painted=IN_LIPS ^ MOUTH, opaque=IN_LIPS, alpha=weights.alpha, matte=weights.matte)


def pair_only(rules: PixelRules) -> PixelRules:
    """The same images to compare, without further terms."""
    return PixelRules(rules.shown, rules.painted, matte=rules.matte)


def is_key_colored(color: Tensor, low: float, high: float) -> Tensor:
    """Which colours [..., 3] in [0, 1] are the green key: red and blue below `low`, green above `high` (of 255)."""
    red, green, blue = (255 * color).unbind(-1)
    return (red < low) & (green > high) & (blue < low)
