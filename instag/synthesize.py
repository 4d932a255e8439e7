"""Avatar + audio -> frames -> mp4 with sound: schedules and blinks (pure), then the shell that renders and writes."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from instag.audio.norm import FeatureNorm
from instag.data.audio import load_features
from instag.data.frame import Condition
from instag.data.layout import BLINK_UNIT, EXPRESSION_UNITS, FPS, SAMPLE_RATE
from instag.data.split import Split
from instag.data.subject_folder import read_wave
from instag.errors import DataError, InstagError
from instag.frame_output import FrameFolderWriter, FrameSink, OrderedWriter, VideoSink
from instag.kernels.capture import graphs_for
from instag.render.batches import BatchRenderer, PlateSlots
from instag.version import __version__

logger = logging.getLogger(__name__)

Poses = Literal["train", "test", "all"]
Blink = Literal["clip", "natural"]

MOST_FRAMES = 16  # rendered together: points are encoded once for all of them
MOST_PIXELS = MOST_FRAMES * 256**2  # of these frames: bounds memory
PROGRESS_DELAY = 2.0  # seconds before a bar appears
BLINK_COLUMN = EXPRESSION_UNITS.index(BLINK_UNIT)
AVATAR_NORM = "the avatar's audio norm"  # what errors call it
FEATURE_SUFFIX, VIDEO_SUFFIX = ".npy", ".mp4"

# Spontaneous blinks while talking: about 15 a minute, log-normal intervals; lids close in 0.1 s and open in 0.2 s.
BLINK_INTERVAL = 4.0  # seconds, median
BLINK_INTERVAL_SPREAD = 0.5  # of the logarithm
BLINK_SHORTEST = 1.0  # seconds between two blinks
BLINK_CLOSING, BLINK_OPENING = 0.1, 0.2  # seconds
OPEN_EYES_PERCENTILE = 50  # of the clip's AU45: eyes are open in most frames


class _Model(Protocol):
    extractor: str


class Drivable(Protocol):
    """What synthesis and evaluation need of an avatar (`instag.avatar.Avatar` is one).

    Attributes:
        id: name of the subject.
        model: its `extractor` names the audio features.
        norm: normalisation of those features as plain JSON, or None.
        size: H = W of the rendered pictures.
        expression: [T, 6] of the clip.
        split: which frames of the clip it was trained on.
    """

    id: str
    model: _Model
    norm: Mapping[str, Any] | None
    size: int
    expression: Tensor
    split: Split

    def __len__(self) -> int: ...

    @property
    def device(self) -> torch.device:
        """Where it renders."""

    def plate(self, index: int) -> np.ndarray:
        """Torso over the background for a frame of the clip, uint8 [H, W, 3]."""

    def plates(self, indices: list[int]) -> Tensor:
        """Torso over the background for frames of the clip, [B, 3, H, W] in [0, 1]."""

    def condition(
        self, indices: list[int] | Tensor, features: Tensor, frames: list[int] | Tensor, expression: Tensor
    ) -> Condition:
        """Poses of the clip's frames `indices`, sound around rows `frames` of the features, expression [B, 6]."""

    def render(self, condition: Condition, plates: Tensor, dilate: bool = False) -> Tensor:
        """Composite [B, 3, H, W] in [0, 1]."""


# --- pure -------------------------------------------------------------------------------------------------------
def track_schedule(track_length: int, frames: int) -> np.ndarray:
    """Which frame of a track each output frame takes: forward, back, forward ...; the ends are not doubled.

    Returns int64 [frames] in 0 .. track_length - 1; neighbours differ by one (or are equal for a track of one frame).
    """
    if track_length < 1:
        raise DataError("the pose track is empty; choose other poses")
    period = max(2 * (track_length - 1), 1)
    phase = np.arange(frames) % period
    return np.where(phase < track_length, phase, period - phase)


def natural_blinks(frames: int, peak: float, rest: float = 0.0, seed: int = 0) -> np.ndarray:
    """AU45 of a person who blinks now and then, float32 [frames] in [rest, peak] at 25 fps; the same for a seed."""
    rng = np.random.default_rng(seed)
    time = np.arange(frames) / FPS
    closed = np.zeros(frames)
    at = 0.0
    while True:
        interval = BLINK_INTERVAL * math.exp(BLINK_INTERVAL_SPREAD * rng.standard_normal())
        at += max(interval, BLINK_SHORTEST)
        if at - BLINK_CLOSING > frames / FPS:
            break
        at = round(at * FPS) / FPS  # the lids meet on a frame
        ramp = np.where(time < at, (time - at) / BLINK_CLOSING, (at - time) / BLINK_OPENING)
        closed = np.maximum(closed, 1 + np.maximum(ramp, -1))
    return (rest + (peak - rest) * closed).astype(np.float32)


