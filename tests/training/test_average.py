"""The mean of a motion field over its last steps, and the pull towards the universal field."""

import pytest
import torch
from torch import nn

from instag.api import adapt_subject
from instag.files import load_tensors
from instag.training.adapt import FaceStage
from instag.training.average import Anchor, TailAverage
from instag.universal import find_universal

STEPS, LAST = 8, 5
SETTINGS = [
    f"training.face.iterations={STEPS}", "training.mouth.iterations=2", "training.fuse.iterations=1",
    "training.face.points=60", "training.mouth.points=60", "training.face.align_from=0",
    "training.face.prior_from=null",
]  # fmt: skip


def test_the_mean_is_that_of_the_covered_steps_alone():
    values = torch.randn(6, 3, dtype=torch.float64)
    parameter = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    tail = TailAverage([parameter], first=2, last=5)
    for step, value in enumerate(values, start=1):
        with torch.no_grad():
            parameter.copy_(value)
        if tail.covers(step):
            tail.prepare(step)
            tail.update()
        tail.finish(step)
        expected = values[2:5].mean(0) if step == 5 else value
        torch.testing.assert_close(parameter.detach(), expected)


def test_nothing_is_averaged_over_no_steps():
    tail = TailAverage([nn.Parameter(torch.zeros(1))], first=5, last=5)
    assert not any(tail.covers(step) for step in range(10))


def test_the_anchor_goes_its_share_of_the_way_back():
    parameter = nn.Parameter(torch.full((2,), 3.0))
    anchor = Anchor([parameter], share=0.25)
    with torch.no_grad():
        parameter.fill_(7.0)
    anchor.pull()
    assert torch.equal(parameter.detach(), torch.full((2,), 6.0))


def face_motion(folder):
    tensors, _ = load_tensors(folder / "avatar.safetensors", "avatar")
    return {name: t for name, t in tensors.items() if name.startswith(("head.face.motion", "head.face.aligner"))}


def test_a_stage_ends_with_the_mean_of_its_last_steps(made_subject, tmp_path, monkeypatch):
    seen = []
    advance = FaceStage.advance

    def record(stage, step, choice):
        seen.append({f"head.face.{k}": t.clone() for k, t in stage.branch.state_dict().items()})
        advance(stage, step, choice)

    monkeypatch.setattr(FaceStage, "advance", record)
    run = [*SETTINGS, f"training.face.average_last={LAST}"]
    adapt_subject(made_subject, tmp_path / "run", "adapt", run, "cpu", progress=False)
    assert len(seen) == STEPS
    for name, tensor in face_motion(tmp_path / "run").items():
        torch.testing.assert_close(tensor, torch.stack([step[name] for step in seen[-LAST:]]).mean(0))


def test_an_anchored_field_stays_with_the_universal_one_where_there_is_one(made_subject, tmp_path):
    """A share of 1 gives back the universal field; from scratch there is nothing to be anchored to."""

    def motion(universal, share):
        folder = tmp_path / f"{universal}{share}"
        run = [*SETTINGS, f"training.face.anchor={share}"]
        adapt_subject(made_subject, folder, "adapt", run, "cpu", progress=False, universal=universal)
        return face_motion(folder)

    fields = find_universal("shipped", "phone-mel")
    assert fields is not None
    held = motion("shipped", 1.0)
    for name, tensor in fields.face.items():
        assert torch.equal(held[f"head.face.motion.{name}"], tensor), name
    anchored, free = motion("none", 1.0), motion("none", 0.0)
    assert all(torch.equal(anchored[name], tensor) for name, tensor in free.items())


@pytest.mark.parametrize("rate, same", [(0.0, True), (None, False)])
def test_the_audio_network_may_rest(made_subject, tmp_path, rate, same):
    run = [*SETTINGS, f"training.fields.audio={'null' if rate is None else rate}"]
    adapt_subject(made_subject, tmp_path / "run", "adapt", run, "cpu", progress=False)
    name = "audio.network.0.weight"
    fields = find_universal("shipped", "phone-mel")
    assert fields is not None
    assert torch.equal(face_motion(tmp_path / "run")[f"head.face.motion.{name}"], fields.face[name]) == same
