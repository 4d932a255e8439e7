"""The loader's bookkeeping, without a GPU."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from instag import kernels
from instag.fields.motion import build_face_field

loader = pytest.importorskip("gaussian_rasterization.cuda.loader", reason="cuda-core is not installed")


def test_a_smaller_launch_does_not_lower_what_a_larger_one_may_use(monkeypatch) -> None:
    granted: list[int] = []
    monkeypatch.setattr(loader, "_allow_shared_memory", lambda kernel, size, device: granted.append(size))
    module = object.__new__(loader.KernelModule)
    module.device_index, module._kernels, module._allowed = 0, {}, {}
    module._object = SimpleNamespace(get_kernel=lambda name: name)
    for size in (1_000, 60_000, 100_000, 60_000, 100_000, 1_000):
        assert module._kernel("blend", size) == "blend"
    assert granted == [60_000, 100_000]


def test_a_launch_goes_to_its_own_device_whichever_is_current(monkeypatch) -> None:
    current, launched = [0], []

    class Guard:
        def __init__(self, index):
            self.index = index

        def __enter__(self):
            self.before, current[0] = current[0], self.index

        def __exit__(self, *_):
            current[0] = self.before

    monkeypatch.setattr(loader.torch.cuda, "current_device", lambda: current[0])
    monkeypatch.setattr(loader.torch.cuda, "device", Guard)
    for name in ("_bind_context", "_current_stream"):
        monkeypatch.setattr(loader, name, lambda index: index)
    monkeypatch.setattr(loader, "launch", lambda stream, *_: launched.append((current[0], stream)))
    modules = [object.__new__(loader.KernelModule) for _ in range(2)]
    for index, module in enumerate(modules):
        module.device_index, module._kernels, module._allowed = index, {"add": "add"}, {}
    for index in (1, 0, 1, 1):  # torch has gone back to its own device each time
        modules[index].launch("add", (1,), 32)
        assert current == [0]
    assert launched == [(1, 1), (0, 0), (1, 1), (1, 1)]


@pytest.mark.skipif(torch.cuda.device_count() < 2 or kernels.reason_missing() is not None, reason="needs two GPUs")
def test_the_second_gpu_draws_what_the_first_one_draws() -> None:
    torch.manual_seed(0)
    field = build_face_field(74, 16)
    x, window, expression = torch.rand(5_000, 3) - 0.5, torch.randn(2, 8, 74, 16), torch.rand(2, 6)
    said = []
    for device in ("cuda:1", "cuda:0", "cuda:1"):  # with streams of their own, and torch's own device the first
        there = field.to(device)
        with torch.no_grad():
            moved = there(x.to(device), window.to(device), expression.to(device))
        said.append([each.cpu() for each in vars(moved).values() if isinstance(each, torch.Tensor)])
        assert torch.cuda.current_device() == 0
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*said, strict=True))
