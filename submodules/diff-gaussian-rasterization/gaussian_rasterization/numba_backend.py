"""Blending on the CPU in numba, forward and backward: float32, parallel over tiles, deterministic.

Projection stays in torch (projection.py), and so does its gradient. A tile is 256 pixels in a row of memory. A Gaussian
visits the rows of the tile that its ellipse `alpha >= 1/255` crosses, an even number of them, in a few plain loops over
that stretch: at least 32 pixels each, so that they become vector code. Pixels of the stretch outside the ellipse fall
to the 1/255 test. Scratch memory is allocated outside the parallel loops, where numba can promise LLVM that no two
arrays overlap; inside, nothing would vectorise.

The backward pass writes the gradient of each (Gaussian, tile) pair to a slot of its own, and a Gaussian then adds up
its slots in a fixed order: the result has the same bits for any number of threads.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .projection import ALPHA_MAX, ALPHA_MIN, DEPTH, FEATURES, GEOMETRY, TRANSMITTANCE_MIN, Projection
from .settings import TILE, RasterSettings

PIXELS = TILE * TILE
THIN = 1e-3  # det(conic) / (a c) below which float32 has cancelled too much of it to bound the ellipse

f32 = np.float32
_ALPHA_MAX, _ALPHA_MIN, _TRANSMITTANCE_MIN = f32(ALPHA_MAX), f32(ALPHA_MIN), f32(TRANSMITTANCE_MIN)
_ZERO, _HALF, _ONE = f32(0), f32(0.5), f32(1)
_X = (np.arange(PIXELS) % TILE).astype(f32)  # of each pixel within its tile
_Y = (np.arange(PIXELS) // TILE).astype(f32)

serial = numba.njit(cache=True, fastmath=True, error_model="numpy")
parallel = numba.njit(cache=True, fastmath=True, error_model="numpy", parallel=True)


@serial
def _list_tiles(tiles, order, tiles_x, per_view, views):
    """Counting sort of all (Gaussian, tile) pairs: Gaussians come in depth order, so each tile's list does too.

    Returns where each tile's list starts [T + 1], the lists [I], each entry's gradient slot [I], and where each
    Gaussian's slots start [B N + 1]. Gaussians and tiles are numbered across views.
    """
    total = len(tiles)
    gaussians = max(total // views, 1)
    starts = np.zeros(per_view * views + 1, np.int64)
    owners = np.zeros(total + 1, np.int64)
    for i in range(total):
        x0, x1, y0, y1 = tiles[i]
        base = i // gaussians * per_view
        owners[i + 1] = owners[i] + (x1 - x0) * (y1 - y0)
        for ty in range(y0, y1):
            for tx in range(x0, x1):
                starts[base + ty * tiles_x + tx + 1] += 1
    for t in range(len(starts) - 1):
        starts[t + 1] += starts[t]
    cursor = starts[:-1].copy()
    listed, slot_of = np.empty(owners[total], np.int64), np.empty(owners[total], np.int64)
    for i in order:
        x0, x1, y0, y1 = tiles[i]
        base, slot = i // gaussians * per_view, owners[i]
        for ty in range(y0, y1):
            for tx in range(x0, x1):
                tile = base + ty * tiles_x + tx
                listed[cursor[tile]], slot_of[cursor[tile]] = i, slot
                cursor[tile] += 1
                slot += 1
    return starts, listed, slot_of, owners


@serial
def _locate(tile, tiles_x, tiles_y):
    """View and first pixel of a tile."""
    view, place = tile // (tiles_x * tiles_y), tile % (tiles_x * tiles_y)
    return view, place % tiles_x * TILE, place // tiles_x * TILE


@serial
def _splat(record, x_start, y_start):
    """A record's geometry: u and v relative to the tile, conic a, b, c, opacity."""
    return record[0] - f32(x_start), record[1] - f32(y_start), record[2], record[3], record[4], record[5]


