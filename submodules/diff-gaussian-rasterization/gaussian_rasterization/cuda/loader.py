"""CUDA C++ sources to launched kernels: NVRTC through NVIDIA's `cuda-core`, cubins cached on disk, no nvcc.

    module = load(KernelSource((path_a, path_b), ("-DEXTRA=2",)), device)
    module.launch("kernel", grid, block, tensor, 3, 0.5)      # on torch's current stream; capturable

Ints go to the kernel as 32-bit `int`, floats as `float`, tensors and `None` as pointers. A `ctypes.Structure` goes by
value, as the only argument.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import torch
from cuda.bindings import nvrtc
from cuda.core import Device, LaunchConfig, ObjectCode, Program, ProgramOptions, Stream, launch
from torch import Tensor

CACHE_VARIABLE = "INSTAG_CACHE"  # environment variable that moves the cache
DIGEST_BYTES = 32  # a cached file is the SHA-256 of its code, then the code
STATIC_SHARED_BYTES = 48 * 1024  # beyond this a kernel must ask for dynamic shared memory
BASE_OPTIONS = ("-std=c++17", "-default-device")

Argument = Tensor | int | float | bool | ctypes.Structure | None


class KernelError(RuntimeError):
    """A kernel that cannot be compiled, loaded or launched; one line that names it and the remedy."""


@dataclass(frozen=True)
class KernelSource:
    """CUDA C++ files, compiled together in this order, with options such as -DNAME=VALUE."""

    files: tuple[Path, ...]
    options: tuple[str, ...] = ()
    flush_denormals: bool = False  # numbers below 1e-38 count as 0, which spares instructions in every exp

    @property
    def name(self) -> str:
        """For messages and the cache: the last file's."""
        return self.files[-1].stem

    def text(self) -> str:
        """The files behind one another; `#line` lets the compiler name the right one."""
        parts = [f'#line 1 "{path.name}"\n{path.read_text(encoding="utf-8")}' for path in self.files]
        return "\n".join(parts)


@dataclass(frozen=True)
class Target:
    """What to compile for."""

    architecture: str  # sm_90, or compute_90 for PTX that the driver finishes
    code_type: str  # cubin or ptx


@cache
def nvrtc_version() -> tuple[int, int]:
    """Version of the run-time compiler; it decides which architectures it knows."""
    status, major, minor = nvrtc.nvrtcVersion()
    _check_nvrtc(status)
    return major, minor


@cache
def supported_architectures() -> tuple[int, ...]:
    """Compute capabilities that this NVRTC compiles for, as 75, 80, ... ascending."""
    status, *rest = nvrtc.nvrtcGetSupportedArchs()
    _check_nvrtc(status)
    return tuple(sorted(int(arch) for arch in rest[-1]))


def _check_nvrtc(status: object) -> None:
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise KernelError(f"NVRTC answers {status}: reinstall nvidia-cuda-nvrtc and cuda-bindings of one CUDA version")


def target_for(capability: tuple[int, int]) -> Target:
    """Machine code for the GPU itself; for a GPU newer than this NVRTC, PTX of the newest architecture below it."""
    wanted = 10 * capability[0] + capability[1]
    known = supported_architectures()
    if wanted in known:
        return Target(f"sm_{wanted}", "cubin")
    older = [arch for arch in known if arch <= wanted]
    if not older:
        raise KernelError(
            f"GPU of compute capability {capability[0]}.{capability[1]}: NVRTC {'.'.join(map(str, nvrtc_version()))} "
            f"starts at {known[0]}; use backend='torch' or an older nvidia-cuda-nvrtc"
        )
    return Target(f"compute_{older[-1]}", "ptx")


def cache_folder() -> Path:
    """$INSTAG_CACHE/kernels, else $XDG_CACHE_HOME/instag/kernels, else ~/.cache/instag/kernels."""
    if CACHE_VARIABLE in os.environ:
        return Path(os.environ[CACHE_VARIABLE]) / "kernels"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "instag" / "kernels"


def compile_code(source: KernelSource, target: Target) -> bytes:
    """Compile, without the cache and without a GPU."""
    options = ProgramOptions(name=source.name, arch=target.architecture, ftz=source.flush_denormals)
    try:
        program = Program(source.text(), "c++", _with_flags(options, source.options))
        return bytes(program.compile(target.code_type).code)
    except Exception as error:  # cuda-core raises its own types, which changed between versions
        log = " | ".join(line for line in str(error).splitlines() if "error" in line.lower()) or str(error)
        raise KernelError(f"{source.name}: does not compile for {target.architecture}: {log}") from error


