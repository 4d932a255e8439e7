"""One page for the eye: what preprocessing made of some frames, side by side, so that a person sees at a glance what
training will be told (landmarks, masks, mesh, plate, torso).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from instag.data.layout import Label
from instag.data_utils.face_points import (
    FACE_OVAL_LOOP,
    INNER_LIPS_LOOP,
    LEFT_EYE_LOOP,
    OUTER_LIPS_LOOP,
    RIGHT_EYE_LOOP,
)
from instag.data_utils.files import write_image
from instag.data_utils.torso import compose
from instag.errors import DataError

TILE = 288  # px, side of one picture on the page
HEADER, FOOTER, GAP = 46, 34, 4  # px
PAPER, INK, FAINT = (250, 250, 248), (40, 40, 40), (130, 130, 130)
OVERLAY = 0.5  # weight of a label's colour over the frame

# Bright colours that stay apart on skin, hair and cloth; LABEL_COLORS are made for programs.
SHOWN_COLORS = {
    Label.BACKGROUND: (235, 235, 235),
    Label.HEAD: (235, 120, 90),
    Label.HAIR: (250, 215, 60),
    Label.NECK: (80, 190, 90),
    Label.TORSO: (70, 110, 225),
    Label.MOUTH: (225, 0, 190),
}
_CHECKER_PX = 12
_FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True)
class SheetRow:
    """One frame of the page. Pictures are square, all of one size."""

    number: int  # of the frame
    frame: np.ndarray  # uint8 [H, W, 3] RGB
    landmarks: np.ndarray  # float32 [478 or 468, >= 2] px
    labels: np.ndarray  # uint8 [H, W], `Label`
    plate: np.ndarray  # uint8 [H, W, 3] RGB
    torso: np.ndarray  # uint8 [H, W, 4] RGBA, straight alpha
    normal: np.ndarray | None = None  # float32 [H, W, 3] unit, OpenGL camera axes, 0 where there is no mesh
    depth: np.ndarray | None = None  # float32 [H, W], 0 where there is no mesh


def write_contact_sheet(path: Path, rows: Sequence[SheetRow], title: str = "") -> None:
    """Write the page as an image (JPEG by the ending of the name), atomically. Raises DataError without rows."""
    write_image(path, contact_sheet(rows, title))


def contact_sheet(rows: Sequence[SheetRow], title: str = "") -> np.ndarray:
    """The page, uint8 [H, W, 3] RGB: a row a frame, a column a result, captions above, the labels' colours below."""
    if not rows:
        raise DataError("contact sheet: no frame was given; choose at least one")
    tiles = [_tiles(row) for row in rows]
    captions = [name for name in tiles[0] if all(name in row for row in tiles)]
    width = len(captions) * (TILE + GAP) + GAP
    page = np.full((HEADER + len(rows) * (TILE + GAP) + FOOTER, width, 3), PAPER, np.uint8)
    _write(page, title, (GAP + 2, 17), INK, 0.5)
    for column, name in enumerate(captions):
        left = GAP + column * (TILE + GAP)
        _write(page, name, (left + 2, HEADER - 8), FAINT, 0.45)
        for k, row in enumerate(tiles):
            top = HEADER + k * (TILE + GAP)
            page[top : top + TILE, left : left + TILE] = row[name]
    for k, row in enumerate(rows):
        _write(page, f"frame {row.number}", (GAP + 8, HEADER + k * (TILE + GAP) + 18), (255, 255, 255), 0.5, (0, 0, 0))
    _legend(page[-FOOTER:])
    return page


def _tiles(row: SheetRow) -> dict[str, np.ndarray]:
    """Pictures of one row by caption, uint8 [TILE, TILE, 3] each."""
    scale = TILE / len(row.frame)
    person = row.labels != Label.BACKGROUND
    pictures = {
        "frame": _fit(row.frame),
        "landmarks": _draw_landmarks(_fit(row.frame), row.landmarks[:, :2] * scale),
        "labels": _draw_labels(row.frame, row.labels),
    }
    if row.normal is not None:
        shown = np.where((row.normal != 0).any(-1, keepdims=True), (row.normal + 1) * 127.5, _pale(row.frame))
        pictures["mesh normals"] = _fit(shown.astype(np.uint8))
    if row.depth is not None:
        pictures["mesh depth"] = _fit(_draw_depth(row.frame, row.depth))
    pictures["person over plate"] = _fit(np.where(person[..., None], row.frame, row.plate))
    pictures["torso layer"] = _fit(compose(row.torso, _checkerboard(len(row.frame))))
    pictures["torso over plate"] = _fit(compose(row.torso, row.plate))
    return pictures