@serial
def _stretch(splat):
    """The half-open stretch of the tile's pixels in which alpha may reach 1/255."""
    _, v, a, b, c, opacity = splat
    squared = f32(2) * math.log(opacity / _ALPHA_MIN)  # size of the ellipse alpha = 1/255, in squared sigmas
    if not squared > _ZERO:
        return 0, 0
    det = a * c - b * b
    if det < f32(THIN) * a * c:
        return 0, PIXELS
    half = f32(1.001) * math.sqrt(squared * a / det)  # never too short for rounding
    first = int(min(max(math.ceil(v - half), f32(0)), f32(TILE)))
    last = int(max(min(math.floor(v + half), f32(TILE - 1)), f32(-1)))
    if first > last:
        return 0, 0
    return first // 2 * 2 * TILE, (last // 2 + 1) * 2 * TILE


@serial
def _exp(x):
    """exp(x) for x <= 0 within 2e-7 relative (Cephes' expf), in operations that vectorise; exp(-80) below -80."""
    x = max(x, f32(-80))
    whole = np.int32(x * f32(1.44269504) - _HALF)  # truncation rounds a negative number to the nearest
    r = x - f32(whole) * f32(0.693359375) + f32(whole) * f32(2.12194440e-4)
    p = f32(1.9875691500e-4)
    p = p * r + f32(1.3981999507e-3)
    p = p * r + f32(8.3334519073e-3)
    p = p * r + f32(4.1665795894e-2)
    p = p * r + f32(1.6666665459e-1)
    p = p * r + f32(5.0000001201e-1)
    power_of_two = np.int32((whole + np.int32(127)) << np.int32(23)).view(np.float32)
    return (p * r * r + r + _ONE) * power_of_two


@serial
def _falloff(splat, x, y, out):
    """exp(power) at pixels x, y."""
    u, v, a, b, c, _ = splat
    for p in range(len(out)):
        dx, dy = u - x[p], v - y[p]
        out[p] = _exp(min(-_HALF * (a * dx * dx + c * dy * dy) - b * dx * dy, _ZERO))


@serial
def _add_scaled(out, factor, values):
    for p in range(len(out)):
        out[p] += factor * values[p]


@serial
def _dot(left, right):
    total = _ZERO
    for p in range(len(left)):
        total += left[p] * right[p]
    return total


@serial
def _composite(opacity, position, weight, running, stop):
    """Turn exp(power) into weights alpha T, in place; returns how many pixels have ended.

    `running` is the transmittance, negative once the pixel has ended; `stop` the position of the last one drawn.
    """
    ended = _ZERO
    for p in range(len(weight)):
        alpha = min(opacity * weight[p], _ALPHA_MAX)
        alpha = alpha if alpha >= _ALPHA_MIN else _ZERO
        before = max(running[p], _ZERO)
        after = before * (_ONE - alpha)
        keep = after >= _TRANSMITTANCE_MIN
        w = alpha * before if keep else _ZERO
        ended += _ONE if (before > _ZERO) & (not keep) else _ZERO
        running[p] = after if keep else -abs(running[p])
        stop[p] = position if w > _ZERO else stop[p]
        weight[p] = w
    return ended


@serial
def _composite_backward(opacity, position, value, stop, running, behind, push, weight):
    """Undo one Gaussian: `push` from exp(power) to opacity's share of the gradient, `weight` to alpha T.

    `value` is dLoss/d(weight); `running` the transmittance behind the Gaussian, made that before it; `behind` the sum
    of weight times value of all that lies behind it. The gradient passes min(0.99, alpha) as if unclamped.
    """
    for p in range(len(push)):
        falloff = push[p]
        alpha = min(opacity * falloff, _ALPHA_MAX)
        drawn = (alpha >= _ALPHA_MIN) & (position <= stop[p])
        alpha = alpha if drawn else _ZERO
        share = _ONE / (_ONE - alpha)
        before = running[p] * share
        gradient = (before * value[p] - behind[p] * share) * falloff
        push[p] = gradient if drawn else _ZERO
        weight[p] = alpha * before
        running[p] = before
        behind[p] += alpha * before * value[p]


