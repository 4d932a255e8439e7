"""Every CUDA source compiles with NVRTC for every GPU we promise; the loader's cache survives damage."""

from __future__ import annotations

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from ctypes.util import find_library
from pathlib import Path

import pytest
import torch

loader = pytest.importorskip("gaussian_rasterization.cuda.loader", reason="cuda-core is not installed")

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
EACH_COMMIT = ("sm_75", "sm_90", "sm_120")  # oldest, of data centres, newest; the others are `slow`
SWEEP = [each if each in EACH_COMMIT else pytest.param(each, marks=pytest.mark.slow) for each in ARCHITECTURES]

# every specialisation of the rasterizer once, each on another GPU
VARIANTS = [(2, True, True), (0, True, False), (4, False, False), (3, True, True), (1, True, False), (2, True, False)]
HEADS_FROM = 1  # index of the oldest architecture with tf32 products, which the heads need
HEAD_WARPS = (8, 4, 2)


def sources(variant: int) -> list[loader.KernelSource]:
    """All kernel files; those with compile-time options in one of their forms."""
    from gaussian_rasterization.cuda.rasterizer import kernel_source

    from instag.fields.encoding import REFERENCE_FACE, REFERENCE_MOUTH, grid_layout
    from instag.kernels import FOLDER, audio_encoder, hash_grid
    from instag.kernels.modules import source

    grid = grid_layout(*(REFERENCE_FACE, REFERENCE_MOUTH)[variant % 2])
    formed = [
        source("hash_grid.cu", *hash_grid.macros(grid)),
        source("audio_encoder.cu", *audio_encoder.macros(*((74, 16, 32), (1024, 2, 128))[variant % 2])),
    ]
    if variant >= HEADS_FROM:
        formed += head_sources(variant - HEADS_FROM, HEAD_WARPS[0])  # six of each
    names = {each.name for each in formed} | {"motion_head_backward", "motion_head_forward"}
    plain = [source(path.name) for path in sorted(FOLDER.glob("*.cu")) if path.stem not in names]
    return [kernel_source(*VARIANTS[variant % len(VARIANTS)]), *formed, *plain]


def head_sources(head: int, warps: int) -> list[loader.KernelSource]:
    from instag.kernels.modules import source
    from instag.kernels.motion_head import BACKWARD, FORWARD, HEADS

    return [source(BACKWARD, *HEADS[head].macros(warps)), source(FORWARD, *HEADS[head].macros(2 * warps))]


def assert_compile(sources: list[loader.KernelSource], architecture: str) -> None:
    if int(architecture[3:]) not in loader.supported_architectures():
        pytest.skip(f"NVRTC {loader.nvrtc_version()} does not know {architecture}")
    target = loader.Target(architecture, "cubin")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        codes = list(pool.map(lambda source: loader.compile_code(source, target), sources))
    assert all(code[:4] == b"\x7fELF" for code in codes)


@pytest.mark.parametrize("architecture", SWEEP)
def test_compiles(architecture: str) -> None:
    assert_compile(sources(ARCHITECTURES.index(architecture)), architecture)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES[HEADS_FROM:])
def test_every_head_compiles(architecture: str) -> None:
    from instag.kernels.motion_head import HEADS

    forms = [(0, warps) for warps in HEAD_WARPS] + [(head, HEAD_WARPS[0]) for head in range(1, len(HEADS))]
    assert_compile([source for form in forms for source in head_sources(*form)], architecture)


def test_every_file_is_compiled() -> None:
    from gaussian_rasterization.cuda import rasterizer

    from instag.kernels import FOLDER

    compiled = {path for source in sources(HEADS_FROM) for path in source.files}
    folders = (FOLDER, Path(rasterizer.__file__).parent)
    assert {path for folder in folders for path in folder.glob("*.cu*")} - compiled == set()


def made_source(folder: Path, body: str) -> loader.KernelSource:
    path = folder / "made.cu"
    path.write_text('extern "C" __global__ void made(float* x) { ' + body + " }")
    return loader.KernelSource((path,), ("-DVALUE=3",))


TARGET = loader.Target("sm_80", "cubin")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(loader.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "kernels"


def test_error_names_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(loader.KernelError, match=r"made.*sm_80.*made\.cu\(1\).*nonsense"):
        loader.compile_code(made_source(tmp_path, "nonsense;"), TARGET)


def test_cache_keeps_and_repairs(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = made_source(tmp_path, "*x = VALUE;")
    code = loader.cached_code(source, TARGET)
    (entry,) = cache.iterdir()
    stored = entry.read_bytes()

    monkeypatch.setattr(loader, "compile_code", lambda *_: pytest.fail("compiled although cached"))
    assert loader.cached_code(source, TARGET) == code
    monkeypatch.undo()
    monkeypatch.setenv(loader.CACHE_VARIABLE, str(cache.parent))

    for damage in (stored[:-1], stored[: len(stored) // 2], b"", stored[:-1] + bytes([stored[-1] ^ 1])):
        entry.write_bytes(damage)
        assert loader.cached_code(source, TARGET) == code
        assert entry.read_bytes() == stored
    assert list(cache.iterdir()) == [entry]


def test_key_covers_text_options_and_target(tmp_path: Path, cache: Path) -> None:
    source = made_source(tmp_path, "*x = VALUE;")
    loader.cached_code(source, TARGET)
    loader.cached_code(loader.KernelSource(source.files, ("-DVALUE=4",)), TARGET)
    loader.cached_code(source, loader.Target("sm_86", "cubin"))
    loader.cached_code(made_source(tmp_path, "*x = VALUE + 1;"), TARGET)
    assert len(list(cache.iterdir())) == 4


def test_unwritable_cache_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(loader.CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="not writable.*INSTAG_CACHE"):
        assert loader.cached_code(made_source(tmp_path, "*x = VALUE;"), TARGET)


def test_target_falls_back_to_ptx_of_an_older_architecture() -> None:
    newest = loader.supported_architectures()[-1]
    assert loader.target_for((9, 0)) == loader.Target("sm_90", "cubin")
    assert loader.target_for((newest // 10 + 3, 0)) == loader.Target(f"compute_{newest}", "ptx")
    with pytest.raises(loader.KernelError, match="compute capability 3.5"):
        loader.target_for((3, 5))


def test_ptx_compiles(tmp_path: Path) -> None:
    if find_library("cuda") is None:
        pytest.skip("cuda-core asks the driver before it compiles to PTX, and there is none")
    assert b".version" in loader.compile_code(made_source(tmp_path, "*x = VALUE;"), loader.Target("compute_80", "ptx"))


def test_unknown_option_is_refused(tmp_path: Path) -> None:
    source = loader.KernelSource(made_source(tmp_path, "*x = 1;").files, ("--use_fast_math",))
    with pytest.raises(loader.KernelError, match="use_fast_math"):
        loader.compile_code(source, TARGET)


def test_no_gpu_needed_to_import() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not loader.is_capturing(torch.device("cpu"))
