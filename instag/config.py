"""Every setting: nested dataclasses with a sentence under each field. Presets in `configs/` hold only differences.

Step counts are iterations of the stage. A field whose value "never" is possible is `None`-able. Sources: METHOD.md,
the paper's tables, or an entry of docs/experiments.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the head: what an avatar must record to be built again."""

    extractor: str = "phone-mel"
    """Audio feature that drives the head; one of instag.data.audio.EXTRACTORS."""
    sh_degree: int = 1
    """Spherical harmonics of the colours: 1 for few-shot adaptation, 2 for long videos and pre-training."""
    hash_ranges: Literal["reference", "paper"] = "reference"
    """Resolutions of the tri-planes: the reference's (16-38.4, 64-57.6) or the paper's (16-256, 64-384)."""
    aligner: bool = True
    """Motion aligner of section 3.3: where a universal field is queried, and how far it moves this face."""
    align_offset: bool = True
    """The aligner's offset (paper Eq. 8); without it the universal field is queried at the points themselves."""
    align_scale: bool = True
    """The aligner's scale (paper Eq. 9); without it the universal motion is taken as it is."""
    hook: bool = True
    """Face-mouth hook: the mouth is told how far the face opens; without it phi = 0 (paper Eq. 10)."""
    single_branch: bool = False
    """One branch instead of two: the face draws the inside of the mouth too, and there is no mouth stage."""


@dataclass(frozen=True)
class DensityConfig:
    """Adaptive density control of 3DGS (METHOD.md section 3)."""

    start: int = 500
    """No Gaussian is added before this step."""
    interval: int = 100
    """Steps between two density decisions."""
    stop_before_end: int = 1000
    """Density control ends this many steps before the stage does."""
    gradient_threshold: float = 5e-4
    """Mean gradient of the projected centre, in device units, at which a Gaussian is cloned or split (mouth: 2e-4)."""
    split_scale: float = 0.005
    """Largest scale, as a share of the scene extent, up to which a Gaussian is cloned rather than split."""
    min_opacity: float = 0.05
    """Gaussians below this opacity are removed at the start of density control..."""
    min_opacity_gain: float = 0.25
    """...and below `min_opacity + min_opacity_gain` at its end, linearly in between."""
    max_scale: float = 0.1
    """Gaussians with a scale above this share of the extent are removed..."""
    max_scale_from: int = 3000
    """...from this step on."""
    opacity_reset_interval: int | None = 3000
    """Steps between two resets of all opacities to at most 0.01; none in long mode and pre-training."""
    max_gaussians: int | None = None
    """Adding stops at this number (a bound for small machines; the published schedule has none)."""


@dataclass(frozen=True)
class LossConfig:
    """Weights of the named terms (METHOD.md sections 5 and 6)."""

    dssim: float = 0.2
    """Weight of 1 - SSIM beside the L1 term."""
    motion: float = 1e-5
    """Mean magnitude of each predicted motion."""
    alpha: float = 1e-3
    """Alpha outside the mask, and missing alpha inside it."""
    attention_lips: float = 1e-4
    """Eye attention inside the lip rectangle (pre-training: 5e-3)."""
    attention_hair: float = 1e-4
    """Both attentions on hair, in the steps that do not ignore hair."""
    normal: float = 1e-2
    """Geometry prior on normals, few-shot only (the paper's table says 1e-3)."""
    depth: float = 1e-2
    """Geometry prior on depth, few-shot only."""
    lpips: float = 0.01
    """Perceptual term on patches, in the last steps of a stage, where its weights are installed."""
    lpips_lips: float = 0.01
    """The same on the lip rectangle alone; long mode, face."""
    matte: float = 0.0
    """Weight of wrong alpha where a branch is compared over the frame itself instead of a key colour, which its colours
    learn at their rims; 0: on the key, as published; 0.5 is tried."""
    lips: float = 0.0
    """L1 in the lip rectangle besides, as a mean over the whole frame, and the share by which wrong alpha weighs more
    there (`matte`); face, not in the published loss."""


