"""A procedural speaker as a video file with sound, and its ground truth beside it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import numba
import numpy as np
from tqdm import tqdm

from instag.data.layout import FPS, SAMPLE_RATE
from instag.errors import InstagError
from instag.files import atomic_path
from instag.synthetic.identity import Hair
from instag.synthetic.landmarks import NAMES, openings
from instag.synthetic.performance import Performance
from instag.synthetic.render import RenderedFrame, Speaker, background_plate, render_frame

CRF = 16  # visually lossless
METADATA = {"comment": "synthetic: a procedural speaker made by instag.synthetic; no person's data"}


@dataclass(frozen=True)
class Truth:
    """What is exactly true of a clip of T frames, S x S pixels: the arrays of `<stem>.truth.npz`.

    Pixels: x right, y down, centres at +.5. Lengths: head units (cm / 100). Sides are the subject's own.
    """

    world_to_camera: np.ndarray  # [T, 4, 4] float64; OpenCV camera; world = head frame: x left, y up, z forward
    focal: np.ndarray  # [] float64 px, principal point at the image centre
    landmark_names: np.ndarray  # [K] str; landmarks.MEDIAPIPE maps them to FaceMesh points
    landmarks: np.ndarray  # [T, K, 3] float32, camera space
    landmarks_2d: np.ndarray  # [T, K, 2] float32, px
    lid_gap: np.ndarray  # [T, 2] float32, right and left eye
    mouth_opening: np.ndarray  # [T] float32, gap between the inner lips
    blink: np.ndarray  # [T, 2] float32, right and left, 0 open .. 1 closed
    background: np.ndarray  # [S, S, 3] uint8 RGB, the room without the person
    label_bytes: np.ndarray  # [bytes] uint8, one zlib stream a frame; read with `labels(t)`
    label_offsets: np.ndarray  # [T + 1] int64
    phonemes: np.ndarray  # [P] str, symbols of phonemes.PHONEMES; "_" is a pause
    phoneme_times: np.ndarray  # [P, 2] float64 s, start and end
    sentences: np.ndarray  # [Q] str, words separated by spaces
    audio: np.ndarray  # [samples] float32 in [-1, 1], 16 kHz, before compression
    seeds: np.ndarray  # [3] int64, identity, style, sentences

    def labels(self, t: int) -> np.ndarray:
        """Return the label map of frame t, [S, S] uint8 (instag.data.layout.Label)."""
        stream = self.label_bytes[self.label_offsets[t] : self.label_offsets[t + 1]].tobytes()
        return np.frombuffer(zlib.decompress(stream), np.uint8).reshape(self.background.shape[:2])


def truth_path(clip: str | Path) -> Path:
    """Return where the ground truth of a clip lies."""
    return Path(clip).with_suffix(".truth.npz")


def read_truth(clip: str | Path) -> Truth:
    """Return the ground truth of a clip made by `make_clip`.

    Raises:
        InstagError: it is not there.
    """
    path = truth_path(clip)
    if not path.is_file():
        raise InstagError(f"{path} is missing: make the clip with instag.synthetic.make_clip")
    with np.load(path) as arrays:
        return Truth(**{field.name: arrays[field.name] for field in fields(Truth)})


def make_clip(
    path_mp4: str | Path,
    identity_seed: int,
    style_seed: int,
    sentence_seed: int,
    seconds: float,
    size: int = 512,
    supersampling: int = 2,
    progress: bool = True,
    hair: Hair | None = None,
    glasses: bool = False,
) -> Path:
    """Render a clip at 25 fps with sound (H.264 crf 16, AAC) and `<stem>.truth.npz` beside it; return the mp4's path.

    Each file appears whole or not at all. The pictures repeat to the bit for the same arguments; so do the decoded
    ones at 64, 128, 256 and 512 px (at 96 or 192, x264's tree of macroblocks varies from run to run). Frames are
    rendered by one thread a core (NUMBA_NUM_THREADS), a few ahead of the encoder.

    Raises:
        InstagError: a file cannot be written, the size is odd, no frame is asked for, or hair is unknown.
    """
    from instag.media import VideoWriter  # needs PyAV: whoever only asks for the truth does without

    path = Path(path_mp4)
    speaker = Speaker(identity_seed, style_seed, hair, glasses)
    performance = speaker.perform(sentence_seed, seconds, FPS)
    frames = _render_all(speaker, performance, size, supersampling)
    bar = tqdm(frames, total=len(performance), desc=path.name, unit="frame", disable=not progress)
    recorder = _Recorder()
    sound = (performance.audio, SAMPLE_RATE)
    with VideoWriter(path, FPS, size, CRF, "yuv420p", audio=sound, metadata=METADATA) as video:
        for frame in bar:
            video.write(frame.image)
            recorder.add(frame)
        _write_truth(path, recorder.truth(speaker, performance, background_plate(speaker, size), sentence_seed))
    return path


def _write_truth(clip: Path, truth: Truth) -> None:
    """Write the arrays beside the clip, before the clip itself: no clip is ever without its truth."""
    with atomic_path(truth_path(clip)) as partial:
        np.savez(partial, **{field.name: getattr(truth, field.name) for field in fields(Truth)})


def _render_all(speaker: Speaker, performance: Performance, size: int, supersampling: int) -> Iterator[RenderedFrame]:
    """Yield the frames in order, rendered by several threads: the compiled parts run outside the interpreter lock."""
    threads = numba.config.NUMBA_NUM_THREADS
    speaker.rig, speaker.landmark_vertices  # noqa: B018 (built here, not once in each thread)
    with ThreadPoolExecutor(threads) as pool:
        waiting: list[Future[RenderedFrame]] = []
        for t in range(len(performance) + threads + 1):
            if t < len(performance):
                waiting.append(pool.submit(render_frame, speaker, performance, t, size, supersampling))
            if t > threads and waiting:
                yield waiting.pop(0).result()


class _Recorder:
    """Keeps the small part of each rendered frame's truth; label maps compressed, so memory stays flat."""

    def __init__(self):
        self._frames: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._labels: list[bytes] = []
        self._focal = 0.0

    def add(self, frame: RenderedFrame) -> None:
        self._focal = frame.focal
        self._frames.append((frame.world_to_camera, frame.landmarks, frame.landmarks_2d))
        self._labels.append(zlib.compress(frame.labels.tobytes(), level=1))

    def truth(self, speaker: Speaker, performance: Performance, background: np.ndarray, sentence_seed: int) -> Truth:
        poses, landmarks, landmarks_2d = (np.stack(values) for values in zip(*self._frames, strict=True))
        right, left, mouth = openings(landmarks)
        sounds, articulation = performance.utterance.sounds, performance.articulation
        return Truth(
            world_to_camera=poses,
            focal=np.float64(self._focal),
            landmark_names=np.array(NAMES),
            landmarks=landmarks.astype(np.float32),
            landmarks_2d=landmarks_2d.astype(np.float32),
            lid_gap=np.stack([right, left], 1).astype(np.float32),
            mouth_opening=mouth.astype(np.float32),
            blink=np.stack([articulation.blink_right, articulation.blink_left], 1).astype(np.float32),
            background=background,
            label_bytes=np.frombuffer(b"".join(self._labels), np.uint8),
            label_offsets=np.cumsum([0] + [len(stream) for stream in self._labels]),
            phonemes=np.array([sound.symbol for sound in sounds]),
            phoneme_times=np.array([(sound.start, sound.start + sound.seconds) for sound in sounds]),
            sentences=np.array([" ".join(words) for words in performance.utterance.sentences]),
            audio=performance.audio,
            seeds=np.array([speaker.identity.seed, speaker.style.seed, sentence_seed]),
        )
