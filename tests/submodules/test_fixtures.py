"""Parity with what the reference program's rasterizer recorded, within the tolerances of the fixtures' README."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gaussian_rasterization import RasterSettings
from scenes import IMAGES, Scene, draw, relative_error, usable_backends
from torch import Tensor

FIXTURES = Path(__file__).parents[2].parent / "shared" / "fixtures"
pytestmark = pytest.mark.skipif(not FIXTURES.is_dir(), reason=f"no recorded fixtures at {FIXTURES}")

IMAGE_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-3
HALF_MAX, HALF_MEAN = 1e-2, 2e-4  # raster_large is stored in half precision
NAMES = {"quaternions": "rotations", "extra": "extra_attrs"}

backends = pytest.mark.parametrize("backend", usable_backends())


def recorded(name: str) -> tuple[Scene, dict[str, Tensor]]:
    with np.load(FIXTURES / f"raster_{name}.npz") as archive:
        data = {key: torch.from_numpy(archive[key]).double() for key in archive.files}
    tensors = {key: data[key][None] for key in ("means", "scales")}
    tensors |= {"quaternions": data["rotations"][None], "extra": data["extra_attrs"][None]}
    tensors |= {"opacities": data["opacities"][:, 0], "sh": data["sh"]}
    tensors["means2d"] = torch.zeros(1, len(data["means"]), 2).double()
    settings = RasterSettings(
        int(data["width"]), int(data["height"]), sh_degree=int(data["sh_degree"]), extent="three_sigma"
    )
    constants = data["world_to_camera"][None], data["focal"][None], data["background"][None]
    return Scene(tensors, *constants, settings), data


@backends
@pytest.mark.parametrize("name", ["small", "medium", "huge_splats"])
def test_images_and_radii(backend: str, name: str) -> None:
    scene, data = recorded(name)
    output = draw(scene, backend)[0]
    for image in IMAGES:
        assert relative_error(getattr(output, image)[0], data[f"out.{image}"]) < IMAGE_TOLERANCE, image
    assert torch.equal(output.radii[0].cpu().double(), data["out.radii"])


@backends
def test_a_large_scene(backend: str) -> None:
    scene, data = recorded("large")
    output = draw(scene, backend)[0]
    for image in IMAGES:
        difference = (getattr(output, image)[0].double().cpu() - data[f"out.{image}"]).abs()
        assert difference.max() < HALF_MAX and difference.mean() < HALF_MEAN, image
    assert torch.equal(output.radii[0].cpu().double(), data["out.radii"])


@backends
@pytest.mark.parametrize("name", ["small", "medium", "huge_splats"])
@pytest.mark.parametrize("kind", ["grad", "grad_without_normal"])
def test_gradients(backend: str, name: str, kind: str) -> None:
    scene, data = recorded(name)
    images = [image for image in IMAGES if kind == "grad" or image != "normal"]
    cotangents = {image: data[f"cotangent.{image}"] for image in images}
    gradients = draw(scene, backend, gradients=True, cotangents=cotangents)[1]
    for key, gradient in gradients.items():
        truth = data[f"{kind}.{NAMES.get(key, key)}"]
        if key == "quaternions":
            if kind == "grad":
                continue  # the recorded one is wrong where normals take part
            # Recorded without the normalisation inside: only the part along the sphere is comparable.
            q = torch.nn.functional.normalize(scene.tensors[key][0], dim=1)
            truth = truth - q * (q * truth).sum(1, keepdim=True)
        if key == "means2d":
            truth = truth[:, :2]
        assert relative_error(gradient.flatten(), truth.flatten()) < GRADIENT_TOLERANCE, key
