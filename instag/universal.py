"""Universal motion fields in a file: what pre-training makes and adaptation starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from torch import Tensor

from instag.config import ModelConfig
from instag.errors import CheckpointError
from instag.files import load_tensors, save_tensors
from instag.head import TalkingHead
from instag.version import __version__

FORMAT = 1
SHIPPED = "weights"  # folder in the package: weights/<extractor>.safetensors


@dataclass(frozen=True)
class Universal:
    """State of the universal fields, EMA weights.

    Attributes:
        face, mouth: state dicts of the motion fields; no mouth (empty) where the face draws it too.
        extractor: audio features that drive them.
        hash_ranges: resolutions of their tri-planes.
        norm: normalisation of the features they were trained with, or None.
        provenance: data and settings that made them.
    """

    face: Mapping[str, Tensor]
    mouth: Mapping[str, Tensor]
    extractor: str
    hash_ranges: str
    norm: Mapping[str, Any] | None
    provenance: Mapping[str, Any]

    def save(self, path: Path) -> None:
        """Write the fields at once or not at all."""
        tensors = {f"face.{k}": v for k, v in self.face.items()} | {f"mouth.{k}": v for k, v in self.mouth.items()}
        header = {
            "format": FORMAT,
            "kind": "universal",
            "version": __version__,
            "extractor": self.extractor,
            "hash_ranges": self.hash_ranges,
            "norm": self.norm,
            "provenance": self.provenance,
        }
        save_tensors(path, tensors, header)

    @staticmethod
    def load(path: Path) -> Universal:
        """Read universal fields; nothing is executed.

        Raises:
            CheckpointError: missing, damaged, or something else.
        """
        tensors, header = load_tensors(path, "universal weights")
        if header.get("kind") != "universal" or header.get("format") != FORMAT:
            raise CheckpointError(f"{path} holds no universal fields of this format: make them with `instag pretrain`")
        parts = {
            part: {k[len(part) + 1 :]: v for k, v in tensors.items() if k.startswith(f"{part}.")}
            for part in ("face", "mouth")
        }
        names = ("extractor", "hash_ranges", "norm", "provenance")
        if missing := [name for name in names if name not in header]:
            raise CheckpointError(f"{path} lacks its {missing[0]}: make the universal fields anew")
        return Universal(**parts, **{name: header[name] for name in names})

    def require(self, model: ModelConfig, norm: Mapping[str, Any] | None) -> None:
        """Refuse another extractor, grid or normalisation than a head is built for.

        Raises:
            CheckpointError: naming both.
        """
        if self.extractor != model.extractor:
            raise CheckpointError(
                f"the universal fields listen to {self.extractor} features, this subject has {model.extractor}: "
                f"use --audio-extractor {self.extractor}, other weights, or --universal none"
            )
        if self.hash_ranges != model.hash_ranges:
            raise CheckpointError(
                f"the universal fields have the {self.hash_ranges}'s tri-planes: "
                f"use --set model.hash_ranges={self.hash_ranges}"
            )
        if self.norm is not None and norm is not None and dict(self.norm) != dict(norm):
            raise CheckpointError(
                "the subject's audio features are normalised otherwise than those of the universal fields: "
                "make them anew with `instag process`, or use --universal none"
            )

    def load_into(self, head: TalkingHead) -> None:
        """Put the fields into a head's branches."""
        try:
            head.face.motion.load_state_dict(dict(self.face))
            if head.mouth is not None:
                head.mouth.motion.load_state_dict(dict(self.mouth))
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise CheckpointError(f"universal weights do not fit this head ({reason}): make them anew") from error


def shipped(extractor: str) -> Path | None:
    """The weights in the package for an extractor, or None where none ship."""
    path = Path(str(resources.files("instag"))) / SHIPPED / f"{extractor}.safetensors"
    return path if path.is_file() else None


def find_universal(choice: str, extractor: str) -> Universal | None:
    """What `--universal` names: `shipped`, `none`, or a file.

    Args:
        choice: the option.
        extractor: of the head; picks among the shipped ones.
    """
    if choice == "none":
        return None
    if choice == "shipped":
        path = shipped(extractor)
        return Universal.load(path) if path else None
    return Universal.load(Path(choice))
