"""What a branch is compared with, and every loss term that is a sum over its pixels: rules, and the torch twin.

A stage says with `PixelRules` which regions of a frame count for what; `compare` makes of it the pair of images for the
photometric term and the other terms. On the GPU three small kernels read the uint8 frames directly
(`instag.kernels.pixels`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from gaussian_rasterization import RasterOutput
from torch import Tensor

from instag import kernels, losses
from instag.data.frame import FrameBatch
from instag.data.layout import Label
from instag.data.resident import StoredPrior

Region = int  # set of pixels: bit `label`, outside the lip rectangle, and bit `label + LIPS_BIT`, inside
LIPS_BIT = 8
MOST_ATTENTION = 2  # attention rules that one kernel serves


def region(*labels: Label, lips: bool | None = None) -> Region:
    """Pixels with one of these labels, in the lip rectangle (True), outside it (False), or wherever (None)."""
    outside = sum(1 << int(label) for label in set(labels))
    return (0 if lips is True else outside) | (0 if lips is False else outside << LIPS_BIT)


HEAD_AND_HAIR = region(Label.HEAD, Label.HAIR)
HAIR = region(Label.HAIR)
SKIN = region(Label.HEAD)
MOUTH = region(Label.MOUTH)
IN_LIPS = region(*Label, lips=True)


@dataclass(frozen=True)
class AttentionRule:
    """A term that keeps attention small: audio * mean(audio map) + eye * mean(eye map), over a region."""

    name: str
    region: Region
    audio: float
    eye: float


@dataclass(frozen=True)
class PixelRules:
    """What counts where. Weights are factors of the terms; a weight of 0 switches a prior off.

    Attributes:
        shown: where the target is the frame; it is the key colour elsewhere.
        painted: where the render is painted over with the key colour and gets no gradient.
        opaque: where alpha belongs; the other pixels should be clear.
        alpha: weight of the coverage term; None: there is no term but the pair.
        attention: at most two.
        normal_region, normal: of the normal prior.
        depth_region, depth: of the depth prior.
        matte: weight of wrong alpha in a comparison over the frame itself: the branch, drawn on black, lies over the
            frame where it is shown, the frame stands elsewhere, and alpha should be 1 in the one part and 0 in the
            other, painted pixels left out: a part of the term `alpha`. 0: the comparison on the key colour.
        matte_lips: how much more it weighs in the lip rectangle, as a share.
    """

    shown: Region
    painted: Region = 0
    opaque: Region = 0
    alpha: float | None = None
    attention: tuple[AttentionRule, ...] = ()
    normal_region: Region = 0
    normal: float = 0.0
    depth_region: Region = 0
    depth: float = 0.0
    matte: float = 0.0
    matte_lips: float = 0.0


@dataclass(frozen=True)
class Compared:
    """render, target: [B, 3, H, W] for the photometric terms; terms: the rest, weighted, by name."""

    render: Tensor
    target: Tensor
    terms: dict[str, Tensor]


def mask(frames: FrameBatch, which: Region) -> Tensor:
    """A region as bool [B, 1, H, W]."""
    return _holds(which, _bits(frames))


def _bits(frames: FrameBatch) -> Tensor:
    """The bit of each pixel in a `Region`, int32 [B, 1, H, W]."""
    return 1 << (frames.labels[:, None] + LIPS_BIT * frames.lip_mask().byte()).int()


def _holds(which: Region, bits: Tensor) -> Tensor:
    return (bits & which) != 0


def compare(image: RasterOutput, frames: FrameBatch, key: Tensor, rules: PixelRules) -> Compared:
    """A branch's images against their frames (METHOD.md sections 5 and 6); by kernels where they apply.

    Args:
        image: of one branch, on the key colour; `extra` holds audio and eye maps in turn where attention counts.
        frames: with a geometry prior where the rules ask for one.
        key: [3].
        rules: what counts where.
    """
    prior = frames.prior
    stored = prior is None or isinstance(prior, StoredPrior)
    if rules.alpha is not None and stored and kernels.usable(image.color, key):
        from instag.kernels.pixels import compare_cuda  # needs the `gpu` extra

        return compare_cuda(image, frames, key, rules)
    return compare_torch(image, frames, key, rules)


def compare_torch(image: RasterOutput, frames: FrameBatch, key: Tensor, rules: PixelRules) -> Compared:
    """`compare` in torch: any device, float32 or float64."""
    bits = _bits(frames)  # once: every rule asks it
    terms: dict[str, Tensor] = {}
    wrong: Tensor | float = 0.0
    if rules.matte:
        target = frames.image.to(image.color)
        shown, painted = (_holds(which, bits) for which in (rules.shown & ~rules.painted, rules.painted))
        render = torch.where(shown, image.color + (1 - image.alpha) * target, target)
        weight = rules.matte * (1 + rules.matte_lips * _holds(IN_LIPS, bits)) * ~painted
        wrong = (weight * torch.where(shown, 1 - image.alpha, image.alpha)).mean()
    else:
        target = losses.paint(frames.image.to(image.color), _holds(~rules.shown, bits), key)
        render = losses.paint(image.color, _holds(rules.painted, bits), key) if rules.painted else image.color
    if rules.alpha is not None:
        terms["alpha"] = rules.alpha * losses.alpha_coverage(image.alpha, _holds(rules.opaque, bits)) + wrong
    if rules.attention:
        # The universal field's maps, and the personalised field's where there is one: both are held back alike.
        audio, eye = image.extra.unflatten(1, (-1, 2)).sum(1).split(1, 1)
        for rule in rules.attention:
            where = _holds(rule.region, bits)
            weighted = ((rule.audio, audio), (rule.eye, eye))
            shares = [weight * losses.masked_mean(values, where) for weight, values in weighted if weight]
            terms[rule.name] = sum(shares, start=audio.new_zeros(()))
    prior = frames.prior
    if prior is None:
        return Compared(render, target, terms)
    if rules.normal:
        normal = losses.to_camera_normals(image.normal, frames.condition.camera.world_to_camera)
        where = prior.valid & _holds(rules.normal_region, bits)
        terms["normal"] = rules.normal * losses.normal_prior(normal, prior.normal, where)
    if rules.depth:
        where = prior.valid & _holds(rules.depth_region, bits)
        terms["depth"] = rules.depth * losses.depth_prior(image.depth, prior.depth, where, prior.valid)
    return Compared(render, target, terms)
