"""Look-ups in several tables at once, emulated and on a GPU, against torch: the same bits."""

from __future__ import annotations

import pytest
import torch

from instag.data.audio import window_table
from instag.data.resident import take_rows_torch


def made(device, frames: int) -> list[torch.Tensor]:
    """What a step looks up: floats, integers of eight bytes, numbers, and windows that share memory."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(frames, 3, 5, generator=generator).to(device)
    return [
        torch.randn(frames, 23, generator=generator).to(device),
        torch.randint(-(1 << 40), 1 << 40, (frames, 4), generator=generator).to(device),
        torch.randint(-1, frames, (frames,), generator=generator).to(device),
        window_table(features, frames),
    ]


@pytest.mark.parametrize("chosen", [[4], [0, 8, 8, 3]])
def test_equals_torch(device, chosen) -> None:
    from instag.kernels.rows import take_rows_cuda

    tables, index = made(device, 9), torch.tensor(chosen, device=device)
    for some in (tables, tables[2:], tables[:1], [tables[0].t().contiguous().t()]):
        found = take_rows_cuda(index, *some)
        for mine, theirs in zip(found, take_rows_torch(index, *some), strict=True):
            assert mine.dtype == theirs.dtype and mine.is_contiguous() and torch.equal(mine, theirs)


def test_refuses_what_it_cannot_take(device) -> None:
    from gaussian_rasterization.cuda.loader import KernelError

    from instag.kernels.rows import take_rows_cuda

    index, table = torch.zeros(1, dtype=torch.int64, device=device), torch.zeros(2, device=device)
    for tables in ([table] * 5, [table.bool()], [torch.zeros(2, 1, 1, 1, 1, device=device)]):
        with pytest.raises(KernelError, match="look-ups"):
            take_rows_cuda(index, *tables)
