"""The same rows of several tables in one kernel: twin of `instag.data.resident.take_rows_torch`."""

from __future__ import annotations

import ctypes

import torch
from gaussian_rasterization.cuda import loader
from torch import Tensor

from instag.kernels import modules

FILE = "rows.cu"
TABLES, INNER, THREADS = 4, 3, 256  # see rows.cu
WORD = 4  # bytes


class Table(ctypes.Structure):
    """See rows.cu."""

    _fields_ = [
        ("from_", ctypes.c_void_p), ("to", ctypes.c_void_p), ("row", ctypes.c_longlong),
        ("sizes", ctypes.c_int * INNER), ("strides", ctypes.c_int * INNER), ("words", ctypes.c_int),
    ]  # fmt: skip


class Tables(ctypes.Structure):
    """See rows.cu."""

    _fields_ = [("tables", Table * TABLES), ("index", ctypes.c_void_p), ("used", ctypes.c_int)]


def take_rows_cuda(index: Tensor, *tables: Tensor) -> list[Tensor]:
    """Rows `index` [B] (int64, not checked) of each table [T, ...], contiguous; no gradient.

    tables: at most 4, of four or eight bytes an element, any strides; a row has three dimensions at most, an element of
    eight bytes counting as one.
    """
    if len(tables) > TABLES:
        raise loader.KernelError(f"look-ups in {len(tables)} tables: the kernel takes at most {TABLES}")
    index = index.contiguous()
    given = Tables(index=index.data_ptr(), used=len(tables))
    found = [torch.empty(len(index), *table.shape[1:], dtype=table.dtype, device=index.device) for table in tables]
    for slot, table, rows in zip(given.tables, tables, found, strict=False):
        wide = table.element_size() // WORD
        sizes, strides = list(table.shape[1:]), [wide * stride for stride in table.stride()]
        if wide > 1:
            sizes, strides = [*sizes, wide], [*strides, 1]
        if table.element_size() not in (WORD, 2 * WORD) or len(sizes) > INNER:
            raise loader.KernelError(f"look-ups in a table of {table.dtype}, shape {list(table.shape)}: see rows.py")
        ahead = INNER - len(sizes)
        slot.from_, slot.to, slot.row = table.data_ptr(), rows.data_ptr(), strides[0]
        slot.sizes, slot.strides = (*(1,) * ahead, *sizes), (*(0,) * ahead, *strides[1:])
        slot.words = rows[0].numel() * wide if len(rows) else 0
    widest = max((slot.words for slot in given.tables), default=0)
    if widest:
        blocks = (loader.sizes_in_blocks(widest, THREADS), len(index))
        modules.module(index.device, FILE).prepare("take_rows").launch("take_rows", blocks, THREADS, given)
    return found
