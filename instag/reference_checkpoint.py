"""Checkpoints of the reference program (`chkpnt_*.pth`) -> universal fields and avatars of ours; nothing is executed.

Their layout: METHOD.md sections 2 to 4; `instag.fields.reference_names` has the names of the parameters.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from instag.build import GRIDS, build_empty_head, build_face_motion, build_mouth_motion
from instag.config import ModelConfig
from instag.data.audio import EXTRACTORS
from instag.errors import CheckpointError
from instag.fields.encoding import grid_layout
from instag.fields.reference_names import Kind, to_ours
from instag.head import Branch, TalkingHead
from instag.universal import Universal

State = Mapping[str, Tensor]
Part = Literal["face", "mouth"]

FIELD_ITEMS = 3  # (motion field's parameters, optimiser's state, iteration)
HEAD_ITEMS = 4  # (face Gaussians, face motion field, mouth Gaussians, mouth motion field)
GAUSSIAN_ITEMS = 15
SH_DEGREE, ALIGNER = 0, 14  # of these: the active degree, and the module whose second head is the aligner
STRUCTURE = {"means": 1, "sh_dc": 2, "sh_rest": 3, "scales_raw": 5, "quaternions_raw": 6, "opacities_raw": 7}
MOUTH_ONLY = "scaler_net.net.0.weight"  # the hook's scale
AUDIO_INPUTS = ("audio_net.encoder_conv.0.weight", "audio_net.encoder_fc1.0.weight")  # [out, D, 3]; `ave`: [out, D]
GRID = "encoder_xy.embeddings"
BOTH_FIELDS = "give chkpnt_ema_face_latest.pth and chkpnt_ema_mouth_latest.pth of one training"
WHOLE_HEAD = "give the chkpnt_fuse_latest.pth that the reference's training wrote"


def read_checkpoint(path: Path) -> tuple[Any, ...]:
    """The tuple that a file of the reference holds, on the CPU.

    Raises:
        CheckpointError: missing, damaged, or it holds something that would have to be executed.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: give a chkpnt_*.pth that the reference's training wrote")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} cannot be read safely ({reason}): fetch the file again") from None
    if not isinstance(content, (tuple, list)) or len(content) not in (FIELD_ITEMS, HEAD_ITEMS):
        raise CheckpointError(f"{path} is no checkpoint of the reference: {BOTH_FIELDS}, or a chkpnt_fuse_latest.pth")
    return tuple(content)


def holds_head(path: Path) -> bool:
    """Whether a file holds a whole head (`chkpnt_fuse_latest.pth`) rather than one motion field."""
    return len(read_checkpoint(path)) == HEAD_ITEMS


# --- universal fields -----------------------------------------------------------------------------------------------
def read_universal(paths: Sequence[Path], extractor: str | None = None) -> Universal:
    """Universal fields from the reference's face and mouth checkpoints, in any order.

    Args:
        paths: two files, `chkpnt_ema_face_latest.pth` and `chkpnt_ema_mouth_latest.pth`.
        extractor: audio features that they must listen to; None: those that the shapes tell.

    Raises:
        CheckpointError: not one face and one mouth, or they do not belong together.
    """
    found: dict[Part, tuple[Path, State, int]] = {}
    for path in paths:
        content = read_checkpoint(path)
        if len(content) != FIELD_ITEMS:
            raise CheckpointError(f"{path} holds a whole head: import it alone, with --subject")
        state = _state(content[0], path)
        part: Part = "mouth" if MOUTH_ONLY in state else "face"
        if part in found:
            raise CheckpointError(f"{path} holds the {part}'s field, as {found[part][0]} does: {BOTH_FIELDS}")
        found[part] = (path, state, int(content[2]))
    if missing := sorted({"face", "mouth"} - found.keys()):
        raise CheckpointError(f"the checkpoint of the {missing[0]} is missing: {BOTH_FIELDS}")
    (face_path, face, face_steps), (mouth_path, mouth, mouth_steps) = found["face"], found["mouth"]
    model = _model(face, mouth, mouth_path, extractor)
    face_field, mouth_field = build_face_motion(model), build_mouth_motion(model)
    _fill(face_field, _renamed(face, "face", face_path), face_path)
    _fill(mouth_field, _renamed(mouth, "mouth", mouth_path), mouth_path)
    provenance = {
        "imported_from": {"face": face_path.name, "mouth": mouth_path.name},
        "iterations": {"face": face_steps, "mouth": mouth_steps},
    }
    states = face_field.state_dict(), mouth_field.state_dict()
    return Universal(*states, model.extractor, model.hash_ranges, None, provenance)


