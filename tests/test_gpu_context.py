"""The driver's context, begun before torch: what is asked of the driver, and that its absence is nobody's error."""

import ctypes
import subprocess
import sys

import pytest

from instag import gpu_context

NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


class Driver:
    """Stands in for the driver's library; notes its calls, answers `status`."""

    def __init__(self, status=0):
        self.calls, self.status = [], status

    def cuInit(self, flags):
        self.calls.append("init")
        return self.status

    def cuDeviceGet(self, device, number):
        self.calls.append(number)
        device._obj.value = 10 + number
        return 0

    def cuDevicePrimaryCtxRetain(self, context, device):
        self.calls.append(("retain", device.value))
        return 0


def begin(monkeypatch, device, driver):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    thread = gpu_context.begin_context(device)
    if thread is not None:
        thread.join(10)
    return driver.calls


@pytest.mark.parametrize(("device", "number"), [("auto", 0), ("cuda", 0), ("cuda:2", 2), ("1", 1)])
def test_the_context_of_the_device_that_torch_will_use(monkeypatch, device, number):
    assert begin(monkeypatch, device, Driver()) == ["init", number, ("retain", 10 + number)]


@pytest.mark.parametrize("device", ["cpu", "tpu", "cuda:x", ""])
def test_other_devices_touch_no_driver(monkeypatch, device):
    assert begin(monkeypatch, device, Driver()) == []


def test_a_machine_without_gpu_or_driver_is_left_alone(monkeypatch):
    assert begin(monkeypatch, "auto", Driver(NO_DEVICE)) == ["init"]
    monkeypatch.setattr(gpu_context, "DRIVER", "no-such-driver.so")
    monkeypatch.undo()
    gpu_context._make_context(0)


def test_a_verb_begins_it_before_anything_imports_torch():
    code = (
        "import sys; from instag import cli, gpu_context\n"
        "cli.begin_context = lambda device: print(device, 'torch' in sys.modules)\n"
        "cli.import_method = lambda: None; cli.Adapt.run = cli.Pack.run = lambda verb: None\n"
        "cli.main(['adapt', 'a', 'b', '--device', '1']); cli.main(['pack', 'a'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["1 False"]
