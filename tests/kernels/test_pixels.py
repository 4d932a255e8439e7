"""Pixel terms: the torch twin's, and kernels, emulated and on a GPU, against it in float64; with the stages' rules."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from gaussian_rasterization import RasterOutput
from raster_scenes import relative_error

from instag.camera import Camera
from instag.data.frame import Condition, FrameBatch, GeometryPrior, PictureRows
from instag.data.layout import Label
from instag.data.resident import CompactPriors
from instag.losses_pixels import (
    HAIR,
    HEAD_AND_HAIR,
    IN_LIPS,
    MOUTH,
    SKIN,
    AttentionRule,
    PixelRules,
    compare_torch,
    mask,
    region,
)

VIEWS, STORED, HEIGHT, WIDTH = 2, 3, 37, 45
LIPS = AttentionRule("lips", IN_LIPS, 0.0, 1e-3)
FACE = PixelRules(HEAD_AND_HAIR, 0, HEAD_AND_HAIR, 0.1, (LIPS, AttentionRule("hair", HAIR, 2e-3, 1e-3)))
RULES = {
    "face": FACE,
    "no hair": PixelRules(SKIN, HAIR, HEAD_AND_HAIR, 0.1, (LIPS,)),
    "prior": PixelRules(
        HEAD_AND_HAIR, HAIR, HEAD_AND_HAIR, 0.1, (LIPS,), HEAD_AND_HAIR, normal=0.5, depth_region=SKIN, depth=0.3
    ),
    "mouth": PixelRules(MOUTH, IN_LIPS ^ MOUTH, IN_LIPS, 0.2),
    "face's matte": PixelRules(HEAD_AND_HAIR, 0, HEAD_AND_HAIR, 0.1, (LIPS,), matte=0.5, matte_lips=4.0),
    "matte, no hair": PixelRules(SKIN, HAIR, HEAD_AND_HAIR, 0.1, (LIPS,), HEAD_AND_HAIR, normal=0.5, matte=0.5),
    "mouth's matte": PixelRules(MOUTH, IN_LIPS ^ MOUTH, IN_LIPS, 0.2, matte=0.3),
}
MATTE = [name for name, rules in RULES.items() if rules.matte]


@pytest.fixture
def frames() -> FrameBatch:
    return made_frames(torch.device("cpu"))


def made_frames(device: torch.device) -> FrameBatch:
    generator = torch.Generator().manual_seed(0)

    def integers(low: int, high: int, *shape: int) -> torch.Tensor:
        made = torch.randint(low, high, (STORED, HEIGHT, WIDTH, *shape), generator=generator, dtype=torch.uint8)
        return made.to(device)

    labels, row = integers(0, len(Label)), torch.tensor([2, 0], device=device)
    store = CompactPriors(labels)
    for i in range(STORED):
        normal = torch.nn.functional.normalize(torch.randn(1, 3, HEIGHT, WIDTH, generator=generator), dim=1)
        valid = torch.rand(1, 1, HEIGHT, WIDTH, generator=generator) > 0.3
        valid[..., 5, :] = False  # a row without any
        valid[..., 6, 1:] = False
        store.put(i, GeometryPrior(1 + torch.rand(1, 1, HEIGHT, WIDTH, generator=generator), normal, valid))
    rotation = torch.linalg.qr(torch.randn(VIEWS, 3, 3, generator=generator)).Q
    poses = torch.eye(4).repeat(VIEWS, 1, 1)
    poses[:, :3, :3] = rotation
    camera = Camera(poses, torch.full((VIEWS,), 50.0), WIDTH, HEIGHT)
    condition = Condition(camera, torch.zeros(VIEWS, 8, 1, 1), torch.zeros(VIEWS, 6)).to(device)
    pictures = PictureRows(integers(0, 256, 3), integers(0, 256, 3), labels, row)
    rectangle = torch.tensor([[10, 30, 5, 25], [0, 4, 40, WIDTH]], device=device)
    return FrameBatch(row, condition, pictures, rectangle, store.rows(row))


def made_images(dtype: torch.dtype, channels: int, device: torch.device) -> RasterOutput:
    generator = torch.Generator().manual_seed(1)
    shapes = {"color": 3, "depth": 1, "normal": 3, "alpha": 1, "extra": channels}
    images = {
        name: torch.rand(VIEWS, count, HEIGHT, WIDTH, generator=generator).to(device, dtype).requires_grad_()
        for name, count in shapes.items()
    }
    return RasterOutput(**images, radii=torch.zeros(VIEWS, 1, dtype=torch.int32))


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("name", RULES)
def test_against_torch(device, name, channels) -> None:
    from instag.kernels.pixels import compare_cuda

    rules, key, frames = RULES[name], torch.tensor([0.0, 1.0, 0.0], device=device), made_frames(device)
    ours, truth = (made_images(dtype, channels, device) for dtype in (torch.float32, torch.float64))
    exact = exact_frames(frames)
    found, expected = compare_cuda(ours, frames, key, rules), compare_torch(truth, exact, key.double(), rules)
    assert relative_error(found.target, expected.target) < 1e-6 and not found.target.requires_grad
    assert relative_error(found.render, expected.render) < 1e-6
    assert found.terms.keys() == expected.terms.keys()
    for term, value in expected.terms.items():
        assert found.terms[term].item() == pytest.approx(value.item(), rel=1e-5), term
    weight = torch.rand(VIEWS, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(2)).to(device)
    (sum((k + 1) * v for k, v in enumerate(found.terms.values())) + (found.render * weight).sum()).backward()
    (sum((k + 1) * v for k, v in enumerate(expected.terms.values())) + (expected.render * weight).sum()).backward()
    for field in fields(RasterOutput):
        mine, right = getattr(ours, field.name).grad, getattr(truth, field.name).grad
        if right is None:
            assert mine is None, field.name
        else:
            assert relative_error(mine, right) < 1e-5, field.name


def exact_frames(frames: FrameBatch) -> FrameBatch:
    """The same with float64 prior and cameras."""
    store = frames.prior.store
    row = frames.pictures.row
    middle, step = store.range.double()[row][..., None, None, None].unbind(1)
    depth = middle + step * store.depth[row][:, None]
    prior = GeometryPrior(depth, store.normal[row].permute(0, 3, 1, 2).double() / 127, frames.prior.valid)
    camera = frames.condition.camera
    camera = Camera(camera.world_to_camera.double(), camera.focal.double(), WIDTH, HEIGHT)
    condition = Condition(camera, frames.condition.audio, frames.condition.expression)
    return FrameBatch(frames.index, condition, frames.pictures, frames.lip_rectangle, prior)


def test_regions_are_the_masks(frames) -> None:
    assert torch.equal(mask(frames, HEAD_AND_HAIR), frames.mask(Label.HEAD, Label.HAIR))
    assert torch.equal(mask(frames, IN_LIPS), frames.lip_mask())
    assert torch.equal(mask(frames, IN_LIPS ^ MOUTH), frames.lip_mask() ^ frames.mask(Label.MOUTH))
    assert torch.equal(mask(frames, region(Label.HEAD, lips=False)), frames.mask(Label.HEAD) & ~frames.lip_mask())


def test_a_region_that_is_nowhere_costs_nothing(device) -> None:
    from instag.kernels.pixels import compare_cuda

    rules = PixelRules(SKIN, 0, SKIN, 0.1, (AttentionRule("none", 0, 1.0, 1.0),))
    images = made_images(torch.float32, 2, device)
    terms = compare_cuda(images, made_frames(device), torch.zeros(3, device=device), rules).terms
    terms["none"].backward()
    assert float(terms["none"].detach()) == 0 and float(images.extra.grad.abs().max()) == 0


@pytest.mark.parametrize("name", MATTE)
def test_over_the_frame_only_what_is_shown_teaches_colours(frames, name) -> None:
    rules, images = RULES[name], made_images(torch.float32, 2, torch.device("cpu"))
    compared = compare_torch(images, frames, torch.zeros(3), rules)
    assert torch.equal(compared.target, frames.image)
    (compared.render - compared.target).abs().sum().backward()
    shown = mask(frames, rules.shown & ~rules.painted)
    assert torch.equal(images.color.grad.abs().sum(1, keepdim=True) > 0, shown) and shown.any()


@pytest.mark.parametrize("name", MATTE)
def test_a_branch_that_is_the_frame_where_it_is_shown_and_clear_elsewhere_costs_nothing(frames, name) -> None:
    rules = replace(RULES[name], alpha=0.0, matte_lips=0.0)
    shown = mask(frames, rules.shown & ~rules.painted).float()
    images = replace(made_images(torch.float32, 2, torch.device("cpu")), color=frames.image * shown, alpha=shown)
    right = compare_torch(images, frames, torch.zeros(3), rules)
    torch.testing.assert_close(right.render, right.target)
    assert float(right.terms["alpha"]) == 0
    wrong = compare_torch(replace(images, alpha=1 - shown), frames, torch.zeros(3), rules)
    torch.testing.assert_close(wrong.terms["alpha"], rules.matte * (~mask(frames, rules.painted)).float().mean())
