"""Face over mouth over background, and the test-time dilation."""

import pytest
import torch
import torch.nn.functional as F
from gaussian_rasterization import RasterOutput

from instag.render.composite import DILATION, DILATION_SIZE, composite

SIZE = 64


def layer(color, alpha):
    """A branch drawn on black: colours premultiplied by alpha."""
    height, width = alpha.shape[-2:]
    straight = torch.tensor(color)[None, :, None, None].expand(len(alpha), 3, height, width)
    empty = torch.zeros_like(alpha)
    return RasterOutput(
        color=straight * alpha, alpha=alpha, depth=empty, normal=empty.expand(-1, 3, -1, -1), extra=None,
        radii=torch.zeros(1, 1, dtype=torch.int32),
    )  # fmt: skip


@pytest.fixture
def background():
    return torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def full(value):
    return torch.full((1, 1, SIZE, SIZE), value)


def square(reach):
    """Alpha 1 in a square of 2 * reach px round the centre."""
    alpha = full(0.0)
    alpha[..., SIZE // 2 - reach : SIZE // 2 + reach, SIZE // 2 - reach : SIZE // 2 + reach] = 1
    return alpha


SKIN, TEETH = (0.8, 0.6, 0.5), (0.9, 0.9, 0.85)


def test_an_opaque_face_hides_everything(background):
    face = layer(SKIN, full(1.0))
    assert torch.equal(composite(face, layer(TEETH, full(0.7)), background), face.color)


def test_an_empty_face_shows_the_mouth_over_the_background(background):
    mouth = layer(TEETH, full(0.7))
    shown = composite(layer(SKIN, full(0.0)), mouth, background)
    torch.testing.assert_close(shown, mouth.color + 0.3 * background)


def test_without_a_mouth_the_background_is_behind_the_face(background):
    shown = composite(layer(SKIN, full(0.25)), None, background)
    torch.testing.assert_close(shown, layer(SKIN, full(0.25)).color + 0.75 * background)
    assert torch.equal(shown, composite(layer(SKIN, full(0.25)), layer(TEETH, full(0.0)), background))


def test_layers_are_blended_by_their_alphas(background):
    shown = composite(layer(SKIN, full(0.5)), layer(TEETH, full(0.5)), background)
    skin, teeth = (torch.tensor(color)[None, :, None, None] for color in (SKIN, TEETH))
    torch.testing.assert_close(shown, 0.5 * skin + 0.25 * teeth + 0.25 * background)


def test_dilation_changes_the_background_s_weight_alone(background):
    face, mouth = layer(SKIN, full(0.0)), layer(TEETH, square(6))
    plain, dilated = composite(face, mouth, background), composite(face, mouth, background, dilate=True)
    window = max(3, round(DILATION * SIZE / DILATION_SIZE) | 1)
    widened = F.max_pool2d(mouth.alpha, window, 1, window // 2)
    torch.testing.assert_close(dilated, mouth.color + (1 - widened) * background)
    inside, outside = mouth.alpha.bool().expand_as(plain), (widened == 0).expand_as(plain)
    assert torch.equal(dilated[inside], plain[inside]) and torch.equal(dilated[outside], plain[outside])
    rim = ~inside & ~outside
    assert rim.any() and (dilated[rim] <= plain[rim]).all() and (dilated[rim] < plain[rim]).any()  # a dark rim


def test_dilation_without_a_gap_changes_nothing(background):
    face, mouth = layer(SKIN, full(0.0)), layer(TEETH, full(1.0))
    assert torch.equal(composite(face, mouth, background, dilate=True), composite(face, mouth, background))


def test_dilation_s_window_grows_with_the_picture():
    for size, half in ((64, 1), (256, 3), (512, 6)):
        alpha = torch.zeros(1, 1, size, size)
        alpha[..., size // 2, size // 2] = 1
        white = torch.ones(1, 3, size, size)
        empty = torch.zeros_like(alpha)
        shown = composite(layer(SKIN, empty), layer((0.0, 0.0, 0.0), alpha), white, dilate=True)
        dark = (shown[0, 0] == 0).nonzero()
        assert (dark.amax(0) - dark.amin(0)).tolist() == [2 * half, 2 * half], size
