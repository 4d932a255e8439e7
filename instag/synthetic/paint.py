"""Colour of every material, evaluated per pixel from the vertex attributes. Compiled; see `Look` for the inputs.

Each painter returns (red, green, blue, occlusion, gloss strength, gloss exponent), linear RGB. Sizes in cm on the
chart of the skin; all of them chosen by eye. What matters to a face tracker was measured: iris and pupil, lip colour,
shading (notes/PROCEDURAL.md, the ablation); the rest is for the eye and for segmentation.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from instag.synthetic import face
from instag.synthetic.animate import iris_offset
from instag.synthetic.articulation import Articulation
from instag.synthetic.identity import Color, Identity
from instag.synthetic.landmarks import brow_line
from instag.synthetic.noise import COARSE, FINE, sample
from instag.synthetic.parts import TOOTH_WIDTH

EYE_ROW, MOUTH_ROW, JAW_LINE = face.EYE_ROW, face.MOUTH_ROW, face.JAW_LINE
COLLAR = -13.0  # cm: height of the collar at the shoulders


class Look(NamedTuple):
    """What the painters need to know of a person in one frame.

    Numbers and tuples only: compiled code reads no dataclasses, and an array would be reference-counted at each call.
    """

    lip_upper: float
    lip_lower: float
    mouth_half_width: float
    eye_distance: float
    brow_rise: float  # chart height of the brow where it is lowest
    brow_thickness: float
    brow_density: float
    nose_tip: float  # chart height
    nose_width: float
    stubble: float
    freckles: float
    stripes: float
    neckline: float
    iris_x: float  # cm on the eyeball
    iris_y: float
    skin: Color
    lips: Color
    hair: Color
    iris: Color
    cloth: Color
    background: Color
    light: tuple[float, float, float]  # unit vector towards the key light, OpenCV axes


def look_of(identity: Identity, pose: Articulation) -> Look:
    """Return the painters' view of this person at this moment."""
    iris_x, iris_y = iris_offset(pose)
    light = np.array([identity.light_side, -identity.light_height, -0.9])
    light_x, light_y, light_z = (float(c) for c in light / np.linalg.norm(light))
    return Look(
        lip_upper=identity.lip_upper,
        lip_lower=identity.lip_lower,
        mouth_half_width=identity.mouth_half_width,
        eye_distance=identity.eye_distance,
        brow_rise=float(brow_line(0, identity.brow_height)),
        brow_thickness=identity.brow_thickness,
        brow_density=identity.brow_density,
        nose_tip=face.nose_rows(identity)[0],
        nose_width=identity.nose_width,
        stubble=identity.stubble,
        freckles=identity.freckles,
        stripes=float(identity.stripes),
        neckline=identity.neckline,
        iris_x=float(iris_x),
        iris_y=float(iris_y),
        skin=identity.skin,
        lips=identity.lips,
        hair=identity.hair,
        iris=identity.iris,
        cloth=identity.cloth,
        background=identity.background,
        light=(light_x, light_y, light_z),
    )


@njit(cache=True, nogil=True, fastmath=True)
def _step(start, stop, x):
    t = min(1.0, max(0.0, (x - start) / (stop - start)))
    return t * t * (3 - 2 * t)


@njit(cache=True, nogil=True, fastmath=True)
def _bump(x, y, x0, y0, sx, sy):
    a, b = (x - x0) / sx, (y - y0) / sy
    d = a * a + b * b
    return math.exp(-d) if d < 9 else 0.0


@njit(cache=True, nogil=True, fastmath=True)
def _mix(color, r, g, b, share, gain):
    return r + share * (color[0] * gain - r), g + share * (color[1] * gain - g), b + share * (color[2] * gain - b)


