"""Preprocessing against truth: procedural speakers through `instag process`, and real clips through what they allow.

    python3 benchmarks/preprocess.py --out DIR [--only masks|poses] [--speakers short,long] [--size 256] [--seconds 2.4]
    python3 benchmarks/preprocess.py --out DIR --clips a.mp4 b.mp4   (real clips: no truth, consistency)

Writes DIR/<speaker>.json as each is done (done ones are skipped: run again to go on), DIR/preprocess.json and the
tables DIR/preprocess.md. Rendered clips are kept in DIR/../speakers (or --rendered). One CPU; size 256 takes minutes.
Speakers named *_512 are rendered and processed at twice --size.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

import preprocess_scores as scores  # noqa: E402
from preprocess_real import held_out_rms, label_unrest, sample_texture, texture_points  # noqa: E402
from preprocess_speakers import SPECS, SpeakerTruth, Spec, make_speaker  # noqa: E402

from instag.camera import CENTIMETRES_PER_UNIT  # noqa: E402
from instag.data.layout import SubjectFolder  # noqa: E402
from instag.data_utils.action_units import action_units, frontal_points  # noqa: E402
from instag.data_utils.clip import WorkFiles, load_landmarks, load_track  # noqa: E402
from instag.data_utils.face_mesh import face_triangles  # noqa: E402
from instag.data_utils.face_points import (  # noqa: E402
    LEFT_EYE_OUTER,
    LOWER_INNER_LIP,
    RIGHT_EYE_OUTER,
    UPPER_INNER_LIP,
)
from instag.data_utils.pictures import read_labels  # noqa: E402
from instag.data_utils.pipeline import STEPS  # noqa: E402
from instag.data_utils.priors import camera_mesh, rasterize_mesh  # noqa: E402
from instag.data_utils.process import process  # noqa: E402
from instag.data_utils.video import read_all  # noqa: E402
from instag.synthetic.landmarks import MEDIAPIPE, NAMES  # noqa: E402

LAST_STEP = {"poses": "tracks", "masks": "pictures"}
TO_OPENGL = np.array([1.0, -1.0, -1.0])
MASK_FIGURES = (
    *("person", "whole_head", "head", "hair", "neck", "torso", "mouth_open"),
    *("wrong_head_hair_neck", "flicker"),
)
# (column, title) by table: what the tables show; the JSON has all.
COLUMNS = {
    "poses": (
        *((f"{axis}_std", f"{axis} std") for axis in scores.PITCH_YAW_ROLL),
        *((f"{axis}_jitter", f"{axis} jitter") for axis in scores.PITCH_YAW_ROLL),
        ("pitch_slope", "pitch slope"),
        ("tz_std_cm", "tz cm"),
        ("focal_ratio", "focal"),
        ("motion_px512", "landmarks px"),
        ("opening_r", "opening r"),
        ("relief_cm", "relief cm"),
        ("normal_deg", "normal deg"),
        ("texture_rms", "texture"),
    ),
    "masks": tuple((name, name.replace("_", " ")) for name in MASK_FIGURES),
    "real": (
        ("reprojection_px", "reprojection px"),
        ("texture_rms_landmarks", "texture, landmarks' poses"),
        ("texture_rms", "refined"),
        ("texture_gain", "gain"),
        *(
            (f"{axis}_jitter{suffix}", f"{axis} jitter{title}")
            for suffix, title in (("_landmarks", ", landmarks' poses"), ("", ""))
            for axis in scores.PITCH_YAW_ROLL
        ),
        ("focal_per_width", "focal / width"),
        ("label_change", "label change"),
        ("label_flicker", "label flicker"),
    ),
}


def steps_up_to(*last: str) -> list[str]:
    """Names of the steps that the given ones need, and themselves, in order."""
    wanted = set(last)
    for step in reversed(STEPS):
        if step.name in wanted:
            wanted |= set(step.needs)
    return [step.name for step in STEPS if step.name in wanted]


def score_poses(folder: SubjectFolder, truth: SpeakerTruth) -> dict:
    """Pose, landmarks, blinks, opening of the mouth, and geometry prior."""
    work = WorkFiles(folder)
    track, landmarks = load_track(work.track), load_landmarks(work.landmarks)
    size = truth.labels.shape[-1]
    result: dict = scores.pose_scores(track.rotation, track.translation_cm, truth)
    named = np.stack([landmarks[:, list(MEDIAPIPE[name]), :2].mean(1) for name in NAMES], axis=1)
    eyes = np.linalg.norm(landmarks[:, LEFT_EYE_OUTER, :2] - landmarks[:, RIGHT_EYE_OUTER, :2], axis=1)
    result |= scores.landmark_scores(named, truth.landmarks, float(np.median(eyes)), size)
    units = action_units(landmarks, track.rotation)
    frontal = frontal_points(landmarks, track.rotation)
    lips = frontal[:, LOWER_INNER_LIP, 1] - frontal[:, UPPER_INNER_LIP, 1]
    result |= {
        "focal_ratio": track.focal / float(truth.focal),
        "reprojection_px": track.rmse * 512 / size,
        "opening_r": scores.correlation(lips, truth.opening_cm),
        "au25_r": scores.correlation(units["AU25"], truth.opening_cm),
        "blink_r": scores.correlation(units["AU45"], truth.blink),
        "blinks": scores.blink_counts(units["AU45"], truth.blink),
        "texture_rms": held_out_rms(sample_texture(read_all(folder.frames), track, *texture_points(track.shape))),
    }
    geometry = []
    for k, t in enumerate(truth.geometry_frames):
        view = slice(t, t + 1)
        mesh = camera_mesh(
            landmarks[view], track.rotation[view], track.translation_cm[view], track.shape, track.focal, size
        )[0]
        depth, normal, valid = rasterize_mesh(mesh, face_triangles(), track.focal, size)
        normal = normal * TO_OPENGL
        depth = depth * CENTIMETRES_PER_UNIT
        geometry.append(scores.geometry_scores(depth, normal, valid, truth.depth_cm[k], truth.normal[k]))
    return result | {name: float(np.mean([g[name] for g in geometry])) for name in geometry[0]}


def score_masks(folder: SubjectFolder, truth: SpeakerTruth) -> dict:
    """Label maps."""
    return scores.mask_scores(np.stack([read_labels(folder, i) for i in range(len(truth.labels))]), truth.labels)


PARTS: dict[str, Callable[[SubjectFolder, SpeakerTruth], dict]] = {"poses": score_poses, "masks": score_masks}


def run_speaker(spec: Spec, options: argparse.Namespace, parts: list[str]) -> dict:
    """One procedural speaker through the pipeline; figures by part."""
    clip, truth = make_speaker(spec, options.rendered, options.size, options.seconds)
    folder = options.out / "subjects" / spec.name
    started = time.perf_counter()
    steps = steps_up_to(*(LAST_STEP[part] for part in parts))
    subject = process(clip, folder, size=truth.labels.shape[-1], extractor="mel", steps=steps, workers=1)
    result: dict = {part: PARTS[part](subject, truth) for part in parts}
    return result | {"seconds": round(time.perf_counter() - started, 1)}


def run_real(clip: Path, options: argparse.Namespace, parts: list[str]) -> dict:
    """A real clip through the pipeline."""
    folder = options.out / "subjects" / clip.stem
    steps = steps_up_to(*(LAST_STEP[part] for part in parts))
    subject = process(
        clip, folder, size=options.size, limit_seconds=options.seconds, extractor="mel", steps=steps, workers=1
    )
    work = WorkFiles(subject)
    track, unrefined = load_track(work.track), load_track(work.pose)
    result = {"reprojection_px": track.rmse * 512 / options.size, "focal_per_width": track.focal / options.size}
    for suffix, poses in (("", track), ("_landmarks", unrefined)):
        axes = scores.rotation_error(poses.rotation, np.broadcast_to(np.eye(3), poses.rotation.shape))[0]
        names = [f"{axis}_jitter{suffix}" for axis in scores.PITCH_YAW_ROLL]
        result |= dict(zip(names, scores.jitter(axes), strict=True))
        for half in (None, "upper", "lower"):
            texture = sample_texture(read_all(subject.frames), poses, *texture_points(poses.shape, half))
            result["_".join(["texture_rms", *([half] if half else [])]) + suffix] = held_out_rms(texture)
    result["texture_gain"] = 1 - result["texture_rms"] / result["texture_rms_landmarks"]
    if "masks" in parts:
        labels = np.stack([read_labels(subject, i) for i in range(len(track.rotation))])
        result["label_change"], result["label_flicker"] = label_unrest(labels, track)
    return {"real": {name: float(value) for name, value in result.items()}}


def tables(results: dict[str, dict]) -> str:
    """The figures as Markdown."""
    lines = []
    for part, columns in COLUMNS.items():
        rows = {name: result[part] for name, result in results.items() if part in result}
        if not rows:
            continue
        columns = [(key, title) for key, title in columns if any(key in row for row in rows.values())]
        lines += [
            "",
            f"| {part} | " + " | ".join(title for _, title in columns) + " |",
            "|---" * (len(columns) + 1) + "|",
        ]
        for name, row in rows.items():
            lines.append(f"| {name} | " + " | ".join(_cell(row.get(key)) for key, _ in columns) + " |")
        for title, group in _groups(list(rows)):
            means = [_cell(_mean([rows[name].get(key) for name in group])) for key, _ in columns]
            lines.append(f"| **{title}** | " + " | ".join(means) + " |")
    counts = [result["poses"]["blinks"] for result in results.values() if "poses" in result]
    if counts:
        lines += ["", "Blinks: " + ", ".join(f"{name} {value:.3g}" for name, value in scores.f1(counts).items())]
    return "\n".join(lines).strip() + "\n"


def _groups(names: list[str]) -> list[tuple[str, list[str]]]:
    groups = [(f"mean {kind}", [name for name in names if name.startswith(kind)]) for kind in ("short", "long")]
    return [(title, group) for title, group in (*groups, ("mean", names)) if group]


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def run_all(options: argparse.Namespace) -> dict[str, dict]:
    """Each speaker or clip that is not done; figures by name."""
    parts = [options.only] if options.only else list(PARTS)
    chosen = [spec for spec in SPECS if options.speakers is None or spec.name in options.speakers.split(",")]
    jobs = {clip.stem: (run_real, clip) for clip in options.clips} or {s.name: (run_speaker, s) for s in chosen}
    results = {}
    for name, (run, what) in jobs.items():
        file = options.out / f"{name}.json"
        before = json.loads(file.read_text()) if file.is_file() else {}
        missing = [part for part in parts if part not in before] if not options.clips else parts * (not before)
        if missing:
            before |= run(what, options, missing)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(before, indent=1))
        results[name] = before
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--rendered", type=Path, help="folder of the rendered speakers (default OUT/../speakers)")
    parser.add_argument("--only", choices=list(PARTS), help="one part alone")
    parser.add_argument("--speakers", help=f"names with commas between; all: {','.join(s.name for s in SPECS)}")
    parser.add_argument("--clips", type=Path, nargs="+", default=[], help="real clips, instead of the speakers")
    parser.add_argument("--size", type=int, default=256, help="px; speakers *_512 have twice as much")
    parser.add_argument("--seconds", type=float, default=2.4, help="length of each clip")
    options = parser.parse_args()
    options.rendered = options.rendered or options.out.resolve().parent / "speakers"
    results = run_all(options)
    text = tables(results)
    (options.out / "preprocess.json").write_text(json.dumps(results, indent=1))
    (options.out / "preprocess.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
