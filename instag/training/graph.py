"""How a stage's steps are run: as ordinary calls, or, on CUDA, as replays of CUDA graphs.

One function, `Steps._work`, is a step: frames, forward, losses, backward, statistics, optimisers. Everything it reads
that changes from step to step lies in tensors that stay where they are (frame numbers, rates) or in its `Choice`. A
captured step is kept under its choice. Steps in which density control may act run as calls, with that action between
backward and the optimisers; where it replaced parameters, the captured steps that point to them are dropped.

Tile lists have a fixed length inside a graph. `Steps.settle` reads whether one was too short and, if so, goes back to
the last state that it kept, with longer lists: the steps since then are taken again.
"""

from __future__ import annotations

import copy
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from instag import losses
from instag.kernels.capture import Captured, Graphs
from instag.training.stage import Choice, Plan, StepInputs

if TYPE_CHECKING:
    from instag.data.frame import FrameBatch
    from instag.training.trainer import Stage

Terms = dict[str, Tensor]

_log = logging.getLogger(__name__)


@torch.no_grad()
def _copy_all(copies: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Values of `tensors` into `copies` of the same names and shapes; on a GPU a few launches for all of them."""
    alike = defaultdict(list)
    for name, tensor in tensors.items():
        alike[tensor.device, tensor.dtype].append(name)
    for names in alike.values():
        torch._foreach_copy_([copies[name] for name in names], [tensors[name] for name in names])


class Steps:
    """Runs the steps of a stage.

    Args:
        stage: what to train.
        graphs: captures steps; None: every step runs as calls.
    """

    def __init__(self, stage: Stage, graphs: Graphs | None):
        self._stage, self._graphs = stage, graphs
        self._inputs: StepInputs | None = None
        self._known: set[Choice] = set()  # have run as calls: whatever is made at first use is there
        self._captured: dict[Choice, Captured[Terms]] = {}
        self._settled: tuple[int, dict[str, Tensor], dict[str, Any]] | None = None

    @contextmanager
    def active(self, first: int) -> Iterator[None]:
        """Context of all calls; `first`: the step before the first."""
        if self._graphs is None:
            yield
            return
        with self._graphs.active():
            self._keep(first)
            yield
            self._captured.clear()

    def run(self, step: int) -> Terms:
        """Take a step; its terms and their sum `loss`, without gradients."""
        stage = self._stage
        plan = stage.plan(step)
        choice, inputs = plan.choice, self._write(plan)
        if self._graphs is None or choice not in self._known or stage.decides(step):
            frames, terms = self._forward_backward(inputs, choice)
            if stage.decides(step) and stage.decide(frames, step, choice):
                self._captured = {
                    c: s for c, s in self._captured.items() if c.part != choice.part and not choice.shared
                }
            stage.optimise(choice)
            self._known.add(choice)
        else:
            stage.upload_rates(choice)
            if choice not in self._captured:
                self._captured[choice] = self._graphs.capture(partial(self._work, inputs, choice))
            terms = self._captured[choice].replay()
        stage.advance(step, choice)
        return terms

    def settle(self, step: int, keep: bool = True) -> int:
        """Make sure of the steps so far: returns `step`, or the earlier one from which they must be taken again.

        keep: whether a later call may go back to here (a copy of the whole state), or only to an earlier one.
        """
        if self._graphs is None:
            return step
        reason = self._graphs.overflow()
        if reason is None:
            if keep:
                self._keep(step)
            return step
        assert self._settled is not None
        settled, tensors, document = self._settled
        _log.info("%s: back from step %d to %d: %s", self._stage.name, step, settled, reason)
        self._captured.clear()
        self._known.clear()
        self._stage.restore(tensors, copy.deepcopy(document))
        return settled

    def _keep(self, step: int) -> None:
        """Copy the whole state, into the last copy's memory where it has the same tensors."""
        tensors, document = self._stage.state()
        kept = {} if self._settled is None else self._settled[1]
        if {k: t.shape for k, t in kept.items()} != {k: t.shape for k, t in tensors.items()}:
            kept = {k: torch.empty_like(t.detach()) for k, t in tensors.items()}
        _copy_all(kept, tensors)
        self._settled = step, kept, copy.deepcopy(document)

    def _write(self, plan: Plan) -> StepInputs:
        """The plan's numbers in tensors that stay where they are."""
        index, rank = torch.tensor(plan.indices), torch.tensor([plan.hook_rank])
        if self._inputs is None:
            device = self._stage.device
            noise = None if plan.noise is None else plan.noise.to(device, copy=True)
            self._inputs = StepInputs(index.to(device, copy=True), rank.to(device, copy=True), noise)
        else:  # staged by the driver: the host does not wait for the device
            self._inputs.index.copy_(index, non_blocking=True)
            self._inputs.hook_rank.copy_(rank, non_blocking=True)
            if self._inputs.noise is not None and plan.noise is not None:
                self._inputs.noise.copy_(plan.noise, non_blocking=True)
        return self._inputs

    def _work(self, inputs: StepInputs, choice: Choice) -> Terms:
        """A whole step of which nothing is decided on the host."""
        _, terms = self._forward_backward(inputs, choice)
        self._stage.optimise(choice)
        return terms

    def _forward_backward(self, inputs: StepInputs, choice: Choice) -> tuple[FrameBatch, Terms]:
        """Losses and gradients; no node of autograd's outlives this call."""
        stage = self._stage
        frames = stage.frames(inputs, choice)
        render = stage.render(frames, inputs, choice)
        loss, values = losses.total(stage.losses(render, frames, choice))
        loss.backward()  # a slope given by us would have torch import its symbolic shapes: 0.3 s
        stage.record(render, choice)
        return frames, {"loss": loss.detach(), **values}
