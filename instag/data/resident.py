"""Frames and conditions as tensors on one device: the one place where both become a `FrameBatch`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from instag import kernels
from instag.camera import Camera
from instag.data.audio import window_table
from instag.data.frame import Condition, FrameBatch, GeometryPrior, PictureRows, Prior

PRIOR_THREADS = 8  # that draw priors on the host
PRIOR_FRAMES = 16  # drawn together
PROGRESS_DELAY = 2.0  # seconds before a bar appears
DEPTH_STEPS = 65_534  # of a frame's range of depths
NORMAL_STEPS = 127.0  # of a component in [0, 1]
SMALLEST_RANGE = 1e-12  # of depths, head units
Indices = Sequence[int] | np.ndarray | Tensor


def take_rows_torch(index: Tensor, *tables: Tensor) -> list[Tensor]:
    """Rows `index` [B] of each table [T, ...], on the tables' device."""
    return [table[index] for table in tables]


def take_rows(index: Tensor, *tables: Tensor) -> list[Tensor]:
    """`take_rows_torch`, in one launch on a GPU; the first table is float32."""
    if kernels.usable(tables[0]):
        from instag.kernels.rows import take_rows_cuda  # needs the `gpu` extra

        return take_rows_cuda(index, *tables)
    return take_rows_torch(index, *tables)


@dataclass(frozen=True)
class ConditionTracks:
    """Everything a `Condition` is cut from, for all T frames, on one device.

    Attributes:
        world_to_camera: float32 [T, 4, 4], OpenCV axes.
        focal: float32 [T], px at the working size.
        expression: float32 [T, 6], order of layout.EXPRESSION_UNITS.
        features: float32 [T', W, D], T' nearly T; empty [0, 0, 0] where no extractor was asked for.
        lip_rectangle: int64 [T, 4] top, bottom, left, right at the working size.
        size: working size, px.
    """

    world_to_camera: Tensor
    focal: Tensor
    expression: Tensor
    features: Tensor
    lip_rectangle: Tensor
    size: int

    def to(self, device: torch.device | str) -> ConditionTracks:
        """The same tracks on a device."""
        moved = [getattr(self, field.name) for field in fields(self)]
        return ConditionTracks(*(value.to(device) if isinstance(value, Tensor) else value for value in moved))

    @cached_property
    def _windows(self) -> Tensor:
        """Every frame's audio, [T, 8, D, W]: a view of the features."""
        return window_table(self.features, len(self.focal))

    @cached_property
    def _rows(self) -> Tensor:
        """Every frame's pose, focal length and expression, [T, 23]: looked up together."""
        return torch.cat([self.world_to_camera.flatten(1), self.focal[:, None], self.expression], 1)

    def condition(self, index: Tensor) -> Condition:
        """Condition of frames `index` [B] (int64, on the tracks' device)."""
        return self.look_up(index)[0]

    def look_up(self, index: Tensor, *more: Tensor) -> tuple[Condition, list[Tensor]]:
        """Condition of frames `index` [B], and their rows of at most two more tables [T, ...]; all at once."""
        heard = [self._windows] if len(self.features) else []
        rows, *found = take_rows(index, self._rows, *more, *heard)
        pose, focal, expression = rows.split([16, 1, self.expression.shape[1]], 1)
        camera = Camera(pose.unflatten(1, (4, 4)), focal[:, 0], self.size, self.size)
        audio = found.pop() if heard else self.expression.new_zeros(len(index), 0, 0, 0)
        return Condition(camera, audio, expression), found

    def batch(self, index: Tensor, pictures: PictureRows, prior: Prior | None) -> FrameBatch:
        """Frames `index` [B], whose pictures these are."""
        condition, (lips,) = self.look_up(index, self.lip_rectangle)
        return FrameBatch(index, condition, pictures, lips, prior)


@dataclass(frozen=True)
class FaceMesh:
    """The face mesh of R frames, from which their priors can be drawn on the device.

    Attributes:
        vertices: float32 [R, V, 3] camera space, OpenCV axes, head units.
        triangles: int64 [M, 3].
        focal: px at the working size.
    """

    vertices: Tensor
    triangles: Tensor
    focal: float