def _with_flags(options: ProgramOptions, flags: Sequence[str]) -> ProgramOptions:
    options.std = "c++17"
    options.device_as_default_execution_space = True
    options.define_macro = [_macro(flag) for flag in flags if flag.startswith("-D")] or None
    unknown = [flag for flag in flags if not flag.startswith("-D")]
    if unknown:
        raise KernelError(f"kernel option {unknown[0]!r}: give macros only, -DNAME=VALUE")
    return options


def _macro(flag: str) -> tuple[str, str]:
    name, _, value = flag[2:].partition("=")
    return name, value or "1"


def cached_code(source: KernelSource, target: Target) -> bytes:
    """Compiled code from the disk cache, or compiled now and stored; a damaged entry is compiled again."""
    text = source.text()
    key = hashlib.sha256()
    flags = (*source.options, str(source.flush_denormals), *BASE_OPTIONS)
    for part in (text, *flags, target.architecture, target.code_type, str(nvrtc_version())):
        key.update(part.encode() + b"\0")
    path = cache_folder() / f"{source.name}-{target.architecture}-{key.hexdigest()[:24]}.{target.code_type}"
    code = _read_entry(path)
    if code is None:
        code = compile_code(source, target)
        _write_entry(path, code)
    return code


def _read_entry(path: Path) -> bytes | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    code = content[DIGEST_BYTES:]
    return code if hashlib.sha256(code).digest() == content[:DIGEST_BYTES] else None


def _write_entry(path: Path, code: bytes) -> None:
    """Atomic: two processes may store the same entry, none ever reads half of it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(hashlib.sha256(code).digest() + code)
        os.replace(file.name, path)
    except OSError as error:
        warnings.warn(
            f"kernel cache {path.parent} is not writable ({error}); kernels are compiled anew in every process: "
            f"set {CACHE_VARIABLE} to a writable folder",
            stacklevel=2,
        )


_ahead: dict[tuple[KernelSource, Target], Future[bytes]] = {}


@contextmanager
def compiling(sources: Sequence[KernelSource], device: torch.device) -> Iterator[None]:
    """Meanwhile these sources are compiled in threads, in this order, where the disk cache lacks them.

    A module that is loaded meanwhile waits for its own source alone. NVRTC compiles in parallel and without Python's
    lock. What has not begun when the context is left is dropped.
    """
    target = target_for(torch.cuda.get_device_capability(device))
    pool = ThreadPoolExecutor(os.cpu_count())
    begun = {(source, target): pool.submit(cached_code, source, target) for source in sources}
    _ahead.update(begun)
    try:
        yield
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for key in begun:
            _ahead.pop(key, None)


class KernelModule:
    """Loaded code of one device. Launches go to torch's current stream of that device."""

    def __init__(self, source: KernelSource, device_index: int):
        self.source = source
        self.device_index = device_index
        target = target_for(torch.cuda.get_device_capability(device_index))
        begun = _ahead.get((source, target))
        code = begun.result() if begun is not None else cached_code(source, target)
        self._object = ObjectCode.from_cubin(code) if target.code_type == "cubin" else ObjectCode.from_ptx(code)
        self._kernels: dict[str, object] = {}
        self._allowed: dict[str, int] = {}  # bytes of dynamic shared memory that a kernel may be launched with

    def prepare(self, *names: str, shared_bytes: int = 0) -> KernelModule:
        """Load kernels now: the first launch inside a graph capture must not have to. Returns itself."""
        for name in names:
            self._kernel(name, shared_bytes)
        return self

    def launch(
        self,
        name: str,
        grid: tuple[int, ...],
        block: int,
        *arguments: Argument,
        shared_bytes: int = 0,
    ) -> None:
        """Queue one kernel. Tensors must be contiguous (or passed with their strides) and live on the device."""
        if torch.cuda.current_device() != self.device_index:  # the driver launches in whatever context is current
            with torch.cuda.device(self.device_index):
                return self.launch(name, grid, block, *arguments, shared_bytes=shared_bytes)
        _bind_context(self.device_index)
        kernel = self._kernel(name, shared_bytes)
        if arguments and isinstance(arguments[0], ctypes.Structure):
            _launch_structure(kernel, _current_stream(self.device_index), grid, block, shared_bytes, *arguments)
            return
        config = _config(grid, block, shared_bytes)
        launch(_current_stream(self.device_index), config, kernel, *map(_kernel_argument, arguments))

    def attributes(self, name: str) -> dict[str, int]:
        """Registers, local (spill) and static shared bytes of a kernel, for reports."""
        values = self._kernel(name, 0).attributes
        values = values[self.device_index] if hasattr(values, "__getitem__") else values
        return {key: getattr(values, key) for key in ("num_regs", "local_size_bytes", "shared_size_bytes")}

    def _kernel(self, name: str, shared_bytes: int) -> object:
        if name not in self._kernels:
            self._kernels[name] = self._object.get_kernel(name)
        kernel = self._kernels[name]
        if shared_bytes > self._allowed.get(name, STATIC_SHARED_BYTES):  # a limit, never lowered by a smaller launch
            _allow_shared_memory(kernel, shared_bytes, self.device_index)
            self._allowed[name] = shared_bytes
        return kernel


