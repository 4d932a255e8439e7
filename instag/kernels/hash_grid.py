"""Tri-plane hash grid on the GPU: twin of `instag.fields.encoding.encode_torch` (METHOD.md section 4)."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import torch
from gaussian_rasterization.cuda import loader
from torch import Tensor
from torch.autograd.function import once_differentiable

from instag.fields.encoding import PLANES, GridLayout
from instag.kernels import modules

FORWARD_THREADS = 128
BACKWARD_THREADS = 1024
BACKWARD_BLOCKS_PER_MULTIPROCESSOR = 1
PRIVATE_LIMIT = 12_000  # entries of a group of levels whose gradient is summed in shared memory; 48 KB hold 12,288
FILE = "hash_grid.cu"


@lru_cache
def level_groups(layout: GridLayout) -> tuple[int, ...]:
    """First level of each group, and the number of levels: as many consecutive levels as shared memory holds."""
    firsts, held = [0], 0
    for level, size in enumerate(layout.sizes):
        if level > firsts[-1] and held + size > PRIVATE_LIMIT:
            firsts.append(level)
            held = 0
        held += size
    return (*firsts, len(layout.sizes))


@lru_cache
def macros(layout: GridLayout) -> tuple[str, ...]:
    """The layout as compile-time constants."""
    groups = level_groups(layout)
    group_sizes = [sum(layout.sizes[first:last]) for first, last in pairwise(groups)]
    private = max((size for size in group_sizes if size <= PRIVATE_LIMIT), default=1)
    values = {
        "LEVELS": len(layout.sizes),
        "SCALES": ",".join(f"{scale!r}" for scale in layout.scales),
        "RESOLUTIONS": ",".join(map(str, layout.resolutions)),
        "SIZES": ",".join(map(str, layout.sizes)),
        "OFFSETS": ",".join(map(str, layout.offsets)),
        "HASHED": ",".join(str(int(hashed)) for hashed in layout.hashed),
        "ENTRIES": layout.entries,
        "GROUPS": len(groups) - 1,
        "GROUP_FIRST": ",".join(map(str, groups)),
        "PRIVATE_ENTRIES": private,
    }
    return tuple(f"-D{name}={value}" for name, value in values.items())


def encode_cuda(x: Tensor, table: Tensor, layout: GridLayout, bound: float) -> Tensor:
    """Features [N, 3 L] of points x [N, 3] from table [3, entries]; float32 on CUDA, otherwise as `encode_torch`.

    The gradient towards the table is a sum of atomics: its last bits differ from run to run.
    """
    return _HashGrid.apply(x.contiguous(), table.contiguous(), layout, bound)


def encode_many_cuda(x: Tensor, tables: Tensor, layout: GridLayout, bound: float) -> Tensor:
    """Features [k, N, 3 L] of the same points x [N, 3] from k tables [3, entries] in one launch, without a gradient.

    `tables` [k] int64 on the device holds their addresses (`data_ptr`); whoever made it keeps the tables alive.
    """
    features = torch.empty(len(tables), len(x), len(PLANES) * len(layout.sizes), device=x.device)
    grid = (loader.sizes_in_blocks(len(x), FORWARD_THREADS), len(PLANES), len(tables))
    numbers = (len(x), float(bound))
    _module(x, layout).launch("hash_grid_forward", grid, FORWARD_THREADS, *numbers, x, None, tables, features)
    return features


class _HashGrid(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, table, layout, bound):
        ctx.save_for_backward(x, table)
        ctx.layout, ctx.bound = layout, bound
        features = torch.empty(len(x), len(PLANES) * len(layout.sizes), device=x.device)
        grid = (loader.sizes_in_blocks(len(x), FORWARD_THREADS), len(PLANES))
        _module(x, layout).launch(
            "hash_grid_forward", grid, FORWARD_THREADS, len(x), float(bound), x, table, None, features
        )
        return features

    @staticmethod
    @once_differentiable
    def backward(ctx, d_features):
        x, table = ctx.saved_tensors
        layout = ctx.layout
        needs_x, needs_table = ctx.needs_input_grad[:2]
        zeros = torch.zeros((table.numel() if needs_table else 0) + (x.numel() if needs_x else 0), device=x.device)
        d_table = zeros[: table.numel()].view_as(table) if needs_table else None
        d_x = zeros[len(zeros) - x.numel() :].view_as(x) if needs_x else None
        groups = len(level_groups(layout)) - 1
        blocks = BACKWARD_BLOCKS_PER_MULTIPROCESSOR * modules.multiprocessors(x.device)
        chunks = max(1, blocks // (len(PLANES) * groups))
        _module(x, layout).launch(
            "hash_grid_backward", (chunks, len(PLANES), groups), BACKWARD_THREADS,
            len(x), float(ctx.bound), x, table, d_features.contiguous(), d_table, d_x,
        )  # fmt: skip
        return d_x, d_table, None, None


def _module(x: Tensor, layout: GridLayout) -> loader.KernelModule:
    return modules.module(x.device, FILE, *macros(layout)).prepare("hash_grid_forward", "hash_grid_backward")
