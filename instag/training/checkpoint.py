"""Save and resume a stage exactly: tensors in safetensors, the rest as JSON in its header; never pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instag.errors import CheckpointError
from instag.files import load_tensors, save_tensors
from instag.version import __version__

if TYPE_CHECKING:
    from instag.training.trainer import Stage

FORMAT = 1


def save_checkpoint(path: Path, stage: Stage, step: int, identity: Mapping[str, Any]) -> None:
    """Write everything that an exact continuation after `step` needs."""
    tensors, document = stage.state()
    header = {
        "format": FORMAT,
        "kind": "checkpoint",
        "version": __version__,
        "stage": stage.name,
        "step": step,
        "identity": dict(identity),
        "state": document,
    }
    save_tensors(path, tensors, header)


def load_checkpoint(path: Path, stage: Stage, identity: Mapping[str, Any]) -> int:
    """Restore a stage from its checkpoint.

    Returns:
        The step after which it was saved.

    Raises:
        CheckpointError: damaged, of another format, stage, configuration or subject.
    """
    tensors, header = load_tensors(path, "checkpoint")
    if header.get("kind") != "checkpoint" or header.get("format") != FORMAT:
        raise CheckpointError(f"checkpoint {path} has another format: delete it, or use the version that wrote it")
    if header["stage"] != stage.name:
        raise CheckpointError(f"checkpoint {path} belongs to stage '{header['stage']}', not '{stage.name}': rename it")
    different = [key for key in identity if header["identity"].get(key) != identity[key]]
    if different:
        raise CheckpointError(
            f"checkpoint {path} was made with another {' and '.join(different)}: choose a new output folder, "
            "or start over with --overwrite"
        )
    stage.restore(tensors, header["state"])
    return int(header["step"])
