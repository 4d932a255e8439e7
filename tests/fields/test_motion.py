"""Audio, motion, personalised fields, aligner, hook: shapes, batching, where gradients go, names of the reference."""

import tarfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from instag.data.audio import EXTRACTORS
from instag.errors import CheckpointError
from instag.fields.aligner import build_face_aligner, build_mouth_aligner
from instag.fields.audio import AudioEncoder
from instag.fields.hook import hook_displacement
from instag.fields.motion import Deformation, build_face_field, build_mouth_field
from instag.fields.personalized import build_personalized_face, build_personalized_mouth
from instag.fields.reference_names import to_ours

N, B = 40, 3
WIDTH, STEPS = 29, 16
CHECKPOINTS = Path(__file__).parents[3] / "shared" / "fixtures" / "reference_checkpoints.tar.xz"


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def x() -> Tensor:
    return ((2 * torch.rand(N, 3) - 1) * 0.1).requires_grad_()


@pytest.fixture
def window() -> Tensor:
    return torch.randn(B, 8, WIDTH, STEPS)


@pytest.fixture
def expression() -> Tensor:
    return torch.rand(B, 6)


def awake(module: torch.nn.Module) -> torch.nn.Module:
    """A grid that has learned something, so that its derivatives are not lost in rounding."""
    for name, parameter in module.named_parameters():
        if name.endswith("table"):
            torch.nn.init.normal_(parameter, std=0.3)
    return module


@pytest.mark.parametrize("extractor", EXTRACTORS.values(), ids=lambda e: e.name)
def test_every_extractor_has_an_audio_network(extractor):
    encoder = AudioEncoder(extractor.width, extractor.steps)
    window = torch.randn(B, *extractor.window_shape)
    assert encoder(window).shape == (B, 32)
    torch.testing.assert_close(encoder(window)[1:2], encoder(window[1:2]))


def test_attention_weighs_the_frames_of_the_window():
    frames = torch.randn(1, 8, 32)
    a = AudioEncoder(WIDTH, STEPS).attention(frames)
    assert (a <= frames.max(1).values).all()
    assert (a >= frames.min(1).values).all()


@pytest.mark.parametrize("build", [build_face_field, build_personalized_face])
def test_face_frames_of_a_batch_do_not_touch_each_other(build, x, window, expression):
    field = awake(build(WIDTH, STEPS))
    both = field(x, window, expression)
    assert both.d_mean.shape == both.d_scale.shape == (B, N, 3)
    assert both.d_rotation.shape == (B, N, 4)
    assert both.d_opacity.shape == both.audio_attention.shape == both.eye_attention.shape == (B, N, 1)
    alone = field(x, window[1:2], expression[1:2])
    for name in ("d_mean", "d_rotation", "d_opacity", "d_scale", "audio_attention", "eye_attention"):
        torch.testing.assert_close(getattr(both, name)[1], getattr(alone, name)[0], rtol=1e-4, atol=1e-7)


def test_mouth_moves_mostly_in_y_and_frames_do_not_touch_each_other(x, window):
    field, phi = awake(build_mouth_field(WIDTH, STEPS)), torch.randn(B, 3)
    both = field(x, window, phi)
    assert both.d_mean.shape == (B, N, 3)
    assert both.d_rotation.shape == (B, N, 4)
    assert both.d_scale is both.d_opacity is both.audio_attention is both.eye_attention is None
    torch.testing.assert_close(both.d_mean[2], field(x, window[2:], phi[2:]).d_mean[0], rtol=1e-4, atol=1e-7)
    # Equal rows of the last layer would move x, y and z equally, but for the direction.
    last = field.decoder.layers[-1].weight
    with torch.no_grad():
        last[:3] = last[0]
    d_mean = field(x, window, phi).d_mean
    torch.testing.assert_close(d_mean[..., 0], d_mean[..., 1] / 5)
    torch.testing.assert_close(d_mean[..., 2], d_mean[..., 1] / 5)


def test_tau_lies_between_0_and_2_and_starts_near_1(x, window):
    field, phi = build_mouth_field(WIDTH, STEPS), torch.zeros(B, 3)
    tau = 2 * torch.sigmoid(field.tau.conditioned(field.encoding(x), phi))
    torch.testing.assert_close(tau, torch.ones_like(tau), rtol=0, atol=1e-3)


