"""The loader's bookkeeping, without a GPU."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

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