def _bind_context(device_index: int) -> None:
    """Make the device's context current in this thread.

    Autograd's backward thread has none until torch launches something in it, which a driver launch must not wait for.
    """
    if device_index not in _bound_devices():
        Device(device_index).set_current()
        _bound_devices().add(device_index)


def _bound_devices() -> set[int]:
    """Devices whose context this thread has had bound; where torch's device is that one, it is bound from then on."""
    if not hasattr(_threads, "devices"):
        _threads.devices = set()
    return _threads.devices


_threads = threading.local()


def _allow_shared_memory(kernel: object, shared_bytes: int, device_index: int) -> None:
    from cuda.bindings import driver

    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    _, device = driver.cuDeviceGet(device_index)
    (status,) = driver.cuKernelSetAttribute(attribute, shared_bytes, kernel.handle, device)  # type: ignore[attr-defined]
    if status != driver.CUresult.CUDA_SUCCESS:
        raise KernelError(f"{shared_bytes} bytes of shared memory: this GPU refuses ({status})")


def _launch_structure(
    kernel: object, stream: Stream, grid: tuple[int, ...], block: int, shared_bytes: int, structure: ctypes.Structure
) -> None:
    """A kernel whose one parameter is a structure, which cuda-core's `launch` does not take; copied by the driver."""
    from cuda.bindings import driver

    parameters = (ctypes.c_void_p * 1)(ctypes.addressof(structure))
    (status,) = driver.cuLaunchKernel(
        driver.CUfunction(int(kernel.handle)),  # type: ignore[attr-defined]
        *(*grid, 1, 1)[:3], block, 1, 1, shared_bytes,
        driver.CUstream(int(stream.handle)), ctypes.addressof(parameters), 0,
    )  # fmt: skip
    if status != driver.CUresult.CUDA_SUCCESS:
        raise KernelError(f"launch of {grid} blocks of {block} threads: the driver answers {status}")


@lru_cache(maxsize=1024)
def _config(grid: tuple[int, ...], block: int, shared_bytes: int) -> LaunchConfig:
    return LaunchConfig(grid=grid, block=block, shmem_size=shared_bytes)


@lru_cache(maxsize=64)
def _stream(handle: int) -> Stream:
    # torch's default stream has handle 0, CUDA's legacy default stream
    return Stream.from_handle(handle)


def _current_stream(device_index: int) -> Stream:
    return _stream(torch.cuda.current_stream(device_index).cuda_stream)


def _kernel_argument(value: Argument) -> object:
    if value is None:
        return 0
    if isinstance(value, Tensor):
        return value.data_ptr()
    if isinstance(value, float):
        return np.float32(value)
    return np.int32(value)


_modules: dict[tuple[KernelSource, int], KernelModule] = {}


def load(source: KernelSource, device: torch.device) -> KernelModule:
    """The loaded module of a source on a CUDA device; compiled at most once per machine, loaded once per process."""
    index = device.index if device.index is not None else torch.cuda.current_device()
    key = (source, index)
    if key not in _modules:
        if is_capturing(device):
            raise KernelError(f"{source.name}: not loaded yet; run the step once eagerly before capturing a CUDA graph")
        with torch.cuda.device(index):
            torch.cuda.current_stream(index).synchronize()  # makes torch create the device's context first
            _modules[key] = KernelModule(source, index)
    return _modules[key]


def is_capturing(device: torch.device) -> bool:
    """Whether work queued on this device now is being recorded into a CUDA graph instead of run."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def sizes_in_blocks(count: int, block: int) -> int:
    """Blocks that cover `count` threads; at least one, as CUDA knows no empty grid."""
    return max(1, -(-count // block))
