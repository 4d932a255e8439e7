"""Is a clip good enough, and what should be done? Plain sentences for `instag doctor clip.mp4` and `instag process`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

import numpy as np

from instag.audio.acoustic_model import load_acoustic_model
from instag.audio.features import STEPS_PER_FRAME, prepare_samples
from instag.audio.io import read_audio
from instag.audio.norm import FeatureNorm
from instag.audio.phone_mel import phone_mel
from instag.data.layout import FPS, SAMPLE_RATE
from instag.data_utils.lag import Lag, heard_opening, lip_opening, measure_lag
from instag.data_utils.landmarks import LONGEST_GAP
from instag.data_utils.shots import Shot, describe_shots, find_cuts, split_shots
from instag.data_utils.survey import Survey, runs, survey_clip
from instag.data_utils.video import (
    HDR_TRANSFERS,
    OVAL_BOTTOM,
    OVAL_TOP,
    SHORTEST_CLIP,
    SIDE_PER_OVAL,
    ClipInfo,
    probe,
    square_crop,
)
from instag.data_utils.workers import usable_cores
from instag.errors import DataError

CHECKED_SECONDS = 60.0  # of a clip that `instag doctor` looks at: the first minute tells
SHORT_SECONDS = 5.0  # a head can be learnt from less, but the paper's shortest setting is 5 s
DARK, BRIGHT = 50.0, 225.0  # mean grey level of the face
SOFT = 5.0  # sharpness of the face (`Survey.sharpness`); 24 usable clips have 6.7 to 30
CRUSHED_BITS = 0.008  # a pixel and frame; 24 usable clips have 0.0136 to 0.54
MOST_REPEATED = 0.05  # of the frames
SMALL_FACE = 180.0  # px from forehead to chin: enlarged more than 1.4 times for 512 px pictures
ODD_RATE = 0.02  # relative difference to 25 fps below which nobody needs to know of the resampling
SILENCE, CLIPPED = 0.003, 0.999  # of full scale: loudness (RMS of the loudest tenth), and what counts as cut off
MOST_CLIPPED = 0.002  # of the samples
SIDEWAYS = 0.35  # nose to the middle of the eyes over the eyes' distance: about 30 degrees of yaw
MOST_SIDEWAYS = 0.2  # of the frames
LOUD_BLOCK = SAMPLE_RATE // 10


class Level(IntEnum):
    """How bad a finding is."""

    FINE, WARNING, FATAL = 0, 1, 2


@dataclass(frozen=True)
class Finding:
    """One sentence, and what to do where something is to be done."""

    level: Level
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.text}; {self.remedy}" if self.remedy else self.text


@dataclass(frozen=True)
class Check:
    """Everything found about a clip."""

    findings: list[Finding] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """good, usable or not usable."""
        return ("good", "usable", "not usable")[max((f.level for f in self.findings), default=Level.FINE)]

    def add(self, level: Level, text: str, remedy: str = "") -> None:
        """Append a finding."""
        self.findings.append(Finding(level, text, remedy))


def sound_signals(samples: np.ndarray, frames: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Phone posteriors [frames, 42] of samples [S] at 16 kHz, at the middle of each frame, and the phones' names."""
    model = load_acoustic_model(None)
    steps = phone_mel(prepare_samples(samples), FeatureNorm.default("phone-mel"), model)  # [K, 74] at 50 Hz
    middle = STEPS_PER_FRAME * np.arange(frames) + STEPS_PER_FRAME // 2
    return steps[np.clip(middle, 0, len(steps) - 1), : len(model.phones)], model.phones


def lag_of(landmarks: np.ndarray, samples: np.ndarray) -> Lag:
    """How late the lips, landmarks [T, 478, 3], are against the sound of the same frames, samples [S] at 16 kHz."""
    posteriors, phones = sound_signals(samples, len(landmarks))
    return measure_lag(lip_opening(landmarks), heard_opening(posteriors, phones))