# --- a head ---------------------------------------------------------------------------------------------------------
def read_head(path: Path, extractor: str | None = None) -> tuple[TalkingHead, ModelConfig]:
    """The head of a `chkpnt_fuse_latest.pth`, and what it is built from.

    Args:
        path: the file.
        extractor: as for `read_universal`.

    Raises:
        CheckpointError: another file, or parts that do not belong together.
    """
    content = read_checkpoint(path)
    if len(content) != HEAD_ITEMS:
        raise CheckpointError(f"{path} holds one motion field: {BOTH_FIELDS}")
    face, mouth = _branch(content[0], content[1], path), _branch(content[2], content[3], path)
    model = _model(face.motion, mouth.motion, path, extractor)
    model = replace(model, sh_degree=max(_stored_degree(face, path), _stored_degree(mouth, path)))
    head = build_empty_head(model, len(face.structure["means"]), len(mouth.structure["means"]))
    assert head.mouth is not None
    _fill_branch(head.face, face, "face", path)
    _fill_branch(head.mouth, mouth, "mouth", path)
    return head.eval().requires_grad_(False), model


@dataclass(frozen=True)
class _Branch:
    """One branch as the file has it: our names for the Gaussians' tensors, theirs for the networks'."""

    structure: State
    motion: State
    aligner: State
    sh_degree: int


def _branch(gaussians: Any, motion: Any, path: Path) -> _Branch:
    if not isinstance(gaussians, (tuple, list)) or len(gaussians) != GAUSSIAN_ITEMS:
        raise CheckpointError(f"{path}: its Gaussians are no tuple of {GAUSSIAN_ITEMS}: {WHOLE_HEAD}")
    structure = {name: gaussians[item] for name, item in STRUCTURE.items()}
    if not all(isinstance(tensor, Tensor) for tensor in structure.values()):
        raise CheckpointError(f"{path}: its Gaussians are not tensors: {WHOLE_HEAD}")
    return _Branch(structure, _state(motion, path), _state(gaussians[ALIGNER], path), int(gaussians[SH_DEGREE]))


def _stored_degree(branch: _Branch, path: Path) -> int:
    """Degree that the colours hold, from sh_rest [N, K - 1, 3]."""
    shape = branch.structure["sh_rest"].shape
    degree = math.isqrt(shape[1] + 1) - 1 if len(shape) == 3 else -1
    if (degree + 1) ** 2 != shape[1] + 1 or not 0 <= branch.sh_degree <= degree:
        raise CheckpointError(f"{path}: colours of shape {list(shape)}, degree {branch.sh_degree}: {WHOLE_HEAD}")
    return degree


def _fill_branch(branch: Branch, source: _Branch, part: Part, path: Path) -> None:
    assert branch.aligner is not None
    _fill(branch.structure, source.structure, path)
    branch.structure.active_sh_degree = source.sh_degree
    _fill(branch.motion, _renamed(source.motion, part, path), path)
    _fill(branch.aligner, _renamed(source.aligner, "face_aligner" if part == "face" else "mouth_aligner", path), path)


# --- what both have in common ---------------------------------------------------------------------------------------
def _state(value: Any, path: Path) -> State:
    if not isinstance(value, Mapping) or not all(isinstance(tensor, Tensor) for tensor in value.values()):
        raise CheckpointError(f"{path}: where a network's parameters are expected stands something else: {WHOLE_HEAD}")
    return value


def _model(face: State, mouth: State, path: Path, wanted: str | None) -> ModelConfig:
    """What the shapes tell: audio features and tri-planes, the same for face and mouth."""
    extractors = {_extractor(state, path) for state in (face, mouth)}
    ranges = {_hash_ranges(state, part, path) for part, state in enumerate((face, mouth))}
    if len(extractors) != 1 or len(ranges) != 1:
        raise CheckpointError(f"{path}: face and mouth differ in audio features or tri-planes: {BOTH_FIELDS}")
    extractor = extractors.pop()
    if wanted not in (None, extractor):
        raise CheckpointError(
            f"{path} listens to {extractor} features, not {wanted}: use --audio-extractor {extractor}, or leave it out"
        )
    return ModelConfig(extractor, hash_ranges=ranges.pop())


def _extractor(state: State, path: Path) -> str:
    width = next((state[name].shape[1] for name in AUDIO_INPUTS if name in state), None)
    for kind in EXTRACTORS.values():
        if kind.width == width:
            return kind.name
    known = ", ".join(f"{kind.name} {kind.width}" for kind in EXTRACTORS.values())
    raise CheckpointError(f"{path} listens to {width} audio channels, which no extractor has ({known}): check the file")


def _hash_ranges(state: State, part: int, path: Path) -> Literal["reference", "paper"]:
    entries = len(state.get(GRID, ()))
    for name, grids in GRIDS.items():
        if grid_layout(*grids[part]).entries == entries:
            return name
    raise CheckpointError(
        f"{path} has tri-planes of {entries} entries, neither the reference's nor the paper's: check the file"
    )


def _renamed(state: State, kind: Kind, path: Path) -> State:
    try:
        return to_ours(state, kind)
    except CheckpointError as error:
        raise CheckpointError(f"{path} is {error}") from None


def _fill(module: nn.Module, state: State, path: Path) -> None:
    try:
        module.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(
            f"{path} does not fit ({reason}): check that face and mouth are of one training"
        ) from None
