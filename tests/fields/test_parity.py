"""Parity with recorded inputs, outputs and gradients of the reference networks (shared/fixtures/README.md)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from instag.fields import encoding
from instag.fields.aligner import build_face_aligner, build_mouth_aligner
from instag.fields.motion import Deformation, build_face_field, build_mouth_field
from instag.fields.personalized import build_personalized_face, build_personalized_mouth
from instag.fields.reference_names import to_ours

FIXTURES = Path(__file__).parents[3] / "shared" / "fixtures"
pytestmark = pytest.mark.skipif(not FIXTURES.is_dir(), reason=f"no parity fixtures at {FIXTURES}")

OUTPUT_TOLERANCE = 1e-5  # relative L2 per tensor; the gradients' below, by fixtures/README.md
POINT_GRADIENT = 2e-5
TOLERANCES = {"audio_att_net.": 5e-3, "audio_net.encoder_conv.6.": 2e-3}
PARAMETER_GRADIENT = 1e-4

SIZES = {"deepspeech": (29, 16), "esperanto": (44, 16), "ave": (512, 1)}


def relative(ours: Tensor, theirs: Tensor) -> float:
    ours, theirs = ours.detach().double(), theirs.double()
    return float((ours - theirs).norm() / theirs.norm())


def load(name: str) -> dict[str, Tensor]:
    path = FIXTURES / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"no {path}")
    with np.load(path) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays}


def parameters(record: dict[str, Tensor], prefix: str = "param.") -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in record.items() if key.startswith(prefix)}


def outputs(deformation: Deformation) -> dict[str, Tensor | None]:
    return {
        "d_xyz": deformation.d_mean,
        "d_rot": deformation.d_rotation,
        "d_opa": deformation.d_opacity,
        "d_scale": deformation.d_scale,
        "ambient_aud": deformation.audio_attention,
        "ambient_eye": deformation.eye_attention,
    }


def run(record: dict[str, Tensor], kind: str, extractor: str) -> tuple[dict, dict, Tensor]:
    """Our outputs [1, N, *], our modules by kind, our x."""
    branch = "mouth" if "mouth" in kind else "face"
    build = {
        "face": build_face_field,
        "mouth": build_mouth_field,
        "personal_face": build_personalized_face,
        "personal_mouth": build_personalized_mouth,
    }
    modules = {kind: build[kind](*SIZES[extractor])}
    if kind.startswith("personal"):
        modules[f"{branch}_aligner"] = build_face_aligner() if branch == "face" else build_mouth_aligner()
    for name, module in modules.items():
        module.load_state_dict(to_ours(parameters(record), name), strict=True)
    x = record["x"].clone().requires_grad_()
    conditions = {
        "face": [record["expression"][None]],
        "personal_face": [record["expression"][None]],
        "mouth": [record["move"]],
        "personal_mouth": [],
    }
    out = outputs(modules[kind](x, record["audio"][None], *conditions[kind]))
    if len(modules) == 2:
        alignment = modules[f"{branch}_aligner"](x)
        out |= {"p_xyz": alignment.offset, "p_scale": alignment.scale}
    return out, modules, x


CASES = [
    ("motion_face_deepspeech", "face", "deepspeech"),
    ("motion_face_esperanto", "face", "esperanto"),
    ("motion_face_ave", "face", "ave"),
    ("motion_mouth_deepspeech", "mouth", "deepspeech"),
    ("motion_personal_face_deepspeech", "personal_face", "deepspeech"),
    ("motion_personal_mouth_deepspeech", "personal_mouth", "deepspeech"),
]


@pytest.mark.parametrize("with_numba", [True, False], ids=["numba", "torch"])
@pytest.mark.parametrize(("name", "kind", "extractor"), CASES)
def test_outputs_and_gradients_match_the_reference(monkeypatch, name, kind, extractor, with_numba):
    monkeypatch.setattr(encoding, "HAS_NUMBA", encoding.HAS_NUMBA and with_numba)
    record = load(name)
    out, modules, x = run(record, kind, extractor)
    field = modules[kind]
    assert relative(field.encoding(x), record["mid.tri_plane"]) <= OUTPUT_TOLERANCE
    assert relative(field.audio(record["audio"][None]), record["mid.audio"]) <= OUTPUT_TOLERANCE
    recorded = parameters(record, "out.")
    for key, theirs in recorded.items():
        assert relative(out[key].reshape(theirs.shape), theirs) <= OUTPUT_TOLERANCE, key

    sum(
        (out[key].reshape(theirs.shape) * record[f"cotangent.{key}"]).sum() for key, theirs in recorded.items()
    ).backward()
    assert relative(x.grad, record["grad.x"]) <= POINT_GRADIENT

    # Renaming the recorded gradients as if they were parameters tells which of ours each belongs to.
    theirs = parameters(record, "grad.param.")
    names = parameters(record)
    filled = {key: theirs.get(key, torch.zeros_like(value)) for key, value in names.items()}
    tolerance = {
        key: next((v for k, v in TOLERANCES.items() if key.startswith(k)), PARAMETER_GRADIENT) for key in names
    }
    for module_kind, module in modules.items():
        wanted = to_ours(filled, module_kind)
        limits = to_ours({k: torch.full_like(v, tolerance[k]) for k, v in names.items()}, module_kind)
        for key, parameter in module.named_parameters():
            if key == "encoding.table":
                continue
            assert relative(parameter.grad, wanted[key]) <= limits[key].max(), key
    tables = sum(module.encoding.table.grad for module in modules.values())  # the reference's aligner shares the planes
    assert relative(tables, to_ours(filled, kind)["encoding.table"]) <= PARAMETER_GRADIENT
