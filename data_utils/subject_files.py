"""The small files of a subject folder: sound, poses, features, tracks (instag/data/layout.py, METHOD.md section 7)."""

from __future__ import annotations

import json
import os
import shutil
import wave
from collections.abc import Mapping

import numpy as np
from safetensors.numpy import save_file

from instag.audio.features import READY_ONLY, extract, save_features
from instag.camera import head_pose_to_camera, opencv_to_opengl
from instag.data.audio import get_extractor, load_features
from instag.data.layout import FPS, SAMPLE_RATE, SubjectFolder
from instag.data_utils.face_points import to_68_points
from instag.data_utils.pose import HeadTrack
from instag.data_utils.priors import camera_mesh
from instag.files import atomic_path

SPLITS = ("train", "val")
TRAIN_SHARE = 10 / 11  # METHOD.md section 7


def write_audio(folder: SubjectFolder, samples: np.ndarray, frames: int, start: int = 0, lag: int = 0) -> None:
    """aud.wav: 16 kHz mono 16 bit, exactly as long as the frames; silence where the clip has none.

    samples: [S] of the whole clip, 16 kHz. start: first frame of the clip that is used. lag: frames by which the lips
    are late; the sound is put off by so much.
    """
    step = SAMPLE_RATE // FPS
    first, length = (start - lag) * step, frames * step
    samples = np.pad(samples, (max(0, -first), 0))[max(0, first) :][:length]
    samples = np.pad(samples, (0, length - len(samples)))
    pcm = np.round(samples * np.iinfo(np.int16).max).astype("<i2")
    with atomic_path(folder.audio) as partial, wave.open(str(partial), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(pcm.itemsize)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(pcm.tobytes())


def write_features(folder: SubjectFolder, extractor: str, norm: str, frames: int) -> None:
    """Features of aud.wav [frames, W, D] and, beside them, their normalisation.

    Of an extractor that we cannot run, a ready file is accepted.
    """
    kind = get_extractor(extractor)
    if extractor in READY_ONLY and any((folder.root / name).is_file() for name in kind.files):
        load_features(folder.root, extractor)
        return
    features, constants = extract(folder.audio, extractor, norm, frames)
    save_features(folder.root / kind.files[0], features, constants)


def write_transforms(folder: SubjectFolder, track: HeadTrack, size: int) -> None:
    """transforms_train.json (the first 10/11 of the frames) and transforms_val.json."""
    poses = opencv_to_opengl(head_pose_to_camera(track.rotation, track.translation_cm))
    first_val = int(len(poses) * TRAIN_SHARE)
    for split, frames in zip(SPLITS, (range(first_val), range(first_val, len(poses))), strict=True):
        content = {
            "focal_len": track.focal,
            "cx": size / 2,
            "cy": size / 2,
            "frames": [{"img_id": i, "aud_id": i, "transform_matrix": poses[i].tolist()} for i in frames],
        }
        with atomic_path(folder.transforms(split)) as partial:
            partial.write_text(json.dumps(content, indent=1), encoding="utf-8")


def write_empty_teeth(folder: SubjectFolder, frames: int, size: int) -> None:
    """teeth_mask/<i>.npy: no teeth, since (100, 100, 100) of the parsing marks the whole inside of the mouth.

    Other programs of the field insist on the files. They are one file under many names where the disk allows that.
    """
    first = folder.teeth(0)
    with atomic_path(first) as partial, partial.open("wb") as file:
        np.save(file, np.zeros((size, size), bool))
    for i in range(1, frames):
        path = folder.teeth(i)
        path.unlink(missing_ok=True)
        try:
            os.link(first, path)
        except OSError:  # a file system without links
            shutil.copyfile(first, path)


def write_tracks(
    folder: SubjectFolder, landmarks: np.ndarray, track: HeadTrack, units: Mapping[str, np.ndarray], size: int
) -> None:
    """tracks.safetensors, see `instag.data.layout.TRACKS`.

    landmarks: [T, 478, 3] pixels; units: intensities [T] by name.
    """
    mesh = camera_mesh(landmarks, track.rotation, track.translation_cm, track.shape, track.focal, size)
    arrays = {
        "world_to_camera": head_pose_to_camera(track.rotation, track.translation_cm),
        "focal": np.full(len(landmarks), track.focal),
        "landmarks": to_68_points(landmarks),
        "mesh": mesh,
        "action_units": np.stack(list(units.values()), axis=1),
    }
    arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
    with atomic_path(folder.tracks) as partial:
        save_file(arrays, partial, metadata={"action_unit_names": ",".join(units)})
