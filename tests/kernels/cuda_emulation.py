"""Kernels on the CPU: compiles the CUDA sources with the host's C++ compiler against `cuda_emulator.h`.

`EmulatedModule` has `KernelModule`'s launch, so that the same Python that drives the GPU drives the emulation. The
fixtures `emulated` and `kernel_device` let the loader hand it out; on a machine with CUDA they run each test once more,
on the real kernels.
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

NO_COMPILER = "kernel emulation needs a C++ compiler (g++)"
NO_GPU = reason_missing()
LARGEST_NUMBER = 2**40  # an int64 above it is taken for an address

needs_compiler = pytest.mark.skipif(COMPILER is None and NO_GPU is not None, reason=NO_COMPILER)
needs_gpu = pytest.mark.skipif(NO_GPU is not None, reason=f"real kernels: {NO_GPU}")


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


class StagedModule:
    """The real kernels for tensors of the CPU: their storages go to the GPU for a launch, and come back.

    Addresses inside tensors and structures would be the CPU's: such tests take the fixture `kernel_device` instead.
    """

    reverse = False

    def __init__(self, source: object):
        from gaussian_rasterization.cuda import loader

        self._module = loader.KernelModule(source, torch.cuda.current_device())  # type: ignore[arg-type]
        self.launches: list[str] = []

    def prepare(self, *names: str, shared_bytes: int = 0) -> StagedModule:
        self._module.prepare(*names, shared_bytes=shared_bytes)
        return self

    def launch(self, name: str, grid: tuple[int, ...], block: int, *arguments: object, shared_bytes: int = 0) -> None:
        storages: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        values = [self._staged(argument, storages) for argument in arguments]
        self.launches.append(name)
        self._module.launch(name, grid, block, *values, shared_bytes=shared_bytes)
        for here, there in storages.values():
            here.copy_(there)

    @staticmethod
    def _staged(argument: object, storages: dict) -> object:
        if isinstance(argument, ctypes.Structure):
            pytest.skip("a structure of addresses cannot be staged")
        if not isinstance(argument, Tensor) or argument.numel() == 0:
            return argument
        if argument.dtype == torch.int64 and int(argument.max()) > LARGEST_NUMBER:
            pytest.skip("a table of addresses cannot be staged")
        here = argument.untyped_storage()
        _, there = storages.setdefault(here.data_ptr(), (here, here.cuda()))
        staged = torch.empty(0, dtype=argument.dtype, device="cuda")
        return staged.set_(there, argument.storage_offset(), argument.shape, argument.stride())


def _use(monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
    loader = pytest.importorskip("gaussian_rasterization.cuda.loader", reason="cuda-core is not installed")
    modules: dict[object, object] = {}
    monkeypatch.setattr(loader, "load", lambda source, device: modules.setdefault(source, kind(source)))


@pytest.fixture(params=["emulated", pytest.param("real", marks=needs_gpu)])
def emulated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type:
    """Within a test, kernels take CPU tensors: emulated, and, on a machine with CUDA, once more the real ones."""
    kind = EmulatedModule if request.param == "emulated" else StagedModule
    if kind is EmulatedModule and COMPILER is None:
        pytest.skip(NO_COMPILER)
    _use(monkeypatch, kind)
    return kind


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=needs_gpu)])
def kernel_device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The device of a test's tensors: the CPU, where kernels are emulated, and the GPU on a machine with one."""
    if request.param == "cpu":
        if COMPILER is None:
            pytest.skip(NO_COMPILER)
        _use(monkeypatch, EmulatedModule)
    return torch.device(request.param)
