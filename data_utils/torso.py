"""The torso layer: neck and torso of a frame, continued upwards behind the head, so that a head that moves or is drawn
a little smaller uncovers skin and collar instead of background (AD-NeRF's in-painting; preprocessing notes, section 6).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from instag.data.layout import Label
from instag.data_utils.head_plane import HeadPlane
from instag.data_utils.image_ops import box, coarse_component_filter, scaled_px

# Lengths at 512 px.
NECK_REACH_PX = 53  # how far the neck continues upwards behind the head
TORSO_REACH_PX = 9  # and collar or shoulders
MARGIN_PX = 2  # body pixels this near to the head carry its colour: painted over
THIN_PX = 5  # painted columns narrower than this are noise of the label map
SPREAD_PX = 4.0  # standard deviation of the blur that evens out neighbouring columns
DARKENING = 0.98  # per row of 512: it lies in the head's shadow
EDGE_PX = 0.8  # standard deviation of the soft edge against the background
FADE_PX = 2.0  # and of the fading rim behind the head
SURROUNDINGS_PX = 14  # beyond its reach that the layer's soft rims look at

LEAST_PIECE_PX = 400  # area; smaller pieces of the body are noise of the label map

_LEAST_ALPHA = 0.02  # less than this is none

# --- the neck of a clip -------------------------------------------------------------------------------------------
NECK_FRAMES = 24  # looked at, evenly spread
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


def fit_neck(
    frame: Callable[[int], np.ndarray],
    labels: Callable[[int], np.ndarray],
    plane: Callable[[int], HeadPlane],
    count: int,
) -> Neck | None:
    """The neck of a clip from the frames that show it best; None where none does. Called in rising order.

    `frame(i)` uint8 [H, W, 3] RGB, `labels(i)` uint8 [H, W] (`Label`), `plane(i)` the head's plane, 0 <= i < `count`.
    """
    areas, edges, colours = [], [], []
    for i in np.unique(np.linspace(0, count - 1, NECK_FRAMES).round().astype(int)):
        rows, columns = np.nonzero(labels(int(i)) == Label.NECK)
        picture = frame(int(i))
        area = len(rows) * (512 / len(picture)) ** 2
        if area < LEAST_NECK_PX:
            continue
        u = plane(int(i)).unproject(np.stack([columns, rows], -1) + 0.5)[:, 0]
        areas.append(area)
        edges.append(np.percentile(u, EDGE_PERCENTILES))
        colours.append(np.median(picture[rows, columns], axis=0))
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
    `compose(layer, plate)` gives the frame back, also on the soft edge against the background; behind the head the
    layer goes on as far as NECK_REACH_PX: over the columns of the clip's `neck` (with `plane`, the head's in this
    frame), also where the chin hides it; without, where the frame shows some. RGB is zero where alpha is.
    """
    size = len(frame)
    body = (labels == Label.NECK) | (labels == Label.TORSO)
    body &= ~coarse_component_filter(body, lambda _, areas: areas >= LEAST_PIECE_PX * (size / 512) ** 2)
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
    clean = body & (cv2.dilate(head.astype(np.uint8), box(scaled_px(MARGIN_PX, size))) == 0)
    shows_neck = clean & (labels == Label.NECK)
    hidden = ~clean & ~background
    painted, paint = _continue_upwards(frame, shows_neck, clean, hidden, columns, neck_colour)

    solid = body | painted
    alpha = _coverage(solid, head, size)
    alpha[alpha < _LEAST_ALPHA] = 0
    colour = frame.copy()
    _unmix(colour, plate, alpha)
    colour[np.nonzero(painted)] = paint
    colour = cv2.copyTo(colour, cv2.compare(alpha, 0, cv2.CMP_GT))
    return cv2.merge([*cv2.split(colour), cv2.convertScaleAbs(alpha, alpha=255)])


def compose(torso: np.ndarray, plate: np.ndarray) -> np.ndarray:
    """The torso layer (RGBA uint8 [H, W, 4], straight alpha) over the plate, uint8 [H, W, 3] (METHOD.md section 6)."""
    colour, opacity = cv2.cvtColor(torso, cv2.COLOR_RGBA2RGB), cv2.extractChannel(torso, 3)
    composite = cv2.copyTo(colour, cv2.compare(opacity, 255, cv2.CMP_EQ), plate.copy())
    edge = np.flatnonzero((opacity > 0) & (opacity < 255))
    alpha = np.take(opacity, edge)[:, None].astype(np.float32) / 255
    over, below = (np.take(x.reshape(-1, 3), edge, axis=0) for x in (colour, plate))
    composite.reshape(-1, 3)[edge] = (over * alpha + below * (1 - alpha)).astype(np.uint8)
    return composite


