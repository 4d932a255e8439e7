"""The torso layer: neck and torso of a frame, continued upwards behind the head, so that a head that moves or is drawn
a little smaller uncovers skin and collar instead of background (AD-NeRF's in-painting; preprocessing notes, section 6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numba
import numpy as np

from instag.data.layout import Label
from instag.data_utils.head_plane import HeadPlane
from instag.data_utils.image_ops import box, scaled_px
from instag.data_utils.pieces import Pieces

# Lengths at 512 px.
NECK_REACH_PX = 53  # how far the neck continues upwards behind the head
TORSO_REACH_PX = 9  # and collar or shoulders above the line between where they are seen to both sides of the head
OPEN_PX = 6  # of background above the body: there its upper edge is seen
MARGIN_PX = 3  # body pixels this near to the head carry its colour: painted over
THIN_PX = 5  # painted columns narrower than this are noise of the label map
SOURCE_PX = 8  # rows of the body whose mean its continuation has
SPREAD_PX = 4.0  # standard deviation of the blur that evens out neighbouring columns
LEAST_SHOWN = 0.25  # of the neck's columns that show it: with fewer it has the clip's colour
DARKENING = 0.98  # per row of 512: it lies in the head's shadow
EDGE_PX = 0.8  # standard deviation of the soft edge against the background
FADE_PX = 2.0  # and of the fading rim behind the head
SURROUNDINGS_PX = 14  # beyond its reach that the layer's soft rims look at

LEAST_PIECE_PX = 400  # area; smaller pieces of the body are noise of the label map

_LEAST_ALPHA = 6  # of 255: less than this is none

# --- the neck of a clip -------------------------------------------------------------------------------------------
WELL_SEEN = 0.6  # of the frame that shows most of the neck: frames that show this much tell its width
EDGE_PERCENTILES = (3, 97)  # of the neck's pixels across
LEAST_NECK_PX = 200  # area at 512 px


@dataclass(frozen=True)
class Neck:
    """Where a clip's neck stands below the head, and its colour: a lowered chin hides it in some frames."""

    left_cm: float  # u on the head's plane
    right_cm: float
    colour: np.ndarray  # float32 [3] RGB, 0..255

    def columns(self, plane: HeadPlane) -> tuple[float, float]:
        """First and last column (px) of the neck in a frame."""
        edges = plane.project(np.array([[self.left_cm, 0.0], [self.right_cm, 0.0]]))[:, 0]
        return float(edges.min()), float(edges.max())


def fit_neck(frames: Sequence[np.ndarray], necks: Sequence[np.ndarray], planes: Sequence[HeadPlane]) -> Neck | None:
    """The neck of a clip from the frames that show it best; None where none does.

    `frames` uint8 [H, W, 3] RGB, evenly spread; `necks` bool [H, W], where each shows it; `planes` of the head.
    """
    areas, edges, colours = [], [], []
    for frame, neck, plane in zip(frames, necks, planes, strict=True):
        rows, columns = np.nonzero(neck)
        area = len(rows) * (512 / len(frame)) ** 2
        if area < LEAST_NECK_PX:
            continue
        u = plane.unproject(np.stack([columns, rows], -1) + 0.5)[:, 0]
        areas.append(area)
        edges.append(np.percentile(u, EDGE_PERCENTILES))
        colours.append(np.median(frame[rows, columns], axis=0))
    if not areas:
        return None
    chosen = np.array(areas) >= WELL_SEEN * max(areas)
    left, right = np.median(np.array(edges)[chosen], axis=0)
    return Neck(float(left), float(right), np.median(np.array(colours)[chosen], axis=0).astype(np.float32))


# --- one frame ----------------------------------------------------------------------------------------------------
def torso_layer(
    frame: np.ndarray,
    labels: np.ndarray,
    plate: np.ndarray,
    neck: Neck | None = None,
    plane: HeadPlane | None = None,
) -> np.ndarray:
    """RGBA uint8 [H, W, 4], straight alpha, of one frame.

    `frame` and `plate` uint8 [H, W, 3] RGB, `labels` uint8 [H, W] (`Label`). Wherever neck or torso is visible,
    `compose(layer, plate)` gives the frame back, but for MARGIN_PX beside the head, also on the soft edge against the
    background. Behind the head the layer goes on by up to NECK_REACH_PX: over the columns of the clip's `neck` (with
    `plane`, the head's in this frame), also where the chin hides it, or, without, where the frame shows some; elsewhere
    up to the line between the body's edges to both sides of the head, or TORSO_REACH_PX. RGB is zero where alpha is.
    """
    size = len(frame)
    body = (labels == Label.NECK) | (labels == Label.TORSO)
    pieces = Pieces.of(body)
    body = pieces.mask((pieces.label != 0) & (pieces.area >= LEAST_PIECE_PX * (size / 512) ** 2))
    layer = np.zeros((size, size, 4), np.uint8)
    rows = np.flatnonzero(body.any(1))
    if len(rows):  # rows higher above the body have none of the layer
        reached = slice(max(0, rows[0] - scaled_px(NECK_REACH_PX + SURROUNDINGS_PX, size)), size)
        columns = None
        if neck is not None and plane is not None:
            left, right = neck.columns(plane)
            columns = (np.arange(size) + 0.5 > left) & (np.arange(size) + 0.5 < right)
        colour = None if columns is None else neck.colour
        layer[reached] = _layer(frame[reached], labels[reached], plate[reached], body[reached], columns, colour)
    return layer


