"""The kernels that a run will need, compiled in parallel while the run reads its frames: a machine's first run waits
for the slowest kernel, not for the sum of all."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch

from instag import kernels
from instag.build import GRIDS
from instag.config import ModelConfig
from instag.data.audio import get_extractor
from instag.fields.audio import WIDE_INPUT

if TYPE_CHECKING:
    from gaussian_rasterization.cuda.loader import KernelSource

# Files without compile-time options
ALWAYS = ("adam.cu", "deform.cu", "hook.cu", "l1_ssim.cu", "mesh_prior.cu", "pixels.cu", "rows.cu", "terms.cu")
ADAPTATION, PRETRAINING = ("composite.cu", "depth_prior.cu"), ("contrast.cu",)
NARROW = (32, WIDE_INPUT)  # channels of the audio network's first layers: of few features, of many
MAPS, OWN_MAPS = 2, 4  # extra channels of a moving face: attention of the universal field, and of its own beside it


def compile_ahead(model: ModelConfig, device: str, pretraining: bool = False) -> AbstractContextManager[None]:
    """Context of a training run: compiles, in threads, what the disk cache lacks. Nothing happens without a GPU.

    A kernel that is missing here is compiled at its first use, one that is needless costs a core a second or two, once
    per machine.
    """
    where = torch.device(device)
    if where.type != "cuda" or kernels.reason_missing() is not None:
        return nullcontext()
    from gaussian_rasterization.cuda import loader

    return loader.compiling(sources(model, where, pretraining), where)


def sources(model: ModelConfig, device: torch.device, pretraining: bool = False) -> list[KernelSource]:
    """What adaptation, or pre-training, launches with one frame a step; the longest to compile come first."""
    from gaussian_rasterization.cuda.rasterizer import kernel_source

    from instag.fields.encoding import grid_layout
    from instag.kernels import audio_encoder, hash_grid, modules, motion_head

    own = (motion_head.FACE[32], motion_head.OWN_MOUTH)
    heads = [motion_head.FACE[64], motion_head.MOUTH, *(own if pretraining else motion_head.ALIGNER.values())]
    if modules.capability(device) < motion_head.OLDEST_CAPABILITY:
        heads = []
    pairs = [motion_head.sources(device, head) for head in heads]
    found = [*(backward for backward, _ in pairs), *(forward for _, forward in pairs)]
    maps = (OWN_MAPS if pretraining else MAPS, 0)
    found += [kernel_source(extra, exact=True, detach_extra=True) for extra in maps]
    spec = get_extractor(model.extractor)
    if audio_encoder.fits(spec.width, spec.steps):
        narrow = NARROW[spec.width >= WIDE_INPUT]
        found.append(modules.source(audio_encoder.FILE, *audio_encoder.macros(spec.width, spec.steps, narrow)))
    for grid in GRIDS[model.hash_ranges]:
        found.append(modules.source(hash_grid.FILE, *hash_grid.macros(grid_layout(*grid))))
    return found + [modules.source(name) for name in (*ALWAYS, *(PRETRAINING if pretraining else ADAPTATION))]