@serial
def _geometry_gradient(splat, x, y, push, slot):
    """The gradient of u, v, conic and opacity: moments of `push` over the pixels."""
    u, v, a, b, c, opacity = splat
    m, m_x, m_y, m_xx, m_xy, m_yy = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
    for p in range(len(push)):
        dx, dy = u - x[p], v - y[p]
        m += push[p]
        m_x += push[p] * dx
        m_y += push[p] * dy
        m_xx += push[p] * dx * dx
        m_xy += push[p] * dx * dy
        m_yy += push[p] * dy * dy
    slot[0] = -opacity * (a * m_x + b * m_y)
    slot[1] = -opacity * (b * m_x + c * m_y)
    slot[2] = -_HALF * opacity * m_xx
    slot[3] = -opacity * m_xy
    slot[4] = -_HALF * opacity * m_yy
    slot[5] = m


@parallel
def _blend(records, starts, listed, work, tiles_x, tiles_y, workers, image, final, last):
    """Fill `image` [B, 8 + E, H, W], the transmittances `final` [B, H, W] and the list positions `last` [B, H, W]."""
    channels = records.shape[1] - GEOMETRY
    height, width = final.shape[1:]
    all_sums = np.empty((workers, channels, PIXELS), f32)
    all_state = np.empty((workers, 2, PIXELS), f32)
    all_stop = np.empty((workers, PIXELS), np.int32)
    for worker in numba.prange(workers):
        sums, running, weight, stop = all_sums[worker], all_state[worker, 0], all_state[worker, 1], all_stop[worker]
        for tile in work[worker::workers]:
            view, x_start, y_start = _locate(tile, tiles_x, tiles_y)
            sums[:], running[:], stop[:] = _ZERO, _ONE, 0
            live = f32(PIXELS)
            for k in range(starts[tile], starts[tile + 1]):
                record = records[listed[k]]
                splat = _splat(record, x_start, y_start)
                begin, end = _stretch(splat)
                w = weight[begin:end]
                _falloff(splat, _X[begin:end], _Y[begin:end], w)
                position = np.int32(k - starts[tile] + 1)
                live -= _composite(record[5], position, w, running[begin:end], stop[begin:end])
                for channel in range(channels):
                    _add_scaled(sums[channel, begin:end], record[GEOMETRY + channel], w)
                if live == _ZERO:
                    break
            for y in range(y_start, min(y_start + TILE, height)):
                for x in range(x_start, min(x_start + TILE, width)):
                    p = (y - y_start) * TILE + x - x_start
                    final[view, y, x] = abs(running[p])
                    last[view, y, x] = stop[p]
                    image[view, channels, y, x] = _ONE - abs(running[p])
                    for channel in range(channels):
                        image[view, channel, y, x] = sums[channel, p]


