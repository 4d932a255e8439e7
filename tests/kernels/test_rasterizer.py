"""The rasterizer's CUDA sources, emulated and on a GPU, against the float64 oracle."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from gaussian_rasterization import RasterizerError, RasterSettings, rasterize
from raster_scenes import IMAGES, Scene, cotangent_loss, make_scene, relative_error

IMAGE_TOLERANCE = 2e-5
GRADIENT_TOLERANCE = 1e-5


def draw(scene: Scene, settings: RasterSettings, backend: str, **options):
    leaves = scene.leaves()
    tensors = {**{name: getattr(scene, name) for name in ("world_to_camera", "focal", "background")}, **leaves}
    if backend == "cuda":
        from gaussian_rasterization.cuda import rasterize_cuda

        output = rasterize_cuda(settings=settings, **tensors, **options)
    else:
        output = rasterize(settings=settings, backend=backend, **tensors)
    return output, leaves


def compare(scene: Scene, settings: RasterSettings, **options) -> None:
    output, leaves = draw(scene, settings, "cuda", **options)
    cotangent_loss(output).backward()
    truth, true_leaves = draw(scene.to(torch.float64), settings, "reference")
    cotangent_loss(truth).backward()
    for name in IMAGES:
        assert relative_error(getattr(output, name), getattr(truth, name)) < IMAGE_TOLERANCE, name
    assert (output.radii != truth.radii).float().mean() < 0.002
    for name, leaf in leaves.items():
        assert relative_error(leaf.grad, true_leaves[name].grad) < GRADIENT_TOLERANCE, name


@pytest.mark.parametrize("extent", ["exact", "three_sigma"])
@pytest.mark.parametrize(("degree", "extra"), [(0, 0), (1, 2), (2, 1), (3, 4)])
def test_images_and_gradients(device, extent, degree, extra) -> None:
    settings = RasterSettings(width=37, height=43, sh_degree=degree, extent=extent)
    compare(make_scene(250, settings, views=2, extra=extra, seed=degree).to(device), settings)


SETTINGS = RasterSettings(width=40, height=30, sh_degree=1)


def gradients(scene: Scene, **options) -> dict[str, torch.Tensor]:
    output, leaves = draw(scene, SETTINGS, "cuda", **options)
    cotangent_loss(output).backward()
    return {name: leaf.grad for name, leaf in leaves.items()}


def test_order_of_lanes_does_not_matter(emulated, monkeypatch) -> None:
    scene = make_scene(150, SETTINGS, extra=1)
    forward, _ = draw(scene, SETTINGS, "cuda")
    forward_gradients = gradients(scene)
    monkeypatch.setattr(emulated, "reverse", True)
    backward, _ = draw(scene, SETTINGS, "cuda")
    for name in IMAGES:  # images are deterministic whatever the atomics do; gradients but for rounding
        assert torch.equal(getattr(forward, name), getattr(backward, name)), name
    for name, gradient in gradients(scene).items():
        assert relative_error(gradient, forward_gradients[name]) < 1e-5, name


@pytest.mark.parametrize("extent", ["exact", "three_sigma"])
def test_awkward_gaussians(device, extent) -> None:
    """Behind the camera, far off the screen, over the whole screen, transparent, opaque, tied in depth, black."""
    settings = replace(SETTINGS, extent=extent)
    scene = make_scene(64, settings, seed=3)
    scene.means[0, 0] = torch.tensor([0.0, 0.0, -2.0])
    scene.means[0, 1] = torch.tensor([30.0, 0.0, 0.0])
    scene.means[0, 2] = torch.tensor([0.25, 0.0, -0.2])  # beyond the Jacobian's limit
    scene.scales[0, 2] = 0.05
    scene.scales[0, 3] = 2.0
    scene.opacities[0, 4] = 0.001
    scene.opacities[0, 5:8] = 0.9999
    scene.means[0, 8] = scene.means[0, 9]
    scene.sh[10] = -3.0
    scene.scales[0, 11] = 0.01  # three equal axes: the normal is x
    compare(scene.to(device), settings)


def test_no_gaussians(device) -> None:
    scene = make_scene(0, SETTINGS).to(device)
    output, _ = draw(scene, SETTINGS, "cuda")
    assert torch.equal(output.color, scene.background[..., None, None].expand_as(output.color))
    assert not output.alpha.any() and not output.normal.any() and output.radii.shape == (1, 0)


def test_longer_lists_grow_and_draw_the_same(device, monkeypatch) -> None:
    from gaussian_rasterization.cuda import tile_capacity, tiles

    scene = make_scene(200, SETTINGS).to(device)
    truth, _ = draw(scene, SETTINGS, "cuda")
    monkeypatch.setattr(tiles, "_capacities", {})
    monkeypatch.setattr(tiles, "INITIAL_CAPACITY", 4)
    output, _ = draw(scene, SETTINGS, "cuda")
    assert tile_capacity(device) >= 64
    assert torch.equal(output.color, truth.color)


def test_lists_beyond_shared_memory(device, monkeypatch) -> None:
    """More than SORT_SHARED Gaussians in a tile are sorted in global memory."""
    from gaussian_rasterization.cuda import tile_capacity, tiles

    monkeypatch.setattr(tiles, "_capacities", {})
    settings = RasterSettings(width=8, height=8, sh_degree=0)
    scene = make_scene(4300, settings)
    scene.opacities.fill_(0.006)
    compare(scene.to(device), settings)
    assert tile_capacity(device) == 8192


def test_captured_overflow_is_told_once(emulated, monkeypatch) -> None:
    from gaussian_rasterization.cuda import TileOverflowError, check_overflow, loader, tile_capacity, tiles

    cpu = torch.device("cpu")
    monkeypatch.setattr(tiles, "_capacities", {cpu: 4})
    monkeypatch.setattr(tiles, "_captured_flags", {})
    scene = make_scene(200, SETTINGS)
    monkeypatch.setattr(loader, "is_capturing", lambda device: True)
    with pytest.raises(RasterizerError, match="once eagerly"):
        draw(scene, SETTINGS, "cuda")
    tiles.overflow_flag(cpu, capturing=False)
    check_overflow()
    draw(scene, SETTINGS, "cuda")
    with pytest.raises(TileOverflowError, match="hold .*: capture again and redo"):
        check_overflow()
    assert tile_capacity(cpu) >= 64
    check_overflow()
    draw(scene, SETTINGS, "cuda")
    check_overflow()


def test_active_count_is_a_prefix(device) -> None:
    scene = make_scene(100, SETTINGS, extra=1).to(device)
    count = 60
    active = torch.tensor([count], dtype=torch.int32, device=device)
    whole = gradients(scene, active_count=active)
    output, _ = draw(scene, SETTINGS, "cuda", active_count=active)
    shared = {"world_to_camera", "focal", "background"}
    prefix = Scene(
        **{
            name: value if name in shared else value[:count] if name == "sh" else value[:, :count]
            for name, value in vars(scene).items()
        }
    )
    expected, _ = draw(prefix, SETTINGS, "cuda")
    assert torch.equal(output.color, expected.color)
    assert torch.equal(output.radii[:, :count], expected.radii) and not output.radii[:, count:].any()
    for name, gradient in gradients(prefix).items():
        along = 0 if name == "sh" else 1
        assert relative_error(whole[name].narrow(along, 0, count), gradient) < 1e-6, name
        assert not whole[name].narrow(along, count, 40).any(), name


def test_detached_extra_moves_nothing_else(device) -> None:
    scene = make_scene(100, SETTINGS, extra=2).to(device)
    output, leaves = draw(scene, SETTINGS, "cuda", detach_extra=True)
    output.extra.square().sum().backward()
    attached, attached_leaves = draw(scene, SETTINGS, "cuda")
    attached.extra.square().sum().backward()
    assert relative_error(leaves["extra"].grad, attached_leaves["extra"].grad) < 1e-6
    for name, leaf in leaves.items():
        assert name == "extra" or not leaf.grad.any(), name
        assert name == "sh" or attached_leaves[name].grad.any(), name


def test_second_backward_gives_the_same(device) -> None:
    output, leaves = draw(make_scene(80, SETTINGS).to(device), SETTINGS, "cuda")
    loss = output.color.square().sum()
    first = torch.autograd.grad(loss, leaves["means"], retain_graph=True)[0]
    second = torch.autograd.grad(loss, leaves["means"])[0]
    assert relative_error(second, first) < 1e-6


def test_backward_takes_each_patch_that_was_drawn_in_once(device) -> None:
    """...and heavier ones first: bins of work, the last one the heaviest."""
    from gaussian_rasterization.cuda.rasterizer import PATCHES_PER_TILE, WORK_BINS

    settings = RasterSettings(width=64, height=48, sh_degree=0)
    scene = make_scene(120, settings, views=2).to(device)
    scene.scales.mul_(0.2)  # some patches stay empty
    output, _ = draw(scene, settings, "cuda")
    patches = output.alpha.view(2, 3, 4, 4, 4, 2, 8).amax((3, 6)).permute(0, 1, 3, 2, 4)  # [view, row, column, y, x]
    drawn = set((patches.flatten() > 0).nonzero().flatten().tolist())
    order = output.color.grad_fn.saved_tensors[12].cpu()  # rasterizer.TileLists.work_order
    tiles = 2 * 3 * 4
    sizes, items = order[WORK_BINS : 2 * WORK_BINS], order[(2 + tiles) * WORK_BINS :].view(WORK_BINS, -1)
    bins = [items[k, :size].tolist() for k, size in enumerate(sizes.tolist())]
    assert items.shape[1] == tiles * PATCHES_PER_TILE
    taken = [item for each in bins for item in each]
    assert len(taken) == len(set(taken)) and set(taken) == drawn and 0 < len(drawn) < items.shape[1]
    assert sum(map(bool, bins)) > 3


def test_too_many_extra_channels_are_refused(device) -> None:
    with pytest.raises(RasterizerError, match="at most 4"):
        draw(make_scene(5, SETTINGS, extra=5).to(device), SETTINGS, "cuda")
