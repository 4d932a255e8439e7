"""First Gaussians from the training frames: where they lie and what colour they have."""

import numpy as np
import pytest
import torch

from instag.data.dataset import SubjectDataset
from instag.data.layout import Label
from instag.errors import DataError
from instag.training import initial
from instag.training.initial import COARSE, SPREAD, lifted_points, nearest_true
from instag.training.outline import OutlinePlane, Silhouette
from instag.training.stage import Subject

INDICES = np.arange(0, 60, 3)


@pytest.fixture(scope="module")
def dataset(made_subject):
    with SubjectDataset.open(made_subject) as opened:
        yield opened


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
@pytest.mark.parametrize(("branch", "labels"), [("face", (Label.HEAD, Label.HAIR)), ("mouth", (Label.MOUTH,))])
def test_lifted_points_fall_on_their_pixels(dataset, branch, labels, device):
    one = INDICES[4:5]  # projected back into their own frame; one in which the mouth is open
    subject = Subject(dataset, one, 0.1, dataset.to_device(device, one))
    means, colors = lifted_points(branch, 100_000, subject, np.random.default_rng(0))
    batch = dataset.batch(one)
    camera = batch.condition.camera
    there = means @ camera.world_to_camera[0, :3, :3].T + camera.world_to_camera[0, :3, 3]
    pixel = (there[:, :2] / there[:, 2:] * camera.focal + dataset.size / 2).floor().long()
    mask = batch.mask(*labels)[0, 0]
    assert len(means) == int(mask.sum()) and bool(mask[pixel[:, 1], pixel[:, 0]].all())
    assert torch.allclose(batch.image[0][:, pixel[:, 1], pixel[:, 0]].T, colors, atol=1e-6)
    prior = dataset.prior(one)
    valid = prior.valid[0, 0][pixel[:, 1], pixel[:, 0]]
    behind = there[:, 2] - prior.depth[0, 0][pixel[:, 1], pixel[:, 0]]
    assert valid.any() and (behind[valid].abs() < (1e-4 if branch == "face" else 0.021)).all()
    if branch == "face":
        assert (there[~valid, 2] > prior.depth[prior.valid].min() - SPREAD).all()


def test_off_the_mesh_the_head_rounds_off_to_its_outline(dataset, monkeypatch):
    plane = OutlinePlane(-0.03, 0.2)
    monkeypatch.setattr(initial, "outline_plane", lambda *_: plane)
    monkeypatch.setattr(initial, "SPREAD", 0.0)
    one = INDICES[4:5]
    means, _ = lifted_points("face", 100_000, Subject(dataset, one, 0.1), np.random.default_rng(0))
    batch, prior = dataset.batch(one), dataset.prior(one)
    camera, valid = batch.condition.camera, prior.valid[0, 0]
    rows, columns = np.nonzero(batch.mask(Label.HEAD, Label.HAIR)[0, 0].numpy())  # in the order of the points
    depth = (means @ camera.world_to_camera[0, :3, :3].T + camera.world_to_camera[0, :3, 3])[:, 2].numpy()
    head = Silhouette(batch.mask(Label.HEAD, Label.HAIR, Label.MOUTH)[0, 0].numpy(), camera)
    on_plane = plane.along(*head.rays(rows, columns))
    surface = COARSE * nearest_true(valid.numpy()[::COARSE, ::COARSE])[:, rows // COARSE, columns // COARSE]
    near = prior.depth[0, 0].numpy()[tuple(surface)]
    share = ((depth - near) / (on_plane - near))[~valid[rows, columns].numpy()]  # 0: as the mesh; 1: on the plane
    away, left = np.hypot(*(surface - [rows, columns])), head.distance[rows, columns]
    expected = (1 - np.sqrt(1 - (away / (away + left)) ** 2))[~valid[rows, columns].numpy()]
    assert np.allclose(share, expected, atol=1e-4) and share.max() > 0.5 and share.min() < 0.05


def test_off_the_mesh_the_depth_is_spread_a_little(dataset):
    one = INDICES[4:5]
    subject, camera, prior = Subject(dataset, one, 0.1), dataset.batch(one).condition.camera, dataset.prior(one)
    depths = []
    for seed in (0, 1):
        means, _ = lifted_points("face", 100_000, subject, np.random.default_rng(seed))
        depths.append((means @ camera.world_to_camera[0, :3, :3].T + camera.world_to_camera[0, :3, 3])[:, 2])
    moved = (depths[0] - depths[1]).abs()
    valid = prior.valid[0, 0][np.nonzero(dataset.batch(one).mask(Label.HEAD, Label.HAIR)[0, 0].numpy())]
    assert (moved[valid] < 1e-6).all() and 0.3 * SPREAD < moved[~valid].mean() < SPREAD and moved.max() <= 2 * SPREAD


def test_as_many_as_asked_and_without_resident_frames(dataset):
    means, colors = lifted_points("face", 500, Subject(dataset, INDICES, 0.1), np.random.default_rng(0))
    assert means.shape == colors.shape == (500, 3)


def test_a_branch_that_is_never_seen_is_an_error(dataset, monkeypatch):
    nothing = lambda self, *_: torch.zeros_like(self.labels, dtype=torch.bool)[:, None]  # noqa: E731
    monkeypatch.setattr(type(dataset.batch([0])), "mask", nothing)
    with pytest.raises(DataError, match="covers 0 pixels"):
        lifted_points("face", 500, Subject(dataset, INDICES, 0.1), np.random.default_rng(0))


def test_the_nearest_true_cell():
    mask = np.random.default_rng(0).random((40, 50)) < 0.02
    cells = np.argwhere(mask)
    found = nearest_true(mask)
    assert mask[tuple(found)].all() and (cells == found[:, mask].T).all()
    grid = np.indices(mask.shape)
    true = np.hypot(*(grid[..., None] - cells.T[:, None, None])).min(-1)
    assert (np.hypot(*(found - grid)) <= 1.1 * true + 1e-9).all()  # OpenCV's distances are nearly Euclidean