@njit(cache=True, nogil=True, fastmath=True)
def skin(u, v, angle, look):
    """Skin at chart point (u, v)."""
    au = abs(u)
    tip, wing = look.nose_tip, look.nose_width
    coarse = sample(COARSE, v * 6 + 300, u * 6 + 300) - 0.5
    fine = sample(FINE, v * 21 + 900, u * 21 + 900) - 0.5
    tone = 1 + 0.16 * coarse + 0.10 * fine
    flush = 0.5 * _bump(au, v, 4.2, -1.2, 1.6, 1.5) + 0.5 * _bump(u, v, 0.0, tip, 1.1, 0.9)
    r, g, b = look.skin[0], look.skin[1], look.skin[2]
    r, g, b = r * tone * (1 + 0.06 * flush), g * tone * (1 - 0.10 * flush), b * tone * (1 - 0.10 * flush)
    shine = _bump(u, v, 0.0, tip, 0.75, 0.6)
    gloss, exponent = 0.10 + 0.25 * shine, 18.0 + 22.0 * shine

    ao = 1.0
    ao -= 0.20 * _bump(au, v, look.eye_distance, EYE_ROW - 0.15, 1.9, 1.0)  # socket
    ao -= 0.22 * _bump(au, v, 1.55, EYE_ROW + 0.3, 0.5, 0.8)  # inner corner
    ao -= 0.85 * _bump(au, v, 0.62 * wing, tip - 0.4, 0.30, 0.17)  # nostril
    ao -= 0.20 * _bump(u, v, 0.0, tip - 1.05, 1.5, 0.30)  # below the nose
    ao -= 0.25 * _bump(au, v, 1.75 * wing, tip - 0.35, 0.25, 0.5)  # beside its wings
    ao -= 0.18 * _bump(u, v, 0.0, MOUTH_ROW - look.lip_lower - 0.35, 1.6, 0.28)  # below the lip
    if -5.6 < v < -1.6:  # nasolabial fold
        fold = (au - (1.9 + 0.45 * max(0.0, -2.0 - v))) / 0.18
        ao -= 0.13 * math.exp(-fold * fold) * _step(-1.6, -2.4, v) * _step(-5.6, -4.2, v)

    if look.stubble > 0 and v < -1.5:
        q = _step(-1.5, -3.5, v) * look.stubble * (0.7 + 0.6 * fine) * _step(6.6, 5.0, au - 0.3 * max(0.0, -v - 4))
        r, g, b = r * (1 - 0.30 * q), g * (1 - 0.24 * q), b * (1 - 0.20 * q)
    if look.freckles > 0:
        spots = max(0.0, sample(FINE, v * 9 + 100, u * 9 + 500) - 0.68)
        q = 2.5 * look.freckles * spots * _bump(u, v, 0.0, 0.0, 5.0, 2.0)
        r, g, b = r * (1 - 0.4 * q), g * (1 - 0.6 * q), b * (1 - 0.7 * q)

    lip = _lip_share(u, v, look)
    if lip > 0:
        line = (v - MOUTH_ROW) / 0.10
        streaks = 0.10 * (sample(FINE, u * 26 + 700, v * 3 + 100) - 0.5)
        r, g, b = _mix(look.lips, r, g, b, lip, 1 - 0.16 * math.exp(-line * line) + streaks)
        gloss, exponent = 0.10 + 0.16 * lip, 28.0
    if abs(au - look.eye_distance) < 1.75 and abs(v - EYE_ROW) < 1.2:
        lash, fold = _lashes(au, v, look)
        r, g, b, ao = r * (1 - lash), g * (1 - lash), b * (1 - lash), ao - fold
    brow = _brow_share(u, v, look)
    if brow > 0:
        r, g, b = _mix(look.hair, r, g, b, brow, 0.8)
    if v < JAW_LINE:
        ao *= 0.6
    ao *= 1 - 0.1 * _step(1.1, 1.6, angle)
    return r, g, b, ao, gloss, exponent


@njit(cache=True, nogil=True, fastmath=True)
def _lip_share(u, v, look):
    """0..1: how much of the red of the lips shows here."""
    x = u / look.mouth_half_width
    along = 1 - x * x
    if along <= 0:
        return 0.0
    if v >= MOUTH_ROW:
        bow = look.lip_upper * along**0.55 * (1 - 0.16 * math.exp(-((u / 0.32) ** 2)))
        return _step(-0.10, 0.10, bow - (v - MOUTH_ROW))
    return _step(-0.10, 0.10, look.lip_lower * along**0.6 - (MOUTH_ROW - v))


@njit(cache=True, nogil=True, fastmath=True)
def _lashes(au, v, look):
    """(darkening by the lashes, shade of the lid fold)."""
    x = (au - look.eye_distance) / 1.62
    along = max(0.0, 1 - x * x)
    above = v - EYE_ROW
    if above >= 0:
        lash, fold = above / 0.13, (above - 0.62) / 0.13
        return 0.85 * math.exp(-lash * lash) * min(1.0, 3 * along), 0.25 * math.exp(-fold * fold) * along
    lash = above / 0.09
    return 0.35 * math.exp(-lash * lash) * min(1.0, 3 * along), 0.0


@njit(cache=True, nogil=True, fastmath=True)
def _brow_share(u, v, look):
    """0..1: how much of the brow's hair shows here."""
    au = abs(u)
    if not (0.9 < au < 5.9 and v > EYE_ROW + 0.6):
        return 0.0
    s = max(0.0, (au - 1.2) / 4.2)  # 0 at the inner end, 1 at the outer
    middle = look.brow_rise + 0.42 * math.sin(min(1.0, s) * 2.2)
    half = look.brow_thickness * (1.15 - 0.75 * s) + 0.05
    off = abs(v - middle) / half
    if off > 1.6:
        return 0.0
    hairs = 0.5 * (sample(FINE, v * 6 - au * 14 + 900, au * 20 + v * 30 + 400) - 0.5)
    return look.brow_density * _step(1.25, 0.45, off + hairs) * _step(1.0, 1.5, au) * _step(5.7, 5.0, au)


@njit(cache=True, nogil=True, fastmath=True)
def inner_lip(depth, look):
    """Lip that rolls inwards, darker with depth (cm)."""
    q = _step(0.1, 2.0, depth)
    r, g, b = look.lips[0] * 0.9 * (1 - q), look.lips[1] * 0.85 * (1 - q), look.lips[2] * 0.85 * (1 - q)
    return r + 0.10 * q, g + 0.02 * q, b + 0.02 * q, 1 - 0.75 * _step(0.05, 0.9, depth), 0.15, 18.0


