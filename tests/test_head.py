"""Properties of the one forward path: what moves what, and what does not."""

from dataclasses import replace

import pytest
import torch

from instag.api import adapt_subject
from instag.build import build_face, build_mouth
from instag.camera import Camera
from instag.config import ModelConfig
from instag.data.frame import Condition
from instag.fields.structure import GaussianField, random_head_points, random_mouth_points
from instag.head import Mode, TalkingHead

SIZE, FRAMES = 48, 2
SAME = 1e-5  # between a batch and its frames one by one


@pytest.fixture
def head():
    """Face and mouth in view of the camera, opaque enough to be seen, with motion worth measuring."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = ModelConfig()
    face = GaussianField.from_points(*random_head_points(300, generator), color=0.7, opacity=0.6)
    mouth = GaussianField.from_points(*random_mouth_points(200, generator), color=0.3, opacity=0.6)
    head = TalkingHead(build_face(model, face), build_mouth(model, mouth))
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            if name.endswith(("table", "grid")) or "encoding" in name:
                parameter.uniform_(-0.5, 0.5, generator=generator)
    return head


@pytest.fixture
def condition():
    generator = torch.Generator().manual_seed(1)
    pose = torch.eye(4).repeat(FRAMES, 1, 1)
    pose[:, 1, 1] = pose[:, 2, 2] = -1  # the camera looks at the face from +z, y down
    pose[:, 2, 3] = 0.7
    pose[1, 0, 3] = 0.02
    camera = Camera(pose, torch.full((FRAMES,), 2.2 * SIZE), SIZE, SIZE)
    audio = torch.randn(FRAMES, 8, 74, 16, generator=generator)
    expression = torch.rand(FRAMES, 6, generator=generator) * 2
    return Condition(camera, audio, expression)


def frame(condition, i):
    one = slice(i, i + 1)
    camera = condition.camera
    camera = Camera(camera.world_to_camera[one], camera.focal[one], camera.width, camera.height)
    return Condition(camera, condition.audio[one], condition.expression[one])


def pictures(image):
    """Everything that is drawn of one branch."""
    return {name: getattr(image, name) for name in ("color", "alpha", "depth", "normal", "extra")}


@torch.no_grad()
def test_frames_together_are_the_frames_one_by_one(head, condition):
    mode = Mode(attention=True)
    together = head(condition, mode)
    plates = torch.rand(FRAMES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    for i in range(FRAMES):
        alone = head(frame(condition, i), mode)
        for branch in ("face", "mouth"):
            one, all_ = pictures(getattr(alone, branch).image), pictures(getattr(together, branch).image)
            for name in one:
                torch.testing.assert_close(one[name][0], all_[name][i], atol=SAME, rtol=SAME, msg=f"{branch} {name}")
        torch.testing.assert_close(alone.over(plates[i : i + 1])[0], together.over(plates)[i], atol=SAME, rtol=SAME)
    assert together.face.image.alpha.max() > 0.5 and together.mouth.image.alpha.max() > 0.5  # something is in sight
    color = together.face.image.color
    assert (color[0] - color[1]).abs().max() > 0.01  # and the frames differ


@torch.no_grad()
def test_the_hook_knows_neither_the_live_expression_nor_the_camera(head, condition):
    phi = head.hook(condition, Mode())
    other = replace(condition, expression=condition.expression.flip(1) + 1)
    assert torch.equal(head.hook(other, Mode()), phi)
    assert torch.equal(head(other).mouth.image.color, head(condition).mouth.image.color)
    assert not torch.equal(head(other).face.image.color, head(condition).face.image.color)
    assert not torch.equal(head.hook(replace(condition, audio=-condition.audio), Mode()), phi)


@torch.no_grad()
def test_the_hook_is_aligned_as_the_mode_says(head, condition):
    assert not torch.equal(head.hook(condition, Mode(aligned=False)), head.hook(condition, Mode()))
    head.face.aligner = None
    assert torch.equal(head.hook(condition, Mode(aligned=False)), head.hook(condition, Mode()))


@torch.no_grad()
def test_the_hook_hears_what_the_drawn_face_hears(head, condition, monkeypatch):
    listened = []
    monkeypatch.setattr(head.face.motion.audio, "forward", counted(head.face.motion.audio.forward, listened))
    both, mouth = head(condition), head(condition, Mode(face=False))
    assert len(listened) == 2  # once for the drawn face and the hook, once for the hook alone
    assert torch.equal(both.mouth.image.color, mouth.mouth.image.color)
    assert torch.equal(both.face.image.color, head(condition, Mode(mouth=False)).face.image.color)


def counted(call, calls):
    def recorded(*arguments):
        calls.append(call)
        return call(*arguments)

    return recorded


def test_the_mouth_sends_no_gradient_to_the_face(head, condition):
    head(condition, Mode(face=False)).mouth.image.color.sum().backward()
    assert all(parameter.grad is None for parameter in head.face.parameters())
    moved = [parameter for name, parameter in head.mouth.named_parameters() if parameter.grad is not None]
    assert any(parameter.grad.abs().max() > 0 for parameter in moved)


def test_attention_maps_move_no_geometry(head, condition):
    plain, with_maps = head(condition, Mode(mouth=False)), head(condition, Mode(mouth=False, attention=True))
    for name in ("color", "alpha", "depth", "normal"):
        assert torch.equal(getattr(plain.face.image, name), getattr(with_maps.face.image, name)), name
    assert plain.face.image.extra.shape[1] == 0 and with_maps.face.image.extra.shape == (FRAMES, 2, SIZE, SIZE)
    with_maps.face.image.extra.sum().backward()
    structure = head.face.structure
    for name in ("scales_raw", "quaternions_raw", "opacities_raw", "sh_dc"):
        gradient = getattr(structure, name).grad
        assert gradient is None or not gradient.any(), name
    weights = [p for p in head.face.motion.audio_weights.parameters() if p.grad is not None]
    assert any(p.grad.abs().max() > 0 for p in weights)


@torch.no_grad()
def test_without_motion_the_bare_structure_is_drawn(head, condition):
    static = head(condition, Mode(moving=False))
    silent = replace(condition, audio=torch.zeros_like(condition.audio), expression=0 * condition.expression)
    again = head(silent, Mode(moving=False))
    for branch in ("face", "mouth"):
        drawn = getattr(static, branch)
        assert drawn.motion is None
        assert torch.equal(drawn.image.color, getattr(again, branch).image.color)
        assert not torch.equal(drawn.image.color, getattr(head(condition), branch).image.color)
    for branch in (head.face, head.mouth):
        for parameter in branch.motion.parameters():
            parameter.zero_()
    head.face.aligner = head.mouth.aligner = None
    still = head(condition)
    for branch in ("face", "mouth"):  # motion fields that say nothing move nothing
        expected = getattr(static, branch).image.color
        torch.testing.assert_close(getattr(still, branch).image.color, expected, atol=SAME, rtol=0)


@torch.no_grad()
def test_a_fresh_head_hardly_moves(condition):
    torch.manual_seed(0)
    model = ModelConfig()
    face = GaussianField.from_points(*random_head_points(300))
    mouth = GaussianField.from_points(*random_mouth_points(200))
    head = TalkingHead(build_face(model, face), build_mouth(model, mouth))(condition)
    for branch, motion in (("face", head.face.motion), ("mouth", head.mouth.motion)):
        assert motion.total.d_mean.abs().max() < 2e-3, branch  # head units: a hundredth of the head's width
        assert motion.offset.abs().max() < 1e-4, branch
    assert head.face.motion.total.d_scale.abs().max() < 0.2


@torch.no_grad()
def test_only_the_branches_asked_for_are_drawn(head, condition):
    assert head(condition, Mode(mouth=False)).mouth is None
    assert head(condition, Mode(face=False)).face is None
    with pytest.raises(ValueError, match="needs the face"):
        head(condition, Mode(face=False)).over(torch.zeros(FRAMES, 3, SIZE, SIZE))
    bald = TalkingHead(head.face)
    assert torch.equal(bald(condition).face.image.color, head(condition).face.image.color)
    assert bald(condition).mouth is None


@torch.no_grad()
def test_the_key_shows_where_nothing_is(head, condition):
    black, green = (head(condition, Mode(mouth=False, key=key)).face.image for key in ("black", "green"))
    key = torch.tensor([0.0, 1.0, 0.0])[:, None, None]
    torch.testing.assert_close(green.color, black.color + key * (1 - black.alpha), atol=1e-6, rtol=0)


def test_fuse_trains_what_synthesis_draws(made_subject, tmp_path, monkeypatch):
    drawn = []
    forward = TalkingHead.forward

    def recorded(self, condition, mode=Mode()):  # noqa: B008 (as the original)
        drawn.append(mode)
        return forward(self, condition, mode)

    monkeypatch.setattr(TalkingHead, "forward", recorded)
    settings = [f"training.{stage}.iterations=1" for stage in ("face", "mouth", "fuse")]
    settings += [f"training.{stage}.points=60" for stage in ("face", "mouth")]
    adapt_subject(made_subject, tmp_path / "run", "adapt", settings, "cpu", universal="none", progress=False)
    assert len(drawn) == 3
    assert drawn[2] == Mode()
    assert drawn[0].key == "green" and not drawn[0].mouth