def _continue_upwards(
    frame: np.ndarray,
    neck: np.ndarray,
    clean: np.ndarray,
    hidden: np.ndarray,
    columns: np.ndarray | None,
    colour: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Which `hidden` pixels the body reaches from below (bool [H, W], K of them), and their colours (uint8 [K, 3]).

    `columns` bool [W]: where a neck may stand, `colour` [3] the clip's neck; None: only above a visible one.
    """
    height, size = clean.shape
    reach = scaled_px(NECK_REACH_PX, size)
    painted = np.zeros_like(clean)
    clean_rows, hidden_rows = np.flatnonzero(clean.any(1)), np.flatnonzero(hidden.any(1))
    if not len(clean_rows) or not len(hidden_rows):
        return painted, np.empty((0, 3), np.uint8)
    first = max(0, clean_rows[0] - reach)  # nothing above is reached, and below `band` nothing is hidden
    band = slice(first, min(height, hidden_rows[-1] + reach + 1))
    rows = np.arange(band.start, band.stop, dtype=np.int16)[:, None]
    # Row of the next clean body pixel below each pixel; `height` where there is none.
    below = np.minimum.accumulate(np.where(clean[band], rows, np.int16(height))[::-1], axis=0)[::-1]
    rise = below - rows  # px
    y, x = np.nonzero(hidden[band] & (below < height) & (rise <= reach))
    is_neck = columns[x] if columns is not None else neck[below[y, x], x]
    near_enough = (rise[y, x] <= scaled_px(TORSO_REACH_PX, size)) | is_neck
    painted[y[near_enough] + first, x[near_enough]] = True
    wide = np.ones((1, scaled_px(THIN_PX, size)), np.uint8)
    painted[band] &= cv2.morphologyEx((painted | clean)[band].astype(np.uint8), cv2.MORPH_OPEN, wide) > 0
    y, x = np.nonzero(painted)
    if not len(y):
        return painted, np.empty((0, 3), np.uint8)
    below, rise = below[y - first, x], rise[y - first, x]  # [K]

    # Smooth only the window that is needed: it is a small part of the picture.
    reach = scaled_px(3 * SPREAD_PX, size)
    window = (
        slice(max(0, y.min() - reach), below.max() + reach),
        slice(max(0, x.min() - reach), x.max() + reach),
    )
    source = np.minimum(below + scaled_px(MARGIN_PX, size), height - 1)  # a little below the edge
    top, left = window[0].start, window[1].start
    smooth = _masked_blur(frame[window], clean[window], SPREAD_PX * size / 512)
    own = smooth[np.minimum(source - top, len(smooth) - 1), x - left]  # [K, 3]
    if columns is not None:
        covered = columns[x] & ~neck[below, x]  # the chin lies on the collar: the neck is behind it
        shown = columns[x] & ~covered
        skin = _masked_blur(frame[window], neck[window], SPREAD_PX * size / 512)  # a thin strip: nothing of the collar
        own[shown] = skin[below - top, x - left][shown]
        own[covered] = _between(x[covered], x[shown], own[shown], colour)
    fall = DARKENING ** (rise * (512 / size)).astype(np.float32)
    paint = np.zeros(smooth.shape, np.float32)
    paint[y - top, x - left] = own * fall[:, None]
    even = _masked_blur(paint, painted[window], SPREAD_PX * size / 1024)
    return painted, even[y - top, x - left].round().astype(np.uint8)


def _between(wanted: np.ndarray, known: np.ndarray, colours: np.ndarray, default: np.ndarray) -> np.ndarray:
    """Colours [K, 3] of the `wanted` columns by those of the `known` ones beside them; `default` where none is."""
    if not len(known):
        return np.broadcast_to(default, (len(wanted), 3))
    columns, inverse, counts = np.unique(known, return_inverse=True, return_counts=True)
    means = [np.bincount(inverse, colours[:, k]) / counts for k in range(3)]
    return np.stack([np.interp(wanted, columns, mean) for mean in means], -1)


def _masked_blur(image: np.ndarray, mask: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian mean of the pixels in `mask`, float32 [H, W, 3]; the pixel itself where none is near."""
    weight = mask.astype(np.float32)
    total = cv2.GaussianBlur(image * weight[..., None], (0, 0), sigma)
    near = cv2.GaussianBlur(weight, (0, 0), sigma)[..., None]
    return np.where(near > 1e-3, total / np.maximum(near, 1e-3), image)


def _coverage(solid: np.ndarray, head: np.ndarray, size: int) -> np.ndarray:
    """Alpha of the layer, float32 [H, W]: soft within about a pixel of the background, fading out behind the head."""
    person = (solid | head).astype(np.float32)
    edge = cv2.GaussianBlur(person, (0, 0), max(0.5, EDGE_PX * size / 512))
    fade = cv2.GaussianBlur(solid.astype(np.float32), (0, 0), max(0.5, FADE_PX * size / 512))
    beside = cv2.dilate(solid.astype(np.uint8), box(1)) > 0
    coverage = cv2.copyTo(edge, (solid | (beside & ~head)).view(np.uint8))
    return cv2.copyTo(cv2.min(edge, fade), (solid & head).view(np.uint8), coverage)


def _unmix(colour: np.ndarray, plate: np.ndarray, alpha: np.ndarray) -> None:
    """Replace the frame's colour on soft edges by the layer's own: frame = alpha * own + (1 - alpha) * plate."""
    edge = np.flatnonzero((alpha > 0) & (alpha < 1))
    a = np.take(alpha, edge)[:, None]
    seen, behind = (np.take(x.reshape(-1, 3), edge, axis=0) for x in (colour, plate))
    colour.reshape(-1, 3)[edge] = np.clip((seen - (1 - a) * behind) / a, 0, 255).round().astype(np.uint8)
