"""Batches of frames on the CPU, with a stand-in for CUDA graphs."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from instag.render.batches import FRAMES, BatchRenderer, PlateSlots

SIZE, CLIP = 4, 30


class StandIn:
    """Replays by calling; draws too little, with the flag raised, from the given replay on until asked."""

    def __init__(self, fail_at=None):
        self.flag = torch.zeros(1, dtype=torch.int32)
        self.fail_at, self.replays, self.captures, self.failing = fail_at, 0, 0, False

    def active(self):
        return nullcontext()

    def capture(self, work):
        self.captures += 1

        def replay():
            self.replays += 1
            self.failing |= self.replays == self.fail_at
            self.flag.fill_(7 if self.failing else 0)
            return work() * (0 if self.failing else 1)

        return SimpleNamespace(replay=replay)

    def overflow_flag(self):
        return self.flag

    def overflow(self):
        self.failing = False
        return "too many"


def plate(frame):
    return np.full((SIZE, SIZE, 3), frame, np.uint8)


def draw(index, row, plates):
    pictures = (255 * plates).round().to(torch.uint8).permute(0, 2, 3, 1).clone()
    pictures[..., 1] = index[:, None, None]
    pictures[..., 2] = row[:, None, None]
    return pictures


def drawn(schedule, graphs, slots=None):
    slots = slots or PlateSlots(plate, SIZE, torch.device("cpu"), len(set(schedule)))
    batches = list(BatchRenderer(draw, np.asarray(schedule), slots, graphs))
    assert all(len(batch) == FRAMES for batch in batches[:-1])
    return np.concatenate(batches)


@pytest.mark.parametrize("count", [1, FRAMES, 3 * FRAMES + 2])
def test_every_row_has_its_plate_pose_and_number(count):
    schedule = [(7 * k) % CLIP for k in range(count)]
    graphs = StandIn()
    pictures = drawn(schedule, graphs)
    assert pictures[:, 0, 0].tolist() == [[frame, frame, row] for row, frame in enumerate(schedule)]
    assert graphs.captures == 1


@pytest.mark.parametrize("fail_at", [1, 2, 4])
def test_an_overflow_is_drawn_again_not_delivered(fail_at):
    schedule = [1 + k % (CLIP - 1) for k in range(5 * FRAMES)]
    graphs = StandIn(fail_at)
    assert np.array_equal(drawn(schedule, graphs), drawn(schedule, StandIn()))
    assert graphs.captures == 2


def test_plates_make_room_for_one_another(monkeypatch):
    monkeypatch.setattr("instag.render.batches.PLATE_BYTES", 10 * 3 * SIZE * SIZE)
    slots = PlateSlots(plate, SIZE, torch.device("cpu"), CLIP)
    assert len(slots.pictures) == 10
    schedule = [*range(CLIP), *range(CLIP - 2, -1, -1)]
    pictures = drawn(schedule, StandIn(), slots)
    assert pictures[:, 0, 0, 0].tolist() == schedule
