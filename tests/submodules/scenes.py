"""Random scenes for the rasterizer's tests, and the comparison of two back ends on them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from gaussian_rasterization import RasterOutput, RasterSettings, available_backends, rasterize
from torch import Tensor

IMAGES = ("color", "depth", "normal", "alpha", "extra")
DISTANCE = 3.0  # world units from the cameras to the scene, which spans about 2
BACKENDS = {"torch": torch.float64, "numba": torch.float32, "cuda": torch.float32}


@dataclass(frozen=True)
class Scene:
    """The arguments of `rasterize`, float64 on the CPU, of values that fit float32: all back ends see the same."""

    tensors: dict[str, Tensor]  # what gradients reach
    world_to_camera: Tensor  # [B, 4, 4]
    focal: Tensor  # [B]
    background: Tensor  # [B, 3]
    settings: RasterSettings

    def with_tensors(self, **tensors: Tensor) -> Scene:
        return replace(self, tensors=self.tensors | tensors)


def random_scene(
    gaussians: int = 160,
    size: tuple[int, int] = (40, 35),
    views: int = 2,
    degree: int = 2,
    extra: int = 2,
    extent: str = "exact",
    scale: float = 0.08,
    seed: int = 0,
) -> Scene:
    """A cloud seen from around: of all shapes, some behind the near plane or outside, some faint, some saturated."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    means = (0.5 * normal(gaussians, 3)).expand(views, -1, -1) + 0.05 * normal(views, gaussians, 3)
    means[:, : gaussians // 20] *= 6  # beyond the image's edge, past the near plane, into the Jacobian's clamp
    opacities = torch.sigmoid(2 * normal(gaussians))
    opacities[::17] = 0.002  # never reaches 1/255
    opacities[::13] = 0.9999  # saturates
    tensors = {
        "means": means,
        "scales": scale * torch.exp(0.7 * normal(views, gaussians, 3)),
        "quaternions": normal(views, gaussians, 4),
        "opacities": opacities,
        "sh": 0.5 * normal(gaussians, (degree + 1) ** 2, 3) / (1 + degree),
        "extra": uniform(views, gaussians, extra),
        "means2d": torch.zeros(views, gaussians, 2),
    }
    return Scene(
        {name: tensor.double() for name, tensor in tensors.items()},
        torch.stack([camera(0.4 * view) for view in range(views)]).float().double(),
        torch.full((views,), 1.5 * max(size)).double(),
        uniform(views, 3).double(),
        RasterSettings(*size, sh_degree=degree, extent=extent),
    )


def camera(angle: float) -> Tensor:
    """World to camera [4, 4], float64: turned by `angle` about the vertical axis, DISTANCE away from the origin."""
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[0, 0] = matrix[2, 2] = math.cos(angle)
    matrix[0, 2], matrix[2, 0] = math.sin(angle), -math.sin(angle)
    matrix[:3, 3] = torch.tensor([0.1, -0.05, DISTANCE])
    return matrix


def one_splat(
    size: tuple[int, int] = (32, 32), mean: tuple[float, float, float] = (0, 0, 2), opacity: float = 0.8, **options
) -> Scene:
    """A single round white Gaussian in front of a camera at the origin, black background, focal length 32 px."""
    tensors = {
        "means": torch.tensor(mean).reshape(1, 1, 3),
        "scales": torch.full((1, 1, 3), options.pop("scale", 0.1)),
        "quaternions": torch.tensor([1.0, 0, 0, 0]).reshape(1, 1, 4),
        "opacities": torch.tensor([opacity]),
        "sh": torch.full((1, 1, 3), 0.5 / 0.28209479177387814),
        "extra": torch.ones(1, 1, 1),
        "means2d": torch.zeros(1, 1, 2),
    }
    settings = RasterSettings(*size, sh_degree=0, **options)
    double = {name: tensor.double() for name, tensor in tensors.items()}
    focal, black = torch.tensor([32.0]).double(), torch.zeros(1, 3).double()
    return Scene(double, torch.eye(4).double()[None], focal, black, settings)


def usable_backends() -> list[str]:
    return [name for name in BACKENDS if available_backends()[name] == "ok"]


def draw(
    scene: Scene, backend: str, gradients: bool = False, cotangents: dict[str, Tensor] | None = None
) -> tuple[RasterOutput, dict[str, Tensor]]:
    """The images, and where asked for every tensor's gradient under cotangents of the images (random, but fixed)."""
    dtype, device = BACKENDS.get(backend, torch.float64), "cuda" if backend == "cuda" else "cpu"
    leaves = {k: t.to(device, dtype).clone().requires_grad_(gradients) for k, t in scene.tensors.items()}
    constants = [t.to(device, dtype) for t in (scene.world_to_camera, scene.focal, scene.background)]
    geometry = [leaves[k] for k in ("means", "scales", "quaternions", "opacities", "sh")]
    output = rasterize(*geometry, *constants, scene.settings, leaves["extra"], leaves["means2d"], backend)
    if gradients:
        cotangents = random_cotangents(output) if cotangents is None else cotangents
        sum((getattr(output, k) * c.to(output.color)).sum() for k, c in cotangents.items()).backward()
    return output, {name: leaf.grad for name, leaf in leaves.items()} if gradients else {}


def random_cotangents(output: RasterOutput) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {k: torch.randn(getattr(output, k).shape, generator=generator, dtype=torch.float64) for k in IMAGES}


def relative_error(value: Tensor, truth: Tensor) -> float:
    """|value - truth|_2 / |truth|_2, or |value|_2 where the truth is zero."""
    value, truth = value.detach().double().cpu(), truth.detach().double().cpu()
    return float((value - truth).norm() / (truth.norm() if truth.norm() > 0 else 1.0))
