"""The CUDA back end: CUDA C++ compiled at run time by NVRTC through NVIDIA's `cuda-core`; no nvcc, no extension build.

Importing it raises ImportError where `cuda-core` is not installed; it needs a GPU only when something is drawn.
"""

from .rasterizer import rasterize_cuda
from .tiles import TileOverflowError, check_overflow, reserve_tiles, tile_capacity

__all__ = ["TileOverflowError", "check_overflow", "rasterize_cuda", "reserve_tiles", "tile_capacity"]
