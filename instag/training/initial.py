"""First Gaussians: the published random cubes, or points lifted from the training frames on to the face mesh."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from instag.config import StageConfig
from instag.data.dataset import SubjectDataset
from instag.data.frame import FrameBatch
from instag.data.layout import Label
from instag.errors import DataError
from instag.fields.structure import GaussianField, random_head_points, random_mouth_points

LIFTED_FRAMES = 16  # frames that points are taken from, spread over the training part
RECESSION = 1.0  # off the mesh the head falls away from the viewer: depth per distance in the picture
DEEPEST = 0.08  # head units behind the mesh's border; ears and hair are about there
MOUTH_DEPTH = (0.004, 0.02)  # head units behind the lips: teeth and tongue
LIFTED_OPACITY = 0.5
LEAST_POINTS = 16


def initial_structure(
    branch: str,
    config: StageConfig,
    sh_degree: int,
    dataset: SubjectDataset,
    indices: np.ndarray,
    seed: int,
) -> GaussianField:
    """A structure field for the first step.

    Args:
        branch: "face" or "mouth".
        config: of the stage; `config.initial` chooses the way.
        sh_degree: that the parameters hold.
        dataset: the subject.
        indices: training frames.
        seed: of the random numbers.
    """
    if config.initial == "random":
        draw = random_head_points if branch == "face" else random_mouth_points
        points = draw(config.points, torch.Generator().manual_seed(seed))
        return GaussianField.from_points(*points, max_sh_degree=sh_degree)
    generator = np.random.default_rng([seed, len(branch)])
    means, colors = lifted_points(branch, config.points, dataset, indices, generator)
    return GaussianField.from_points(means, color=colors, opacity=LIFTED_OPACITY, max_sh_degree=sh_degree)


def lifted_points(
    branch: str, count: int, dataset: SubjectDataset, indices: np.ndarray, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Pixels of a branch, put at the depth of the face mesh (its nearest point, and farther off it).

    Returns:
        means [N, 3] world, colors [N, 3] in [0, 1]; N = count where the frames show enough of the branch.

    Raises:
        DataError: the branch is hardly seen in any training frame.
    """
    chosen = indices[np.linspace(0, len(indices) - 1, min(LIFTED_FRAMES, len(indices))).astype(int)]
    if branch == "mouth":  # the frames that show most of it
        area = dataset.statistics_of(indices).mouth_pixels
        chosen = indices[np.argsort(-area, kind="stable")[:LIFTED_FRAMES]]
    parts = [_lift(branch, dataset.batch([int(i)], prior=True), generator) for i in chosen]
    means, colors = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    if len(means) < LEAST_POINTS:
        raise DataError(
            f"subject {dataset.id}: the {branch} covers {len(means)} pixels in its training frames; look at the "
            "contact sheet, or choose a part of the clip in which it is seen"
        )
    order = generator.permutation(len(means))[:count]
    return torch.from_numpy(means[order]).float(), torch.from_numpy(colors[order]).float()


def _lift(branch: str, frame: FrameBatch, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points [P, 3] and colours [P, 3] of one frame, one per pixel of the branch."""
    assert frame.prior is not None
    camera = frame.condition.camera
    focal = float(camera.focal[0])
    mask = frame.mask(*((Label.HEAD, Label.HAIR) if branch == "face" else (Label.MOUTH,)))[0, 0].numpy()
    valid = frame.prior.valid[0, 0].numpy()
    rows, columns = mask.nonzero()
    if not valid.any() or not len(rows):
        return np.zeros((0, 3)), np.zeros((0, 3))
    distance, nearest = distance_transform_edt(~valid, return_indices=True)
    depth = frame.prior.depth[0, 0].numpy().astype(np.float64)[tuple(nearest)][rows, columns]
    if branch == "face":
        depth = depth + np.minimum(distance[rows, columns] * depth / focal * RECESSION, DEEPEST)
    else:
        depth = depth + generator.uniform(*MOUTH_DEPTH, len(rows))
    rays = np.stack([columns + 0.5 - camera.width / 2, rows + 0.5 - camera.height / 2], 1) / focal
    in_camera = np.concatenate([rays, np.ones((len(rows), 1))], 1) * depth[:, None]
    pose = camera.world_to_camera[0].numpy().astype(np.float64)
    world = (in_camera - pose[:3, 3]) @ pose[:3, :3]
    return world, frame.image[0].permute(1, 2, 0).numpy()[rows, columns]
