"""Heads from a `ModelConfig`: all sizes meet here."""

from __future__ import annotations

import torch

from instag.config import ModelConfig
from instag.data.audio import get_extractor
from instag.fields.aligner import build_face_aligner, build_mouth_aligner
from instag.fields.encoding import PAPER_FACE, PAPER_MOUTH, REFERENCE_FACE, REFERENCE_MOUTH
from instag.fields.motion import build_face_field, build_mouth_field
from instag.fields.structure import GaussianField
from instag.head import FaceBranch, MouthBranch, TalkingHead

GRIDS = {"reference": (REFERENCE_FACE, REFERENCE_MOUTH), "paper": (PAPER_FACE, PAPER_MOUTH)}


def build_face(model: ModelConfig, structure: GaussianField) -> FaceBranch:
    """Face branch round a structure field, its motion field fresh."""
    spec = get_extractor(model.extractor)
    face_grid, _ = GRIDS[model.hash_ranges]
    field = build_face_field(spec.width, spec.steps, face_grid)
    return FaceBranch(structure, field, build_face_aligner(face_grid) if model.aligner else None)


def build_mouth(model: ModelConfig, structure: GaussianField) -> MouthBranch:
    """Mouth branch round a structure field, its motion field fresh."""
    spec = get_extractor(model.extractor)
    face_grid, mouth_grid = GRIDS[model.hash_ranges]
    field = build_mouth_field(spec.width, spec.steps, mouth_grid)
    return MouthBranch(structure, field, build_mouth_aligner(face_grid) if model.aligner else None)


def build_empty_head(model: ModelConfig, face_count: int, mouth_count: int) -> TalkingHead:
    """A head of the right shapes, for loading tensors into."""
    face, mouth = (
        GaussianField.from_points(torch.zeros(count, 3), torch.ones(count), max_sh_degree=model.sh_degree)
        for count in (face_count, mouth_count)
    )
    return TalkingHead(build_face(model, face), build_mouth(model, mouth))
