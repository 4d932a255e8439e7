"""Differentiable Gaussian rasterization: colour, depth, normal, alpha and extra attributes in one pass."""

from .core import available_backends, choose_backend, rasterize
from .settings import RasterizerError, RasterOutput, RasterSettings

__all__ = [
    "RasterOutput",
    "RasterSettings",
    "RasterizerError",
    "available_backends",
    "choose_backend",
    "rasterize",
]
