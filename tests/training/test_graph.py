"""Captured steps on the CPU: a stand-in for CUDA graphs that calls the captured function again at each replay.

What a replay reads must lie in the tensors and the choice that it was captured with, so a switch that `Choice` forgets
makes these runs differ.
"""

from __future__ import annotations

import gc
import weakref
from contextlib import contextmanager

import pytest
import torch

from instag.training import trainer
from tests.training.test_adaptation import log, run

EVERY = ["training.log_interval=3", "training.face.depth_pause=[5,1]"]


class CalledAgain:
    """A "captured" step."""

    def __init__(self, work):
        self.work = work

    def replay(self):
        return self.work()


class Hook:
    """On a node of autograd's: lives as long as the node."""

    def __call__(self, *gradients):
        pass


def in_held_graphs() -> set[int]:
    """Parameters that stand in a graph of autograd's: their nodes remember a stream, which may fail a capture."""
    held = set()
    for parameter in gc.get_objects():
        if type(parameter) is torch.nn.Parameter and parameter.requires_grad:
            hook = Hook()
            torch.autograd.graph.get_gradient_edge(parameter).node.register_hook(hook)
            alive = weakref.ref(hook)
            del hook
            if alive() is not None:
                held.add(id(parameter))
    return held


class StandIn:
    """Counts captures, at which no graph may be held but of `others`; overflows when told."""

    def __init__(self, others, overflow_at=()):
        self.others = others
        self.captured = 0
        self.asked = 0
        self.overflow_at = overflow_at

    @contextmanager
    def active(self):
        assert in_held_graphs() <= self.others
        yield

    def capture(self, work):
        assert in_held_graphs() <= self.others
        self.captured += 1
        return CalledAgain(work)

    def overflow(self):
        self.asked += 1
        return "a tile held too many" if self.asked in self.overflow_at else None


@pytest.fixture(scope="module")
def called(made_subject, tmp_path_factory):
    folder = tmp_path_factory.mktemp("called")
    run(made_subject, folder, 24, 20, 6, *EVERY)
    return folder


def captured_run(subject, folder, monkeypatch, **options):
    made, others = [], in_held_graphs()  # other tests'

    def graphs(device, wanted):
        assert wanted
        made.append(StandIn(others, **options))
        return made[-1]

    monkeypatch.setattr(trainer, "graphs_for", graphs)
    run(subject, folder, 24, 20, 6, *EVERY)
    return made


def assert_same(expected, found):
    for stage in ("face", "mouth", "fuse"):
        for a, b in zip(log(expected / f"{stage}.jsonl"), log(found / f"{stage}.jsonl"), strict=True):
            assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}


def test_captured_steps_are_the_called_ones(called, made_subject, tmp_path, monkeypatch):
    made = captured_run(made_subject, tmp_path, monkeypatch)
    assert len(made) == 3 and all(graphs.captured for graphs in made)
    assert_same(called, tmp_path)


def test_after_an_overflow_the_steps_are_taken_again(called, made_subject, tmp_path, monkeypatch):
    made = captured_run(made_subject, tmp_path, monkeypatch, overflow_at=(2, 3, 5))
    assert all(graphs.asked > 5 for graphs in made[:2])
    assert_same(called, tmp_path)


def test_a_captured_step_follows_frames_and_rates(made_subject, tmp_path, monkeypatch):
    """The stand-in itself: a replay that kept the frame it was captured with would be noticed."""
    from instag.training.graph import Steps

    original = Steps._write

    def stuck(self, plan):
        return self._inputs if self._inputs is not None else original(self, plan)

    captured_run(made_subject, tmp_path / "right", monkeypatch)
    monkeypatch.setattr(Steps, "_write", stuck)
    captured_run(made_subject, tmp_path / "stuck", monkeypatch)
    with pytest.raises(AssertionError):
        assert_same(tmp_path / "right", tmp_path / "stuck")


def test_a_held_graph_is_seen():
    parameter = torch.nn.Parameter(torch.ones(2))
    held = parameter.square().sum()
    held.backward()
    assert id(parameter) in in_held_graphs()
    del held
    assert id(parameter) not in in_held_graphs()


def test_without_cuda_every_step_is_called():
    from instag.kernels.capture import graphs_for

    assert graphs_for(torch.device("cpu"), wanted=True) is None
