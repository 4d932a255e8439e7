"""Fuse: both branches over the real background; colours and the face's opacity learn (METHOD.md section 6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from instag import losses
from instag.config import TrainingConfig
from instag.data.frame import FrameBatch
from instag.data.sampling import FrameSampler
from instag.fields.hook import HOOK_RANK
from instag.head import HeadRender, Mode, TalkingHead
from instag.metrics.lpips import LPIPS
from instag.render.composite import composite_frames
from instag.schedule import settling_factor
from instag.training.optimizers import GroupedOptimizer
from instag.training.stage import SH_REST_SHARE, Choice, Plan, StepInputs, Subject, draw_patch_size


class FuseStage:
    """Trains what is seen, not what moves."""

    name = "fuse"

    def __init__(
        self,
        head: TalkingHead,
        subject: Subject,
        training: TrainingConfig,
        perceptual: LPIPS | None,
    ):
        self.config = training.fuse
        self.training = training
        self.steps = self.config.iterations
        self.head = head
        self.subject = subject
        self.perceptual = perceptual
        self.generator = np.random.default_rng([training.seed, 2])
        self.device = head.key_black.device
        self.sampler = FrameSampler(subject.indices, None, self.generator)
        face = head.face.structure
        head.requires_grad_(False)
        self.learned = {"face_sh_dc": face.sh_dc, "face_sh_rest": face.sh_rest}
        if head.mouth is not None:
            mouth = head.mouth.structure
            self.learned |= {"mouth_sh_dc": mouth.sh_dc, "mouth_sh_rest": mouth.sh_rest}
        self.learned["face_opacities_raw"] = face.opacities_raw
        for parameter in self.learned.values():
            parameter.requires_grad_(True)
        self.optimizer = GroupedOptimizer({name: [p] for name, p in self.learned.items()}, {})

    def rates(self, step: int) -> dict[str, float]:
        """Learning rates of the optimiser's groups."""
        rates, factor = self.training.gaussians, settling_factor(step, self.steps, self.training.settle)
        colors = {"sh_dc": rates.sh_dc * factor, "sh_rest": rates.sh_dc * SH_REST_SHARE * factor}
        both = {f"{branch}_{name}": rate for branch in ("face", "mouth") for name, rate in colors.items()}
        return {**both, "face_opacities_raw": rates.fuse_opacity * factor}

    def plan(self, step: int) -> Plan:
        """Frames, rates and the size of perceptual patches."""
        self.optimizer.set_rates(self.rates(step))
        indices = self.sampler.next(step, self.config.frames_per_step)
        self.subject.prepare(indices, prior=False)
        patch = None
        if self.perceptual is not None and step > self.steps - self.config.lpips_last:
            patch = draw_patch_size(self.config, step, self.subject.dataset.size, self.training.seed)
        return Plan(indices, HOOK_RANK, Choice(patch=patch))

    def upload_rates(self, choice: Choice) -> None:
        """Let captured steps see the rates."""
        self.optimizer.upload_rates()

    def frames(self, inputs: StepInputs, choice: Choice) -> FrameBatch:
        """Frames of the step, on the training device."""
        return self.subject.batch(inputs.index, prior=False)

    def render(self, frames: FrameBatch, inputs: StepInputs, choice: Choice) -> HeadRender:
        """What synthesis draws: on black, which is green with the key subtracted as green * (1 - alpha)."""
        return self.head(frames.condition, Mode())

    def losses(self, render: HeadRender, frames: FrameBatch, choice: Choice) -> dict[str, Tensor]:
        """The complete frame."""
        assert render.face is not None
        image, target = composite_frames(render.face.image, render.mouth and render.mouth.image, frames)
        terms = {"photometric": losses.photometric(image, target, self.config.losses.dssim)}
        if self.perceptual is not None and choice.patch is not None:
            terms["lpips"] = self.config.losses.lpips * self.perceptual.patches(image, target, choice.patch)
        return terms

    def record(self, render: HeadRender, choice: Choice) -> None:
        """The number of Gaussians stays."""

    def decides(self, step: int) -> bool:
        """Never: the number of Gaussians stays."""
        return False

    def decide(self, frames: FrameBatch, step: int, choice: Choice) -> bool:
        """Nothing to decide."""
        return False

    def optimise(self, choice: Choice) -> None:
        """The optimiser's step."""
        self.optimizer.step()

    def advance(self, step: int, choice: Choice) -> None:
        """Nothing changes with the step."""

    def measures(self) -> Mapping[str, float]:
        """Nothing changes but the losses."""
        return {}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Learned parameters, optimiser, random numbers."""
        tensors: dict[str, Tensor] = {f"learned.{name}": p for name, p in self.learned.items()}
        tensors |= {f"optimizer.{name}": t for name, t in self.optimizer.tensors().items()}
        return tensors, {"sampler": self.sampler.state(), "generator": self.generator.bit_generator.state}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
        """Continue where `state` was taken."""
        for name, parameter in self.learned.items():
            parameter.copy_(tensors[f"learned.{name}"])
        prefix = "optimizer."
        self.optimizer.load_tensors({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
        self.sampler.restore(document["sampler"])
        self.generator.bit_generator.state = document["generator"]