def check_clip(path: Path | str, size: int = 512, limit_seconds: float | None = CHECKED_SECONDS) -> Check:
    """Look at the clip's beginning and judge it. Never raises for a bad clip: what is wrong is a finding."""
    check = Check()
    try:
        info = probe(path)
        _container(check, info, limit_seconds)
        if 0 < info.seconds < SHORTEST_CLIP:
            raise DataError(f"{info.seconds:.1f} s long, {SHORTEST_CLIP:.0f} s are needed; give a longer clip")
        survey = survey_clip(path, info, limit_seconds, trackers=usable_cores())
    except DataError as error:
        check.add(Level.FATAL, *_split(error, path))
        return check
    shots = split_shots(survey)
    judge_pictures(check, survey, max(shots, key=len, default=None), size)
    _judge_sound_of(check, path, info, survey)
    return check


def _split(error: DataError, path: Path | str) -> tuple[str, str]:
    text, _, remedy = str(error).removeprefix(f"{path}: ").partition("; ")
    return text, remedy


def _container(check: Check, info: ClipInfo, limit_seconds: float | None) -> None:
    looked = f"; looked at the first {limit_seconds:.0f} s" if limit_seconds and info.seconds > limit_seconds else ""
    check.add(Level.FINE, f"{info.width} x {info.height} px, {info.fps:.4g} fps, {info.seconds:.1f} s{looked}")
    if abs(info.fps / FPS - 1) > ODD_RATE:
        check.add(Level.FINE, f"{info.fps:.4g} frames a second are resampled to {FPS} by their time stamps")
    if SHORTEST_CLIP <= info.seconds < SHORT_SECONDS:
        check.add(Level.WARNING, f"only {info.seconds:.1f} s", "5 s to a few minutes of speech are better")
    if 0 < info.bits_per_pixel < CRUSHED_BITS:
        text = f"strongly compressed ({info.bits_per_pixel:.4f} bits a pixel)"
        check.add(Level.WARNING, text, "take the original file, not one that a messenger sent")
    if info.transfer in HDR_TRANSFERS:
        check.add(Level.WARNING, "HDR colours, which will look pale", "convert it to SDR (BT.709) first")


def judge_pictures(check: Check, survey: Survey, shot: Shot | None, size: int, chosen: bool = False) -> None:
    """Add what the pictures show: face, shots, crop, light, sharpness.

    shot: the part that is used, None where there is none. chosen: the user asked for it and knows of the others.
    """
    if not survey.found.any():
        check.add(Level.FATAL, "no face found in any frame", "give a clip that shows one face from the front")
        return
    _judge_face(check, survey)
    if shot is None:
        remedy = "give an uninterrupted take"
        check.add(Level.FATAL, f"the face is never seen for {SHORTEST_CLIP:.0f} s without a cut", remedy)
        return
    if find_cuts(survey.change, survey.repeated) and not chosen:
        remedy = "the longest is taken; choose another with --shot N, or all with --shot 0"
        check.add(Level.WARNING, f"the picture is cut: {describe_shots(split_shots(survey))}", remedy)
    judge_shot(check, survey, shot, size)


def _judge_face(check: Check, survey: Survey) -> None:
    lost = [(a, b) for a, b in runs(~survey.found) if b - a > LONGEST_GAP]
    if lost:
        spans = ", ".join(f"{a / FPS:.1f}-{b / FPS:.1f} s" for a, b in lost[:3])
        check.add(Level.WARNING, f"no face at {spans}", "these parts are left out; uncover and frame the face")
    elif not survey.found.all():
        check.add(Level.FINE, f"the face is lost in {int((~survey.found).sum())} single frames, which are bridged")
    if survey.faces > 1:
        remedy = "the largest steady face is taken; check the contact sheet"
        check.add(Level.WARNING, f"{survey.faces} faces beside each other", remedy)