@parallel
def _blend_backward(
    records, starts, listed, slot_of, work, tiles_x, tiles_y, workers, valued, image, final, last, slots
):
    """Fill `slots` [I, 13 + E] with the gradient of each pair; `image` [B, 8 + E, H, W] holds that of the images.

    Only the first `valued` features move geometry and opacity.
    """
    channels = records.shape[1] - GEOMETRY
    height, width = final.shape[1:]
    all_upstream = np.empty((workers, channels + 1, PIXELS), f32)
    all_state = np.empty((workers, 5, PIXELS), f32)
    all_stop = np.empty((workers, PIXELS), np.int32)
    for worker in numba.prange(workers):
        upstream, stop, state = all_upstream[worker], all_stop[worker], all_state[worker]
        for tile in work[worker::workers]:
            view, x_start, y_start = _locate(tile, tiles_x, tiles_y)
            upstream[:], state[:], stop[:] = _ZERO, _ZERO, 0
            longest = 0
            for y in range(y_start, min(y_start + TILE, height)):
                for x in range(x_start, min(x_start + TILE, width)):
                    p = (y - y_start) * TILE + x - x_start
                    state[0, p] = final[view, y, x]
                    stop[p] = last[view, y, x]
                    longest = max(longest, last[view, y, x])
                    for channel in range(channels + 1):
                        upstream[channel, p] = image[view, channel, y, x]
            for position in range(longest, 0, -1):
                k = starts[tile] + position - 1
                record, slot = records[listed[k]], slots[slot_of[k]]
                splat = _splat(record, x_start, y_start)
                begin, end = _stretch(splat)
                x_of, y_of = _X[begin:end], _Y[begin:end]
                running, behind, value = state[0, begin:end], state[1, begin:end], state[2, begin:end]
                weight, push = state[3, begin:end], state[4, begin:end]
                _falloff(splat, x_of, y_of, push)
                value[:] = upstream[channels, begin:end]  # of alpha, a feature that is 1 everywhere
                for channel in range(valued):
                    _add_scaled(value, record[GEOMETRY + channel], upstream[channel, begin:end])
                _composite_backward(
                    record[5], np.int32(position), value, stop[begin:end], running, behind, push, weight
                )
                _geometry_gradient(splat, x_of, y_of, push, slot)
                for channel in range(channels):
                    slot[GEOMETRY + channel] = _dot(weight, upstream[channel, begin:end])


@parallel
def _gather(slots, owners, gradient):
    """Add up each Gaussian's slots, in their order: gradient [B N, 13 + E]."""
    for i in numba.prange(len(gradient)):
        for slot in range(owners[i], owners[i + 1]):
            for column in range(gradient.shape[1]):
                gradient[i, column] += slots[slot, column]


class _Blend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, records: Tensor, tiles: Tensor, settings: RasterSettings) -> Tensor:
        views, gaussians, columns = records.shape
        flat = records.detach().contiguous().numpy().reshape(views * gaussians, columns)
        order = np.argsort(flat[:, DEPTH], kind="stable")
        grid = (settings.tiles_x, settings.tiles_y)
        starts, listed, slot_of, owners = _list_tiles(
            tiles.contiguous().numpy().reshape(-1, 4), order, grid[0], grid[0] * grid[1], views
        )
        work = np.argsort(-np.diff(starts), kind="stable")  # heaviest tiles first, dealt out to the workers in turn
        image = np.empty((views, columns - GEOMETRY + 1, settings.height, settings.width), f32)
        final = np.empty((views, settings.height, settings.width), f32)
        last = np.empty((views, settings.height, settings.width), np.int32)
        _blend(flat, starts, listed, work, *grid, numba.get_num_threads(), image, final, last)
        ctx.saved = (flat, starts, listed, slot_of, work, grid, owners, final, last)
        ctx.shape = records.shape
        ctx.valued = FEATURES if settings.detach_extra else columns - GEOMETRY
        return torch.from_numpy(image)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        flat, starts, listed, slot_of, work, grid, owners, final, last = ctx.saved
        slots = np.zeros((len(listed), flat.shape[1]), f32)
        image = upstream.contiguous().numpy()
        workers = numba.get_num_threads()
        _blend_backward(flat, starts, listed, slot_of, work, *grid, workers, ctx.valued, image, final, last, slots)
        gradient = np.zeros_like(flat)
        _gather(slots, owners, gradient)
        return torch.from_numpy(gradient).view(ctx.shape), None, None


def blend(projection: Projection, settings: RasterSettings) -> Tensor:
    """[B, 8 + E, H, W]: the blended features (r g b, depth, normal, extra), then alpha."""
    return _Blend.apply(projection.records, projection.tiles, settings)