@njit(cache=True, nogil=True, fastmath=True)
def lid_edge(look):
    """The pink margin of the lids."""
    return look.skin[0] * 0.85, look.skin[1] * 0.62, look.skin[2] * 0.60, 0.75, 0.10, 18.0


@njit(cache=True, nogil=True, fastmath=True)
def eyeball(u, v, look):
    """White, iris, pupil and a highlight; (u, v) cm on the ball."""
    dx, dy = u - look.iris_x, v - look.iris_y
    d = math.sqrt(dx * dx + dy * dy)
    red = _step(1.0, 1.7, abs(u))
    r, g, b = 0.86 - 0.03 * red, 0.84 - 0.16 * red, 0.82 - 0.16 * red
    if d < 0.62:
        spokes = 0.75 + 0.5 * sample(FINE, math.atan2(dy, dx) * 20 + 200, d * 12)
        r, g, b = _mix(look.iris, r, g, b, _step(0.62, 0.55, d), spokes * (1 - 0.6 * _step(0.42, 0.6, d)))
        pupil = 1 - 0.95 * _step(0.26, 0.21, d)
        r, g, b = r * pupil, g * pupil, b * pupil
    if (dx + 0.17) ** 2 + (dy - 0.20) ** 2 < 0.016:
        r, g, b = r + 0.8, g + 0.8, b + 0.8
    return r, g, b, 1 - 0.40 * _step(0.15, 0.8, v), 0.0, 18.0


@njit(cache=True, nogil=True, fastmath=True)
def tooth(u, v):
    """Teeth with dark gaps, darker towards the cheeks and the gums; (u, v) cm."""
    gap = min(1.0, 4 * abs(math.sin(u / TOOTH_WIDTH * math.pi)))
    ao = max(0.15, 0.92 - 0.16 * u * u - 0.25 * _step(0.35, 1.1, abs(v - MOUTH_ROW)))
    white = 0.82 + 0.18 * gap
    return 0.90 * white, 0.87 * white, 0.78 * white, ao, 0.10, 18.0


@njit(cache=True, nogil=True, fastmath=True)
def neck(u, v, look):
    """Neck; u is the angle round it, v the height."""
    tone = 0.93 + 0.12 * (sample(COARSE, v * 5 + 300, u * 25 + 300) - 0.5)
    ao = 0.50 + 0.5 * _step(-9.5, -15.0, v)
    return look.skin[0] * tone, look.skin[1] * tone, look.skin[2] * tone, ao, 0.10, 18.0


@njit(cache=True, nogil=True, fastmath=True)
def above_collar(u, v, look):
    """Whether the torso shows skin here."""
    return v > COLLAR - look.neckline * math.exp(-((u / 2.6) ** 2))


@njit(cache=True, nogil=True, fastmath=True)
def torso(u, v, look):
    """Clothes, and the skin that the neckline leaves bare."""
    if above_collar(u, v, look):
        return look.skin[0], look.skin[1], look.skin[2], 0.95, 0.10, 18.0
    weave = 0.25 * (sample(COARSE, v * 4 + 500, u * 4 + 500) - 0.5)
    weave += 0.10 * (sample(FINE, v * 30 + 900, u * 30 + 900) - 0.5)
    tone = 0.9 + weave
    if look.stripes > 0 and math.sin(v * 3.5) > 0.4:
        tone += 0.30
    if above_collar(u, v + 0.5, look):  # hem
        tone *= 0.75
    return look.cloth[0] * tone, look.cloth[1] * tone, look.cloth[2] * tone, 1.0, 0.0, 18.0


@njit(cache=True, nogil=True, fastmath=True)
def hair(angle, v, above, look):
    """Strands as noise that is stretched along the fall of the hair."""
    strand = sample(FINE, angle * 160 + 8 * sample(COARSE, v * 2 + 100, angle * 9 + 400) + 900, v * 1.5 + 500)
    lock = sample(COARSE, angle * 40 + 700, v + 300)
    tone = 0.55 + 0.55 * strand + 0.45 * lock
    ao = 0.65 + 0.35 * _step(0.0, 2.0, above)
    if v < -3:
        ao *= 0.9
    return look.hair[0] * tone, look.hair[1] * tone, look.hair[2] * tone, ao, 0.10 + 0.15 * strand, 10.0


@njit(cache=True, nogil=True, fastmath=True)
def backdrop(x, y, look):
    """Wall behind the person; x, y in 0..1 of the image. Returns linear RGB."""
    tone = 0.8 + 0.35 * (1 - y) + 0.25 * (sample(COARSE, x * 40 + 17, y * 40 + 60) - 0.5)
    tone += 0.18 * (sample(COARSE, x * 9, 3.0) - 0.5)
    return look.background[0] * tone, look.background[1] * tone, look.background[2] * tone
