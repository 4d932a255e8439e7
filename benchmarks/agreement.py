"""Do captured steps compute what called ones do? Part `agreement` of `benchmarks/training.py`; figures of the GPU.

Gradients are sums of float atomics, so their last bits differ from call to call. Adam with its eps of 1e-15 turns the
sign of a gradient that is all noise into a whole step, and two runs part. Hence two comparisons:

    step by step   every step three times from the same state: called, called again, replayed
    whole runs     called, called again, replayed, each from the start: as trained, and with Adam's eps at QUIET_EPS
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from instag.api import adapt_subject
from instag.training import optimizers, trainer
from instag.training.graph import Steps, Terms
from instag.training.stage import Choice, StepInputs

STAGES = ("face", "mouth", "fuse")
STEPS = 100
QUIET_EPS = 1e-5  # Adam's, above the noise of a gradient, below most gradients
EVERY_SWITCH = [  # all that a faithful run switches in 10,000 steps, in 100
    *(f"training.{stage}.iterations={STEPS}" for stage in STAGES),
    "training.face.align_from=20",
    "training.face.hair_ignored=[30,60]",
    "training.face.prior_from=60",
    "training.face.depth_pause=[20,5]",
    "training.face.sh_interval=45",
    "training.mouth.align_from=20",
    "training.mouth.freeze_last=20",
    "training.log_interval=1",
]


def losses_of(folder: Path) -> dict[str, list[dict]]:
    """The log of every stage."""
    return {stage: [json.loads(line) for line in (folder / f"{stage}.jsonl").open()] for stage in STAGES}


def worst_difference(expected: list[dict], found: list[dict]) -> dict[str, float]:
    """Largest |a - b| / |a| of the loss, and of any term relative to the loss."""
    loss, term, at = 0.0, 0.0, 0
    for a, b in zip(expected, found, strict=True):
        assert a.keys() == b.keys(), (a.keys(), b.keys())
        difference = abs(a["loss"] - b["loss"]) / abs(a["loss"])
        if difference > loss:
            loss, at = difference, a["step"]
        others = [k for k in a if k not in ("step", "seconds", "loss", "gaussians")]
        term = max(term, *(abs(a[k] - b[k]) / abs(a["loss"]) for k in others))
    return {"loss": loss, "at_step": at, "term": term}


def whole_runs(subject: Path, device: str, options: list[str], eps: float | None = None) -> dict:
    """Losses of the first 100 steps of each stage: replayed against called, and called against called."""
    runs = {}
    with tempfile.TemporaryDirectory() as folder, adam_eps(eps):
        for name, graph in (("called", False), ("called again", False), ("replayed", True)):
            out = Path(folder) / name
            settings = [*EVERY_SWITCH, *options, f"training.graph={graph}".lower()]
            adapt_subject(subject, out, "adapt", settings, device, universal="none", progress=False)
            runs[name] = losses_of(out)
    others = ("called again", "replayed")
    return {
        stage: {name: worst_difference(runs["called"][stage], runs[name][stage]) for name in others} for stage in STAGES
    }


@contextmanager
def adam_eps(eps: float | None) -> Iterator[None]:
    """Every optimiser that is made meanwhile has at least this eps; None: its own."""
    made = optimizers._adam

    def quiet(specs, betas, own: float, decoupled: bool) -> torch.optim.Optimizer:
        return made(specs, betas, max(own, eps or 0.0), decoupled)

    with patch.object(optimizers, "_adam", quiet):
        yield


class StepsFromOneState(Steps):
    """Takes every step three times from the same state and notes how far the second and the third are off.

    Attributes:
        noted: stage -> "called again" or "replayed" -> of each step, the loss's and the state's `differences`.
    """

    def __init__(self, noted: dict[str, dict[str, list[tuple[float, float]]]], *arguments):
        super().__init__(*arguments)
        self.noted = noted

    def run(self, step: int) -> Terms:
        """See the class; goes on from the replayed step. Density decisions are always called: nothing to compare."""
        stage = self._stage
        assert self._graphs is not None
        if stage.decides(step):
            return super().run(step)
        plan = stage.plan(step)
        choice, inputs = plan.choice, self._write(plan)
        start = self._values()
        terms = self._work(inputs, choice)
        called = float(terms["loss"]), self._values()
        for name, kept in self.noted.setdefault(stage.name, {"called again": [], "replayed": []}).items():
            self._back_to(start)
            terms = self._work(inputs, choice) if name == "called again" else self._replayed(inputs, choice)
            kept.append(differences(start, called, (float(terms["loss"]), self._values())))
        stage.advance(step, choice)
        return terms

    def _replayed(self, inputs: StepInputs, choice: Choice) -> Terms:
        self._stage.upload_rates(choice)
        if choice not in self._captured:
            self._captured[choice] = self._graphs.capture(lambda: self._work(inputs, choice))
        return self._captured[choice].replay()

    def _values(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self._stage.state()[0].items()}

    @torch.no_grad()
    def _back_to(self, values: dict[str, Tensor]) -> None:
        """In place, as captured steps point to these tensors; moments that did not exist then become 0."""
        for name, tensor in self._stage.state()[0].items():
            tensor.copy_(values[name]) if name in values else tensor.zero_()


def differences(
    start: dict[str, Tensor], called: tuple[float, dict[str, Tensor]], other: tuple[float, dict[str, Tensor]]
) -> tuple[float, float]:
    """|loss - loss'| / |loss|, and |x - x'| / |x - start| of all parameters x together that the step moves."""
    apart, moved = 0.0, 0.0
    for name, value in called[1].items():
        if ".exp_avg" not in name and name in start and value.is_floating_point():
            moved += float((value - start[name]).double().square().sum())
            apart += float((value - other[1][name]).double().square().sum())
    return abs(called[0] - other[0]) / abs(called[0]), (apart / moved) ** 0.5


def step_by_step(subject: Path, device: str, options: list[str]) -> dict:
    """Every step of the first 100 of each stage from one state: worst loss, median and worst move of the parameters."""
    noted: dict = {}
    with tempfile.TemporaryDirectory() as folder, patch.object(trainer, "Steps", partial(StepsFromOneState, noted)):
        settings = [*EVERY_SWITCH, *options]
        adapt_subject(subject, Path(folder) / "run", "adapt", settings, device, universal="none", progress=False)
    return {
        stage: {
            name: {
                "steps": len(pairs),
                "worst_loss": max(loss for loss, _ in pairs),
                "median_move": statistics.median(move for _, move in pairs),
                "worst_move": max(move for _, move in pairs),
            }
            for name, pairs in kinds.items()
        }
        for stage, kinds in noted.items()
    }


def agreement(subject: Path, device: str = "cuda", options: Sequence[str] = ()) -> dict:
    """All comparisons, see the top; each is shown when it is done, as the next may take long on a busy host."""
    arguments = (subject, device, list(options))
    parts: dict[str, Callable[[], dict]] = {
        "step by step": lambda: step_by_step(*arguments),
        f"whole runs, Adam's eps {QUIET_EPS:g}": lambda: whole_runs(*arguments, QUIET_EPS),
        "whole runs": lambda: whole_runs(*arguments),
    }
    result = {}
    for name, part in parts.items():
        result[name] = part()
        print(json.dumps({name: result[name]}), file=sys.stderr, flush=True)
    return result


def rows(result: dict) -> dict[str, dict]:
    """A row per comparison and stage, for a table."""
    return {
        f"{name}, {stage}, {kind}": figures
        for name, stages in result.items()
        if isinstance(stages, dict)
        for stage, kinds in stages.items()
        for kind, figures in kinds.items()
    }
