"""CPU twin of `losses.photometric_torch` in numba: float32, sequential, so the same bits on every run.

The forward pass also leaves dSSIM/d(moments) behind, so that the backward pass is three blurs: the window is symmetric
and the padding zero, hence the blur is its own adjoint.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from instag.losses import DSSIM_WEIGHT, SSIM_C1, SSIM_C2, SSIM_WINDOW, gaussian_window

_HALF = SSIM_WINDOW // 2
_C1, _C2, _TWO = np.float32(SSIM_C1), np.float32(SSIM_C2), np.float32(2)
_MOMENTS = 5  # of a, b: means, squares, product
_CONTRACT = {"contract"}  # fused multiply-add, nothing else of fast-math: sums keep their order


@njit(cache=True, nogil=True, fastmath=_CONTRACT)
def _blur_across(padded, window, out):
    """out [W] = padded [W + 10] through the window, along the row."""
    for column in range(len(out)):
        total = np.float32(0)
        for tap in range(SSIM_WINDOW):
            total += window[tap] * padded[column + tap]
        out[column] = total


@njit(cache=True, nogil=True, fastmath=_CONTRACT)
def _blur_down(rows, first, window, out):
    """out [W] = rows [first .. first + 10, W] through the window, down the columns."""
    for column in range(len(out)):
        total = np.float32(0)
        for tap in range(SSIM_WINDOW):
            total += window[tap] * rows[first + tap, column]
        out[column] = total


@njit(cache=True, nogil=True, fastmath=_CONTRACT)
def _forward(render, target, window, slopes):
    """Sums of |a - b| and of SSIM over planes [P, H, W]; slopes [P, 3, H, W] = dSSIM/d(mean a, mean aa, mean ab)."""
    planes, height, width = render.shape
    padded = np.zeros((_MOMENTS, width + 2 * _HALF), np.float32)
    across = np.zeros((_MOMENTS, height + 2 * _HALF, width), np.float32)
    moments = np.empty((_MOMENTS, width), np.float32)
    difference, similarity = 0.0, 0.0
    for plane in range(planes):
        for row in range(height):
            for column in range(width):
                a, b = render[plane, row, column], target[plane, row, column]
                padded[0, _HALF + column], padded[1, _HALF + column] = a, b
                padded[2, _HALF + column], padded[3, _HALF + column] = a * a, b * b
                padded[4, _HALF + column] = a * b
                difference += abs(a - b)
            for moment in range(_MOMENTS):
                _blur_across(padded[moment], window, across[moment, _HALF + row])
        for row in range(height):
            for moment in range(_MOMENTS):
                _blur_down(across[moment], row, window, moments[moment])
            for column in range(width):
                mean_a, mean_b = moments[0, column], moments[1, column]
                squares = mean_a * mean_a + mean_b * mean_b
                product = mean_a * mean_b
                top_1 = _TWO * product + _C1
                top_2 = _TWO * (moments[4, column] - product) + _C2
                bottom_1 = squares + _C1
                bottom_2 = moments[2, column] + moments[3, column] - squares + _C2
                scale = np.float32(1) / (bottom_1 * bottom_2)
                value = top_1 * top_2 * scale
                similarity += value
                slopes[plane, 0, row, column] = _TWO * (
                    mean_b * (top_2 - top_1) * scale - value * mean_a * (bottom_2 - bottom_1) * scale
                )
                slopes[plane, 1, row, column] = -value * bottom_1 * scale
                slopes[plane, 2, row, column] = _TWO * top_1 * scale
    return difference, similarity


@njit(cache=True, nogil=True, fastmath=_CONTRACT)
def _backward(render, target, window, slopes, l1_scale, ssim_scale, grad):
    """grad [P, H, W] = l1_scale d(sum |a - b|)/da + ssim_scale d(sum SSIM)/da."""
    planes, height, width = render.shape
    padded = np.zeros(width + 2 * _HALF, np.float32)
    across = np.zeros((3, height + 2 * _HALF, width), np.float32)
    blurred = np.empty((3, width), np.float32)
    for plane in range(planes):
        for row in range(height):
            for moment in range(3):
                for column in range(width):  # numba takes seconds to compile a slice assignment
                    padded[_HALF + column] = slopes[plane, moment, row, column]
                _blur_across(padded, window, across[moment, _HALF + row])
        for row in range(height):
            for moment in range(3):
                _blur_down(across[moment], row, window, blurred[moment])
            for column in range(width):
                a, b = render[plane, row, column], target[plane, row, column]
                slope = blurred[0, column] + _TWO * a * blurred[1, column] + b * blurred[2, column]
                sign = np.float32(a > b) - np.float32(a < b)
                grad[plane, row, column] = l1_scale * sign + ssim_scale * slope


def _planes(images: Tensor) -> np.ndarray:
    """[..., H, W] -> [P, H, W]."""
    return images.detach().reshape(-1, *images.shape[-2:]).contiguous().numpy()


class _Photometric(torch.autograd.Function):
    @staticmethod
    def forward(ctx, render: Tensor, target: Tensor, weight: float) -> Tensor:
        a, b = _planes(render), _planes(target)
        slopes = torch.empty(len(a), 3, *a.shape[1:])
        window = gaussian_window(render.device, render.dtype)
        difference, similarity = _forward(a, b, window.numpy(), slopes.numpy())
        ctx.save_for_backward(render, target, slopes)
        ctx.weight = weight
        return render.new_tensor(difference / a.size + weight * (1 - similarity / a.size))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_loss: Tensor) -> tuple[Tensor, None, None]:
        render, target, slopes = ctx.saved_tensors
        a = _planes(render)
        scale = float(grad_loss) / a.size
        grad = torch.empty(a.shape)
        window = gaussian_window(render.device, render.dtype).numpy()
        scales = np.float32(scale), np.float32(-ctx.weight * scale)
        _backward(a, _planes(target), window, slopes.numpy(), *scales, grad.numpy())
        return grad.view(render.shape), None, None


def photometric_numba(render: Tensor, target: Tensor, weight: float = DSSIM_WEIGHT) -> Tensor:
    """`losses.photometric` for float32 tensors on the CPU: same arguments, value and gradient to the render."""
    return _Photometric.apply(render, target, weight)
