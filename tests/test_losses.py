"""Losses: properties, the recorded reference, and the numba twin of L1 + SSIM against the torch oracle."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from instag import losses

FIXTURE = Path(__file__).parents[2] / "shared" / "fixtures" / "losses.npz"


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def pair(height: int = 40, width: int = 33, views: int = 2) -> tuple[Tensor, Tensor]:
    return torch.rand(views, 3, height, width), torch.rand(views, 3, height, width)


@pytest.mark.skipif(not FIXTURE.is_file(), reason=f"no parity fixture at {FIXTURE}")
def test_the_recorded_reference_is_met():
    with np.load(FIXTURE) as arrays:
        record = {key: torch.from_numpy(np.asarray(arrays[key])) for key in arrays}
    image, target = record["image"][None], record["target"][None]
    assert losses.l1(image, target).item() == pytest.approx(record["l1"].item(), rel=1e-6)
    assert losses.ssim(image, target).item() == pytest.approx(record["ssim"].item(), rel=1e-6)
    expected = record["l1"] + 0.2 * (1 - record["ssim"])
    assert losses.photometric(image, target).item() == pytest.approx(expected.item(), rel=1e-6)
    normalized = losses.normalize_rows(record["depth"])
    assert (normalized - record["depth_normalized"]).norm() <= 1e-6 * normalized.norm()
    assert torch.equal(losses.patches(image, 32), record["patches"])


def test_ssim_is_1_for_equal_images_and_symmetric():
    a, b = pair()
    assert losses.ssim(a, a).item() == pytest.approx(1, abs=1e-6)
    assert losses.ssim(a, b).item() == pytest.approx(losses.ssim(b, a).item(), rel=1e-6)
    assert losses.ssim(a, b) < 0.2


@pytest.mark.parametrize(("height", "width"), [(40, 33), (128, 128), (7, 64), (1, 1)])
def test_the_numba_twin_agrees_with_the_oracle(height, width):
    photometric_numba = pytest.importorskip("instag.losses_numba").photometric_numba
    render, target = pair(height, width)
    target[..., : width // 2] = render[..., : width // 2]  # where both are equal |a - b| has no slope
    ours, oracle = render.clone().requires_grad_(), render.double().requires_grad_()
    loss = photometric_numba(ours, target, 0.3)
    exact = losses.photometric_torch(oracle, target.double(), 0.3)
    assert loss.item() == pytest.approx(exact.item(), rel=2e-6)
    (3 * loss).backward()
    (3 * exact).backward()
    assert (ours.grad - oracle.grad).norm() <= 1e-5 * oracle.grad.norm()


def test_photometric_gives_the_target_no_gradient_on_either_path():
    render, target = pair()
    for dtype in (torch.float32, torch.float64):  # numba, torch
        a, b = (image.detach().to(dtype).clone().requires_grad_() for image in (render, target))
        losses.photometric(a, b).backward()
        assert a.grad.abs().sum() > 0
        assert b.grad is None


def test_photometric_takes_images_that_are_not_contiguous():
    render, target = pair(24, 24)
    expected = losses.photometric_torch(render, target).item()
    channels_last = render.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    leaf, dense = channels_last.requires_grad_(), render.clone().requires_grad_()
    loss = losses.photometric(leaf, target)
    loss.backward()
    losses.photometric(dense, target).backward()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(leaf.grad, dense.grad)


def test_masked_mean_counts_only_the_mask_and_is_0_without_one():
    values = torch.tensor([[[[1.0, 2.0], [3.0, 100.0]]]])
    mask = torch.tensor([[[[True, True], [True, False]]]])
    assert losses.masked_mean(values, mask) == 2
    assert losses.masked_mean(values, torch.zeros_like(mask)) == 0
    assert losses.masked_mean(values.expand(2, 1, 2, 2), mask) == 2


def test_alpha_must_be_1_inside_and_0_outside():
    inside = torch.rand(2, 1, 8, 8) > 0.5
    assert losses.alpha_coverage(inside.float(), inside) == 0
    assert losses.alpha_coverage(1 - inside.float(), inside) == 1
    alpha, head = torch.rand(2, 1, 8, 8), inside.float()
    written = ((1 - alpha) * head).mean() + (alpha * (1 - head)).mean()
    torch.testing.assert_close(losses.alpha_coverage(alpha, inside), written)


def test_magnitude_sums_means_of_what_is_there():
    assert losses.magnitude(torch.tensor([-1.0, 3.0]), None, torch.tensor([4.0])) == 6


def test_contrast_pushes_only_like_motions_apart_and_only_the_first():
    mine, other = torch.randn(1, 50, 3, requires_grad=True), torch.randn(1, 50, 3, requires_grad=True)
    dot = (mine * other).sum(-1)
    loss = losses.negative_contrast(mine, [other])
    torch.testing.assert_close(loss, dot.clamp_min(0).mean())
    loss.backward()
    assert other.grad is None
    assert torch.equal((mine.grad != 0).any(-1), dot > 0)
    assert losses.negative_contrast(mine, [-mine]) == 0
    assert losses.negative_contrast(mine, []) == 0
    torch.testing.assert_close(losses.negative_contrast(mine, [other, other]), 2 * loss)


def test_depth_prior_ignores_scale_and_offset_of_both_sides():
    depth, mask = torch.rand(2, 1, 16, 20), torch.rand(2, 1, 16, 20) > 0.3
    assert losses.depth_prior(depth, 7 * depth + 3, mask).item() == pytest.approx(0, abs=1e-5)
    assert losses.depth_prior(depth, -depth, mask) > 1


def test_depth_outside_a_partial_prior_has_no_say():
    depth, prior = torch.rand(1, 1, 16, 20), torch.rand(1, 1, 16, 20)
    valid = torch.zeros(1, 1, 16, 20, dtype=torch.bool)
    valid[..., 3:12, 5:15] = True
    expected = losses.depth_prior(depth, prior, valid, valid)
    other = torch.where(valid, depth, torch.rand_like(depth))
    torch.testing.assert_close(losses.depth_prior(other, torch.where(valid, prior, 9.0), valid, valid), expected)
    cut = (slice(None), slice(None), slice(3, 12), slice(5, 15))
    torch.testing.assert_close(losses.depth_prior(depth[cut], prior[cut], valid[cut]), expected)


def test_depth_prior_stays_finite_on_empty_rows_and_maps():
    depth = torch.rand(1, 1, 16, 20)
    depth[:, :, :4] = 0
    for start in (depth, torch.zeros_like(depth)):
        leaf, everywhere = start.clone().requires_grad_(), torch.ones_like(depth, dtype=torch.bool)
        loss = losses.depth_prior(leaf, torch.rand_like(depth), everywhere)
        loss = loss + losses.depth_prior(leaf, torch.rand_like(depth), ~everywhere, ~everywhere)
        loss.backward()
        assert loss.isfinite()
        assert leaf.grad.isfinite().all()


def test_normals_are_compared_in_the_cameras_opengl_axes():
    # A camera in front of the face (world +z), looking back at it: OpenCV x = world x, y = -world y, z = -world z.
    world_to_camera = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))[None]
    world = torch.nn.functional.normalize(torch.randn(1, 3, 4, 5), dim=1)
    torch.testing.assert_close(losses.to_camera_normals(world, world_to_camera), world)
    mask = torch.ones(1, 1, 4, 5, dtype=torch.bool)
    assert losses.normal_prior(world, world, mask).item() == pytest.approx(2)
    assert losses.normal_prior(world, -world, mask).item() == pytest.approx(4)
    # Turning the world and the camera together changes nothing in the camera's axes.
    turn = torch.linalg.qr(torch.randn(3, 3)).Q
    turned = world_to_camera.clone()
    turned[:, :3, :3] = world_to_camera[:, :3, :3] @ turn.T
    rotated = torch.einsum("ij,bjhw->bihw", turn, world)
    torch.testing.assert_close(losses.to_camera_normals(rotated, turned), world)


def test_patches_go_row_by_row_image_by_image_and_drop_the_rest():
    images = torch.arange(2 * 5 * 7).view(2, 1, 5, 7)
    cut = losses.patches(images, 2)
    assert cut.shape == (2 * 2 * 3, 1, 2, 2)
    assert torch.equal(cut[1, 0], images[0, 0, :2, 2:4])
    assert torch.equal(cut[3, 0], images[0, 0, 2:4, :2])
    assert torch.equal(cut[6, 0], images[1, 0, :2, :2])


def test_painted_pixels_have_the_colour_and_no_gradient():
    images, mask = torch.rand(1, 3, 2, 2, requires_grad=True), torch.tensor([[[[True, False], [False, False]]]])
    painted = losses.paint(images, mask, torch.tensor([0.0, 1.0, 0.0]))
    painted.sum().backward()
    assert painted[0, :, 0, 0].tolist() == [0, 1, 0]
    assert torch.equal(images.grad == 0, mask.expand(1, 3, 2, 2))


def test_closing_fills_holes_and_leaves_the_outline():
    mask = torch.zeros(1, 1, 12, 12, dtype=torch.bool)
    mask[..., 3:9, 2:10] = True
    holed = mask.clone()
    holed[..., 5, 4] = holed[..., 6, 7] = False
    assert torch.equal(losses.closed(holed), mask) and torch.equal(losses.closed(mask), mask)
    apart = torch.zeros_like(mask)
    apart[..., 4, 2] = apart[..., 4, 6] = True
    assert torch.equal(losses.closed(apart), apart)
