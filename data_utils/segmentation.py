"""Label maps without a trained parser: per-clip colour models and a map of what lies where on the head.

The person comes from MediaPipe's selfie probability, sharpened against the clean plate. Inside it, four classes (skin
of the head, hair, neck, torso) are told apart by expectation maximisation over the clip itself: 3D colour histograms,
seeded from the face mesh, times a spatial prior on the head's map (`head_plane`), which follows the jaw. The inner
mouth: `mouth`.

Long hair is told from clothes by its colour, in the light and in the shade, and by hanging from the head. Made for a
single speaker; clothes in the colour of hair that lies on them are not told apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import cv2
import numpy as np

from instag.data.layout import Label
from instag.data_utils.background import Plate
from instag.data_utils.colour_counts import ColourCounts, colour_bins
from instag.data_utils.face_points import (
    FACE_OVAL_LOOP,
    FOREHEAD_TOP,
    LEFT_BROW_UPPER,
    NOSE_BRIDGE,
    OUTER_LIPS_LOOP,
    RIGHT_BROW_UPPER,
)
from instag.data_utils.head_plane import HeadPlane, JawLine, JawShift, geometric_prior
from instag.data_utils.image_ops import box, polygon_mask, scaled_px
from instag.data_utils.mouth import inside_mouth
from instag.data_utils.posterior import CLASSES, HAIR, HEAD, NECK, TORSO, class_shares, enlarged_labels
from instag.data_utils.silhouette import refine_person
from instag.data_utils.tidying import remove_specks, tidy
from instag.data_utils.torso import Neck, fit_neck
from instag.data_utils.workers import usable_cores
from instag.errors import DataError

WORKING_SIZE = 256  # px; posteriors are computed at most at this side

# --- expectation maximisation -------------------------------------------------------------------------------------
FIT_FRAMES = 24
ROUNDS = 2
COLOUR_WEIGHT = 0.7  # of the log-likelihood: neighbouring pixels are not independent
NEAR_PERSON = 0.1  # part of a pixel at the working size that is the person: less of one is not looked at
SURE_FACE = 12.0  # log-odds of skin well inside the face, below the brows
LIKELY_FACE = 2.0  # and up to the face's outline, where side hair or a shadow may lie
NECK_AS_FACE = 0.1  # weight of the face's colours in the neck's first model: skin too, if in shadow
TYPICAL_SKIN = 20  # percentile of the face's likelihood from which a colour counts as skin
TYPICAL_HAIR = 2  # percentile of the sure hair's likelihood from which a colour counts as the hair's
SHADES = (0.75, 0.55, 0.4)  # of its light that hair beside the neck has left
SHADED = 0.1  # weight of such colours in the hair's first model
HAIR_AS_TORSO = 0.05  # weight of such colours in the torso's first model: long hair lies on the shoulders
GEOMETRY_WEIGHT = 0.4  # of the geometric prior in the learnt one


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

    image: np.ndarray  # uint8 [h, w, 3] RGB
    alpha: np.ndarray  # float32 [h, w]
    bins: np.ndarray  # int32 [h, w], colour cell of each pixel
    guide: np.ndarray  # uint8 [h, w] grey
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
    return _View(small, small_alpha, colour_bins(small), cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), points, plane, jaw)


# --- where things lie on the head ---------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Anatomy:
    """Landmarks of the clip on the head's map, cm."""

    jaw: JawLine
    forehead: float  # v of the face mesh's top, about the hairline


def _face_seed(view: _View) -> np.ndarray:
    """Pixels well inside the face, below the brows (a fringe may hang above) and off the lips, bool [h, w]."""
    face = polygon_mask(view.landmarks[list(FACE_OVAL_LOOP)], view.size)
    lips = polygon_mask(view.landmarks[list(OUTER_LIPS_LOOP)], view.size)
    return (cv2.erode(face.astype(np.uint8), box(scaled_px(4, view.size))) > 0) & ~lips


def _below_brows(view: _View) -> np.ndarray:
    """Rows under the upper edge of the brows, bool [h, 1]."""
    brows = view.landmarks[list(RIGHT_BROW_UPPER + LEFT_BROW_UPPER), 1]
    return np.arange(view.size)[:, None] + 0.5 > brows.min() - scaled_px(6, view.size)


def _other_seeds(view: _View, anatomy: _Anatomy, skin: np.ndarray) -> dict[int, np.ndarray]:
    """Pixels that place and `skin` (log-likelihood above typical skin) give to a class, bool [h, w]."""
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
    """Colour models of the four classes from the seeds, `_likelihoods`.

    Hair and neck are seeded in the shade as well: they hang and stand in that of the head. What looks like hair where
    the torso should be may be long hair; it hardly counts.
    """
    counts = [ColourCounts() for _ in CLASSES]
    faces = [_face_seed(view) for view in views]
    for view, face in zip(views, faces, strict=True):
        counts[HEAD].add(view.bins[face])
        counts[NECK].add(view.bins[face], NECK_AS_FACE)
    skin = counts[HEAD].log_likelihood()
    typical = np.percentile(skin[_gather(views, faces)], TYPICAL_SKIN)
    seeds = [_other_seeds(view, anatomy, skin[view.bins] - typical) for view in views]
    hair, neck, torso = (_gather(views, [seed[k] for seed in seeds]) for k in (HAIR, NECK, TORSO))
    counts[HAIR].add(hair)
    counts[NECK].add(neck)
    for view, seed, face in zip(views, seeds, faces, strict=True):
        for k, lit in ((HAIR, seed[HAIR]), (NECK, face & (skin[view.bins] > typical))):
            for light in SHADES:
                shaded = (view.image[lit][None] * light).astype(np.uint8)
                counts[k].add(colour_bins(shaded), SHADED)
    likely = counts[HAIR].log_likelihood()
    as_torso = np.ones(len(torso))
    if len(hair):
        as_torso[likely[torso] > np.percentile(likely[hair], TYPICAL_HAIR)] = HAIR_AS_TORSO
    counts[TORSO].add(torso, as_torso)
    counts[TORSO].add_anything((1 - as_torso).sum())
    return _likelihoods(counts)


