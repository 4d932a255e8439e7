"""`instag doctor`: a page that a person can act on."""

import re

import pytest
import torch

from instag import doctor
from instag.version import __version__


def test_the_page_says_what_is_here():
    text = doctor.report()
    assert text.startswith(f"instag {__version__}, Python ")
    assert re.search(rf"torch {re.escape(torch.__version__)}", text)
    for part in ("CPU:", "GPU", "rasterizer back ends", "packages:", "weights:"):
        assert part in text
    assert re.search(r"^  torch +ok", text, re.MULTILINE)
    assert all(len(line) <= 120 for line in text.splitlines())


@pytest.mark.parametrize("name", doctor.OPTIONAL)
def test_what_is_absent_comes_with_a_remedy(monkeypatch, name):
    present = doctor._present
    monkeypatch.setattr(doctor, "_present", lambda other: other != name and present(other))
    packages = doctor.report().split("packages:")[1]
    line = next(line for line in packages.splitlines() if re.match(rf"  {re.escape(name)} ", line))
    use, remedy = doctor.OPTIONAL[name]
    assert "absent" in line and use in line and remedy in line


def test_the_verdict_names_what_processing_needs(monkeypatch):
    monkeypatch.setattr(doctor, "_present", lambda name: True)
    assert "bash scripts/demo.sh" in doctor.report().splitlines()[-1]
    monkeypatch.setattr(doctor, "_present", lambda name: name not in ("mediapipe", "av"))
    assert doctor.report().splitlines()[-1].endswith("needs: mediapipe, av.")


def test_gpus_are_named(monkeypatch):
    class Card:
        name, total_memory, major, minor = "Test Card", 80 << 30, 9, 0

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: Card)
    assert doctor._gpus() == [f"GPU {i}: Test Card, 80 GiB, sm_90" for i in (0, 1)]


def test_universal_weights_are_reported(monkeypatch, tmp_path):
    line = next(line for line in doctor.report().splitlines() if "universal" in line)
    assert "absent" in line or "phone-mel" in line
    monkeypatch.setattr(doctor, "shipped", lambda extractor: tmp_path / f"{extractor}.safetensors")
    line = next(line for line in doctor.report().splitlines() if "universal" in line)
    assert "phone-mel" in line and "hubert" in line
    monkeypatch.setattr(doctor, "shipped", lambda extractor: None)
    line = next(line for line in doctor.report().splitlines() if "universal" in line)
    assert "instag pretrain" in line
