"""Frames of a video that is too long for the GPU: some stay there, the others lie decoded in a scratch file and pass
through a few rows, copied ahead of the steps that read them."""

from __future__ import annotations

import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from instag.data.frame import GeometryPrior
from instag.data.frame_store import Picture
from instag.data.resident import ConditionTracks, FaceMesh, ResidentFrames
from instag.errors import DataError

RING = 16  # rows that streamed frames pass through; a step reads at most so many
PICTURE_BYTES = 7  # per pixel: image 3, plate 3, labels 1
PRIOR_BYTES = 6  # per pixel, see CompactPriors


def rows_within(limit: int, size: int) -> int:
    """How many frames of `size` px, with their priors, `limit` bytes hold."""
    return limit // ((PICTURE_BYTES + PRIOR_BYTES) * size * size)


class FrameFile:
    """Decoded frames in a file without a name: it disappears with this object, or with the process.

    Read by offsets, not mapped: the system's page cache holds what fits, the process nothing.
    """

    def __init__(self, folder: Path | None, frames: int, size: int):
        """folder: where it lies (None: the system's); frames: that will be written. DataError: no room there."""
        self._frame = PICTURE_BYTES * size * size
        where = Path(folder or tempfile.gettempdir())
        needed, free = frames * self._frame, shutil.disk_usage(where).free
        if needed > free:
            raise DataError(
                f"{where}: {frames} frames that do not fit on the GPU need {needed >> 20} MiB there, {free >> 20} are "
                "free: free some, choose another output folder, or take fewer frames (data.n_views) or a smaller size"
            )
        self._file = tempfile.TemporaryFile(dir=where, buffering=0)  # noqa: SIM115

    def write(self, number: int, picture: Picture) -> None:
        """Frame `number`, counted from 0 in this file."""
        self._file.seek(number * self._frame)
        if self._file.write(np.concatenate([part.reshape(-1) for part in picture])) != self._frame:
            raise DataError(f"the scratch file of decoded frames cannot hold frame {number}: free space on its disk")

    def read(self, number: int, out: Tensor) -> None:
        """Frame `number` into `out`, uint8 [frame bytes] on the host: image, plate, labels."""
        self._file.seek(number * self._frame)
        if self._file.readinto(out.numpy()) != self._frame:
            raise DataError(f"the scratch file of decoded frames ends in frame {number}: is its disk full?")


@dataclass
class Slot:
    """One row of the ring.

    Attributes:
        row: in the device's stores.
        staging: uint8 [frame bytes], host memory that the device can copy from by itself.
        frame: number in the clip of what it holds; None: nothing.
        has_prior: whether the frame's prior is there too.
        used: after the last step that reads it was queued.
        copied: after the copy to the device.
    """

    row: int
    staging: Tensor
    frame: int | None = None
    has_prior: bool = False
    used: torch.cuda.Event | None = None
    copied: torch.cuda.Event | None = None


class StreamedFrames(ResidentFrames):
    """As `ResidentFrames`, but only the first R rows stay; `prepare` brings the other frames before a step.

    The host runs ahead of the device by up to RING frames: a frame is read and copied on a stream of its own while
    earlier steps compute, and a row is written only after the last step that reads it.

    Attributes:
        index: int64 [R], the frame number of each row that stays.
        image, plate, labels: uint8 [R + RING, ...].
    """

    def __init__(
        self,
        tracks: ConditionTracks,
        index: Tensor,
        image: Tensor,
        plate: Tensor,
        labels: Tensor,
        prior: Callable[[Sequence[int]], GeometryPrior],
        mesh: FaceMesh | None,
        file: FrameFile,
        streamed: Sequence[int],
    ):
        """Use `SubjectDataset.to_device`; file: holds the frames `streamed`; mesh: of those that stay, then of those."""
        super().__init__(tracks, index, image, plate, labels, prior, mesh)
        self._file = file
        self._place = {int(frame): i for i, frame in enumerate(streamed)}  # in the file
        on_gpu = image.is_cuda
        self._copies = torch.cuda.Stream(image.device) if on_gpu else None
        if self._copies is not None:
            self._copies.wait_stream(torch.cuda.current_stream(image.device))
        size = PICTURE_BYTES * labels.shape[1] * labels.shape[2]
        staging = torch.empty(RING, size, dtype=torch.uint8, pin_memory=on_gpu)
        self._ring = [Slot(len(index) + i, staging[i]) for i in range(RING)]
        self._held: OrderedDict[int, Slot] = OrderedDict()  # frames in the ring, the longest unused first
        self._last: list[Slot] = []  # read by the step that was prepared last

    def prepare(self, indices: Sequence[int], prior: bool = False) -> None:
        """Have frames on the device, with their priors where asked, for a step that is queued next."""
        self._mark_used()
        wanted = [int(frame) for frame in dict.fromkeys(indices) if int(frame) in self._place]
        if len(wanted) > RING:
            raise DataError(
                f"{len(wanted)} frames in a step: at most {RING} where frames are streamed; lower frames_per_step, "
                "or raise data.gpu_cache_mb until all frames fit"
            )
        for frame in wanted:
            if frame in self._held:
                self._held.move_to_end(frame)
        self._last = [self._held.get(frame) or self._bring(frame) for frame in wanted]
        for slot in self._last:
            if slot.copied is not None:
                torch.cuda.current_stream(self.device).wait_event(slot.copied)
            if prior and not slot.has_prior:
                self._bring_prior(slot)

    def _mark_used(self) -> None:
        """All steps so far are queued: what the last one reads is free after this point of the device's work."""
        if self._copies is not None and self._last:
            used = torch.cuda.current_stream(self.device).record_event()
            for slot in self._last:
                slot.used = used

    def _bring(self, frame: int) -> Slot:
        """Read a frame into the row that was not used for longest, and queue its copy."""
        slot = next((slot for slot in self._ring if slot.frame is None), None)
        if slot is None:
            _, slot = self._held.popitem(last=False)
        if slot.copied is not None:
            slot.copied.synchronize()  # the host may write its memory again
        self._file.read(self._place[frame], slot.staging)
        slot.frame, slot.has_prior = frame, False
        with torch.cuda.stream(self._copies) if self._copies is not None else nullcontext():
            if self._copies is not None and slot.used is not None:
                self._copies.wait_event(slot.used)
            pixels = self.labels[0].numel()
            for store, part in zip(
                (self.image, self.plate, self.labels), slot.staging.split([3 * pixels, 3 * pixels, pixels]), strict=True
            ):
                store[slot.row].view(-1).copy_(part, non_blocking=True)
            if self._copies is not None:
                slot.copied = self._copies.record_event()
        self._row[frame].fill_(slot.row)
        self._held[frame] = slot
        return slot

    def _bring_prior(self, slot: Slot) -> None:
        assert slot.frame is not None
        mesh_row = self._mesh_row(slot.frame)
        self._put_priors(self.load_priors(), slice(slot.row, slot.row + 1), slice(mesh_row, mesh_row + 1), [slot.frame])
        slot.has_prior = True

    def _mesh_row(self, number: int) -> int:
        place = self._place.get(number)
        return super()._mesh_row(number) if place is None else len(self) + place

    def _has(self, number: int) -> bool:
        return super()._has(number) or number in self._held
