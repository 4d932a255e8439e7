"""First Gaussians: the published random cubes, or points lifted from the training frames on to the face mesh."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from instag.camera import Camera
from instag.config import StageConfig
from instag.data.layout import Label
from instag.data.pictures import opencv
from instag.errors import DataError
from instag.fields.structure import GaussianField, point_spacing, random_head_points, random_mouth_points
from instag.training.stage import Subject

LIFTED_FRAMES = 16  # frames that points are taken from, spread over the training part
RECESSION = 4.0  # off the mesh the head falls away from the viewer: at most this depth per distance in the picture
DEEPEST = 0.16  # head units behind the mesh's border at most; ears and hair are about half of it behind
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
    """Pixels of a branch at the depth of the face mesh; off it spread from its nearest point's depth to far behind.

    Ears and hair have no mesh, and frames of one pose do not tell their depth: spread, the right one is among them,
    and the optimisation keeps it (docs/experiments.md).

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
    frames = [_Surface.of(branch, subject, int(i)) for i in chosen]
    ends = np.cumsum([len(frame.pixels) for frame in frames])
    if ends[-1] < LEAST_POINTS:
        raise DataError(
            f"subject {subject.dataset.id}: the {branch} covers {ends[-1]} pixels in its training frames; look at the "
            "contact sheet, or choose a part of the clip in which it is seen"
        )
    drawn = np.sort(generator.permutation(ends[-1])[:count])
    starts = np.searchsorted(drawn, [0, *ends])
    parts = [
        frame.lift(branch, drawn[low:high] - end + len(frame.pixels), generator)
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
        camera: of the frame alone.
    """

    pixels: np.ndarray
    image: np.ndarray
    depth: np.ndarray
    valid: np.ndarray
    camera: Camera

    @staticmethod
    def of(branch: str, subject: Subject, number: int) -> _Surface:
        device = "cpu" if subject.resident is None else subject.resident.device
        subject.prepare([number], prior=False)
        frame, prior = subject.batch(torch.tensor([number], device=device), prior=False), subject.geometry([number])
        mask = frame.mask(*((Label.HEAD, Label.HAIR) if branch == "face" else (Label.MOUTH,)))[0, 0].cpu().numpy()
        valid = prior.valid[0, 0].cpu().numpy()
        image = frame.pictures.image[frame.pictures.row[0]].cpu().numpy()
        pixels = np.argwhere(mask & valid[::COARSE, ::COARSE].any())
        return _Surface(pixels, image, prior.depth[0, 0].cpu().numpy(), valid, frame.condition.camera.to("cpu"))

    def lift(self, branch: str, which: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """World points [P', 3] and colours [P', 3] in [0, 1] of pixels `which` [P'] of the P."""
        camera, (rows, columns) = self.camera, self.pixels[which].T
        if not len(which):
            return np.zeros((0, 3)), np.zeros((0, 3))
        focal = float(camera.focal[0])
        nearest = COARSE * nearest_true(self.valid[::COARSE, ::COARSE])  # off the mesh its nearest point counts
        near = np.where(self.valid[rows, columns], [rows, columns], nearest[:, rows // COARSE, columns // COARSE])
        depth = self.depth[tuple(near)].astype(np.float64)
        if branch == "face":
            distance = np.hypot(*(near - [rows, columns]))  # px
            depth = depth + np.minimum(distance * depth / focal * RECESSION, DEEPEST) * generator.random(len(rows))
        else:
            depth = depth + generator.uniform(*MOUTH_DEPTH, len(rows))
        rays = np.stack([columns + 0.5 - camera.width / 2, rows + 0.5 - camera.height / 2], 1) / focal
        in_camera = np.concatenate([rays, np.ones((len(rows), 1))], 1) * depth[:, None]
        pose = camera.world_to_camera[0].numpy().astype(np.float64)
        return (in_camera - pose[:3, 3]) @ pose[:3, :3], self.image[rows, columns] / 255


def nearest_true(mask: np.ndarray) -> np.ndarray:
    """Row and column of about the nearest true cell for every cell of a mask [H, W] with one: int64 [2, H, W]."""
    cv2 = opencv()
    outside = (~mask).astype(np.uint8)
    _, names = cv2.distanceTransformWithLabels(outside, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    cells = np.zeros((names.max() + 1, 2), np.int64)
    cells[names[mask]] = np.argwhere(mask)
    return cells[names].transpose(2, 0, 1)
