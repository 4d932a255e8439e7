"""Every back end against the dense float64 oracle: forward, every gradient, scenes with something missing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scenes import IMAGES, Scene, camera, draw, one_splat, random_scene, relative_error, usable_backends

IMAGE_TOLERANCE = {"torch": 1e-12, "numba": 1e-5, "cuda": 2e-5}
NEEDLE_TOLERANCE = {"torch": 1e-12, "numba": 1e-3, "cuda": 1e-3}
GRADIENT_TOLERANCE = {"torch": 1e-9, "numba": 1e-4, "cuda": 1e-4}

backends = pytest.mark.parametrize("backend", usable_backends())
extents = pytest.mark.parametrize("extent", ["exact", "three_sigma"])

SCENES = {
    "many shapes": {},
    "one tile": dict(size=(16, 16), views=1, gaussians=80),
    "less than a tile": dict(size=(5, 3), gaussians=40),
    "tall, no extra, flat colour": dict(size=(10, 50), extra=0, degree=0),
    "four extra attributes, degree 3": dict(extra=4, degree=3, gaussians=80),
    "huge splats": dict(gaussians=40, scale=0.8, views=1),
    "tiny splats": dict(gaussians=200, scale=0.005),
    "opaque wall": dict(gaussians=300, scale=0.2, size=(33, 33), views=1),
}


def assert_like_the_oracle(scene: Scene, backend: str) -> None:
    truth, true_gradients = draw(scene, "reference", gradients=True)
    output, gradients = draw(scene, backend, gradients=True)
    errors = {name: relative_error(getattr(output, name), getattr(truth, name)) for name in IMAGES}
    assert max(errors.values()) <= IMAGE_TOLERANCE[backend], errors
    errors = {name: relative_error(gradients[name], true) for name, true in true_gradients.items()}
    assert max(errors.values()) <= GRADIENT_TOLERANCE[backend], errors
    assert all(bool(gradient.isfinite().all()) for gradient in gradients.values())
    # a radius is rounded up: float32 may land on the other side of a whole number, once
    assert int((output.radii.cpu() != truth.radii).sum()) <= (backend != "torch")


@backends
@extents
@pytest.mark.parametrize("name", SCENES)
def test_like_the_oracle(backend: str, extent: str, name: str) -> None:
    assert_like_the_oracle(random_scene(extent=extent, **SCENES[name]), backend)


@backends
@extents
def test_ties_in_depth_go_by_index(backend: str, extent: str) -> None:
    scene = random_scene(gaussians=60, extent=extent, views=1)
    scene.tensors["means"][:] *= torch.tensor([0.3, 0.3, 0.0])
    scene = replace(scene, world_to_camera=camera(0.0)[None].float().double())
    assert draw(scene, backend)[0].alpha.max() > 0.9
    assert_like_the_oracle(scene, backend)


@backends
def test_needles(backend: str) -> None:
    """Splats a hundred times longer than wide: the conic cancels in float32, yet no row of theirs may be lost."""
    scene = random_scene(gaussians=30, views=1, scale=0.003)
    scene.tensors["scales"][..., 0] *= 300
    truth, output = draw(scene, "reference")[0], draw(scene, backend)[0]
    for name in ("color", "depth", "alpha", "extra"):
        assert relative_error(getattr(output, name), getattr(truth, name)) < NEEDLE_TOLERANCE[backend], name


@backends
@extents
@pytest.mark.parametrize("missing", ["no Gaussians", "all behind", "all outside", "all transparent", "no quaternion"])
def test_degenerate(backend: str, extent: str, missing: str) -> None:
    scene = random_scene(gaussians=0 if missing == "no Gaussians" else 30, extent=extent)
    if missing == "all behind":
        scene.tensors["means"][:] = scene.tensors["means"] * 0.1 - torch.tensor([0.0, 0.0, 5.0])
    if missing == "all outside":
        scene.tensors["means"][:] = scene.tensors["means"] * 0.1 + torch.tensor([20.0, 0.0, 0.0])
    if missing == "all transparent":
        scene.tensors["opacities"][:] = 0
    if missing == "no quaternion":
        scene.tensors["quaternions"][:, ::2] = 0
    assert_like_the_oracle(scene, backend)
    output, _ = draw(scene, backend)
    assert output.color.shape == (2, 3, 35, 40)
    if missing != "no quaternion":
        background = scene.background[..., None, None].expand_as(output.color)
        assert relative_error(output.color, background) < 1e-6
        assert not output.alpha.any() and not output.normal.any() and not output.depth.any()
    if missing in ("all behind", "all outside"):
        assert not output.radii.any()


@backends
def test_a_saturated_gaussian_still_gets_a_gradient(backend: str) -> None:
    """The gradient passes min(0.99, alpha): otherwise an opacity that saturates could never come back."""
    scene = one_splat(size=(1, 1), opacity=0.999, scale=1.0)
    output, gradients = draw(scene, backend, gradients=True)
    assert float(output.alpha) == pytest.approx(0.99)
    assert float(gradients["opacities"].abs()) > 0.1


@backends
def test_the_extents_differ_where_they_should(backend: str) -> None:
    """The exact extent follows a splat beyond three sigma, into a tile that the square of the radius does not reach."""
    radius, boundary = 13, 32  # px: ceil(3 sigma) of this splat; the third column of tiles begins at 32
    u = boundary - radius - 1e-3
    scene = one_splat(size=(48, 32), mean=((u - 23.5) * 2 / 32, 0, 2), scale=0.25, opacity=0.98)
    exact = draw(scene, backend)[0]
    rounded = draw(replace(scene, settings=replace(scene.settings, extent="three_sigma")), backend)[0]
    assert exact.radii.item() == rounded.radii.item() == radius
    assert not rounded.alpha[..., boundary:].any()
    assert 1 / 255 <= exact.alpha[..., boundary:].max() < 0.98 * math.exp(-(3**2) / 2)
    assert torch.equal(exact.alpha[..., :boundary], rounded.alpha[..., :boundary])


@backends
def test_detached_extras_leave_the_geometry_alone(backend: str) -> None:
    """Same images; the extras' cotangent reaches the extra attributes and nothing else."""
    scene = random_scene(gaussians=60, extra=2)
    detached = replace(scene, settings=replace(scene.settings, detach_extra=True))
    free, blind = draw(scene, backend, gradients=True), draw(detached, backend, gradients=True)
    assert relative_error(blind[0].extra, free[0].extra.double().cpu()) < 1e-6
    without = replace(scene, tensors={**scene.tensors, "extra": scene.tensors["extra"][..., :0]})
    _, expected = draw(without, "reference", gradients=True)
    for name, gradient in expected.items():
        if name != "extra":
            assert relative_error(blind[1][name], gradient) <= GRADIENT_TOLERANCE[backend], name
            assert relative_error(free[1][name], gradient) > 1e-3 or name == "sh"
    assert relative_error(blind[1]["extra"], free[1]["extra"].double().cpu()) < GRADIENT_TOLERANCE[backend]
