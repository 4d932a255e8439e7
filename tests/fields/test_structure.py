"""Structure field: first values, activations, what a deformation changes."""

import math

import pytest
import torch
import torch.nn.functional as F

from instag.fields.motion import Deformation
from instag.fields.structure import GaussianField, point_spacing, random_head_points, random_mouth_points

N, B = 60, 2


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.fixture
def field(generator) -> GaussianField:
    return GaussianField.from_points(*random_head_points(N, generator), max_sh_degree=2)


def test_first_gaussians_are_grey_faint_and_as_large_as_their_spacing(field):
    spacing = point_spacing(field.means)
    torch.testing.assert_close(field.scales, torch.log1p(spacing)[:, None].expand(-1, 3))
    torch.testing.assert_close(field.opacities, torch.full((N, 1), 0.1))
    assert field.sh_dc.detach().mean() == pytest.approx(-0.00695, abs=1e-5)
    assert field.sh.shape == (N, 9, 3)
    assert field.sh_rest.abs().max() == 0
    assert (field.max_sh_degree, field.active_sh_degree, len(field)) == (2, 0, N)
    torch.testing.assert_close(field.quaternions_raw.detach(), torch.eye(4)[:1].expand(N, -1))
    assert all(parameter.is_leaf and parameter.is_contiguous() for parameter in field.parameters())


def test_spacing_is_the_root_mean_square_distance_to_three_neighbours():
    grid = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]])
    assert point_spacing(grid)[0].item() == pytest.approx(math.sqrt((1 + 4 + 9) / 3))
    assert point_spacing(torch.zeros(9, 3)).tolist() == pytest.approx([math.sqrt(1e-7)] * 9)


def test_mouth_points_are_halved_and_lowered_with_the_spacing_from_before():
    head = random_head_points(N, torch.Generator().manual_seed(5))
    mouth = random_mouth_points(N, torch.Generator().manual_seed(5))
    torch.testing.assert_close(mouth.means, head.means / 2 - torch.tensor([0, 0.05, 0]))
    torch.testing.assert_close(mouth.spacing, head.spacing)
    assert head.means.abs().max() <= 0.1


def test_a_colour_per_point_is_what_a_camera_sees(generator):
    colors = torch.rand(N, 3, generator=generator)
    field = GaussianField.from_points(torch.randn(N, 3, generator=generator), torch.ones(N), color=colors)
    torch.testing.assert_close(field.colors(torch.tensor([0.0, 0.0, 5.0])).detach(), colors)


def test_higher_degrees_count_only_when_active(field):
    with torch.no_grad():
        field.means.zero_()
        field.sh_rest[:, 1] = 0.3  # the coefficient of z
    front, back = torch.tensor([0.0, 0.0, 5.0]), torch.tensor([0.0, 0.0, -5.0])
    torch.testing.assert_close(field.colors(front), field.colors(back))
    field.active_sh_degree = 1
    grey = torch.full((N, 3), 127 / 255)
    torch.testing.assert_close(field.colors(front).detach(), grey - 0.48860251 * 0.3)  # seen along -z
    torch.testing.assert_close(field.colors(back).detach(), grey + 0.48860251 * 0.3)


def test_without_motion_the_gaussians_stay(field):
    means, scales, quaternions = field.deformed()
    torch.testing.assert_close(means, field.means[None])
    torch.testing.assert_close(scales, field.scales[None])
    torch.testing.assert_close(quaternions, field.quaternions_raw[None])


def test_a_face_deformation_acts_on_the_raw_values(field):
    deformation = Deformation(
        torch.randn(B, N, 3), torch.randn(B, N, 4), d_opacity=torch.randn(B, N, 1), d_scale=torch.randn(B, N, 3)
    )
    means, scales, quaternions = field.deformed(deformation)
    torch.testing.assert_close(means, field.means + deformation.d_mean)
    torch.testing.assert_close(scales, F.softplus(field.scales_raw + deformation.d_scale))
    torch.testing.assert_close(quaternions, field.quaternions_raw + deformation.d_rotation)


def test_a_mouth_deformation_only_moves(field):
    deformation = Deformation(torch.randn(B, N, 3), torch.randn(B, N, 4), mean_only=True)
    means, scales, quaternions = field.deformed(deformation)
    torch.testing.assert_close(means, field.means + deformation.d_mean)
    torch.testing.assert_close(scales, field.scales.expand(B, -1, -1))
    torch.testing.assert_close(quaternions, field.quaternions_raw.expand(B, -1, -1))
