"""First Gaussians: the published random cubes, or points lifted from the training frames on to the face mesh."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from instag.config import StageConfig
from instag.data.layout import Label
from instag.data.pictures import opencv
from instag.errors import DataError
from instag.fields.structure import GaussianField, point_spacing, random_head_points, random_mouth_points
from instag.training.outline import OutlinePlane, Silhouette, outline_plane
from instag.training.stage import Subject

LIFTED_FRAMES = 16  # frames that points are taken from, spread over the training part
SPREAD = 0.02  # head units, of the depth off the mesh
MOUTH_DEPTH = (0.004, 0.02)  # head units behind the lips: teeth and tongue
LIFTED_OPACITY = 0.5
LEAST_POINTS = 16
COARSE = 4  # px, the grid on which the nearest point of the mesh is looked for


def initial_structure(branch: str, config: StageConfig, sh_degree: int, subject: Subject, seed: int) -> GaussianField:
    """A structure field for the first step, on the host.

    Args:
        branch: "face" or "mouth".
        config: of the stage; `config.initial` chooses the way.
        sh_degree: that the parameters hold.
        subject: its training frames.
        seed: of the random numbers.
    """
    device = None if subject.resident is None else subject.resident.device
    if config.initial == "random":
        draw = random_head_points if branch == "face" else random_mouth_points
        points = draw(config.points, torch.Generator().manual_seed(seed), device)
        return GaussianField.from_points(*points, max_sh_degree=sh_degree)
    means, colors = lifted_points(branch, config.points, subject, np.random.default_rng([seed, len(branch)]))
    spacing = point_spacing(means, device)
    return GaussianField.from_points(means, spacing, colors, LIFTED_OPACITY, max_sh_degree=sh_degree)


def lifted_points(branch: str, count: int, subject: Subject, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Pixels of a branch at the depth of the face mesh; off it round from its nearest point to the head's outline.

    Ears and hair have no mesh. How deep the outline lies is seen from how it moves (`instag.training.outline`);
    between the mesh and it the head is taken for a sphere's quarter.

    Returns:
        means [N, 3] world, colors [N, 3] in [0, 1]; N = count where the frames show enough of the branch.

    Raises:
        DataError: the branch is hardly seen in any training frame.
    """
    indices = subject.indices
    chosen = indices[np.linspace(0, len(indices) - 1, min(LIFTED_FRAMES, len(indices))).astype(int)]
    if branch == "mouth":  # the frames that show most of it
        area = subject.dataset.statistics_of(indices).mouth_pixels
        chosen = indices[np.argsort(-area, kind="stable")[:LIFTED_FRAMES]]
    frames = _surfaces(branch, subject, chosen.tolist())
    outline = None
    if branch == "face":
        outline = outline_plane([f.silhouette for f in frames], [f.valid for f in frames], generator)
    ends = np.cumsum([len(frame.pixels) for frame in frames])
    if ends[-1] < LEAST_POINTS:
        raise DataError(
            f"subject {subject.dataset.id}: the {branch} covers {ends[-1]} pixels in its training frames; look at the "
            "contact sheet, or choose a part of the clip in which it is seen"
        )
    drawn = np.sort(generator.permutation(ends[-1])[:count])
    starts = np.searchsorted(drawn, [0, *ends])
    parts = [
        frame.lift(outline, drawn[low:high] - end + len(frame.pixels), generator)
        for frame, end, low, high in zip(frames, ends, starts[:-1], starts[1:], strict=True)
    ]
    means, colors = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return torch.from_numpy(means).float(), torch.from_numpy(colors).float()


@dataclass(frozen=True)
class _Surface:
    """A frame's pixels of one branch and the face mesh beside them, on the host.

    Attributes:
        pixels: int64 [P, 2] row, column; none where the mesh is not seen.
        image: uint8 [H, W, 3].
        depth: float32 [H, W], where `valid` [H, W] head units.
        silhouette: of the head, with the frame's camera.
    """

    pixels: np.ndarray
    image: np.ndarray
    depth: np.ndarray
    valid: np.ndarray
    silhouette: Silhouette

    def lift(
        self, outline: OutlinePlane | None, which: np.ndarray, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """World points [P', 3] and colours [P', 3] in [0, 1] of pixels `which` [P'] of the P."""
        rows, columns = self.pixels[which].T
        if not len(which):
            return np.zeros((0, 3)), np.zeros((0, 3))
        center, directions = self.silhouette.rays(rows, columns)
        nearest = COARSE * nearest_true(self.valid[::COARSE, ::COARSE])  # off the mesh its nearest point counts
        on_mesh = self.valid[rows, columns]
        near = np.where(on_mesh, [rows, columns], nearest[:, rows // COARSE, columns // COARSE])
        depth = self.depth[tuple(near)].astype(np.float64)
        if outline is not None:
            away = np.hypot(*(near - [rows, columns]))  # px
            share = away / (away + self.silhouette.distance[rows, columns])  # 0 at the mesh, 1 at the outline
            behind = (outline.along(center, directions) - depth) * (1 - np.sqrt(1 - np.minimum(share, 1) ** 2))
            depth += np.where(on_mesh, 0, behind + SPREAD * generator.uniform(-1, 1, len(rows)))
        else:
            depth += generator.uniform(*MOUTH_DEPTH, len(rows))
        return center + directions * depth[:, None], self.image[rows, columns] / 255


def _surfaces(branch: str, subject: Subject, numbers: list[int]) -> list[_Surface]:
    """These frames' surfaces, brought to the host together."""
    device = "cpu" if subject.resident is None else subject.resident.device
    subject.prepare(numbers, prior=False)
    frames, prior = subject.batch(torch.tensor(numbers, device=device), prior=False), subject.geometry(numbers)
    labels = (Label.HEAD, Label.HAIR) if branch == "face" else (Label.MOUTH,)
    maps = frames.mask(*labels), frames.mask(Label.HEAD, Label.HAIR, Label.MOUTH), prior.valid, prior.depth
    images = frames.pictures.image[frames.pictures.row].cpu().numpy()
    camera = frames.condition.camera.to("cpu")
    surfaces = []
    for i, (mask, head, valid, depth) in enumerate(zip(*(each[:, 0].cpu().numpy() for each in maps), strict=True)):
        one = replace(camera, world_to_camera=camera.world_to_camera[i : i + 1], focal=camera.focal[i : i + 1])
        pixels = np.argwhere(mask & valid[::COARSE, ::COARSE].any())
        surfaces.append(_Surface(pixels, images[i], depth, valid, Silhouette(head, one)))
    return surfaces


def nearest_true(mask: np.ndarray) -> np.ndarray:
    """Row and column of about the nearest true cell for every cell of a mask [H, W] with one: int64 [2, H, W]."""
    cv2 = opencv()
    outside = (~mask).astype(np.uint8)
    _, names = cv2.distanceTransformWithLabels(outside, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    cells = np.zeros((names.max() + 1, 2), np.int64)
    cells[names[mask]] = np.argwhere(mask)
    return cells[names].transpose(2, 0, 1)
