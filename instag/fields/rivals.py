"""Rivals: the other videos' personalised fields at this video's points, for the contrast (paper Eq. 6, 7)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial

import torch
from torch import Tensor

from instag import kernels, losses
from instag.fields.motion import layer_weights
from instag.fields.personalized import PersonalizedFaceField, PersonalizedMouthField
from instag.kernels.beside import beside

Field = PersonalizedFaceField | PersonalizedMouthField


@torch.no_grad()
def rivals_d_mean_torch(
    fields: Sequence[Field], x: Tensor, window: Tensor, *driver: Tensor, which: Tensor | None = None
) -> Tensor:
    """d_mean [k, B, N, 3] of k fields of one branch, one after the other.

    Args:
        fields: at least one.
        x: [N, 3], the points of all.
        window: [B, 8, D, W] audio.
        driver: the face's expression [B, 6]; nothing for the mouth.
        which: int64 [k'] on the device, only these of them; None: all. A captured step reads it anew.
    """
    on_host = which is not None and which.device.type == "cpu"
    asked = [fields[i] for i in which.tolist()] if on_host else fields
    d_mean = torch.stack([field(x, window, *driver).d_mean for field in asked])
    return d_mean if on_host or which is None else d_mean[which]


@torch.no_grad()
def rivals_d_mean(
    fields: Sequence[Field], x: Tensor, window: Tensor, *driver: Tensor, which: Tensor | None = None
) -> Tensor:
    """`rivals_d_mean_torch`, on a GPU with few launches for all: sound, encodings, networks behind them."""
    if not kernels.usable(x, window):
        return rivals_d_mean_torch(fields, x, window, *driver, which=which)
    from instag.kernels import audio_encoder, motion_head  # need the `gpu` extra
    from instag.kernels.hash_grid import encode_many_cuda

    first = fields[0]
    forms = {"face": motion_head.FACE.get(len(first.decoder.layers[0].weight)), "mouth": motion_head.OWN_MOUTH}
    head = forms["face" if isinstance(first, PersonalizedFaceField) else "mouth"]
    fits = motion_head.fits(x.device, first.encoding.features, head, len(window))
    if not (fits and audio_encoder.fits(*window.shape[2:]) and _alike(fields)):
        return rivals_d_mean_torch(fields, x, window, *driver, which=which)
    assert head is not None
    networks = [_weights(field) for field in fields]
    tables = _addresses(tuple((field.encoding.table.data_ptr(),) for field in fields), x.device)[:, 0].contiguous()
    heads = _addresses(tuple(motion_head.pointers(weights) for weights in networks), x.device)
    if which is not None:
        tables, heads = tables[which], heads[which]
    encoders, reads = [field.audio for field in fields], [window] if which is None else [window, which]
    heard = beside(partial(audio_encoder.audio_encoder_many_cuda, encoders, *reads), *reads)  # [k, B, 32]
    features = encode_many_cuda(x.contiguous(), tables, first.encoding.layout, first.encoding.bound)
    return motion_head.many_heads_d_mean(head, features, heard(), driver[0] if driver else None, heads)


def contrast(d_mean: Tensor, others: Tensor) -> Tensor:
    """`losses.negative_contrast` of d_mean [B, N, 3] with others [k, B, N, 3]; one kernel on a GPU."""
    if kernels.usable(d_mean, others):
        from instag.kernels.contrast import contrast_cuda  # needs the `gpu` extra

        return contrast_cuda(d_mean, others.detach())
    return losses.negative_contrast(d_mean, others)


def _alike(fields: Sequence[Field]) -> bool:
    """Whether one launch can serve them: one kind, one tri-plane, one width."""
    forms = {
        (type(field), field.encoding.layout, field.encoding.bound, field.decoder.layers[0].weight.shape)
        for field in fields
    }
    return len(forms) == 1


def _weights(field: Field) -> list[Tensor]:
    """In the order of `HeadWeights` and `OwnMouthWeights`."""
    if isinstance(field, PersonalizedFaceField):
        return layer_weights(field.audio_weights, field.eye_weights, field.decoder, field.expression)
    return layer_weights(field.audio_weights, field.decoder)


@cache  # never dropped: captured steps point to them
def _addresses(rows: tuple[tuple[int, ...], ...], device: torch.device) -> Tensor:
    """Addresses [k, n] on the device. Kept: a captured step must find them there, a copy to it cannot be captured.

    A field's parameters stay where they are while it lives (optimisers write in place; density control replaces the
    Gaussians' alone), so these are the same in every step.
    """
    return torch.tensor(rows, dtype=torch.int64, device=device)