def judge_shot(check: Check, survey: Survey, shot: Shot, size: int) -> None:
    """Add what is to be said of the part that is used."""
    at = slice(shot.start, shot.stop)
    points = survey.landmarks[at][survey.found[at]]
    oval = float(np.median(np.linalg.norm(points[:, OVAL_TOP, :2] - points[:, OVAL_BOTTOM, :2], axis=1)))
    crop = square_crop(points, survey.width, survey.height, survey.bars)
    text = f"face {oval:.0f} px high, pictures cut to {crop.side} x {crop.side} px at ({crop.left}, {crop.top})"
    if oval * SIDE_PER_OVAL < SMALL_FACE * SIDE_PER_OVAL * size / 512:
        check.add(Level.WARNING, f"{text}, enlarged to {size} px: soft", "film closer, in full HD, or take --size 256")
    else:
        check.add(Level.FINE, text)
    if any(survey.bars):
        check.add(Level.FINE, "black bars round the picture are cut off")
    low, high = points[..., :2].min(1), points[..., :2].max(1)
    outside = (low < 0).any(1) | (high > (survey.width, survey.height)).any(1)
    if outside.mean() > MOST_SIDEWAYS:
        check.add(Level.WARNING, "the face is cut off by the border of the picture", "keep the whole head in view")
    eyes = points[:, 263, :2] - points[:, 33, :2]
    turned = np.abs((points[:, 4, :2] - 0.5 * (points[:, 263, :2] + points[:, 33, :2])) * eyes).sum(1)
    if (turned / (eyes**2).sum(1) > SIDEWAYS).mean() > MOST_SIDEWAYS:
        check.add(Level.WARNING, "the head is turned far to the side much of the time", "look towards the camera")
    _judge_light(check, survey, at)


def _judge_light(check: Check, survey: Survey, at: slice) -> None:
    brightness, sharpness = float(np.median(survey.brightness[at])), float(np.median(survey.sharpness[at]))
    if brightness < DARK:
        check.add(Level.WARNING, f"dark: the face has a mean grey level of {brightness:.0f} of 255", "use more light")
    elif brightness > BRIGHT:
        text = f"overexposed: the face has a mean grey level of {brightness:.0f} of 255"
        check.add(Level.WARNING, text, "use less light, or a shorter exposure")
    if sharpness < SOFT:
        text = f"blurred or smeared by compression (sharpness {sharpness:.1f}, usual 7 to 30)"
        check.add(Level.WARNING, text, "focus on the face, hold the camera still, take the original file")
    repeated = float(survey.repeated[at].mean())
    if repeated > MOST_REPEATED:
        text = f"the picture stands still in {100 * repeated:.0f} % of the frames while the sound goes on"
        check.add(Level.WARNING, text, "record on the device itself, not through a video call")


def _judge_sound_of(check: Check, path: Path | str, info: ClipInfo, survey: Survey) -> None:
    if not info.has_audio:
        check.add(Level.FATAL, "has no sound, which the lips are learnt from", "give a clip with speech")
        return
    try:
        samples = read_audio(path)[: len(survey) * SAMPLE_RATE // FPS]
    except DataError as error:
        check.add(Level.FATAL, *_split(error, path))
        return
    judge_sound(check, samples)
    judge_lag(check, lag_of(survey.landmarks, samples))


def judge_sound(check: Check, samples: np.ndarray) -> None:
    """Add what is to be said of samples [S] at 16 kHz."""
    whole = samples[: len(samples) // LOUD_BLOCK * LOUD_BLOCK].reshape(-1, LOUD_BLOCK)
    loud = float(np.percentile(np.sqrt((whole**2).mean(1)), 90)) if len(whole) else 0.0
    if loud < SILENCE:
        check.add(Level.FATAL, "the sound is silent", "give a clip with audible speech")
    elif (np.abs(samples) >= CLIPPED).mean() > MOST_CLIPPED:
        check.add(Level.WARNING, "the sound is clipped (recorded too loud)", "record again with less gain")


def judge_lag(check: Check, lag: Lag) -> None:
    """Add whether sound and lips go together."""
    sureness = f"correlation {lag.correlation:.2f}, {lag.margin:.2f} above the next"
    if lag.off:
        side = "late" if lag.frames > 0 else "early"
        text = f"the lips are {abs(lag.frames)} frames ({abs(lag.frames) * 1000 // FPS} ms) {side} ({sureness})"
        check.add(Level.WARNING, text, "correct it with --fix-lag")
    elif lag.sure:
        check.add(Level.FINE, f"lips and sound go together (lag {lag.frames:+d} frames, {sureness})")
    else:
        check.add(Level.FINE, f"lips against sound: no clear figure ({sureness})")
