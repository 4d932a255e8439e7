"""Pre-training on two made videos: it runs, resumes exactly, and adaptation starts from what it made."""

import json
import shutil

import pytest
import torch

from instag.api import adapt_subject, find_subjects, pretrain_fields
from instag.errors import CheckpointError, DataError
from instag.files import load_tensors
from instag.training import trainer
from instag.universal import Universal

SMALL = [
    "pretrain.videos=2",
    "pretrain.late_steps=4",
    "training.log_interval=1",
    *(f"pretrain.{stage}.{setting}" for stage in ("face", "mouth") for setting in (
        "iterations=14", "static_steps=4", "warmup=4", "points=150", "sh_interval=5",
        "density.start=3", "density.interval=4", "density.stop_before_end=2",
    )),
]  # fmt: skip


@pytest.fixture(scope="module")
def corpus(made_subject, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for name in ("anna", "bert"):
        shutil.copytree(made_subject, folder / name)
    return folder


def run(corpus, output, *more):
    return pretrain_fields(corpus, output, "pretrain", [*SMALL, *more], "cpu", progress=False)


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    return run(corpus, tmp_path_factory.mktemp("pretrained"))


def log(folder, stage):
    return [json.loads(line) for line in (folder / f"{stage}.jsonl").read_text().splitlines()]


def test_terms_join_after_the_static_steps(finished):
    face, mouth = log(finished.parent, "face"), log(finished.parent, "mouth")
    for lines in (face, mouth):
        assert "contrast" not in lines[3] and "alpha" not in lines[3]
        assert {"photometric", "alpha", "motion", "contrast"} <= lines[4].keys()
    assert "motion_personal" in face[-1]


def test_what_is_saved_is_the_average(finished):
    universal = Universal.load(finished)
    tensors, _ = load_tensors(finished.parent / "face.checkpoint.safetensors", "checkpoint")
    for name, value in universal.face.items():
        assert torch.equal(value, tensors[f"average.{name}"])
    assert any(not torch.equal(value, tensors[f"0/branch.motion.{name}"]) for name, value in universal.face.items())


def test_adaptation_starts_from_it(finished, made_subject, tmp_path):
    small = [f"training.{stage}.iterations=1" for stage in ("face", "mouth", "fuse")]
    small += ["training.face.points=50", "training.mouth.points=50", "training.fields.grid=0"]
    small += ["training.fields.network=0", "training.fields.attention=0"]
    path = adapt_subject(made_subject, tmp_path, "adapt", small, "cpu", universal=str(finished), progress=False)
    tensors, header = load_tensors(path, "avatar")
    for name, value in Universal.load(finished).face.items():
        torch.testing.assert_close(tensors[f"head.face.motion.{name}"], value)
    assert header["provenance"]["settings"]["universal"]["subjects"] == {"anna": 60, "bert": 60}


def test_other_features_are_refused(finished, made_subject, tmp_path):
    small = ["model.hash_ranges=paper"]
    with pytest.raises(CheckpointError, match="model.hash_ranges=reference"):
        adapt_subject(made_subject, tmp_path, "adapt", small, "cpu", universal=str(finished), progress=False)


def test_an_interrupted_run_continues_exactly(corpus, finished, tmp_path, monkeypatch):
    save = trainer.save_checkpoint

    def stop_after_seven(path, stage, step, identity):
        save(path, stage, step, identity)
        if step == 7:
            raise KeyboardInterrupt

    every = "training.checkpoint_interval=7"
    for _ in range(2):
        monkeypatch.setattr(trainer, "save_checkpoint", stop_after_seven)
        with pytest.raises(KeyboardInterrupt):
            run(corpus, tmp_path, every)
        monkeypatch.undo()
    again = run(corpus, tmp_path, every)
    expected, found = Universal.load(finished), Universal.load(again)
    for part in ("face", "mouth"):
        for name, value in getattr(expected, part).items():
            assert torch.equal(value, getattr(found, part)[name]), (part, name)


def test_switches_change_what_is_learned(corpus, tmp_path):
    run(corpus, tmp_path, "pretrain.personalized=false")
    assert "contrast" not in log(tmp_path, "face")[-1]


def test_subjects_are_found_by_name(corpus, tmp_path):
    assert [path.name for path in find_subjects(corpus)] == ["anna", "bert"]
    assert [path.name for path in find_subjects(corpus, ["bert"])] == ["bert"]
    with pytest.raises(DataError, match="no subject carl; there are: anna, bert"):
        find_subjects(corpus, ["carl"])
    with pytest.raises(DataError, match="no subject at all"):
        find_subjects(tmp_path)
