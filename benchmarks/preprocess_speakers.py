"""The procedural speakers of benchmarks/preprocess.py: a clip with sound each, and the truth about every frame."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, fields, replace
from pathlib import Path

import cv2
import numpy as np

from instag.data.layout import FPS, SAMPLE_RATE
from instag.files import atomic_path
from instag.media import VideoWriter
from instag.synthetic.clip import CRF
from instag.synthetic.identity import DARK_SKIN, LIGHT_SKIN, LIP_TINT
from instag.synthetic.landmarks import openings
from instag.synthetic.performance import Performance, rotations
from instag.synthetic.render import RenderedFrame, Speaker, background_plate, render_frame

BLOND, BLACK, GREY = (0.55, 0.42, 0.25), (0.06, 0.045, 0.04), (0.45, 0.44, 0.43)
GEOMETRY_EVERY = 10  # frames: depth and normals are large
SWEEP = (12.0, 35.0, 8.0)  # deg about x, y, z
SWEEP_SECONDS = (1.9, 4.8, 3.1)  # of a period
BACKDROP_SPEED = 2.5 / 256  # of the picture's side, a frame
EDGE = 0.7  # px: softness of the person's edge over the moving backdrop


@dataclass(frozen=True)
class Spec:
    """One speaker of the benchmark. None: as the identity's seed draws it."""

    name: str
    seed: int
    hair: str
    hair_color: tuple[float, float, float] | None = None
    skin: float | None = None  # 0 light .. 1 dark
    large: bool = False  # twice the resolution
    sweep: bool = False  # yaw to +-35 deg, pitch to +-12, roll to +-8, instead of a talker's motion
    moving_background: bool = False
    glasses: bool = False


SPECS = (
    Spec("short", 201, "short"),
    Spec("short_blond", 202, "short", BLOND, 0.1),
    Spec("short_dark_skin", 203, "short", BLACK, 0.95),
    Spec("short_512", 204, "short", large=True),
    Spec("short_sweep", 205, "short", sweep=True),
    Spec("short_moving", 206, "short", moving_background=True),
    Spec("long", 207, "long"),
    Spec("long_blond", 208, "long", BLOND, 0.15),
    Spec("long_dark_skin", 209, "long", BLACK, 0.85),
    Spec("long_512", 210, "long", large=True),
    Spec("long_sweep", 211, "long", sweep=True),
    Spec("long_moving", 212, "long", GREY, 0.4, moving_background=True),
    Spec("short_sweep_512", 213, "short", large=True, sweep=True),
    Spec("short_glasses", 214, "short", glasses=True),
    Spec("short_same_512", 201, "short", large=True),  # "short" again, at twice the resolution
)


@dataclass(frozen=True)
class SpeakerTruth:
    """Truth of T frames, S x S px, cm. World: the head frame (x right, y down, z away); OpenCV camera."""

    rotation: np.ndarray  # [T, 3, 3] head to camera
    translation_cm: np.ndarray  # [T, 3]
    focal: np.ndarray  # [] px
    landmarks: np.ndarray  # [T, K, 2] px; instag.synthetic.landmarks.NAMES
    blink: np.ndarray  # [T] 0 open .. 1 closed
    opening_cm: np.ndarray  # [T] gap between the inner lips
    labels: np.ndarray  # [T, S, S] uint8
    geometry_frames: np.ndarray  # [G] which frames the next two are of
    depth_cm: np.ndarray  # [G, S, S] float32, inf where nobody is
    normal: np.ndarray  # [G, S, S, 3] float32 OpenCV camera axes, 0 where not valid


def make_speaker(spec: Spec, folder: Path, size: int, seconds: float) -> tuple[Path, SpeakerTruth]:
    """The clip of a speaker and its truth; rendered once, then read."""
    size = 2 * size if spec.large else size
    clip = folder / f"{spec.name}_{size}_{seconds:g}s.mp4"
    truth_file = clip.with_suffix(".npz")
    if not clip.is_file():
        clip.parent.mkdir(parents=True, exist_ok=True)
        _render(spec, clip, truth_file, size, seconds)
    with np.load(truth_file) as arrays:
        values = {field.name: arrays[field.name] for field in fields(SpeakerTruth)}
    labels = np.frombuffer(zlib.decompress(values["labels"].tobytes()), np.uint8).reshape(-1, size, size)
    return clip, SpeakerTruth(**(values | {"labels": labels}))


