"""Geometry priors of many frames from the face mesh on the GPU: twin of `instag.data_utils.priors.rasterize_mesh`."""

from __future__ import annotations

import torch
from gaussian_rasterization.cuda import loader
from torch import Tensor

from instag.kernels import modules

FILE = "mesh_prior.cu"
WARPS = 4  # of a block; one triangle each
THREADS = 32 * WARPS


@torch.no_grad()
def mesh_priors_cuda(
    vertices: Tensor,  # [T, V, 3] camera space, OpenCV axes
    triangles: Tensor,  # int64 [M, 3]
    focal: float,
    size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Depth float32 [T, H, W], normals int8 [T, H, W, 3] in 127ths (OpenGL camera axes), valid bool [T, H, W]."""
    vertices, corners = vertices.contiguous(), triangles.int().contiguous()
    frames, count, _ = vertices.shape
    normals = (vertex_normals(vertices, triangles) * vertices.new_tensor([1.0, -1.0, -1.0])).contiguous()
    device, shape = vertices.device, (frames, size, size)
    nearest = torch.full(shape, -1, dtype=torch.int64, device=device)  # as unsigned: farther than anything
    depth = torch.empty(shape, device=device)
    normal = torch.empty(*shape, 3, dtype=torch.int8, device=device)
    valid = torch.empty(shape, dtype=torch.bool, device=device)
    module = modules.module(device, FILE).prepare("mesh_cover", "mesh_resolve")
    module.launch(
        "mesh_cover", (loader.sizes_in_blocks(len(corners), WARPS), frames), THREADS,
        len(corners), count, size, float(focal), vertices, corners, nearest,
    )  # fmt: skip
    module.launch(
        "mesh_resolve", (loader.sizes_in_blocks(size * size, THREADS), frames), THREADS,
        count, size, float(focal), vertices, normals, corners, nearest, depth, normal, valid,
    )  # fmt: skip
    return depth, normal, valid


def vertex_normals(vertices: Tensor, triangles: Tensor) -> Tensor:
    """Unit normals [T, V, 3] that point out of the surface, in the axes of the vertices [T, V, 3]; triangles [M, 3]."""
    corners = vertices[:, triangles]  # [T, M, 3, 3]
    of_face = torch.linalg.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0])
    normals = torch.zeros_like(vertices)
    for corner in range(3):
        normals.index_add_(1, triangles[:, corner], of_face)  # area-weighted
    return torch.nn.functional.normalize(normals, dim=-1)
