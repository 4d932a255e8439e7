"""Identity-free pre-training (paper section 3.2, METHOD.md section 5): one universal field, k videos.

Each video is a subject with a structure field and a personalised field of its own; all share the universal field. A
step draws one video and one frame; the clocks are global.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from instag import losses
from instag.camera import Camera
from instag.config import PretrainConfig, StageConfig, TrainingConfig, scale_clocks
from instag.data.frame import FrameBatch
from instag.data.sampling import PRETRAINING_WINDOWS, Curriculum, face_curriculum, mouth_curriculum
from instag.fields.hook import HOOK_RANK
from instag.fields.motion import Deformation
from instag.fields.rivals import contrast, rivals_d_mean
from instag.fields.structure import GaussianField
from instag.head import HeadRender, Mode, TalkingHead
from instag.schedule import ema_decay, pretraining_factor
from instag.training.adapt import HAIR_CYCLE, FaceStage, MouthStage
from instag.training.optimizers import STRUCTURE_GROUPS, GroupedOptimizer, average
from instag.training.stage import (
    PERSONAL_ATTENTION_DECAY,
    BranchStage,
    Choice,
    Plan,
    StepInputs,
    Subject,
    field_optimizer,
    gaussian_groups,
)
from instag.training.targets import is_key_colored

MOUTH_KEY = (20.0, 235.0)  # of 255: a key-coloured mouth Gaussian in pre-training
TOP_PERCENTILE = 95.0  # of AU25: wide open; the maximum, since AU25 is clipped there
SHARED = ("fields.", "branch.motion.")  # of a part's saved state: the same for all videos ...
SHARED_STRUCTURE = ("branch.structure.", "gaussians.", "density.")  # ... and where they share a structure field
Rivals = Callable[[], Sequence[nn.Module]]  # personalised fields of the other videos, for the contrast


class OneVideo(BranchStage):
    """What face and mouth of one video share; stands before `FaceStage` or `MouthStage` among the bases."""

    def __init__(
        self, head: TalkingHead, subject: Subject, training: TrainingConfig, pretrain: PretrainConfig, number: int,
        fields: GroupedOptimizer, rivals: Rivals,
    ):  # fmt: skip
        self.pretrain, self.rivals, self.number = pretrain, rivals, number
        own: dict[str, Any] = {self.kind: getattr(pretrain, self.kind)}
        super().__init__(head, subject, replace(training, long=True, **own), None, f"{self.kind}{number}", fields)

    def choose(self, step: int) -> Choice:
        """The bare structure during the warm-up, then U + D_i."""
        moving = step > self.config.static_steps
        return replace(super().choose(step), part=self.number, moving=moving, shared=self.pretrain.shared_structure)

    def contrast_term(
        self, personal: Deformation | None, frames: FrameBatch, *driver: Tensor, which: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Negative contrast of this video's motion with (of them: `which`) the other videos' at the same points."""
        weight, rivals = self.pretrain.contrast, self.rivals()
        if personal is None or not rivals or weight == 0:
            return {}
        means = self.branch.structure.means.detach()
        others = rivals_d_mean(rivals, means, frames.condition.audio, *driver, which=which)
        return {"contrast": weight * contrast(personal.d_mean, others)}

    def field_factor(self, step: int) -> float:
        """0.5^(i/S), late 0.1^(i/total)."""
        return pretraining_factor(step, self.steps, self.pretrain.late_steps)


class PretrainFace(OneVideo, FaceStage):
    """The face of one video."""

    def curriculum(self) -> Curriculum:
        """The narrower windows of pre-training."""
        config, statistics = self.config, self.subject.dataset.statistics_of(self.subject.indices)
        steps = self.steps - self.pretrain.late_steps
        return face_curriculum(statistics, steps, config.warmup, config.curriculum_interval, PRETRAINING_WINDOWS)

    def mode(self, choice: Choice) -> Mode:
        """The face alone on the green key, with attention maps where it moves."""
        return Mode(mouth=False, moving=choice.moving, attention=choice.moving, key="green")

    def ignores_hair(self, step: int) -> bool:
        """Six of seven steps."""
        return step % HAIR_CYCLE != 0

    def losses(self, render: HeadRender, frames: FrameBatch, choice: Choice) -> dict[str, Tensor]:
        """As in adaptation, with D_i's magnitudes, both fields' attention and the contrast."""
        assert render.face is not None
        if render.face.motion is None:
            return self.photometric_term(render.face, frames, choice)
        terms = super().losses(render, frames, choice)
        personal = render.face.motion.personal
        if personal is not None:
            sizes = (personal.d_mean, personal.d_rotation, personal.d_opacity, personal.d_scale)
            terms["motion_personal"] = losses.magnitude(*sizes, weight=self.config.losses.motion)
        return terms | self.contrast_term(personal, frames, frames.condition.expression)


