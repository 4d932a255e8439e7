"""The rasterizer's CUDA sources, run on the CPU by the emulator, against the float64 oracle."""

from __future__ import annotations

import pytest
import torch
from cuda_emulation import emulated, needs_compiler  # noqa: F401
from gaussian_rasterization import RasterSettings, rasterize
from raster_scenes import IMAGES, Scene, cotangent_loss, make_scene, relative_error

pytestmark = needs_compiler
IMAGE_TOLERANCE = 2e-5
GRADIENT_TOLERANCE = 1e-5


def draw(scene: Scene, settings: RasterSettings, backend: str, **options):
    leaves = scene.leaves()
    tensors = {**{name: getattr(scene, name) for name in ("world_to_camera", "focal", "background")}, **leaves}
    if backend == "cuda":
        from gaussian_rasterization.cuda import rasterize_cuda

        output = rasterize_cuda(settings=settings, **tensors, **options)
    else:
        output = rasterize(settings=settings, backend=backend, **tensors)
    return output, leaves


def compare(scene: Scene, settings: RasterSettings, **options) -> None:
    output, leaves = draw(scene, settings, "cuda", **options)
    cotangent_loss(output).backward()
    truth, true_leaves = draw(scene.to(torch.float64), settings, "reference")
    cotangent_loss(truth).backward()
    for name in IMAGES:
        assert relative_error(getattr(output, name), getattr(truth, name)) < IMAGE_TOLERANCE, name
    assert (output.radii != truth.radii).float().mean() < 0.002
    for name, leaf in leaves.items():
        assert relative_error(leaf.grad, true_leaves[name].grad) < GRADIENT_TOLERANCE, name


@pytest.mark.parametrize("extent", ["exact", "three_sigma"])
@pytest.mark.parametrize(("degree", "extra"), [(0, 0), (1, 2), (2, 1), (3, 4)])
def test_images_and_gradients(emulated, extent, degree, extra) -> None:  # noqa: F811
    settings = RasterSettings(width=37, height=43, sh_degree=degree, extent=extent)
    compare(make_scene(250, settings, views=2, extra=extra, seed=degree), settings)
