"""Rows of the ablations: how the universal fields are pre-trained, and what of adaptation is switched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from instag.config import LONG_MODE, Config, scale_clocks
from instag.config_io import apply_assignments
from instag.data.audio import EXTRACTORS

Settings = Callable[[Config], list[str]]
LONG_STEPS = 2.5  # the paper's 25,000 steps against its 10,000 (table 11)


@dataclass(frozen=True)
class Row:
    """One way to make an avatar.

    Attributes:
        variant: pre-training it starts from, a key of VARIANTS; None: from scratch.
        settings: assignments for adaptation, given the configuration without them.
        what: one sentence.
        long: whether all of the training video is used, whatever the run's seconds.
    """

    variant: str | None
    settings: Settings
    what: str
    long: bool = False


def _fixed(*assignments: str) -> Settings:
    return lambda _: list(assignments)


# Pre-training: assignments for both branches.
VARIANTS: dict[str, tuple[str, ...]] = {
    "full": (),
    "structure_only": ("pretrain.personalized=false",),
    "no_contrast": ("pretrain.contrast=0",),
    "no_fields": ("pretrain.shared_structure=true", "pretrain.personalized=false"),
    "motion_only": ("pretrain.shared_structure=true",),
    "no_hook": ("model.hook=false",),
    "single_branch": ("model.single_branch=true",),
    **{f"extractor_{name}": (f"model.extractor={name}",) for name in EXTRACTORS},
}


def _prior(config: Config) -> list[str]:
    """From the middle of the face's steps on, as published."""
    return [f"training.face.prior_from={config.training.face.iterations // 2}"]


def _long(config: Config) -> list[str]:
    return list(LONG_MODE)


def _longer(config: Config) -> list[str]:
    out = _long(config)
    for name in ("face", "mouth"):
        stage = scale_clocks(getattr(config.training, name), LONG_STEPS)
        out += [f"training.{name}.iterations={stage.iterations}", f"training.{name}.warmup={stage.warmup}"]
    return out


ROWS: dict[str, Row] = {
    "full": Row("full", _fixed(), "everything on"),
    "scratch": Row(None, _fixed(), "no pre-training: motion is learnt from this video alone"),
    "no_fields": Row("no_fields", _fixed(), "pre-trained with one structure for all videos and no D_i"),
    "structure_only": Row("structure_only", _fixed(), "pre-trained with a structure per video, no D_i"),
    "motion_only": Row("motion_only", _fixed(), "pre-trained with D_i, one structure for all videos"),
    "no_contrast": Row("no_contrast", _fixed(), "pre-trained without negative contrast"),
    "no_aligner": Row("full", _fixed("model.aligner=false"), "no motion aligner"),
    "offset_only": Row("full", _fixed("model.align_scale=false"), "aligner without its scale"),
    "scale_only": Row("full", _fixed("model.align_offset=false"), "aligner without its offset"),
    "no_hook": Row("no_hook", _fixed("model.hook=false"), "phi = 0 in pre-training and adaptation"),
    "no_aligner_hook": Row(
        "no_hook", _fixed("model.hook=false", "model.aligner=false"), "neither aligner nor hook"
    ),
    "single_branch": Row(
        "single_branch", _fixed("model.single_branch=true"), "the face draws the mouth too; no mouth stage"
    ),
    "prior_on": Row("full", _prior, "with the geometry prior, whatever the preset says"),
    "prior_off": Row("full", _fixed("training.face.prior_from=null"), "without the geometry prior"),
    "long": Row("full", _long, "long mode, all of the training video", long=True),
    "long_25k": Row("full", _longer, "long mode, 2.5 times the steps", long=True),
    "long_scratch": Row(None, _long, "long mode without pre-training", long=True),
    **{
        f"extractor_{name}": Row(f"extractor_{name}", _fixed(f"model.extractor={name}"), f"driven by {name} features")
        for name in EXTRACTORS
    },
}  # fmt: skip
MEMORY_ROWS = {f"memory_{k}": k for k in range(1, 6)}  # short pre-trainings whose memory is read (table 10)
MEMORY_STEPS = 300  # enough for graphs, optimiser state and the first density control


def pretraining(config: Config, variant: str, seed: int, steps: int | None, videos: int) -> Config:
    """The configuration of one pre-training.

    Args:
        config: the preset with the run's assignments.
        variant: key of VARIANTS.
        seed: of everything random.
        steps: iterations of each branch, clocks in proportion; None: the published number per video.
        videos: number of videos.
    """
    if steps is not None:
        plan = config.pretrain
        stages = {name: scale_clocks(getattr(plan, name), steps / getattr(plan, name).iterations) for name in
                  ("face", "mouth")}  # fmt: skip
        late = round(plan.late_steps * steps / plan.face.iterations)
        config = replace(config, pretrain=replace(plan, **stages, late_steps=late, videos=videos))
    return apply_assignments(config, [*VARIANTS[variant], f"training.seed={seed}"])


def adaptation(config: Config, row: Row, seed: int, views: int, whole: bool) -> Config:
    """The configuration of one adaptation.

    Args:
        config: the preset with the run's assignments.
        row: what is switched.
        seed: of everything random.
        views: training frames, -1: all.
        whole: train on the whole clip; the test is another take.
    """
    views = -1 if row.long else views
    data = [f"data.n_views={views}", f"data.all_for_train={str(whole).lower()}", f"training.seed={seed}"]
    return apply_assignments(config, [*row.settings(config), *data])
