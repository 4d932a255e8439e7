"""Label maps without a trained parser: per-clip colour models and a map of what lies where on the head.

The person comes from MediaPipe's selfie probability, sharpened against the clean plate. Inside it, four classes (skin
of the head, hair, neck, torso) are told apart by expectation maximisation over the clip itself: 3D colour histograms,
seeded from the face mesh, times a spatial prior on the head's map (`head_plane`), which follows the jaw. The inner
mouth is the polygon of the inner lips.

Made for short and medium hair and a single speaker; long hair below the jaw tends to become torso.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from instag.data.layout import Label
from instag.data_utils.background import Plate
from instag.data_utils.face_points import (
    FACE_OVAL_LOOP,
    FOREHEAD_TOP,
    INNER_LIPS_LOOP,
    LEFT_BROW_UPPER,
    NOSE_BRIDGE,
    OUTER_LIPS_LOOP,
    RIGHT_BROW_UPPER,
)
from instag.data_utils.head_plane import HeadPlane, JawLine, JawShift, geometric_prior
from instag.data_utils.image_ops import (
    box,
    coarse_component_filter,
    component_filter,
    fill_from_nearest,
    guided_filter,
    luminance,
    polygon_mask,
    scaled_px,
    strongest,
    touched,
)
from instag.data_utils.silhouette import refine_person
from instag.errors import DataError

CLASSES = (Label.HEAD, Label.HAIR, Label.NECK, Label.TORSO)
HEAD, HAIR, NECK, TORSO = range(len(CLASSES))  # their place in the posterior's last axis
WORKING_SIZE = 256  # px; posteriors are computed at most at this side

# --- expectation maximisation -------------------------------------------------------------------------------------
FIT_FRAMES = 24
ROUNDS = 2
COLOUR_WEIGHT = 0.7  # of the log-likelihood: neighbouring pixels are not independent
SURE_FACE = 12.0  # log-odds of skin well inside the face, below the brows
LIKELY_FACE = 2.0  # and up to the face's outline, where side hair or a shadow may lie
NECK_AS_FACE = 0.1  # weight of the face's colours in the neck's first model: skin too, if in shadow
GEOMETRY_WEIGHT = 0.4  # of the geometric prior in the learnt one

# --- tidying up (areas at 512 px) ---------------------------------------------------------------------------------
SPECK_PX = 150  # of any class
PIECE_PX = 400  # least area of a piece of skin or hair
HAIR_SHARE = 0.03  # of the largest piece of hair: smaller ones are none


class ClipView(Protocol):
    """What a clip offers to the steps that look at it as a whole."""

    count: int
    size: int
    landmarks: np.ndarray  # float32 [T, 478, 3] px
    rotation: np.ndarray  # [T, 3, 3] OpenCV camera from head
    translation_cm: np.ndarray  # [T, 3]
    focal: float  # px
    plate: Plate | None

    def frame(self, i: int) -> np.ndarray:
        """uint8 [H, W, 3] RGB."""

    def person(self, i: int) -> np.ndarray:
        """Selfie probability, uint8 [H, W]."""


@dataclass(frozen=True)
class _View:
    """One frame at the working size."""

    alpha: np.ndarray  # float32 [h, w]
    bins: np.ndarray  # int32 [h, w], colour cell of each pixel
    guide: np.ndarray  # float32 [h, w] luminance
    landmarks: np.ndarray  # float32 [478, 2] px of the working size
    plane: HeadPlane
    jaw: JawLine

    @property
    def size(self) -> int:
        return len(self.alpha)


def _view(frame: np.ndarray, alpha: np.ndarray, landmarks: np.ndarray, plane: HeadPlane) -> _View:
    size = min(WORKING_SIZE, len(frame))
    small, small_alpha = (cv2.resize(x, (size, size), interpolation=cv2.INTER_AREA) for x in (frame, alpha))
    factor = size / len(frame)
    plane = plane.scaled(factor)
    points = landmarks[:, :2] * np.float32(factor)
    jaw = JawLine.from_landmarks(points, plane)
    return _View(small_alpha, colour_bins(small), luminance(small), points, plane, jaw)


# --- colour -------------------------------------------------------------------------------------------------------
_BINS = 32  # a side
_CHROMA_START, _CHROMA_STEP = 64, 4  # OpenCV's a and b lie round 128; skin, hair and cloth within +-64


def colour_bins(image: np.ndarray) -> np.ndarray:
    """uint8 RGB [H, W, 3] -> index of the LAB cell, int32 [H, W] in [0, 32^3)."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.int32)
    chroma = np.clip((lab[..., 1:] - _CHROMA_START) // _CHROMA_STEP, 0, _BINS - 1)
    return ((lab[..., 0] >> 3) * _BINS + chroma[..., 0]) * _BINS + chroma[..., 1]


class ColourCounts:
    """A histogram of LAB cells under construction."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS**3)

    def add(self, bins: np.ndarray, weight: np.ndarray | float = 1.0) -> None:
        """Count pixels (any shape), each with its weight."""
        weights = np.broadcast_to(weight, bins.shape).ravel()
        self._counts += np.bincount(bins.ravel(), weights=weights, minlength=_BINS**3)

    def log_likelihood(self) -> np.ndarray:
        """Natural log of the smoothed density of each cell, float32 [32^3]."""
        cube = self._counts.astype(np.float32).reshape(_BINS, _BINS, _BINS)
        for axis in range(3):
            flat = np.moveaxis(cube, axis, 0).reshape(_BINS, -1)
            flat = cv2.GaussianBlur(flat, (1, 7), sigmaX=1.0, sigmaY=1.0, borderType=cv2.BORDER_REPLICATE)
            cube = np.moveaxis(flat.reshape(_BINS, _BINS, _BINS), 0, axis)
        density = cube.ravel() + 1e-3
        return np.log(density / density.sum()).astype(np.float32)


# --- where things lie on the head ---------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Anatomy:
    """Landmarks of the clip on the head's map, cm."""

    jaw: JawLine
    forehead: float  # v of the face mesh's top, about the hairline


def _face_seed(view: _View) -> np.ndarray:
    """Pixels well inside the face and off the lips, bool [h, w]."""
    face = polygon_mask(view.landmarks[list(FACE_OVAL_LOOP)], view.size)
    lips = polygon_mask(view.landmarks[list(OUTER_LIPS_LOOP)], view.size)
    return (cv2.erode(face.astype(np.uint8), box(scaled_px(4, view.size))) > 0) & ~lips


def _other_seeds(view: _View, anatomy: _Anatomy, skin: np.ndarray) -> dict[int, np.ndarray]:
    """Pixels that place and `skin` (log-likelihood above the face's 10th percentile) give to a class, bool [h, w]."""
    u, v = view.plane.coordinates(view.size)
    wide, person = np.abs(u), view.alpha > 0.9
    under_jaw = v - view.jaw.at(u)
    face = polygon_mask(view.landmarks[list(FACE_OVAL_LOOP)], view.size)
    outside_face = cv2.dilate(face.astype(np.uint8), box(scaled_px(2, view.size))) == 0
    shoulders = (v > anatomy.jaw.chin + 2.5) & (wide > 9)
    return {
        HAIR: person & outside_face & (v < anatomy.forehead + 1.3) & (wide < 11) & (skin < -0.5),
        NECK: person & (under_jaw > 1) & (under_jaw < 5) & (wide < 4.5) & (skin > -2.5),
        TORSO: person & ((under_jaw > 7.5) | shoulders) & (skin < -0.5),
    }


def _seed_colours(views: list[_View], anatomy: _Anatomy) -> np.ndarray:
    """Colour models of the four classes from the seeds, float32 [32^3, 4] log-likelihoods."""
    counts = [ColourCounts() for _ in CLASSES]
    faces = [view.bins[_face_seed(view)] for view in views]
    for face in faces:
        counts[HEAD].add(face)
        counts[NECK].add(face, NECK_AS_FACE)
    skin = counts[HEAD].log_likelihood()
    typical = np.percentile(skin[np.concatenate(faces)], 10)
    for view in views:
        for k, seed in _other_seeds(view, anatomy, skin[view.bins] - typical).items():
            counts[k].add(view.bins[seed])
    return _log_likelihoods(counts)


def _log_likelihoods(counts: list[ColourCounts]) -> np.ndarray:
    """float32 [32^3, 4]."""
    return np.stack([c.log_likelihood() for c in counts], -1)


# --- the parser ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Parser:
    """Labels the frames of the clip that it was fitted to. Plain arrays: may be pickled and sent to workers."""

    size: int
    focal: float  # px
    plate: Plate | None
    colours: np.ndarray  # float32 [32^3, 4] log-likelihoods
    prior: np.ndarray  # float32 [CELLS, CELLS, 4] on the head's map with the median jaw
    jaw: JawLine

    def label(
        self,
        frame: np.ndarray,
        person: np.ndarray,
        landmarks: np.ndarray,
        rotation: np.ndarray,
        translation_cm: np.ndarray,
    ) -> np.ndarray:
        """Label map uint8 [H, W] of one frame.

        `frame` uint8 [H, W, 3] RGB; `person` selfie probability uint8 [H, W]; `landmarks` [478, 3] (or 2) px; head
        pose in OpenCV axes, cm.
        """
        plate = (self.plate.image, self.plate.seen) if self.plate is not None else (None, None)
        alpha = refine_person(frame, person, *plate)
        plane = HeadPlane.from_pose(rotation, translation_cm, self.focal, self.size)
        view = _view(frame, alpha, landmarks, plane)
        posterior = _posterior(view, self.jaw, self.prior, self.colours)
        posterior = tidy(posterior, view.alpha > 0.5, view.landmarks[NOSE_BRIDGE])
        bytes_each = cv2.convertScaleAbs(posterior, alpha=255)  # fine enough to compare, and fast to enlarge
        large = cv2.resize(bytes_each, (self.size, self.size), interpolation=cv2.INTER_LINEAR)
        labels = strongest(large) + np.uint8(Label.HEAD)
        labels[alpha < 0.5] = Label.BACKGROUND
        labels = remove_specks(cv2.medianBlur(labels, 5))
        labels[polygon_mask(landmarks[list(INNER_LIPS_LOOP), :2], self.size)] = Label.MOUTH
        return labels


def fit_parser(clip: ClipView) -> Parser:
    """Learn the colours and the map of one clip. Reads about 24 frames, in rising order; deterministic."""
    if clip.count < 1:
        raise DataError("segmentation: the clip has no frames; check that the video decodes")
    plate = (clip.plate.image, clip.plate.seen) if clip.plate is not None else (None, None)
    views, foreheads = [], []
    for i in np.unique(np.linspace(0, clip.count - 1, FIT_FRAMES).round().astype(int)):
        frame = clip.frame(int(i))
        alpha = refine_person(frame, clip.person(int(i)), *plate)
        plane = HeadPlane.from_pose(clip.rotation[i], clip.translation_cm[i], clip.focal, clip.size)
        views.append(_view(frame, alpha, clip.landmarks[i], plane))
        foreheads.append(plane.unproject(clip.landmarks[i, FOREHEAD_TOP, :2])[1])
    anatomy = _Anatomy(JawLine.median([view.jaw for view in views]), float(np.median(foreheads)))
    colours = _seed_colours(views, anatomy)
    geometry = prior = geometric_prior(anatomy.jaw, anatomy.forehead)
    for _ in range(ROUNDS):
        prior, colours = _maximise(views, anatomy.jaw, geometry, prior, colours)
    return Parser(clip.size, clip.focal, clip.plate, colours, prior, anatomy.jaw)


def _posterior(view: _View, jaw: JawLine, prior: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Probability of each class for a person's pixel, float32 [h, w, 4], sums to 1."""
    size = view.size
    where = view.plane.to_image(JawShift(jaw, view.jaw).to_frame(np.log(prior + np.float32(1e-3))), size)
    logits = COLOUR_WEIGHT * np.take(colours, view.bins, axis=0) + where
    logits[..., HEAD] += _face_evidence(view)
    odds = cv2.exp(logits - np.maximum.reduce(cv2.split(logits))[..., None])
    smooth = np.clip(guided_filter(_normalised(odds), view.guide, scaled_px(8, size), 4e-4), 0, 1)
    return _normalised(smooth)


def _normalised(odds: np.ndarray) -> np.ndarray:
    """Channels [h, w, 4] divided by their sum."""
    return odds / (cv2.transform(odds, np.ones((1, len(CLASSES)), np.float32))[..., None] + 1e-6)


def _face_evidence(view: _View) -> np.ndarray:
    """Log-odds of skin that the face mesh vouches for below the brows, float32 [h, w]."""
    face = polygon_mask(view.landmarks[list(FACE_OVAL_LOOP)], view.size).astype(np.uint8)
    inner = cv2.erode(face, box(scaled_px(8, view.size))) > 0
    rows = np.arange(view.size)[:, None] + 0.5
    below_brows = rows > view.landmarks[list(RIGHT_BROW_UPPER + LEFT_BROW_UPPER), 1].min() - scaled_px(6, view.size)
    return (LIKELY_FACE * face + (SURE_FACE - LIKELY_FACE) * inner).astype(np.float32) * below_brows


def _maximise(
    views: list[_View], jaw: JawLine, geometry: np.ndarray, prior: np.ndarray, colours: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One round: posteriors of all views -> new prior and colour models."""
    counts = [ColourCounts() for _ in CLASSES]
    total = np.zeros_like(prior)
    for view in views:
        posterior = _posterior(view, jaw, prior, colours)
        person = (view.alpha > 0.7).astype(np.float32)
        total += JawShift(jaw, view.jaw).to_median(view.plane.to_map(posterior * person[..., None]))
        core = view.alpha > 0.9
        for k, count in enumerate(counts):
            sure = core & (posterior[..., k] > 0.8)
            count.add(view.bins[sure], posterior[sure, k])
    visits = total.sum(-1, keepdims=True)
    learnt = cv2.GaussianBlur(total / np.maximum(visits, 1e-3), (0, 0), 1.2)
    mixed = (learnt + 0.05) * (geometry + 0.02)
    mixed = (1 - GEOMETRY_WEIGHT) * mixed / mixed.sum(-1, keepdims=True) + GEOMETRY_WEIGHT * geometry
    mixed = np.where(visits > 0.5, mixed, prior).astype(np.float32)
    return mixed / mixed.sum(-1, keepdims=True), _log_likelihoods(counts)


# --- tidying up ---------------------------------------------------------------------------------------------------
def tidy(posterior: np.ndarray, person: np.ndarray, nose: np.ndarray) -> np.ndarray:
    """Hand regions that cannot be what they claim to their neighbours; posterior float32 [h, w, 4] in and out.

    Torso reaches the bottom of the picture, neck touches the head and is no sliver along the jaw, hair and skin come
    in large pieces. `person` bool [h, w]; `nose` (x, y) px.
    """
    size = len(person)
    area = (size / 512) ** 2
    labels = np.where(person, strongest(posterior).astype(np.int16), -1)
    head, hair, neck, torso = (labels == k for k in (HEAD, HAIR, NECK, TORSO))
    near_head = cv2.dilate((head | hair).astype(np.uint8), box(scaled_px(8, size))) > 0
    at_nose, at_bottom = np.zeros(labels.shape, bool), np.zeros(labels.shape, bool)
    x, y = np.clip(nose[:2].astype(int), 0, size - 1)
    at_nose[y, x] = True
    at_bottom[-max(2, scaled_px(3, size)) :] = True

    thick = cv2.morphologyEx(neck.astype(np.uint8), cv2.MORPH_OPEN, box(scaled_px(4, size))) > 0
    wrong = neck & ~thick
    wrong |= component_filter(thick, lambda c, n: touched(c, near_head, len(n)) & (n > SPECK_PX * area))
    wrong |= component_filter(torso, lambda c, n: touched(c, at_bottom, len(n)))
    wrong |= component_filter(head, lambda c, n: touched(c, at_nose, len(n)) | (n > PIECE_PX * area))
    wrong |= component_filter(hair, lambda c, n: n >= max(PIECE_PX * area, HAIR_SHARE * n[1:].max()))
    if not wrong.any():
        return posterior
    nearest = fill_from_nearest(labels, wrong | ~person)
    repaired = posterior.copy()
    repaired[wrong] = np.eye(len(CLASSES), dtype=np.float32)[np.maximum(nearest[wrong], 0)]
    return repaired


def remove_specks(labels: np.ndarray) -> np.ndarray:
    """Islands of the person and holes in it smaller than SPECK_PX become what is nearest to them."""
    least = SPECK_PX * (len(labels) / 512) ** 2
    person = labels != Label.BACKGROUND
    specks = coarse_component_filter(person, lambda _, areas: areas >= least)
    specks |= coarse_component_filter(~person, lambda _, areas: areas >= least)
    return fill_from_nearest(labels, specks)
