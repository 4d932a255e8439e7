"""The CUDA back end of `rasterize`: five kernels, one pass for all channels, no host synchronisation while captured.

project_forward -> sort_tiles -> blend_forward, and back: blend_backward -> project_backward. Images do not depend on
the order of the atomics (lists are sorted); gradients do, in their last bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..settings import RasterizerError, RasterOutput, RasterSettings
from . import loader, tiles

MAX_EXTRA = 4  # extra channels; compiled per number
PROJECT_THREADS = 128
SORT_THREADS = 256
BLEND_THREADS = 64
BLOCKS_PER_TILE = 4
PATCHES_PER_TILE = 8
WORK_BINS = 32

_FOLDER = Path(__file__).parent
_FILES = ("common.cuh", "project.cu", "project_backward.cu", "sort.cu", "blend.cu")
_KERNELS = ("project_forward", "sort_tiles", "blend_forward", "blend_backward", "project_backward")


def kernel_source(extra: int, exact: bool, detach_extra: bool) -> loader.KernelSource:
    """The rasterizer's sources, specialised: number of extra channels, extent, where their gradient goes."""
    options = (f"-DEXTRA={extra}", f"-DEXACT={int(exact)}", f"-DDETACH_EXTRA={int(detach_extra)}")
    return loader.KernelSource(tuple(_FOLDER / name for name in _FILES), options, flush_denormals=True)


@dataclass(frozen=True)
class Call:
    """One call's numbers."""

    settings: RasterSettings
    views: int
    gaussians: int
    extra: int
    sh_count: int
    detach_extra: bool
    device: torch.device

    @property
    def tiles(self) -> int:
        """Tiles of all views."""
        return self.views * self.settings.tiles_x * self.settings.tiles_y

    @property
    def record_floats(self) -> int:
        """Floats of a record, see common.cuh."""
        return 16 if self.extra <= 2 else 20

    @property
    def gradient_floats(self) -> int:
        """Floats of a record's gradient."""
        return 16 if self.extra <= 3 else 20

    @property
    def project_grid(self) -> tuple[int, int]:
        """Blocks of the kernels that run per Gaussian and view."""
        return loader.sizes_in_blocks(self.gaussians, PROJECT_THREADS), self.views

    def module(self) -> loader.KernelModule:
        """The kernels for this extent and number of extra channels."""
        source = kernel_source(self.extra, self.settings.extent == "exact", self.detach_extra)
        return loader.load(source, self.device).prepare(*_KERNELS)

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uninitialised memory on the call's device."""
        return torch.empty(shape, dtype=dtype, device=self.device)


@dataclass(frozen=True)
class TileLists:
    """Which Gaussians each tile sees, front to back."""

    capacity: int
    counts: Tensor  # [B * tiles] int32, may exceed the capacity
    keys: Tensor  # [B * tiles, capacity] int64: bits of the depth, index
    work_order: Tensor  # int32: tiles and, once they are blended, patches by how much work they are, see common.cuh


