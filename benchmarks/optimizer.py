"""Optimiser and moving average on a GPU: one step over all tensors of a stage, beside torch's own.

python3 benchmarks/optimizer.py [--out FILE]      # no data needed
"""

from __future__ import annotations

import timing
import torch
from timing import kernel_times, timed
from torch import Tensor

from instag.fields.motion import build_face_field
from instag.kernels.adam import FusedAdam, average_cuda, step_together

DEVICE = torch.device("cuda", 0)
GAUSSIANS = (15_000, 30_000)
WIDTH, STEPS = 74, 16  # phone-mel
SH_REST = 15  # coefficients of degree 3 without the first


def made_parameters(gaussians: int) -> tuple[list[Tensor], list[Tensor]]:
    """Structure and face field, with gradients."""
    torch.manual_seed(0)
    shapes = [(3,), (1, 3), (SH_REST, 3), (1,), (3,), (4,)]
    structure = [torch.randn(gaussians, *shape, device=DEVICE).requires_grad_() for shape in shapes]
    field = list(build_face_field(WIDTH, STEPS).to(DEVICE).parameters())
    for parameter in (*structure, *field):
        parameter.grad = torch.randn_like(parameter)
    return structure, field


def adam() -> dict:
    """Six groups of a structure, the field's tensors in AdamW; both optimisers in one launch, one after the other."""
    result = {}
    for gaussians in GAUSSIANS:
        structure, field = made_parameters(gaussians)
        groups = [{"params": [parameter]} for parameter in structure]
        ours = [FusedAdam(groups, lr=1e-3), FusedAdam(field, lr=1e-3, decoupled=True)]
        options = {"lr": 1e-3, "fused": True, "capturable": True}
        theirs = [torch.optim.Adam(groups, **options), torch.optim.AdamW(field, **options)]

        def together(ours=ours) -> None:
            step_together(ours)

        def apart(optimizers=ours) -> None:
            for optimizer in optimizers:
                optimizer.step()

        def plain(optimizers=theirs) -> None:
            apart(optimizers)

        values = sum(parameter.numel() for parameter in (*structure, *field))
        result[f"{gaussians} Gaussians"] = {
            "values": values,
            "tensors": len(structure) + len(field),
            "together": timed(together),
            "apart": timed(apart),
            "torch fused": timed(plain),
            "kernels_us": kernel_times(together),
        }
    return result


def average() -> dict:
    """Moving average of a face field."""
    _, field = made_parameters(1)
    values, share = [parameter.detach() for parameter in field], torch.tensor(0.01, device=DEVICE)
    means = [value.clone() for value in values]

    def ours() -> None:
        average_cuda(means, values, share)

    def loop() -> None:
        for mean, value in zip(means, values, strict=True):
            mean.lerp_(value, share)

    return {"face field": {"ours": timed(ours), "torch": timed(loop), "kernels_us": kernel_times(ours)}}


if __name__ == "__main__":
    timing.run_parts(__doc__, {"adam": adam, "average": average})
