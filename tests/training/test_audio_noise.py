"""Noise on the sound that face and mouth learn from, and the extra weight of the lips."""

import json

import numpy as np
import pytest
import torch

from instag.api import adapt_subject
from instag.data.dataset import SubjectDataset
from instag.files import load_tensors
from instag.training.adapt import FaceStage
from instag.training.stage import BranchStage

STEPS = 3
SETTINGS = [
    f"training.face.iterations={STEPS}", f"training.mouth.iterations={STEPS}", "training.fuse.iterations=1",
    "training.face.points=60", "training.mouth.points=60", "training.face.prior_from=null",
    "training.mouth.freeze_last=0", "training.log_interval=1",
]  # fmt: skip


def run(subject, folder, *settings):
    adapt_subject(subject, folder, "adapt", [*SETTINGS, *settings], "cpu", progress=False)
    return load_tensors(folder / "avatar.safetensors", "avatar")[0]


@pytest.fixture(scope="module")
def plain(made_subject, tmp_path_factory):
    return run(made_subject, tmp_path_factory.mktemp("plain"))


@pytest.fixture
def heard(made_subject, monkeypatch):
    """What noise each step of face and mouth heard: stage -> [[B, 8, D, W], ...]."""
    noises = {"face": [], "mouth": []}
    frames = BranchStage.frames

    def record(stage, inputs, choice):
        batch = frames(stage, inputs, choice)
        with SubjectDataset.open(made_subject, extractor="phone-mel") as dataset:
            quiet = dataset.batch(np.asarray(inputs.index), "cpu").condition.audio
        noises[stage.name].append(batch.condition.audio - quiet)
        return batch

    monkeypatch.setattr(BranchStage, "frames", record)
    return noises


def test_without_noise_nothing_is_drawn(plain, made_subject, tmp_path, monkeypatch, heard):
    """So runs are what they were before there was noise, to the last bit."""
    monkeypatch.setattr(BranchStage, "draw_noise", lambda stage, frames: None)
    undrawn = run(made_subject, tmp_path)
    assert all(torch.equal(plain[name], tensor) for name, tensor in undrawn.items())
    assert not torch.stack(heard["face"] + heard["mouth"]).any()


def test_every_step_hears_its_own_noise(plain, made_subject, tmp_path, heard):
    noisy = run(made_subject, tmp_path, "training.audio_noise=0.5")
    for name in ("face", "mouth"):
        assert any(not torch.equal(plain[k], t) for k, t in noisy.items() if k.startswith(f"head.{name}.motion"))
        noise = torch.stack(heard[name]).double()  # [step, 1, 8, D, W]
        assert len(noise) == STEPS
        along = noise.mean((2, 4), keepdim=True)
        assert float((noise - along).std()) == pytest.approx(0.5, rel=0.1)
        assert float(along.std()) == pytest.approx(0.5, rel=0.2)
        assert float((noise[0] - noise[1]).std()) > 0.5
    assert not torch.equal(heard["face"][0], heard["mouth"][0])


def test_a_seed_repeats_its_noise(made_subject, tmp_path):
    first, second = (run(made_subject, tmp_path / str(i), "training.audio_noise=0.5") for i in range(2))
    assert all(torch.equal(first[name], tensor) for name, tensor in second.items())


@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_the_lips_weigh_more_where_asked(made_subject, tmp_path, weight, monkeypatch):
    """The first step's term, and nothing but that term, from the images that the photometric term sees."""
    seen = []
    lip_term = FaceStage._lip_term

    def record(stage, compared, frames):
        top, bottom, left, right = frames.lip_rectangle[0].tolist()
        error = (compared.render - compared.target).detach().abs()[..., top:bottom, left:right].sum()
        seen.append(float(error) / compared.render.numel())
        return lip_term(stage, compared, frames)

    monkeypatch.setattr(FaceStage, "_lip_term", record)
    run(made_subject, tmp_path, f"training.face.losses.lips={weight}")
    logged = [json.loads(line)["lips"] for line in (tmp_path / "face.jsonl").read_text().splitlines()]
    assert logged == pytest.approx([weight * error for error in seen], rel=1e-4) and min(logged) > 0
