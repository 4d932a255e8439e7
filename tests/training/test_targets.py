"""What each branch is compared with."""

from dataclasses import replace

import pytest
import torch
from gaussian_rasterization import RasterOutput

from instag.config import LossConfig
from instag.data.dataset import SubjectDataset
from instag.losses_pixels import compare_torch, mask
from instag.training.targets import face_rules, mouth_rules

WEIGHTS = LossConfig(matte=0.5)
RULES = {
    "face": face_rules(WEIGHTS, False, False, False),
    "no hair": face_rules(WEIGHTS, True, False, False),
    "mouth": mouth_rules(WEIGHTS),
}


@pytest.fixture
def frames(made_subject):
    with SubjectDataset.open(made_subject, extractor=None) as dataset:
        yield dataset.batch([3])


def random_image(frames) -> RasterOutput:
    torch.manual_seed(0)
    color, alpha = (torch.rand(1, n, *frames.labels.shape[1:], requires_grad=True) for n in (3, 1))
    empty = torch.zeros(1, 1, 1, 1)
    return RasterOutput(color, empty, empty, alpha, empty, radii=empty)


def learns(values: torch.Tensor) -> torch.Tensor:
    return values.grad.abs().sum(1, keepdim=True) > 0


@pytest.mark.parametrize("name", RULES)
def test_over_the_frame_only_what_is_shown_teaches_colours(frames, name):
    rules, image = replace(RULES[name], attention=()), random_image(frames)
    compared = compare_torch(image, frames, torch.zeros(3), rules)
    assert torch.equal(compared.target, frames.image)
    (compared.render - compared.target).abs().sum().backward()
    shown = mask(frames, rules.shown & ~rules.painted)
    assert torch.equal(learns(image.color), shown) and shown.any()


@pytest.mark.parametrize("name", RULES)
def test_a_branch_that_is_the_frame_where_it_is_shown_and_clear_elsewhere_costs_nothing(frames, name):
    rules = replace(RULES[name], alpha=0.0, attention=())
    shown = mask(frames, rules.shown & ~rules.painted).float()
    image = replace(random_image(frames), color=frames.image * shown, alpha=shown)
    right = compare_torch(image, frames, torch.zeros(3), rules)
    torch.testing.assert_close(right.render, right.target)
    assert float(right.terms["matte"]) == 0
    wrong = compare_torch(replace(image, alpha=1 - shown), frames, torch.zeros(3), rules)
    expected = 0.5 * (~mask(frames, rules.painted)).float().mean()
    torch.testing.assert_close(wrong.terms["matte"], expected)
