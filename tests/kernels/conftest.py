"""Helpers of this folder are importable, and `emulated` runs CUDA kernels on the CPU (cuda_emulation.py)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from cuda_emulation import emulated, kernel_device  # noqa: F401
