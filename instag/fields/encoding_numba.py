"""CPU twin of `encoding.encode_torch` in numba: float32, sequential, so the same bits on every run."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numba import njit
from torch import Tensor

from instag.fields.encoding import HASH_PRIME, PLANES, GridLayout

_AXES = np.array(PLANES)
_PRIME = np.uint32(HASH_PRIME)
_ONE, _HALF, _ZERO = np.float32(1), np.float32(0.5), np.float32(0)


@njit(cache=True, nogil=True, inline="always")
def _corners(column, row, stride, size, offset, hashed):
    """Entries at the corners (i, j), (i+1, j), (i, j+1), (i+1, j+1) of a cell."""
    if not hashed:
        first = offset + column + row * stride
        return first, first + 1, first + stride, first + stride + 1
    left, right = np.uint32(column), np.uint32(column + 1)
    upper = np.uint32(np.uint32(row) * _PRIME)
    lower = np.uint32(np.uint32(row + 1) * _PRIME)
    return (
        offset + np.int64(left ^ upper) % size,
        offset + np.int64(right ^ upper) % size,
        offset + np.int64(left ^ lower) % size,
        offset + np.int64(right ^ lower) % size,
    )


@njit(cache=True, nogil=True)
def _forward(x, table, scales, strides, sizes, offsets, hashed, bound, out):
    """out [N, 3 L] = features of x [N, 3]."""
    levels = len(scales)
    for plane in range(3):
        first_axis, second_axis = _AXES[plane]
        grid = table[plane]
        for n in range(len(x)):
            u = (x[n, first_axis] + bound) / (bound + bound)
            v = (x[n, second_axis] + bound) / (bound + bound)
            if not (u >= _ZERO and u <= _ONE and v >= _ZERO and v <= _ONE):
                for feature in range(plane * levels, (plane + 1) * levels):
                    out[n, feature] = _ZERO
                continue
            for level in range(levels):
                across, along = u * scales[level] + _HALF, v * scales[level] + _HALF
                column, row = np.int64(across), np.int64(along)
                right, down = across - np.float32(column), along - np.float32(row)
                a, b, c, d = _corners(column, row, strides[level], sizes[level], offsets[level], hashed[level])
                upper = grid[a] * (_ONE - right) + grid[b] * right
                lower = grid[c] * (_ONE - right) + grid[d] * right
                out[n, plane * levels + level] = upper * (_ONE - down) + lower * down


@njit(cache=True, nogil=True)
def _backward(x, table, scales, strides, sizes, offsets, hashed, bound, grad, grad_x, grad_table):
    """Adds to grad_x [N, 3] and grad_table [3, entries] what the cotangent grad [N, 3 L] asks for."""
    levels = len(scales)
    for plane in range(3):
        first_axis, second_axis = _AXES[plane]
        grid, grad_grid = table[plane], grad_table[plane]
        for n in range(len(x)):
            u = (x[n, first_axis] + bound) / (bound + bound)
            v = (x[n, second_axis] + bound) / (bound + bound)
            if not (u >= _ZERO and u <= _ONE and v >= _ZERO and v <= _ONE):
                continue
            grad_u, grad_v = _ZERO, _ZERO
            for level in range(levels):
                scale = scales[level]
                across, along = u * scale + _HALF, v * scale + _HALF
                column, row = np.int64(across), np.int64(along)
                right, down = across - np.float32(column), along - np.float32(row)
                left, up = _ONE - right, _ONE - down
                a, b, c, d = _corners(column, row, strides[level], sizes[level], offsets[level], hashed[level])
                g = grad[n, plane * levels + level]
                grad_u += g * scale * ((grid[b] - grid[a]) * up + (grid[d] - grid[c]) * down)
                grad_v += g * scale * ((grid[c] - grid[a]) * left + (grid[d] - grid[b]) * right)
                grad_grid[a] += g * left * up
                grad_grid[b] += g * right * up
                grad_grid[c] += g * left * down
                grad_grid[d] += g * right * down
            grad_x[n, first_axis] += grad_u / (bound + bound)
            grad_x[n, second_axis] += grad_v / (bound + bound)


@lru_cache
def _level_arrays(layout: GridLayout) -> tuple[np.ndarray, ...]:
    """Scales, strides, sizes, offsets and hashed of a layout as arrays."""
    return (
        np.array(layout.scales, np.float32),
        np.array(layout.resolutions, np.int64) + 1,
        np.array(layout.sizes, np.int64),
        np.array(layout.offsets, np.int64),
        np.array(layout.hashed),
    )


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, table: Tensor, layout: GridLayout, bound: float) -> Tensor:
        x, table = x.contiguous(), table.contiguous()
        out = torch.empty(len(x), 3 * len(layout.scales))
        _forward(x.detach().numpy(), table.detach().numpy(), *_level_arrays(layout), np.float32(bound), out.numpy())
        ctx.save_for_backward(x, table)
        ctx.layout, ctx.bound = layout, bound
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, table = ctx.saved_tensors
        grad_x, grad_table = torch.zeros_like(x), torch.zeros_like(table)
        _backward(
            x.detach().numpy(),
            table.detach().numpy(),
            *_level_arrays(ctx.layout),
            np.float32(ctx.bound),
            grad.contiguous().numpy(),
            grad_x.numpy(),
            grad_table.numpy(),
        )
        return grad_x, grad_table, None, None


def encode_numba(x: Tensor, table: Tensor, layout: GridLayout, bound: float) -> Tensor:
    """`encode_torch` for float32 tensors on the CPU: same arguments, shapes and gradients."""
    return _Encode.apply(x, table, layout, bound)
