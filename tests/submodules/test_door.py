"""The public door: checks with the culprit's name, the choice of back end, the class interface; numba's promises."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

import pytest
import torch
from gaussian_rasterization import (
    GaussianRasterizationSettings,
    GaussianRasterizer,
    RasterizerError,
    RasterSettings,
    available_backends,
    choose_backend,
    core,
    rasterize,
)
from scenes import draw, random_scene, relative_error, usable_backends

needs_numba = pytest.mark.skipif("numba" not in usable_backends(), reason="numba is not installed")
FASTER_THAN_TORCH = 6


def call(scene, dtype=torch.float32, **changes):
    names = ("means", "scales", "quaternions", "opacities", "sh", "extra", "means2d")
    arguments = {name: scene.tensors[name].to(dtype) for name in names}
    constants = ("world_to_camera", "focal", "background")
    arguments |= {name: getattr(scene, name).to(dtype) for name in constants}
    return rasterize(**(arguments | {"settings": scene.settings} | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"means": torch.zeros(7, 3)}, r"means has shape \[7, 3\]: give \[B, N, 3\]"),
        ({"scales": torch.ones(2, 8, 3)}, r"scales has shape \[2, 8, 3\]: give \[2, 9, 3\]"),
        ({"opacities": torch.ones(9, 1)}, r"opacities has shape \[9, 1\]: give \[9\] or \[2, 9\]"),
        ({"sh": torch.zeros(9, 4, 3)}, r"sh has 4 coefficients: sh_degree 2 needs 9"),
        ({"focal": torch.ones(())}, r"focal has shape \[\]: give \[2\]"),
        ({"extra": torch.ones(2, 9, 1).double()}, r"extra is torch.float64 on cpu: give one floating dtype"),
        ({"means2d": torch.zeros(2, 9, 3)}, r"means2d has shape"),
        ({"settings": RasterSettings(0, 4, 2)}, r"image size 0 x 4"),
        ({"settings": RasterSettings(4, 4, 5)}, r"sh_degree 5: give 0..3"),
        ({"settings": RasterSettings(4, 4, 2, extent="round")}, r"extent 'round': give 'exact' or 'three_sigma'"),
        ({"settings": RasterSettings(4, 4, 2, near=0.0)}, r"near 0.0"),
        ({"backend": "opengl"}, r"backend 'opengl': give 'auto' or one of"),
    ],
)
def test_errors_name_the_culprit(changes: dict, message: str) -> None:
    with pytest.raises(RasterizerError, match=message):
        call(random_scene(gaussians=9), **changes)


@needs_numba
def test_numba_wants_float32_on_the_cpu() -> None:
    with pytest.raises(RasterizerError, match="backend 'numba' takes float32 tensors on cpu, got torch.float64"):
        call(random_scene(gaussians=9), torch.float64, backend="numba")
    assert choose_backend(torch.zeros(1)) == "numba"
    assert choose_backend(torch.zeros(1).double()) == "torch"


def forget_backends() -> None:
    for state in (core._cuda_state, core._numba_state):
        state.cache_clear()


def test_a_gpu_is_not_asked_for_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose import takes 0.15 s of an adaptation of 6."""
    monkeypatch.setattr(core, "_cuda_state", lambda: "ok")
    monkeypatch.setattr(core, "_numba_state", lambda: pytest.fail("numba is imported"))
    assert choose_backend(SimpleNamespace(dtype=torch.float32, is_cuda=True)) == "cuda"


