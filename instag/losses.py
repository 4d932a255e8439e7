"""Loss terms as pure functions (METHOD.md sections 5 and 6). Weights and masks are the caller's.

Images [B, 3, H, W] in [0, 1]; maps and masks [B, 1, H, W], masks bool. A term is the sum of the tensor that stands for
it: a scalar, or on the GPU the shares of a kernel's blocks, which `total` sums with everything else. Every function
returns a scalar unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from instag import kernels

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5  # px
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2  # for images in [0, 1]
DSSIM_WEIGHT = 0.2  # of the photometric loss L1 + 0.2 (1 - SSIM), paper Sec. 3.4
MAP_DEVIATION_WEIGHT = 1e-2  # of the whole map's deviation in the row-wise depth normalisation
SMALLEST_DEVIATION = 1e-8  # head units; only a map that is constant has less

HAS_NUMBA = find_spec("numba") is not None


def l1(render: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference."""
    return (render - target).abs().mean()


@lru_cache
def gaussian_window(device: torch.device, dtype: torch.dtype) -> Tensor:
    """SSIM's window along one axis, [11], sum 1. Made once per device: no copy to it on the hot path."""
    offsets = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    window = torch.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    return (window / window.sum()).to(device, dtype)


def _blur(images: Tensor) -> Tensor:
    """[n, 1, H, W] through SSIM's window, zeros outside the image; the window is separable."""
    window = gaussian_window(images.device, images.dtype)
    half = SSIM_WINDOW // 2
    rows = F.conv2d(images, window.view(1, 1, 1, -1), padding=(0, half))
    return F.conv2d(rows, window.view(1, 1, -1, 1), padding=(half, 0))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean structural similarity of [B, C, H, W]: 11 px window, sigma 1.5, zero padding (3DGS's variant)."""
    a, b = (image.reshape(-1, 1, *image.shape[-2:]) for image in (a, b))
    moments = _blur(torch.cat([a, b, a * a, b * b, a * b]))
    mean_a, mean_b, square_a, square_b, product = moments.chunk(5)
    variances = square_a - mean_a**2 + square_b - mean_b**2
    covariance = product - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + SSIM_C1) / (mean_a**2 + mean_b**2 + SSIM_C1)
    contrast = (2 * covariance + SSIM_C2) / (variances + SSIM_C2)
    return (luminance * contrast).mean()


def photometric_torch(render: Tensor, target: Tensor, weight: float = DSSIM_WEIGHT) -> Tensor:
    """L1 + weight * (1 - SSIM); any device, float32 or float64: the oracle of the faster twin."""
    return l1(render, target) + weight * (1 - ssim(render, target))


def photometric(render: Tensor, target: Tensor, weight: float = DSSIM_WEIGHT) -> Tensor:
    """The term L1 + weight * (1 - SSIM) over whole images (paper Sec. 3.4), gradient to the render alone.

    By its CUDA or numba twin where one applies (float32).
    """
    if kernels.usable(render, target):
        from instag.kernels.l1_ssim import photometric_parts  # needs the `gpu` extra

        return photometric_parts(render, target, weight)
    if HAS_NUMBA and render.device.type == "cpu" and render.dtype == target.dtype == torch.float32:
        from instag.losses_numba import photometric_numba  # numba takes 0.5 s to import: only where it is used

        return photometric_numba(render, target, weight)
    return photometric_torch(render, target.detach(), weight)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values [B, 1, H, W] where the mask holds; 0 where it holds nowhere. No host read."""
    return (values * mask.to(values)).sum() / mask.expand_as(values).sum().clamp_min(1)


def alpha_coverage(alpha: Tensor, inside: Tensor) -> Tensor:
    """mean((1 - alpha) inside) + mean(alpha (1 - inside)): opaque inside, clear outside."""
    inside = inside.to(alpha)  # arithmetic: on a CPU torch.where is several times slower
    return torch.addcmul(inside, 1 - 2 * inside, alpha).mean()


def magnitude(*offsets: Tensor | None, weight: float = 1.0) -> Tensor:
    """The term weight * sum of the mean absolute values of what is there; at least one must be."""
    present = [offset for offset in offsets if offset is not None]
    if kernels.usable(*present):
        from instag.kernels.terms import magnitude_cuda  # needs the `gpu` extra

        return magnitude_cuda(*present, weight=weight)
    return weight * torch.stack([offset.abs().mean() for offset in present]).sum()


def total(terms: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, and the value of each term by its name, without a gradient."""
    if kernels.usable(*terms.values()):
        from instag.kernels.terms import total_cuda  # needs the `gpu` extra

        return total_cuda(terms)
    values = {name: term.sum() for name, term in terms.items()}
    return torch.stack(list(values.values())).sum(), {name: value.detach() for name, value in values.items()}


