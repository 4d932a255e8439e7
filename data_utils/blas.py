"""One thread for numpy's linear algebra: the same bits on any number of cores, and no threads that wait in circles.

OpenBLAS takes a thread a core, whose sums are rounded in another order; on two cores a fit of poses beside another step
took 4.3 s, with one thread 2.3 s.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path

import numpy as np

LIBRARY = "libscipy_openblas64_*"  # in numpy's wheels, beside the package
PREFIX, SUFFIX = "scipy_openblas_", "_num_threads64_"  # of its functions


def set_blas_threads(count: int) -> int:
    """Threads from now on, in this process. Returns the number until now; 0 where numpy brings no OpenBLAS of its own,
    and then nothing is changed."""
    found = sorted((Path(np.__file__).parents[1] / "numpy.libs").glob(LIBRARY))
    if not found:
        return 0
    library = ctypes.CDLL(str(found[0]))  # numpy has it open already
    before = int(getattr(library, f"{PREFIX}get{SUFFIX}")())
    getattr(library, f"{PREFIX}set{SUFFIX}")(count)
    return before


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """For what is inside; afterwards as before."""
    before = set_blas_threads(1)
    try:
        yield
    finally:
        if before:
            set_blas_threads(before)