def rasterize_cuda(
    means: Tensor,  # [B, N, 3]
    scales: Tensor,  # [B, N, 3]
    quaternions: Tensor,  # [B, N, 4]
    opacities: Tensor,  # [B, N]
    sh: Tensor,  # [N, K, 3]
    world_to_camera: Tensor,  # [B, 4, 4]
    focal: Tensor,  # [B]
    background: Tensor,  # [B, 3]
    settings: RasterSettings,
    extra: Tensor,  # [B, N, E]
    means2d: Tensor | None = None,  # [B, N, 2]
    active_count: Tensor | None = None,  # [1] int32
    detach_extra: bool = False,
) -> RasterOutput:
    """`rasterize` on CUDA: arguments as the public door has checked and expanded them, float32, E at most 4.

    Args:
        active_count: on the device; only the first `active_count` Gaussians exist, so that a captured graph survives
            a change of their number. None: all N. (Inactive ones have radius 0 and zero gradients.)
        detach_extra: the extra channels send a gradient to `extra` alone, none to the geometry: maps that are
            rendered "with detached geometry" (METHOD.md section 4) ride along in the same pass.

    Raises:
        RasterizerError: more than 4 extra channels, or a first call inside a graph capture.
    """
    if extra.shape[-1] > MAX_EXTRA:
        raise RasterizerError(
            f"extra has {extra.shape[-1]} channels: backend='cuda' takes at most {MAX_EXTRA}; render in two calls"
        )
    call = Call(settings, means.shape[0], means.shape[1], extra.shape[2], sh.shape[1], detach_extra, means.device)
    if opacities.stride(-1) != 1:
        opacities = opacities.contiguous()
    inputs = (means, scales, quaternions, opacities, sh, extra, means2d)
    images = _Rasterize.apply(call, world_to_camera.contiguous(), focal.contiguous(), background, active_count, *inputs)
    return RasterOutput(*images)


class _Rasterize(torch.autograd.Function):
    """Colour, depth, normal, alpha, extra and radii, with the gradients of everything but the cameras."""

    @staticmethod
    def forward(ctx, call, world_to_camera, focal, background, active_count, *inputs):
        opacities = inputs[3]
        means, scales, quaternions, sh, extra, means2d = (
            tensor if tensor is None else tensor.contiguous() for tensor in (*inputs[:3], *inputs[4:])
        )
        needs_gradient = any(ctx.needs_input_grad)
        parameters = (means, scales, quaternions, opacities, sh, extra, means2d)
        records = call.empty(call.views, call.gaussians, call.record_floats)
        gradients = call.empty(call.views, call.gaussians, call.gradient_floats) if needs_gradient else None
        camera = (world_to_camera, focal, active_count)
        radii, lists = _project_and_sort(call, parameters, camera, records, gradients)
        images, final_state = _blend(call, records, lists, background)
        if needs_gradient:
            ctx.call, ctx.capacity = call, lists.capacity
            ctx.save_for_backward(
                means, scales, quaternions, sh, world_to_camera, focal, background, active_count, records, gradients,
                lists.counts, lists.keys, lists.work_order, images[2], final_state,
            )  # fmt: skip
        ctx.mark_non_differentiable(radii)
        ctx.set_materialize_grads(False)
        return *images, radii

    @staticmethod
    @once_differentiable
    def backward(ctx, *d_images):
        (
            means, scales, quaternions, sh, world_to_camera, focal, background, active_count, records, gradients,
            counts, keys, work_order, normal, final_state,
        ) = ctx.saved_tensors  # fmt: skip
        call, settings = ctx.call, ctx.call.settings
        module = call.module()
        d_images = [None if gradient is None else gradient.contiguous() for gradient in d_images[:5]]
        d_color, d_depth, d_normal, d_alpha, d_extra_image = d_images
        module.launch(
            "blend_backward", (call.tiles * BLOCKS_PER_TILE,), BLEND_THREADS,
            settings.width, settings.height, call.views, ctx.capacity, records, counts, keys, work_order,
            call.gaussians, background, background.stride(0), normal, final_state,
            d_color, d_depth, d_normal, d_alpha, d_extra_image if call.extra else None, gradients,
        )  # fmt: skip
        *_, needs_sh, needs_extra, needs_means2d = ctx.needs_input_grad
        d_means, d_scales, d_quaternions = (torch.empty_like(each) for each in (means, scales, quaternions))
        d_opacities = call.empty(call.views, call.gaussians)
        d_sh = call.empty(call.views, *sh.shape) if needs_sh else None
        d_extra = call.empty(call.views, call.gaussians, call.extra) if needs_extra else None
        d_means2d = call.empty(call.views, call.gaussians, 2) if needs_means2d else None
        module.launch(
            "project_backward", call.project_grid, PROJECT_THREADS,
            call.gaussians, active_count, settings.width, settings.height, float(settings.near), settings.sh_degree,
            call.sh_count, means, scales, quaternions, sh, world_to_camera, focal, records, gradients,
            d_means, d_scales, d_quaternions, d_opacities, d_sh, d_extra, d_means2d,
        )  # fmt: skip
        if d_sh is not None:
            d_sh = d_sh[0] if call.views == 1 else d_sh.sum(0)
        return None, None, None, None, None, d_means, d_scales, d_quaternions, d_opacities, d_sh, d_extra, d_means2d


