"""A subject, whichever form it has on disk -> `FrameBatch`; lazy, uint8, memory flat in the video's length."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from instag.closing import Closing
from instag.data.audio import DEFAULT_EXTRACTOR
from instag.data.frame import Condition, FrameBatch, GeometryPrior, PictureRows
from instag.data.frame_store import DEFAULT_CACHE_BYTES, FrameSource, FrameStore, Picture, SubjectTracks
from instag.data.pictures import resize_prior
from instag.data.layout import (
    BLINK_RANGE,
    BLINK_UNIT,
    EXPRESSION_UNITS,
    FPS,
    INNER_LIPS,
    JAW_UNIT,
    OUTER_LIPS,
)
from instag.data.pack import PackSource
from instag.data.resident import ConditionTracks, FaceMesh, Indices, ResidentFrames
from instag.data.sampling import FrameStatistics
from instag.data.split import ALL_VIEWS, Split, split_frames
from instag.data.streamed import RING, FrameFile, StreamedFrames, rows_within
from instag.data.subject_folder import FolderSource
from instag.errors import DataError

MAX_FEATURE_GAP = FPS  # frames that the features may be shorter than the clip; what is missing counts as silence
MIN_SIZE = 16  # px
LABEL_THREADS = 8  # that decode label maps for statistics
UPLOAD_FRAMES = 4  # pictures a chunk on their way to a device; each reader has two chunks in memory


class SubjectDataset(Closing):
    """Frames and conditions of one subject. Open with `SubjectDataset.open`; usable in a `with` block.

    Attributes:
        source: the folder or pack it reads from.
        size: working size H = W, px.
        extractor: name of the audio features, or None.
        features: float32 [T', W, D] (T' may differ from T by less than a second), or None.
        norm: normalisation of the features as stored beside them, or None.
        notes: what was missing or odd, one sentence each, for the user.
    """

    def __init__(self, source: FrameSource, size: int | None, extractor: str | None, cache_bytes: int):
        if size is not None and not MIN_SIZE <= size <= source.size:
            raise DataError(f"{source.path}: size {size} is outside {MIN_SIZE}..{source.size}, the size of its frames")
        self.source, self.extractor = source, extractor
        self.size = size or source.size
        self.notes = list(source.notes)
        self.features: np.ndarray | None = None
        self.norm: dict | None = None
        if extractor is not None:
            self.features, self.norm = source.features(extractor)
            self._check_length(len(self.features))
        self.store = FrameStore(source, self.size, cache_bytes)
        self._tracks: dict[torch.device, ConditionTracks] = {}

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        size: int | None = None,
        extractor: str | None = DEFAULT_EXTRACTOR,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> SubjectDataset:
        """Open a subject folder (ours or another program's of the field) or a `.instag` file.

        Args:
            path: the folder or file.
            size: working size in px, at most the stored one (None): pictures are area-averaged, labels nearest.
            extractor: audio features to use (`instag.data.audio.EXTRACTORS`); None: none, `audio` is then empty.
            cache_bytes: bound of the uint8 picture cache.

        Raises:
            DataError: naming the part that is missing or damaged.
        """
        path = Path(path)
        source: FrameSource = FolderSource(path) if path.is_dir() else PackSource(path)
        try:
            return cls(source, size, extractor, cache_bytes)
        except BaseException:
            source.close()
            raise

    def __len__(self) -> int:
        return self.source.frames

    def close(self) -> None:
        """Release files, decoders and temporary copies."""
        self.source.close()

    # --- whole tracks -------------------------------------------------------------------------------------------
    @property
    def id(self) -> str:
        """Name of the subject."""
        return self.source.id

    @property
    def tracks(self) -> SubjectTracks:
        """Per-frame arrays at the stored size."""
        return self.source.tracks

    @property
    def scale(self) -> float:
        """Working size over stored size."""
        return self.size / self.source.size

    @property
    def focal(self) -> float:
        """Focal length, px at the working size."""
        return self.tracks.focal * self.scale

    @property
    def world_to_camera(self) -> np.ndarray:
        """float32 [T, 4, 4], OpenCV axes, head units."""
        return self.tracks.world_to_camera

    @property
    def landmarks(self) -> np.ndarray:
        """float32 [T, 68, 2], x y in px at the working size."""
        return self.tracks.landmarks * np.float32(self.scale)

    @property
    def action_units(self) -> np.ndarray:
        """float32 [T, A], intensities 0..5; names in `action_unit_names`."""
        return self.tracks.action_units

    @property
    def action_unit_names(self) -> tuple[str, ...]:
        """Names of the columns of `action_units`."""
        return self.tracks.action_unit_names

    @cached_property
    def expression(self) -> np.ndarray:
        """float32 [T, 6]: layout.EXPRESSION_UNITS, the blink clipped to 0..2 (METHOD.md section 2)."""
        columns = [self.tracks.unit(name) for name in EXPRESSION_UNITS]
        columns[EXPRESSION_UNITS.index(BLINK_UNIT)] = self.blink
        return np.stack(columns, axis=1)

    @property
    def blink(self) -> np.ndarray:
        """AU45 clipped to 0..2, [T]."""
        return np.clip(self.tracks.unit(BLINK_UNIT), *BLINK_RANGE)

    @property
    def lip_rectangle(self) -> np.ndarray:
        """int64 [T, 4] top, bottom, left, right at the working size (METHOD.md section 7)."""
        return lip_rectangles(self.landmarks, self.size)

    @cached_property
    def statistics(self) -> FrameStatistics:
        """Statistics of all frames, px counted at the stored size. Decodes every label map once, on first use."""
        return self.statistics_of(np.arange(len(self)))

    def statistics_of(self, indices: Indices) -> FrameStatistics:
        """Statistics of some frames, px counted at the stored size; decodes the label maps that were not decoded yet."""
        index = self._numbers(indices)
        numbers = list(set(index.tolist()))
        with ThreadPoolExecutor(min(LABEL_THREADS, os.cpu_count() or 1)) as pool:
            mouth_pixels = dict(zip(numbers, pool.map(self.store.mouth_pixels, numbers), strict=True))
        return FrameStatistics(
            inner_lip_height=inner_lip_heights(self.tracks.landmarks)[index],
            blink=self.blink[index],
            jaw=self.tracks.unit(JAW_UNIT)[index],
            mouth_pixels=np.array([mouth_pixels[i] for i in index.tolist()], np.int64),
            size=self.source.size,
        )

    def split(
        self,
        n_views: int = ALL_VIEWS,
        all_for_train: bool = False,
        first: int = 0,
        test: tuple[int, int] | None = None,
    ) -> Split:
        """Training and test frames (`instag.data.split.split_frames`)."""
        return split_frames(len(self), n_views, all_for_train, first, test)

    def sound(self) -> tuple[np.ndarray, int]:
        """The clip's sound, float32 [n] in [-1, 1], and its rate in Hz."""
        return self.source.sound()

    def sound_of(self, frames: Sequence[int]) -> tuple[np.ndarray, int]:
        """The sound of consecutive frames, float32 [n], and its rate in Hz; DataError where there is none."""
        samples, rate = self.sound()
        return samples[round(frames[0] * rate / FPS) : round((frames[-1] + 1) * rate / FPS)], rate

    # --- frames -------------------------------------------------------------------------------------------------
    def picture(self, i: int) -> Picture:
        """uint8 image, plate [H, W, 3] and labels [H, W] of frame i at the working size."""
        return self.store.picture(int(self._numbers([i])[0]))

    def condition(self, indices: Indices, device: torch.device | str = "cpu") -> Condition:
        """Conditions of frames `indices` (B of them); no picture is touched."""
        tracks = self._condition_tracks(device)
        return tracks.condition(torch.from_numpy(self._numbers(indices)).to(device))

    def batch(self, indices: Indices, device: torch.device | str = "cpu", prior: bool = False) -> FrameBatch:
        """Frames `indices` (B of them, any order, repeats allowed); with the geometry prior where asked for."""
        index = self._numbers(indices)
        pictures = [self.store.picture(int(i)) for i in index]
        stacked = (torch.from_numpy(np.stack(arrays)).to(device) for arrays in zip(*pictures, strict=True))
        rows = PictureRows(*stacked, torch.arange(len(index), device=device))
        geometry = self.prior(index, device) if prior else None
        return self._condition_tracks(device).batch(torch.from_numpy(index).to(device), rows, geometry)

    def prior(self, indices: Indices, device: torch.device | str = "cpu") -> GeometryPrior:
        """Depth and normals: of sapiens/ where the folder has it, else of the face mesh; DataError where neither is."""
        frames = [self._prior(int(i)) for i in self._numbers(indices)]
        depth, normal, valid = (np.stack(arrays) for arrays in zip(*frames, strict=True))
        return GeometryPrior(
            torch.from_numpy(depth[:, None]).to(device),
            torch.from_numpy(np.ascontiguousarray(normal.transpose(0, 3, 1, 2))).to(device),
            torch.from_numpy(valid[:, None]).to(device),
        )

    def to_device(
        self,
        device: torch.device | str,
        indices: Indices,
        limit: int | None = None,
        scratch: Path | None = None,
    ) -> ResidentFrames:
        """Upload frames `indices` as uint8, in chunks; their batches then need no host copy.

        limit: bytes for them on the device (None: any); what does not fit is streamed (`instag.data.streamed`) from a
        file without a name in the folder `scratch`. DataError: that folder has no room for it.
        """
        index = self._numbers(indices)
        stay = len(index) if limit is None else rows_within(limit, self.size)
        stay = len(index) if stay >= len(index) else max(0, stay - RING)  # the ring takes its share
        file = FrameFile(scratch, len(index) - stay, self.size) if stay < len(index) else None
        shape = (stay + RING if file else stay, self.size, self.size)
        image = torch.empty((*shape, 3), dtype=torch.uint8, device=device)
        plate = torch.empty_like(image)
        labels = torch.empty(shape, dtype=torch.uint8, device=device)
        for start, chunk in self.store.stream(index, UPLOAD_FRAMES):
            here = chunk[: max(0, stay - start)]
            if here:
                rows = slice(start, start + len(here))
                for target, arrays in zip((image, plate, labels), zip(*here, strict=True), strict=True):
                    target[rows] = torch.from_numpy(np.stack(arrays)).to(device)
            if file is not None:
                for i, picture in enumerate(chunk[len(here) :], start + len(here) - stay):
                    file.write(i, picture)
        rows = torch.from_numpy(index[:stay]).to(device)
        tracks, mesh = self._condition_tracks(device), self._face_mesh(index, device)
        if file is None:
            return ResidentFrames(tracks, rows, image, plate, labels, self.prior, mesh)
        return StreamedFrames(tracks, rows, image, plate, labels, self.prior, mesh, file, index[stay:].tolist())

    # --- parts --------------------------------------------------------------------------------------------------
    def _numbers(self, indices: Indices) -> np.ndarray:
        """Frame numbers as int64 [B], all inside the clip."""
        index = np.asarray(indices.cpu() if isinstance(indices, Tensor) else indices, np.int64).reshape(-1)
        if index.size and not (index.min() >= 0 and index.max() < len(self)):
            raise IndexError(f"frames {index.min()}..{index.max()} of a clip of {len(self)}")
        return index

    def _condition_tracks(self, device: torch.device | str) -> ConditionTracks:
        device = torch.device(device)
        if device not in self._tracks:
            features = self.features if self.features is not None else np.zeros((0, 0, 0), np.float32)
            tracks = ConditionTracks(
                torch.from_numpy(self.world_to_camera),
                torch.full((len(self),), self.focal, dtype=torch.float32),
                torch.from_numpy(self.expression),
                torch.from_numpy(features),
                torch.from_numpy(self.lip_rectangle),
                self.size,
            )
            self._tracks[device] = tracks.to(device)
        return self._tracks[device]

    def _check_length(self, rows: int) -> None:
        frames = len(self)
        if rows < frames - MAX_FEATURE_GAP:
            raise DataError(
                f"{self.source.path}: {self.extractor} features cover {rows} of {frames} frames; "
                "make them anew with `instag features`"
            )
        if rows < frames:
            self.notes.append(f"{self.extractor} features end {frames - rows} frames early; the rest counts as silence")

    def _face_mesh(self, index: np.ndarray, device: torch.device | str) -> FaceMesh | None:
        """The mesh of frames `index`, where no network wrote a prior of any of them."""
        if self.tracks.mesh is None or any(self.source.network_prior(int(i)) is not None for i in index):
            return None
        from instag.data_utils.face_mesh import face_triangles

        vertices = torch.from_numpy(np.ascontiguousarray(self.tracks.mesh[index], np.float32)).to(device)
        return FaceMesh(vertices, torch.from_numpy(np.asarray(face_triangles(), np.int64)).to(device), self.focal)

    def _prior(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Depth [H, W], normal [H, W, 3] and validity [H, W] of frame i at the working size."""
        network = self.source.network_prior(i)
        if network is not None:
            return resize_prior(*network, self.size)
        if self.tracks.mesh is None:
            raise DataError(
                f"{self.source.path}: no face mesh and no sapiens/ to take depth and normals from; "
                "process the clip anew, or switch the geometry prior off (--set training.face.prior_from=null)"
            )
        from instag.data_utils.face_mesh import face_triangles
        from instag.data_utils.priors import rasterize_mesh

        return rasterize_mesh(self.tracks.mesh[i], face_triangles(), self.focal, self.size)


def lip_rectangles(landmarks: np.ndarray, size: int) -> np.ndarray:
    """Squares round the outer lips (METHOD.md section 7).

    landmarks: [T, 68, 2] px, truncated to whole numbers here. Returns int64 [T, 4] top, bottom, left, right, half-open,
    clipped to the image of `size` px: centre = floor of the mid-point, half side = floor(longer side / 2).
    """
    lips = landmarks[:, OUTER_LIPS].astype(np.int64)  # [T, 12, 2]
    low, high = lips.min(1), lips.max(1)  # [T, 2] x y
    centre = (low + high) // 2
    half = ((high - low).max(1) // 2)[:, None]  # [T, 1]
    start, stop = (centre - half).clip(0, size), (centre + half).clip(0, size)
    return np.stack([start[:, 1], stop[:, 1], start[:, 0], stop[:, 0]], axis=1)


def inner_lip_heights(landmarks: np.ndarray) -> np.ndarray:
    """Max - min of the truncated y of landmarks 60..67, int64 [T] (METHOD.md section 7)."""
    rows = landmarks[:, INNER_LIPS, 1].astype(np.int64)
    return rows.max(1) - rows.min(1)
