"""The reference's spellings of flags that `synthesize` and `evaluate` call otherwise, or need not be told."""

from __future__ import annotations

import logging
from collections.abc import Sequence

logger = logging.getLogger(__name__)

PART = {"synthesize": "--poses", "evaluate": "--part"}  # --use_train chooses it
KNOWN_FROM_TRAINING = {"--n-views": 1, "--long": 0, "--all-for-train": 0}  # how many values follow


def translated(verb: str, arguments: Sequence[str]) -> list[str]:
    """Arguments of a verb in our spelling; what an avatar knows from its training is left out, and that is said."""
    if verb not in PART:
        return list(arguments)
    ours: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, has_value, _ = word.partition("=")
        flag = name.lower().replace("_", "-")
        if flag == "--use-train":
            ours += [PART[verb], "train"]
        elif flag in KNOWN_FROM_TRAINING:
            logger.warning("note: %s has no effect on %s: the avatar knows it from its training", name, verb)
            del rest[: 0 if has_value else KNOWN_FROM_TRAINING[flag]]
        else:
            ours.append(word)
    return ours
