"""One subject in one file, `<ID>.instag`: an uncompressed zip (layout.Pack), written from a folder, read in place.

Reading needs torch, numpy, scipy, safetensors and OpenCV alone. Writing needs a video encoder only where the folder has
no `frames.mp4` or `plates.mp4` of our own.
"""

from __future__ import annotations

import copy
import io
import json
import shutil
import struct
import tempfile
import threading
import weakref
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from instag.data.audio import EXTRACTORS, check_features, get_extractor
from instag.data.frame_store import FrameSource, SubjectTracks, check_tracks
from instag.data.pictures import KEY_INTERVAL, VideoFrames, decode_picture, encode_video, opencv
from instag.data.layout import FORMAT_VERSION, FPS, PACK_SUFFIX, Label, Pack, SubjectFolder
from instag.data.subject_folder import FolderSource, read_wave, tracks_from_arrays
from instag.errors import DataError
from instag.files import atomic_path
from instag.version import __version__

REMEDY = "pack the subject anew with `instag process`"
MAX_FRAMES = 1_000_000  # 11 hours: anything above is damage
MAX_SIZE = 8192  # px
MAX_META_BYTES = 1 << 20
MAX_LABEL_BYTES = 16 << 20
MAX_HEADER_BYTES = 16 << 20  # of a safetensors member
COPY_BYTES = 1 << 20
MEMBER_MODE = 0o644  # of the files that unpacking makes
LABEL_THREADS = 4  # label maps are packed by so many at once


# --- writing ----------------------------------------------------------------------------------------------------
def write_pack(
    folder: SubjectFolder, path: Path | None = None, labels: Callable[[int], bytes] | None = None
) -> Path:
    """Pack a subject folder, whole or not at all (`atomic_path`).

    folder: ours or another program's (`instag.data.subject_folder`); path: the file, by default `folder.pack`; labels:
    gives the map of frame i as `encode_labels` made it, where that is at hand: by default made from the folder's.
    Videos of ours are copied as they are; otherwise the field's pictures are encoded (CRF 12, 4:4:4). All extractors'
    features that the folder holds travel along. Returns the path; raises DataError when a part is missing.
    """
    target = Path(path) if path is not None else folder.pack
    source = FolderSource(folder.root)
    try:
        with (
            atomic_path(target) as part,
            zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive,
            tempfile.TemporaryDirectory() as scratch,
        ):
            _write_members(archive, source, Path(scratch), labels or (lambda i: encode_labels(source.labels(i))))
    finally:
        source.close()
    return target


def _write_members(
    archive: zipfile.ZipFile, source: FolderSource, scratch: Path, labels: Callable[[int], bytes]
) -> None:
    folder, tracks = source.folder, source.tracks
    meta = {
        "format_version": FORMAT_VERSION,
        "id": source.id,
        "size": source.size,
        "frames": source.frames,
        "fps": FPS,
        "focal": tracks.focal,
        "action_unit_names": list(tracks.action_unit_names),
        "over_plate": source.over_plate,
        "provenance": {"written_by": f"instag {__version__}", "subject": _subject_manifest(folder)},
    }
    _add(archive, Pack.META, json.dumps(meta, indent=1).encode())
    _add(archive, Pack.FRAMES, _video(folder.frames, source, source.image, scratch))
    _add(archive, Pack.PLATES, _video(folder.plates, source, source.plate, scratch))
    _add(archive, Pack.TRACKS, safetensors.numpy.save(_track_arrays(tracks)))
    if folder.audio.is_file():
        _add(archive, Pack.AUDIO, folder.audio)
    for extractor in EXTRACTORS.values():
        if any((folder.root / name).is_file() for name in extractor.files):
            features, norm = source.features(extractor.name)
            metadata = {"norm": json.dumps(norm)} if norm is not None else None
            data = safetensors.numpy.save({"features": features}, metadata)
            _add(archive, Pack.features(extractor.name), data)
    with ThreadPoolExecutor(LABEL_THREADS) as threads:  # OpenCV lets go of Python while it reads and writes pictures
        for i, data in enumerate(threads.map(labels, range(source.frames))):
            _add(archive, Pack.labels(i), data)


def _add(archive: zipfile.ZipFile, name: str, content: bytes | Path) -> None:
    """One member, without the time of day: the same content makes the same bytes."""
    member = zipfile.ZipInfo(name)  # of 1980
    member.external_attr = MEMBER_MODE << 16
    if isinstance(content, bytes):
        archive.writestr(member, content)
        return
    member.file_size = content.stat().st_size
    with content.open("rb") as file, archive.open(member, "w") as target:
        shutil.copyfileobj(file, target, COPY_BYTES)


def _subject_manifest(folder: SubjectFolder) -> dict | None:
    """What `subject.json` says of the subject; which steps are done is no matter of the pack's."""
    with suppress(OSError, ValueError):
        content = json.loads(folder.manifest.read_text(encoding="utf-8"))
        return {name: value for name, value in content.items() if name != "steps"}
    return None


