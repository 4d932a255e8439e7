"""Event files as TensorBoard reads them."""

import pytest

from instag.training.events import EventFile


def test_tensorboard_reads_the_scalars(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    file = EventFile(tmp_path / "face", 1)
    file.write(1, {"loss": 0.5, "gaussians": 12_000.0})
    file.write(300, {"loss": 0.25, "gaussians": float("nan")})
    file.close()
    read = reader.EventAccumulator(str(tmp_path / "face")).Reload()
    assert [(e.step, e.value) for e in read.Scalars("loss")] == [(1, 0.5), (300, 0.25)]
    assert read.Scalars("gaussians")[0].value == 12_000.0
    assert read.file_version == 2.0


def test_a_resumed_run_replaces_what_came_after(tmp_path, monkeypatch):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for moment, first, last, value in ((1e9, 1, 10, 1.0), (1e9 + 5, 7, 8, 2.0)):
        monkeypatch.setattr("time.time", lambda moment=moment: moment)
        file = EventFile(tmp_path, first)
        for step in range(first, last + 1):
            file.write(step, {"loss": value})
        file.close()
    monkeypatch.undo()
    read = reader.EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in read.Scalars("loss")] == [(i, 1.0) for i in range(1, 7)] + [(7, 2.0), (8, 2.0)]
