"""Differentiable Gaussian rasterization: colour, depth, normal, alpha and extra attributes in one pass."""

from .core import available_backends, choose_backend, rasterize
from .module import GaussianRasterizationSettings, GaussianRasterizer
from .settings import RasterizerError, RasterOutput, RasterSettings

__all__ = [
    "GaussianRasterizationSettings",
    "GaussianRasterizer",
    "RasterOutput",
    "RasterSettings",
    "RasterizerError",
    "available_backends",
    "choose_backend",
    "rasterize",
]