@pytest.mark.parametrize("missing", ["numba", "gaussian_rasterization.cuda"])
def test_without_a_back_end(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` goes on without it; asking for it by name says how to get it."""
    name = missing.rsplit(".")[-1]
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    forget_backends()
    try:
        assert available_backends()[name].startswith("not available: ")
        with pytest.raises(RasterizerError, match=f"backend '{name}' is not available.*use backend='auto' or 'torch'"):
            call(random_scene(gaussians=9), backend=name)
        if name == "numba":
            assert "pip install numba" in available_backends()["numba"]
            assert choose_backend(torch.zeros(1)) == "torch"
            assert call(random_scene(gaussians=9)).color.shape == (2, 3, 35, 40)
    finally:
        monkeypatch.undo()
        forget_backends()


def test_torch_recomputes_what_it_cannot_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory bound changes nothing but the memory: small chunks, recomputed in the backward pass."""
    from gaussian_rasterization import tiled

    scene = random_scene(gaussians=100)
    kept = draw(scene, "torch", gradients=True)[1]
    monkeypatch.setattr(tiled, "CHUNK_ELEMENTS_CPU", 1 << 14)
    monkeypatch.setattr(tiled, "KEPT_ELEMENTS", 0)
    recomputed = draw(scene, "torch", gradients=True)[1]
    for name, gradient in kept.items():
        assert relative_error(recomputed[name], gradient) < 1e-12, name


@needs_numba
def test_numba_gives_the_same_bits_for_any_number_of_threads() -> None:
    import numba

    threads = numba.get_num_threads()
    scene = random_scene(gaussians=500, size=(96, 80), scale=0.1)
    try:
        runs = []
        for count in {1, min(2, numba.config.NUMBA_NUM_THREADS), threads}:
            numba.set_num_threads(count)
            runs.append(draw(scene, "numba", gradients=True))
    finally:
        numba.set_num_threads(threads)
    for output, gradients in runs[1:]:
        assert torch.equal(output.color, runs[0][0].color)
        assert all(torch.equal(gradient, runs[0][1][name]) for name, gradient in gradients.items())


@needs_numba
def test_numba_is_much_faster_than_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """128 x 128, 5000 Gaussians, forward and backward, in processor time, the best of a few runs."""
    monkeypatch.setitem(sys.modules["scenes"].BACKENDS, "torch", torch.float32)
    scene = random_scene(gaussians=5000, size=(128, 128), views=1, degree=1, extra=0, scale=0.02)

    def seconds(backend: str, runs: int) -> float:
        times = []
        for _ in range(runs):
            start = time.process_time()
            draw(scene, backend, gradients=True)
            times.append(time.process_time() - start)
        return min(times)

    seconds("numba", 1)  # compiles, or loads what was compiled
    assert seconds("torch", 2) > FASTER_THAN_TORCH * seconds("numba", 6)


def field_settings(scene, **changes) -> GaussianRasterizationSettings:
    width, height, focal = scene.settings.width, scene.settings.height, float(scene.focal[0])
    values = {
        "image_height": height,
        "image_width": width,
        "tanfovx": width / (2 * focal),
        "tanfovy": height / (2 * focal),
        "bg": scene.background[0],
        "scale_modifier": 1.0,
        "viewmatrix": scene.world_to_camera[0].T,
        "projmatrix": torch.eye(4),
        "sh_degree": scene.settings.sh_degree,
        "campos": torch.zeros(3),
        "prefiltered": False,
        "debug": False,
    }
    return GaussianRasterizationSettings(**(values | changes))


def field_arguments(scene) -> dict:
    t = scene.tensors
    arguments = {"means3D": t["means"][0], "opacities": t["opacities"][:, None], "shs": t["sh"]}
    arguments |= {"scales": t["scales"][0], "rotations": t["quaternions"][0], "extra_attrs": t["extra"][0]}
    return arguments | {"means2D": torch.zeros_like(arguments["means3D"], requires_grad=True)}


def test_the_class_interface_is_rasterize() -> None:
    scene = random_scene(views=1)
    arguments = field_arguments(scene)
    rasterizer = GaussianRasterizer(raster_settings=field_settings(scene))
    color, depth, normal, alpha, radii, extra = rasterizer(**arguments)
    truth = draw(scene, "torch")[0]
    for image, name in ((color, "color"), (depth, "depth"), (normal, "normal"), (alpha, "alpha"), (extra, "extra")):
        assert relative_error(image, getattr(truth, name)[0]) < 1e-12, name
    assert torch.equal(radii, truth.radii[0])
    color.sum().backward()
    assert arguments["means2D"].grad[:, :2].any() and not arguments["means2D"].grad[:, 2].any()


def test_the_class_interface_takes_colours_and_a_scale_modifier() -> None:
    scene = random_scene(views=1, degree=0, extra=0)
    arguments = field_arguments(scene)
    colors = (0.5 + 0.28209479177387814 * arguments.pop("shs")[:, 0]).clamp_min(0)
    halved = GaussianRasterizer(field_settings(scene, scale_modifier=0.5))
    image = halved(**(arguments | {"colors_precomp": colors, "scales": 2 * arguments["scales"]})).color
    assert relative_error(image, draw(scene, "torch")[0].color[0]) < 1e-12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cov3Ds_precomp": torch.zeros(9, 6)}, "cov3Ds_precomp is not supported: give scales and rotations"),
        ({"colors_precomp": torch.zeros(9, 3)}, "exactly one of shs and colors_precomp"),
        ({"shs": None}, "exactly one of shs and colors_precomp"),
    ],
)
def test_the_class_interface_refuses_clearly(changes: dict, message: str) -> None:
    scene = random_scene(gaussians=9, views=1)
    with pytest.raises(RasterizerError, match=message):
        GaussianRasterizer(field_settings(scene))(**(field_arguments(scene) | changes))


def test_pixels_are_square() -> None:
    scene = random_scene(gaussians=9, views=1)
    with pytest.raises(RasterizerError, match="pixels must be square"):
        GaussianRasterizer(field_settings(scene, tanfovy=0.7))(**field_arguments(scene))