def _speaker(spec: Spec) -> Speaker:
    speaker = Speaker(spec.seed, spec.seed, spec.hair, spec.glasses)
    changes: dict[str, object] = {}
    if spec.hair_color is not None:
        changes["hair"] = spec.hair_color
    if spec.skin is not None:
        skin = LIGHT_SKIN * (1 - spec.skin) + DARK_SKIN * spec.skin
        changes |= {"skin": tuple(skin), "lips": tuple(skin * LIP_TINT)}
    speaker.identity = replace(speaker.identity, **changes)
    return speaker


def _performance(spec: Spec, speaker: Speaker, seconds: float) -> Performance:
    performance = speaker.perform(spec.seed, seconds, FPS)
    if not spec.sweep:
        return performance
    time = np.arange(len(performance)) / FPS
    angles = [a * np.sin(2 * np.pi * time / period) for a, period in zip(SWEEP, SWEEP_SECONDS, strict=True)]
    return replace(performance, rotation=rotations(np.radians(np.stack(angles, 1))))


def _render(spec: Spec, clip: Path, truth_file: Path, size: int, seconds: float) -> None:
    speaker = _speaker(spec)
    performance = _performance(spec, speaker, seconds)
    room, backdrop = background_plate(speaker, size), _backdrop(size, spec.seed)
    frames: list[RenderedFrame] = []
    with VideoWriter(clip, FPS, size, CRF, "yuv420p", audio=(performance.audio, SAMPLE_RATE)) as video:
        for t in range(len(performance)):
            frame = render_frame(speaker, performance, t, size, supersampling=2)
            picture = _over(frame, room, backdrop, t) if spec.moving_background else frame.image
            video.write(picture)
            slim = t % GEOMETRY_EVERY != 0
            none = np.zeros(0, np.float32)
            frames.append(replace(frame, image=none, depth=none, normal=none) if slim else replace(frame, image=none))
        truth = _truth(performance, frames)
        with atomic_path(truth_file) as partial:
            np.savez(partial, **truth)


def _backdrop(size: int, seed: int) -> np.ndarray:
    """A busy picture twice as wide as the frame, float32 [S, 2S, 3]."""
    noise = np.random.default_rng(seed).uniform(0, 255, (12, 24, 3)).astype(np.float32)
    return cv2.resize(noise, (2 * size, size), interpolation=cv2.INTER_CUBIC).clip(0, 255)


def _over(frame: RenderedFrame, room: np.ndarray, backdrop: np.ndarray, t: int) -> np.ndarray:
    """The person before a backdrop that slides past; the room in the edge's pixels is taken away first."""
    size = len(room)
    shift = round(t * BACKDROP_SPEED * size) % size
    alpha = cv2.GaussianBlur(frame.person.astype(np.float32), (0, 0), EDGE)[..., None]
    picture = frame.image + (1 - alpha) * (backdrop[:, shift : shift + size] - room)
    return picture.clip(0, 255).astype(np.uint8)


def _truth(performance: Performance, frames: list[RenderedFrame]) -> dict[str, np.ndarray]:
    pose = np.stack([frame.world_to_camera for frame in frames])
    landmarks = np.stack([frame.landmarks for frame in frames])
    blink = performance.articulation
    chosen = np.arange(0, len(frames), GEOMETRY_EVERY)
    labels = np.stack([frame.labels for frame in frames]).astype(np.uint8)
    return {
        "rotation": pose[:, :3, :3] @ np.diag([1.0, -1.0, -1.0]),  # x left (of the subject), y up, z forward before
        "translation_cm": 100 * pose[:, :3, 3],
        "focal": np.float64(frames[0].focal),
        "landmarks": np.stack([frame.landmarks_2d for frame in frames]).astype(np.float32),
        "blink": 0.5 * (blink.blink_left + blink.blink_right),
        "opening_cm": 100 * openings(landmarks)[2],
        "labels": np.frombuffer(zlib.compress(labels.tobytes(), 1), np.uint8),
        "geometry_frames": chosen,
        "depth_cm": np.stack([100 * frames[i].depth for i in chosen]),
        "normal": np.stack([frames[i].normal * frames[i].normal_valid[..., None] for i in chosen]),
    }
