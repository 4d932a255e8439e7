"""What each branch is compared with: pairs (render, target) of [B, 3, H, W] (METHOD.md sections 5 and 6)."""

from __future__ import annotations

from torch import Tensor

from instag.data.frame import FrameBatch
from instag.data.layout import Label
from instag.losses import paint


def face_pair(color: Tensor, frames: FrameBatch, key: Tensor, ignore_hair: bool) -> tuple[Tensor, Tensor]:
    """The face's render against the frame where it shows face or hair, key colour elsewhere.

    The inner mouth is key-coloured in the target. With `ignore_hair` hair is painted over in both.
    """
    target = paint(frames.image, ~frames.mask(Label.HEAD, Label.HAIR), key)
    if not ignore_hair:
        return color, target
    hair = frames.mask(Label.HAIR)
    return paint(color, hair, key), paint(target, hair, key)


def mouth_pair(color: Tensor, frames: FrameBatch, key: Tensor) -> tuple[Tensor, Tensor]:
    """The mouth's render against the frame inside the mouth, key colour elsewhere.

    Lips and skin inside the lip rectangle are ignored (painted over in the render); outside the rectangle the render
    must be the key colour.
    """
    inside = frames.mask(Label.MOUTH)
    return paint(color, frames.lip_mask() ^ inside, key), paint(frames.image, ~inside, key)


def head_mask(frames: FrameBatch) -> Tensor:
    """Where the face's alpha belongs: skin and, always, hair; bool [B, 1, H, W]."""
    return frames.mask(Label.HEAD, Label.HAIR)


def is_key_colored(color: Tensor, low: float, high: float) -> Tensor:
    """Which colours [..., 3] in [0, 1] are the green key: red and blue below `low`, green above `high` (of 255)."""
    red, green, blue = (255 * color).unbind(-1)
    return (red < low) & (green > high) & (blue < low)
