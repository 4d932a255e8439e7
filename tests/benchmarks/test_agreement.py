"""Captured against called steps, with a stand-in for CUDA graphs: equal where they are, and a wrong replay is seen."""

import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from instag.kernels import reason_missing
from instag.training import trainer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import agreement

FEW = [
    *(f"training.{stage}.iterations={steps}" for stage, steps in (("face", 6), ("mouth", 5), ("fuse", 3))),
    "training.face.points=60",
    "training.mouth.points=40",
    "training.face.align_from=2",
    "training.face.prior_from=null",
]


class Replays:
    """Graphs that call the work again, with `slip` added to the loss that they return."""

    def __init__(self, slip: float):
        self.slip = slip

    @contextmanager
    def active(self):
        yield

    def capture(self, work):
        def replay():
            terms = work()
            return terms | {"loss": terms["loss"] + self.slip}

        return type("Captured", (), {"replay": staticmethod(replay)})

    def overflow(self):
        return None


@pytest.fixture
def graphs(monkeypatch):
    def choose(slip=0.0):
        monkeypatch.setattr(trainer, "graphs_for", lambda device, wanted: Replays(slip) if wanted else None)

    return choose


def test_steps_from_one_state_agree(made_subject, graphs):
    graphs()
    found = agreement.step_by_step(made_subject, "cpu", FEW)
    assert [found[stage]["replayed"]["steps"] for stage in agreement.STAGES] == [6, 5, 3]
    for stage in agreement.STAGES:
        assert found[stage]["replayed"] == found[stage]["called again"]
        assert found[stage]["replayed"]["worst_loss"] == found[stage]["replayed"]["worst_move"] == 0


def test_a_wrong_replay_is_seen(made_subject, graphs):
    graphs(slip=1.0)
    found = agreement.step_by_step(made_subject, "cpu", FEW)["face"]
    assert found["replayed"]["worst_loss"] > 1 > found["called again"]["worst_loss"]


def test_whole_runs_agree_and_every_row_is_shown(made_subject, graphs):
    graphs()
    found = agreement.whole_runs(made_subject, "cpu", FEW, eps=agreement.QUIET_EPS)
    assert all(found[stage]["replayed"]["loss"] == 0 for stage in agreement.STAGES)
    assert "whole runs, mouth, replayed" in agreement.rows({"whole runs": found, "part_s": 1.0})


@pytest.mark.skipif(reason_missing() is not None, reason=f"real graphs: {reason_missing()}")
def test_on_a_gpu_a_replayed_step_is_the_called_one(made_subject):
    found = agreement.step_by_step(made_subject, "cuda", FEW)
    assert [found[stage]["replayed"]["steps"] for stage in agreement.STAGES] == [6, 5, 3]
    for stage in agreement.STAGES:
        assert found[stage]["replayed"]["worst_loss"] < 1e-5, found


def test_quiet_optimisers_have_a_larger_eps():
    from instag.training.optimizers import GroupedOptimizer

    with agreement.adam_eps(1e-3):
        inside = GroupedOptimizer({"a": [torch.nn.Parameter(torch.zeros(1))]})
    assert inside.torch.param_groups[0]["eps"] == 1e-3
    outside = GroupedOptimizer({"a": [torch.nn.Parameter(torch.zeros(1))]})
    assert outside.torch.param_groups[0]["eps"] == 1e-15
