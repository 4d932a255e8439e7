"""Each switch of the ablations switches its part off, and an avatar remembers how it was built."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from instag.api import adapt_subject, pretrain_fields
from instag.avatar import Avatar
from instag.build import build_head
from instag.config import ModelConfig
from instag.data.frame import Condition
from instag.fields.structure import GaussianField
from instag.files import load_tensors
from instag.head import Mode
from instag.training import trainer
from instag.universal import Universal

STEPS = [
    *(f"training.{stage}.iterations=3" for stage in ("face", "mouth", "fuse")),
    "training.face.points=60", "training.mouth.points=60", "training.face.align_from=0", "training.mouth.align_from=0",
    "training.log_interval=1", "training.face.prior_from=1",
]  # fmt: skip
PRETRAIN = [
    "pretrain.videos=2", "pretrain.late_steps=2", "training.log_interval=1",
    *(f"pretrain.{stage}.{setting}" for stage in ("face", "mouth") for setting in (
        "iterations=12", "static_steps=2", "warmup=2", "points=80",
        "density.start=3", "density.interval=4", "density.stop_before_end=2",
    )),
]  # fmt: skip


@pytest.fixture
def head_of(made_dataset):
    """A head of given settings with motion and alignment far from nothing, the same for all settings."""

    def make(**settings):
        model = ModelConfig(**settings)
        torch.manual_seed(0)
        points = torch.rand(70, 3) * 0.1 - 0.05
        face = GaussianField.from_points(points, max_sh_degree=1)
        head = build_head(model, face, None if model.single_branch else GaussianField.from_points(points))
        reference = build_head(ModelConfig(), face, GaussianField.from_points(points))
        torch.manual_seed(1)
        state = {name: torch.randn_like(value) * 0.3 for name, value in reference.state_dict().items()
                 if "motion" in name or "aligner" in name}  # fmt: skip
        head.load_state_dict({k: v for k, v in state.items() if k in head.state_dict()}, strict=False)
        return head

    return make


@pytest.fixture
def made_dataset(made_subject):
    from instag.data.dataset import SubjectDataset

    with SubjectDataset.open(made_subject) as dataset:
        yield dataset


@pytest.fixture
def condition(made_dataset) -> Condition:
    return made_dataset.condition([3])


def face_motion(head, condition):
    return head.face.move(condition.audio, condition.expression, True)


def test_the_aligner_loses_its_offset_its_scale_or_both(head_of, condition):
    full, no_offset, no_scale, none = (
        face_motion(head_of(**settings), condition)
        for settings in ({}, {"align_offset": False}, {"align_scale": False}, {"aligner": False})
    )
    assert full.offset.abs().max() > 0 and no_offset.offset.abs().max() == 0 and none.offset is None
    for other in (no_offset, no_scale, none):
        assert not torch.allclose(full.total.d_mean, other.total.d_mean)
    # Without scale, the universal field's own motion at the moved points; without offset, scaled at the points.
    head = head_of(align_scale=False)
    moved = head.face.structure.means + no_scale.offset
    expected = head.face.motion(moved, condition.audio, condition.expression).d_mean
    torch.testing.assert_close(no_scale.total.d_mean, expected)
    ratio = no_offset.total.d_mean / none.total.d_mean
    assert ((ratio > 0.75) & (ratio < 1.25)).all() and ratio.std() > 0
    both_off = head_of(align_offset=False, align_scale=False)
    assert both_off.face.aligner is None and both_off.mouth.aligner is None
    assert head_of(align_offset=False).mouth.aligner is None


def test_without_the_hook_the_mouth_hears_nothing_of_the_face(head_of, condition):
    hooked, free = head_of(), head_of(hook=False)
    assert hooked.hook(condition, Mode()).abs().max() > 0
    assert free.hook(condition, Mode()).abs().max() == 0
    before = free(condition).mouth.image.color
    for parameter in free.face.parameters():
        parameter.data += 0.1
    torch.testing.assert_close(free(condition).mouth.image.color, before)


def run(subject, output, *settings):
    return adapt_subject(subject, output, "adapt", [*STEPS, *settings], "cpu", universal="none", progress=False)


def terms(folder, stage):
    return [json.loads(line) for line in (folder / f"{stage}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "setting", ["align_offset=false", "align_scale=false", "aligner=false", "hook=false", "single_branch=true"]
)
def test_an_avatar_remembers_its_switches(made_subject, tmp_path, setting):
    avatar = Avatar.load(run(made_subject, tmp_path, f"model.{setting}"))
    name, value = setting.split("=")
    assert getattr(avatar.model, name) is (value == "true")
    assert avatar.head.hooked is avatar.model.hook
    condition = avatar.condition([0], torch.zeros(9, 16, 74), [2], avatar.expression[:1])
    assert avatar.render(condition, avatar.plates([0])).isfinite().all()


def test_a_single_branch_draws_the_mouth_too(made_subject, tmp_path):
    avatar = Avatar.load(run(made_subject, tmp_path, "model.single_branch=true"))
    assert avatar.head.mouth is None and not (tmp_path / "mouth.jsonl").exists()
    both = run(made_subject, tmp_path / "both").parent
    # The inside of the mouth is now wanted, not held transparent: the first losses differ.
    assert terms(tmp_path, "face")[0]["alpha"] != terms(both, "face")[0]["alpha"]
    assert terms(tmp_path, "face")[0]["photometric"] != terms(both, "face")[0]["photometric"]


def test_without_the_geometry_prior_there_is_no_such_term(made_subject, tmp_path):
    assert "normal" in terms(run(made_subject, tmp_path / "a").parent, "face")[-1]
    without = run(made_subject, tmp_path / "b", "training.face.prior_from=null").parent
    assert not {"normal", "depth"} & terms(without, "face")[-1].keys()


# --- pre-training -------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def corpus(made_subject, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for name in ("anna", "bert"):
        shutil.copytree(made_subject, folder / name)
    return folder


def pretrain(corpus, output, *settings):
    return pretrain_fields(corpus, output, "pretrain", [*PRETRAIN, *settings], "cpu", progress=False)


def test_without_contrast_or_personal_fields(corpus, tmp_path):
    plain, alone = pretrain(corpus, tmp_path / "a", "pretrain.contrast=0"), tmp_path / "b"
    assert "contrast" not in terms(plain.parent, "face")[-1] and "motion_personal" in terms(plain.parent, "face")[-1]
    pretrain(corpus, alone, "pretrain.personalized=false")
    assert not {"contrast", "motion_personal"} & terms(alone, "face")[-1].keys()


@pytest.mark.parametrize("personalized", [True, False])
def test_videos_may_share_one_structure(corpus, tmp_path, personalized):
    settings = ["pretrain.shared_structure=true", f"pretrain.personalized={str(personalized).lower()}"]
    path = pretrain(corpus, tmp_path, *settings)
    tensors, _ = load_tensors(tmp_path / "face.checkpoint.safetensors", "checkpoint")
    assert not any(name.startswith("1/branch.structure") for name in tensors)  # there is one, saved once
    assert terms(tmp_path, "face")[-1]["gaussians"] == len(tensors["0/branch.structure.means"]) != 80
    if personalized:
        names = [n[2:] for n in tensors if n.startswith("0/branch.personal.encoding")]
        assert names and all(not torch.equal(tensors[f"0/{n}"], tensors[f"1/{n}"]) for n in names)
    assert Universal.load(path).mouth


def test_a_shared_structure_resumes_exactly(corpus, tmp_path, monkeypatch):
    whole = pretrain(corpus, tmp_path / "a", "pretrain.shared_structure=true", "training.checkpoint_interval=6")
    save = trainer.save_checkpoint

    def stop(path, stage, step, identity):
        save(path, stage, step, identity)
        if step == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save_checkpoint", stop)
        with pytest.raises(KeyboardInterrupt):
            pretrain(corpus, tmp_path / "b", "pretrain.shared_structure=true", "training.checkpoint_interval=6")
    parts = pretrain(corpus, tmp_path / "b", "pretrain.shared_structure=true", "training.checkpoint_interval=6")
    expected, found = Universal.load(whole), Universal.load(parts)
    assert all(torch.equal(value, found.face[name]) for name, value in expected.face.items())


def test_a_single_branch_is_pretrained_without_a_mouth(corpus, made_subject, tmp_path):
    path = pretrain(corpus, tmp_path / "pre", "model.single_branch=true")
    fields = Universal.load(path)
    assert fields.face and not fields.mouth
    settings = [*STEPS, "model.single_branch=true"]
    avatar = adapt_subject(made_subject, tmp_path / "a", "adapt", settings, "cpu", universal=str(path), progress=False)
    assert Avatar.load(avatar).head.mouth is None


def test_settings_of_an_older_avatar_mean_what_they_meant():
    assert replace(ModelConfig(), aligner=True) == ModelConfig()