def _layer(
    frame: np.ndarray,
    labels: np.ndarray,
    plate: np.ndarray,
    body: np.ndarray,
    columns: np.ndarray | None,
    neck_colour: np.ndarray | None,
) -> np.ndarray:
    """`torso_layer` of the lower rows [h, W] of a picture W px wide and high, RGBA uint8 [h, W, 4].

    `body` bool [h, W]: neck and torso; `columns` bool [W]: where a neck may stand, and its colour [3], if known.
    """
    size = frame.shape[1]
    background = labels == Label.BACKGROUND
    head = ~body & ~background
    clean = body & (cv2.dilate(head.view(np.uint8), box(scaled_px(MARGIN_PX, size))) == 0)
    neck = clean & (labels == Label.NECK)
    known = columns is not None
    if columns is None:
        columns = np.zeros(size, bool)
    rise, covered = np.zeros(labels.shape, np.int16), np.zeros(labels.shape, bool)
    skin, paint = np.full((size, 3), np.float32(-1)), np.zeros(frame.shape, np.uint8)
    lengths = (scaled_px(x, size) for x in (TORSO_REACH_PX, NECK_REACH_PX, MARGIN_PX, SOURCE_PX))
    kept, roof = clean | background, _roof(body, background)
    _paint_columns(frame, neck, clean, kept, roof, columns, known, *lengths, rise, covered, skin, paint)
    wide = np.ones((1, scaled_px(THIN_PX, size)), np.uint8)
    thick = cv2.morphologyEx(((rise > 0) | clean).view(np.uint8), cv2.MORPH_OPEN, wide).view(bool)
    painted = (rise > 0) & (thick | body)
    shown = np.flatnonzero(skin[:, 0] >= 0)
    if len(shown) < LEAST_SHOWN * columns.sum():  # such specks are in the chin's shadow, or no neck
        shown, covered = shown[:0], np.broadcast_to(columns, covered.shape)
    y, x = np.nonzero(covered & painted)
    if len(y):  # the chin lies on the collar: the neck is behind it
        paint[y, x] = _between(x, shown, skin[shown], neck_colour)
    _even(paint, painted, rise)
    layer = np.zeros((*labels.shape, 4), np.uint8)
    _assemble(frame, plate, _coverage(body | painted, head, size), painted, paint, layer)
    return layer


def compose(torso: np.ndarray, plate: np.ndarray) -> np.ndarray:
    """The torso layer (RGBA uint8 [H, W, 4], straight alpha) over the plate, uint8 [H, W, 3] (METHOD.md section 6)."""
    colour, opacity = cv2.cvtColor(torso, cv2.COLOR_RGBA2RGB), cv2.extractChannel(torso, 3)
    composite = cv2.copyTo(colour, cv2.compare(opacity, 255, cv2.CMP_EQ), plate.copy())
    edge = np.flatnonzero((opacity > 0) & (opacity < 255))
    alpha = np.take(opacity, edge)[:, None].astype(np.float32) / 255
    over, below = (np.take(x.reshape(-1, 3), edge, axis=0) for x in (colour, plate))
    composite.reshape(-1, 3)[edge] = (over * alpha + below * (1 - alpha)).astype(np.uint8)
    return composite


