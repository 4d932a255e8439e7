"""Rivals in one launch, and the contrast's kernel, emulated (on a GPU where there is one), against torch in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from raster_scenes import relative_error

from instag import losses
from instag.fields import rivals
from instag.fields.personalized import build_personalized_face, build_personalized_mouth

TOLERANCE = 5e-6
WIDTH, STEPS = 6, 2


def made(branch: str, count: int, frames: int, device: torch.device):
    """Fields with tri-planes that say something, points inside and outside their range, conditions."""
    torch.manual_seed(0)
    build = build_personalized_face if branch == "face" else build_personalized_mouth
    fields = [build(WIDTH, STEPS).to(device) for _ in range(count)]
    for field in fields:
        torch.nn.init.normal_(field.encoding.table)
    x = 0.35 * (torch.rand(70, 3, device=device) - 0.5)
    driver = [torch.rand(frames, 6, device=device)] if branch == "face" else []
    return fields, x, torch.randn(frames, 8, WIDTH, STEPS, device=device), driver


def exact(fields, x, window, driver):
    doubles = [copy.deepcopy(field).double() for field in fields]
    return rivals.rivals_d_mean_torch(doubles, x.double(), window.double(), *[each.double() for each in driver])


@pytest.mark.parametrize(("branch", "frames"), [("face", 1), ("face", 2), ("mouth", 2)])
def test_many_fields_as_one(device, monkeypatch, branch, frames) -> None:
    fields, x, window, driver = made(branch, 3, frames, device)
    truth = exact(fields, x, window, driver)
    monkeypatch.setattr(rivals.kernels, "usable", lambda *tensors: tensors[0].dtype == torch.float32)
    d_mean = rivals.rivals_d_mean(fields, x, window, *driver)
    assert d_mean.shape == (3, frames, 70, 3) and not d_mean.requires_grad
    assert relative_error(d_mean, truth) < TOLERANCE


@pytest.mark.parametrize("branch", ["face", "mouth"])
def test_chosen_ones_are_those_of_all(device, monkeypatch, branch) -> None:
    fields, x, window, driver = made(branch, 4, 2, device)
    which = torch.tensor([2, 0], device=device)
    for usable in (lambda *tensors: tensors[0].dtype == torch.float32, lambda *tensors: False):
        monkeypatch.setattr(rivals.kernels, "usable", usable)
        every = rivals.rivals_d_mean(fields, x, window, *driver)
        assert torch.equal(rivals.rivals_d_mean(fields, x, window, *driver, which=which), every[which])


def test_sees_what_an_optimiser_writes(device, monkeypatch) -> None:
    fields, x, window, driver = made("face", 2, 1, device)
    monkeypatch.setattr(rivals.kernels, "usable", lambda *tensors: tensors[0].dtype == torch.float32)
    before = rivals.rivals_d_mean(fields, x, window, *driver)
    with torch.no_grad():
        fields[1].decoder.layers[2].weight.mul_(2)
    after = rivals.rivals_d_mean(fields, x, window, *driver)
    assert torch.equal(before[0], after[0]) and torch.allclose(2 * before[1], after[1])


def test_contrast(device, monkeypatch) -> None:
    generator = torch.Generator().manual_seed(0)
    d_mean, others = torch.randn(2, 300, 3, generator=generator), torch.randn(4, 2, 300, 3, generator=generator)
    ours = d_mean.clone().to(device).requires_grad_()
    truth = d_mean.detach().double().to(device).requires_grad_()
    expected = 3 * losses.negative_contrast(truth, others.double().to(device))
    expected.backward()
    monkeypatch.setattr(rivals.kernels, "usable", lambda *tensors: True)
    loss = 3 * rivals.contrast(ours, others.to(device))
    loss.backward()
    assert relative_error(loss, expected) < TOLERANCE
    assert relative_error(ours.grad, truth.grad) < TOLERANCE


def test_without_a_gpu_they_are_asked_one_by_one() -> None:
    fields, x, window, driver = made("face", 2, 1, torch.device("cpu"))
    d_mean = rivals.rivals_d_mean(fields, x, window, *driver)
    assert relative_error(d_mean, exact(fields, x, window, driver)) < 1e-4
