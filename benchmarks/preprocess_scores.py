"""What benchmarks/preprocess.py measures, as pure functions: each returns figures by name."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from instag.data.layout import Label

PITCH_YAW_ROLL = ("pitch", "yaw", "roll")  # rotation about x (right), y (down), z (away) of the head
MAD_TO_SIGMA = 1 / 0.6745
SECOND_DIFFERENCE_GAIN = np.sqrt(6.0)  # of white noise
CLOSED = 0.5  # a true blink: the lids this far closed
BLINK_INTENSITY = 1.5  # AU45 from which on a blink is reported
BLINK_SLACK = 2  # frames between a true blink and the one reported
OPEN_MOUTH_SHARE = 0.0025  # of the true head's pixels, from which on the mouth counts as open
WHOLE_HEAD = (Label.HEAD, Label.HAIR, Label.MOUTH)


def jitter(track: np.ndarray) -> np.ndarray:
    """Trembling [D] of a track [T, D] in its unit: robust deviation of second differences, 1 for unit white noise."""
    second = track[:-2] - 2 * track[1:-1] + track[2:]
    return np.median(np.abs(second), axis=0) * MAD_TO_SIGMA / SECOND_DIFFERENCE_GAIN


def rotation_error(found: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotation error [T, 3] deg about the head's axes, less its mean over the clip; and that mean [3].

    found, true: head to camera [T, 3, 3]. The mean is the choice of the head frame, which no two trackers share.
    """
    between = Rotation.from_matrix(true.transpose(0, 2, 1) @ found)  # true head <- found head
    mean = between.mean()
    return np.degrees((between * mean.inv()).as_rotvec()), np.degrees(mean.as_rotvec())


def translation_error(found: np.ndarray, found_rotation: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Translation error [T, 3] cm, less what is a matter of definition: the head's origin, and a scale an axis."""
    errors = np.empty_like(true)
    for axis in range(3):
        known = np.column_stack([found[:, axis], found_rotation[:, axis], np.ones(len(found)) * (axis == 2)])
        errors[:, axis] = true[:, axis] - known @ np.linalg.lstsq(known, true[:, axis], rcond=None)[0]
    return errors


def pose_scores(rotation: np.ndarray, translation_cm: np.ndarray, true: object) -> dict[str, float]:
    """Pose against truth (`SpeakerTruth`): deg and cm."""
    error, constant = rotation_error(rotation, true.rotation)
    moved = translation_error(translation_cm, rotation, true.translation_cm)
    spread, trembling = error.std(0), jitter(error)
    angles = [Rotation.from_matrix(r).as_euler("yxz", degrees=True) for r in (rotation, true.rotation)]
    scores = {}
    for i, name in enumerate(PITCH_YAW_ROLL):
        scores |= {f"{name}_mean": constant[i], f"{name}_std": spread[i], f"{name}_jitter": trembling[i]}
    for name, column in (("pitch", 1), ("yaw", 0)):
        scores[f"{name}_slope"] = float(np.polyfit(angles[1][:, column], angles[0][:, column], 1)[0])
    scores |= {f"t{axis}_std_cm": moved[:, i].std() for i, axis in enumerate("xyz")}
    return {name: float(value) for name, value in scores.items()}


def landmark_scores(found: np.ndarray, true: np.ndarray, eye_distance: float, size: int) -> dict[str, float]:
    """Named landmarks found and true [T, K, 2] px: distance in % of the eyes', and what moves wrongly, px of 512."""
    error = found - true
    own = error - error.mean(0)  # what a point means is a matter of definition
    return {
        "nme_percent": float(100 * np.linalg.norm(error, axis=-1).mean() / eye_distance),
        "motion_px512": float(np.linalg.norm(own, axis=-1).mean() * 512 / size),
        "jitter_px512": float(jitter(own.reshape(len(own), -1)).mean() * 512 / size),
    }


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r, 0 where one does not vary."""
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


def events(active: np.ndarray) -> np.ndarray:
    """(first, last) [E, 2] of each run of True in [T]."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], active.astype(np.int8), [0]])))
    return np.stack([edges[::2], edges[1::2] - 1], axis=1)


def blink_counts(intensity: np.ndarray, closure: np.ndarray) -> dict[str, int]:
    """Blinks hit, missed and invented: AU45 [T] 0..5 against the true closure [T] 0..1."""
    true, found = events(closure >= CLOSED), events(intensity >= BLINK_INTENSITY)
    meets = (true[:, None, 0] <= found[None, :, 1] + BLINK_SLACK) & (
        found[None, :, 0] <= true[:, None, 1] + BLINK_SLACK
    )
    return {
        "true": len(true),
        "hit": int(meets.any(1).sum()),
        "invented": int((~meets.any(0)).sum()),
    }


def f1(counts: list[dict[str, int]]) -> dict[str, float]:
    """Precision, recall and F1 of blinks over all speakers."""
    true, hit, invented = (sum(c[name] for c in counts) for name in ("true", "hit", "invented"))
    precision, recall = hit / max(hit + invented, 1), hit / max(true, 1)
    return {
        "blinks": true,
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / max(precision + recall, 1e-9),
    }


def mask_scores(found: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Label maps uint8 [T, S, S]: IoU of each mask over the clip, and the part of head, hair and neck labelled wrongly.

    `mouth_open`: only frames whose mouth is open. `flicker`: part of the person whose label, but not the true one,
    changes from one frame to the next.
    """
    open_mouth = (true == Label.MOUTH).sum((1, 2)) > OPEN_MOUTH_SHARE * np.isin(true, WHOLE_HEAD).sum((1, 2))
    masks = {
        "person": (Label.HEAD, Label.HAIR, Label.MOUTH, Label.NECK, Label.TORSO),
        "whole_head": WHOLE_HEAD,
        "head": (Label.HEAD,),
        "hair": (Label.HAIR,),
        "neck": (Label.NECK,),
        "torso": (Label.TORSO,),
    }
    scores = {name: _iou(np.isin(found, labels), np.isin(true, labels)) for name, labels in masks.items()}
    if open_mouth.any():
        scores["mouth_open"] = _iou(found[open_mouth] == Label.MOUTH, true[open_mouth] == Label.MOUTH)
    upper = np.isin(true, (Label.HEAD, Label.HAIR, Label.NECK))
    scores["wrong_head_hair_neck"] = float((upper & (found != true)).sum() / upper.sum())
    steady = (true[1:] == true[:-1]) & (true[1:] != Label.BACKGROUND)
    scores["flicker"] = float((steady & (found[1:] != found[:-1])).sum() / steady.sum())
    return scores


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def geometry_scores(
    depth: np.ndarray, normal: np.ndarray, valid: np.ndarray, true_depth: np.ndarray, true_normal: np.ndarray
) -> dict[str, float]:
    """Depth (any unit) and normals (OpenCV axes) of one frame against truth (cm), where both exist.

    Depth is scaled by the median ratio (size and focal are shared there) before the relief is compared.
    """
    both = valid & np.isfinite(true_depth) & (np.abs(true_normal).sum(-1) > 0)
    found, true = depth[both], true_depth[both]
    relief = found * np.median(true / found) - true
    cosine = (normal[both] * true_normal[both]).sum(-1).clip(-1, 1)
    return {
        "relief_cm": float(np.abs(relief).mean()),
        "normal_deg": float(np.degrees(np.arccos(cosine)).mean()),
        "covered": float(both.sum() / (np.abs(true_normal).sum(-1) > 0).sum()),
    }
