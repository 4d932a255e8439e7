"""The motion fields on a GPU: forward + backward of face, mouth, personalised fields and aligner, time per kernel.

    python3 benchmarks/motion_field.py [--short] --out motion_field.json     # no data needed; about 2 minutes

Rows: milliseconds as a CUDA graph; behind them the kernels in microseconds. "Without audio" gives the field a ready
audio vector. Variants change one number of the kernels' modules and time the face alone; `--short` leaves them, the
smallest and the largest count of points, and most rivals, out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import timing
import torch
from torch import Tensor, nn

from instag.fields.aligner import build_face_aligner, build_mouth_aligner
from instag.fields.encoding import BOUND
from instag.fields.motion import build_face_field, build_mouth_field
from instag.fields.personalized import build_personalized_face, build_personalized_mouth
from instag.fields.rivals import contrast, rivals_d_mean, rivals_d_mean_torch
from instag.kernels import hash_grid, motion_head
from instag.losses import negative_contrast

WIDTH, STEPS = 74, 16  # of the default features, phone-mel
POINTS = (5_000, 15_000, 30_000, 60_000)
VARIANT_POINTS = (15_000, 30_000)
RIVALS = (4, 12)
DEVICE = torch.device("cuda")


class ReadyAudio(nn.Module):
    """Stands in for the audio encoder: a learned vector."""

    def __init__(self) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.randn(1, 32))

    def forward(self, window: Tensor) -> Tensor:
        """[1, ...] -> [1, 32]."""
        return self.vector


def fields(audio: bool) -> dict[str, tuple[nn.Module, tuple[Tensor, ...]]]:
    """Name -> field and what it is called with besides the points."""
    window = torch.randn(1, 8, WIDTH, STEPS, device=DEVICE)
    expression, phi = torch.rand(1, 6, device=DEVICE), torch.rand(1, 3, device=DEVICE)
    made: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {
        "face": (build_face_field(WIDTH, STEPS), (window, expression)),
        "mouth": (build_mouth_field(WIDTH, STEPS), (window, phi)),
        "personalised face": (build_personalized_face(WIDTH, STEPS), (window, expression)),
        "personalised mouth": (build_personalized_mouth(WIDTH, STEPS), (window,)),
        "face aligner": (build_face_aligner(), ()),
        "mouth aligner": (build_mouth_aligner(), ()),
    }
    for field, _ in made.values():
        if not audio and hasattr(field, "audio"):
            field.audio = ReadyAudio()
        field.to(DEVICE)
    return made


def forward_backward(field: nn.Module, points: int, conditions: tuple[Tensor, ...]) -> Callable[[], object]:
    """One training pass: all outputs' gradients are random, all parameters' and the points' are wanted."""
    x = (2 * BOUND * (torch.rand(points, 3, device=DEVICE) - 0.5)).requires_grad_()
    leaves = [x, *field.parameters()]
    cotangents: list[Tensor] = []

    def call() -> object:
        said = field(x, *conditions)
        parts = said if isinstance(said, tuple) else vars(said).values()
        outputs = [part for part in parts if isinstance(part, Tensor)]
        if not cotangents:
            cotangents.extend(torch.randn_like(part) for part in outputs)
        return torch.autograd.grad(outputs, leaves, cotangents, allow_unused=True)

    return call


def rivals_calls(count: int, points: int) -> dict[str, Callable[[], object]]:
    """The contrast of a face or a mouth with `count` others, forward + backward; beside it one field by one."""
    window, expression = torch.randn(1, 8, WIDTH, STEPS, device=DEVICE), torch.rand(1, 6, device=DEVICE)
    x = 2 * BOUND * (torch.rand(points, 3, device=DEVICE) - 0.5)
    d_mean = torch.randn(1, points, 3, device=DEVICE, requires_grad=True)
    calls: dict[str, Callable[[], object]] = {}
    for branch, build, driver in (
        ("face", build_personalized_face, (expression,)),
        ("mouth", build_personalized_mouth, ()),
    ):
        others = [build(WIDTH, STEPS).to(DEVICE) for _ in range(count)]

        def together(others=others, driver=driver) -> object:
            loss = contrast(d_mean, rivals_d_mean(others, x, window, *driver))
            return torch.autograd.grad(loss, d_mean)

        def apart(others=others, driver=driver) -> object:
            loss = negative_contrast(d_mean, rivals_d_mean_torch(others, x, window, *driver))
            return torch.autograd.grad(loss, d_mean)

        calls |= {branch: together, f"{branch}, one by one": apart}
    return calls


