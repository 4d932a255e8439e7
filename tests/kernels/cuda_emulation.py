"""Kernels on the CPU: compiles the CUDA sources with the host's C++ compiler against `cuda_emulator.h`.

`EmulatedModule` has `KernelModule`'s launch, so that the same Python that drives the GPU drives the emulation:
the fixture `emulated` lets the loader hand it out for CPU tensors. The fixture `device` runs a test twice: emulated,
and with the real kernels where there is a GPU.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from instag.kernels import reason_missing

COMPILER = shutil.which("g++") or shutil.which("c++")
HEADER = Path(__file__).with_name("cuda_emulator.h")
KERNEL = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\([^()]*(?:\([^()]*\)[^()]*)*\)\s*)?(\w+)\s*\(")


class EmulatedModule:
    """The kernels of one source, as ordinary functions; `reverse` runs the lanes of every warp backwards."""

    reverse = False

    def __init__(self, source: object):
        self._library = _build(source.text(), source.options)  # type: ignore[attr-defined]
        self.launches: list[str] = []

    def prepare(self, *names: str, shared_bytes: int = 0) -> EmulatedModule:
        for name in names:
            self._function(name)
        return self

    def launch(self, name: str, grid: tuple[int, ...], block: int, *arguments: object, shared_bytes: int = 0) -> None:
        values = [_c_value(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(*[ctypes.addressof(value) for value in values])
        sizes = (ctypes.c_uint * 3)(*grid, *(1,) * (3 - len(grid)))
        self.launches.append(name)
        self._function(name)(sizes, block, shared_bytes, int(self.reverse), pointers)

    def _function(self, name: str) -> object:
        return getattr(self._library, f"emulate_{name}")


def _c_value(argument: object) -> object:
    if argument is None:
        return ctypes.c_void_p(0)
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, ctypes.Structure):
        return argument
    return ctypes.c_float(argument) if isinstance(argument, float) else ctypes.c_int(int(argument))  # type: ignore


@cache
def _build(text: str, options: tuple[str, ...]) -> ctypes.CDLL:
    assert COMPILER is not None
    exports = "\n".join(f"EXPORT_KERNEL({name})" for name in KERNEL.findall(text))
    unit = f'#include "{HEADER}"\n{text}\n{exports}\n'
    key = hashlib.sha256((unit + HEADER.read_text() + " ".join(options)).encode()).hexdigest()[:16]
    library = Path(tempfile.gettempdir()) / f"instag-emulated-{key}.so"
    if not library.exists():
        source = library.with_suffix(".cpp")
        source.write_text(unit)
        flags = ["-O1", "-std=c++17", "-shared", "-fPIC", "-w", "-ffp-contract=fast", "-U_FORTIFY_SOURCE"]
        partial = str(library.with_suffix(f".{os.getpid()}.partial"))
        command = [COMPILER, *flags, *options, str(source), "-o", partial]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:4000]
        Path(partial).replace(library)
    return ctypes.CDLL(str(library))


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> type[EmulatedModule]:
    """Within a test, the kernels run emulated, on CPU tensors."""
    if COMPILER is None:
        pytest.skip("kernel emulation needs a C++ compiler (g++)")
    loader = pytest.importorskip("gaussian_rasterization.cuda.loader", reason="cuda-core is not installed")
    modules: dict[object, EmulatedModule] = {}

    def load(source: object, device: torch.device) -> EmulatedModule:
        return modules.setdefault(source, EmulatedModule(source))

    monkeypatch.setattr(loader, "load", load)
    return EmulatedModule


@pytest.fixture(params=["emulated", "gpu"])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The CPU with the kernels emulated; the GPU with the kernels themselves."""
    if request.param == "emulated":
        request.getfixturevalue("emulated")
        return torch.device("cpu")
    if reason := reason_missing():
        pytest.skip(f"the real kernels: {reason}")
    return torch.device("cuda", 0)
