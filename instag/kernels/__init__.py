"""GPU twins of the slow parts, CUDA C++ compiled at run time (`gaussian_rasterization.cuda.loader`).

Every function here has a torch twin with the same arguments, named in its docstring. Nothing is imported from CUDA
packages until one is called, so that `import instag.kernels` works everywhere.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

FOLDER = Path(__file__).parent


@cache
def reason_missing() -> str | None:
    """Why the GPU kernels cannot run here, or None where they can."""
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    if find_spec("cuda") is None or find_spec("cuda.core") is None:
        return "cuda-core is not installed (pip install 'instag[gpu]')"
    return None


def usable(*tensors: Tensor) -> bool:
    """Whether the kernels can serve these tensors: float32, on CUDA, and the kernel packages installed."""
    return all(tensor.is_cuda and tensor.dtype == torch.float32 for tensor in tensors) and reason_missing() is None