def test_personal_motion_adds_to_the_universal(x, window, expression):
    universal = build_face_field(WIDTH, STEPS)(x, window, expression)
    personal = build_personalized_face(WIDTH, STEPS)(x, window, expression)
    total = universal + personal
    torch.testing.assert_close(total.d_mean, universal.d_mean + personal.d_mean)
    torch.testing.assert_close(total.eye_attention, universal.eye_attention + personal.eye_attention)
    assert not total.mean_only
    mouth = build_mouth_field(WIDTH, STEPS)(x, window, torch.randn(B, 3))
    mine = build_personalized_mouth(WIDTH, STEPS)(x, window)
    total = mouth + mine
    assert total.mean_only
    assert total.d_scale is None
    torch.testing.assert_close(total.d_rotation, mouth.d_rotation + mine.d_rotation)
    torch.testing.assert_close(total.audio_attention, mine.audio_attention)


def test_an_audio_encoder_may_be_shared():
    audio = AudioEncoder(WIDTH, STEPS)
    assert build_personalized_face(WIDTH, STEPS, audio=audio).audio is audio
    assert build_personalized_mouth(WIDTH, STEPS, audio=audio).audio is audio


def test_gradients_reach_the_points_and_through_them_the_aligner(x, window, expression):
    aligner, field = awake(build_face_aligner()), awake(build_face_field(WIDTH, STEPS))
    offset, scale = aligner(x)
    (field(x + offset, window, expression).d_mean * scale).sum().backward()
    for tensor in (x, aligner.encoding.table, aligner.decoder.layers[0].weight, field.encoding.table):
        assert tensor.grad.abs().sum() > 0


def test_the_expression_and_the_blink_both_move_the_face(x, window, expression):
    field = awake(build_face_field(WIDTH, STEPS))
    field(x, window, expression.requires_grad_()).d_mean.square().sum().backward()
    assert (expression.grad != 0).all()


@pytest.mark.parametrize("build", [build_face_aligner, build_mouth_aligner])
def test_the_aligner_starts_at_rest_and_its_scale_is_bounded(build, x):
    offset, scale = build()(x)
    assert offset.abs().max() < 1e-5
    torch.testing.assert_close(scale, torch.ones_like(scale), rtol=0, atol=1e-4)
    wild = build()
    with torch.no_grad():
        wild.encoding.table.normal_(std=1e4)
    assert ((wild(x).scale - 1).abs() <= 0.25).all()


def test_the_hook_takes_the_kth_extremes_of_y_without_a_gradient():
    d_mean = torch.zeros(2, 30, 3, requires_grad=True)
    with torch.no_grad():
        d_mean[0, :, 1] = torch.randperm(30) / 100.0
        d_mean[1, :, 1] = -torch.randperm(30) / 100.0
        d_mean[..., 0] = 7
    phi = hook_displacement(d_mean, 10)
    torch.testing.assert_close(phi, torch.tensor([[20.0, 9.0, 11.0], [-9.0, -20.0, 11.0]]))
    assert not phi.requires_grad
    few = hook_displacement(d_mean[:, :4], 10)  # fewer Gaussians than k: the k-th largest is the smallest
    torch.testing.assert_close(few[:, 2], few[:, 0] - few[:, 1])
    assert (few[:, 0] <= few[:, 1]).all()


def test_deformations_are_frozen(x, window, expression):
    deformation = Deformation(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4))
    with pytest.raises(AttributeError):
        deformation.d_mean = torch.ones(1, 2, 3)


# --- names of the reference -----------------------------------------------------------------------------------------
def reference_mouth_state() -> dict[str, Tensor]:
    with tarfile.open(CHECKPOINTS) as archive:
        file = archive.extractfile("chkpnt_ema_mouth_latest.pth")
        assert file is not None
        state, *_ = torch.load(file, map_location="cpu", weights_only=True)
    return dict(state)


needs_checkpoints = pytest.mark.skipif(not CHECKPOINTS.is_file(), reason=f"no reference checkpoints at {CHECKPOINTS}")


@needs_checkpoints
def test_a_checkpoint_of_the_reference_loads_strictly():
    field = build_mouth_field(WIDTH, STEPS)
    field.load_state_dict(to_ours(reference_mouth_state(), "mouth"), strict=True)


@needs_checkpoints
@pytest.mark.parametrize(("change", "word"), [("drop", "missing"), ("add", "unknown"), ("shrink", "differ")])
def test_a_state_that_is_not_the_references_is_refused(change, word):
    state = reference_mouth_state()
    if change == "drop":
        del state["scaler_net.net.2.weight"]
    elif change == "add":
        state["scaler_net.net.3.weight"] = torch.zeros(1)
    else:
        state["encoder_xz.embeddings"] = state["encoder_xz.embeddings"][:9464]
    with pytest.raises(CheckpointError, match=word):
        to_ours(state, "mouth")


@needs_checkpoints
def test_another_kind_is_refused():
    with pytest.raises(CheckpointError, match="'face'"):
        to_ours(reference_mouth_state(), "face")
