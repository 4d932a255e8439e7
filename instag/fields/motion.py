"""Universal motion fields of face and mouth (paper Sec. 3.2, 3.3; METHOD.md section 4).

The points [N, 3] are shared by the B frames of a batch: they are encoded once, the audio once per frame, and the two
meet in the first layer of the last network (`MLP.gated`, `MLP.conditioned`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial

import torch
from torch import Tensor, nn

from instag import kernels
from instag.fields.audio import AUDIO_FEATURES, AudioEncoder
from instag.fields.encoding import MLP, REFERENCE_FACE, REFERENCE_MOUTH, GridRange, TriPlaneEncoding
from instag.kernels.beside import beside

EXPRESSION = 6  # action units of e; the first five pass a small network, the last (blink) enters as it is
HOOK = 3  # phi = {max, min, max - min}
MEAN_UNIT = 0.01  # head units per unit of the network's output
MOUTH_DIRECTION = (0.2, 1.0, 0.2)  # the mouth moves mostly in y: x and z are divided by 5
FACE_OUTPUTS = (3, 4, 1, 3)  # d_mean, d_rotation, d_opacity, d_scale
MOUTH_OUTPUTS = (3, 4)  # d_mean, d_rotation


@dataclass(frozen=True)
class Deformation:
    """What a motion field says about N Gaussians in B frames. `None`: the field does not predict it.

    Attributes:
        d_mean: [B, N, 3] head units, added to the mean.
        d_rotation: [B, N, 4] added to the raw quaternion (face); the mouth's is only regularised.
        d_opacity: [B, N, 1] only regularised, never applied.
        d_scale: [B, N, 3] added to the raw scale.
        audio_attention: [B, N, 1] |w|, how much a Gaussian listens; for the losses.
        eye_attention: [B, N, 1] |v|, how much it follows the upper face.
        mean_only: True for the mouth: only d_mean deforms the Gaussians.
    """

    d_mean: Tensor
    d_rotation: Tensor
    d_opacity: Tensor | None = None
    d_scale: Tensor | None = None
    audio_attention: Tensor | None = None
    eye_attention: Tensor | None = None
    mean_only: bool = False

    def __add__(self, other: Deformation) -> Deformation:
        """U + D_i (paper Eq. 5), part by part; a part that one side does not predict counts as zero there.

        The sum of attention maps, rendered, is the sum of the rendered maps, since blending is linear in them.
        """
        parts = {}
        for part in fields(self):
            if part.name != "mean_only":
                mine, theirs = getattr(self, part.name), getattr(other, part.name)
                parts[part.name] = theirs if mine is None else mine if theirs is None else mine + theirs
        return Deformation(**parts, mean_only=self.mean_only and other.mean_only)


class AudioWeights(MLP):
    """w(mu): which of the 32 audio features a point listens to; [..., 36] -> [..., 32], no activation at the end."""

    def __init__(self, point_features: int) -> None:
        super().__init__(point_features, 32, AUDIO_FEATURES, layers=2)


class EyeWeights(MLP):
    """v(mu): which action units a point follows; [..., 36] -> [..., 6], not negative."""

    def __init__(self, point_features: int) -> None:
        super().__init__(point_features, 16, EXPRESSION, layers=2)

    def forward(self, x: Tensor) -> Tensor:
        """[..., 36] -> [..., 6]."""
        return torch.relu(super().forward(x))


def attention_map(weights: Tensor, frames: int) -> Tensor:
    """Length of each point's weights, the same in every frame: [N, D] -> [B, N, 1]."""
    return torch.linalg.vector_norm(weights, dim=-1, keepdim=True).expand(frames, -1, -1)


def layer_weights(*networks: MLP) -> list[Tensor]:
    """The weights of several networks, layer by layer."""
    return [layer.weight for network in networks for layer in network.layers]


class ListeningField(nn.Module):
    """What all motion fields begin with: a hash grid that knows the points, an encoder that hears.

    Args:
        encoding: H.
        audio: the audio encoder; may be shared with another field.
    """

    def __init__(self, encoding: TriPlaneEncoding, audio: AudioEncoder) -> None:
        super().__init__()
        self.encoding = encoding
        self.audio = audio

    def listen(self, audio_window: Tensor) -> Callable[[], Tensor]:
        """Encode audio_window [B, 8, D, W] beside what is queued until the result [B, 32] is asked for."""
        return beside(partial(self.audio, audio_window), audio_window)

    def hear(self, x: Tensor, audio_window: Tensor) -> tuple[Tensor, Tensor]:
        """What depends on neither expression nor hook: features of the points [N, 36], of the audio [B, 32]."""
        heard = self.listen(audio_window)
        return self.encoding(x), heard()


