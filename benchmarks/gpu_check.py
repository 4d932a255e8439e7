"""Everything that needs a GPU to be known about the kernels, in one run: prints one JSON, and nothing else on stdout.

    python3 benchmarks/gpu_check.py [--parts raster_truth,raster_time] [--out FILE]

Parts run one after the other; an error is that part's result ("error": last lines of its traceback) and hides no other.
Truth is the float64 torch twin on the same GPU. Times are medians of CUDA-event intervals over batches of calls, ms:
`graph` replays a captured CUDA graph, `eager` calls Python each time. Hardware and versions are part of the output.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "submodules/diff-gaussian-rasterization"), str(ROOT / "tests/kernels")]

import timing  # noqa: E402
import torch  # noqa: E402
from gaussian_rasterization import RasterSettings, rasterize  # noqa: E402
from gaussian_rasterization.cuda import check_overflow, loader, rasterize_cuda, rasterizer, tiles  # noqa: E402
from raster_scenes import IMAGES, Scene, cotangent_loss, make_scene, relative_error  # noqa: E402
from timing import capture, kernel_times, timed  # noqa: E402
from torch import Tensor  # noqa: E402

DEVICE = torch.device("cuda", 0)
CAPTURE_LISTS = 1500  # the capture test's fullest tile but one holds 1122 Gaussians, the last 8000
PARTS: dict[str, Callable[[], dict]] = {}


def part(function: Callable[[], dict]) -> Callable[[], dict]:
    PARTS[function.__name__] = function
    return function


# ---- environment and compilation -------------------------------------------------------------------------------------


@part
def environment() -> dict:
    """Hardware and versions."""
    return timing.environment() | {"nvrtc": loader.nvrtc_version()}


def all_sources() -> dict[str, loader.KernelSource]:
    from instag.fields.encoding import REFERENCE_FACE, grid_layout
    from instag.kernels import hash_grid, modules, motion_head

    face = motion_head.FACE[64]
    head = face.macros(*motion_head.warps_of(DEVICE, face, 1))
    return {
        "rasterizer": rasterizer.kernel_source(2, True, True),
        "hash_grid": modules.source("hash_grid.cu", *hash_grid.macros(grid_layout(*REFERENCE_FACE))),
        "l1_ssim": modules.source("l1_ssim.cu"),
        "adam": modules.source("adam.cu"),
        "motion_head": modules.source(motion_head.FILES, *head),
    }


KERNELS = {
    "rasterizer": ("project_forward", "sort_tiles", "blend_forward", "blend_backward", "project_backward"),
    "hash_grid": ("hash_grid_forward", "hash_grid_backward"),
    "l1_ssim": ("l1_ssim_forward", "l1_ssim_backward"),
    "adam": ("adam_step",),
    "motion_head": ("motion_head_forward", "motion_head_backward", "sum_rows"),
}


@part
def compilation() -> dict:
    """Seconds to compile cold and to load from the cache; registers and spills; the PTX path on this GPU."""
    target = loader.target_for(torch.cuda.get_device_capability(DEVICE))
    result: dict = {"target": vars(target)}
    kept = os.environ.get(loader.CACHE_VARIABLE)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[loader.CACHE_VARIABLE] = folder
        for name, source in all_sources().items():
            start = time.perf_counter()
            loader.cached_code(source, target)
            cold = time.perf_counter() - start
            start = time.perf_counter()
            module = loader.KernelModule(source, 0).prepare(*KERNELS[name])
            warm = time.perf_counter() - start
            kernels = {kernel: module.attributes(kernel) for kernel in KERNELS[name]}
            result[name] = {"cold_s": round(cold, 3), "warm_s": round(warm, 4), "kernels": kernels}
    os.environ.pop(loader.CACHE_VARIABLE)
    if kept is not None:
        os.environ[loader.CACHE_VARIABLE] = kept
    return result


@part
def ptx_path() -> dict:
    """A GPU newer than NVRTC gets PTX that the driver finishes: compile for sm_80 and run it here."""
    from cuda.core import LaunchConfig, ObjectCode, Stream, launch

    source = all_sources()["l1_ssim"]
    code = ObjectCode.from_ptx(loader.compile_code(source, loader.Target("compute_80", "ptx")))
    a, b = torch.rand(1, 64, 64, device=DEVICE), torch.rand(1, 64, 64, device=DEVICE)
    slopes, partial = torch.empty(3, 1, 64, 64, device=DEVICE), torch.empty(4, device=DEVICE)
    stream = Stream.from_handle(torch.cuda.current_stream().cuda_stream)
    arguments = (64, 64, 1 / a.numel(), 0.2 / a.numel(), a, b, slopes, partial)
    converted = [loader._kernel_argument(each) for each in arguments]
    launch(stream, LaunchConfig(grid=(2, 2, 1), block=256), code.get_kernel("l1_ssim_forward"), *converted)
    from instag.losses import photometric_torch

    truth = photometric_torch(a[None].double(), b[None].double())
    return {"relative_error": abs(float(partial.sum()) / float(truth) - 1)}


# ---- rasterizer ------------------------------------------------------------------------------------------------------


def draw(scene: Scene, settings: RasterSettings, backend: str, **options):
    leaves = scene.leaves()
    constants = {name: getattr(scene, name) for name in ("world_to_camera", "focal", "background")}
    if backend == "cuda":
        return rasterize_cuda(settings=settings, **constants, **leaves, **options), leaves
    return rasterize(settings=settings, backend=backend, **constants, **leaves), leaves


TRUTH_SCENES = {  # Gaussians, size, SH degree, views, extra channels
    "1500 at 72x72": (1500, 72, 72, 3, 1, 0),
    "4000 at 130x120, two views": (4000, 130, 120, 2, 2, 2),
    "12000 at 512x512": (12000, 512, 512, 2, 1, 1),
}


@part
def raster_truth() -> dict:
    """Images, radii and gradients against the float64 oracle: |g - g*| / |g*| per tensor."""
    result = {}
    for name, (gaussians, width, height, degree, views, extra) in TRUTH_SCENES.items():
        for extent in ("exact", "three_sigma"):
            settings = RasterSettings(width, height, degree, extent)
            scene = make_scene(gaussians, settings, views, extra).to(DEVICE)
            output, leaves = draw(scene, settings, "cuda")
            cotangent_loss(output).backward()
            truth, true_leaves = draw(scene.to(torch.float64), settings, "torch")
            cotangent_loss(truth).backward()
            images = {key: relative_error(getattr(output, key), getattr(truth, key)) for key in IMAGES}
            gradients = {key: relative_error(leaf.grad, true_leaves[key].grad) for key, leaf in leaves.items()}
            result[f"{name}, {extent}"] = {
                "images": images,
                "gradients": gradients,
                "worst_gradient": max(gradients.values()),
                "radii_different": int((output.radii != truth.radii).sum()),
                "alpha_mean": float(output.alpha.detach().mean()),
            }
            del output, truth, leaves, true_leaves
            torch.cuda.empty_cache()
    return result


@part
def raster_determinism() -> dict:
    """Images bit-equal over runs; how far gradients wander by the order of their atomics."""
    settings = RasterSettings(512, 512, 2)
    scene = make_scene(30000, settings, extra=2).to(DEVICE)
    images, gradients = [], []
    for _ in range(4):
        output, leaves = draw(scene, settings, "cuda")
        cotangent_loss(output).backward()
        images.append([getattr(output, name).detach() for name in IMAGES] + [output.radii])
        gradients.append({name: leaf.grad for name, leaf in leaves.items()})
    equal = all(torch.equal(a, b) for run in images[1:] for a, b in zip(images[0], run, strict=True))
    wander = {
        name: max(relative_error(run[name], grad) for run in gradients[1:]) for name, grad in gradients[0].items()
    }
    return {"images_equal": equal, "gradients_wander": wander}


@part
def raster_capture() -> dict:
    """A captured forward and backward follows changing means, an active count and an overflow."""
    settings = RasterSettings(256, 256, 1)
    tiles.reserve_tiles(torch.device(DEVICE), CAPTURE_LISTS)
    scene = make_scene(8000, settings, extra=1).to(DEVICE)
    active = torch.tensor([8000], dtype=torch.int32, device=DEVICE)
    static = scene.leaves()
    constants = {name: getattr(scene, name) for name in ("world_to_camera", "focal", "background")}
    cotangent = torch.randn(1, 3, 256, 256, device=DEVICE)
    held: dict = {}

    def step() -> None:
        output = rasterize_cuda(settings=settings, **constants, **static, active_count=active)
        held["color"] = output.color
        held["gradients"] = torch.autograd.grad((output.color * cotangent).sum(), list(static.values())[:5])

    graph = capture(step)
    result = {}
    for name, scale, count in (("as captured", 1.0, 8000), ("nearer together", 0.5, 8000), ("fewer", 1.2, 5000)):
        with torch.no_grad():
            static["means"].copy_(scene.means * scale)
        active.fill_(count)
        graph.replay()
        replayed = held["color"].clone(), [each.clone() for each in held["gradients"]]
        graph_held = dict(held)
        step()
        errors = [relative_error(a, b) for a, b in zip(replayed[1], held["gradients"], strict=True)]
        result[name] = {"image_equal": torch.equal(replayed[0], held["color"]), "worst_gradient": max(errors)}
        held.update(graph_held)
    check_overflow()
    with torch.no_grad():
        static["means"].copy_(scene.means * 0.01)  # everything in one tile
    active.fill_(8000)
    graph.replay()
    try:
        check_overflow()
        result["overflow"] = "NOT NOTICED"
    except tiles.TileOverflowError as error:
        result["overflow"] = str(error)
    check_overflow()
    step()  # eager: grows and draws
    truth, _ = draw(replace(scene, means=scene.means * 0.01).to(torch.float64), settings, "torch")
    result["after growth"] = relative_error(held["color"], truth.color)
    result["capacity"] = tiles.tile_capacity(scene.means.device)
    tiles._capacities.clear()
    return result


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


@part
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


# ---- motion field, loss, optimiser -----------------------------------------------------------------------------------


@part
def hash_grid() -> dict:
    """Truth and time of the tri-plane encoding, 30k points."""
    from instag.fields.encoding import BOUND, REFERENCE_FACE, REFERENCE_MOUTH, encode_torch, grid_layout
    from instag.kernels import modules
    from instag.kernels.hash_grid import encode_cuda

    result = {}
    for name, grid in (("face", REFERENCE_FACE), ("mouth", REFERENCE_MOUTH)):
        layout = grid_layout(*grid)
        x = (0.2 * (torch.rand(30000, 3, device=DEVICE) - 0.5)).requires_grad_()
        table = torch.randn(3, layout.entries, device=DEVICE).requires_grad_()
        cotangent = torch.randn(30000, 36, device=DEVICE)

        def both(x=x, table=table, layout=layout, cotangent=cotangent):
            return torch.autograd.grad(encode_cuda(x, table, layout, BOUND), (x, table), cotangent)

        def forward(x=x, table=table, layout=layout):
            with torch.no_grad():
                return encode_cuda(x, table, layout, BOUND)

        d_x, d_table = both()
        x64, table64 = x.detach().double().requires_grad_(), table.detach().double().requires_grad_()
        features = encode_torch(x64, table64, layout, BOUND)
        true_x, true_table = torch.autograd.grad(features, (x64, table64), cotangent.double())
        entry = {
            "features": relative_error(forward(), features),
            "d_table": relative_error(d_table, true_table),
            "d_x": relative_error(d_x, true_x),
            "points_with_another_cell": int(((d_x - true_x).abs().amax(1) > 1e-3 * true_x.abs().amax()).sum()),
            "forward": timed(forward),
            "forward_backward": timed(both),
            "kernels_us": kernel_times(both),
        }
        for share in (0.5, 2, 4):  # blocks per multiprocessor of the backward kernel
            count = int(share * torch.cuda.get_device_properties(DEVICE).multi_processor_count)
            with patch.object(modules, "multiprocessors", lambda device, count=count: count):
                entry[f"forward_backward, {share} blocks per multiprocessor"] = timed(both)["graph"]
        result[name] = entry
    return result


HEAD_CASES = {  # points, frames, hidden width
    "30k, 64": (30000, 1, 64),
    "15k, 64": (15000, 1, 64),
    "15k, 32": (15000, 1, 32),
    "15k, 64, 4 frames": (15000, 4, 64),
}
FIELD_POINTS = (15000, 30000)


@part
def motion_head() -> dict:
    """Truth and time of the fused networks; the whole motion field (encoding and head) against its torch twin."""
    from test_motion_head import made_weights, twin

    from instag.fields.encoding import BOUND, REFERENCE_FACE, encode_torch, grid_layout
    from instag.kernels.hash_grid import encode_cuda
    from instag.kernels.motion_head import HeadWeights, motion_head_cuda

    result = {}
    for name, (points, frames, hidden) in HEAD_CASES.items():
        generator = torch.Generator().manual_seed(0)
        inputs = [torch.randn(shape, generator=generator) for shape in ((points, 36), (frames, 32), (frames, 6))]
        leaves = [each.to(DEVICE).requires_grad_() for each in (*inputs, *made_weights(hidden, generator))]
        outputs = motion_head_cuda(*leaves[:3], HeadWeights(*leaves[3:]))
        cotangents = [torch.randn(each.shape, generator=generator).to(DEVICE) for each in outputs]
        gradients = torch.autograd.grad(outputs, leaves, cotangents)
        doubles = [each.detach().double().requires_grad_() for each in leaves]
        truth = twin(*doubles[:3], HeadWeights(*doubles[3:]))
        true_gradients = torch.autograd.grad(truth, doubles, [each.double() for each in cotangents])

        def both(leaves=leaves, cotangents=cotangents):
            return torch.autograd.grad(motion_head_cuda(*leaves[:3], HeadWeights(*leaves[3:])), leaves, cotangents)

        def forward(leaves=leaves):
            with torch.no_grad():
                return motion_head_cuda(*leaves[:3], HeadWeights(*leaves[3:]))

        result[name] = {
            "outputs": max(relative_error(a, b) for a, b in zip(outputs, truth, strict=True)),
            "gradients": max(relative_error(a, b) for a, b in zip(gradients, true_gradients, strict=True)),
            "forward": timed(forward),
            "forward_backward": timed(both),
            "kernels_us": kernel_times(both),
        }

    layout = grid_layout(*REFERENCE_FACE)
    generator = torch.Generator().manual_seed(0)
    weights = [each.to(DEVICE).requires_grad_() for each in made_weights(64, generator)]
    table = torch.randn(3, layout.entries, generator=generator).to(DEVICE).requires_grad_()
    conditions = [torch.randn(1, width, generator=generator).to(DEVICE).requires_grad_() for width in (32, 6)]
    for points in FIELD_POINTS:
        x = (0.2 * (torch.rand(points, 3, generator=generator) - 0.5)).to(DEVICE).requires_grad_()
        leaves = [x, table, *conditions, *weights]

        def fused(leaves=leaves):
            features = encode_cuda(leaves[0], leaves[1], layout, BOUND)
            return motion_head_cuda(features, leaves[2], leaves[3], HeadWeights(*leaves[4:]))

        def plain(leaves=leaves):
            features = encode_torch(leaves[0], leaves[1], layout, BOUND)
            return twin(features, leaves[2], leaves[3], HeadWeights(*leaves[4:]))

        def fused_forward(fused=fused):
            with torch.no_grad():
                return fused()

        cotangents = [torch.randn(each.shape, generator=generator).to(DEVICE) for each in fused()]
        result[f"motion field, {points}"] = {
            "fused_forward": timed(fused_forward),
            "fused": timed(lambda: torch.autograd.grad(fused(), leaves, cotangents)),  # noqa: B023
            "torch": timed(lambda: torch.autograd.grad(plain(), leaves, cotangents)),  # noqa: B023
        }
    return result


@part
def l1_ssim() -> dict:
    """Truth and time of the photometric loss on 3 x 512 x 512 and 4 x 3 x 512 x 512."""
    from instag.kernels.l1_ssim import photometric_cuda
    from instag.losses import photometric_torch

    result = {}
    for frames in (1, 4):
        generator = torch.Generator().manual_seed(0)
        target = torch.rand(frames, 3, 512, 512, generator=generator)
        noise = 0.1 * torch.randn(target.shape, generator=generator)
        target, render = target.to(DEVICE), (target + noise).clamp(0, 1).to(DEVICE).requires_grad_()
        loss = photometric_cuda(render, target)
        (gradient,) = torch.autograd.grad(loss, render)
        double = render.detach().double().requires_grad_()
        truth = photometric_torch(double, target.double())
        (true_gradient,) = torch.autograd.grad(truth, double)

        def both(render=render, target=target):
            return torch.autograd.grad(photometric_cuda(render, target), render)

        def plain(render=render, target=target):
            return torch.autograd.grad(photometric_torch(render, target), render)

        result[f"{frames} x 3 x 512 x 512"] = {
            "loss": abs(float(loss.detach()) / float(truth.detach()) - 1),
            "gradient": relative_error(gradient, true_gradient),
            "forward_backward": timed(both),
            "torch": timed(plain),
            "kernels_us": kernel_times(both),
        }
    return result


@part
def adam() -> dict:
    """Truth and time of one step over 16 tensors with 1.8 M values, beside torch's own."""
    from instag.kernels.adam import FusedAdam

    sizes = [90000, 90000, 1350000, 120000, 30000, 90000, 28392, 2304, 2048, 576, 96, 4736, 4096, 704, 80, 80]
    generator = torch.Generator().manual_seed(0)
    # small values: a step of 1e-3 on values of 1 would mostly show the rounding of the values
    start = [0.01 * torch.randn(size, generator=generator).to(DEVICE) for size in sizes]
    gradients = [torch.randn(size, generator=generator).to(DEVICE) for size in sizes]

    def build(kind, dtype=torch.float32, **options):
        parameters = [each.to(dtype, copy=True).requires_grad_() for each in start]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.to(dtype, copy=True)
        groups = [{"params": [p], "lr": 1e-3 / (k + 1)} for k, p in enumerate(parameters)]
        return parameters, kind(groups, eps=1e-15, **options)

    parameters, fused = build(FusedAdam)
    truth, reference = build(torch.optim.Adam, torch.float64)
    for _ in range(5):
        fused.step()
        reference.step()
    moved = [p.detach().double() - s for p, s in zip(parameters, start, strict=True)]
    true_moved = [p.detach() - s.double() for p, s in zip(truth, start, strict=True)]
    _, torch_fused = build(torch.optim.Adam, fused=True, capturable=True)
    return {
        "moved": max(relative_error(a, b) for a, b in zip(moved, true_moved, strict=True)),
        "step": timed(fused.step),
        "torch_fused_16_groups": timed(torch_fused.step),
        "kernels_us": kernel_times(fused.step),
    }


def run(names: list[str]) -> dict:
    result = {}
    for name in names:
        start = time.perf_counter()
        try:
            torch.cuda.synchronize()
            result[name] = PARTS[name]()
        except Exception:
            result[name] = {"error": traceback.format_exc().strip().splitlines()[-6:]}
        result[name]["part_s"] = round(time.perf_counter() - start, 2)
        print(f"{name}: {result[name]['part_s']} s", file=sys.stderr, flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated subset")
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("gpu_check: torch sees no CUDA device; run it on a machine with one")
    unknown = set(options.parts.split(",")) - set(PARTS)
    if unknown:
        raise SystemExit(f"gpu_check: no part {sorted(unknown)[0]!r}; there are {', '.join(PARTS)}")
    text = json.dumps(run(options.parts.split(",")), indent=1)
    if options.out:
        options.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
