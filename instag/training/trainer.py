"""The loop: draw, render, losses, backward, density control, step, log, save. The only one."""

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
from instag.training.checkpoint import load_checkpoint, save_checkpoint
from instag.training.logger import TrainingLog


class Stage(Protocol):
    """What a stage tells the loop. Steps count from 1."""

    name: str
    steps: int

    def draw(self, step: int) -> FrameBatch:
        """The frames of a step, on the training device."""

    def render(self, frames: FrameBatch, step: int) -> HeadRender:
        """The forward path."""

    def losses(self, render: HeadRender, frames: FrameBatch, step: int) -> dict[str, Tensor]:
        """Weighted terms by name; their sum is minimised."""

    def update(self, render: HeadRender, frames: FrameBatch, step: int) -> None:
        """After backward: density control, then the optimisers' step."""

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
) -> None:
    """Run a stage to its end, from its last checkpoint in `folder` where there is one.

    Args:
        stage: what to train.
        folder: of the run; logs and the stage's checkpoint go here.
        identity: what a checkpoint must have been made with to be continued (configuration, subject).
        log_interval, checkpoint_interval: steps.
        progress: show a bar.

    Raises:
        CheckpointError: a checkpoint of another configuration or subject lies in the folder.
        InstagError: the loss is not finite.
    """
    path = folder / f"{stage.name}.checkpoint.safetensors"
    first = load_checkpoint(path, stage, identity) if path.exists() else 0
    log = TrainingLog(folder, stage.name, first)
    bar = tqdm(total=stage.steps, initial=first, desc=stage.name, unit="step", disable=not progress, mininterval=0.5)
    try:
        for step in range(first + 1, stage.steps + 1):
            frames = stage.draw(step)
            render = stage.render(frames, step)
            terms = stage.losses(render, frames, step)
            total = torch.stack(list(terms.values())).sum()
            total.backward()
            stage.update(render, frames, step)
            if step % log_interval == 0 or step == stage.steps:
                numbers = log.write(step, {"loss": total.detach(), **terms, **stage.measures()})
                if not numbers["loss"] < float("inf"):
                    raise InstagError(
                        f"{stage.name}: the loss is {numbers['loss']} at step {step}; look at {log.path} and lower the "
                        "learning rates, or check the subject's contact sheet"
                    )
                bar.set_postfix(loss=f"{numbers['loss']:.4f}", refresh=False)
            bar.update()
            if step % checkpoint_interval == 0 or step == stage.steps:
                save_checkpoint(path, stage, step, identity)
    finally:
        bar.close()
        log.close()
