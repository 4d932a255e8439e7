"""What must hold for any scene, and the oracle's own gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from gaussian_rasterization import RasterSettings, rasterize
from gaussian_rasterization.projection import rotation_matrices, sh_basis
from scenes import IMAGES, draw, one_splat, random_cotangents, random_scene, relative_error, usable_backends

backends = pytest.mark.parametrize("backend", usable_backends())
TOLERANCE = {"torch": 1e-10, "numba": 1e-4, "cuda": 1e-4}


@backends
def test_ranges(backend: str) -> None:
    output, _ = draw(random_scene(scale=0.15), backend)
    assert output.alpha.min() >= 0 and 0.9 < output.alpha.max() < 1
    length = output.normal.norm(dim=1)
    assert bool(((length - 1).abs() < 1e-5).logical_or(length == 0).all())
    assert bool((length[output.alpha[:, 0] > 0.5] > 0).all())
    assert output.color.min() >= 0 and output.depth.min() >= 0 and output.radii.min() >= 0


@backends
def test_moving_scene_and_camera_together_changes_nothing(backend: str) -> None:
    scene = random_scene(degree=0, views=1)
    quaternion = torch.tensor([0.8, -0.3, 0.4, 0.2]).double()
    rotation, shift = rotation_matrices(quaternion), torch.tensor([0.3, -2.0, 0.7]).double()
    motion = torch.eye(4).double()
    motion[:3, :3], motion[:3, 3] = rotation, shift
    moved = scene.with_tensors(
        means=scene.tensors["means"] @ rotation.T + shift,
        quaternions=compose(quaternion, scene.tensors["quaternions"]),
    )
    moved = replace(moved, world_to_camera=scene.world_to_camera @ motion.inverse())
    before, after = draw(scene, backend)[0], draw(moved, backend)[0]
    for name in ("color", "depth", "alpha", "extra"):
        assert relative_error(getattr(after, name), getattr(before, name)) < TOLERANCE[backend], name
    turned = torch.einsum("ij,bjhw->bihw", rotation.to(before.normal), before.normal)
    assert relative_error(after.normal, turned) < 10 * TOLERANCE[backend]


def compose(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Quaternion product, wxyz."""
    a, b = first.expand_as(second), second
    w = a[..., :1] * b[..., :1] - (a[..., 1:] * b[..., 1:]).sum(-1, keepdim=True)
    xyz = a[..., :1] * b[..., 1:] + b[..., :1] * a[..., 1:] + torch.linalg.cross(a[..., 1:], b[..., 1:])
    return torch.cat([w, xyz], -1)


@backends
def test_the_order_of_gaussians_does_not_matter(backend: str) -> None:
    scene = random_scene()
    order = torch.randperm(160, generator=torch.Generator().manual_seed(0))
    per_view = {name: scene.tensors[name][:, order] for name in ("means", "scales", "quaternions", "extra")}
    shared = {name: scene.tensors[name][order] for name in ("opacities", "sh")}
    before, after = draw(scene, backend)[0], draw(scene.with_tensors(**per_view, **shared), backend)[0]
    for name in IMAGES:
        assert relative_error(getattr(after, name), getattr(before, name)) < TOLERANCE[backend], name


@backends
def test_a_batch_is_its_views(backend: str) -> None:
    scene = random_scene(views=3, gaussians=100)
    together = draw(scene, backend)[0]
    for view in range(3):
        one = {name: tensor[view : view + 1] for name, tensor in scene.tensors.items() if tensor.ndim == 3}
        one["sh"] = scene.tensors["sh"]
        constants = {name: getattr(scene, name)[view : view + 1] for name in ("world_to_camera", "focal", "background")}
        alone = draw(replace(scene.with_tensors(**one), **constants), backend)[0]
        assert torch.equal(alone.radii[0], together.radii[view])
        for name in IMAGES:
            assert relative_error(getattr(alone, name)[0], getattr(together, name)[view]) < 1e-6, name


@backends
def test_an_opacity_per_view_is_the_shared_one(backend: str) -> None:
    scene = random_scene(gaussians=50)
    expanded = scene.with_tensors(opacities=scene.tensors["opacities"].expand(2, -1).clone())
    shared, one = draw(scene, backend, gradients=True)
    split, two = draw(expanded, backend, gradients=True)
    assert torch.equal(shared.color, split.color)
    assert relative_error(two["opacities"].sum(0), one["opacities"]) < 1e-5


@backends
def test_opacity_zero_draws_nothing(backend: str) -> None:
    scene = random_scene()
    opacities = scene.tensors["opacities"].clone()
    opacities[::2] = 0
    kept = {name: scene.tensors[name][:, 1::2] for name in ("means", "scales", "quaternions", "extra", "means2d")}
    kept |= {name: tensor[1::2] for name, tensor in (("opacities", opacities), ("sh", scene.tensors["sh"]))}
    hidden, removed = (
        draw(scene.with_tensors(opacities=opacities), backend)[0],
        draw(scene.with_tensors(**kept), backend)[0],
    )
    for name in IMAGES:
        assert relative_error(getattr(hidden, name), getattr(removed, name)) < 1e-6, name
    assert not hidden.radii[:, ::2].any()


@backends
@pytest.mark.parametrize("extent", ["exact", "three_sigma"])
def test_a_splat_on_the_corner_of_four_tiles_is_symmetric(backend: str, extent: str) -> None:
    image = draw(one_splat(extent=extent, scale=0.3), backend)[0].alpha[0, 0]  # centred on (15.5, 15.5)
    assert image.max() > 0.7
    for other in (image.flip(0), image.flip(1), image.T):
        assert relative_error(other, image) < 1e-6


