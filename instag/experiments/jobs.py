"""What the jobs of the ablations do: pre-train, adapt and render, read memory. One folder and one result.json a job."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from instag.api import adapt_subject, find_subjects, load_avatar, pretrain_fields
from instag.avatar import Avatar
from instag.camera import Camera
from instag.config import Config
from instag.config_io import from_dict
from instag.data.dataset import SubjectDataset
from instag.experiments.fields import TRUTH, field_figures
from instag.experiments.frames import write_frames
from instag.files import write_json
from instag.metrics.evaluate import check_same_conditions
from instag.metrics.image import ImageMetrics
from instag.metrics.lpips import load_lpips
from instag.metrics.report import jpeg
from instag.synthesize import to_uint8

RESULT, FRAMES, PROFILE, CONFIG, AVATAR = "result.json", "frames.avif", "profile.jpg", "config.yaml", "run"
UNIVERSAL = "run/universal.safetensors"
BATCH = 8  # frames rendered together
PROFILE_YAWS = (-40.0, -20.0, 0.0, 20.0, 40.0)  # degrees, figures 8 and 11 of the paper
PROFILE_GREY, PROFILE_CONTRAST, PROFILE_MARGIN = 0.5, 12, 0.02  # level, levels of 255, share of the height
MIB = 1 << 20


def run_job(payload: Mapping[str, Any]) -> None:
    """Do a job by its payload (`instag.experiments.plan` writes them)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        gc.collect()  # of the job before in this process
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    start = time.perf_counter()
    result = KINDS[payload["kind"]](payload, device)
    result |= {
        "recipe": payload["recipe"],
        "seconds_all": time.perf_counter() - start,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
    }
    if device == "cuda":
        result["memory_mb"] = (torch.cuda.max_memory_allocated() - before) / MIB
    write_json(Path(payload["folder"]) / RESULT, result)


def pretrain_job(payload: Mapping[str, Any], device: str) -> dict[str, Any]:
    """Universal fields of one variant and seed; continues an interrupted run."""
    folder = Path(payload["folder"])
    start = time.perf_counter()
    pretrain_fields(
        Path(payload["corpus"]), folder / "run", str(folder / CONFIG), device=device, ids=payload["ids"], progress=False
    )
    seconds = time.perf_counter() - start
    return {"train_seconds": seconds, **_made_fields(payload, device)}


def _made_fields(payload: Mapping[str, Any], device: str) -> dict[str, float]:
    """What the fields hold of made speakers' motion, where everybody's truth is beside them."""
    subjects = find_subjects(Path(payload["corpus"]), payload["ids"])
    if not all(path.with_suffix(TRUTH).is_file() for path in subjects):
        return {}
    model = from_dict(Config, payload["recipe"]["settings"]).model
    checkpoint = Path(payload["folder"]) / "run" / "face.checkpoint.safetensors"
    return field_figures(checkpoint, model, subjects, device)


def memory_job(payload: Mapping[str, Any], device: str) -> dict[str, Any]:
    """A short pre-training whose memory is read; nothing of it is kept."""
    result = pretrain_job(payload, device)
    shutil.rmtree(Path(payload["folder"]) / "run")
    return result


def adapt_job(payload: Mapping[str, Any], device: str) -> dict[str, Any]:
    """An avatar, its rendered test frames and what can be measured without tracking faces."""
    folder = Path(payload["folder"])
    run = folder / "run"
    start = time.perf_counter()
    adapt_subject(
        Path(payload["subject"]),
        run,
        str(folder / CONFIG),
        device=device,
        universal=payload["universal"],
        progress=False,
    )
    trained = time.perf_counter()
    avatar = load_avatar(run, device)
    with SubjectDataset.open(payload["test"], size=avatar.size, extractor=avatar.model.extractor) as dataset:
        indices = avatar.split.test if payload["test"] == payload["subject"] else np.arange(len(dataset))
        frames, result = render_and_measure(avatar, dataset, indices)
        write_frames(folder / FRAMES, frames)
        if payload["profile"]:
            (folder / PROFILE).write_bytes(jpeg(profile_views(avatar, dataset, int(indices[len(indices) // 2]))))
    for checkpoint in run.glob("*.checkpoint.safetensors"):
        checkpoint.unlink()  # large, and a finished row needs none
    head = avatar.head
    counts = {"face": len(head.face.structure), "mouth": 0 if head.mouth is None else len(head.mouth.structure)}
    return {
        **result,
        "frames": [int(i) for i in indices],
        "gaussians": counts,
        "train_seconds": trained - start,
        "render_seconds": time.perf_counter() - trained,
    }


def render_and_measure(
    avatar: Avatar, dataset: SubjectDataset, indices: np.ndarray
) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Self-driven frames, uint8 [H, W, 3] each, and their PSNR, SSIM and, where weights are installed, LPIPS."""
    check_same_conditions(avatar, dataset)
    metrics = ImageMetrics(load_lpips(avatar.device), avatar.device)
    frames = []
    for rows, images in _rendered(avatar, dataset, indices):
        for i, image in zip(rows, images, strict=True):
            picture = dataset.picture(int(i))
            metrics.add(image, picture.image, picture.labels)
            frames.append(image)
    return frames, metrics.summary()


@torch.no_grad()
def _rendered(avatar: Avatar, dataset: SubjectDataset, indices: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(indices), BATCH):
        rows = indices[start : start + BATCH]
        batch = dataset.batch(rows, avatar.device)
        yield rows, to_uint8(avatar.render(batch.condition, batch.background))


@torch.no_grad()
def profile_views(avatar: Avatar, dataset: SubjectDataset, frame: int) -> np.ndarray:
    """One frame's head turned by PROFILE_YAWS about its vertical axis, on grey, side by side: uint8 [h, 5 w, 3].

    All views are cut to the box that holds the head in each of them.
    """
    condition = dataset.condition([frame], avatar.device)
    camera = condition.camera
    grey = torch.full((1, 3, avatar.size, avatar.size), PROFILE_GREY, device=avatar.device)
    views = []
    for yaw in PROFILE_YAWS:
        turn = torch.from_numpy(yaw_rotation(yaw)).to(camera.world_to_camera)
        turned = Camera(camera.world_to_camera @ turn, camera.focal, camera.width, camera.height)
        views.append(to_uint8(avatar.render(replace(condition, camera=turned), grey))[0])
    return np.concatenate(cut_to_heads(np.stack(views)), axis=1)


def cut_to_heads(views: np.ndarray) -> np.ndarray:
    """Views [V, H, W, 3] uint8 on PROFILE_GREY, cut to the pixels that are drawn in any of them and a margin."""
    drawn = (np.abs(views.astype(int) - round(255 * PROFILE_GREY)).max(3) > PROFILE_CONTRAST).any(0)
    if not drawn.any():
        return views
    margin = round(PROFILE_MARGIN * drawn.shape[0])
    places = (np.flatnonzero(drawn.any(axis)) for axis in (1, 0))
    rows, columns = (slice(max(place[0] - margin, 0), place[-1] + 1 + margin) for place in places)
    return views[:, rows, columns]


def yaw_rotation(degrees: float) -> np.ndarray:
    """Homogeneous rotation [4, 4] of the head about its y axis."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cos, 0, sin, 0], [0, 1, 0, 0], [-sin, 0, cos, 0], [0, 0, 0, 1]])


KINDS = {"pretrain": pretrain_job, "memory": memory_job, "adapt": adapt_job}
