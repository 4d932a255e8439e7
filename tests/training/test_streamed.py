"""A video that does not fit on the GPU is learned from as one that does."""

from instag.training import run as runs
from instag.training.stage import Subject
from tests.training.test_adaptation import log, run
from tests.training.test_graph import assert_same


def test_streamed_frames_give_the_same_losses(made_subject, tmp_path, monkeypatch):
    seen = []

    def uploaded(limit):
        def training_subject(dataset, indices, training, device, memory=None, scratch=None):
            resident = dataset.to_device(device, indices, limit, scratch)
            seen.append(type(resident).__name__)
            return Subject(dataset, indices, 0.1, resident)

        return training_subject

    for name, limit in (("resident", None), ("streamed", 0)):
        monkeypatch.setattr(runs, "training_subject", uploaded(limit))
        run(made_subject, tmp_path / name, 12, 8, 4)
    assert seen == ["ResidentFrames", "StreamedFrames"]
    assert_same(tmp_path / "resident", tmp_path / "streamed")
    assert len(log(tmp_path / "streamed" / "fuse.jsonl")) == 4
