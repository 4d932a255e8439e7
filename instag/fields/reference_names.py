"""The reference program's parameter names -> ours, for checkpoints that people have (METHOD.md sections 2 and 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from instag.errors import CheckpointError

Kind = Literal["face", "mouth", "personal_face", "personal_mouth", "face_aligner", "mouth_aligner"]

_PLANES = ("xy", "yz", "xz")
_CONVOLUTIONS, _ATTENTION_CONVOLUTIONS = (0, 2, 4, 6), (0, 2, 4, 6, 8)
# Our first linear layer follows the four convolutions, their activations and the flattening; `ave` has no convolutions.
_LINEAR_AFTER_CONVOLUTIONS = {0: 9, 2: 11}
_LINEAR_ALONE = {0: 1, 2: 3, 4: 5}


def _weight_and_bias(theirs: str, ours: str) -> dict[str, str]:
    return {f"{theirs}.{part}": f"{ours}.{part}" for part in ("weight", "bias")}


def _mlp(theirs: str, ours: str, layers: int) -> dict[str, str]:
    return {f"{theirs}.net.{layer}.weight": f"{ours}.layers.{layer}.weight" for layer in range(layers)}


def _audio(state: Mapping[str, Tensor]) -> dict[str, str]:
    convolutional = any(name.startswith("audio_net.encoder_conv.") for name in state)
    names: dict[str, str] = {}
    if convolutional:
        for layer in _CONVOLUTIONS:
            names |= _weight_and_bias(f"audio_net.encoder_conv.{layer}", f"audio.network.{layer}")
    for theirs, ours in (_LINEAR_AFTER_CONVOLUTIONS if convolutional else _LINEAR_ALONE).items():
        names |= _weight_and_bias(f"audio_net.encoder_fc1.{theirs}", f"audio.network.{ours}")
    for layer in _ATTENTION_CONVOLUTIONS:
        names |= _weight_and_bias(f"audio_att_net.attentionConvNet.{layer}", f"audio.attention.convolutions.{layer}")
    return names | _weight_and_bias("audio_att_net.attentionNet.0", "audio.attention.linear")


def _motion(kind: str, state: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of a motion field, universal or personalised, but for its tri-plane."""
    names = _audio(state) | _mlp("sigma_net", "decoder", 3)
    if kind != "mouth":
        names |= _mlp("aud_ch_att_net", "audio_weights", 2)
    if kind in ("face", "personal_face"):
        names |= _mlp("eye_att_net", "eye_weights", 2) | _mlp("exp_encode_net", "expression", 2)
    if kind == "mouth":
        names |= _mlp("scaler_net", "tau", 3)
    return names


def _names(kind: str, state: Mapping[str, Tensor]) -> tuple[dict[str, str], set[str]]:
    """Names to take, and names that belong to the reference's module but not to this one of ours."""
    aligner = _mlp("align_net", "decoder", 2)
    if kind in ("face_aligner", "mouth_aligner"):
        host = "personal_" + kind.removesuffix("_aligner")
        return aligner, set(_motion(host, state))
    if kind in ("personal_face", "personal_mouth"):
        return _motion(kind, state), set(aligner)
    # The universal mouth field carries audio weights that nothing reads.
    unused = set(_mlp("aud_ch_att_net", "", 2)) if kind == "mouth" else set()
    return _motion(kind, state), unused


def to_ours(state: Mapping[str, Tensor], kind: Kind) -> dict[str, Tensor]:
    """Rename a state dict of the reference for `load_state_dict(strict=True)` of our module.

    Args:
        state: names and tensors of the reference's motion field (`face`, `mouth`) or of the personalised field's module
            (`personal_*`), which holds the aligner as a second head: ask for that by `face_aligner`, `mouth_aligner`.
        kind: which of our modules it is for.

    Raises:
        CheckpointError: a name is missing or unknown, or the planes differ in size.
    """
    names, unused = _names(kind, state)
    planes = [f"encoder_{plane}.embeddings" for plane in _PLANES]
    offsets = {f"encoder_{plane}.offsets" for plane in _PLANES}  # follow from the sizes; some files leave them out
    needed = {*names, *unused, *planes}
    refuse = f"not the reference's '{kind}' state dict, give the file that its training of this part wrote"
    if missing := sorted(needed - set(state)):
        raise CheckpointError(f"{refuse}: '{missing[0]}' is missing ({len(missing)} in all)")
    if unknown := sorted(set(state) - needed - offsets):
        raise CheckpointError(f"{refuse}: '{unknown[0]}' is unknown ({len(unknown)} in all)")
    grids = [state[plane].reshape(-1) for plane in planes]
    if len({len(grid) for grid in grids}) != 1:
        raise CheckpointError(f"{refuse}: its three planes differ in size")
    return {"encoding.table": torch.stack(grids), **{ours: state[theirs] for theirs, ours in names.items()}}
