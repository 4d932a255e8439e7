"""The photometric loss on a GPU: L1 + SSIM, forward + backward, beside its torch twin.

python3 benchmarks/loss.py [--out FILE]      # no data needed
"""

from __future__ import annotations

import timing
import torch
from timing import kernel_times, timed

from instag.kernels.l1_ssim import photometric_cuda
from instag.losses import photometric_torch

DEVICE = torch.device("cuda", 0)
SIZES = ((1, 512), (4, 512), (1, 1024))  # frames, pixels of an edge


def l1_ssim() -> dict:
    """Frames of 3 channels."""
    result = {}
    for frames, size in SIZES:
        generator = torch.Generator().manual_seed(0)
        target = torch.rand(frames, 3, size, size, generator=generator)
        noise = 0.1 * torch.randn(target.shape, generator=generator)
        target, render = target.to(DEVICE), (target + noise).clamp(0, 1).to(DEVICE).requires_grad_()

        def both(render=render, target=target):
            return torch.autograd.grad(photometric_cuda(render, target).sum(), render)

        def plain(render=render, target=target):
            return torch.autograd.grad(photometric_torch(render, target), render)

        result[f"{frames} x 3 x {size} x {size}"] = {
            "forward_backward": timed(both),
            "torch": timed(plain),
            "kernels_us": kernel_times(both),
        }
    return result


if __name__ == "__main__":
    timing.run_parts(__doc__, {"l1_ssim": l1_ssim})
