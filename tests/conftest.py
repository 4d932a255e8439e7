"""Shared fixtures: a tiny subject that code draws (a head of ellipses that sways, blinks and opens its mouth)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy.io import wavfile

from instag.audio.norm import FeatureNorm
from instag.camera import opencv_to_opengl
from instag.data.layout import FPS, LABEL_COLORS, MESH_VERTICES, SAMPLE_RATE, Label, SubjectFolder

MADE_FRAMES, MADE_SIZE = 60, 64
DISTANCE = 0.72  # head units from the camera to the head
HEAD_RADII = (0.29, 0.37)  # of the picture: the ellipse of head and hair
MESH_RADII = (0.06, 0.08, 0.07)  # head units: the ellipsoid on which the face mesh lies
HAIR_SHARE = 0.45  # the upper part of the ellipse is hair
UNIT_NAMES = ("AU01", "AU02", "AU04", "AU05", "AU06", "AU07", "AU25", "AU45")
COLORS = {
    Label.HEAD: (205, 160, 130),
    Label.HAIR: (60, 40, 30),
    Label.NECK: (190, 145, 115),
    Label.TORSO: (40, 70, 140),
    Label.MOUTH: (90, 20, 25),
}
# As sharp as JPEG gets, so that both forms of the subject can be compared.
JPEG_QUALITY, JPEG_SAMPLING_444 = 98, 0x111111
TEETH_COLOR = (235, 230, 220)


@dataclass(frozen=True)
class MadeFrame:
    """What is drawn in one frame, uint8, and where the 68 points are."""

    image: np.ndarray  # [H, W, 3]
    labels: np.ndarray  # [H, W], teeth still counted as head
    teeth: np.ndarray  # bool [H, W]
    torso: np.ndarray  # [H, W, 4]
    landmarks: np.ndarray  # [68, 2]


def opening(frames: int) -> np.ndarray:
    """Mouth opening 0..1 per frame: syllables at 3 Hz in speech, nothing in a pause in the middle."""
    t = np.arange(frames) / FPS
    speech = np.abs((np.arange(frames) / frames) - 0.5) > 0.12
    return np.abs(np.sin(np.pi * 3 * t)) * speech


def blink(frames: int) -> np.ndarray:
    """AU45 0..3 per frame: one blink of five frames each second."""
    phase = np.arange(frames) % FPS
    return 3.0 * np.clip(1 - np.abs(phase - 8) / 3, 0, 1)


def ring(centre: tuple[float, float], radii: tuple[float, float], count: int, start: float = np.pi) -> np.ndarray:
    angle = start + 2 * np.pi * np.arange(count) / count
    return np.stack([centre[0] + radii[0] * np.cos(angle), centre[1] + radii[1] * np.sin(angle)], 1)


def made_landmarks(x: float, y: float, size: int, open_by: float) -> np.ndarray:
    """The 68 points of a head centred at (x, y) px."""
    s = size
    jaw_angle = np.linspace(np.pi, 0, 17)
    jaw = np.stack([x + 0.29 * s * np.cos(jaw_angle), y + 0.37 * s * np.sin(jaw_angle)], 1)
    brows = np.concatenate(
        [np.stack([x + s * np.linspace(a, b, 5), np.full(5, y - 0.12 * s)], 1) for a, b in ((-0.2, -0.06), (0.06, 0.2))]
    )
    nose = np.concatenate(
        [
            np.stack([np.full(4, x), y + s * np.linspace(-0.08, 0.04, 4)], 1),
            np.stack([x + s * np.linspace(-0.05, 0.05, 5), np.full(5, y + 0.07 * s)], 1),
        ]
    )
    eyes = np.concatenate([ring((x + side * 0.13 * s, y - 0.05 * s), (0.05 * s, 0.02 * s), 6) for side in (-1, 1)])
    mouth = (x, y + 0.19 * s)
    outer = ring(mouth, (0.11 * s, (0.04 + 0.07 * open_by) * s), 12)
    inner = ring(mouth, (0.09 * s, 0.07 * open_by * s), 8)
    return np.concatenate([jaw, brows, nose, eyes, outer, inner]).astype(np.float32)


def draw(size: int, background: np.ndarray, x: float, open_by: float, blink_by: float) -> MadeFrame:
    rows, columns = np.mgrid[:size, :size] + 0.5
    y = 0.45 * size

    def ellipse(cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
        return ((columns - cx) / max(rx, 1e-6)) ** 2 + ((rows - cy) / max(ry, 1e-6)) ** 2 < 1

    head = ellipse(x, y, HEAD_RADII[0] * size, HEAD_RADII[1] * size)
    mouth = ellipse(x, y + 0.19 * size, 0.09 * size, 0.07 * open_by * size)
    labels = np.zeros((size, size), np.uint8)
    labels[ellipse(0.5 * size, 1.05 * size, 0.45 * size, 0.25 * size)] = Label.TORSO
    labels[(np.abs(columns - x) < 0.13 * size) & (rows > y) & (rows < 0.84 * size)] = Label.NECK
    torso = np.zeros((size, size, 4), np.uint8)
    for label in (Label.TORSO, Label.NECK):
        torso[labels == label] = (*COLORS[label], 255)
    labels[head] = Label.HEAD
    labels[head & (rows < y - (HEAD_RADII[1] - HAIR_SHARE * HEAD_RADII[1]) * size)] = Label.HAIR
    labels[mouth] = Label.MOUTH
    teeth = mouth & (rows < y + 0.19 * size - 0.02 * size)
    image = background.copy()
    for label, color in COLORS.items():
        image[labels == label] = color
    image[teeth] = TEETH_COLOR
    for side in (-1, 1):
        eye = (x + side * 0.13 * size, y - 0.05 * size, 0.05 * size)
        image[ellipse(*eye, 0.025 * size)] = (240, 240, 240) if blink_by < 1.5 else (180, 135, 110)
        if blink_by < 1.5:
            image[ellipse(*eye[:2], 0.02 * size, 0.02 * size)] = (50, 40, 30)
    parsed = np.where(teeth, Label.HEAD, labels).astype(np.uint8)  # teeth_mask alone calls them mouth
    return MadeFrame(image, parsed, teeth, torso, made_landmarks(x, y, size, open_by))


def write_made_subject(
    root: Path, frames: int = MADE_FRAMES, size: int = MADE_SIZE, ours: bool = True, field: bool = True
) -> Path:
    """Write a subject folder; `ours`: frames.mp4, plates.mp4, tracks.safetensors; `field`: the field's layout."""
    import cv2

    jpeg = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, JPEG_SAMPLING_444]
    folder = SubjectFolder(root)
    focal, t = 2.25 * size, np.arange(frames)
    opened, blinked, x = opening(frames), blink(frames), size * (0.5 + 0.03 * np.sin(2 * np.pi * t / 40))
    ramp = np.linspace(90, 170, size)
    background = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], ramp[::-1, None]), 2).astype(np.uint8)
    made = [draw(size, background, x[i], opened[i], blinked[i]) for i in t]
    world_to_camera = np.tile(np.diag([1.0, -1.0, -1.0, 1.0]), (frames, 1, 1))
    world_to_camera[:, 0, 3] = (x - size / 2) * DISTANCE / focal
    world_to_camera[:, 1, 3] = (0.45 - 0.5) * size * DISTANCE / focal
    world_to_camera[:, 2, 3] = DISTANCE
    units = np.zeros((frames, len(UNIT_NAMES)))
    units[:, UNIT_NAMES.index("AU25")], units[:, UNIT_NAMES.index("AU45")] = 3 * opened, blinked
    units[:, 0] = 0.5 + 0.5 * np.sin(t / 9)
    root.mkdir(parents=True, exist_ok=True)

    for path in (folder.image(0), folder.ground_truth(0), folder.torso(0), folder.parsing(0), folder.teeth(0)):
        path.parent.mkdir(exist_ok=True)
    for i, frame in enumerate(made):
        cv2.imwrite(str(folder.parsing(i)), LABEL_COLORS[frame.labels][..., ::-1])
        np.save(folder.teeth(i), frame.teeth)
        if field:
            for path in (folder.image(i), folder.ground_truth(i)):
                cv2.imwrite(str(path), frame.image[..., ::-1], jpeg)
            cv2.imwrite(str(folder.torso(i)), frame.torso[..., [2, 1, 0, 3]])
            np.savetxt(folder.landmarks(i), frame.landmarks, "%.4f")
    cv2.imwrite(str(folder.background), background[..., ::-1], jpeg)
    if field:
        write_field_files(folder, world_to_camera, focal, units)
    write_sound(folder, opened)
    if ours:
        tracks = {
            "world_to_camera": world_to_camera,
            "focal": np.full(frames, focal),
            "landmarks": np.stack([frame.landmarks for frame in made]),
            "action_units": units,
            "mesh": made_mesh(world_to_camera),
        }
        tracks = {name: np.ascontiguousarray(value, np.float32) for name, value in tracks.items()}
        save_file(tracks, folder.tracks, {"action_unit_names": ",".join(UNIT_NAMES)})
        write_videos(folder, made, background)
        folder.manifest.write_text(json.dumps({"format_version": 1, "frames": frames, "size": size, "focal": focal}))
    return root


