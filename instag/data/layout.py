"""Every file name, dtype, shape and range that preprocessing writes and training reads. Nobody else spells a path.

Two forms of one subject hold the same facts:

* a **folder** `data/<ID>/` in the field's layout (METHOD.md section 7), which other programs read too;
* a **pack** `<ID>.instag`, one uncompressed zip for training, synthesis and metrics (see `Pack`).

Images are RGB, uint8, [H, W, 3]. Frames are numbered from 0 at 25 fps. Lengths are head units (centimetres / 100).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np

FPS = 25
SAMPLE_RATE = 16_000  # Hz, mono
PACK_SUFFIX = ".instag"


class Label(IntEnum):
    """Classes of a label map, uint8 [H, W]."""

    BACKGROUND = 0
    HEAD = 1  # skin of the head, ears, brows, eyes, lips
    HAIR = 2
    NECK = 3
    TORSO = 4
    MOUTH = 5  # inside of the mouth: cavity, tongue, teeth


# Colours of parsing/<i>.png in RGB order, indexed by Label (METHOD.md section 7).
LABEL_COLORS = np.array(
    [[255, 255, 255], [0, 0, 255], [0, 0, 0], [0, 255, 0], [255, 0, 0], [100, 100, 100]], dtype=np.uint8
)
# One bit or two of each channel tell the six colours apart: a table from these bits back to the label.
_CHANNEL_BITS = (1, 6, 8)
_LABEL_OF_BITS = np.full(16, Label.BACKGROUND, np.uint8)
_LABEL_OF_BITS[(LABEL_COLORS & np.array(_CHANNEL_BITS, np.uint8)).sum(1)] = np.arange(len(LABEL_COLORS))


def labels_from_colors(parsing: np.ndarray) -> np.ndarray:
    """Label map uint8 [H, W] of a parsing picture uint8 [H, W, 3]: exact colours, otherwise the nearest."""
    red, green, blue = (parsing[..., c] & np.uint8(_CHANNEL_BITS[c]) for c in range(3))
    labels = np.take(_LABEL_OF_BITS, red | green | blue)
    exact = np.take(LABEL_COLORS, labels, axis=0) == parsing
    if not exact.all():
        odd = ~exact.all(2)
        distance = np.abs(parsing[odd].astype(np.int32)[:, None] - LABEL_COLORS.astype(np.int32)).sum(2)
        labels[odd] = distance.argmin(1)
    return labels


# Order of the expression vector e (METHOD.md section 2); intensities 0..5, AU45 clipped to 0..2.
EXPRESSION_UNITS = ("AU01", "AU04", "AU05", "AU06", "AU07", "AU45")
BLINK_UNIT, JAW_UNIT = "AU45", "AU25"
BLINK_RANGE = (0.0, 2.0)

# Landmarks: the field's 68 points (x, y in pixels; x right, y down; pixel centres at +0.5).
LANDMARKS = 68
OUTER_LIPS = slice(48, 60)
INNER_LIPS = slice(60, 68)
MOUTH_LANDMARKS = slice(48, 68)

MESH_VERTICES = 468  # MediaPipe FaceMesh without the irises


@dataclass(frozen=True)
class SubjectFolder:
    """Paths below `data/<ID>/`. Optional parts may be missing; readers say which."""

    root: Path

    @property
    def id(self) -> str:
        """The subject's name: the folder's."""
        return self.root.resolve().name

    # --- the field's layout -------------------------------------------------------------------------------------
    def image(self, i: int) -> Path:
        """Frame as filmed, JPEG."""
        return self.root / "ori_imgs" / f"{i}.jpg"

    def landmarks(self, i: int) -> Path:
        """Text file, 68 lines `x y`."""
        return self.root / "ori_imgs" / f"{i}.lms"

    def ground_truth(self, i: int) -> Path:
        """Person over the clean background plate, JPEG: the training target."""
        return self.root / "gt_imgs" / f"{i}.jpg"

    def torso(self, i: int) -> Path:
        """Torso and in-painted neck, RGBA PNG with straight alpha."""
        return self.root / "torso_imgs" / f"{i}.png"

    def parsing(self, i: int) -> Path:
        """Label map as colours (LABEL_COLORS, RGB order), PNG."""
        return self.root / "parsing" / f"{i}.png"

    def teeth(self, i: int) -> Path:
        """Teeth, bool [H, W], .npy."""
        return self.root / "teeth_mask" / f"{i}.npy"

    def network_prior(self, kind: str, i: int) -> Path:
        """What a network says of frame i, `depth` or `normal`, .npy; readers take the first `sapiens_*` folder."""
        return self.root / "sapiens" / kind / "sapiens_given" / f"{i}.npy"

    @property
    def background(self) -> Path:
        """Clean background plate, JPEG."""
        return self.root / "bc.jpg"

    @property
    def audio(self) -> Path:
        """16 kHz mono WAV of the whole clip."""
        return self.root / "aud.wav"

    @property
    def action_units(self) -> Path:
        """OpenFace-style CSV, one row a frame, columns ` AU01_r`, ... with a leading space."""
        return self.root / "au.csv"

    def transforms(self, split: str) -> Path:
        """Poses of a split, `train` or `val`; camera-to-world, OpenGL axes."""
        return self.root / f"transforms_{split}.json"

    # --- ours ---------------------------------------------------------------------------------------------------
    @property
    def frames(self) -> Path:
        """The clip as used: 25 fps, square, H.264 4:4:4 CRF 12, a key frame each second, no sound."""
        return self.root / "frames.mp4"

    @property
    def plates(self) -> Path:
        """Torso over the background plate, one picture a frame, encoded as `frames`."""
        return self.root / "plates.mp4"

    @property
    def tracks(self) -> Path:
        """Per-frame arrays, safetensors; see `TRACKS`."""
        return self.root / "tracks.safetensors"

    @property
    def manifest(self) -> Path:
        """`subject.json`: format version, source name and SHA-256, size, frames, focal, steps done, warnings."""
        return self.root / "subject.json"

    @property
    def contact_sheet(self) -> Path:
        """A page for the eye: landmarks, masks, mesh, plate, torso of some frames."""
        return self.root / "contact_sheet.jpg"

    @property
    def pack(self) -> Path:
        """The packed file of this subject."""
        return self.root / f"{self.id}{PACK_SUFFIX}"


# Arrays of tracks.safetensors: name -> (dtype, shape after T). All are in the pixels of the stored size.
TRACKS = {
    "world_to_camera": ("float32", (4, 4)),  # OpenCV axes (x right, y down, z forward), head units
    "focal": ("float32", ()),  # one number a clip, repeated; px of the stored size, principal point at the centre
    "landmarks": ("float32", (LANDMARKS, 2)),
    "mesh": ("float32", (MESH_VERTICES, 3)),  # camera space, OpenCV axes, head units
    "action_units": ("float32", (None,)),  # columns named by the metadata key `action_unit_names` (comma separated)
}


class Pack:
    """Members of a `.instag` file: a zip whose members are stored, so that each is read without unpacking the rest."""

    META = "meta.json"  # format version, id, size, frames, focal, action_unit_names, provenance
    FRAMES = "frames.mp4"
    PLATES = "plates.mp4"
    TRACKS = "tracks.safetensors"
    AUDIO = "audio.wav"

    @staticmethod
    def labels(i: int) -> str:
        """Label map of frame i: 8-bit grey PNG holding Label values."""
        return f"labels/{i:06d}.png"

    @staticmethod
    def features(extractor: str) -> str:
        """Audio features of one extractor: safetensors with `features` [T, W, D] and the norm in the metadata."""
        return f"features/{extractor}.safetensors"


FORMAT_VERSION = 1
