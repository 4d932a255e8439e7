"""What the stages share: frames, choices of a step, optimisers and their rates, density control, state to save."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from instag.config import StageConfig, TrainingConfig
from instag.data.audio import WINDOW_FRAMES
from instag.data.dataset import SubjectDataset
from instag.data.frame import FrameBatch, GeometryPrior
from instag.data.resident import ResidentFrames
from instag.data.sampling import Curriculum, FrameSampler
from instag.fields.hook import HOOK_RANK
from instag.fields.structure import GaussianField
from instag.head import Branch, HeadRender, Mode, TalkingHead
from instag.metrics.lpips import LPIPS
from instag.schedule import adaptation_factor, position_rate, settling_factor
from instag.training.density import DensityControl, Removal, Statistics
from instag.training.optimizers import STRUCTURE_GROUPS, GroupedOptimizer, step_all

GRID_DECAY = 0.01  # decoupled, motion fields' hash grids
ATTENTION_DECAY = 1e-4
PERSONAL_ATTENTION_DECAY = 1e-4  # L2, not decoupled
SH_REST_SHARE = 1 / 20  # of the base colour's rate
FIELD_BETAS, FIELD_EPS = (0.9, 0.99), 1e-8
PATCH_REFERENCE = 512  # px, image side in which patch sizes are given
SMALLEST_PATCH = 32  # px; AlexNet's convolutions need about this much


@dataclass(frozen=True)
class Subject:
    """What a stage trains on.

    Attributes:
        dataset: frames and conditions.
        indices: [M] training frames.
        extent: scene extent, head units.
        resident: the training frames on the device, where they were uploaded.
    """

    dataset: SubjectDataset
    indices: np.ndarray
    extent: float
    resident: ResidentFrames | None = None

    def prepare(self, indices: Sequence[int], prior: bool) -> None:
        """Have frames, and their priors where asked, on the device for a step that is queued next."""
        if self.resident is not None:
            self.resident.prepare(indices, prior)

    def batch(self, index: Tensor, prior: bool) -> FrameBatch:
        """Frames by their numbers [B], on the numbers' device."""
        if self.resident is not None:
            return self.resident.batch(index, prior=prior)
        return self.dataset.batch(index, index.device, prior=prior)

    def geometry(self, indices: Sequence[int]) -> GeometryPrior:
        """Geometry priors of a few frames, drawn where the frames are and not kept."""
        return self.dataset.prior(indices) if self.resident is None else self.resident.geometry(indices)


@dataclass(frozen=True)
class Choice:
    """What a step does, decided on the host before any of its work is queued.

    Steps with equal choices run the same operations on tensors of the same shapes: a captured step is kept under its
    choice (`instag.training.graph`). Whatever else differs between steps must come in tensors.
    """

    part: int = 0
    """Number of the video (pre-training)."""
    sh_degree: int = 0
    """Degree of the colours that are drawn."""
    moving: bool = True
    """Whether anything moves (not in the warm-up of pre-training)."""
    aligned: bool = True
    """Whether the motion aligner takes part."""
    ignore_hair: bool = False
    """Whether hair is painted over."""
    prior: bool = False
    """Whether the geometry prior takes part..."""
    depth: bool = False
    """...its depth too."""
    frozen: bool = False
    """Whether only colours and the aligner learn (mouth)."""
    patch: int | None = None
    """Side of the perceptual term's patches, px; None: no such term."""
    shared: bool = False
    """Whether all videos share one structure field (an ablation of pre-training)."""
    counted: bool = False
    """Whether density control takes this step's gradients into account."""


@dataclass(frozen=True)
class Plan:
    """A step as the host has drawn it.

    Attributes:
        indices: frames, by their numbers in the clip.
        hook_rank: of the mouth's hook.
        choice: the rest.
        noise: float32 [B, 8, D, W] for the audio windows; None: they are heard as they are.
    """

    indices: list[int]
    hook_rank: int
    choice: Choice
    noise: Tensor | None = None


