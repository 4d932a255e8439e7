"""The mesh's kernels, emulated and on a GPU, against the numpy rasteriser; the compact store they fill."""

from __future__ import annotations

import numpy as np
import torch

from instag.data.resident import CompactPriors
from instag.data_utils.priors import rasterize_mesh

SIZE, FOCAL = 61, 120.0


def sphere(columns: int = 12, rows: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and triangles of a half sphere that bulges towards the camera."""
    angle, height = np.meshgrid(np.linspace(0.1, np.pi - 0.1, columns), np.linspace(-0.9, 0.9, rows))
    ring = np.sqrt(1 - height**2)
    vertices = np.stack([-ring * np.cos(angle), height, -ring * np.sin(angle)], -1).reshape(-1, 3)
    quads = np.arange(rows * columns).reshape(rows, columns)[:-1, :-1].ravel()
    triangles = np.concatenate(
        [
            np.stack([quads, quads + columns, quads + 1], 1),
            np.stack([quads + 1, quads + columns, quads + columns + 1], 1),
        ]
    )
    return vertices, triangles


def test_against_the_host(device) -> None:
    from instag.kernels.mesh_prior import mesh_priors_cuda

    vertices, triangles = sphere()
    meshes = np.stack([0.1 * vertices + [0.02 * k, -0.01, 0.5 + 0.1 * k] for k in range(3)]).astype(np.float32)
    given = (torch.from_numpy(array).to(device) for array in (meshes, triangles))
    depth, normal, valid = (each.cpu() for each in mesh_priors_cuda(*given, FOCAL, SIZE))
    store = CompactPriors(torch.zeros(3, SIZE, SIZE, dtype=torch.uint8))
    store.put_drawn(slice(0, 3), depth, normal, valid)
    kept = store.rows(torch.arange(3))
    for k, mesh in enumerate(meshes):
        right_depth, right_normal, right_valid = rasterize_mesh(mesh, triangles, FOCAL, SIZE)
        both = valid[k].numpy() & right_valid
        assert both.sum() > 300 and (valid[k].numpy() ^ right_valid).sum() <= 2
        np.testing.assert_allclose(depth[k].numpy()[both], right_depth[both], rtol=1e-4)
        assert np.abs(normal[k].numpy()[both] / 127 - right_normal[both]).max() < 0.02
        np.testing.assert_allclose(kept.depth[k, 0].numpy()[both], right_depth[both], rtol=1e-4)
    assert torch.equal(kept.valid[:, 0], valid)


def test_a_frame_without_a_mesh_in_view(device) -> None:
    from instag.kernels.mesh_prior import mesh_priors_cuda

    vertices, triangles = sphere()
    mesh = torch.from_numpy((0.1 * vertices + [9.0, 0, 0.5]).astype(np.float32))[None]
    drawn = mesh_priors_cuda(mesh.to(device), torch.from_numpy(triangles).to(device), FOCAL, SIZE)
    depth, normal, valid = (each.cpu() for each in drawn)
    store = CompactPriors(torch.zeros(1, SIZE, SIZE, dtype=torch.uint8))
    store.put_drawn(slice(0, 1), depth, normal, valid)
    assert not valid.any() and torch.isfinite(store.rows(torch.zeros(1, dtype=torch.int64)).depth).all()