class PretrainMouth(OneVideo, MouthStage):
    """The mouth of one video."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.rival = torch.zeros(1, dtype=torch.int64, device=self.device)  # drawn for a step; captured steps read it

    def curriculum(self) -> Curriculum:
        """Wide-open mouths, then slowly down to the lower quartile."""
        config, statistics = self.config, self.subject.dataset.statistics_of(self.subject.indices)
        steps = self.steps - self.pretrain.late_steps
        return mouth_curriculum(statistics, steps, config.warmup, config.curriculum_interval, TOP_PERCENTILE)

    def hook_rank(self) -> int:
        """Fixed."""
        return HOOK_RANK

    def choose(self, step: int) -> Choice:
        """What moves is contrasted with one other video at random."""
        choice = replace(super().choose(step), frozen=False)
        if choice.moving and (rivals := self.rivals()):
            self.rival.fill_(int(self.generator.integers(len(rivals))))
        return choice

    def mode(self, choice: Choice) -> Mode:
        """The mouth alone on the green key."""
        return Mode(face=False, moving=choice.moving, key="green")

    def losses(self, render: HeadRender, frames: FrameBatch, choice: Choice) -> dict[str, Tensor]:
        """As in adaptation, with the motion's magnitudes and the contrast."""
        assert render.mouth is not None
        motion = render.mouth.motion
        if motion is None:
            return self.photometric_term(render.mouth, frames, choice)
        terms = super().losses(render, frames, choice)
        sizes = [motion.total.d_mean, motion.universal.d_rotation]
        if motion.personal is not None:
            sizes += [motion.personal.d_mean, motion.personal.d_rotation]
        terms["motion"] = losses.magnitude(*sizes, weight=self.config.losses.motion)
        return terms | self.contrast_term(motion.personal, frames, which=self.rival)  # the face: with all

    def removal(self, structure: GaussianField, camera: Camera, step: int) -> Tensor:
        """Key-coloured Gaussians."""
        return is_key_colored(structure.colors(camera.centers[0]), *MOUTH_KEY)