@dataclass(frozen=True)
class StageConfig:
    """One stage of training: face, mouth or fuse."""

    iterations: int = 10_000
    """Optimiser steps."""
    frames_per_step: int = 1
    """Frames that are drawn together; their losses are averaged."""
    initial: Literal["random", "lifted"] = "random"
    """First Gaussians: the published random cube, or pixels of the training frames lifted on to the face mesh."""
    points: int = 2000
    """Gaussians at the start."""
    static_steps: int = 0
    """Steps at the start in which the structure learns without any motion (pre-training: 1000 per video)."""
    warmup: int = 3000
    """Steps of the first curriculum; with a universal field its rates are lowered meanwhile."""
    warmup_rate: float = 0.1
    """Factor on the universal field's rates during the warm-up; 1.0 without pre-trained weights."""
    align_from: int = 1000
    """The motion aligner joins after this step."""
    sh_interval: int = 1000
    """Steps between two raises of the active SH degree."""
    rate_decay: float = 0.5
    """The motion field's rates fall by this factor over the stage, after the warm-up."""
    curriculum_interval: int = 10
    """Every so many steps the drawn frame must fit the curriculum (mouth: 5 few-shot, 7 long)."""
    hair_ignored: tuple[int, int] = (3000, 6500)
    """Between these steps hair is left out of six of seven steps (face)."""
    prior_from: int | None = 5000
    """The geometry prior joins after this step; None: never (long mode, other stages)."""
    depth_pause: tuple[int, int] = (3000, 100)
    """The depth prior is skipped while step modulo the first number is at most the second (after opacity resets)."""
    lpips_last: int = 2500
    """The perceptual term acts in the last so many steps."""
    lpips_patch: tuple[int, int] = (64, 96)
    """Range of the even patch sizes of the perceptual term, px at 512; scaled with the image."""
    lpips_patch_steps: int = 50
    """Steps for which a drawn patch size is kept (the reference draws in each): on a GPU every size is a capture."""
    freeze_last: int = 0
    """In the last so many steps only colours and the aligner learn, on a black key (mouth: 1000)."""
    density: DensityConfig | None = field(default_factory=DensityConfig)
    """Density control; None leaves the number of Gaussians alone (fuse)."""
    losses: LossConfig = field(default_factory=LossConfig)
    """Weights of the terms."""


def _mouth_stage() -> StageConfig:
    return StageConfig(
        points=5000,
        curriculum_interval=5,
        prior_from=None,
        lpips_last=0,
        lpips_patch=(32, 42),
        freeze_last=1000,
        density=DensityConfig(gradient_threshold=2e-4),
    )


def _fuse_stage() -> StageConfig:
    return StageConfig(
        iterations=2000,
        warmup=0,
        align_from=0,
        prior_from=None,
        lpips_last=1000,
        lpips_patch=(32, 42),
        density=None,
        losses=LossConfig(lpips=0.05),
    )


@dataclass(frozen=True)
class GaussianRates:
    """Learning rates of the structure field (Adam, eps 1e-15) and of what rides in the same optimiser."""

    position: float = 1.6e-4
    """Means, per unit of scene extent, at step 0."""
    position_end: float = 1.6e-6
    """Means at `position_steps`; log-linear in between."""
    position_steps: int = 45_000
    """Steps of the position schedule; stages are shorter and see its beginning."""
    sh_dc: float = 2.5e-3
    """Base colour; the higher SH degrees learn at a twentieth."""
    opacity: float = 0.05
    """Raw opacity."""
    scale: float = 3e-3
    """Raw scale."""
    rotation: float = 1e-3
    """Raw quaternion."""
    aligner_grid: float = 1e-3
    """Hash grid of the aligner or personalised field."""
    aligner_network: float = 5e-5
    """MLP of the aligner."""
    personal_network: float = 1e-4
    """Networks of a personalised field."""
    personal_attention: float = 5e-4
    """Temporal attention of a personalised field (L2 1e-4)."""
    fuse_opacity: float = 1e-3
    """Opacity of the face in the fuse stage (the reference in effect uses 0.05)."""


@dataclass(frozen=True)
class FieldRates:
    """Learning rates of the motion fields (AdamW, betas 0.9 and 0.99, eps 1e-8)."""

    grid: float = 5e-3
    """Hash grid, with decoupled weight decay 0.01."""
    network: float = 5e-4
    """Networks, without decay."""
    attention: float = 2.5e-3
    """Temporal attention, decay 1e-4."""


@dataclass(frozen=True)
class TrainingConfig:
    """All stages of one adaptation."""

    face: StageConfig = field(default_factory=StageConfig)
    """Everything of the head except the inside of the mouth."""
    mouth: StageConfig = field(default_factory=_mouth_stage)
    """Teeth, tongue, oral cavity, hooked to the face's motion."""
    fuse: StageConfig = field(default_factory=_fuse_stage)
    """Both together over the real background; colours and the face's opacity learn."""
    gaussians: GaussianRates = field(default_factory=GaussianRates)
    """Rates of the Gaussians."""
    fields: FieldRates = field(default_factory=FieldRates)
    """Rates of the motion fields."""
    long: bool = False
    """Long videos: no opacity reset, no removal behind the head, no geometry prior (METHOD.md section 6)."""
    extent_floor: float = 0.1
    """Smallest scene extent, head units: a head that hardly moves would otherwise stop the means from learning."""
    audio_noise: float = 0.0
    """Noise on what face and mouth hear, in units of the normalised features: standard deviation of what changes within
    a window and of what is the same all along it, each; 0: none, as published."""
    settle: float = 0.0
    """Share of each stage's steps, its last ones, in which all rates fall to a twentieth; 0: none, as published."""
    seed: int = 0
    """Of points, sampling and noise."""
    graph: bool = True
    """On a GPU, steps are captured once as CUDA graphs and replayed; without, every step is queued call by call."""
    log_interval: int = 50
    """Steps between two lines of the log."""
    checkpoint_interval: int = 2000
    """Steps between two checkpoints that a run can be resumed from."""