def _project_and_sort(
    call: Call,
    parameters: tuple[Tensor | None, ...],
    camera: tuple[Tensor, Tensor, Tensor | None],
    records: Tensor,
    gradients: Tensor | None,
) -> tuple[Tensor, TileLists]:
    """Records, radii [B, N] and sorted lists; outside a capture, again with longer lists until every tile fits."""
    capturing = loader.is_capturing(call.device)
    radii = call.empty(call.views, call.gaussians, dtype=torch.int32)
    while True:
        flag = tiles.overflow_flag(call.device, capturing)
        lists = _fill_lists(call, parameters, camera, records, gradients, radii, flag)
        wanted = 0 if capturing else int(flag.item())
        if wanted == 0:
            return radii, lists
        tiles.reserve_tiles(call.device, wanted)


def _fill_lists(
    call: Call,
    parameters: tuple[Tensor | None, ...],
    camera: tuple[Tensor, Tensor, Tensor | None],
    records: Tensor,
    gradients: Tensor | None,
    radii: Tensor,
    overflow: Tensor,
) -> TileLists:
    means, scales, quaternions, opacities, sh, extra, means2d = parameters
    world_to_camera, focal, active_count = camera
    settings, module = call.settings, call.module()
    capacity = tiles.tile_capacity(call.device)
    # the lists' lengths, the sizes of the tiles' and the patches' bins, zeroed together; the bins' items
    zeroed, items = call.tiles + 2 * WORK_BINS, WORK_BINS * call.tiles * (1 + PATCHES_PER_TILE)
    numbers = call.empty(zeroed + items, dtype=torch.int32)
    numbers[:zeroed].zero_()
    lists = TileLists(
        capacity, numbers[: call.tiles], call.empty(call.tiles, capacity, dtype=torch.int64), numbers[call.tiles :]
    )
    assert opacities is not None
    opacity_stride = opacities.stride(0) if call.views > 1 else 0
    module.launch(
        "project_forward", call.project_grid, PROJECT_THREADS,
        call.gaussians, active_count, settings.width, settings.height, float(settings.near), settings.sh_degree,
        call.sh_count, opacity_stride, capacity, means, scales, quaternions, opacities, sh, extra, means2d,
        world_to_camera, focal, records, gradients, radii, lists.counts, lists.keys,
    )  # fmt: skip
    module.launch(
        "sort_tiles", (call.tiles,), SORT_THREADS,
        call.tiles, capacity, lists.counts, lists.keys, lists.work_order, overflow,
    )  # fmt: skip
    return lists


def _blend(call: Call, records: Tensor, lists: TileLists, background: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """The five images, and per pixel the state that the backward pass starts from."""
    settings = call.settings
    size = (settings.height, settings.width)
    images = tuple(call.empty(call.views, channels, *size) for channels in (3, 1, 3, 1, call.extra))
    final_state = call.empty(3, call.views, *size)
    if background.stride(-1) != 1:
        raise RasterizerError("background: give a contiguous [3] or [B, 3] tensor")
    call.module().launch(
        "blend_forward", (call.tiles * BLOCKS_PER_TILE,), BLEND_THREADS,
        settings.width, settings.height, call.views, lists.capacity, records, lists.counts, lists.keys,
        lists.work_order, call.gaussians, background, background.stride(0), *images, final_state,
    )  # fmt: skip
    return images, final_state