def measured(call: Callable[[], object]) -> dict:
    """Graph milliseconds and the kernels."""
    return {"ms": timing.timed(call)["graph"], "kernels_us": timing.kernel_times(call)}


@contextmanager
def changed(module: object, numbers: dict[str, object]) -> Iterator[None]:
    """A module's numbers, for a while."""
    kept = {name: getattr(module, name) for name in numbers}
    for values in (numbers, kept):
        for name, value in values.items():
            setattr(module, name, value)
        hash_grid.level_groups.cache_clear()
        hash_grid.macros.cache_clear()
        if values is numbers:
            yield


GRID_THREADS = "BACKWARD_THREADS"
GRID_BLOCKS = "BACKWARD_BLOCKS_PER_MULTIPROCESSOR"
TWO_GROUPS = {"PRIVATE_LIMIT": 5_200}  # entries: eight coarse levels, four fine ones
VARIANTS: dict[str, tuple[object, dict[str, object]]] = {
    "as it is": (motion_head, {}),
    "backward: 4 warps a block": (motion_head, {"WARPS": (4, 2)}),
    "backward: 2 warps a block": (motion_head, {"WARPS": (2,)}),
    "forward: 8 warps a block": (motion_head, {"FORWARD_WARPS": (8, 4, 2)}),
    "forward: 4 warps a block": (motion_head, {"FORWARD_WARPS": (4, 2)}),
    "grid backward: 512 threads": (hash_grid, {GRID_THREADS: 512}),
    "grid backward: 512 threads, 2 blocks": (hash_grid, {GRID_THREADS: 512, GRID_BLOCKS: 2}),
    "grid backward: 2 groups": (hash_grid, TWO_GROUPS),
    "grid backward: 2 groups, 2 blocks": (hash_grid, TWO_GROUPS | {GRID_BLOCKS: 2}),
}


def main() -> None:
    """Time everything, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("motion_field: torch sees no CUDA device; run it on a machine with one")
    out, counts = options.out, VARIANT_POINTS if options.short else POINTS
    torch.manual_seed(0)
    result: dict = {"environment": timing.environment()}

    def note(name: str, points: int, call: Callable[[], object]) -> None:
        row = measured(call)
        result.setdefault(name, {})[points] = row
        largest = ", ".join(f"{kernel} {us}" for kernel, us in list(row["kernels_us"].items())[2:8])
        launches = row["kernels_us"]["launches"]
        print(f"{name:40} {points:6} {row['ms']!s:>9} ms {launches:5.0f} launches  {largest}", flush=True)
        out.write_text(json.dumps(result, indent=1))

    for name, (field, conditions) in fields(audio=False).items():
        for points in counts:
            note(f"{name}, without audio", points, forward_backward(field, points, conditions))
    for name, (field, conditions) in fields(audio=True).items():
        for points in VARIANT_POINTS if conditions else ():
            note(name, points, forward_backward(field, points, conditions))
    for count in RIVALS[: 1 if options.short else None]:
        for points in VARIANT_POINTS[: 1 if options.short else None]:
            for branch, call in rivals_calls(count, points).items():
                note(f"{count} rivals and contrast, {branch}", points, call)
    face, conditions = fields(audio=False)["face"]
    for name, (module, numbers) in ({} if options.short else VARIANTS).items():
        with changed(module, numbers):
            for points in VARIANT_POINTS:
                note(f"face, {name}", points, forward_backward(face, points, conditions))
    del result["environment"]
    print(timing.table({f"{name}, {points}": row for name, rows in result.items() for points, row in rows.items()}))


if __name__ == "__main__":
    main()
