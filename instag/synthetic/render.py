"""One frame of a performance as a picture with its exact ground truth."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.ndimage import gaussian_filter

from instag.errors import InstagError
from instag.synthetic import paint, raster
from instag.synthetic.animate import Rig, head_to_camera, move_head, to_camera
from instag.synthetic.articulation import Articulation
from instag.synthetic.identity import Hair, draw_identity
from instag.synthetic.landmarks import head_landmarks, landmark_vertices
from instag.synthetic.mesh import Mesh, build_mesh
from instag.synthetic.performance import Performance, perform
from instag.synthetic.style import draw_style

FOCAL = 2.25  # of the image side
DISTANCE = 75.0  # cm from the camera to the origin of the head at rest
HEAD_UNIT = 100.0  # cm
BACKDROP = 12.0  # cm behind the head: how far away empty pixels count for occlusion


class Speaker:
    """A procedural person: a look (identity seed) and a way of speaking (style seed).

    hair: "short", "long", or None for what the identity seed draws. glasses: whether they are worn.

    Raises:
        InstagError: unknown hair.
    """

    def __init__(self, identity_seed: int, style_seed: int, hair: Hair | None = None, glasses: bool = False):
        self.identity, self.style = draw_identity(identity_seed, hair, glasses), draw_style(style_seed)

    @cached_property
    def mesh(self) -> Mesh:
        """The person's mesh at rest."""
        return build_mesh(self.identity)

    @cached_property
    def rig(self) -> Rig:
        """The mesh made to move."""
        return Rig(self.mesh, self.identity, self.style.asymmetry)

    @cached_property
    def landmark_vertices(self) -> dict[str, int]:
        """Vertex of each landmark on the skin."""
        return landmark_vertices(self.mesh, self.identity)

    def perform(self, sentence_seed: int, seconds: float, fps: float = 25, language: int = 0) -> Performance:
        """Return sentences drawn by the seed from the lexicon, spoken for `seconds` in this speaker's style."""
        return perform(self.style, sentence_seed, seconds, fps, language)


@dataclass(frozen=True)
class RenderedFrame:
    """A picture of size S and the truth about it, at the pixel centres (j + .5, i + .5)."""

    image: np.ndarray  # [S, S, 3] uint8 RGB
    labels: np.ndarray  # [S, S] uint8, instag.data.layout.Label
    depth: np.ndarray  # [S, S] float32, z in head units; inf where nobody is
    normal: np.ndarray  # [S, S, 3] float32 unit, OpenCV camera axes (towards the camera: z < 0); 0 where invalid
    normal_valid: np.ndarray  # [S, S] bool: outer skin, ears, neck, torso; not hair, eyes, inside of the mouth
    person: np.ndarray  # [S, S] bool
    world_to_camera: np.ndarray  # [4, 4] of the head, OpenCV axes, head units
    focal: float  # px; principal point at the image centre
    landmarks: np.ndarray  # [K, 3] camera space, head units; order landmarks.NAMES
    landmarks_2d: np.ndarray  # [K, 2] px


def render_frame(
    speaker: Speaker, performance: Performance, t: int, size: int, supersampling: int = 1
) -> RenderedFrame:
    """Render frame t at size x size pixels, each the mean of supersampling^2 samples.

    Pure: the same arguments give the same bytes, in any order and from any thread.

    Raises:
        InstagError: t outside the performance, or a size or supersampling below 1.
    """
    if not 0 <= t < len(performance):
        raise InstagError(f"frame {t} of a performance of {len(performance)} frames: use 0 .. {len(performance) - 1}")
    if size < 1 or supersampling < 1:
        raise InstagError(f"size {size}, supersampling {supersampling}: both must be at least 1")
    pose, rotation, translation = performance.articulation.at(t), performance.rotation[t], performance.translation[t]
    look, focal = paint.look_of(speaker.identity, pose), FOCAL * size
    rest = speaker.rig.deform(pose)
    vertices = speaker.rig.place(rest, rotation, translation, DISTANCE).astype(np.float32)
    landmarks = _landmarks(speaker, rest, pose, rotation, translation)

    mesh = speaker.mesh
    normals = raster.vertex_normals(vertices, mesh.triangles)
    scene = (vertices, normals, mesh.triangles, mesh.material, mesh.attribute, focal)
    depth, labels, normal, valid = raster.geometry(*scene, size, look)
    image = raster.picture(
        *scene, _surroundings(depth), supersampling, TONE, _grain_seed(speaker, performance, t), look
    )
    person = labels > 0
    return RenderedFrame(
        image=image,
        labels=labels,
        depth=np.where(person, depth / np.float32(HEAD_UNIT), np.float32(np.inf)),
        normal=normal,
        normal_valid=valid,
        person=person,
        world_to_camera=world_to_camera(rotation, translation),
        focal=focal,
        landmarks=landmarks / HEAD_UNIT,
        landmarks_2d=focal * landmarks[:, :2] / landmarks[:, 2:] + size / 2,
    )


def background_plate(speaker: Speaker, size: int) -> np.ndarray:
    """Return the empty room, uint8 [size, size, 3] RGB, without grain."""
    return raster.backdrop_picture(size, TONE, paint.look_of(speaker.identity, Articulation()))


def world_to_camera(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """Return the pose [4, 4] in head units: OpenCV camera; the world is the head frame (x left, y up, z forward)."""
    pose = np.eye(4)
    pose[:3, :3], offset = head_to_camera(rotation, translation, DISTANCE)
    pose[:3, 3] = offset / HEAD_UNIT
    return pose


TONE = raster.tone_curve()


def _landmarks(
    speaker: Speaker, rest: np.ndarray, pose: Articulation, rotation: np.ndarray, translation: np.ndarray
) -> np.ndarray:
    """Return the landmarks [K, 3] in camera space, cm."""
    points = head_landmarks(speaker.rig, speaker.landmark_vertices, rest, pose)
    return to_camera(move_head(points, rotation, translation), DISTANCE)


def _grain_seed(speaker: Speaker, performance: Performance, t: int) -> int:
    seeds = (speaker.identity.seed, speaker.style.seed, performance.seed, t)
    return zlib.crc32(np.array(seeds, np.int64).tobytes()) & 0x7FFFFFFF


def _surroundings(depth: np.ndarray) -> np.ndarray:
    """Return the mean depth round each pixel within the two radii of occlusion, [2, S, S]; at half size for speed."""
    half = np.minimum(depth[::2, ::2], np.float32(DISTANCE + BACKDROP))
    pixels_per_cm = FOCAL * len(depth) / DISTANCE
    radii = (raster.NEAR_RADIUS, raster.WIDE_RADIUS)
    blurred = [gaussian_filter(half, radius * pixels_per_cm / 2, truncate=3) for radius in radii]
    return np.stack([_double(image, len(depth)) for image in blurred])


def _double(image: np.ndarray, size: int) -> np.ndarray:
    """Return samples taken at every second pixel, interpolated to all `size` pixels."""
    padded = np.pad(image, ((0, 1), (0, 1)), mode="edge")
    rows = np.empty((2 * len(image), padded.shape[1]), image.dtype)
    rows[::2], rows[1::2] = padded[:-1], (padded[:-1] + padded[1:]) / 2
    full = np.empty((len(rows), 2 * len(image)), image.dtype)
    full[:, ::2], full[:, 1::2] = rows[:, :-1], (rows[:, :-1] + rows[:, 1:]) / 2
    return full[:size, :size]
