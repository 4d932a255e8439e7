"""Heads from a `ModelConfig`: all sizes meet here."""

from __future__ import annotations

import torch
from torch import nn

from instag.config import ModelConfig
from instag.data.audio import get_extractor
from instag.fields.aligner import build_face_aligner, build_mouth_aligner
from instag.fields.encoding import PAPER_FACE, PAPER_MOUTH, REFERENCE_FACE, REFERENCE_MOUTH
from instag.fields.motion import FaceMotionField, MouthMotionField, build_face_field, build_mouth_field
from instag.fields.personalized import build_personalized_face, build_personalized_mouth
from instag.fields.structure import GaussianField
from instag.head import FaceBranch, MouthBranch, TalkingHead

GRIDS = {"reference": (REFERENCE_FACE, REFERENCE_MOUTH), "paper": (PAPER_FACE, PAPER_MOUTH)}


def build_face_motion(model: ModelConfig) -> FaceMotionField:
    """A fresh universal face field."""
    spec = get_extractor(model.extractor)
    return build_face_field(spec.width, spec.steps, GRIDS[model.hash_ranges][0])


def build_mouth_motion(model: ModelConfig) -> MouthMotionField:
    """A fresh universal mouth field."""
    spec = get_extractor(model.extractor)
    return build_mouth_field(spec.width, spec.steps, GRIDS[model.hash_ranges][1])


def build_face(model: ModelConfig, structure: GaussianField) -> FaceBranch:
    """Face branch round a structure field, its motion field fresh."""
    aligner = None
    if model.aligner and (model.align_offset or model.align_scale):
        aligner = build_face_aligner(GRIDS[model.hash_ranges][0], model.align_offset, model.align_scale)
    return FaceBranch(structure, build_face_motion(model), aligner)


def build_mouth(model: ModelConfig, structure: GaussianField) -> MouthBranch:
    """Mouth branch round a structure field, its motion field fresh; the aligner has the face's range too."""
    aligner = build_mouth_aligner(GRIDS[model.hash_ranges][0]) if model.aligner and model.align_offset else None
    return MouthBranch(structure, build_mouth_motion(model), aligner)


def build_personal(model: ModelConfig, branch: str) -> nn.Module:
    """A fresh personalised field of "face" or "mouth"; its tri-plane has the face's range for both."""
    spec, grid = get_extractor(model.extractor), GRIDS[model.hash_ranges][0]
    build = build_personalized_face if branch == "face" else build_personalized_mouth
    return build(spec.width, spec.steps, grid)


def build_head(model: ModelConfig, face: GaussianField, mouth: GaussianField | None) -> TalkingHead:
    """A head round its structure fields, motion fields fresh; `mouth` is None where the face draws the mouth too."""
    inside = None if mouth is None else build_mouth(model, mouth)
    return TalkingHead(build_face(model, face), inside, model.hook, model.single_branch)


def build_empty_head(model: ModelConfig, face_count: int, mouth_count: int | None) -> TalkingHead:
    """A head of the right shapes, for loading tensors into; no mouth where its count is None."""

    def empty(count: int) -> GaussianField:
        return GaussianField.from_points(torch.zeros(count, 3), torch.ones(count), max_sh_degree=model.sh_degree)

    return build_head(model, empty(face_count), None if mouth_count is None else empty(mouth_count))