def _track_arrays(tracks: SubjectTracks) -> dict[str, np.ndarray]:
    arrays = {
        "world_to_camera": tracks.world_to_camera,
        "focal": np.full(len(tracks), tracks.focal, np.float32),
        "landmarks": tracks.landmarks,
        "action_units": tracks.action_units,
    }
    if tracks.mesh is not None:
        arrays["mesh"] = tracks.mesh
    return {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}


def _video(ready: Path, source: FrameSource, read: Callable[[int], np.ndarray], scratch: Path) -> Path:
    """The folder's own video, or the field's pictures encoded into one."""
    return ready if ready.is_file() else encode_video(scratch / ready.name, read, source.frames, source.size)


def encode_labels(labels: np.ndarray) -> bytes:
    """Label map [H, W] as an 8-bit grey PNG: run lengths of the differences to the row above.

    At 512 px that takes 0.7 ms; the highest compression takes 12 ms for files a tenth smaller.
    """
    cv2 = opencv()
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # OpenCV 4.12
        options += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
    done, data = cv2.imencode(".png", labels, options)
    assert done
    return data.tobytes()


# --- reading ----------------------------------------------------------------------------------------------------
class PackSource:
    """Reads `<ID>.instag`. See `instag.data.frame_store.FrameSource` for the attributes and methods.

    Nothing in the file is executed and no member is unpacked to a path of the file's choosing: the two videos alone are
    copied, when first needed, to a temporary folder that disappears with this object.
    """

    run = KEY_INTERVAL

    def __init__(self, path: Path | str):
        """path: the pack. Raises DataError when it is damaged, incomplete, unsafe or of another format version."""
        self.path = Path(path)
        self.notes: list[str] = []
        self._archive, self._members = _open_archive(self.path)
        meta = self._meta()
        self.id: str = str(meta["id"])
        self.frames: int = meta["frames"]
        self.size: int = meta["size"]
        self.over_plate: bool = bool(meta["over_plate"])
        required = [Pack.FRAMES, Pack.PLATES, Pack.TRACKS, Pack.labels(0), Pack.labels(self.frames - 1)]
        missing = [name for name in required if name not in self._members]
        if missing:
            raise DataError(f"{self.path}: {missing[0]} is missing; {REMEDY}")
        self.tracks = self._read_tracks(meta)
        self._scratch: Path | None = None
        self._videos: dict[str, VideoFrames] = {}
        self._unpacking = threading.Lock()  # pictures and plates are read by a thread each

    # --- pictures -----------------------------------------------------------------------------------------------
    def image(self, i: int) -> np.ndarray:
        """Frame i, uint8 RGB [H, W, 3]."""
        return self._video(Pack.FRAMES).read(i)

    def plate(self, i: int) -> np.ndarray:
        """Torso over the background plate, uint8 RGB [H, W, 3]."""
        return self._video(Pack.PLATES).read(i)

    def labels(self, i: int) -> np.ndarray:
        """Label map, uint8 [H, W]."""
        name = Pack.labels(i)
        label = f"{self.path}: {name}"
        labels = decode_picture(self._read(name, MAX_LABEL_BYTES), label, grey=True)
        if labels.max(initial=0) > max(Label):
            raise DataError(f"{label} holds unknown label {labels.max()}; {REMEDY}")
        return labels

    def plates_video(self) -> bytes:
        """All plates as one H.264 file."""
        return self._read(Pack.PLATES)

    def network_prior(self, i: int) -> None:
        """None: a pack carries mesh vertices in place of depth and normal maps."""
        return None

    # --- sound --------------------------------------------------------------------------------------------------
    def features(self, extractor: str) -> tuple[np.ndarray, dict | None]:
        """Audio features [T, W, D] and their norm (None where there is none)."""
        kind = get_extractor(extractor)
        name = Pack.features(kind.name)
        if name not in self._members:
            there = ", ".join(known for known in EXTRACTORS if Pack.features(known) in self._members) or "none"
            raise DataError(
                f"{self.path}: no {extractor} features (there: {there}); choose another extractor, or make "
                "them with `instag features` and pack the subject anew"
            )
        arrays, metadata = self._safetensors(name)
        if "features" not in arrays:
            raise DataError(f"{self.path}: {name} holds no features; {REMEDY}")
        norm = json.loads(metadata["norm"]) if "norm" in metadata else None
        return check_features(arrays["features"], kind.name, f"{self.path}: {name}"), norm

    def sound(self) -> tuple[np.ndarray, int]:
        """The clip's sound, float32 [n] in [-1, 1], and its rate in Hz."""
        if Pack.AUDIO not in self._members:
            raise DataError(f"{self.path}: the subject was packed without sound; {REMEDY}")
        return read_wave(io.BytesIO(self._read(Pack.AUDIO)), f"{self.path}: {Pack.AUDIO}")

    def twin(self) -> PackSource:
        """This pack with decoders of its own, on the same temporary copies."""
        other = copy.copy(self)
        other._videos = {name: self._video(name).twin() for name in (Pack.FRAMES, Pack.PLATES)}
        return other

    def close(self) -> None:
        """Release decoders, the archive and the temporary copies."""
        for video in self._videos.values():
            video.close()
        self._videos.clear()
        self._archive.close()
        if self._scratch is not None:
            self._remove_scratch()

    # --- parts --------------------------------------------------------------------------------------------------
    def _read(self, name: str, limit: int | None = None) -> bytes:
        """Content of a member, its checksum verified."""
        info = self._members.get(name)
        if info is None:
            raise DataError(f"{self.path}: {name} is missing; {REMEDY}")
        if limit is not None and info.file_size > limit:
            raise DataError(f"{self.path}: {name} has {info.file_size} bytes, more than {limit}; {REMEDY}")
        try:
            return self._archive.read(info)
        except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
            raise DataError(f"{self.path}: {name} is damaged ({error}); {REMEDY}") from None

    def _meta(self) -> dict:
        try:
            meta = json.loads(self._read(Pack.META, MAX_META_BYTES))
            version = meta["format_version"]
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{self.path}: {Pack.META} is damaged; {REMEDY}") from None
        if version != FORMAT_VERSION:
            raise DataError(
                f"{self.path}: pack format {version}, this program reads {FORMAT_VERSION}; "
                "update instag or pack the subject anew"
            )
        limits = {"frames": MAX_FRAMES, "size": MAX_SIZE}
        for name, limit in limits.items():
            if type(meta.get(name)) is not int or not 0 < meta[name] <= limit:
                raise DataError(
                    f"{self.path}: {Pack.META}: {name} is {meta.get(name)!r}, expected 1..{limit}; {REMEDY}"
                )
        absent = [name for name in ("id", "over_plate", "action_unit_names") if name not in meta]
        if absent or not isinstance(meta["action_unit_names"], list):
            raise DataError(f"{self.path}: {Pack.META} lacks {absent or ['action_unit_names']}; {REMEDY}")
        return meta

    def _read_tracks(self, meta: dict) -> SubjectTracks:
        arrays, _ = self._safetensors(Pack.TRACKS)
        names = ",".join(str(name) for name in meta["action_unit_names"])
        label = f"{self.path}: {Pack.TRACKS}"
        tracks = check_tracks(tracks_from_arrays(arrays, names, label), label)
        if len(tracks) != self.frames:
            raise DataError(f"{label} holds {len(tracks)} frames, {Pack.META} says {self.frames}; {REMEDY}")
        return tracks

    def _safetensors(self, name: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        data = self._read(name)
        try:
            return safetensors.numpy.load(data), safetensors_metadata(data)
        except (SafetensorError, ValueError, KeyError, struct.error) as error:
            raise DataError(f"{self.path}: {name} is damaged ({error}); {REMEDY}") from None

    def _video(self, name: str) -> VideoFrames:
        with self._unpacking:
            return self._videos.get(name) or self._unpack(name)

    def _unpack(self, name: str) -> VideoFrames:
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp(prefix="instag-"))
            self._remove_scratch = weakref.finalize(self, shutil.rmtree, self._scratch, ignore_errors=True)
        unpacked = self._scratch / name
        try:
            with self._archive.open(self._members[name]) as member, unpacked.open("wb") as file:
                shutil.copyfileobj(member, file, COPY_BYTES)
        except zipfile.BadZipFile as error:
            raise DataError(f"{self.path}: {name} is damaged ({error}); {REMEDY}") from None
        except OSError as error:
            raise DataError(f"{unpacked}: cannot be written ({error.strerror}); free space or set TMPDIR") from None
        self._videos[name] = VideoFrames(unpacked, self.frames, f"{self.path}: {name}")
        return self._videos[name]


