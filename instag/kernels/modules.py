"""Access to the loader, and the one place where a kernel file meets its headers and compile-time options."""

from __future__ import annotations

from functools import lru_cache

import torch
from gaussian_rasterization.cuda import loader

from instag.kernels import FOLDER

EMULATED_SHARED_BYTES = 227 * 1024  # an H200's, for tests that run the kernels on the CPU


HEADERS = {  # what is compiled in front of a file
    "depth_prior.cu": ("sums.cuh",),
    "motion_head_backward.cu": ("tiles.cuh", "heads.cuh"),
    "motion_head_forward.cu": ("tiles.cuh", "heads.cuh"),
    "pixels.cu": ("sums.cuh",),
    "terms.cu": ("sums.cuh",),
}


@lru_cache
def source(file: str, *options: str) -> loader.KernelSource:
    """A file of this folder behind its headers, with macros such as -DNAME=VALUE."""
    return loader.KernelSource(tuple(FOLDER / name for name in (*HEADERS.get(file, ()), file)), options)


def module(device: torch.device, file: str, *options: str) -> loader.KernelModule:
    """The kernels of a file, loaded for a device."""
    return loader.load(source(file, *options), device)


def multiprocessors(device: torch.device) -> int:
    """How many blocks the GPU runs side by side, at one per multiprocessor."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


def shared_memory_limit(device: torch.device) -> int:
    """Bytes of shared memory that one block may ask for."""
    if device.type != "cuda":
        return EMULATED_SHARED_BYTES
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin


def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability; of an H200 where the kernels run emulated."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)