def _fit(picture: np.ndarray) -> np.ndarray:
    smaller = len(picture) > TILE
    return cv2.resize(picture, (TILE, TILE), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def _pale(frame: np.ndarray) -> np.ndarray:
    """The frame in faint grey, as a ground for what is drawn over it, float32 [H, W, 3]."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.repeat(150 + 0.35 * grey[..., None], 3, axis=2)


def _draw_landmarks(tile: np.ndarray, points: np.ndarray) -> np.ndarray:
    """All points as dots, the loops of face, eyes and lips as lines. Points in px of the tile."""
    shift = 4
    fixed = np.round((points - 0.5) * (1 << shift)).astype(np.int32)
    for x, y in fixed:
        cv2.circle(tile, (int(x), int(y)), 1 << (shift - 1), (0, 255, 255), -1, cv2.LINE_AA, shift)
    for loop in (FACE_OVAL_LOOP, LEFT_EYE_LOOP, RIGHT_EYE_LOOP, OUTER_LIPS_LOOP):
        cv2.polylines(tile, [fixed[list(loop)]], True, (80, 255, 80), 1, cv2.LINE_AA, shift)
    cv2.polylines(tile, [fixed[list(INNER_LIPS_LOOP)]], True, (255, 40, 200), 1, cv2.LINE_AA, shift)
    return tile


def _draw_labels(frame: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Classes as colours over the frame, their borders as white lines (the mouth without: it is often thin)."""
    colors = np.array([SHOWN_COLORS[label] for label in Label], np.float32)
    weight = np.where(labels == Label.MOUTH, 0.8, OVERLAY)[..., None]
    tile = _fit((frame * (1 - weight) + colors[labels] * weight).astype(np.uint8))
    outlined = np.where(labels == Label.MOUTH, np.uint8(Label.HEAD), labels)
    small = cv2.resize(outlined, (TILE, TILE), interpolation=cv2.INTER_NEAREST)
    border = cv2.morphologyEx(small, cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)) > 0
    tile[border] = 255
    return tile


def _draw_depth(frame: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Near is bright yellow, far dark blue, over the pale frame."""
    valid = depth > 0
    shown = _pale(frame).astype(np.uint8)
    if valid.any():
        near, far = depth[valid].min(), depth[valid].max()
        nearness = ((far - depth) / max(far - near, 1e-9) * 255).clip(0, 255).astype(np.uint8)
        heat = cv2.cvtColor(cv2.applyColorMap(nearness, cv2.COLORMAP_CIVIDIS), cv2.COLOR_BGR2RGB)
        shown[valid] = heat[valid]
    return shown


def _checkerboard(size: int) -> np.ndarray:
    """What transparency looks like, uint8 [size, size, 3]."""
    cell = np.arange(size) // max(1, _CHECKER_PX * size // 512)
    return np.repeat(np.where((cell[:, None] + cell) % 2 == 0, 205, 240)[..., None], 3, axis=2).astype(np.uint8)


def _legend(strip: np.ndarray) -> None:
    """Colour patches and names of the labels, drawn into the strip [FOOTER, W, 3]."""
    left = GAP + 4
    for label in Label:
        cv2.rectangle(strip, (left, 9), (left + 14, 23), SHOWN_COLORS[label], -1)
        cv2.rectangle(strip, (left, 9), (left + 14, 23), FAINT, 1)
        _write(strip, label.name.lower(), (left + 20, 21), INK, 0.45)
        left += 110


def _write(
    picture: np.ndarray,
    text: str,
    at: tuple[int, int],
    color: tuple[int, int, int],
    size: float,
    outline: tuple[int, int, int] | None = None,
) -> None:
    """Text with its base line's left end at (x, y)."""
    plain = text.encode("ascii", "replace").decode()  # OpenCV's letters
    if outline is not None:
        cv2.putText(picture, plain, at, _FONT, size, outline, 3, cv2.LINE_AA)
    cv2.putText(picture, plain, at, _FONT, size, color, 1, cv2.LINE_AA)
