"""What a universal field and the personalised fields have learnt of made speakers: shared motion, and style.

The generator moves the same face twice: as the speaker speaks (M), and with the same sounds at the same times in the
mean style of all the run's speakers (M0, the shared motion; what is common to their styles is U's to learn).
S = M - M0 is the style. At the lips' landmarks the fields' own motions U and D_i are read from the Gaussians next to
each landmark, turned and scaled from the subject's head frame into the generator's. Per speaker, landmark and axis the
means over time are removed. "x holds y" is R^2 = 1 - sum (y - b x)^2 / sum y^2 with one gain b for all speakers: a
field that had learnt everybody's own gain would not pass for the shared one.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from instag.build import build_face_motion, build_personal
from instag.config import ModelConfig
from instag.data.dataset import SubjectDataset
from instag.data.layout import FPS
from instag.files import load_tensors
from instag.synthetic.animate import Rig
from instag.synthetic.landmarks import MEDIAPIPE, NAMES, head_landmarks
from instag.synthetic.render import HEAD_UNIT, Speaker

LIPS = tuple(name for name in NAMES if name.startswith(("lip_", "mouth_")))
NEIGHBOURS = 10  # Gaussians round a landmark
LEAST_OPACITY = 0.3
BATCH = 32  # frames asked together
TRUTH = ".truth.npz"
STYLE = ("jaw_gain", "lip_gain", "wide_gain", "round_gain", "asymmetry")  # all of a made speaker's style at the mouth


@dataclass(frozen=True)
class Motions:
    """Of one speaker, [T, K, 3] each, generator's head frame, head units; `personal` None without D_i."""

    shared: np.ndarray
    style: np.ndarray
    universal: np.ndarray
    personal: np.ndarray | None


def field_figures(checkpoint: Path, model: ModelConfig, subjects: list[Path], device: str) -> dict[str, float]:
    """Figures of a finished face pre-training on made speakers.

    Args:
        checkpoint: `face.checkpoint.safetensors` of the run.
        model: settings of its fields.
        subjects: packs of the speakers, in the run's order, each with its truth beside it.
        device: where the fields are asked.

    Returns:
        `u_holds_shared`, `u_holds_style`, and where there are personalised fields `d_holds_style`, `d_holds_shared` and
        `sum_holds_motion`: R^2, on the vertical axis (`_y`) and on all three.
    """
    tensors, _ = load_tensors(checkpoint, "checkpoint")
    universal = build_face_motion(model)
    universal.load_state_dict(_below("average.", tensors))
    mean = mean_style([_speaker(path) for path in subjects])
    motions = [_motions(i, path, tensors, universal.to(device), model, device, mean) for i, path in enumerate(subjects)]
    out = {}
    for ending, axes in (("_y", slice(1, 2)), ("", slice(0, 3))):
        shared, style, u = ([getattr(m, name)[..., axes] for m in motions] for name in ("shared", "style", "universal"))
        out |= {f"u_holds_shared{ending}": holds(u, shared), f"u_holds_style{ending}": holds(u, style)}
        if all(m.personal is not None for m in motions):
            d = [m.personal[..., axes] for m in motions]
            total = [a + b for a, b in zip(u, d, strict=True)]
            motion = [a + b for a, b in zip(shared, style, strict=True)]
            out |= {
                f"d_holds_style{ending}": holds(d, style),
                f"d_holds_shared{ending}": holds(d, shared),
                f"sum_holds_motion{ending}": holds(total, motion),
            }
    return out


