"""Made scenes for kernel tests and benchmarks: a head-like shell of thin Gaussians, and its gradients' cotangents."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from gaussian_rasterization import RasterOutput, RasterSettings
from torch import Tensor

HEAD_RADIUS = 0.1  # world units; the head spans about 0.2
CAMERA_DISTANCE = 0.5


@dataclass(frozen=True)
class Scene:
    """The tensors of a `rasterize` call, in its order."""

    means: Tensor  # [B, N, 3]
    scales: Tensor  # [B, N, 3]
    quaternions: Tensor  # [B, N, 4]
    opacities: Tensor  # [B, N]
    sh: Tensor  # [N, K, 3]
    world_to_camera: Tensor  # [B, 4, 4]
    focal: Tensor  # [B]
    background: Tensor  # [B, 3]
    extra: Tensor  # [B, N, E]
    means2d: Tensor  # [B, N, 2]

    def to(self, *args, **kwargs) -> Scene:
        return Scene(*(getattr(self, field.name).to(*args, **kwargs) for field in fields(self)))

    def leaves(self) -> dict[str, Tensor]:
        """Copies of the differentiable tensors that require a gradient."""
        names = ("means", "scales", "quaternions", "opacities", "sh", "extra", "means2d")
        return {name: getattr(self, name).detach().clone().requires_grad_() for name in names}


def make_scene(gaussians: int, settings: RasterSettings, views: int = 1, extra: int = 0, seed: int = 0) -> Scene:
    """An ellipsoid shell that fills about a third of the image; every view has its own deformation and camera."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    directions = torch.nn.functional.normalize(normal(gaussians, 3), dim=-1)
    axes = HEAD_RADIUS * torch.tensor([0.75, 1.0, 0.85], dtype=torch.float64)
    means = directions * axes * (1 + 0.03 * normal(gaussians, 1))
    spacing = HEAD_RADIUS * math.sqrt(4 * math.pi / max(gaussians, 1))
    scales = spacing * 0.6 * torch.exp(0.5 * normal(gaussians, 3))
    scales[:, 2] *= 0.25
    quaternions = normal(views, gaussians, 4)
    means = means + 0.05 * HEAD_RADIUS * normal(views, gaussians, 3)
    coefficients = 0.08 * normal(gaussians, 16, 3)
    coefficients[:, 0] = 0.6 * normal(gaussians, 3)

    world_to_camera = torch.eye(4, dtype=torch.float64).repeat(views, 1, 1)
    for view in range(views):
        angle = 0.15 + 0.3 * view
        world_to_camera[view, 0, 0] = world_to_camera[view, 2, 2] = math.cos(angle)
        world_to_camera[view, 0, 2], world_to_camera[view, 2, 0] = math.sin(angle), -math.sin(angle)
        world_to_camera[view, :3, 3] = torch.tensor([0.005, 0.008, CAMERA_DISTANCE + 0.03 * view])
    scene = Scene(
        means,
        scales.expand(views, -1, -1).contiguous(),
        quaternions * (0.5 + uniform(views, gaussians, 1)),
        torch.sigmoid(0.7 + 2 * normal(views, gaussians)),
        coefficients,
        world_to_camera,
        torch.full((views,), 1.6 * max(settings.width, settings.height), dtype=torch.float64),
        uniform(views, 3),
        uniform(views, gaussians, extra),
        torch.zeros(views, gaussians, 2, dtype=torch.float64),
    )
    return scene.to(torch.float32)  # every back end starts from the same float32 numbers


IMAGES = ("color", "depth", "normal", "alpha", "extra")


def cotangent_loss(output: RasterOutput, seed: int = 1) -> Tensor:
    """The images against fixed random cotangents, so that every channel's gradient is exercised."""
    total = output.color.new_zeros(())
    for index, name in enumerate(IMAGES):
        image = getattr(output, name)
        generator = torch.Generator().manual_seed(seed + index)
        cotangent = torch.randn(image.shape, generator=generator, dtype=torch.float64)
        total = total + (image * cotangent.to(image)).sum()
    return total


def relative_error(value: Tensor, truth: Tensor) -> float:
    """|value - truth|_2 / |truth|_2; 0 where both are zero."""
    value, truth = value.detach().double().cpu(), truth.detach().double().cpu()
    scale = float(truth.norm())
    error = float((value - truth).norm())
    return error / scale if scale > 0 else error