def _gather(views: list[_View], masks: list[np.ndarray]) -> np.ndarray:
    """Colour cells of the pixels in one mask a view, int32 [K]."""
    return np.concatenate([view.bins[mask] for view, mask in zip(views, masks, strict=True)])


def _likelihoods(counts: list[ColourCounts]) -> np.ndarray:
    """Of each colour cell in each class, to the power of COLOUR_WEIGHT, float32 [32^3, 4]."""
    return np.exp(np.float32(COLOUR_WEIGHT) * np.stack([c.log_likelihood() for c in counts], -1))


# --- the parser ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Parser:
    """Labels the frames of the clip that it was fitted to. Plain arrays: may be pickled and sent to workers."""

    size: int
    focal: float  # px
    plate: Plate | None
    colours: np.ndarray  # float32 [32^3, 4], `_likelihoods`
    prior: np.ndarray  # float32 [CELLS, CELLS, 4] on the head's map with the median jaw
    jaw: JawLine
    neck: Neck | None

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
        alpha = refine_person(frame, person, self.plate)
        plane = HeadPlane.from_pose(rotation, translation_cm, self.focal, self.size)
        view = _view(frame, alpha, landmarks, plane)
        labels = enlarged_labels(*_posterior(view, self.jaw, self.prior, self.colours), alpha)
        labels = remove_specks(cv2.medianBlur(labels, 5))
        labels[inside_mouth(frame, landmarks)] = Label.MOUTH
        return labels


def fit_parser(clip: ClipView) -> Parser:
    """Learn the colours and the map of one clip. Reads about 24 frames, in rising order; deterministic."""
    if clip.count < 1:
        raise DataError("segmentation: the clip has no frames; check that the video decodes")
    picks = np.unique(np.linspace(0, clip.count - 1, FIT_FRAMES).round().astype(int)).tolist()
    read = ((i, clip.frame(i), clip.person(i)) for i in picks)
    with ThreadPoolExecutor(usable_cores()) as threads:
        views = list(threads.map(lambda given: _view_of(clip, *given), read))
        anatomy = _Anatomy(
            JawLine.median([view.jaw for view in views]),
            float(np.median([view.plane.unproject(view.landmarks[FOREHEAD_TOP])[1] for view in views])),
        )
        colours = _seed_colours(views, anatomy)
        geometry = prior = geometric_prior(anatomy.jaw, anatomy.forehead)

        def posteriors() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            return threads.map(partial(_posterior, jaw=anatomy.jaw, prior=prior, colours=colours), views)

        for _ in range(ROUNDS):
            prior, colours = _maximise(views, posteriors(), anatomy.jaw, geometry, prior)
        shown = [likeliest == NECK for _, likeliest in posteriors()]
    necks = [neck & (view.alpha > 0.5) for neck, view in zip(shown, views, strict=True)]
    neck = fit_neck([view.image for view in views], necks, [view.plane for view in views])
    return Parser(clip.size, clip.focal, clip.plate, colours, prior, anatomy.jaw, neck)


def _view_of(clip: ClipView, i: int, frame: np.ndarray, person: np.ndarray) -> _View:
    plane = HeadPlane.from_pose(clip.rotation[i], clip.translation_cm[i], clip.focal, clip.size)
    return _view(frame, refine_person(frame, person, clip.plate), clip.landmarks[i], plane)


def _posterior(view: _View, jaw: JawLine, prior: np.ndarray, colours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probability of each class, float32 [h, w, 4], and the likeliest one, int8 [h, w]: `class_shares`, tidied."""
    here = JawShift(jaw, view.jaw).to_frame(np.log(prior + np.float32(1e-3)))  # logarithms: cells blend as odds do
    place = cv2.exp(view.plane.to_image(here, view.size))
    evidence = np.exp(np.array([0.0, LIKELY_FACE, SURE_FACE], np.float32))
    near = view.alpha > NEAR_PERSON
    shares, likeliest = class_shares(view.bins, colours, place, _face_depth(view), evidence, view.guide, near)
    return tidy(shares, likeliest, view.alpha > 0.5, view.landmarks[NOSE_BRIDGE])


def _face_depth(view: _View) -> np.ndarray:
    """Below the brows: 1 where the face mesh is, 2 well inside it; 0 elsewhere; uint8 [h, w]."""
    face = polygon_mask(view.landmarks[list(FACE_OVAL_LOOP)], view.size).view(np.uint8)
    inner = cv2.erode(face, box(scaled_px(8, view.size)))
    return (face + inner) * _below_brows(view)


def _maximise(
    views: list[_View],
    posteriors: Iterable[tuple[np.ndarray, np.ndarray]],
    jaw: JawLine,
    geometry: np.ndarray,
    prior: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """One round: posteriors of all views -> new prior and colour models."""
    counts = [ColourCounts() for _ in CLASSES]
    total = np.zeros_like(prior)
    for view, (posterior, _) in zip(views, posteriors, strict=True):
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
    return mixed / mixed.sum(-1, keepdims=True), _likelihoods(counts)
