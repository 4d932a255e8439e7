"""`subject.json`: where a subject came from and which steps are done. Written after every change.

How long the steps took varies from run to run, so it stands in a file of its own: all others are the same on every run.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from instag.data.layout import FORMAT_VERSION
from instag.files import atomic_path
from instag.version import __version__

READ_BYTES = 1 << 20


@dataclass
class Manifest:
    """Content of `subject.json`. Steps may begin and finish on several threads; in which order leaves no trace.

    Attributes:
        path: the file.
        timings: the file of the seconds that each step took, `{step: seconds}`; beside the intermediate files.
        facts: source, size, frames, focal, ...: what readers of the folder may want to know.
        steps: name -> {"settings": hash, "done": bool}.
        warnings: sentences for the user, by the step that said them.
    """

    path: Path
    timings: Path
    facts: dict[str, Any] = field(default_factory=dict)
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    @classmethod
    def load(cls, path: Path, timings: Path) -> Manifest:
        """Read it; an absent or damaged file counts as nothing done."""
        content = _read_json(path)
        if content.get("format_version") != FORMAT_VERSION:
            return cls(path, timings)
        steps, warnings = content.pop("steps", {}), content.pop("warnings", {})
        facts = {k: v for k, v in content.items() if k not in ("format_version", "instag")}
        return cls(path, timings, facts, steps, warnings)

    def save(self) -> None:
        """Write it, atomically."""
        with self._lock:
            self._save()

    def _save(self) -> None:
        warnings = {step: told for step, told in self.warnings.items() if told}
        content = {"format_version": FORMAT_VERSION, "instag": __version__, **dict(sorted(self.facts.items()))}
        content |= {"steps": dict(sorted(self.steps.items())), "warnings": dict(sorted(warnings.items()))}
        with atomic_path(self.path) as partial:
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def is_done(self, step: str, settings: str) -> bool:
        """Whether a step was completed with these settings."""
        mark = self.steps.get(step, {})
        return bool(mark.get("done")) and mark.get("settings") == settings

    def was_begun(self, step: str, settings: str) -> bool:
        """Whether a step was begun, and perhaps interrupted, with these settings: what it wrote may be kept."""
        return self.steps.get(step, {}).get("settings") == settings

    def begin(self, step: str, settings: str, dependents: list[str]) -> None:
        """Mark a step as begun; what was made from its former output counts no longer."""
        with self._lock:
            for name in dependents:
                self.steps.pop(name, None)
            self.steps[step] = {"settings": settings, "done": False}
            self.warnings[step] = []
            self._save()

    def finish(self, step: str, seconds: float) -> None:
        """Mark a step as done, and note how long it took."""
        with self._lock:
            self.steps[step] |= {"done": True}
            self._save()
            taken = _read_json(self.timings) | {step: round(seconds, 2)}
            with atomic_path(self.timings) as partial:
                partial.write_text(json.dumps(taken, indent=1) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a file; an absent or damaged file is an empty one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def settings_hash(settings: dict[str, Any]) -> str:
    """A short name of settings that JSON can hold."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