class FaceMotionField(ListeningField):
    """Face motion U(mu, a, e) (paper Eq. 3, 4; METHOD.md section 4).

    Args:
        encoding, audio: see `ListeningField`.
        hidden: width of the last network: 64 for the universal field, 32 for a personalised one.
    """

    def __init__(self, encoding: TriPlaneEncoding, audio: AudioEncoder, hidden: int) -> None:
        super().__init__(encoding, audio)
        self.audio_weights = AudioWeights(encoding.features)
        self.eye_weights = EyeWeights(encoding.features)
        self.expression = MLP(EXPRESSION - 1, 16, EXPRESSION - 1, layers=2)
        self.decoder = MLP(encoding.features + AUDIO_FEATURES + EXPRESSION, hidden, sum(FACE_OUTPUTS), layers=3)

    def forward(self, x: Tensor, audio_window: Tensor, expression: Tensor) -> Deformation:
        """Deformation of points x [N, 3] by audio_window [B, 8, D, W] and expression [B, 6] (0..5, blink 0..2)."""
        return self.express(*self.hear(x, audio_window), expression)

    def express(self, points: Tensor, audio: Tensor, expression: Tensor) -> Deformation:
        """The deformation by what `hear` returned and an expression [B, 6]."""
        fused = self._fused(points, audio, expression)
        if fused is not None:
            return fused
        upper_face, blink = expression.split([EXPRESSION - 1, 1], 1)
        driver = torch.cat([self.expression(upper_face), blink], 1)  # [B, 6]
        w, v = self.audio_weights(points), self.eye_weights(points)  # [N, 32], [N, 6]
        gain = torch.cat([points.new_ones(len(audio), points.shape[1]), audio, driver], 1)
        h = self.decoder.gated(torch.cat([points, w, v], 1), gain)  # [B, N, 11]
        d_mean, d_rotation, d_opacity, d_scale = h.split(FACE_OUTPUTS, -1)
        return Deformation(
            d_mean=MEAN_UNIT * d_mean,
            d_rotation=d_rotation,
            d_opacity=d_opacity,
            d_scale=d_scale,
            audio_attention=attention_map(w, len(audio)),
            eye_attention=attention_map(v, len(audio)),
        )

    def _fused(self, points: Tensor, audio: Tensor, expression: Tensor) -> Deformation | None:
        """The networks behind the encoding in one kernel, where a GPU has it: points [N, 36], audio [B, 32]."""
        if not kernels.usable(points, audio):
            return None
        from instag.kernels import motion_head  # needs the `gpu` extra

        head = motion_head.FACE.get(len(self.decoder.layers[0].weight))
        if not motion_head.fits(points.device, points.shape[1], head, len(audio)):
            return None
        networks = (self.audio_weights, self.eye_weights, self.decoder, self.expression)
        weights = motion_head.HeadWeights(*layer_weights(*networks))
        out = motion_head.motion_head_cuda(points, audio, expression, weights)
        maps = [length[None, :, None].expand(len(audio), -1, -1) for length in (out.audio_length, out.eye_length)]
        return Deformation(out.d_mean, out.d_rotation, out.d_opacity, out.d_scale, *maps)


class MouthMotionField(ListeningField):
    """Mouth motion U^M(mu, a, phi) with the face-mouth hook's scale tau (paper Eq. 10, 11; METHOD.md section 4)."""

    def __init__(self, encoding: TriPlaneEncoding, audio: AudioEncoder, hidden: int, tau_hidden: int) -> None:
        super().__init__(encoding, audio)
        self.decoder = MLP(encoding.features + AUDIO_FEATURES + HOOK, hidden, sum(MOUTH_OUTPUTS), layers=3)
        self.tau = MLP(encoding.features + HOOK, tau_hidden, 1, layers=3)
        self.register_buffer("unit", MEAN_UNIT * torch.tensor(MOUTH_DIRECTION), persistent=False)

    def forward(self, x: Tensor, audio_window: Tensor, phi: Tensor) -> Deformation:
        """Deformation of points x [N, 3] by audio_window [B, 8, D, W] and phi [B, 3] (`hook.hook_displacement`)."""
        return self.express(*self.hear(x, audio_window), phi)

    def express(self, points: Tensor, audio: Tensor, phi: Tensor) -> Deformation:
        """The deformation by what `hear` returned and the hook's phi [B, 3]."""
        fused = self._fused(points, audio, phi)
        if fused is not None:
            return fused
        h = self.decoder.conditioned(points, torch.cat([audio, phi], 1))  # [B, N, 7]
        d_mean, d_rotation = h.split(MOUTH_OUTPUTS, -1)
        tau = 2 * torch.sigmoid(self.tau.conditioned(points, phi))  # [B, N, 1]
        return Deformation(d_mean=self.unit * d_mean * tau, d_rotation=d_rotation, mean_only=True)

    def _fused(self, points: Tensor, audio: Tensor, phi: Tensor) -> Deformation | None:
        """The networks behind the encoding in one kernel, where a GPU has it: points [N, 36], audio [B, 32]."""
        if not kernels.usable(points, audio):
            return None
        from instag.kernels import motion_head  # needs the `gpu` extra

        widths = (len(self.decoder.layers[0].weight), len(self.tau.layers[0].weight))
        head = motion_head.MOUTH if widths == motion_head.MOUTH_WIDTHS else None
        if not motion_head.fits(points.device, points.shape[1], head, len(audio)):
            return None
        weights = motion_head.MouthWeights(*layer_weights(self.decoder, self.tau))
        out = motion_head.mouth_head_cuda(points, audio, phi, weights)
        return Deformation(out.d_mean, out.d_rotation, mean_only=True)


def build_face_field(width: int, steps: int, grid: GridRange = REFERENCE_FACE) -> FaceMotionField:
    """Universal face field for audio features of D = width, W = steps."""
    return FaceMotionField(TriPlaneEncoding(*grid), AudioEncoder(width, steps), hidden=64)


def build_mouth_field(width: int, steps: int, grid: GridRange = REFERENCE_MOUTH) -> MouthMotionField:
    """Universal mouth field for audio features of D = width, W = steps."""
    return MouthMotionField(TriPlaneEncoding(*grid), AudioEncoder(width, steps), hidden=32, tau_hidden=16)