@backends
def test_one_splat_by_hand(backend: str) -> None:
    """Colour 1, depth 2, alpha = opacity exp(-d^2 / 2 var), var = (f s / Z)^2 + 0.3."""
    output, _ = draw(one_splat(size=(33, 33)), backend)  # centred on pixel (16, 16)
    variance = (32 * 0.1 / 2) ** 2 + 0.3
    for distance in range(4):
        alpha = 0.8 * torch.tensor(-(distance**2) / (2 * variance)).double().exp()
        pixel = (0, slice(None), 16, 16 + distance)
        assert output.alpha[pixel].item() == pytest.approx(alpha.item(), rel=1e-5)
        assert output.depth[pixel].item() == pytest.approx(2 * alpha.item(), rel=1e-5)
        assert output.extra[pixel].item() == pytest.approx(alpha.item(), rel=1e-5)
        assert output.color[pixel].tolist() == pytest.approx([alpha.item()] * 3, rel=1e-5)
    assert output.radii.item() == 6  # ceil(3 sqrt(2.86 + sqrt(0.1)))


@backends
@pytest.mark.parametrize(
    ("scales", "normal"),
    [
        ((0.1, 0.1, 0.02), (0, 0, -1)),
        ((0.02, 0.1, 0.1), (1, 0, 0)),
        ((0.1, 0.1, 0.1), (1, 0, 0)),
        ((0.1, 0.02, 0.02), (1, 0, 0)),
    ],
)
def test_normals_are_the_thinnest_axis_towards_the_camera(backend: str, scales: tuple, normal: tuple) -> None:
    """With ties x wins; an axis at right angles to the ray keeps its sign."""
    scene = one_splat(size=(33, 33))
    scene.tensors["scales"][:] = torch.tensor(scales)
    assert draw(scene, backend)[0].normal[0, :, 16, 16].tolist() == pytest.approx(normal, abs=1e-6)


@backends
def test_occlusion_ends_a_pixel(backend: str) -> None:
    """Two layers of 0.985 leave T = 2e-4; a third would leave 3e-6 < 1e-4, so it is dropped and all behind it."""
    scene = random_scene(gaussians=4, size=(8, 8), views=1, degree=0, extra=1)
    scene.tensors["means"][:] = torch.tensor([[0, 0, -1.0], [0, 0, -0.5], [0, 0, 0], [0, 0, 0.5]])
    scene.tensors["scales"][:] = 5.0
    scene.tensors["opacities"][:] = 0.985
    output = draw(scene, backend)[0]
    assert output.alpha.max().item() == pytest.approx(1 - 0.015**2, abs=1e-5)


@pytest.mark.parametrize("extent", ["exact", "three_sigma"])
def test_the_oracle_passes_gradcheck(extent: str) -> None:
    scene = random_scene(gaussians=5, size=(6, 5), views=2, degree=1, extra=1, scale=0.3, extent=extent)
    scene.tensors["opacities"][:] = torch.tensor([0.5, 0.7, 0.3, 0.8, 0.6])  # none saturates
    scene.tensors["means"][:] *= 0.3
    leaves = [tensor.clone().requires_grad_() for tensor in scene.tensors.values()]

    def loss(*tensors: torch.Tensor) -> torch.Tensor:
        given = dict(zip(scene.tensors, tensors, strict=True))
        constants = (scene.world_to_camera, scene.focal, scene.background)
        geometry = [given[name] for name in ("means", "scales", "quaternions", "opacities", "sh")]
        output = rasterize(*geometry, *constants, scene.settings, given["extra"], given["means2d"], "reference")
        assert output.alpha.max() > 0.5
        return sum((getattr(output, name) * c).sum() for name, c in random_cotangents(output).items())

    assert torch.autograd.gradcheck(loss, leaves, eps=1e-6, atol=1e-6, rtol=1e-5)


def test_means2d_counts_in_device_units() -> None:
    """dLoss/d(u) in pixels times W / 2: one unit of means2d moves a splat by half the image."""
    scene = one_splat(size=(64, 32))
    shifted = scene.with_tensors(means2d=torch.tensor([[[0.25, -0.5]]]).double())
    before, after = draw(scene, "reference")[0].alpha[0, 0], draw(shifted, "reference")[0].alpha[0, 0]
    assert relative_error(after.roll((8, -8), (0, 1)), before) < 1e-9


def test_sh_basis_is_orthonormal() -> None:
    directions = torch.nn.functional.normalize(
        torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0)), dim=1
    )
    basis = sh_basis(directions.double(), 3)
    gram = 4 * torch.pi * basis.T @ basis / len(basis)
    assert (gram - torch.eye(16)).abs().max() < 0.03


def test_sh_basis_has_the_fields_order_and_signs() -> None:
    """METHOD.md section 3."""
    x, y, z = 0.48, -0.6, 0.64
    expected = [0.28209479, *(0.48860251 * c for c in (-y, z, -x)), 1.09254843 * x * y, -1.09254843 * y * z]
    expected += [0.31539157 * (2 * z * z - x * x - y * y), -1.09254843 * x * z, 0.54627422 * (x * x - y * y)]
    assert sh_basis(torch.tensor([x, y, z]).double(), 2).tolist() == pytest.approx(expected, abs=1e-7)


def test_jacobian_clamp_bounds_splats_at_the_edge() -> None:
    """Far outside the field of view the Jacobian no longer grows: the radius equals that at the limit."""
    settings = RasterSettings(32, 32, sh_degree=0, extent="three_sigma")
    radii = []
    for slope in (1.3 * 0.5, 1.3 * 0.5 + 0.2):
        scene = one_splat(mean=(2 * slope, 0, 2), scale=0.5)
        radii.append(draw(replace(scene, settings=settings), "reference")[0].radii.item())
    assert radii[0] == radii[1] > 0
