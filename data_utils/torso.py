"""The torso layer: neck and torso of a frame, continued upwards behind the head, so that a head that moves or is drawn
a little smaller uncovers skin and collar instead of background (AD-NeRF's in-painting; preprocessing notes, section 6).
"""

from __future__ import annotations

import cv2
import numpy as np

from instag.data.layout import Label
from instag.data_utils.image_ops import box, scaled_px

# Lengths at 512 px.
NECK_REACH_PX = 53  # how far the neck continues upwards behind the head
TORSO_REACH_PX = 9  # and collar or shoulders
MARGIN_PX = 2  # body pixels this near to the head carry its colour: painted over
THIN_PX = 5  # painted columns narrower than this are noise of the label map
SPREAD_PX = 4.0  # standard deviation of the blur that evens out neighbouring columns
DARKENING = 0.98  # per row of 512: it lies in the head's shadow
EDGE_PX = 0.8  # standard deviation of the soft edge against the background
FADE_PX = 2.0  # and of the fading rim behind the head

_LEAST_ALPHA = 0.02  # less than this is none


def torso_layer(frame: np.ndarray, labels: np.ndarray, plate: np.ndarray) -> np.ndarray:
    """RGBA uint8 [H, W, 4], straight alpha, of one frame.

    `frame` and `plate` uint8 [H, W, 3] RGB, `labels` uint8 [H, W] (`Label`). Wherever neck or torso is visible,
    `compose(layer, plate)` gives the frame back, also on the soft edge against the background; behind the head the
    layer goes on as far as NECK_REACH_PX. RGB is zero where alpha is.
    """
    size = len(frame)
    body = (labels == Label.NECK) | (labels == Label.TORSO)
    background = labels == Label.BACKGROUND
    head = ~body & ~background
    clean = body & (cv2.dilate(head.astype(np.uint8), box(scaled_px(MARGIN_PX, size))) == 0)
    painted, paint = _continue_upwards(frame, labels == Label.NECK, clean, ~clean & ~background)

    solid = body | painted
    alpha = _coverage(solid, head, size)
    alpha[alpha < _LEAST_ALPHA] = 0
    colour = frame.copy()
    _unmix(colour, plate, alpha)
    colour[painted] = paint
    colour[alpha == 0] = 0
    return np.dstack([colour, cv2.convertScaleAbs(alpha, alpha=255)])


def compose(torso: np.ndarray, plate: np.ndarray) -> np.ndarray:
    """The torso layer (RGBA uint8 [H, W, 4], straight alpha) over the plate, uint8 [H, W, 3] (METHOD.md section 6)."""
    colour, opacity = torso[..., :3], torso[..., 3]
    composite = np.where((opacity == 255)[..., None], colour, plate)
    edge = (opacity > 0) & (opacity < 255)
    alpha = opacity[edge, None].astype(np.float32) / 255
    composite[edge] = (colour[edge] * alpha + plate[edge] * (1 - alpha)).astype(np.uint8)
    return composite


def _continue_upwards(
    frame: np.ndarray, neck: np.ndarray, clean: np.ndarray, hidden: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which `hidden` pixels the body reaches from below (bool [H, W], K of them), and their colours (uint8 [K, 3])."""
    size = len(frame)
    rows = np.arange(size, dtype=np.int16)[:, None]
    # Row of the next clean body pixel below each pixel; `size` where there is none.
    below = np.minimum.accumulate(np.where(clean, rows, np.int16(size))[::-1], axis=0)[::-1]
    rise = below - rows  # px
    candidates = hidden & (below < size) & (rise <= scaled_px(NECK_REACH_PX, size))
    y, x = np.nonzero(candidates)
    near_enough = (rise[y, x] <= scaled_px(TORSO_REACH_PX, size)) | neck[below[y, x], x]
    painted = np.zeros_like(clean)
    painted[y[near_enough], x[near_enough]] = True
    wide = np.ones((1, scaled_px(THIN_PX, size)), np.uint8)
    painted &= cv2.morphologyEx((painted | clean).astype(np.uint8), cv2.MORPH_OPEN, wide) > 0
    y, x = np.nonzero(painted)
    if not len(y):
        return painted, np.empty((0, 3), np.uint8)

    # Smooth only the window that is needed: it is a small part of the picture.
    reach = scaled_px(3 * SPREAD_PX, size)
    window = (
        slice(max(0, y.min() - reach), below[y, x].max() + reach),
        slice(max(0, x.min() - reach), x.max() + reach),
    )
    source = np.minimum(below[y, x] + scaled_px(MARGIN_PX, size), size - 1)  # a little below the edge
    top, left = window[0].start, window[1].start
    smooth = _masked_blur(frame[window], clean[window], SPREAD_PX * size / 512)
    fall = DARKENING ** (rise[y, x] * (512 / size)).astype(np.float32)
    paint = np.zeros(smooth.shape, np.float32)
    paint[y - top, x - left] = smooth[np.minimum(source - top, len(smooth) - 1), x - left] * fall[:, None]
    even = _masked_blur(paint, painted[window], SPREAD_PX * size / 1024)
    return painted, even[y - top, x - left].round().astype(np.uint8)


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
    coverage = np.where(solid | (beside & ~head), edge, 0)
    return np.where(solid & head, np.minimum(coverage, fade), coverage).astype(np.float32)


def _unmix(colour: np.ndarray, plate: np.ndarray, alpha: np.ndarray) -> None:
    """Replace the frame's colour on soft edges by the layer's own: frame = alpha * own + (1 - alpha) * plate."""
    edge = (alpha > 0) & (alpha < 1)
    a = alpha[edge, None]
    colour[edge] = np.clip((colour[edge] - (1 - a) * plate[edge]) / a, 0, 255).round().astype(np.uint8)