def _roof(body: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Row up to which the body may reach behind the head, int32 [W]: the line between the places to both sides of the
    head where the body's upper edge is seen before the background; the last row where it is nowhere seen."""
    height, width = body.shape
    edge = np.where(body.any(0), body.argmax(0), 0)
    gap, x = scaled_px(OPEN_PX, width), np.arange(width)
    seen = (edge >= gap) & background[edge - 1, x] & background[edge - gap, x]
    if not seen.any():
        return np.full(width, height, np.int32)
    edge = cv2.medianBlur(edge[seen].astype(np.uint16)[None], 5)[0]  # label maps have spikes
    return np.interp(x, x[seen], edge).astype(np.int32)


@numba.njit(cache=True, nogil=True)
def _paint_columns(
    frame, neck, clean, kept, roof, columns, known, torso_reach, neck_reach, margin, depth, rise, covered, skin, paint
):
    """What the body's columns give the pixels above them that are not `kept` (bool [h, W]; the head, and the body
    beside it), each from the next `clean` pixel below. Fills what comes as zeros, and as -1 in `skin`:

    rise: how far that is, int16 [h, W]; 0: not painted.
    covered: bool [h, W], a neck that does not show in its column: its colour is not known here.
    skin: float32 [W, 3] colour of the neck in its columns; -1 where it does not show.
    paint: uint8 [h, W, 3], the mean of `depth` rows of the body from `margin` below its edge on.
    """
    height, width = clean.shape
    colours = np.zeros((width, 3), np.float32)
    edges = np.zeros(width, np.int32)
    for x in range(width):
        edges[x] = height
    for y in range(height - 1, -1, -1):
        for x in range(width):
            if clean[y, x]:
                edges[x] = y
            below = edges[x]
            if kept[y, x] or below == height:
                continue
            shows = neck[below, x] and neck[min(below + margin, height - 1), x]  # not just the chin's shadow
            is_neck = columns[x] if known else shows
            if below - y > (neck_reach if is_neck or y >= roof[x] else torso_reach):
                continue
            if rise[y + 1, x] == 0:  # a new edge
                first = below if shows else min(below + margin, height - 1)
                stop = first + 1
                while stop < min(first + depth, height) and (neck[stop, x] if shows else clean[stop, x]):
                    stop += 1
                for k in range(3):
                    total = np.float32(0)
                    for row in range(first, stop):
                        total += frame[row, x, k]
                    colours[x, k] = total / np.float32(stop - first)
                    if is_neck and shows:
                        skin[x, k] = colours[x, k]
            rise[y, x] = below - y
            covered[y, x] = known and is_neck and not shows
            for k in range(3):
                paint[y, x, k] = np.uint8(colours[x, k] + np.float32(0.5))


def _even(paint: np.ndarray, painted: np.ndarray, rise: np.ndarray) -> None:
    """Blur the paint across its columns, and darken it upwards; in place."""
    left, top, width, height = cv2.boundingRect(painted.view(np.uint8))
    if not width:
        return
    size = painted.shape[1]
    side = scaled_px(3 * SPREAD_PX, size)
    window = slice(top, top + height), slice(max(0, left - side), left + width + side)
    weight = painted[window].astype(np.float32)
    sigma = {"sigmaX": SPREAD_PX * size / 512, "sigmaY": EDGE_PX * size / 512}
    total = cv2.GaussianBlur(paint[window] * weight[..., None], (0, 0), **sigma)
    near = np.maximum(cv2.GaussianBlur(weight, (0, 0), **sigma), 1e-3)
    shade = (DARKENING ** (np.arange(rise.max() + 1) * (512 / size))).astype(np.float32)
    total *= (np.take(shade, rise[window]) / near)[..., None]
    paint[window] = total.round()


def _between(wanted: np.ndarray, known: np.ndarray, colours: np.ndarray, default: np.ndarray) -> np.ndarray:
    """Colours [K, 3] of the `wanted` columns by those of the `known` ones beside them; `default` where none is."""
    if not len(known):
        return np.broadcast_to(default, (len(wanted), 3))
    columns, inverse, counts = np.unique(known, return_inverse=True, return_counts=True)
    means = [np.bincount(inverse, colours[:, k]) / counts for k in range(3)]
    return np.stack([np.interp(wanted, columns, mean) for mean in means], -1)


def _coverage(solid: np.ndarray, head: np.ndarray, size: int) -> np.ndarray:
    """Alpha of the layer, uint8 [h, W]: soft within about a pixel of the background, fading out behind the head."""
    edge, fade = (
        cv2.GaussianBlur(np.multiply(mask, np.uint8(255)), (0, 0), max(0.5, sigma * size / 512))
        for mask, sigma in ((solid | head, EDGE_PX), (solid, FADE_PX))
    )
    beside = cv2.dilate(solid.view(np.uint8), box(1)).view(bool)
    coverage = cv2.copyTo(edge, (solid | (beside & ~head)).view(np.uint8))
    coverage = cv2.copyTo(cv2.min(edge, fade), (solid & head).view(np.uint8), coverage)
    coverage[coverage < _LEAST_ALPHA] = 0
    return coverage


@numba.njit(cache=True, nogil=True)
def _assemble(frame, plate, alpha, painted, paint, layer):
    """layer uint8 [h, W, 4]: the paint, or the frame's colour with the plate's part of a soft edge taken out again
    (frame = alpha * own + (1 - alpha) * plate); zero where alpha is."""
    height, width = alpha.shape
    for y in range(height):
        for x in range(width):
            if alpha[y, x] == 0:
                continue
            layer[y, x, 3] = alpha[y, x]
            share = np.float32(alpha[y, x]) / np.float32(255)
            for k in range(3):
                if painted[y, x]:
                    layer[y, x, k] = paint[y, x, k]
                elif alpha[y, x] == 255:
                    layer[y, x, k] = frame[y, x, k]
                else:
                    own = (frame[y, x, k] - (np.float32(1) - share) * plate[y, x, k]) / share
                    layer[y, x, k] = np.uint8(min(max(own, np.float32(0)), np.float32(255)) + np.float32(0.5))