def made_mesh(world_to_camera: np.ndarray) -> np.ndarray:
    """The face mesh's net spread over the front of an ellipsoid of the head's size, camera space, [T, 468, 3]."""
    from instag.data_utils.face_mesh import face_triangles
    from instag.data_utils.face_points import FACE_OVAL_LOOP

    triangles = face_triangles().astype(int)
    joined = np.zeros((MESH_VERTICES, MESH_VERTICES))
    for a, b in ((0, 1), (1, 2), (2, 0)):
        joined[triangles[:, a], triangles[:, b]] = joined[triangles[:, b], triangles[:, a]] = 1
    oval = list(FACE_OVAL_LOOP)  # clockwise in the picture, from the top of the forehead
    angle = 2 * np.pi * np.arange(len(oval)) / len(oval)
    system = np.diag(joined.sum(1)) - joined  # each point in the middle of its neighbours ...
    system[oval] = np.eye(MESH_VERTICES)[oval]  # ... and the oval on a circle
    right = np.zeros((MESH_VERTICES, 2))
    right[oval] = 0.95 * np.stack([np.sin(angle), np.cos(angle)], 1)
    disc = np.linalg.solve(system, right)
    world = np.column_stack([disc, np.sqrt(1 - (disc**2).sum(1))]) * MESH_RADII
    return world @ world_to_camera[:, :3, :3].transpose(0, 2, 1) + world_to_camera[:, None, :3, 3]


