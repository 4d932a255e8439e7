"""Kernels compiled ahead: in parallel, handed to who loads them, dropped with an error; a run needs no others."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from instag.api import adapt_subject
from instag.config_io import load_config
from instag.kernels import ahead, reason_missing

loader = pytest.importorskip("gaussian_rasterization.cuda.loader", reason="cuda-core is not installed")
HOPPER = (9, 0)
SLOW_IMPORTS = ("numba", "scipy.spatial", "torch._dynamo", "torch.fx.experimental.symbolic_shapes")  # .15 to 1.6 s


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Two sources, an empty cache, and a GPU of which only the capability is known."""
    monkeypatch.setenv(loader.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: HOPPER)
    monkeypatch.setattr(loader.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(loader, "ObjectCode", SimpleNamespace(from_cubin=lambda code: code))
    return [loader.KernelSource((Path(f"{name}.cu"),)) for name in "ab"]


def test_sources_are_compiled_at_the_same_time_and_once(made, monkeypatch):
    together = threading.Barrier(2, timeout=20)

    def compiled(source, target):
        together.wait()
        return source.name.encode()

    monkeypatch.setattr(loader.KernelSource, "text", lambda source: source.name)
    monkeypatch.setattr(loader, "compile_code", compiled)
    with loader.compiling(made, torch.device("cuda")):
        assert [loader.KernelModule(source, 0)._object for source in made] == [b"a", b"b"]
    assert not loader._ahead and together.n_waiting == 0
    assert loader.KernelModule(made[0], 0)._object == b"a"  # from the disk


def test_an_error_comes_where_the_module_is_loaded(made, monkeypatch):
    def failing(source, target):
        raise loader.KernelError(f"{source.name}: does not compile")

    monkeypatch.setattr(loader, "cached_code", failing)
    with loader.compiling(made, torch.device("cuda")), pytest.raises(loader.KernelError, match="b: does not"):
        loader.KernelModule(made[1], 0)


def test_what_has_not_begun_is_dropped_after_an_error(made, monkeypatch):
    begun, go_on = [], threading.Event()

    def slow(source, target):
        begun.append(source)
        go_on.wait(20)
        return b""

    monkeypatch.setattr(loader, "cached_code", slow)
    monkeypatch.setattr(loader.os, "cpu_count", lambda: 1)
    with pytest.raises(ZeroDivisionError), loader.compiling(made, torch.device("cuda")):
        1 / 0  # noqa: B018
    go_on.set()
    assert begun in ([], made[:1]) and not loader._ahead


@pytest.mark.parametrize("pretraining", [False, True])
def test_older_gpus_have_no_heads_to_compile(pretraining, monkeypatch):
    from instag.kernels import modules

    model = load_config("adapt").model
    names = [source.name for source in ahead.sources(model, torch.device("cpu"), pretraining)]
    assert names.count("motion_head_backward") == names.count("motion_head_forward") == 4
    assert names.count("hash_grid") == 2 and "audio_encoder" in names
    monkeypatch.setattr(modules, "capability", lambda device: (7, 5))
    older = ahead.sources(model, torch.device("cpu"), pretraining)
    assert [source.name for source in older if source.name.startswith("motion_head")] == []


@pytest.mark.skipif(reason_missing() is not None, reason=f"needs a GPU: {reason_missing()}")
def test_a_run_loads_nothing_else(made_subject, tmp_path, monkeypatch):
    few = [f"training.{stage}.iterations=6" for stage in ("face", "mouth", "fuse")]
    few += [
        "training.face.align_from=1",
        "training.mouth.align_from=1",
        "training.face.prior_from=2",
        "training.face.depth_pause=[3000,0]",
    ]
    monkeypatch.setattr(loader, "_modules", {})
    adapt_subject(made_subject, tmp_path / "run", "adapt", few, "cuda", universal="none", progress=False)
    listed = ahead.sources(load_config("adapt").model, torch.device("cuda", 0))
    assert {source for source, _ in loader._modules} == set(listed)


@pytest.mark.skipif(reason_missing() is not None, reason=f"needs a GPU: {reason_missing()}")
def test_a_run_imports_nothing_that_takes_long(made_subject, tmp_path):
    program = (
        "import sys; from instag.cli import main; main(sys.argv[1:]); "
        f"print([name for name in {SLOW_IMPORTS} if name in sys.modules])"
    )
    few = [f"--set=training.{stage}.iterations=6" for stage in ("face", "mouth", "fuse")]
    command = ["adapt", str(made_subject), str(tmp_path / "run"), "--preset", "adapt_fast", "--universal", "none", *few]
    done = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