class ResidentFrames:
    """Frames of a subject as uint8 tensors on one device; `batch` equals `SubjectDataset.batch`.

    Attributes:
        index: int64 [R], the frame number of each row.
        image, plate: uint8 [R, H, W, 3].
        labels: uint8 [R, H, W].
    """

    def __init__(
        self,
        tracks: ConditionTracks,
        index: Tensor,
        image: Tensor,
        plate: Tensor,
        labels: Tensor,
        prior: Callable[[Sequence[int]], GeometryPrior],
        mesh: FaceMesh | None = None,
    ):
        """Use `SubjectDataset.to_device`.

        tracks: of all frames, on this device; prior: makes priors on the host; mesh: where all priors come from it.
        """
        self.index, self.image, self.plate, self.labels = index, image, plate, labels
        self._tracks, self._prior, self._mesh = tracks, prior, mesh
        self._priors: CompactPriors | None = None
        self._row = torch.full((len(tracks.focal),), -1, dtype=torch.int64, device=index.device)
        self._row[index] = torch.arange(len(index), device=index.device)
        self._stays = {number: row for row, number in enumerate(index.tolist())}

    def __len__(self) -> int:
        return len(self.index)

    @property
    def device(self) -> torch.device:
        """Where the frames are."""
        return self.index.device

    def batch(self, indices: Indices, prior: bool = False) -> FrameBatch:
        """Frames by their numbers in the clip (those uploaded).

        A tensor on an accelerator is trusted, so that nothing is read back; anything else is checked (IndexError).
        """
        if isinstance(indices, Tensor) and indices.device.type != "cpu":
            index = indices.long().reshape(-1)
        else:
            numbers = torch.as_tensor(indices).long().reshape(-1)
            absent = [i for i in numbers.tolist() if not self._has(i)]
            if absent:
                raise IndexError(f"frame {absent[0]} was not uploaded")
            index = numbers.to(self.device)
        condition, (lips, row) = self._tracks.look_up(index, self._tracks.lip_rectangle, self._row)
        geometry = self.load_priors().rows(row) if prior else None
        return FrameBatch(index, condition, PictureRows(self.image, self.plate, self.labels, row), lips, geometry)

    def prepare(self, indices: Sequence[int], prior: bool = False) -> None:
        """Have frames on the device for a step that is queued next: here they always are."""

    def _has(self, number: int) -> bool:
        """Whether a frame is on the device."""
        return number in self._stays

    def geometry(self, indices: Sequence[int]) -> GeometryPrior:
        """Geometry priors of a few frames, not kept."""
        if self._mesh is None or not kernels.usable(self._mesh.vertices):
            return self._prior(indices).to(self.device)
        rows = torch.tensor([self._mesh_row(number) for number in indices], device=self.device)
        depth, normal, valid = self._draw_mesh(self._mesh, rows)
        return GeometryPrior(depth[:, None], normal.permute(0, 3, 1, 2).float() / NORMAL_STEPS, valid[:, None])

    def load_priors(self, progress: bool = False) -> CompactPriors:
        """Geometry priors of all rows that stay, made when first asked for and then kept; see `_put_priors`."""
        if self._priors is None:
            self._priors = CompactPriors(self.labels)
            numbers = self.index.tolist()
            with tqdm(total=len(numbers), desc="priors", unit="frame", delay=PROGRESS_DELAY, disable=not progress) as bar:
                for start in range(0, len(numbers), PRIOR_FRAMES):
                    rows = slice(start, min(start + PRIOR_FRAMES, len(numbers)))
                    self._put_priors(self._priors, rows, rows, numbers[rows])
                    bar.update(rows.stop - rows.start)
        return self._priors

    def _put_priors(self, priors: CompactPriors, rows: slice, mesh_rows: slice, numbers: Sequence[int]) -> None:
        """Priors of some frames: drawn on the device from their mesh, or made on the host where there is none."""
        if self._mesh is not None and kernels.usable(self._mesh.vertices):
            return priors.put_drawn(rows, *self._draw_mesh(self._mesh, mesh_rows))
        with ThreadPoolExecutor(min(PRIOR_THREADS, os.cpu_count() or 1)) as pool:
            made = pool.map(lambda number: self._prior([number]), numbers)
            for row, prior in zip(range(rows.start, rows.stop), made, strict=True):
                priors.put(row, prior)

    def _draw_mesh(self, mesh: FaceMesh, rows: slice | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        from instag.kernels.mesh_prior import mesh_priors_cuda  # needs the `gpu` extra

        return mesh_priors_cuda(mesh.vertices[rows], mesh.triangles, mesh.focal, self.labels.shape[-1])

    def _mesh_row(self, number: int) -> int:
        """Where the mesh of a frame stands."""
        return self._stays[number]


class CompactPriors:
    """Geometry priors of R frames in 6 bytes a pixel: depth in steps of a 65,534th of its range, normals of a 127th.

    That is finer than any prior is true. Where a prior is not valid, its depth is arbitrary.

    Attributes:
        depth: int16 [R, H, W], steps from the middle.
        normal: int8 [R, H, W, 3].
        valid: bool [R, H, W].
        range: float32 [R, 2]: middle, size of a step.
    """

    def __init__(self, labels: Tensor):
        """labels: [R, H, W], for the shape and the device."""
        self.depth = torch.zeros_like(labels, dtype=torch.int16)
        self.normal = labels.new_zeros((*labels.shape, 3), dtype=torch.int8)
        self.valid = torch.zeros_like(labels, dtype=torch.bool)
        self.range = labels.new_zeros((len(labels), 2), dtype=torch.float32)

    def put(self, row: int, prior: GeometryPrior) -> None:
        """Keep a frame's prior, given on the host."""
        valid = prior.valid[0, 0]
        depth = torch.where(valid, prior.depth[0, 0], prior.depth[prior.valid].mean() if valid.any() else 0.0)
        low, high = depth.min(), depth.max()
        middle, step = (low + high) / 2, (high - low).clamp_min(SMALLEST_RANGE) / DEPTH_STEPS
        self.depth[row] = ((depth - middle) / step).round().short().to(self.depth.device)
        self.normal[row] = (NORMAL_STEPS * prior.normal[0]).round().char().permute(1, 2, 0).to(self.normal.device)
        self.valid[row] = valid.to(self.valid.device)
        self.range[row] = torch.stack([middle, step]).to(self.range.device)

    def put_drawn(self, rows: slice, depth: Tensor, normal: Tensor, valid: Tensor) -> None:
        """Keep priors of R' rows: depth float32 [R', H, W], normal int8 [R', H, W, 3] in 127ths, valid [R', H, W]."""
        low = depth.masked_fill(~valid, torch.inf).amin((1, 2))
        high = depth.masked_fill(~valid, -torch.inf).amax((1, 2))
        seen = low <= high
        middle, step = ((low + high) / 2).where(seen, 0.0), (high - low).clamp_min(SMALLEST_RANGE) / DEPTH_STEPS
        step = step.where(seen, 1.0)
        steps = ((depth - middle[:, None, None]) / step[:, None, None]).round().masked_fill(~valid, 0.0)
        self.depth[rows] = steps.short()
        self.normal[rows], self.valid[rows] = normal, valid
        self.range[rows] = torch.stack([middle, step], 1)

    def rows(self, row: Tensor) -> StoredPrior:
        """Priors of B rows, int64 [B] on this device."""
        return StoredPrior(self, row)


@dataclass(frozen=True)
class StoredPrior:
    """Priors of B rows of a store; they become floats when they are first asked for. See `GeometryPrior`."""

    store: CompactPriors
    row: Tensor

    @cached_property
    def depth(self) -> Tensor:
        """[B, 1, H, W] larger when farther."""
        middle, step = self.store.range[self.row][..., None, None, None].unbind(1)  # [B, 1, 1, 1]
        return middle + step * self.store.depth[self.row][:, None].float()

    @cached_property
    def normal(self) -> Tensor:
        """[B, 3, H, W] unit, OpenGL camera axes."""
        return self.store.normal[self.row].permute(0, 3, 1, 2).contiguous().float() / NORMAL_STEPS

    @cached_property
    def valid(self) -> Tensor:
        """Bool [B, 1, H, W]."""
        return self.store.valid[self.row][:, None]

    def to(self, device: torch.device | str) -> GeometryPrior:
        """The same priors on a device, without their store."""
        return GeometryPrior(self.depth.to(device), self.normal.to(device), self.valid.to(device))
