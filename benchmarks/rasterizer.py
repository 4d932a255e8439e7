"""The rasterizer on a GPU: forward, and forward + backward of all channels; gsplat beside it where it is installed.

python3 benchmarks/rasterizer.py [--out FILE]      # no data needed
"""

from __future__ import annotations

import math
from dataclasses import replace
from importlib.util import find_spec

import timing
import torch
from gaussian_rasterization import RasterSettings
from gaussian_rasterization.cuda import check_overflow, rasterize_cuda, rasterizer
from raster_scenes import IMAGES, Scene
from timing import kernel_times, timed
from torch import Tensor

DEVICE = torch.device("cuda", 0)


def bench_scene(gaussians: int, settings: RasterSettings, extra: int, views: int = 1) -> Scene:
    """The prototype benchmark's shape: front and sides of a shell that fills 32 % of the image, log-normal scales."""
    generator = torch.Generator().manual_seed(0)
    pool = torch.nn.functional.normalize(torch.randn(4 * gaussians, 3, generator=generator, dtype=torch.float64), dim=1)
    directions = pool[pool[:, 2] < 0.35][:gaussians]
    radii = torch.tensor([0.75, 1.0, 0.85], dtype=torch.float64)
    noise = torch.randn(gaussians, 7, generator=generator, dtype=torch.float64)
    means = directions * radii * (1 + 0.03 * noise[:, :1])
    spacing = math.sqrt(4 * math.pi * 0.87**2 * 0.675 / gaussians)
    scales = spacing * 0.75 * torch.exp(0.5 * noise[:, 1:4])
    scales[:, 2] *= 0.25
    normals = torch.nn.functional.normalize(directions / radii, dim=1)
    to_normal = torch.cat([1 + normals[:, 2:], -normals[:, 1:2], normals[:, :1], 0 * normals[:, :1]], 1)
    to_normal = to_normal / to_normal.norm(dim=1, keepdim=True).clamp_min(1e-9)
    spin = math.pi * torch.rand(gaussians, generator=generator, dtype=torch.float64)
    w, x, y, _ = to_normal.unbind(1)
    cos, sin = spin.cos(), spin.sin()
    quaternions = torch.stack([w * cos, x * cos + y * sin, y * cos - x * sin, w * sin], 1)
    pose = torch.eye(4, dtype=torch.float64)
    pose[0, 0] = pose[2, 2] = math.cos(0.15)
    pose[0, 2], pose[2, 0] = math.sin(0.15), -math.sin(0.15)
    pose[:3, 3] = torch.tensor([0.0, 0.05, 3.4])
    sh = torch.cat(
        [0.6 * noise[:, 4:, None].transpose(1, 2), 0.08 * torch.randn(gaussians, 15, 3, generator=generator)], 1
    )

    def per_view(tensor: Tensor) -> Tensor:
        return tensor[None].repeat(views, *[1] * tensor.ndim)

    return Scene(
        per_view(means),
        per_view(scales),
        per_view(quaternions),
        per_view(torch.sigmoid(0.7 + 2 * torch.randn(gaussians, generator=generator, dtype=torch.float64))),
        sh,
        per_view(pose),
        torch.full((views,), 1.15 * settings.width, dtype=torch.float64),
        torch.zeros(views, 3),
        per_view(torch.rand(gaussians, extra, generator=generator)),
        torch.zeros(views, gaussians, 2),
    ).to(DEVICE, torch.float32)


BENCH = {  # Gaussians, size, SH degree, views, extra channels; "8 channels" = rgb, depth, normal, one extra (+ alpha)
    "10k at 512": (10000, 512, 3, 1, 1),
    "30k at 512": (30000, 512, 3, 1, 1),
    "60k at 512": (60000, 512, 3, 1, 1),
    "30k at 1024": (30000, 1024, 3, 1, 1),
    "60k at 1024": (60000, 1024, 3, 1, 1),
    "15k at 512, SH 1, 2 extras": (15000, 512, 1, 1, 2),
    "15k at 512, SH 1, 2 extras, 4 views": (15000, 512, 1, 4, 2),
}


