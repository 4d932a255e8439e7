"""How a mouth follows a sound that its owner was not filmed with: any speech, any language, and silence."""

from __future__ import annotations

import numpy as np

from instag.data.layout import SAMPLE_RATE
from instag.metrics.landmarks import FaceTrack, jitter, lip_opening
from instag.metrics.silence import opening_range, silence_test

QUIET = 1e-4  # of full scale: a sound whose peak is lower says nothing that could be followed


def driven_metrics(track: FaceTrack, samples: np.ndarray) -> dict[str, float]:
    """Figures of rendered frames and the sound that drove them; what is not defined is absent.

    There is no true mouth to compare with. What the sound makes of a mouth is read off its phones
    (`instag.data_utils.lag`): an English table, so that other languages score lower even with perfect lips. Compare
    with the same figures of true clips, and with chance.

    Args:
        track: landmarks of the T frames.
        samples: float32 [S] at 16 kHz, sound of the same T / 25 s.

    Returns:
        `follow_r`: correlation of the opening with the phones' one, the best within 2 frames of being in time;
        `chance_r`: the same with the sound's phones in reverse order; `follow_lag`: frames by which the lips are late
        where both go together best, within 20 frames either way; `opening_range`: 5th to 95th percentile of the opening
        over the distance of the outer eye corners, also in speech and in pauses where the sound has both
        (`opening_range_speech`, `opening_range_pauses`, `opening_speech_over_pauses`); `opening_step`: mean change of
        the opening from frame to frame; `jitter` (px at 512) as of a self-driven avatar; `no_face`: frames in which no
        face is found.
    """
    opening = lip_opening(track)
    out = {"no_face": int((~track.found).sum())}
    if track.found.sum() > 1:
        out["opening_range"] = opening_range(opening[track.found])
        out["opening_step"] = float(np.abs(np.diff(opening))[track.found[1:] & track.found[:-1]].mean())
    if (trembling := jitter(track)) is not None:
        out["jitter"] = trembling
    if np.abs(samples).max(initial=0) < QUIET:
        return out
    test = silence_test(opening, samples, SAMPLE_RATE)
    if test.ratio is not None:
        out |= {"opening_range_speech": test.speech, "opening_range_pauses": test.pause}
        out["opening_speech_over_pauses"] = test.ratio
    return out | _following(np.where(track.found, opening, np.nan), samples)


def _following(opening: np.ndarray, samples: np.ndarray) -> dict[str, float]:
    from instag.data_utils.clip_check import sound_signals
    from instag.data_utils.lag import IN_SYNC, SHORTEST, heard_opening, lag_correlations

    if np.isfinite(opening).sum() < SHORTEST:
        return {}
    heard = heard_opening(*sound_signals(samples, len(opening)))
    lags, r = lag_correlations(opening, heard)
    together = np.abs(lags) <= IN_SYNC
    _, chance = lag_correlations(opening, heard[::-1])
    found, by_chance = float(r[together].max()), float(chance[together].max())
    return {"follow_r": found, "follow_lag": int(lags[r.argmax()]), "chance_r": by_chance}
