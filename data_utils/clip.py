"""What the picture steps read: the frames, person masks, landmarks and head track of one clip, by frame number.

Between the steps, data that the subject folder has no place for lies in `<folder>/work/` (`WorkFiles`); it may be
deleted once a subject is complete.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from instag.data.layout import SubjectFolder
from instag.data_utils.background import Plate
from instag.data_utils.files import PNG_FAST, read_image, save_arrays, write_image
from instag.data_utils.head_plane import HeadPlane
from instag.data_utils.pose import HeadTrack
from instag.data_utils.video import FrameReader
from instag.data_utils.workers import Crew
from instag.errors import DataError
from instag.files import atomic_path


@dataclass(frozen=True)
class WorkFiles:
    """Intermediate files of a subject, below `<folder>/work/`."""

    folder: SubjectFolder

    @property
    def root(self) -> Path:
        """Where they lie."""
        return self.folder.root / "work"

    @property
    def survey(self) -> Path:
        """`Survey` of the whole clip, .npz."""
        return self.root / "survey.npz"

    @property
    def landmarks(self) -> Path:
        """`landmarks` float32 [T, 478, 3] and `found` bool [T], .npz."""
        return self.root / "landmarks.npz"

    @property
    def person(self) -> Path:
        """Person probability of each frame, uint8 grey PNG members `<i>.png` of a zip, at the network's size."""
        return self.root / "person.zip"

    @property
    def labels(self) -> Path:
        """Label map of each frame as the pack holds it, members `<i>.png` of a zip."""
        return self.root / "labels.zip"

    @property
    def pose(self) -> Path:
        """`HeadTrack` by the landmarks alone, .npz."""
        return self.root / "pose.npz"

    @property
    def track(self) -> Path:
        """`HeadTrack` as used, .npz."""
        return self.root / "track.npz"

    @property
    def plate(self) -> Path:
        """Background plate, RGBA PNG; alpha is 255 where the background was seen."""
        return self.root / "plate.png"

    @property
    def timings(self) -> Path:
        """Seconds that each step took, JSON: the one file that differs from run to run."""
        return self.root / "timings.json"


class PersonMasks:
    """Reader of `WorkFiles.person`."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        self._zip = zipfile.ZipFile(path)

    def __len__(self) -> int:
        return len(self._zip.namelist())

    def __call__(self, i: int) -> np.ndarray:
        """Probability that a pixel shows the person, uint8 [size, size]."""
        data = np.frombuffer(self._zip.read(f"{i}.png"), np.uint8)
        mask = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
        return cv2.resize(mask, (self.size, self.size), interpolation=cv2.INTER_LINEAR)


def write_person_masks(path: Path, masks: Iterable[np.ndarray]) -> None:
    """Store masks, uint8 [h, w], for `PersonMasks`; atomic."""
    write_pngs(path, (cv2.imencode(".png", mask, PNG_FAST)[1].tobytes() for mask in masks))


def write_pngs(path: Path, pictures: Iterable[bytes]) -> None:
    """Store encoded pictures as members `<i>.png` of a zip; atomic."""
    with atomic_path(path) as unfinished, zipfile.ZipFile(unfinished, "w", zipfile.ZIP_STORED) as archive:
        for i, picture in enumerate(pictures):
            member = zipfile.ZipInfo(f"{i}.png")  # without the time of day: the same clip gives the same file
            archive.writestr(member, picture)


def read_grey(path: Path, numbers: Sequence[int], readers: int) -> list[np.ndarray]:
    """Some frames of a video that this program wrote, in rising order, uint8 [H, W]; each reader decodes a part."""
    parts = np.array_split(np.asarray(numbers), readers)
    with Crew(partial(FrameReader, path), readers) as crew:
        return [grey for part in crew.map(_read_grey, ((part.tolist(),) for part in parts)) for grey in part]


def _read_grey(frames: FrameReader, numbers: list[int]) -> list[np.ndarray]:
    return [cv2.cvtColor(frames(i), cv2.COLOR_RGB2GRAY) for i in numbers]


class ClipView:
    """Random access to one clip; memory is bounded, whatever its length.

    Attributes:
        size: side of the square frames in pixels.
        count: number of frames T.
        landmarks: [T, 478, 3] float32 pixels of the frames (x right, y down, pixel centres at +0.5; z away).
        track: pose of the head.
        plate: the clean background, or None before that step.
    """

    def __init__(
        self,
        frames: FrameReader,
        person: PersonMasks,
        landmarks: np.ndarray,
        track: HeadTrack,
        plate: Plate | None = None,
    ) -> None:
        self.size, self.count = frames.size, len(landmarks)
        self.landmarks, self.track, self.plate = landmarks, track, plate
        self._frames, self._person = frames, person

    @classmethod
    def open(cls, folder: SubjectFolder) -> ClipView:
        """The clip of a subject folder after its steps `video`, `landmarks` and `refine_pose`."""
        work = WorkFiles(folder)
        for path in (folder.frames, work.landmarks, work.person, work.track):
            if not path.is_file():
                raise DataError(f"{path}: missing; run the preprocessing again with --force")
        frames = FrameReader(folder.frames)
        person = PersonMasks(work.person, frames.size)
        plate = load_plate(work.plate) if work.plate.is_file() else None
        return cls(frames, person, load_landmarks(work.landmarks), load_track(work.track), plate)

    def frame(self, i: int) -> np.ndarray:
        """Picture i, uint8 [H, W, 3] RGB; not to be written to."""
        return self._frames(i)

    def person(self, i: int) -> np.ndarray:
        """Person probability of frame i from the segmentation network, uint8 [H, W]."""
        return self._person(i)

    @property
    def rotation(self) -> np.ndarray:
        """[T, 3, 3] head to camera, OpenCV axes."""
        return self.track.rotation

    @property
    def translation_cm(self) -> np.ndarray:
        """[T, 3] head to camera, OpenCV axes."""
        return self.track.translation_cm

    def plane(self, i: int) -> HeadPlane:
        """The head's plane in frame i."""
        return HeadPlane.from_pose(self.rotation[i], self.translation_cm[i], self.focal, self.size)

    @property
    def focal(self) -> float:
        """Pixels."""
        return self.track.focal


def load_landmarks(path: Path) -> np.ndarray:
    """Landmarks [T, 478, 3] float32 of `WorkFiles.landmarks`."""
    with np.load(path) as arrays:
        return arrays["landmarks"]


def save_track(path: Path, track: HeadTrack) -> None:
    """Write `WorkFiles.track`; atomic."""
    save_arrays(path, **{field.name: np.asarray(getattr(track, field.name)) for field in fields(track)})


def load_track(path: Path) -> HeadTrack:
    """Read `WorkFiles.track`."""
    with np.load(path) as z:
        cuts = tuple(int(i) for i in z["cuts"])
        return HeadTrack(z["rotation"], z["translation_cm"], float(z["focal"]), z["shape"], float(z["rmse"]), cuts)


def save_plate(path: Path, plate: Plate) -> None:
    """Write `WorkFiles.plate`; atomic."""
    alpha = plate.seen[..., None].astype(np.uint8) * 255
    write_image(path, np.concatenate([plate.image, alpha], axis=2))


def load_plate(path: Path) -> Plate:
    """Read `WorkFiles.plate`."""
    picture = read_image(path)
    return Plate(np.ascontiguousarray(picture[..., :3]), picture[..., 3] > 0)
