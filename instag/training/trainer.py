"""The loop: step, log, save. The only one; a step itself is `instag.training.graph.Steps`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from instag.data.frame import FrameBatch
from instag.errors import InstagError
from instag.head import HeadRender
from instag.kernels.capture import graphs_for
from instag.training.checkpoint import load_checkpoint, save_checkpoint
from instag.training.graph import Steps
from instag.training.logger import TrainingLog
from instag.training.stage import Choice, Plan, StepInputs


class Stage(Protocol):
    """What a stage tells the loop. Steps count from 1."""

    name: str
    steps: int

    device: torch.device

    def plan(self, step: int) -> Plan:
        """What the step does: everything random, everything that depends on the step; sets the rates."""

    def upload_rates(self, choice: Choice) -> None:
        """Let captured steps see the rates."""

    def frames(self, inputs: StepInputs, choice: Choice) -> FrameBatch:
        """The frames of a step, on the training device."""

    def render(self, frames: FrameBatch, inputs: StepInputs, choice: Choice) -> HeadRender:
        """The forward path."""

    def losses(self, render: HeadRender, frames: FrameBatch, choice: Choice) -> dict[str, Tensor]:
        """Weighted terms by name; their sum is minimised."""

    def record(self, render: HeadRender, choice: Choice) -> None:
        """After backward: statistics for density control, in place."""

    def decides(self, step: int) -> bool:
        """Whether `decide` may change anything in this step."""

    def decide(self, frames: FrameBatch, step: int, choice: Choice) -> bool:
        """Density control; whether parameters were replaced."""

    def optimise(self, choice: Choice) -> None:
        """The optimisers' step; drops the gradients."""

    def advance(self, step: int, choice: Choice) -> None:
        """The host's part after a step."""

    def measures(self) -> Mapping[str, float]:
        """Further numbers for the log (counts, rates)."""

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that an exact continuation needs."""

    def restore(self, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
        """Continue where `state` was taken."""


def train(
    stage: Stage,
    folder: Path,
    identity: Mapping[str, Any],
    log_interval: int,
    checkpoint_interval: int,
    progress: bool = True,
    graph: bool = True,
) -> None:
    """Run a stage to its end, from its last checkpoint in `folder` where there is one.

    Args:
        stage: what to train.
        folder: of the run; logs and the stage's checkpoint go here.
        identity: what a checkpoint must have been made with to be continued (configuration, subject).
        log_interval, checkpoint_interval: steps.
        progress: show a bar.
        graph: on CUDA, replay captured steps (`instag.training.graph`).

    Raises:
        CheckpointError: a checkpoint of another configuration or subject lies in the folder.
        InstagError: the loss is not finite.
    """
    path = folder / f"{stage.name}.checkpoint.safetensors"
    step = load_checkpoint(path, stage, identity) if path.exists() else 0
    log = TrainingLog(folder, stage.name, step)
    bar = tqdm(total=stage.steps, initial=step, desc=stage.name, unit="step", disable=not progress, mininterval=0.5)
    steps = Steps(stage, graphs_for(stage.device, graph))
    try:
        with steps.active(step):
            while step < stage.steps:
                step += 1
                terms = steps.run(step)
                log_due = step % log_interval == 0 or step == stage.steps
                save_due = step % checkpoint_interval == 0 or step == stage.steps
                if log_due or save_due or stage.decides(step + 1):
                    settled = steps.settle(step, keep=log_due or save_due)  # what is logged is not taken again
                    if settled < step:
                        bar.update(settled + 1 - step)
                        step = settled
                        continue
                if log_due:
                    numbers = log.write(step, {**terms, **stage.measures()})
                    if not numbers["loss"] < float("inf"):
                        raise InstagError(
                            f"{stage.name}: the loss is {numbers['loss']} at step {step}; look at {log.path} and lower "
                            "the learning rates, or check the subject's contact sheet"
                        )
                    bar.set_postfix(loss=f"{numbers['loss']:.4f}", refresh=False)
                bar.update()
                if save_due:
                    save_checkpoint(path, stage, step, identity)
    finally:
        bar.close()
        log.close()