class PretrainStage:
    """All videos of one branch, behind the interface of one stage.

    Args:
        name: "face" or "mouth".
        parts: one per video; they share `motion` and its optimiser.
        motion: the universal field.
        seed: of the draw of videos.
    """

    def __init__(self, name: str, parts: Sequence[BranchStage], motion: nn.Module, seed: int):
        self.name = name
        self.parts = parts
        self.motion = motion
        self.steps = parts[0].steps
        self.generator = np.random.default_rng([seed, *name.encode()])
        self.average = copy.deepcopy(motion).requires_grad_(False)
        self.updates = 0
        self.device = parts[0].device
        one_structure = len({part.branch.structure for part in parts}) < len(parts)
        self.shared = SHARED + SHARED_STRUCTURE if one_structure else SHARED  # beginnings of names
        self.share = torch.zeros((), device=self.device)  # of the new values in the moving average

    def plan(self, step: int) -> Plan:
        """One video, one frame, both uniform."""
        part = self.parts[int(self.generator.integers(len(self.parts)))]
        self.share.fill_(1 - ema_decay(self.updates))
        return part.plan(step)

    def upload_rates(self, choice: Choice) -> None:
        """Let captured steps see the drawn video's rates."""
        self.parts[choice.part].upload_rates(choice)

    def frames(self, inputs: StepInputs, choice: Choice) -> FrameBatch:
        """A frame of the drawn video."""
        return self.parts[choice.part].frames(inputs, choice)

    def render(self, frames: FrameBatch, inputs: StepInputs, choice: Choice) -> HeadRender:
        """The drawn video's head."""
        return self.parts[choice.part].render(frames, inputs, choice)

    def losses(self, render: HeadRender, frames: FrameBatch, choice: Choice) -> dict[str, Tensor]:
        """The drawn video's terms."""
        return self.parts[choice.part].losses(render, frames, choice)

    def record(self, render: HeadRender, choice: Choice) -> None:
        """The drawn video's statistics."""
        self.parts[choice.part].record(render, choice)

    def decides(self, step: int) -> bool:
        """The clocks are global."""
        return self.parts[0].decides(step)

    def decide(self, frames: FrameBatch, step: int, choice: Choice) -> bool:
        """The drawn video's density control."""
        return self.parts[choice.part].decide(frames, step, choice)

    @torch.no_grad()
    def optimise(self, choice: Choice) -> None:
        """The drawn video's optimisers, then the moving average of the universal field."""
        self.parts[choice.part].optimise(choice)
        average(self.average.parameters(), self.motion.parameters(), self.share)

    def advance(self, step: int, choice: Choice) -> None:
        """After a step."""
        self.parts[choice.part].advance(step, choice)
        self.updates += 1

    def measures(self) -> Mapping[str, float]:
        """Gaussians of all videos."""
        return {"gaussians": sum(len(structure) for structure in {part.branch.structure for part in self.parts})}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All parts; what they share is in each of them, and saved once."""
        tensors = {f"average.{name}": t for name, t in self.average.state_dict().items()}
        documents = []
        for i, part in enumerate(self.parts):
            own, document = part.state()
            tensors |= {f"{i}/{name}": t for name, t in own.items() if i == 0 or not name.startswith(self.shared)}
            documents.append(document)
        return tensors, {
            "parts": documents,
            "generator": self.generator.bit_generator.state,
            "updates": self.updates,
        }

    def restore(self, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
        """Continue where `state` was taken."""
        shared = {k[2:]: v for k, v in tensors.items() if k.startswith("0/") and k[2:].startswith(self.shared)}
        for i, (part, own) in enumerate(zip(self.parts, document["parts"], strict=True)):
            prefix = f"{i}/"
            part.restore(shared | {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}, own)
        self.average.load_state_dict({k[8:]: v for k, v in tensors.items() if k.startswith("average.")})
        self.generator.bit_generator.state = document["generator"]
        self.updates = document["updates"]


def pretrain_stage(
    name: str,
    heads: Sequence[TalkingHead],
    subjects: Sequence[Subject],
    motion: nn.Module,
    training: TrainingConfig,
    pretrain: PretrainConfig,
) -> PretrainStage:
    """The stage of one branch over all videos, whose heads share `motion`."""
    kind = PretrainFace if name == "face" else PretrainMouth
    fields = field_optimizer(motion)
    branches = [head.face if name == "face" else head.mouth for head in heads]

    personal = [branch.personal for branch in branches if branch is not None and branch.personal is not None]

    def rivals(i: int) -> Rivals:
        return lambda: [field for field in personal if field is not parts[i].branch.personal]

    pairs = enumerate(zip(heads, subjects, strict=True))
    parts = [kind(head, subject, training, pretrain, i, fields, rivals(i)) for i, (head, subject) in pairs]
    if pretrain.shared_structure:
        share_structure(parts)
    return PretrainStage(name, parts, motion, training.seed)


def share_structure(parts: Sequence[BranchStage]) -> None:
    """Let parts whose branches hold one structure field have one optimiser and one density control too."""
    first = parts[0]
    groups = gaussian_groups(first.branch)
    for part in parts[1:]:
        personal = {k: p for k, p in gaussian_groups(part.branch).items() if k not in STRUCTURE_GROUPS}
        groups |= {name: groups[name] + parameters for name, parameters in personal.items()}
    optimizer = GroupedOptimizer(groups, {"personal_attention": PERSONAL_ATTENTION_DECAY})
    if first.density is not None:
        first.density.optimizer = optimizer
    for part in parts:
        part.gaussians, part.density = optimizer, first.density


def scaled_config(pretrain: PretrainConfig, videos: int) -> PretrainConfig:
    """Step counts for another number of videos: they grow with k."""
    factor = videos / pretrain.videos
    stages: dict[str, StageConfig] = {name: scale_clocks(getattr(pretrain, name), factor) for name in ("face", "mouth")}
    return replace(pretrain, **stages, late_steps=round(pretrain.late_steps * factor), videos=videos)
