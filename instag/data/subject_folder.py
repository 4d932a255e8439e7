"""A subject folder as a `FrameSource`: ours, or one that another program of the field wrote (METHOD.md section 7).

Of our own files (frames.mp4, plates.mp4, tracks.safetensors) each that exists is preferred to the field's; where one is
missing the field's pictures and text files are read. Optional parts (teeth_mask, torso_imgs, sapiens) may be missing.
"""

from __future__ import annotations

import copy
import csv
import json
import tempfile
import threading
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from instag.camera import opengl_to_opencv
from instag.data.audio import find_features, get_extractor, load_features
from instag.data.frame_store import SubjectTracks, action_unit_name, check_tracks
from instag.data.pictures import KEY_INTERVAL, VideoFrames, decode_picture, encode_video
from instag.data.layout import LANDMARKS, Label, SubjectFolder, labels_from_colors
from instag.errors import DataError

REMEDY = "make it anew with `instag process`"
SPLITS = ("train", "val")
MOUTH_FRAMES = 8  # of another program's folder, looked at for a mouth

# NumPy has Python parse an array's header: before 3.11.8 that fails now and then in two threads at once
# (github.com/python/cpython/issues/106905).
_header_parser = threading.Lock()


class FolderSource:
    """Reads `data/<ID>/`. See `instag.data.frame_store.FrameSource` for the attributes and methods."""

    def __init__(self, root: Path | str):
        """root: the subject folder. Raises DataError when it lacks a part that the method needs."""
        self.path = Path(root)
        self.folder = SubjectFolder(self.path)
        if not self.path.is_dir():
            raise DataError(f"{root}: no such subject folder; make it with `instag process CLIP {root}`")
        self.id = self.folder.id
        self.notes: list[str] = []
        self.tracks = check_tracks(self._read_tracks(), str(self.path))
        self.frames = len(self.tracks)
        self._frames_video = VideoFrames(self.folder.frames, self.frames) if self.folder.frames.is_file() else None
        self._plates_video = VideoFrames(self.folder.plates, self.frames) if self.folder.plates.is_file() else None
        self.over_plate = self._frames_video is None
        self.run = KEY_INTERVAL if self._frames_video or self._plates_video else 1
        first = self.image(0)
        if first.shape[0] != first.shape[1]:
            raise DataError(
                f"{root}: frames are {first.shape[1]}x{first.shape[0]} px, not square; process the clip "
                "with `instag process`, which crops it"
            )
        self.size = first.shape[0]
        self._note_missing_parts()

    # --- pictures -----------------------------------------------------------------------------------------------
    def image(self, i: int) -> np.ndarray:
        """Frame i as used, or the field's frame over the clean plate; uint8 RGB [H, W, 3]."""
        if self._frames_video:
            return self._frames_video.read(i)
        return decode_picture(_read_bytes(self.folder.ground_truth(i)), str(self.folder.ground_truth(i)))

    def labels(self, i: int) -> np.ndarray:
        """Label map, uint8 [H, W]; the mouth is (100, 100, 100) OR teeth and wins over the head."""
        path = self.folder.parsing(i)
        labels = labels_from_colors(decode_picture(_read_bytes(path), str(path)))
        teeth_path = self.folder.teeth(i)
        if not self._has_teeth:
            return labels
        teeth = _load_array(teeth_path).squeeze()
        if teeth.shape != labels.shape:
            raise DataError(
                f"{teeth_path}: shape {list(teeth.shape)}, the label map has {list(labels.shape)}; {REMEDY}"
            )
        labels[teeth.astype(bool)] = Label.MOUTH
        return labels

    def plate(self, i: int) -> np.ndarray:
        """Torso over the background plate, uint8 RGB [H, W, 3]: uint8(torso * a + background * (1 - a))."""
        if self._plates_video:
            return self._plates_video.read(i)
        if not self._has_torso:
            return self._background
        path = self.folder.torso(i)
        return lay_over(decode_picture(_read_bytes(path), str(path), alpha=True), self._background, str(path))

    def twin(self) -> FolderSource:
        """This folder with decoders of its own."""
        other = copy.copy(self)
        other._frames_video = self._frames_video and self._frames_video.twin()
        other._plates_video = self._plates_video and self._plates_video.twin()
        return other

    def plates_video(self) -> bytes:
        """All plates as one H.264 file; encoded here where the folder has only the field's torso_imgs."""
        if self._plates_video:
            return _read_bytes(self.folder.plates)
        with tempfile.TemporaryDirectory() as scratch:
            path = encode_video(Path(scratch) / self.folder.plates.name, self.plate, self.frames, self.size)
            return path.read_bytes()

    def network_prior(self, i: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Depth [H, W] (larger when farther) and normals [H, W, 3] of sapiens/, or None where there are none."""
        paths = self._prior_folders
        if paths is None:
            return None
        depth, normal = (np.asarray(_load_array(folder / f"{i}.npy"), np.float32).squeeze() for folder in paths)
        if normal.ndim == 3 and normal.shape[0] == 3:
            normal = normal.transpose(1, 2, 0)  # [3, H, W] -> [H, W, 3]
        if depth.ndim != 2 or normal.shape != (*depth.shape, 3):
            raise DataError(
                f"{paths[0]}/{i}.npy: depth {list(depth.shape)} and normals {list(normal.shape)} do not "
                "fit; make them anew or remove sapiens/"
            )
        return depth, normal

    # --- sound --------------------------------------------------------------------------------------------------
    def features(self, extractor: str) -> tuple[np.ndarray, dict | None]:
        """Audio features [T, W, D] and their norm file's content (None where there is none)."""
        path = find_features(self.path, extractor)
        norm = self.path / get_extractor(extractor).norm_file
        return load_features(path, extractor), _load_json(norm) if norm.is_file() else None

    def sound(self) -> tuple[np.ndarray, int]:
        """The clip's sound, float32 [n] in [-1, 1], and its rate in Hz."""
        return read_wave(self.folder.audio, str(self.folder.audio))

    def close(self) -> None:
        """Release the decoders."""
        for video in (self._frames_video, self._plates_video):
            if video:
                video.close()

    # --- parts --------------------------------------------------------------------------------------------------
    @cached_property
    def _has_teeth(self) -> bool:
        return self.folder.teeth(0).parent.is_dir() and self.folder.teeth(0).is_file()

    @cached_property
    def _has_torso(self) -> bool:
        return self.folder.torso(0).is_file()

    @cached_property
    def _background(self) -> np.ndarray:
        return decode_picture(_read_bytes(self.folder.background), str(self.folder.background))

    @cached_property
    def _prior_folders(self) -> tuple[Path, Path] | None:
        found = [sorted((self.path / "sapiens" / kind).glob("sapiens_*")) for kind in ("depth", "normal")]
        return (found[0][0], found[1][0]) if all(found) else None

    def _note_missing_parts(self) -> None:
        if not self._plates_video and not self._has_torso:
            self.notes.append(f"{self.path}: no torso layer (torso_imgs/); the plain background stands behind the head")
        looked_at = np.linspace(0, self.frames - 1, MOUTH_FRAMES).astype(int)
        if self.over_plate and not any((self.labels(i) == Label.MOUTH).any() for i in looked_at):
            self.notes.append(
                f"{self.path}: no inside of the mouth is marked (parsing/, teeth_mask/), so none is learnt; "
                "make the folder with `instag process`"
            )

    # --- tracks -------------------------------------------------------------------------------------------------
    def _read_tracks(self) -> SubjectTracks:
        if self.folder.tracks.is_file():
            try:
                with safe_open(self.folder.tracks, "numpy") as file:
                    arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
                    names = (file.metadata() or {}).get("action_unit_names", "")
            except (SafetensorError, OSError) as error:
                raise DataError(f"{self.folder.tracks}: not readable ({error}); {REMEDY}") from None
            return tracks_from_arrays(arrays, names, str(self.folder.tracks))
        world_to_camera, focal = read_transforms(self.folder)
        length = len(world_to_camera)
        names, units = read_action_units(self.folder.action_units)
        if len(units) < length:
            raise DataError(f"{self.folder.action_units}: {len(units)} rows for {length} frames; {REMEDY}")
        landmarks = np.stack([read_landmarks(self.folder.landmarks(i)) for i in range(length)])
        return SubjectTracks(world_to_camera, focal, landmarks, units[:length], names)


def lay_over(layer: np.ndarray, below: np.ndarray, source: str) -> np.ndarray:
    """Straight-alpha RGBA layer [H, W, 4] over a picture [H, W, 3], truncated to uint8 (METHOD.md section 6)."""
    if layer.shape[:2] != below.shape[:2]:
        raise DataError(
            f"{source}: {layer.shape[1]}x{layer.shape[0]} px, the background plate "
            f"{below.shape[1]}x{below.shape[0]}; {REMEDY}"
        )
    alpha = layer[..., 3:].astype(np.uint32)
    mixed = layer[..., :3] * alpha + below * (255 - alpha)  # whole numbers: exact truncation
    return (mixed // 255).astype(np.uint8)


def tracks_from_arrays(arrays: dict[str, np.ndarray], action_unit_names: str, source: str) -> SubjectTracks:
    """`SubjectTracks` from the content of tracks.safetensors; unchecked, except that nothing is missing."""
    missing = [name for name in ("world_to_camera", "focal", "landmarks", "action_units") if name not in arrays]
    if missing:
        raise DataError(f"{source}: {', '.join(missing)} missing; {REMEDY}")
    focal = np.asarray(arrays["focal"], np.float64).reshape(-1)
    names = tuple(action_unit_name(name) for name in action_unit_names.split(",") if name.strip())
    return SubjectTracks(
        np.asarray(arrays["world_to_camera"], np.float32),
        float(focal[0]) if len(focal) else float("nan"),
        np.asarray(arrays["landmarks"], np.float32),
        np.asarray(arrays["action_units"], np.float32),
        names,
        np.asarray(arrays["mesh"], np.float32) if "mesh" in arrays else None,
    )


def read_transforms(folder: SubjectFolder) -> tuple[np.ndarray, float]:
    """Poses of transforms_train.json and transforms_val.json, by img_id.

    Returns world_to_camera float32 [T, 4, 4] (OpenCV axes) and the focal length in px. Which file a frame stands in
    does not matter: the split is ours (`instag.data.split`). Raises DataError where a frame has no pose.
    """
    poses: dict[int, np.ndarray] = {}
    focal = None
    for split in SPLITS:
        path = folder.transforms(split)
        if not path.is_file():
            continue
        content = _load_json(path)
        try:
            focal = float(content["focal_len"])
            for frame in content["frames"]:
                poses[int(frame["img_id"])] = np.asarray(frame["transform_matrix"], np.float64).reshape(4, 4)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: not a pose file of the field ({error!r}); {REMEDY}") from None
    if focal is None or not poses:
        raise DataError(f"{folder.root}: no transforms_train.json with poses; make it with `instag process`")
    absent = [i for i in range(max(poses) + 1) if i not in poses]
    if absent:
        raise DataError(
            f"{folder.root}: frame {absent[0]} (and {len(absent) - 1} more) has no pose in transforms_*.json; {REMEDY}"
        )
    matrices = np.stack([poses[i] for i in range(len(poses))])
    try:
        return opengl_to_opencv(matrices).astype(np.float32), focal
    except np.linalg.LinAlgError:
        raise DataError(f"{folder.root}: a pose in transforms_*.json cannot be inverted; {REMEDY}") from None


def read_action_units(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Intensity columns of an OpenFace CSV: names "AU01" ... and float32 [T, A]."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            header = next(rows)
            columns = [k for k, name in enumerate(header) if name.strip().endswith("_r")]
            values = [[float(row[k]) for k in columns] for row in rows if row]
    except FileNotFoundError:
        raise DataError(
            f"{path}: no action units; make them with `instag process`, or put OpenFace's CSV there"
        ) from None
    except (StopIteration, ValueError, IndexError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not an OpenFace CSV ({error}); {REMEDY}") from None
    names = tuple(action_unit_name(header[k]) for k in columns)
    return names, np.asarray(values, np.float32).reshape(-1, len(names))


def read_landmarks(path: Path) -> np.ndarray:
    """The 68 points of an .lms file, float32 [68, 2] (x, y in pixels)."""
    try:
        values = np.array(_read_bytes(path).split(), np.float32)
    except ValueError as error:
        raise DataError(f"{path}: not a landmark file ({error}); {REMEDY}") from None
    if values.size != 2 * LANDMARKS:
        raise DataError(f"{path}: {values.size} numbers, expected {LANDMARKS} lines `x y`; {REMEDY}")
    return values.reshape(LANDMARKS, 2)


def read_wave(file: Path | object, source: str) -> tuple[np.ndarray, int]:
    """A PCM or float WAV, mono (channels averaged): float32 [n] in [-1, 1] and the rate in Hz."""
    from scipy.io import wavfile

    try:
        rate, samples = wavfile.read(file)
    except FileNotFoundError:
        raise DataError(f"{source}: no such file; make it with `instag process`") from None
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{source}: not a readable WAV ({error}); {REMEDY}") from None
    if samples.dtype.kind == "i":
        samples = samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
    elif samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128
    samples = samples.astype(np.float32)
    return (samples.mean(1) if samples.ndim == 2 else samples), int(rate)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; {REMEDY}") from None


def _load_array(path: Path) -> np.ndarray:
    try:
        with _header_parser:
            return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not a readable .npy array ({error}); {REMEDY}") from None


def _load_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable JSON ({error}); {REMEDY}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a JSON object; {REMEDY}")
    return content
