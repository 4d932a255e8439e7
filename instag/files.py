"""Writing files so that nothing half-written is ever left, and safetensors with JSON beside the tensors.

Imports torch only when tensors are read or written: the processes of preprocessing start without it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instag.errors import CheckpointError, InstagError

if TYPE_CHECKING:
    from torch import Tensor

PARTIAL = ".partial"  # before the ending of what is being written: `.<stem>.<random>.partial.<suffix>`
METADATA_KEY = "instag"  # safetensors metadata holds strings only: ours is one JSON document under this key


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


UMASK = _umask()  # read once: it can only be read by setting it, which another thread might see


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder, with the same suffix; it takes `path`'s place when the block succeeds.

    Raises:
        InstagError: where the folder cannot be written.
    """
    path = Path(path)
    make_folder(path.parent, path)
    if path.is_dir():
        raise InstagError(f"{path}: cannot be written, it is a folder; give the name of a file")
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=PARTIAL + path.suffix)
    except OSError as error:
        raise InstagError(f"{path}: cannot be written ({error.strerror}); choose another output folder") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~UMASK)  # mkstemp's files are private; what we write is not
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise InstagError(f"{path}: cannot be written ({reason}); free space or choose another folder") from error
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(folder: Path, target: Path | None = None) -> None:
    """Make a folder and those above it, where they are not there; `target`: what is to be written there, for messages.

    Raises:
        InstagError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        blocked = isinstance(error, (FileExistsError, NotADirectoryError))
        reason = "a file stands where a folder is needed" if blocked else error.strerror
        raise InstagError(f"{target or folder}: cannot be written ({reason}); choose another output folder") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file at once or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON at once or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors and a JSON document into one safetensors file."""
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(plain, str(temporary), metadata={METADATA_KEY: json.dumps(metadata)})


def load_tensors(path: Path, what: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote; nothing in the file is executed.

    Args:
        path: the file.
        what: what the user calls it ("avatar", "checkpoint"), for the message.

    Raises:
        CheckpointError: missing, damaged, or not ours.
    """
    import safetensors
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{what} {path} does not exist: check the path")
    try:
        with safetensors.safe_open(str(path), "pt") as reader:
            text = (reader.metadata() or {}).get(METADATA_KEY)
        document = None if text is None else json.loads(text)
        tensors = load_file(str(path))
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{what} {path} is damaged or no safetensors file ({error}): make it again") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{what} {path} was not written by instag: give a file that it wrote")
    return tensors, document