def raster_time() -> dict:
    """Forward, and forward + backward with a random cotangent for every channel."""
    result = {}
    for name, (gaussians, size, degree, views, extra) in BENCH.items():
        settings = RasterSettings(size, size, degree)
        scene = bench_scene(gaussians, settings, extra, views)
        scene = replace(scene, sh=scene.sh[:, : (degree + 1) ** 2].contiguous())
        constants = {key: getattr(scene, key) for key in ("world_to_camera", "focal", "background")}
        leaves = scene.leaves()
        with torch.no_grad():
            output = rasterize_cuda(settings=settings, **constants, **leaves)
        cotangents = [torch.randn_like(getattr(output, key)) for key in IMAGES]

        def forward(settings=settings, constants=constants, leaves=leaves) -> None:
            with torch.no_grad():
                rasterize_cuda(settings=settings, **constants, **leaves)

        def both(settings=settings, constants=constants, leaves=leaves, cotangents=cotangents) -> None:
            drawn = rasterize_cuda(settings=settings, **constants, **leaves)
            torch.autograd.grad([getattr(drawn, key) for key in IMAGES], list(leaves.values()), cotangents)

        result[name] = {"forward": timed(forward), "forward_backward": timed(both), "kernels_us": kernel_times(both)}
        result[name] |= list_statistics(scene, settings, leaves)
        check_overflow()
    return result


def list_statistics(scene: Scene, settings: RasterSettings, leaves: dict[str, Tensor]) -> dict:
    """How much there was to do: (Gaussian, tile) pairs and the fullest tile."""
    call = rasterizer.Call(
        settings, *scene.means.shape[:2], scene.extra.shape[2], scene.sh.shape[1], False, scene.means.device
    )
    parameters = tuple(leaves[key].detach() for key in ("means", "scales", "quaternions", "opacities", "sh", "extra"))
    records = call.empty(call.views, call.gaussians, call.record_floats)
    camera = (scene.world_to_camera, scene.focal, None)
    _, lists = rasterizer._project_and_sort(call, (*parameters, None), camera, records, None)
    return {"pairs": int(lists.counts.sum()), "fullest_tile": int(lists.counts.max())}


def gsplat() -> dict:
    """gsplat on the same scenes, one view: colours, depth, normal and extra in one call of 8 channels.

    Normals are given to it, not made by it. It reads sizes back to the host, so that no graph can be captured.
    """
    if find_spec("gsplat") is None:
        return {"gsplat": "not installed (pip install gsplat; it compiles with nvcc)"}
    from gsplat import rasterization, spherical_harmonics

    result = {}
    for name, (gaussians, size, degree, views, extra) in BENCH.items():
        if views > 1 or extra > 1:
            continue
        settings = RasterSettings(size, size, degree)
        scene = bench_scene(gaussians, settings, extra)
        sh = scene.sh[:, : (degree + 1) ** 2].contiguous()
        scene = replace(scene, sh=sh)
        focal, pose = float(scene.focal[0]), scene.world_to_camera[0]
        camera = -pose[:3, :3].T @ pose[:3, 3]
        intrinsics = torch.tensor([[[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]]], device=DEVICE)
        keys = ("means", "quaternions", "scales", "opacities")
        leaves = [getattr(scene, key)[0].clone().requires_grad_() for key in keys]
        sh = sh.clone().requires_grad_()
        attributes = torch.rand(gaussians, 4, device=DEVICE, requires_grad=True)  # normal and extra
        common = {"viewmats": pose[None], "Ks": intrinsics, "width": size, "height": size, "packed": False}

        def draw(
            leaves=leaves, sh=sh, attributes=attributes, degree=degree, camera=camera, common=common
        ) -> tuple[Tensor, Tensor]:
            color = (spherical_harmonics(degree, leaves[0] - camera, sh) + 0.5).clamp_min(0)
            channels = torch.cat([color, attributes], 1)
            image, alpha, _ = rasterization(*leaves, channels, render_mode="RGB+D", **common)
            return image, alpha

        def forward(draw=draw) -> None:
            with torch.no_grad():
                draw()

        drawn = draw()
        cotangents = [torch.randn_like(image) for image in drawn]

        def both(draw=draw, inputs=(*leaves, sh, attributes), cotangents=cotangents) -> None:
            torch.autograd.grad(draw(), inputs, cotangents)

        result[name] = {"forward": {"eager": timing.interval_ms(forward, 5, 10)}}
        result[name]["forward_backward"] = {"eager": timing.interval_ms(both, 5, 10)}
        result[name]["kernels_us"] = kernel_times(both)
        constants = {key: getattr(scene, key) for key in ("world_to_camera", "focal", "background")}
        with torch.no_grad():
            ours = rasterize_cuda(settings=settings, **constants, **scene.leaves()).color[0]
            apart = (ours - drawn[0][0, ..., :3].permute(2, 0, 1)).abs()
        result[name]["colours_apart"] = {"mean": float(apart.mean()), "worst": float(apart.max())}
        check_overflow()
    return result


if __name__ == "__main__":
    timing.run_parts(__doc__, {"raster_time": raster_time, "gsplat": gsplat})