def _pretrain_face() -> StageConfig:
    return StageConfig(
        iterations=150_000,
        static_steps=5_000,
        warmup=5_000,
        align_from=0,
        curriculum_interval=15,
        hair_ignored=(0, 150_000),
        prior_from=None,
        lpips_last=0,
        density=DensityConfig(stop_before_end=5_000, opacity_reset_interval=None),
        losses=LossConfig(attention_lips=5e-3),
    )


def _pretrain_mouth() -> StageConfig:
    return StageConfig(
        iterations=150_000,
        points=5000,
        static_steps=15_000,
        warmup=15_000,
        align_from=0,
        curriculum_interval=7,
        prior_from=None,
        lpips_last=0,
        density=DensityConfig(gradient_threshold=2e-4, stop_before_end=5_000, opacity_reset_interval=None),
    )


@dataclass(frozen=True)
class PretrainConfig:
    """Identity-free pre-training (METHOD.md section 5). Step counts below are for `videos` videos and scale with k."""

    face: StageConfig = field(default_factory=_pretrain_face)
    """The universal face field, with a structure and a personalised field per video."""
    mouth: StageConfig = field(default_factory=_pretrain_mouth)
    """The universal mouth field, hooked to the trained face field."""
    videos: int = 5
    """Number of videos that the step counts are written for."""
    max_frames: int = 5000
    """Frames used of each video, from its start."""
    late_steps: int = 50_000
    """Length of the last part, in which rates fall to a tenth and curricula rest."""
    personalized: bool = True
    """Personalised motion fields soak up identity and style; without them all motion goes into the universal one."""
    shared_structure: bool = False
    """One structure field for all videos instead of one each (an ablation: the paper's table 7)."""
    contrast: float = 1.0
    """Weight of the negative contrast between the videos' motions (paper Eq. 6, 7, 13)."""
    sh_degree: int = 2
    """Spherical harmonics of the per-video structures."""


@dataclass(frozen=True)
class DataConfig:
    """Which frames, and how large."""

    size: int | None = None
    """Images are area-resized to this side, px; None keeps the stored size."""
    n_views: int = -1
    """Training frames from `first_frame` on: 125, 250, 500 are 5, 10, 20 s; -1 takes the whole training part."""
    first_frame: int = 0
    """First training frame: to choose a shot, or to repeat published figures."""
    test_frames: tuple[int, int] | None = None
    """First and one past the last test frame; None: the end of the clip."""
    all_for_train: bool = False
    """Train on the test part too (no honest test is left then)."""
    cache_mb: int = 1024
    """Host memory for decoded frames, MiB."""
    gpu_cache_mb: int | None = None
    """GPU memory for frames, MiB; what does not fit is streamed from a scratch file in the run's folder. None: 60 %
    of what is free."""


@dataclass(frozen=True)
class Config:
    """The root."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)


# What `training.long` stands for besides: METHOD.md section 6, long mode, as assignments. LPIPS terms act where its
# weights are installed.
LONG_MODE = (
    "training.long=true",
    "model.sh_degree=2",
    "training.face.rate_decay=0.1",
    "training.face.losses.lpips=0.21",
    "training.face.density.opacity_reset_interval=null",
    "training.mouth.curriculum_interval=7",
    "training.mouth.lpips_last=1000",
    "training.mouth.losses.lpips=0.51",
    "training.mouth.density.opacity_reset_interval=null",
)

CLOCKS = ("iterations", "static_steps", "warmup", "align_from", "hair_ignored", "lpips_last", "freeze_last")


def scale_clocks(stage: StageConfig, factor: float) -> StageConfig:
    """The stage with its step counts multiplied (SH degree and density control keep their absolute rhythm)."""
    changes: dict[str, Any] = {}
    for name in CLOCKS:
        value = getattr(stage, name)
        changes[name] = tuple(round(v * factor) for v in value) if isinstance(value, tuple) else round(value * factor)
    if stage.density is not None:
        stop = round(stage.density.stop_before_end * factor)
        changes["density"] = replace(stage.density, stop_before_end=stop)
    return replace(stage, **changes)
