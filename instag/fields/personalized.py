"""Personalised fields D_i, one per pre-training video: deformation = U + D_i (paper Eq. 5, METHOD.md section 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from instag import kernels
from instag.fields.audio import AUDIO_FEATURES, AudioEncoder
from instag.fields.encoding import MLP, REFERENCE_FACE, GridRange, TriPlaneEncoding
from instag.fields.motion import (
    MEAN_UNIT,
    MOUTH_OUTPUTS,
    AudioWeights,
    Deformation,
    FaceMotionField,
    ListeningField,
    attention_map,
    layer_weights,
)


class PersonalizedFaceField(FaceMotionField):
    """D_i of the face: U's inputs, outputs and form with a narrower network."""


class PersonalizedMouthField(ListeningField):
    """D_i of the mouth: listens through audio weights like the face, knows neither the hook nor the expression."""

    def __init__(self, encoding: TriPlaneEncoding, audio: AudioEncoder, hidden: int) -> None:
        super().__init__(encoding, audio)
        self.audio_weights = AudioWeights(encoding.features)
        self.decoder = MLP(encoding.features + AUDIO_FEATURES, hidden, sum(MOUTH_OUTPUTS), layers=3)

    def forward(self, x: Tensor, audio_window: Tensor) -> Deformation:
        """Deformation of points x [N, 3] by audio_window [B, 8, D, W], equally free in x, y and z."""
        return self.express(*self.hear(x, audio_window))

    def express(self, points: Tensor, audio: Tensor) -> Deformation:
        """The deformation by what `hear` returned."""
        fused = self._fused(points, audio)
        if fused is not None:
            return fused
        w = self.audio_weights(points)  # [N, 32]
        gain = torch.cat([points.new_ones(len(audio), points.shape[1]), audio], 1)
        h = self.decoder.gated(torch.cat([points, w], 1), gain)  # [B, N, 7]
        d_mean, d_rotation = h.split(MOUTH_OUTPUTS, -1)
        return Deformation(
            d_mean=MEAN_UNIT * d_mean,
            d_rotation=d_rotation,
            audio_attention=attention_map(w, len(audio)),
            mean_only=True,
        )

    def _fused(self, points: Tensor, audio: Tensor) -> Deformation | None:
        """The networks behind the encoding in one kernel, where a GPU has it: points [N, 36], audio [B, 32]."""
        if not kernels.usable(points, audio):
            return None
        from instag.kernels import motion_head  # needs the `gpu` extra

        head = motion_head.OWN_MOUTH if len(self.decoder.layers[0].weight) == motion_head.OWN_MOUTH.hidden else None
        if not motion_head.fits(points.device, points.shape[1], head, len(audio)):
            return None
        weights = motion_head.OwnMouthWeights(*layer_weights(self.audio_weights, self.decoder))
        out = motion_head.own_mouth_head_cuda(points, audio, weights)
        assert out.audio_length is not None
        attention = out.audio_length[None, :, None].expand(len(audio), -1, -1)
        return Deformation(out.d_mean, out.d_rotation, audio_attention=attention, mean_only=True)


def build_personalized_face(
    width: int, steps: int, grid: GridRange = REFERENCE_FACE, audio: AudioEncoder | None = None
) -> PersonalizedFaceField:
    """D_i of the face for audio features of D = width, W = steps; `audio`: an encoder to share, else its own."""
    return PersonalizedFaceField(TriPlaneEncoding(*grid), audio or AudioEncoder(width, steps), hidden=32)


def build_personalized_mouth(
    width: int, steps: int, grid: GridRange = REFERENCE_FACE, audio: AudioEncoder | None = None
) -> PersonalizedMouthField:
    """D_i of the mouth, as `build_personalized_face`; its tri-plane has the face's range too (METHOD.md section 4)."""
    return PersonalizedMouthField(TriPlaneEncoding(*grid), audio or AudioEncoder(width, steps), hidden=16)
