"""One folder that shows how good an avatar is: metrics.json, a self-contained report.html, side_by_side.mp4."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from instag.data.dataset import SubjectDataset
from instag.data.layout import FPS
from instag.data.pictures import opencv
from instag.errors import DataError
from instag.files import write_json, write_text
from instag.synthesize import provenance

METRICS, REPORT, SIDE_BY_SIDE = "metrics.json", "report.html", "side_by_side.mp4"
SAMPLES = 6  # frames shown in the page
SAMPLE_WIDTH = 768  # px of truth, render and difference side by side
DIFFERENCE_GAIN = 4
JPEG_QUALITY = 88
PLOT_WIDTH, PLOT_HEIGHT, PLOT_MARGIN = 900, 180, 34  # px
COLORS = ("#2a6f97", "#c8553d")
SIDE_BY_SIDE_CRF = 18

# Name in metrics.json -> what the page calls it, unit, format; in this order.
ROWS: dict[str, tuple[str, str]] = {
    "psnr": ("PSNR, whole picture (dB)", ".2f"),
    "psnr_face": ("PSNR, true head (dB)", ".2f"),
    "ssim": ("SSIM, whole picture", ".4f"),
    "lpips": ("LPIPS (AlexNet), whole picture", ".4f"),
    "lpips_face": ("LPIPS (AlexNet), true head", ".4f"),
    "lip_r": ("Lip opening: correlation r at lag 0", ".3f"),
    "lip_best_r": ("Lip opening: best r within 3 frames", ".3f"),
    "lip_best_lag": ("... at this lag (frames; positive: late)", "d"),
    "opening_mean": ("Lip opening: mean", ".4f"),
    "opening_mean_truth": ("... of the truth", ".4f"),
    "opening_deviation": ("Lip opening: standard deviation", ".4f"),
    "opening_deviation_truth": ("... of the truth", ".4f"),
    "lmd": ("LMD, mouth landmarks (px at 512)", ".3f"),
    "lmd_still": ("... of a mouth held still in the truth's mean shape", ".3f"),
    "sync_c": ("Sync-C, SyncNet's confidence (higher is better)", ".3f"),
    "sync_d": ("Sync-D (Sync-E), SyncNet's distance (lower is better)", ".3f"),
    "sync_lag": ("... at this lag (frames; positive: lips late)", "d"),
    "sync_c_truth": ("Sync-C of the true clip", ".3f"),
    "sync_d_truth": ("Sync-D of the true clip", ".3f"),
    "aue_lower": ("AUE lower face (own units, not OpenFace)", ".3f"),
    "aue_upper": ("AUE upper face (own units, not OpenFace)", ".3f"),
    "opening_range_speech": ("Range of lip opening in speech", ".4f"),
    "opening_range_pauses": ("Range of lip opening in pauses", ".4f"),
    "opening_speech_over_pauses": ("... speech over pauses", ".1f"),
    "jitter": ("Jitter of rendered landmarks (px at 512)", ".3f"),
    "jitter_truth": ("Jitter of true landmarks (px at 512)", ".3f"),
}

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:960px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse}td{padding:.15em 1.2em .15em 0;border-bottom:1px solid #ddd}td+td{text-align:right;
font-variant-numeric:tabular-nums}img{max-width:100%;display:block}figure{margin:1em 0}figcaption{color:#666}
.note{color:#8a4b08}svg{max-width:100%}"""


@dataclass(frozen=True)
class Evaluation:
    """Figures of a clip.

    Attributes:
        metrics: what metrics.json holds: names to numbers, lists of frames or notes.
        opening_truth, opening_render: lip opening [n] of each frame; None where faces were not tracked.
        psnr: of each frame, dB.
    """

    metrics: dict[str, Any]
    psnr: list[float]
    opening_truth: np.ndarray | None = None
    opening_render: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)


def write_report(
    output: Path, result: Evaluation, rendered: Sequence[np.ndarray], dataset: SubjectDataset, frames: list[int]
) -> Path:
    """Write metrics.json, report.html and side_by_side.mp4 into a folder, each whole or not at all.

    Args:
        output: the folder.
        result: the figures.
        rendered: pictures uint8 RGB [H, W, 3].
        dataset: the truth.
        frames: numbers of the pictures in the clip, consecutive.

    Returns:
        Path of metrics.json.
    """
    write_side_by_side(output / SIDE_BY_SIDE, result.metrics, rendered, dataset, frames)
    write_text(output / REPORT, page(result, rendered, dataset, frames))
    write_json(output / METRICS, result.metrics)
    return output / METRICS


def write_side_by_side(
    path: Path, metrics: dict[str, Any], rendered: Sequence[np.ndarray], dataset: SubjectDataset, frames: list[int]
) -> None:
    """Truth on the left, render on the right, with the clip's sound (silence where it has none)."""
    from instag.media import VideoWriter

    try:
        sound = dataset.sound_of(frames)
    except DataError:
        sound = None
    tags = provenance(str(metrics.get("avatar", metrics["subject"])))
    size = (2 * dataset.size, dataset.size)
    with VideoWriter(path, FPS, size, SIDE_BY_SIDE_CRF, "yuv420p", audio=sound, metadata=tags) as video:
        for k, i in enumerate(frames):
            video.write(np.concatenate([dataset.picture(i).image, rendered[k]], axis=1))