def drive_expression(expression: Tensor, schedule: np.ndarray, blink: Blink, seed: int) -> Tensor:
    """Expression of each output frame [F, 6]: the clip's by the schedule, the blink replaced when it is natural.

    Generated blinks close the eyes as far as the clip does: what the avatar never saw it cannot draw.
    """
    driven = expression[torch.from_numpy(schedule).to(expression.device)].clone()
    if blink == "natural":
        lids = expression[:, BLINK_COLUMN].float().cpu().numpy()
        blinks = natural_blinks(
            len(schedule), float(lids.max()), float(np.percentile(lids, OPEN_EYES_PERCENTILE)), seed
        )
        driven[:, BLINK_COLUMN] = torch.from_numpy(blinks).to(driven)
    return driven


def choose_poses(split: Split, track_length: int, poses: Poses) -> np.ndarray:
    """Frames of the clip that make up the pose track."""
    return {"train": split.train, "test": split.test, "all": np.arange(track_length)}[poses]


def batch_frames(size: int) -> int:
    """How many frames of that side are rendered together on the CPU."""
    return max(1, min(MOST_FRAMES, MOST_PIXELS // size**2))


def to_uint8(images: Tensor) -> np.ndarray:
    """[B, 3, H, W] in [0, 1] -> uint8 RGB [B, H, W, 3], truncated (METHOD.md section 6)."""
    return to_bytes(images).cpu().numpy()


def to_bytes(images: Tensor) -> Tensor:
    """`to_uint8` on the images' device."""
    return (images.clamp(0, 1) * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


# --- sound ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Speech:
    """What drives an avatar.

    Attributes:
        features: float32 [F, W, D], one row per output frame.
        samples: float32 [S] in [-1, 1], the sound of the video.
        rate: Hz.
    """

    features: Tensor
    samples: np.ndarray
    rate: int


def load_speech(audio: Path, extractor: str, norm: Mapping[str, Any] | None) -> Speech:
    """Features and sound of an audio file, with the avatar's extractor and normalisation.

    audio: anything that FFmpeg decodes, or ready features (`.npy`; their sound is `<name>.wav` or `aud.wav` beside
    them, silence where there is none, which is said).
    Raises DataError: unreadable, made by another extractor, or normalised otherwise.
    """
    if audio.suffix == FEATURE_SUFFIX:
        features = load_features(audio, extractor)
        _check_norm(audio, norm)
        return Speech(torch.from_numpy(features), *_sound_beside(audio, len(features)))
    from instag.audio.io import read_audio

    return speech_of(read_audio(audio), extractor, norm)


def speech_of(samples: np.ndarray, extractor: str, norm: Mapping[str, Any] | None) -> Speech:
    """Features of a sound, float32 [S] at 16 kHz, with the avatar's extractor and normalisation."""
    from instag.audio.features import extract, frame_count

    known = FeatureNorm.from_dict(dict(norm), AVATAR_NORM) if norm is not None else None
    features, _ = extract(samples, extractor, frames=frame_count(len(samples)), norm=known)
    return Speech(torch.from_numpy(features), samples, SAMPLE_RATE)


def _check_norm(features: Path, norm: Mapping[str, Any] | None) -> None:
    """DataError where ready features carry another normalisation than the avatar was trained with."""
    record = features.with_suffix(".norm.json")
    if norm is None or not record.is_file():
        return
    try:
        found = FeatureNorm.from_json(record.read_text(encoding="utf-8"), str(record))
    except OSError as error:
        raise DataError(f"{record}: {error.strerror}; make the features anew with `instag features`") from None
    FeatureNorm.from_dict(dict(norm), AVATAR_NORM).require_same(found, AVATAR_NORM, str(features))


def _sound_beside(features: Path, frames: int) -> tuple[np.ndarray, int]:
    for path in (features.with_suffix(".wav"), features.with_name("aud.wav")):
        if path.is_file():
            return read_wave(path, str(path))
    logger.warning("note: no sound beside %s: the video's sound is silence", features)
    return np.zeros(frames * SAMPLE_RATE // FPS, np.float32), SAMPLE_RATE


# --- shell ------------------------------------------------------------------------------------------------------
def synthesize(
    avatar: Drivable,
    audio: Path | str,
    output: Path | str,
    *,
    poses: Poses = "all",
    blink: Blink = "clip",
    dilate: bool = False,
    frames: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Make an avatar say a sound; everything is written whole or not at all.

    Args:
        avatar: who speaks.
        audio: sound or video file, or ready features (`load_speech`).
        output: `.mp4`: a video with the sound (H.264, AAC, 25 fps); anything else: a folder of lossless PNGs.
        poses: part of the clip whose poses, expressions and torso are repeated, forward and back.
        blink: of the clip, or `natural_blinks`.
        dilate: test-time dilation of the mouth's alpha.
        frames: with a video: write the PNGs too, into `<output>_frames`.
        seed: of natural blinks.
        progress: show a bar.

    Returns:
        `output`.

    Raises:
        InstagError: what cannot be read, or written, in one line.
    """
    output = Path(output)
    speech = load_speech(Path(audio), avatar.model.extractor, avatar.norm)
    count = len(speech.features)
    track = choose_poses(avatar.split, len(avatar), poses)
    schedule = track[track_schedule(len(track), count)]  # [F] frames of the clip
    expression = drive_expression(avatar.expression, schedule, blink, seed)
    features = speech.features.to(avatar.device)
    bar = tqdm(total=count, unit="frame", delay=PROGRESS_DELAY, disable=not progress)
    with OrderedWriter(_sinks(avatar, speech, output, frames)) as writer, bar:
        for pictures in draw_frames(avatar, schedule, features, expression, dilate):
            writer.write(pictures)
            bar.update(len(pictures))
    return output


def draw_frames(
    avatar: Drivable, schedule: np.ndarray, features: Tensor, expression: Tensor, dilate: bool = False
) -> Iterator[np.ndarray]:
    """Output frames in order, in batches uint8 [b, H, W, 3]; on CUDA by replaying one captured graph.

    Args:
        avatar: who speaks.
        schedule: [F] frame of the clip whose pose and torso each output frame takes.
        features: [F, W, D] on the avatar's device.
        expression: [F, 6] on the avatar's device.
        dilate: test-time dilation of the mouth's alpha.
    """
    graphs = graphs_for(avatar.device)
    if graphs is None:
        step = batch_frames(avatar.size)
        for start in range(0, len(schedule), step):
            rows = list(range(start, min(start + step, len(schedule))))
            indices = [int(schedule[row]) for row in rows]
            with torch.no_grad():
                condition = avatar.condition(indices, features, rows, expression[rows])
                pictures = to_uint8(avatar.render(condition, avatar.plates(indices), dilate))
            yield pictures
        return

    def draw(index: Tensor, row: Tensor, plates: Tensor) -> Tensor:
        condition = avatar.condition(index, features, row, expression[row])
        return to_bytes(avatar.render(condition, plates, dilate))

    slots = PlateSlots(avatar.plate, avatar.size, avatar.device, len(np.unique(schedule)))
    yield from BatchRenderer(draw, schedule, slots, graphs)


def _sinks(avatar: Drivable, speech: Speech, output: Path, frames: bool) -> list[FrameSink]:
    if output.suffix.lower() != VIDEO_SUFFIX:
        if output.suffix:
            raise InstagError(f"{output}: give a name that ends in .mp4, or a folder for PNG frames")
        return [FrameFolderWriter(output)]
    sinks: list[FrameSink] = []
    try:
        if frames:
            sinks.append(FrameFolderWriter(output.with_name(f"{output.stem}_frames")))
        sound = (speech.samples, speech.rate)
        sinks.append(VideoSink(output, avatar.size, sound, provenance(avatar.id)))
    except BaseException:
        for sink in sinks:
            sink.discard()
        raise
    return sinks


def provenance(avatar_id: str) -> dict[str, str]:
    """Container tags that say what a video is: synthetic, by which version, from which avatar."""
    return {
        "title": f"Synthetic video of {avatar_id}",
        "comment": f"Synthetic (AI-generated) talking head. Made by instag {__version__} from avatar '{avatar_id}'.",
    }