def write_field_files(folder: SubjectFolder, world_to_camera: np.ndarray, focal: float, units: np.ndarray) -> None:
    poses = opencv_to_opengl(world_to_camera)
    cut = len(poses) * 10 // 11
    for split, numbers in (("train", range(cut)), ("val", range(cut, len(poses)))):
        frames = [{"img_id": i, "aud_id": i, "transform_matrix": poses[i].tolist()} for i in numbers]
        content = {"focal_len": focal, "cx": 0.0, "cy": 0.0, "frames": frames}
        folder.transforms(split).write_text(json.dumps(content))
    rows = ["frame, " + ", ".join(f"{name}_r" for name in UNIT_NAMES)]
    rows += [f"{i}, " + ", ".join(f"{value:.4f}" for value in row) for i, row in enumerate(units)]
    folder.action_units.write_text("\n".join(rows) + "\n")


def write_sound(folder: SubjectFolder, opened: np.ndarray) -> None:
    """Noise as loud as the mouth is open, and features that show the opening of the frames around."""
    rng = np.random.default_rng(0)
    samples = SAMPLE_RATE // FPS
    loud = np.repeat(opened, samples)
    wavfile.write(
        folder.audio, SAMPLE_RATE, (8000 * loud * rng.standard_normal(len(loud))).clip(-32767, 32767).astype(np.int16)
    )
    half_frames = np.repeat(opened, 2)  # 50 Hz
    padded = np.pad(half_frames, 8)
    windows = np.stack([padded[2 * i : 2 * i + 16] for i in range(len(opened))])  # [T, 16]
    features = windows[..., None] * rng.standard_normal(74) + 0.05 * rng.standard_normal((len(opened), 16, 74))
    np.save(folder.root / "aud_pm.npy", features.astype(np.float32))
    np.save(folder.root / "aud.npy", features[..., :29].astype(np.float32))
    (folder.root / "aud_pm.norm.json").write_text(FeatureNorm.default("phone-mel").to_json())


def write_videos(folder: SubjectFolder, made: list[MadeFrame], background: np.ndarray) -> None:
    from instag.media import VideoWriter

    size = len(background)
    with VideoWriter(folder.frames, FPS, size) as frames, VideoWriter(folder.plates, FPS, size) as plates:
        for frame in made:
            frames.write(frame.image)
            plates.write(np.where(frame.torso[..., 3:] > 0, frame.torso[..., :3], background))


@dataclass(frozen=True)
class MadeFacts:
    """What is known about the made subject without reading it."""

    frames: int = MADE_FRAMES
    size: int = MADE_SIZE
    distance: float = DISTANCE
    mesh_radii: tuple[float, float, float] = MESH_RADII

    @property
    def opening(self) -> np.ndarray:
        """How far the mouth is open, 0..1, [T]."""
        return opening(self.frames)


@pytest.fixture(scope="session")
def made() -> MadeFacts:
    """The truth about `made_subject`."""
    return MadeFacts()


@pytest.fixture(scope="session")
def made_subject(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made subject of 60 frames at 64 px with every file of the layout (read only: the session shares it)."""
    return write_made_subject(tmp_path_factory.mktemp("made") / "ellipse")


@pytest.fixture(scope="session")
def made_field_subject(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same subject as another program of the field would leave it: none of our own files."""
    return write_made_subject(tmp_path_factory.mktemp("field") / "ellipse", ours=False)


@pytest.fixture
def make_subject(tmp_path: Path) -> Callable[..., Path]:
    """Writes a subject that a test may spoil: `make_subject(frames=8, ours=False, ...)` -> its folder."""
    return lambda frames=8, **options: write_made_subject(tmp_path / "subject", frames, **options)