# --- the page -----------------------------------------------------------------------------------------------------
def page(result: Evaluation, rendered: Sequence[np.ndarray], dataset: SubjectDataset, frames: list[int]) -> str:
    """The report as one HTML page that needs nothing else."""
    metrics = result.metrics
    title = html.escape(f"{metrics.get('avatar', metrics['subject'])}: {metrics.get('part', 'frames')}")
    span = f"Frames {frames[0]} to {frames[-1]} ({len(frames)} frames, {len(frames) / FPS:.1f} s), {dataset.size} px."
    parts = [f"<h1>{title}</h1>", f"<p>{html.escape(str(metrics.get('protocol', '')))} {span}</p>", _table(metrics)]
    parts += [f'<p class="note">{html.escape(note)}</p>' for note in (*_warnings(metrics), *result.notes)]
    if result.opening_truth is not None and result.opening_render is not None:
        series = {"truth": result.opening_truth, "rendered": result.opening_render}
        parts.append(_figure(plot(series, frames[0]), "Lip opening over the distance of the outer eye corners"))
    parts.append(_figure(plot({"PSNR": np.array(result.psnr)}, frames[0]), "PSNR of each frame (dB)"))
    parts.append(f"<h2>Truth, rendered, difference x {DIFFERENCE_GAIN}</h2>")
    for k in np.unique(np.linspace(0, len(frames) - 1, SAMPLES).astype(int)):
        sample = jpeg(comparison(dataset.picture(frames[k]).image, rendered[k]))
        source = f"data:image/jpeg;base64,{base64.b64encode(sample).decode()}"
        parts.append(_figure(f'<img src="{source}" alt="frame {frames[k]}">', f"frame {frames[k]}"))
    style = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    return f"<!doctype html><html lang=en><head>{style}</head><body>\n" + "\n".join(parts) + "\n</body></html>\n"


def _table(metrics: dict[str, Any]) -> str:
    """Rows of the figures that there are; an absent one is absent, not zero."""
    rows = [
        f"<tr><td>{label}</td><td>{metrics[k]:{form}}</td></tr>" for k, (label, form) in ROWS.items() if k in metrics
    ]
    return "<table>" + "\n".join(rows) + "</table>"


def _warnings(metrics: dict[str, Any]) -> list[str]:
    warnings = []
    for name, what in (("no_face_rendered", "rendered"), ("no_face_truth", "true")):
        if missing := metrics.get(name):
            listed = ", ".join(map(str, missing[:10])) + (" ..." if len(missing) > 10 else "")
            warnings.append(f"No face found in {len(missing)} {what} frames (counted as opening 0): {listed}")
    if metrics.get("trained_on"):
        warnings.append(f"{metrics['trained_on']} of these frames were trained on: the figures are not held out.")
    if "lpips" not in metrics:
        warnings.append("LPIPS is absent: its weights are not installed.")
    return warnings


def _figure(content: str, caption: str) -> str:
    return f"<figure>{content}<figcaption>{html.escape(caption)}</figcaption></figure>"


def plot(series: dict[str, np.ndarray], first: int) -> str:
    """Curves over the frames (number of the first: `first`) as an SVG drawing."""
    values = np.concatenate(list(series.values()))
    low, high = float(values.min()), float(values.max())
    scale = (PLOT_HEIGHT - 2 * PLOT_MARGIN) / (high - low or 1.0)
    bottom = PLOT_HEIGHT - PLOT_MARGIN
    lines = []
    for k, (name, curve) in enumerate(series.items()):
        x = np.linspace(PLOT_MARGIN, PLOT_WIDTH - PLOT_MARGIN, len(curve))
        y = bottom - (curve - low) * scale
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
        color = COLORS[k % len(COLORS)]
        lines.append(f'<polyline fill="none" stroke="{color}" stroke-width="1.5" points="{points}"/>')
        lines.append(f'<text x="{PLOT_MARGIN + 110 * k}" y="16" fill="{color}">{html.escape(name)}</text>')
    length = max(len(curve) for curve in series.values())
    right = PLOT_WIDTH - PLOT_MARGIN
    labels = [
        f'<text x="2" y="{bottom}">{low:.3g}</text><text x="2" y="{PLOT_MARGIN + 4}">{high:.3g}</text>',
        f'<text x="{PLOT_MARGIN}" y="{PLOT_HEIGHT - 8}">{first}</text>',
        f'<text x="{right}" y="{PLOT_HEIGHT - 8}" text-anchor="end">frame {first + length - 1}</text>',
        f'<line x1="{PLOT_MARGIN}" y1="{bottom}" x2="{right}" y2="{bottom}" stroke="#bbb"/>',
    ]
    size = f'viewBox="0 0 {PLOT_WIDTH} {PLOT_HEIGHT}" width="{PLOT_WIDTH}" font-size="12"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>' + "".join(labels + lines) + "</svg>"


def comparison(truth: np.ndarray, render: np.ndarray) -> np.ndarray:
    """Truth, render and their magnified difference side by side, uint8 [h, SAMPLE_WIDTH, 3]."""
    difference = np.abs(truth.astype(np.int16) - render) * DIFFERENCE_GAIN
    row = np.concatenate([truth, render, difference.clip(0, 255).astype(np.uint8)], axis=1)
    cv2 = opencv()
    height = round(row.shape[0] * SAMPLE_WIDTH / row.shape[1])
    method = cv2.INTER_AREA if row.shape[1] > SAMPLE_WIDTH else cv2.INTER_LINEAR
    return cv2.resize(row, (SAMPLE_WIDTH, height), interpolation=method)


def jpeg(picture: np.ndarray) -> bytes:
    """uint8 RGB [H, W, 3] as JPEG bytes."""
    cv2 = opencv()
    done, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done
    return data.tobytes()
