"""`rasterize`: the one public door. Checks the contract, chooses a back end, finishes its images."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from . import reference, tiled
from .projection import FEATURES, project, unit
from .settings import MAX_SH_DEGREE, RasterizerError, RasterOutput, RasterSettings

BACKENDS = ("cuda", "numba", "torch", "reference")  # `reference` is the dense oracle: never chosen by `auto`


def available_backends() -> dict[str, str]:
    """Every back end by name: "ok", or in one line why it cannot be used here. The answers are kept."""
    return {"cuda": _cuda_state(), "numba": _numba_state(), "torch": "ok", "reference": "ok"}


@cache
def _cuda_state() -> str:
    if not torch.cuda.is_available():
        return "not available: torch sees no CUDA device"
    try:
        from .cuda import rasterize_cuda  # noqa: F401
    except ImportError as error:
        return f"not available: {error}"
    return "ok"


@cache
def _numba_state() -> str:
    try:
        import numba  # noqa: F401
    except ImportError as error:
        return f"not available: {error} (pip install numba)"
    return "ok"


def choose_backend(tensor: Tensor) -> str:
    """What `auto` picks for tensors like this one: cuda, else numba (float32 on the CPU), else torch.

    Asks for no other back end: importing numba takes 0.15 s.
    """
    if tensor.dtype == torch.float32:
        if tensor.is_cuda and _cuda_state() == "ok":
            return "cuda"
        if tensor.device.type == "cpu" and _numba_state() == "ok":
            return "numba"
    return "torch"


def rasterize(
    means: Tensor,  # [B, N, 3]
    scales: Tensor,  # [B, N, 3]
    quaternions: Tensor,  # [B, N, 4]
    opacities: Tensor,  # [N] or [B, N]
    sh: Tensor,  # [N, K, 3]
    world_to_camera: Tensor,  # [B, 4, 4]
    focal: Tensor,  # [B]
    background: Tensor,  # [3] or [B, 3]
    settings: RasterSettings,
    extra: Tensor | None = None,  # [B, N, E]
    means2d: Tensor | None = None,  # [B, N, 2]
    backend: str = "auto",
) -> RasterOutput:
    """Draw N Gaussians into B views; every view may have its own (deformed) means, scales and rotations.

    Args:
        means: world space.
        scales: standard deviations along the three axes, world units, positive (activated).
        quaternions: wxyz, of any length; normalised inside.
        opacities: in (0, 1) (activated); shared by the views or per view.
        sh: spherical harmonics coefficients, K >= (sh_degree + 1)^2, shared by the views.
        world_to_camera: rigid, OpenCV axes (x right, y down, z forward). Constant: gets no gradient.
        focal: in px; square pixels, principal point at the image centre. Constant.
        background: RGB behind everything. Constant.
        settings: image size, SH degree, extent, near plane.
        extra: further attributes, blended like colour but without background; E may be 0.
        means2d: zeros that require a gradient; receives dLoss/d(u, v) in normalised device units, that is the
            per-pixel gradient times (W / 2, H / 2), the statistic of density control. (A value moves the splats.)
        backend: "auto" (see `choose_backend`), "torch", "numba" (CPU, float32), "cuda" (float32) or "reference".

    Returns:
        The images and radii. Everything but `radii` is differentiable with respect to means, scales, quaternions,
        opacities, sh, extra and means2d. Source: METHOD.md section 3; conventions in this package's README.md.

    Raises:
        RasterizerError: a tensor of the wrong shape, dtype or device, or a back end that cannot serve the call.
    """
    _check_settings(settings)
    extra = means.new_zeros(*means.shape[:2], 0) if extra is None else extra
    views, gaussians = _check_shapes(
        means, scales, quaternions, opacities, sh, world_to_camera, focal, background, settings, extra, means2d
    )
    opacities = opacities.expand(views, gaussians)
    background = background.detach().expand(views, 3)
    name = _check_backend(backend, means)
    arguments = (means, scales, quaternions, opacities, sh, world_to_camera.detach(), focal.detach())
    if name == "cuda":
        from .cuda import rasterize_cuda

        return rasterize_cuda(*arguments, background, settings, extra, means2d, detach_extra=settings.detach_extra)

    projection = project(*arguments, settings, extra, means2d)
    if name == "numba":
        from .numba_backend import blend
    else:
        blend = tiled.blend if name == "torch" else reference.blend
    return finish(blend(projection, settings), background, projection.radii)


def finish(blended: Tensor, background: Tensor, radii: Tensor) -> RasterOutput:
    """Blended features and alpha [B, 8 + E, H, W] to images: the background behind, normals of unit length."""
    color, depth, normal, extra, alpha = blended.split([3, 1, 3, blended.shape[1] - FEATURES - 1, 1], 1)
    return RasterOutput(
        color=color + (1 - alpha) * background[..., None, None],
        depth=depth,
        normal=unit(normal, dim=1),
        alpha=alpha,
        extra=extra,
        radii=radii,
    )


def _check_settings(settings: RasterSettings) -> None:
    if settings.width < 1 or settings.height < 1:
        raise RasterizerError(f"image size {settings.width} x {settings.height}: give at least 1 x 1 pixels")
    if not 0 <= settings.sh_degree <= MAX_SH_DEGREE:
        raise RasterizerError(f"sh_degree {settings.sh_degree}: give 0..{MAX_SH_DEGREE}")
    if settings.extent not in ("exact", "three_sigma"):
        raise RasterizerError(f"extent {settings.extent!r}: give 'exact' or 'three_sigma'")
    if settings.near <= 0:
        raise RasterizerError(f"near {settings.near}: give a positive depth")


def _check_shapes(
    means: Tensor,
    scales: Tensor,
    quaternions: Tensor,
    opacities: Tensor,
    sh: Tensor,
    world_to_camera: Tensor,
    focal: Tensor,
    background: Tensor,
    settings: RasterSettings,
    extra: Tensor,
    means2d: Tensor | None,
) -> tuple[int, int]:
    """Number of views and Gaussians; raises on the first tensor that does not fit `means`."""
    if means.ndim != 3 or means.shape[2] != 3:
        raise RasterizerError(f"means has shape {list(means.shape)}: give [B, N, 3]")
    views, gaussians = means.shape[:2]
    expected: dict[str, tuple[Tensor | None, list[tuple[int, ...]]]] = {
        "means": (means, [(views, gaussians, 3)]),
        "scales": (scales, [(views, gaussians, 3)]),
        "quaternions": (quaternions, [(views, gaussians, 4)]),
        "opacities": (opacities, [(gaussians,), (views, gaussians)]),
        "sh": (sh, [(gaussians, max(sh.shape[1:2], default=0), 3)]),
        "world_to_camera": (world_to_camera, [(views, 4, 4)]),
        "focal": (focal, [(views,)]),
        "background": (background, [(3,), (views, 3)]),
        "extra": (extra, [(views, gaussians, extra.shape[-1])]),
        "means2d": (means2d, [(views, gaussians, 2)]),
    }
    for name, (tensor, shapes) in expected.items():
        if tensor is None:
            continue
        if tuple(tensor.shape) not in shapes:
            wanted = " or ".join(str(list(shape)) for shape in shapes)
            raise RasterizerError(f"{name} has shape {list(tensor.shape)}: give {wanted} to match means")
        if tensor.dtype != means.dtype or tensor.device != means.device or not tensor.is_floating_point():
            raise RasterizerError(
                f"{name} is {tensor.dtype} on {tensor.device}: give one floating dtype and device for all tensors "
                f"(means is {means.dtype} on {means.device})"
            )
    coefficients = (settings.sh_degree + 1) ** 2
    if sh.shape[1] < coefficients:
        raise RasterizerError(f"sh has {sh.shape[1]} coefficients: sh_degree {settings.sh_degree} needs {coefficients}")
    return views, gaussians


def _check_backend(backend: str, means: Tensor) -> str:
    """The name of the back end that serves these tensors."""
    if backend == "auto":
        return choose_backend(means)
    if backend not in BACKENDS:
        raise RasterizerError(f"backend {backend!r}: give 'auto' or one of {', '.join(BACKENDS)}")
    state = available_backends()[backend]
    if state != "ok":
        raise RasterizerError(f"backend {backend!r} is {state}; use backend='auto' or 'torch'")
    device = {"cuda": "cuda", "numba": "cpu"}.get(backend)
    if device is not None and (means.device.type != device or means.dtype != torch.float32):
        raise RasterizerError(
            f"backend {backend!r} takes float32 tensors on {device}, got {means.dtype} on {means.device}: "
            f"move them, or use backend='torch'"
        )
    return backend
