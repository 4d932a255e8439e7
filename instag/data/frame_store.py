"""Frames of a subject: the protocol that both forms on disk speak, and the bounded uint8 cache.

`SubjectFolder` and `.instag` readers (`FolderSource`, `PackSource`) only fetch; everything that could make them drift
apart (compositing over the plate, resizing, caching) happens once, here.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from instag.data.layout import EXPRESSION_UNITS, JAW_UNIT, LANDMARKS, TRACKS, Label
from instag.data.pictures import resize_image, resize_labels
from instag.errors import DataError

DEFAULT_CACHE_BYTES = 1 << 30
READERS = 12  # that decode a stream of frames, each a run of it


@dataclass(frozen=True)
class SubjectTracks:
    """Per-frame arrays of a clip at its stored size (layout.TRACKS).

    Attributes:
        world_to_camera: float32 [T, 4, 4], OpenCV axes, head units.
        focal: pixels of the stored size; principal point at the image centre.
        landmarks: float32 [T, 68, 2], x y in pixels of the stored size.
        action_units: float32 [T, A], OpenFace intensities 0..5.
        action_unit_names: A names, "AU01" ...
        mesh: float32 [T, 468, 3] camera space (OpenCV axes, head units), or None.
    """

    world_to_camera: np.ndarray
    focal: float
    landmarks: np.ndarray
    action_units: np.ndarray
    action_unit_names: tuple[str, ...]
    mesh: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.world_to_camera)

    def unit(self, name: str) -> np.ndarray:
        """Intensity of one action unit, [T]."""
        return self.action_units[:, self.action_unit_names.index(name)]


class FrameSource(Protocol):
    """What a subject is read through, whichever form it has on disk. Pictures are uint8 RGB at the stored size.

    Attributes:
        id: name of the subject.
        path: the folder or file, for messages.
        frames: T.
        size: H = W of the stored pictures.
        tracks: per-frame arrays.
        over_plate: whether `image` already stands over the clean plate; if not, the plate replaces the background.
        run: frames that are decoded together (a group of pictures), 1 where each stands alone.
        notes: what was missing or odd, one sentence each, for the user.
    """

    id: str
    path: Path
    frames: int
    size: int
    tracks: SubjectTracks
    over_plate: bool
    run: int
    notes: list[str]

    def image(self, i: int) -> np.ndarray:
        """Frame i, [H, W, 3]."""

    def labels(self, i: int) -> np.ndarray:
        """Label map of frame i, [H, W], values of layout.Label."""

    def plate(self, i: int) -> np.ndarray:
        """Torso over the background plate, [H, W, 3]."""

    def plates_video(self) -> bytes:
        """All plates as one H.264 file, a key frame each second."""

    def features(self, extractor: str) -> tuple[np.ndarray, dict | None]:
        """Audio features [T, W, D] float32 and the content of their norm file, if there is one."""

    def sound(self) -> tuple[np.ndarray, int]:
        """The clip's sound: float32 [n] in [-1, 1] and its rate in Hz."""

    def network_prior(self, i: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Depth [H, W] and normals [H, W, 3] (OpenGL camera axes) that a network wrote, or None."""

    def twin(self) -> FrameSource:
        """The same subject with decoders of its own, for another thread; needs no close, and must not outlive this."""

    def close(self) -> None:
        """Release files and decoders."""


class Picture(NamedTuple):
    """One frame at working size, uint8: image and plate [H, W, 3], labels [H, W]."""

    image: np.ndarray
    plate: np.ndarray
    labels: np.ndarray

    @property
    def nbytes(self) -> int:
        """Memory of the three arrays."""
        return sum(array.nbytes for array in self)


class FrameStore:
    """Pictures of a source at working size, kept in a cache of bounded bytes: memory stays flat in the clip's length.

    What is decoded together (a group of pictures) enters the cache together. Safe to call from several threads.
    """

    def __init__(self, source: FrameSource, size: int, cache_bytes: int = DEFAULT_CACHE_BYTES):
        self.source, self.size, self.cache_bytes = source, size, cache_bytes
        self._cache: OrderedDict[int, Picture] = OrderedDict()
        self._bytes = 0
        self._lock = threading.RLock()
        self._mouth_pixels: dict[int, int] = {}  # of the frames whose label maps have been decoded

    @property
    def cached_bytes(self) -> int:
        """Memory of the cached pictures, never above `cache_bytes` (one run of frames excepted)."""
        return self._bytes

    def picture(self, i: int) -> Picture:
        """Frame i: image over the plate, plate and labels at the working size."""
        with self._lock:
            if i in self._cache:
                self._cache.move_to_end(i)
                return self._cache[i]
            first = i - i % self.source.run
            wanted = None
            for j in range(first, min(first + self.source.run, self.source.frames)):
                picture = self._cache.get(j) or self._load(j)
                self._keep(j, picture)
                if j == i:
                    wanted = picture
                elif self._bytes > self.cache_bytes and j > i:
                    break
            self._trim(i)
            assert wanted is not None
            return wanted

    def labels(self, i: int) -> np.ndarray:
        """Label map of frame i at the working size, without decoding the picture where it is not cached."""
        with self._lock:
            if i in self._cache:
                return self._cache[i].labels
            return resize_labels(self.source.labels(i), self.size)

    def mouth_pixels(self, i: int) -> int:
        """How many pixels of frame i show the inside of the mouth, counted at the stored size."""
        if i not in self._mouth_pixels:
            self._decode_labels(i, self.source)
        return self._mouth_pixels[i]

    def stream(self, indices: Sequence[int], chunk: int) -> Iterator[tuple[int, list[Picture]]]:
        """These frames past the cache, at most `chunk` together with the place of the first among them; in any order.

        Several readers decode the same number of groups of pictures each, one chunk ahead of what is handed out; the
        plates beside the rest.
        """
        groups = [int(i) // self.source.run for i in indices]
        starts = [k for k in range(len(groups)) if k == 0 or groups[k] != groups[k - 1]] or [0]
        readers = max(1, min(READERS, os.cpu_count() or 1, len(starts)))
        bounds = [starts[len(starts) * k // readers] for k in range(readers)] + [len(indices)]
        with self._lock, ThreadPoolExecutor(2 * readers) as pool:
            runs = [
                (self.source.twin(), iter(range(first, last, chunk)), last)
                for first, last in zip(bounds[:-1], bounds[1:], strict=True)
            ]

            def submit(source: FrameSource, starts: Iterator[int], last: int) -> Future | None:
                start = next(starts, None)
                return None if start is None else pool.submit(read, source, start, min(start + chunk, last))

            def read(source: FrameSource, start: int, stop: int) -> tuple[int, list[Picture]]:
                numbers = [int(i) for i in indices[start:stop]]
                plates = pool.submit(lambda: [source.plate(i) for i in numbers])  # waits for nobody, so it ends
                rest = [(source.image(i), self._decode_labels(i, source)) for i in numbers]
                pairs = zip(numbers, rest, plates.result(), strict=True)
                return start, [self._picture(i, image, plate, labels) for i, (image, labels), plate in pairs]

            ahead = {future: run for run in runs if (future := submit(*run)) is not None}
            try:
                while ahead:
                    for future in wait(ahead, return_when=FIRST_COMPLETED).done:
                        run = ahead.pop(future)
                        following = submit(*run)
                        if following is not None:
                            ahead[following] = run
                        yield future.result()
            finally:
                for future in ahead:
                    future.cancel()

    def _load(self, i: int) -> Picture:
        source = self.source
        return self._picture(i, source.image(i), source.plate(i), self._decode_labels(i, source))

    def _decode_labels(self, i: int, source: FrameSource) -> np.ndarray:
        labels = source.labels(i)
        self._mouth_pixels[i] = np.count_nonzero(labels == Label.MOUTH)
        return labels

    def _picture(self, i: int, image: np.ndarray, plate: np.ndarray, labels: np.ndarray) -> Picture:
        """A frame's stored parts, checked, over the plate, at the working size."""
        source = self.source
        expected = (source.size, source.size)
        for name, array in (("frame", image), ("plate", plate), ("label map", labels)):
            if array.shape[:2] != expected:
                found = f"{array.shape[1]}x{array.shape[0]}"
                raise DataError(
                    f"{source.path}: {name} {i} is {found} px, the clip {expected[0]}x{expected[1]}; "
                    "make it anew with `instag process`"
                )
        if not source.over_plate:
            image = np.where((labels == Label.BACKGROUND)[..., None], plate, image)
        return Picture(resize_image(image, self.size), resize_image(plate, self.size), resize_labels(labels, self.size))

    def _keep(self, i: int, picture: Picture) -> None:
        if i not in self._cache:
            self._bytes += picture.nbytes
        self._cache[i] = picture
        self._cache.move_to_end(i)

    def _trim(self, keep: int) -> None:
        self._cache.move_to_end(keep)
        while self._bytes > self.cache_bytes and len(self._cache) > 1:
            self._bytes -= self._cache.popitem(last=False)[1].nbytes


def check_tracks(tracks: SubjectTracks, source: str) -> SubjectTracks:
    """The tracks after a check of shapes, finite values and the action units that the method needs; else DataError."""
    length = len(tracks)
    shapes: dict[str, tuple[np.ndarray | None, Sequence[int]]] = {
        "world_to_camera": (tracks.world_to_camera, (4, 4)),
        "landmarks": (tracks.landmarks, (LANDMARKS, 2)),
        "action_units": (tracks.action_units, (len(tracks.action_unit_names),)),
        "mesh": (tracks.mesh, TRACKS["mesh"][1]),
    }
    remedy = "make it anew with `instag process`"
    if not length:
        raise DataError(f"{source}: no frames; {remedy}")
    for name, (array, rest) in shapes.items():
        if array is None:
            continue
        if array.shape != (length, *rest):
            raise DataError(f"{source}: {name} has shape {list(array.shape)}, expected {[length, *rest]}; {remedy}")
        if not np.isfinite(array).all():
            frame = int(np.flatnonzero(~np.isfinite(array).reshape(length, -1).all(1))[0])
            raise DataError(f"{source}: {name} of frame {frame} is not finite; {remedy}")
    if not (np.isfinite(tracks.focal) and tracks.focal > 0):
        raise DataError(f"{source}: focal length {tracks.focal} is not positive; {remedy}")
    missing = [name for name in (*EXPRESSION_UNITS, JAW_UNIT) if name not in tracks.action_unit_names]
    if missing:
        raise DataError(f"{source}: action units {', '.join(missing)} are missing; {remedy}, or use OpenFace's au.csv")
    return tracks


def action_unit_name(column: str) -> str:
    """Name of an OpenFace intensity column: ' AU01_r' -> 'AU01'."""
    return column.strip().removesuffix("_r")
