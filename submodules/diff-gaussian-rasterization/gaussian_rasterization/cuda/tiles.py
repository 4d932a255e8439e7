"""How long a tile's list may be, and what happens when one is longer.

Lists have a fixed capacity, so that nothing of a launch depends on a number the host would have to read. A list that
is too long sets a flag on the device. Eager calls read it at once, grow the capacity and draw again. Captured calls
share one flag per device, which `check_overflow` reads whenever the caller chooses: off the hot path, but before
trusting the images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..settings import RasterizerError

INITIAL_CAPACITY = 1024  # Gaussians in a tile; 60k at 512 x 512 reach about that (notes/KERNELS.md)
HEADROOM = 1.25  # over the longest list seen, before rounding up to a power of two

_capacities: dict[torch.device, int] = {}
_captured_flags: dict[torch.device, Tensor] = {}


class TileOverflowError(RasterizerError):
    """A captured graph met a tile with more Gaussians than its lists hold; its images are wrong."""


def tile_capacity(device: torch.device) -> int:
    """Longest list that calls on this device have room for, a power of two."""
    return _capacities.get(device, INITIAL_CAPACITY)


def reserve_tiles(device: torch.device, longest: int) -> int:
    """Make room for lists of `longest` Gaussians (and some more) in every later call; never shrinks.

    Returns the new capacity.
    """
    wanted = max(1, int(longest * HEADROOM))
    _capacities[device] = max(tile_capacity(device), 1 << (wanted - 1).bit_length())
    return _capacities[device]


def overflow_flag(device: torch.device, capturing: bool) -> Tensor:
    """[1] int32: 0, or the longest list wanted. Eager calls get a fresh one, captured calls the device's."""
    if device not in _captured_flags:
        if capturing:
            raise RasterizerError("first rasterizer call inside a CUDA graph capture: run the step once eagerly before")
        _captured_flags[device] = torch.zeros(1, dtype=torch.int32, device=device)
    return _captured_flags[device] if capturing else torch.zeros(1, dtype=torch.int32, device=device)


def check_overflow(device: torch.device | str | None = None) -> None:
    """Raise if a captured graph on this device (None: any) has overflowed since the last check. Waits for the device.

    Raises:
        TileOverflowError: the capacity has been raised to fit; capture again and redo the steps since the last check.
    """
    devices = list(_captured_flags) if device is None else [_indexed(torch.device(device))]
    for each in devices:
        flag = _captured_flags.get(each)
        wanted = int(flag.item()) if flag is not None else 0
        if flag is None or wanted == 0:
            continue
        flag.zero_()
        # The graph may be older than the capacity of today, which eager calls have raised since: do not name its own.
        raise TileOverflowError(
            f"a tile on {each} held {wanted} Gaussians, more than the lists that a graph was captured with; "
            f"lists of later captures hold {reserve_tiles(each, wanted)}: capture again and redo the steps since the "
            "last check_overflow()"
        )


def _indexed(device: torch.device) -> torch.device:
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device
