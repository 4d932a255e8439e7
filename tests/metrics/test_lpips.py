"""LPIPS on made weights: metric properties, files found and refused. (Real weights are not in the repository.)"""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from instag.errors import DataError
from instag.losses import patches
from instag.metrics.lpips import CONVOLUTIONS, LPIPS, SMALLEST, find_weights, load_lpips


def made_weights() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Random weights under the names of torchvision's AlexNet and of the lpips heads; heads are not negative."""
    generator = torch.Generator().manual_seed(0)
    trunk, heads = {}, {}
    for layer, (index, inputs, outputs, kernel, *_) in enumerate(CONVOLUTIONS):
        fan_in = inputs * kernel**2
        trunk[f"features.{index}.weight"] = (
            torch.randn(outputs, inputs, kernel, kernel, generator=generator) * (2 / fan_in) ** 0.5
        )
        trunk[f"features.{index}.bias"] = torch.zeros(outputs)
        heads[f"lin{layer}.model.1.weight"] = torch.rand(1, outputs, 1, 1, generator=generator)
    trunk["classifier.1.weight"] = torch.zeros(2, 2)  # the real file has a classifier too
    return trunk, heads


@pytest.fixture(scope="module")
def lpips() -> LPIPS:
    return LPIPS(*made_weights())


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, 70, 64, generator=generator), torch.rand(2, 3, 70, 64, generator=generator)


def test_distance_is_0_for_equal_images_symmetric_and_grows_with_noise(lpips, images):
    a, b = images
    assert lpips(a, a).tolist() == [0, 0]
    torch.testing.assert_close(lpips(a, b), lpips(b, a))
    assert lpips(a, b).shape == (2,)
    assert (lpips(a, b) > lpips(a, a + 0.1 * (b - a))).all()


def test_the_first_layer_sees_images_in_minus_1_to_1_normalised(lpips, images):
    a, _ = images
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1)
    first = torch.relu(lpips.convolutions[0]((2 * a - 1 - shift) / scale))
    torch.testing.assert_close(lpips.features(a)[0], first / (first.norm(dim=1, keepdim=True) + 1e-10))
    shapes = [tuple(f.shape[1:]) for f in lpips.features(a)]  # pooled before the second and the third convolution
    assert shapes == [(64, 16, 15), (192, 7, 7), (384, 3, 3), (256, 3, 3), (256, 3, 3)]


def test_patches_are_averaged_and_only_the_render_learns(lpips, images):
    render, target = (image.clone().requires_grad_() for image in images)
    distance = lpips.patches(render, target, SMALLEST)
    one_by_one = [lpips(a[None], b[None]) for a, b in zip(*(patches(i, SMALLEST) for i in images), strict=True)]
    torch.testing.assert_close(distance.detach(), torch.stack(one_by_one).mean())
    distance.backward()
    assert render.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in lpips.parameters())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_are_found_in_the_folder_that_the_environment_names(monkeypatch, tmp_path, lpips, images, suffix):
    for name, tensors in zip(("alexnet-owt-7be5be79", "lpips_alex"), made_weights(), strict=True):
        path = tmp_path / f"{name}{suffix}"
        torch.save(tensors, path) if suffix == ".pth" else save_file(tensors, path)
    monkeypatch.setenv("INSTAG_WEIGHTS", str(tmp_path))
    loaded = load_lpips()
    assert loaded is not None
    assert torch.equal(loaded(*images), lpips(*images))


def test_without_weights_the_term_is_off_and_says_where_to_put_them(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("INSTAG_WEIGHTS", str(tmp_path))
    assert find_weights() is None
    with caplog.at_level(logging.WARNING):
        assert load_lpips() is None
    assert str(tmp_path) in caplog.text
    torch.save(made_weights()[0], tmp_path / "alexnet.pth")  # the trunk alone is not enough
    assert find_weights() is None


class Payload:
    """An object whose unpickling leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("content", ["damaged", "other names", "other shapes", "code"])
def test_files_that_are_something_else_are_named(monkeypatch, tmp_path, content):
    trunk, heads = made_weights()
    torch.save(trunk, tmp_path / "alexnet.pth")
    path = tmp_path / "lpips_alex.pth"
    if content == "damaged":
        path.write_bytes(b"not a checkpoint")
    elif content == "other names":
        torch.save({"weight": torch.zeros(1)}, path)
    elif content == "other shapes":
        torch.save({name: value[:, :3] for name, value in heads.items()}, path)
    else:
        torch.save({"lin0.model.1.weight": Payload(tmp_path / "executed")}, path)
    monkeypatch.setenv("INSTAG_WEIGHTS", str(tmp_path))
    with pytest.raises(DataError, match="lpips_alex.pth") as error:
        load_lpips()
    assert "\n" not in str(error.value)
    assert not (tmp_path / "executed").exists()
