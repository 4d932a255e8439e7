"""Many frames of an avatar, in order: batches rendered as one captured graph while earlier ones leave the GPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from instag.data.frame import to_float
from instag.kernels.capture import Captured, Graphs

FRAMES = 8  # of a batch, rendered together
IN_FLIGHT = 2  # batches that are queued before the first is waited for
PLATE_BYTES = 1 << 30  # of backgrounds kept on the device


class Ticket(NamedTuple):
    """A batch that is under way: its rows, and where they will lie on the host, with the flag that says if well."""

    rows: list[int]
    pictures: Tensor  # uint8 [B, H, W, 3], pinned
    overflow: Tensor  # [1], pinned
    done: torch.cuda.Event | None


class PlateSlots:
    """Backgrounds on the device, decoded when first asked for; the oldest make room where they do not all fit."""

    def __init__(self, read: Callable[[int], np.ndarray], size: int, device: torch.device, frames: int):
        """read: frame of the clip -> uint8 [H, W, 3]; size: H = W; frames: how many different ones there are."""
        most = max(FRAMES, min(frames, PLATE_BYTES // (3 * size * size)))
        self.pictures = torch.zeros(most, size, size, 3, dtype=torch.uint8, device=device)
        self._read = read
        self._slots: dict[int, int] = {}  # frame -> slot, oldest first

    def place(self, frames: Sequence[int]) -> list[int]:
        """Slots of at most FRAMES frames, which stay there until the next call."""
        needed = set(frames)
        for frame in needed - self._slots.keys():
            slot = len(self._slots)
            if slot == len(self.pictures):
                oldest = next(old for old in self._slots if old not in needed)
                slot = self._slots.pop(oldest)
            self._slots[frame] = slot
            self.pictures[slot].copy_(torch.from_numpy(self._read(frame)), non_blocking=True)
        return [self._slots[frame] for frame in frames]


class BatchRenderer:
    """Renders rows of a schedule.

    Args:
        draw: clip frames [B], rows [B], plates [B, 3, H, W] -> pictures uint8 [B, H, W, 3]; nothing read back.
        schedule: [F] frame of the clip that each row takes its pose and background from.
        plates: backgrounds.
        graphs: records `draw`; None: it is called each time.
    """

    def __init__(
        self,
        draw: Callable[[Tensor, Tensor, Tensor], Tensor],
        schedule: np.ndarray,
        plates: PlateSlots,
        graphs: Graphs,
    ):
        self._draw, self._schedule, self._plates, self._graphs = draw, schedule, plates, graphs
        device = plates.pictures.device
        self._index, self._row, self._slot = (torch.zeros(FRAMES, dtype=torch.int64, device=device) for _ in range(3))
        self._captured: Captured[Tensor] | None = None
        size = plates.pictures.shape[1]
        self._buffers = [self._pinned((FRAMES, size, size, 3), torch.uint8) for _ in range(IN_FLIGHT)]
        self._flags = [self._pinned((1,), torch.int32) for _ in range(IN_FLIGHT)]

    def __iter__(self) -> Iterator[np.ndarray]:
        """Batches of pictures, uint8 [b, H, W, 3], rows in order; each array is the receiver's own."""
        waiting: deque[Ticket] = deque()
        for turn, start in enumerate(range(0, len(self._schedule), FRAMES)):
            rows = list(range(start, min(start + FRAMES, len(self._schedule))))
            if len(waiting) == IN_FLIGHT:
                yield self._receive(waiting)
            waiting.append(self._submit(rows, turn % IN_FLIGHT))
        while waiting:
            yield self._receive(waiting)

    def _submit(self, rows: list[int], buffer: int) -> Ticket:
        """Queue a batch and its way to the host; the last batch is filled up with its last row."""
        padded = rows + rows[-1:] * (FRAMES - len(rows))
        frames = [int(self._schedule[row]) for row in padded]
        with self._graphs.active():
            return self._queue(rows, padded, frames, buffer)

    def _queue(self, rows: list[int], padded: list[int], frames: list[int], buffer: int) -> Ticket:
        for target, values in ((self._slot, self._plates.place(frames)), (self._index, frames), (self._row, padded)):
            target.copy_(torch.tensor(values), non_blocking=True)
        if self._captured is None:
            self._work()  # makes all that is made at first use, and lists long enough for these frames
            self._captured = self._graphs.capture(self._work)
        pictures, flag = self._buffers[buffer], self._flags[buffer]
        pictures.copy_(self._captured.replay(), non_blocking=True)
        flag.copy_(self._graphs.overflow_flag(), non_blocking=True)
        done = None
        if self._index.is_cuda:
            done = torch.cuda.Event()
            done.record()
        return Ticket(rows, pictures, flag, done)

    def _receive(self, waiting: deque[Ticket]) -> np.ndarray:
        """The oldest batch. Where a tile's list was too short, it and those behind it are drawn again."""
        while True:
            ticket = waiting[0]
            if ticket.done is not None:
                ticket.done.synchronize()
            if not int(ticket.overflow):
                waiting.popleft()
                return ticket.pictures[: len(ticket.rows)].numpy().copy()
            self._graphs.overflow()
            self._captured = None
            for k, late in enumerate(list(waiting)):
                buffer = next(i for i, pictures in enumerate(self._buffers) if pictures is late.pictures)
                waiting[k] = self._submit(late.rows, buffer)

    @torch.no_grad()
    def _work(self) -> Tensor:
        return self._draw(self._index, self._row, to_float(self._plates.pictures[self._slot]))

    def _pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, pin_memory=self._index.is_cuda)
