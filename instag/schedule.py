"""Schedules as pure functions of the step. Steps count from 1; each number's source is METHOD.md (section named)."""

from __future__ import annotations

POSITION_START, POSITION_END = 1.6e-4, 1.6e-6  # per unit of scene extent, section 3
POSITION_STEPS = 45_000  # section 3; no stage of adaptation is that long
SH_INTERVAL = 1000  # steps between two raises of the SH degree, section 3
WARMUP_STEPS, WARMUP_FACTOR = 3000, 0.1  # of the pre-trained field in adaptation, section 6
FIELD_DECAY, FIELD_DECAY_LONG = 0.5, 0.1  # over a stage of adaptation; the second: face in long mode, section 6
PRETRAIN_DECAY, PRETRAIN_LATE_DECAY = 0.5, 0.1  # before and in the last part of pre-training, section 5
EMA_LIMIT = 0.995  # section 4
SETTLED = 0.05  # of a rate, at the end of a stage that settles; not in the paper


def position_rate(
    step: int, start: float = POSITION_START, end: float = POSITION_END, steps: int = POSITION_STEPS
) -> float:
    """Learning rate of the means per unit of scene extent: log-linear from start to end over `steps`, then constant."""
    progress = min(max(step / steps, 0.0), 1.0)
    return start ** (1 - progress) * end**progress


def sh_degree(step: int, maximum: int, interval: int = SH_INTERVAL) -> int:
    """SH degree drawn in a step of a stage that starts at 0: one more at each multiple of the interval (section 3).

    In pre-training, where a video is not drawn in every step, raise its degree where `step % interval == 0` instead.
    """
    return min(step // interval, maximum)


def adaptation_factor(
    step: int,
    total: int,
    decay: float = FIELD_DECAY,
    warmup: int = WARMUP_STEPS,
    warmup_factor: float = WARMUP_FACTOR,
) -> float:
    """Factor on the universal field's rates in adaptation (section 6).

    Constant while step <= warmup, so that the fresh structure does not spoil the pre-trained motion; then
    decay^(step / total), not restarted. `decay`: 0.5; 0.1 for the face in long mode.
    """
    return warmup_factor if step <= warmup else decay ** (step / total)


def settling_factor(step: int, total: int, share: float) -> float:
    """Factor on all rates of a stage: 1, and over its last `share` of steps in a straight line down to SETTLED.

    A step sees one frame. With a constant rate the last few frames leave their own shade in everything; with a falling
    one the parameters settle at what suits all (docs/experiments.md).
    """
    return max(SETTLED, min(1.0, (total - step) / (share * total))) if share else 1.0


def pretraining_factor(step: int, total: int, late_steps: int) -> float:
    """Factor on the fields' rates in pre-training: 0.5^(i/S) for i < S, then 0.1^(i/total) (section 5).

    S = total - late_steps, where the curricula end too; late_steps is 10,000 per video.
    """
    start = total - late_steps
    return PRETRAIN_DECAY ** (step / start) if step < start else PRETRAIN_LATE_DECAY ** (step / total)


def ema_decay(update: int) -> float:
    """Decay of the universal field's moving average at update n = 0, 1, ... (section 4)."""
    return min(EMA_LIMIT, (1 + update) / (10 + update))
