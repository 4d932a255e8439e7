"""The whole adaptation on a made subject: a CPU smoke test, exact resume, refusals."""

import json

import pytest
import torch

from instag.api import adapt_subject
from instag.avatar import Avatar
from instag.errors import CheckpointError, ConfigError, InstagError
from instag.files import load_tensors
from instag.schedule import SETTLED
from instag.training.optimizers import GroupedOptimizer

SMALL = [
    "training.face.points=300",
    "training.mouth.points=200",
    "training.face.density.start=4",
    "training.face.density.interval=5",
    "training.face.density.stop_before_end=2",
    "training.mouth.density.start=4",
    "training.mouth.density.interval=5",
    "training.mouth.freeze_last=4",
    "training.mouth.warmup=4",
    "training.face.warmup=4",
    "training.face.align_from=2",
    "training.face.hair_ignored=[2,9]",
    "training.face.prior_from=7",
    "training.face.sh_interval=5",
    "training.face.losses.lips=1.0",
    "training.audio_noise=0.3",
    "training.settle=0.5",
    "training.log_interval=1",
]


def run(subject, output, face=12, mouth=12, fuse=4, *more, **options):
    lengths = [f"training.{name}.iterations={n}" for name, n in (("face", face), ("mouth", mouth), ("fuse", fuse))]
    return adapt_subject(subject, output, "adapt", [*SMALL, *lengths, *more], "cpu", progress=False, **options)


def log(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(made_subject, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run(made_subject, folder)
    return folder


def test_rates_settle_in_every_stage(made_subject, tmp_path, monkeypatch):
    seen = []
    set_rates = GroupedOptimizer.set_rates

    def note(self, rates):
        seen.append(rates)
        set_rates(self, rates)

    monkeypatch.setattr(GroupedOptimizer, "set_rates", note)
    run(made_subject, tmp_path, 12, 12, 4, "training.mouth.freeze_last=0")
    for name, steps, factors in (
        ("scales_raw", 12, [1] * 6 + [5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, SETTLED]),
        ("face_opacities_raw", 4, [1, 1, 0.5, SETTLED]),
    ):
        rates = [each[name] for each in seen if name in each]
        assert len(rates) in (steps, 2 * steps)
        assert rates == pytest.approx([rates[0] * factor for factor in factors] * (len(rates) // steps))


def test_every_stage_learns_and_logs_its_terms(finished):
    face, mouth, fuse = (log(finished / f"{name}.jsonl") for name in ("face", "mouth", "fuse"))
    assert [line["step"] for line in face] == list(range(1, 13))
    assert face[-1]["photometric"] < face[0]["photometric"]
    assert {"alpha", "attention_lips", "motion", "normal", "lips", "gaussians"} <= face[-1].keys()
    assert {"photometric", "alpha"} <= mouth[-1].keys()
    assert len(fuse) == 4
    for line in (*face, *mouth, *fuse):
        parts = [v for k, v in line.items() if k not in ("step", "seconds", "loss", "gaussians")]
        assert line["loss"] == pytest.approx(sum(parts), rel=1e-5)


def test_the_avatar_draws_without_its_subject(finished):
    avatar = Avatar.load(finished / "avatar.safetensors")
    width, steps = 74, 16
    features = torch.zeros(9, steps, width)
    condition = avatar.condition([0, 5], features, [2, 3], avatar.expression[:2])
    image = avatar.render(condition, avatar.plates([0, 5]))
    assert image.shape == (2, 3, avatar.size, avatar.size)
    assert image.min() >= 0 and image.max() <= 1
    assert len(avatar) == 60 and len(avatar.split.train) == 48


def test_an_interrupted_run_continues_exactly(made_subject, tmp_path):
    """6 + 6 steps equal 12, to the last bit."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    every = "training.checkpoint_interval=6"
    run(made_subject, whole, 12, 12, 4, every)

    from instag.training import trainer

    def stop_after_six(path, stage, step, identity, save=trainer.save_checkpoint):
        save(path, stage, step, identity)
        if step == 6 or stage.name == "fuse":
            raise KeyboardInterrupt

    original = trainer.save_checkpoint
    for _ in range(2):  # interrupted in the face, then in the mouth
        trainer.save_checkpoint = stop_after_six
        try:
            with pytest.raises(KeyboardInterrupt):
                run(made_subject, parts, 12, 12, 4, every)
        finally:
            trainer.save_checkpoint = original
        # The next round starts behind step 6 of this stage and is stopped at step 6 of the next.
    run(made_subject, parts, 12, 12, 4, every)

    expected, _ = load_tensors(whole / "avatar.safetensors", "avatar")
    found, _ = load_tensors(parts / "avatar.safetensors", "avatar")
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name
    for stage in ("face", "mouth", "fuse"):
        drop = {"seconds"}
        pairs = zip(log(whole / f"{stage}.jsonl"), log(parts / f"{stage}.jsonl"), strict=True)
        assert all(
            {k: v for k, v in a.items() if k not in drop} == {k: v for k, v in b.items() if k not in drop}
            for a, b in pairs
        )


def test_another_configuration_is_refused(finished, made_subject):
    with pytest.raises(CheckpointError, match="another configuration: choose a new output folder"):
        run(made_subject, finished, 13)


def test_a_damaged_checkpoint_is_named(made_subject, tmp_path):
    run(made_subject, tmp_path, 2, 2, 1)
    path = tmp_path / "face.checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="face.checkpoint.safetensors is damaged"):
        run(made_subject, tmp_path, 2, 2, 1)


def test_only_a_run_of_ours_is_overwritten(made_subject, tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"precious")
    with pytest.raises(InstagError, match="is no run of instag"):
        run(made_subject, tmp_path, 2, 2, 1, overwrite=True)
    assert (tmp_path / "holiday.jpg").read_bytes() == b"precious"


def test_an_unknown_extractor_is_refused(made_subject, tmp_path):
    with pytest.raises((ConfigError, InstagError), match="unknown audio extractor"):
        run(made_subject, tmp_path, 1, 1, 1, "model.extractor=telepathy")