def holds(found: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """R^2 with which one gain on `found` explains `wanted`: lists over speakers of [T, K, C], means over T removed."""
    x, y = (np.concatenate([(part - part.mean(0)).ravel() for part in parts]) for parts in (found, wanted))
    gain = float(x @ y) / max(float(x @ x), np.finfo(float).tiny)
    return float(1 - ((y - gain * x) ** 2).sum() / (y @ y))


def mean_style(speakers: Sequence[Speaker]) -> tuple[float, ...]:
    """Means of the speakers' STYLE."""
    return tuple(float(np.mean([getattr(speaker.style, name) for speaker in speakers])) for name in STYLE)


def made_motions(truth: Mapping[str, np.ndarray], mean: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Shared motion and style of the lips' landmarks, [T, K, 3] each, of a made clip, from its seeds.

    Args:
        truth: `seeds` (identity, style, sentences) and `landmarks` of the clip.
        mean: the STYLE of the shared motion.
    """
    identity, style, sentences = (int(seed) for seed in truth["seeds"])
    return _made(identity, style, sentences, len(truth["landmarks"]), mean)


def _speaker(path: Path) -> Speaker:
    """Of a made clip, from the truth beside its pack."""
    with np.load(path.with_suffix(TRUTH)) as truth:
        identity, style, _ = (int(seed) for seed in truth["seeds"])
    return Speaker(identity, style)


@functools.lru_cache
def _made(
    identity: int, style: int, sentences: int, frames: int, mean: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Kept, for every pre-training of a run asks for the same speakers, seconds each."""
    speaker = Speaker(identity, style)
    plain = Speaker(identity, style)
    plain.style = replace(speaker.style, **dict(zip(STYLE, mean, strict=True)))
    own, shared = (_lip_points(who, sentences, frames) for who in (speaker, plain))
    return shared, own - shared


def _lip_points(speaker: Speaker, sentences: int, frames: int) -> np.ndarray:
    """[T, K, 3] head frame, head units."""
    articulation = speaker.perform(sentences, frames / FPS, FPS).articulation
    rig = Rig(speaker.mesh, speaker.identity, speaker.style.asymmetry)
    rows = [NAMES.index(name) for name in LIPS]
    out = []
    for t in range(frames):
        pose = articulation.at(t)
        out.append(head_landmarks(rig, speaker.landmark_vertices, rig.deform(pose), pose)[rows])
    return np.stack(out) / HEAD_UNIT


def similarity(source: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    """Scale and rotation [3, 3] that bring points [P, 3] on to others, least squares (Umeyama 1991)."""
    a, b = source - source.mean(0), target - target.mean(0)
    u, values, vt = np.linalg.svd(b.T @ a)
    sign = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    return float((values * np.diag(sign)).sum() / (a**2).sum()), u @ sign @ vt


def _motions(
    i: int,
    path: Path,
    tensors: Mapping[str, Tensor],
    universal: nn.Module,
    model: ModelConfig,
    device: str,
    mean: tuple[float, ...],
) -> Motions:
    with np.load(path.with_suffix(TRUTH)) as truth:
        shared, style = made_motions(truth, mean)
        whole = truth["landmarks"].astype(np.float64)
        pose = truth["world_to_camera"].astype(np.float64)
    exact = _to_head(whole, pose).mean(0)  # [46, 3]
    part = _below(f"{i}/branch.", tensors)
    structure = _below("structure.", part) or _below("0/branch.structure.", tensors)  # shared: saved with the first
    personal = None
    if state := _below("personal.", part):
        personal = build_personal(model, "face").to(device)
        personal.load_state_dict(state)
    with SubjectDataset.open(path, extractor=model.extractor) as dataset:
        mesh = _to_head(dataset.tracks.mesh.astype(np.float64), dataset.world_to_camera.astype(np.float64)).mean(0)
        points = np.stack([mesh[list(MEDIAPIPE[name])].mean(0) if max(MEDIAPIPE[name]) < len(mesh) else
                           np.full(3, np.nan) for name in NAMES])  # fmt: skip
        known = np.isfinite(points).all(1)
        scale, turn = similarity(points[known], exact[known])
        near = neighbours(structure, points[[NAMES.index(name) for name in LIPS]]).to(device)
        read = [
            None if field is None else scale * _read(field, near, dataset, len(shared), device) @ turn.T
            for field in (universal, personal)
        ]
    assert read[0] is not None
    return Motions(shared, style, read[0], read[1])


def _to_head(points: np.ndarray, world_to_camera: np.ndarray) -> np.ndarray:
    """[T, P, 3] camera space -> head frame."""
    return np.einsum("tij,tpi->tpj", world_to_camera[:, :3, :3], points - world_to_camera[:, None, :3, 3])


def neighbours(structure: Mapping[str, Tensor], points: np.ndarray) -> Tensor:
    """Means of the visible Gaussians next to each point [K, 3]: [K, NEIGHBOURS, 3]."""
    means = structure["means"].float().cpu()
    visible = torch.sigmoid(structure["opacities_raw"].float().cpu()).reshape(-1) > LEAST_OPACITY
    means = means[visible] if visible.sum() >= NEIGHBOURS else means
    distance = torch.cdist(torch.from_numpy(points).float(), means)
    return means[distance.topk(min(NEIGHBOURS, len(means)), largest=False).indices]


@torch.no_grad()
def _read(field: nn.Module, near: Tensor, dataset: SubjectDataset, frames: int, device: str) -> np.ndarray:
    """A face field's d_mean at landmarks, with a neutral expression: [T, K, 3]."""
    out = []
    for start in range(0, frames, BATCH):
        condition = dataset.condition(range(start, min(start + BATCH, frames)), device)
        moved = field(near.reshape(-1, 3), condition.audio, torch.zeros_like(condition.expression)).d_mean
        out.append(moved.reshape(len(moved), *near.shape).mean(2).cpu().numpy())
    return np.concatenate(out).astype(np.float64)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
