"""A GPU's context, made by its driver while Python imports torch: the two need each other no more than that."""

from __future__ import annotations

import ctypes
import threading
from contextlib import suppress

DRIVER = "libcuda.so.1"


def begin_context(device: str) -> threading.Thread | None:
    """Start making, in a thread, the context that torch is going to use and would else make when first asked for it.

    Without a driver or a GPU nothing happens: whoever needs one says so later.

    Args:
        device: as `instag.api.resolve_device` takes it.

    Returns:
        The thread; None where there is nothing to do.
    """
    number = {"auto": "0", "cuda": "0"}.get(device, device.removeprefix("cuda:"))
    if not number.isdecimal():
        return None
    thread = threading.Thread(target=_make_context, args=(int(number),), daemon=True)
    thread.start()
    return thread


def _make_context(number: int) -> None:
    """Retain the primary context, which the CUDA runtime shares; each call lets go of Python's lock."""
    with suppress(OSError):  # no driver here
        driver = ctypes.CDLL(DRIVER)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(device), number) == 0:
            driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