@dataclass(frozen=True)
class StepInputs:
    """A plan's numbers as tensors on the training device.

    Attributes:
        index: int64 [B] frames.
        hook_rank: int64 [1].
        noise: as in the plan.
    """

    index: Tensor
    hook_rank: Tensor
    noise: Tensor | None = None


class BranchStage:
    """Training of one branch on one subject: the base of the face and the mouth stage.

    Subclasses say which branch learns (`kind`), what is drawn (`curriculum`, `mode`), what is minimised (`losses`),
    which rates hold (`rates`) and which Gaussians never belong (`removal`).

    Args:
        head: trained in place, on the training device.
        subject: frames to learn from.
        training: of the whole run; the stage's own settings are those of its `kind`.
        perceptual: network of the perceptual terms, where its weights are installed.
        name: of the stage; by default its `kind`.
        fields: optimiser of the motion field, where several subjects share one; else the stage makes its own.
    """

    def __init__(
        self,
        head: TalkingHead,
        subject: Subject,
        training: TrainingConfig,
        perceptual: LPIPS | None,
        name: str | None = None,
        fields: GroupedOptimizer | None = None,
    ):
        branch: Branch = getattr(head, self.kind)
        config: StageConfig = getattr(training, self.kind)
        self.name = name or self.kind
        self.steps = config.iterations
        self.head = head
        self.branch = branch
        self.subject = subject
        self.config = config
        self.training = training
        self.perceptual = perceptual
        self.device = branch.structure.means.device
        seed = [training.seed, *self.name.encode()]
        self.generator = np.random.default_rng(seed)
        self.noise = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        self.sampler = FrameSampler(subject.indices, self.curriculum(), self.generator)
        self.gaussians = GroupedOptimizer(gaussian_groups(branch), {"personal_attention": PERSONAL_ATTENTION_DECAY})
        self.fields = fields or field_optimizer(branch.motion)
        self.density: DensityControl | None = None
        if config.density is not None:
            self.density = DensityControl(
                branch.structure, self.gaussians, config.density, self.steps, subject.extent, self.noise, self.removal
            )
        head.requires_grad_(False)
        branch.requires_grad_(True)

    # --- what a stage must say ----------------------------------------------------------------------------------
    kind: Literal["face", "mouth"]
    removal: Removal

    def curriculum(self) -> Curriculum | None:
        """Which frames a step wants."""
        return None

    def choose(self, step: int) -> Choice:
        """What a step does."""
        return Choice(
            sh_degree=self.branch.structure.active_sh_degree,
            aligned=step > self.config.align_from,
            counted=self.density is not None and self.density.counts(step),
        )

    def draw_patch(self, step: int) -> int | None:
        """Side of the perceptual term's patches; None where the term does not act."""
        if self.perceptual is None or step <= self.steps - self.config.lpips_last:
            return None
        return draw_patch_size(self.config, step, self.subject.dataset.size, self.training.seed)

    def hook_rank(self) -> int:
        """Rank of the mouth's hook in the next step."""
        return HOOK_RANK

    def draw_noise(self, frames: int) -> Tensor | None:
        """Noise for the audio windows of a step [B, 8, D, W], on the host: the same numbers on every device.

        In a few seconds every frame has a sound of its own by which a field can know it, down to what only that frame
        shows, and such a field guesses on a new sound. Heard a little differently each time, a frame must be drawn from
        what similar sounds share (training with noise is a Tikhonov regulariser: Bishop 1995). Half of the variance
        is the same along a window, feature by feature, as another voice or microphone would be.
        """
        features = self.subject.dataset.features
        if not self.training.audio_noise or features is None:
            return None
        steps, width = features.shape[1:]
        inside = torch.randn(frames, WINDOW_FRAMES, width, steps, generator=self.noise)
        along = torch.randn(frames, 1, width, 1, generator=self.noise)
        return self.training.audio_noise * (inside + along)

    def mode(self, choice: Choice) -> Mode:
        """What is drawn."""
        raise NotImplementedError

    def losses(self, render: HeadRender, frames: FrameBatch, choice: Choice) -> dict[str, Tensor]:
        """What is minimised."""
        raise NotImplementedError

    # --- the loop's calls ---------------------------------------------------------------------------------------
    def plan(self, step: int) -> Plan:
        """Everything random and everything that depends on the step; sets the optimisers' rates, fetches the frames."""
        indices = self.sampler.next(step, self.config.frames_per_step)
        rank = self.hook_rank()
        plan = Plan(indices, rank, self.choose(step), self.draw_noise(len(indices)))
        self.subject.prepare(indices, plan.choice.prior)
        settling = settling_factor(step, self.steps, self.training.settle)
        for optimizer, rates in zip((self.gaussians, self.fields), self.rates(step), strict=True):
            optimizer.set_rates({name: rate * settling for name, rate in rates.items()})
        return plan

    def upload_rates(self, choice: Choice) -> None:
        """Let captured steps see the rates."""
        self.gaussians.upload_rates()
        self.fields.upload_rates()

    def frames(self, inputs: StepInputs, choice: Choice) -> FrameBatch:
        """Frames of the step, on the training device."""
        frames = self.subject.batch(inputs.index, choice.prior)
        if inputs.noise is None:
            return frames
        condition = frames.condition
        return replace(frames, condition=replace(condition, audio=condition.audio + inputs.noise))

    def render(self, frames: FrameBatch, inputs: StepInputs, choice: Choice) -> HeadRender:
        """The one forward path."""
        return self.head(frames.condition, replace(self.mode(choice), hook_rank=inputs.hook_rank))

    def record(self, render: HeadRender, choice: Choice) -> None:
        """After backward: statistics of density control."""
        part = render.face if self.branch is self.head.face else render.mouth
        if choice.counted and self.density is not None and part is not None:
            self.density.record(part)

    def decides(self, step: int) -> bool:
        """Whether the number of Gaussians, or their opacities, may change in this step."""
        return self.density is not None and self.density.decides(step)

    def decide(self, frames: FrameBatch, step: int, choice: Choice) -> bool:
        """Density control, where `decides`, between backward and the optimisers; whether parameters were replaced."""
        return self.density is not None and self.density.decide(frames.condition.camera, step)

    def optimise(self, choice: Choice) -> None:
        """The optimisers' step."""
        step_all(self.gaussians, self.fields)

    def advance(self, step: int, choice: Choice) -> None:
        """After a step."""
        structure = self.branch.structure
        if step % self.config.sh_interval == 0:
            structure.active_sh_degree = min(structure.active_sh_degree + 1, structure.max_sh_degree)

    def rates(self, step: int) -> tuple[dict[str, float], dict[str, float]]:
        """Learning rates of the Gaussians' and of the fields' groups."""
        rates, factor = self.training.gaussians, self.field_factor(step)
        position = position_rate(step, rates.position, rates.position_end, rates.position_steps)
        fields = self.training.fields
        return (
            {
                "means": position * self.subject.extent,
                "sh_dc": rates.sh_dc,
                "sh_rest": rates.sh_dc * SH_REST_SHARE,
                "opacities_raw": rates.opacity,
                "scales_raw": rates.scale,
                "quaternions_raw": rates.rotation,
                "aligner_grid": rates.aligner_grid,
                "aligner_network": rates.aligner_network,
                "personal_grid": rates.aligner_grid,
                "personal_network": rates.personal_network,
                "personal_attention": rates.personal_attention,
            },
            {
                "grid": fields.grid * factor,
                "network": fields.network * factor,
                "attention": fields.attention * factor,
            },
        )

    def field_factor(self, step: int) -> float:
        """Factor on the motion field's rates (METHOD.md section 6)."""
        config = self.config
        return adaptation_factor(step, self.steps, config.rate_decay, config.warmup, config.warmup_rate)

    def measures(self) -> Mapping[str, float]:
        """Counts for the log."""
        return {"gaussians": len(self.branch.structure)}

    # --- checkpoints --------------------------------------------------------------------------------------------
    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Branch, optimisers, statistics, random numbers."""
        tensors = {f"branch.{k}": v for k, v in self.branch.state_dict().items()}
        tensors |= {f"gaussians.{k}": v for k, v in self.gaussians.tensors().items()}
        tensors |= {f"fields.{k}": v for k, v in self.fields.tensors().items()}
        tensors["noise"] = self.noise.get_state()
        if self.density is not None:
            tensors["density.gradient"] = self.density.statistics.gradient
            tensors["density.visible"] = self.density.statistics.visible
        return tensors, {
            "sampler": self.sampler.state(),
            "generator": self.generator.bit_generator.state,
            "active_sh_degree": self.branch.structure.active_sh_degree,
        }

    def restore(self, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
        """Continue where `state` was taken."""
        resize_structure(self.branch.structure, len(tensors["branch.structure.means"]), self.gaussians)
        self.branch.load_state_dict(_below("branch.", tensors))
        self.gaussians.load_tensors(_below("gaussians.", tensors))
        self.fields.load_tensors(_below("fields.", tensors))
        self.noise.set_state(tensors["noise"])
        if self.density is not None:
            self.density.statistics = Statistics(
                *(tensors[f"density.{name}"].to(self.device, copy=True) for name in ("gradient", "visible"))
            )
        self.sampler.restore(document["sampler"])
        self.generator.bit_generator.state = document["generator"]
        self.branch.structure.active_sh_degree = document["active_sh_degree"]


def draw_patch_size(config: StageConfig, step: int, size: int, seed: int) -> int:
    """An even patch side for the perceptual term: drawn from `lpips_patch` (px at 512), scaled to the image.

    The same for `lpips_patch_steps` steps, so that few sizes are captured between two density decisions.
    """
    generator = np.random.default_rng([seed, step // config.lpips_patch_steps])
    low, high = config.lpips_patch
    drawn = int(generator.integers(low // 2, high // 2 + 1)) * 2
    return max(SMALLEST_PATCH, 2 * round(drawn * size / PATCH_REFERENCE / 2))


def gaussian_groups(branch: Branch) -> dict[str, list[nn.Parameter]]:
    """The structure's parameters, one group each, and the parts of the aligner or personalised field."""
    groups = {name: [getattr(branch.structure, name)] for name in STRUCTURE_GROUPS}
    if branch.aligner is not None:
        groups["aligner_grid"] = list(branch.aligner.encoding.parameters())
        groups["aligner_network"] = list(branch.aligner.decoder.parameters())
    if branch.personal is not None:
        groups |= {f"personal_{name}": parameters for name, parameters in field_groups(branch.personal).items()}
    return groups


def field_optimizer(motion: nn.Module) -> GroupedOptimizer:
    """AdamW over a motion field (METHOD.md section 4)."""
    decay = {"grid": GRID_DECAY, "attention": ATTENTION_DECAY}
    return GroupedOptimizer(field_groups(motion), decay, decoupled=True, betas=FIELD_BETAS, eps=FIELD_EPS)


def field_groups(motion: nn.Module) -> dict[str, list[nn.Parameter]]:
    """A motion field's hash grid, temporal attention, and networks."""
    grid = list(motion.encoding.parameters())
    attention = list(motion.audio.attention.parameters())
    taken = {id(p) for p in grid + attention}
    return {
        "grid": grid,
        "network": [p for p in motion.parameters() if id(p) not in taken],
        "attention": attention,
    }


def resize_structure(structure: GaussianField, count: int, optimizer: GroupedOptimizer) -> None:
    """Make room for `count` Gaussians, whose values are then loaded."""
    for name, old in list(structure.named_parameters(recurse=False)):
        new = nn.Parameter(old.new_zeros(count, *old.shape[1:]))
        optimizer.replace(old, new, {})
        setattr(structure, name, new)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
