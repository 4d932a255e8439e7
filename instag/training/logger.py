"""Training logs: JSON lines for programs, TensorBoard for eyes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from instag.training.events import EventFile


class TrainingLog:
    """Writes `<folder>/<stage>.jsonl` and TensorBoard events below `<folder>/tensorboard/<stage>`.

    Args:
        folder: of the run.
        stage: name.
        first_step: lines after this step, left by an interrupted run, are dropped.
    """

    def __init__(self, folder: Path, stage: str, first_step: int):
        self.path = folder / f"{stage}.jsonl"
        kept = []
        if first_step and self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if json.loads(line)["step"] <= first_step]
        folder.mkdir(parents=True, exist_ok=True)
        self.file = self.path.open("w", encoding="utf-8")
        self.file.writelines(line + "\n" for line in kept)
        self.board = EventFile(folder / "tensorboard" / stage, first_step + 1)
        self.start = time.perf_counter()

    def write(self, step: int, values: Mapping[str, float | Tensor]) -> dict[str, float]:
        """One line; tensors are read here (this waits for a GPU)."""
        numbers = {k: float(v.detach() if isinstance(v, Tensor) else v) for k, v in values.items()}
        line = {"step": step, "seconds": round(time.perf_counter() - self.start, 3), **numbers}
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        self.board.write(step, numbers)
        return numbers

    def close(self) -> None:
        """Flush and close."""
        self.file.close()
        self.board.close()
