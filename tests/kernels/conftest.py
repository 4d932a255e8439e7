"""Helpers of this folder are importable; `emulated` and `device` say where the kernels run (cuda_emulation.py)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from cuda_emulation import device, emulated  # noqa: F401