def negative_contrast(d_mean: Tensor, others: Iterable[Tensor]) -> Tensor:
    """sum_j mean(max(0, d_i . d_j)) over other identities' personalised motion (paper Eq. 6, 7).

    Args:
        d_mean: [B, N, 3] of this identity.
        others: [B, N, 3] of each other identity at the same points and conditions; no gradient flows into them.
    """
    terms = [torch.relu((d_mean * other.detach()).sum(-1)).mean() for other in others]
    return torch.stack(terms).sum() if terms else d_mean.new_zeros(())


def _mean_and_deviation(values: Tensor, valid: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and unbiased deviation over the valid values along axes, kept; 0 where fewer than two are valid."""
    count = valid.sum(axes, keepdim=True)
    mean = (values * valid).sum(axes, keepdim=True) / count.clamp_min(1)
    variance = ((values - mean).square() * valid).sum(axes, keepdim=True) / (count - 1).clamp_min(1)
    return mean, torch.where(variance > 0, variance, 1.0).sqrt() * (variance > 0)


def normalize_rows(depth: Tensor, valid: Tensor | None = None) -> Tensor:
    """Depth [..., H, W], each row at zero mean and over its deviation plus 1e-2 of the whole map's: same shape.

    METHOD.md section 6. Deviations are unbiased. Rows are taken whole, background included, or where `valid` (bool,
    same shape) holds: a prior that covers the face alone must be compared over the face alone. A map without any depth
    becomes zeros.
    """
    valid = torch.ones_like(depth, dtype=torch.bool) if valid is None else valid
    mean, row_deviation = _mean_and_deviation(depth, valid, (-1,))
    _, map_deviation = _mean_and_deviation(depth, valid, (-2, -1))
    deviation = (row_deviation + MAP_DEVIATION_WEIGHT * map_deviation).clamp_min(SMALLEST_DEVIATION)
    return (depth - mean) / deviation


def depth_prior(depth: Tensor, prior: Tensor, mask: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean over the mask of |norm(depth) - norm(prior)| (paper Eq. 12).

    depth is sum(alpha T z), the prior larger when farther, both [B, 1, H, W]; any scale and offset. valid: where the
    prior says anything, bool [B, 1, H, W], not smaller than the mask; None: everywhere.
    """
    difference = normalize_rows(depth, valid) - normalize_rows(prior, valid)
    return masked_mean(difference.abs(), mask)


def to_camera_normals(normal: Tensor, world_to_camera: Tensor) -> Tensor:
    """World normals [B, 3, H, W] -> OpenGL camera axes (x right, y up, z to the viewer).

    world_to_camera: [B, 4, 4] OpenCV axes.
    """
    rotation = world_to_camera[:, :3, :3]
    x, y, z = torch.einsum("bij,bjhw->bihw", rotation, normal).unbind(1)
    return torch.stack([x, -y, -z], 1)


def normal_prior(normal: Tensor, prior: Tensor, mask: Tensor) -> Tensor:
    """Mean over the mask of sum_c (1 - n_c nprior_c) (paper Eq. 12, METHOD.md section 6).

    2 where both agree, 4 where they are opposite, 3 where nothing was hit.
    Both [B, 3, H, W], unit, in OpenGL camera axes (`to_camera_normals`).
    """
    return masked_mean((1 - normal * prior).sum(1, keepdim=True), mask)


def closed(mask: Tensor) -> Tensor:
    """Morphological closing of a mask, bool [B, 1, H, W], by 3x3: small holes and gaps in it are filled."""
    grown = F.max_pool2d(mask.float(), 3, stride=1, padding=1)
    return -F.max_pool2d(-grown, 3, stride=1, padding=1) > 0


def patches(images: Tensor, size: int) -> Tensor:
    """Non-overlapping square patches from the top left, row by row, remainder dropped.

    [B, C, H, W] -> [B n, C, size, size], image by image; H, W >= size.
    """
    cut = images.unfold(2, size, size).unfold(3, size, size)  # [B, C, rows, columns, size, size]
    return cut.permute(0, 2, 3, 1, 4, 5).reshape(-1, images.shape[1], size, size)


def paint(images: Tensor, mask: Tensor, color: Tensor) -> Tensor:
    """Images with a colour [3] where the mask [B, 1, H, W] holds; no gradient flows from there."""
    return torch.lerp(images, color.view(1, -1, 1, 1), mask.to(images))  # exact, and torch.where is slow on a CPU
