"""What a procedural person looks like: named numbers drawn from one seed. Nothing here says how the person speaks.

Units: cm for lengths, 1 for gains, linear RGB in [0, 1] for colours. All ranges are chosen by eye.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from instag.errors import InstagError
from instag.synthetic.seeds import Draw

Hair = Literal["short", "long"]
Color = tuple[float, float, float]

LIGHT_SKIN, DARK_SKIN = np.array([0.86, 0.66, 0.54]), np.array([0.50, 0.32, 0.23])
LIP_TINT = np.array([0.86, 0.58, 0.58])  # lips = skin times this
HAIR_COLORS: tuple[Color, ...] = (
    (0.10, 0.07, 0.05),
    (0.22, 0.13, 0.07),
    (0.40, 0.27, 0.14),
    (0.55, 0.42, 0.25),
    (0.30, 0.12, 0.06),
    (0.45, 0.44, 0.43),
)
IRIS_COLORS: tuple[Color, ...] = ((0.28, 0.16, 0.08), (0.16, 0.09, 0.05), (0.25, 0.38, 0.48), (0.28, 0.36, 0.20))
DARK_SKIN_CHOICES = 2  # with dark skin, only the first hair and iris colours


@dataclass(frozen=True)
class Identity:
    """One procedural person: shape, colours, hair, clothes and the light of the room."""

    seed: int
    width: float  # gain on head width
    height: float  # gain on face height
    jaw_width: float  # gain on the width of the lower face
    chin: float  # cm, protrusion added
    cheek: float  # cm, fullness added
    nose_length: float  # gain
    nose_width: float  # gain
    nose_bridge: float  # cm, hump added
    eye_distance: float  # cm from the middle to the centre of an eye
    eye_half_width: float  # cm
    eye_opening: float  # gain on the lid aperture
    eye_tilt: float  # slope of the line through the eye corners
    lip_upper: float  # cm, height of the red of the upper lip
    lip_lower: float  # cm
    mouth_half_width: float  # cm
    brow_height: float  # cm, offset
    brow_thickness: float  # cm
    brow_density: float  # 0..1
    skin: Color
    lips: Color
    hair: Color
    iris: Color
    long_hair: bool
    hairline: float  # cm above the head's origin, at the middle of the forehead
    widow_peak: float  # cm, receding corners
    parting: float  # rad, where the hair parts
    stubble: float  # 0..1
    freckles: float  # 0..1
    cloth: Color
    stripes: bool
    neckline: float  # cm, depth of the collar
    background: Color
    light_side: float  # key light, towards the image right
    light_height: float  # key light, upwards
    glasses: bool  # dark frames; never drawn from the seed


def draw_identity(seed: int, hair: Hair | None = None, glasses: bool = False) -> Identity:
    """Return the person that belongs to `seed`; `hair` overrides the drawn length; `glasses` puts them on.

    Raises:
        InstagError: hair is neither None, "short" nor "long".
    """
    if hair not in (None, "short", "long"):
        raise InstagError(f"hair is {hair!r}: use 'short', 'long' or None (drawn from the seed)")
    draw = Draw("identity", seed)
    darkness = draw.uniform("darkness", 0, 1)
    skin = LIGHT_SKIN * (1 - darkness) + DARK_SKIN * darkness
    dark = darkness >= 0.5
    wall = draw.uniform("wall", 0.35, 0.7)
    long_hair = bool(draw.index("long_hair", 2)) if hair is None else hair == "long"
    return Identity(
        seed=seed,
        width=draw.normal("width", 1, 0.035),
        height=draw.normal("height", 1, 0.03),
        jaw_width=draw.normal("jaw_width", 1, 0.06),
        chin=draw.normal("chin", 0, 0.2),
        cheek=draw.normal("cheek", 0, 0.15),
        nose_length=draw.normal("nose_length", 1, 0.10),
        nose_width=draw.normal("nose_width", 1, 0.12),
        nose_bridge=draw.normal("nose_bridge", 0, 0.12),
        eye_distance=draw.normal("eye_distance", 3.12, 0.10),
        eye_half_width=draw.normal("eye_half_width", 1.46, 0.05),
        eye_opening=draw.normal("eye_opening", 1, 0.10),
        eye_tilt=draw.normal("eye_tilt", 0.12, 0.08),
        lip_upper=draw.normal("lip_upper", 0.72, 0.12),
        lip_lower=draw.normal("lip_lower", 0.92, 0.12),
        mouth_half_width=draw.normal("mouth_half_width", 2.5, 0.13),
        brow_height=draw.normal("brow_height", 0, 0.12),
        brow_thickness=draw.normal("brow_thickness", 0.34, 0.06),
        brow_density=draw.uniform("brow_density", 0.7, 1),
        skin=_color(skin),
        lips=_color(skin * LIP_TINT),
        hair=HAIR_COLORS[draw.index("hair_dark", DARK_SKIN_CHOICES) if dark else draw.index("hair", len(HAIR_COLORS))],
        iris=IRIS_COLORS[draw.index("iris_dark", DARK_SKIN_CHOICES) if dark else draw.index("iris", len(IRIS_COLORS))],
        long_hair=long_hair,
        hairline=draw.normal("hairline", 8.4, 0.35),
        widow_peak=draw.uniform("widow_peak", -0.5, 1.2),
        parting=draw.uniform("parting", -0.5, 0.5),
        stubble=0.0 if long_hair else max(0.0, draw.uniform("stubble", -0.5, 0.5)),
        freckles=max(0.0, draw.uniform("freckles", -0.6, 0.5)),
        cloth=_color([draw.uniform(f"cloth_{c}", 0.1, 0.7) for c in "rgb"]),
        stripes=bool(draw.index("stripes", 2)),
        neckline=draw.uniform("neckline", 0.2, 3.0),
        background=_color([wall + draw.normal(f"wall_{c}", 0, 0.07) for c in "rgb"]),
        light_side=draw.uniform("light_side", -0.7, 0.7),
        light_height=draw.uniform("light_height", 0.25, 0.75),
        glasses=glasses,
    )


def _color(rgb: np.ndarray | list[float]) -> Color:
    red, green, blue = (float(c) for c in rgb)
    return red, green, blue
