"""What compiling the kernels costs: seconds cold and from the cache, registers and spills; and the PTX path.

python3 benchmarks/compilation.py [--out FILE]      # no data needed
"""

from __future__ import annotations

import os
import re
import tempfile
import time

import timing
import torch
from gaussian_rasterization.cuda import loader, rasterizer

from instag.fields.encoding import REFERENCE_FACE, REFERENCE_MOUTH, grid_layout
from instag.kernels import FOLDER, audio_encoder, hash_grid, modules, motion_head
from instag.losses import photometric_torch

DEVICE = torch.device("cuda", 0)
AUDIO = (74, 16, 32)  # phone-mel
KERNEL = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\([^()]*(?:\([^()]*\)[^()]*)*\)\s*)?(\w+)\s*\(")
WITH_OPTIONS = {"motion_head_backward", "motion_head_forward", "hash_grid", "audio_encoder"}


def all_sources() -> dict[str, loader.KernelSource]:
    """Every file of kernels, with the options of the default model."""
    found = {
        path.stem: modules.source(path.name) for path in sorted(FOLDER.glob("*.cu")) if path.stem not in WITH_OPTIONS
    }
    found["rasterizer"] = rasterizer.kernel_source(2, True, True)
    found["audio_encoder"] = modules.source("audio_encoder.cu", *audio_encoder.macros(*AUDIO))
    for name, grid in (("face", REFERENCE_FACE), ("mouth", REFERENCE_MOUTH)):
        found[f"hash_grid, {name}"] = modules.source("hash_grid.cu", *hash_grid.macros(grid_layout(*grid)))
    for number, head in enumerate(motion_head.HEADS):
        for source in motion_head.sources(DEVICE, head):
            found[f"{source.name} {number}, width {head.hidden}"] = source
    return found


def compilation() -> dict:
    """Seconds to compile cold and to load from the cache; registers and spills; the PTX path on this GPU."""
    target = loader.target_for(torch.cuda.get_device_capability(DEVICE))
    result: dict = {}
    kept = os.environ.get(loader.CACHE_VARIABLE)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[loader.CACHE_VARIABLE] = folder
        for name, source in all_sources().items():
            start = time.perf_counter()
            loader.cached_code(source, target)
            cold = time.perf_counter() - start
            start = time.perf_counter()
            names = KERNEL.findall(source.text())
            module = loader.KernelModule(source, 0).prepare(*names)
            warm = time.perf_counter() - start
            kernels = {kernel: module.attributes(kernel) for kernel in names}
            result[name] = {"cold_s": round(cold, 3), "warm_s": round(warm, 4), "kernels": kernels}
    os.environ.pop(loader.CACHE_VARIABLE)
    if kept is not None:
        os.environ[loader.CACHE_VARIABLE] = kept
    return result


def ptx_path() -> dict:
    """A GPU newer than NVRTC gets PTX that the driver finishes: compile for sm_80 and run it here."""
    from cuda.core import LaunchConfig, ObjectCode, Stream, launch

    source = modules.source("l1_ssim.cu")
    code = ObjectCode.from_ptx(loader.compile_code(source, loader.Target("compute_80", "ptx")))
    a, b = torch.rand(1, 64, 64, device=DEVICE), torch.rand(1, 64, 64, device=DEVICE)
    slopes, partial = torch.empty(3, 1, 64, 64, device=DEVICE), torch.empty(4, device=DEVICE)
    stream = Stream.from_handle(torch.cuda.current_stream().cuda_stream)
    arguments = (64, 64, 1 / a.numel(), 0.2 / a.numel(), a, b, slopes, partial)
    converted = [loader._kernel_argument(each) for each in arguments]
    launch(stream, LaunchConfig(grid=(2, 2, 1), block=256), code.get_kernel("l1_ssim_forward"), *converted)
    truth = photometric_torch(a[None].double(), b[None].double())
    return {"relative_error": abs(float(partial.sum()) / float(truth) - 1)}


if __name__ == "__main__":
    timing.run_parts(__doc__, {"compilation": compilation, "ptx_path": ptx_path})
