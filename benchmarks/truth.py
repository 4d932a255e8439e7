"""The kernels on a GPU against the float64 torch twins on the same GPU: images, values, gradients; capture, overflow.

    python3 benchmarks/truth.py [--parts raster_truth,adam] [--out FILE]      # no data needed

Errors are |g - g*| / |g*| per tensor. `pytest tests/kernels tests/submodules` holds small cases to bounds; here are the
sizes of training.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import timing
import torch
from gaussian_rasterization import RasterSettings, rasterize
from gaussian_rasterization.cuda import check_overflow, rasterize_cuda, tiles
from raster_scenes import IMAGES, Scene, cotangent_loss, make_scene, relative_error
from timing import capture

DEVICE = torch.device("cuda", 0)
CAPTURE_LISTS = 1500  # the capture test's fullest tile but one holds 1122 Gaussians, the last 8000


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


def hash_grid() -> dict:
    """the tri-plane encoding, 30k points."""
    from instag.fields.encoding import BOUND, REFERENCE_FACE, REFERENCE_MOUTH, encode_torch, grid_layout
    from instag.kernels.hash_grid import encode_cuda

    result = {}
    for name, grid in (("face", REFERENCE_FACE), ("mouth", REFERENCE_MOUTH)):
        layout = grid_layout(*grid)
        x = (0.2 * (torch.rand(30000, 3, device=DEVICE) - 0.5)).requires_grad_()
        table = torch.randn(3, layout.entries, device=DEVICE).requires_grad_()
        cotangent = torch.randn(30000, 36, device=DEVICE)

        ours = encode_cuda(x, table, layout, BOUND)
        d_x, d_table = torch.autograd.grad(ours, (x, table), cotangent)
        x64, table64 = x.detach().double().requires_grad_(), table.detach().double().requires_grad_()
        features = encode_torch(x64, table64, layout, BOUND)
        true_x, true_table = torch.autograd.grad(features, (x64, table64), cotangent.double())
        result[name] = {
            "features": relative_error(ours, features),
            "d_table": relative_error(d_table, true_table),
            "d_x": relative_error(d_x, true_x),
            "points_with_another_cell": int(((d_x - true_x).abs().amax(1) > 1e-3 * true_x.abs().amax()).sum()),
        }
    return result


def l1_ssim() -> dict:
    """The photometric loss on 3 x 512 x 512 and 4 x 3 x 512 x 512."""
    from instag.kernels.l1_ssim import photometric_cuda
    from instag.losses import photometric_torch

    result = {}
    for frames in (1, 4):
        generator = torch.Generator().manual_seed(0)
        target = torch.rand(frames, 3, 512, 512, generator=generator)
        noise = 0.1 * torch.randn(target.shape, generator=generator)
        target, render = target.to(DEVICE), (target + noise).clamp(0, 1).to(DEVICE).requires_grad_()
        loss = photometric_cuda(render, target).sum()
        (gradient,) = torch.autograd.grad(loss, render)
        double = render.detach().double().requires_grad_()
        truth = photometric_torch(double, target.double())
        (true_gradient,) = torch.autograd.grad(truth, double)

        result[f"{frames} x 3 x 512 x 512"] = {
            "loss": abs(float(loss.detach()) / float(truth.detach()) - 1),
            "gradient": relative_error(gradient, true_gradient),
        }
    return result


def adam() -> dict:
    """Five steps over 16 tensors with 1.8 M values."""
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
    return {"moved": max(relative_error(a, b) for a, b in zip(moved, true_moved, strict=True))}


def audio_encoder() -> dict:
    """Output and gradients of the encoder of phone-mel, of the wide one, and of several windows."""
    from instag.fields.audio import AudioEncoder
    from instag.kernels.audio_encoder import audio_encoder_cuda

    result = {}
    for width, steps, windows in ((74, 16, 1), (29, 16, 8), (1024, 2, 1)):
        torch.manual_seed(0)
        encoder = AudioEncoder(width, steps).to(DEVICE)
        truth = copy.deepcopy(encoder).double()
        parameters, true_parameters = tuple(encoder.parameters()), tuple(truth.parameters())
        window, cotangent = (
            torch.randn(windows, 8, width, steps, device=DEVICE),
            torch.randn(windows, 32, device=DEVICE),
        )
        true_output = truth.forward_torch(window.double())
        true_gradients = torch.autograd.grad(true_output, true_parameters, cotangent.double())
        entry = result[f"{windows} x {width} x {steps}"] = {}
        for name, output in (
            ("ours", audio_encoder_cuda(parameters, window)),
            ("torch float32", encoder.forward_torch(window)),
        ):
            gradients = torch.autograd.grad(output, parameters, cotangent)
            worst = max(relative_error(a, b) for a, b in zip(gradients, true_gradients, strict=True))
            entry[name] = {"output": relative_error(output, true_output), "worst_gradient": worst}
    return result


def hook() -> dict:
    """Equal bits: random motion, ties, rest."""
    from instag.fields.hook import HOOK_UNIT, VERTICAL, hook_torch
    from instag.kernels.hook import hook_cuda

    motion = torch.randn(2, 60_000, 3, device=DEVICE) / 100
    cases = {"random": motion, "ties": (100 * motion).round(), "rest": torch.zeros_like(motion)}
    return {
        name: {
            f"rank {int(rank)}": torch.equal(hook_cuda(case, rank, VERTICAL, HOOK_UNIT), hook_torch(case, rank))
            for rank in (torch.tensor([1], device=DEVICE), torch.tensor([50], device=DEVICE))
        }
        for name, case in cases.items()
    }


PARTS = (raster_truth, raster_determinism, raster_capture, hash_grid, l1_ssim, adam, audio_encoder, hook)

if __name__ == "__main__":
    timing.run_parts(__doc__, {part.__name__: part for part in PARTS})