def safetensors_metadata(data: bytes) -> dict[str, str]:
    """The `__metadata__` of safetensors bytes (the library reads it from files alone)."""
    (length,) = struct.unpack("<Q", data[:8])
    if length > min(MAX_HEADER_BYTES, len(data) - 8):
        raise ValueError(f"header of {length} bytes")
    return dict(json.loads(data[8 : 8 + length]).get("__metadata__", {}))


def _open_archive(path: Path) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """The zip and its members by name, after the checks that make reading it safe."""
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; make it with `instag process`") from None
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise DataError(f"{path}: not a {PACK_SUFFIX} file, or damaged ({error}); {REMEDY}") from None
    members: dict[str, zipfile.ZipInfo] = {}
    total = path.stat().st_size
    for info in archive.infolist():
        parts = PurePosixPath(info.filename).parts
        if info.filename.startswith(("/", "\\")) or ".." in parts or ":" in info.filename or "\\" in info.filename:
            raise DataError(f"{path}: unsafe member name {info.filename!r}; do not use this file")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise DataError(
                f"{path}: member {info.filename!r} is compressed, a {PACK_SUFFIX} stores its members; {REMEDY}"
            )
        if info.file_size > total:
            raise DataError(
                f"{path}: member {info.filename!r} claims {info.file_size} bytes, the file has {total}; {REMEDY}"
            )
        if info.filename in members:
            raise DataError(f"{path}: member {info.filename!r} stands twice; {REMEDY}")
        members[info.filename] = info
    return archive, members
