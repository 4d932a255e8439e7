import json
import re
from functools import partial
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

from instag.data.dataset import SubjectDataset
from instag.data_utils.face_points import LEFT_EYE_OUTER, LOWER_INNER_LIP, RIGHT_EYE_OUTER, UPPER_INNER_LIP
from instag.errors import DataError, InstagError
from instag.frame_output import FrameFolder
from instag.metrics.evaluate import evaluate, evaluate_avatar, silence_of_frames
from instag.metrics.landmarks import FaceTrack
from instag.metrics.report import plot

INDICES = range(48, 60)


@pytest.fixture(scope="module")
def dataset(made_subject):
    with SubjectDataset.open(made_subject) as opened:
        yield opened


class MirrorAvatar:
    """Stands for an avatar: gives back the truth, darkened; with poses it was told to check."""

    def __init__(self, dataset, gain=0.95):
        self.dataset, self.gain = dataset, gain
        self.id, self.size, self.norm = dataset.id, dataset.size, dataset.norm
        self.model = SimpleNamespace(extractor="phone-mel")
        self.device = torch.device("cpu")
        self.split = dataset.split()
        self.expression = torch.from_numpy(dataset.expression)
        self.next = list(INDICES)

    def render(self, condition, plates, dilate=False):
        frames, self.next = self.next[: len(condition)], self.next[len(condition) :]
        truth = self.dataset.batch(frames)
        assert torch.equal(condition.camera.world_to_camera, truth.condition.camera.world_to_camera)
        assert torch.equal(condition.expression, truth.condition.expression)
        assert torch.equal(condition.audio, truth.condition.audio) and torch.equal(plates, truth.background)
        return self.gain * truth.image


@pytest.fixture
def painted_faces(made):
    return partial(paint_faces, made.opening[list(INDICES)])


def paint_faces(opening, pictures):
    """A tracker that needs no network: the lips open as the frame was drawn; the third frame has no face."""
    count = sum(1 for _ in pictures)
    mesh = np.tile(np.random.default_rng(0).uniform(100, 400, (478, 3)), (count, 1, 1)).astype(np.float32)
    mesh[:, RIGHT_EYE_OUTER, :2], mesh[:, LEFT_EYE_OUTER, :2] = (200, 200), (300, 200)
    mesh[:, UPPER_INNER_LIP, :2] = (250, 300)
    mesh[:, LOWER_INNER_LIP, 0] = 250
    mesh[:, LOWER_INNER_LIP, 1] = 300 + 20 * opening
    found = np.arange(count) != 2
    mesh[~found] = np.nan
    return FaceTrack(mesh, found)


def no_tracker(pictures):
    raise InstagError("mediapipe is not installed")


def test_truth_against_itself_is_perfect(dataset, painted_faces):
    truth = [dataset.picture(i).image for i in INDICES]
    result = evaluate(truth, dataset, INDICES, track_faces=painted_faces, progress=False)
    assert result.metrics["psnr"] == pytest.approx(100) and result.metrics["ssim"] == pytest.approx(1, abs=1e-5)
    assert result.metrics["lip_r"] == pytest.approx(1) and result.metrics["lip_best_lag"] == 0
    assert result.metrics["lmd"] == pytest.approx(0) and result.metrics["aue_lower"] == 0
    assert result.metrics["opening_deviation"] == result.metrics["opening_deviation_truth"] > 0
    assert result.metrics["lmd_still"] > 0 and "opening_mean" in result.metrics
    assert result.metrics["no_face_rendered"] == [50] and result.opening_render[2] == 0
    assert "lpips" not in result.metrics
    assert json.loads(json.dumps(result.metrics)) == result.metrics


def test_figures_that_need_a_tracker_are_absent_without_one_and_that_is_said(dataset):
    truth = [dataset.picture(i).image for i in INDICES]
    metrics = evaluate(truth, dataset, INDICES, track_faces=no_tracker, progress=False).metrics
    assert "psnr" in metrics and "lip_r" not in metrics and "lmd" not in metrics
    assert any("mediapipe is not installed" in note for note in metrics["notes"])


def test_wrong_number_or_size_of_frames_is_an_error(dataset):
    truth = [dataset.picture(i).image for i in INDICES]
    with pytest.raises(DataError, match="11 rendered frames for 12"):
        evaluate(truth[1:], dataset, INDICES, track_faces=no_tracker, progress=False)
    with pytest.raises(DataError, match=r"\[32, 64, 3\]"):
        evaluate([picture[:32] for picture in truth], dataset, INDICES, track_faces=no_tracker, progress=False)


def test_report_of_an_avatar_is_complete(dataset, painted_faces, tmp_path):
    avatar = MirrorAvatar(dataset)
    path = evaluate_avatar(avatar, dataset, INDICES, tmp_path, track_faces=painted_faces, progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["frames", "metrics.json", "report.html", "side_by_side.mp4"]
    metrics = json.loads(path.read_text())
    assert metrics["avatar"] == "ellipse" and metrics["frames"] == 12 and metrics["trained_on"] == 0
    assert 20 < metrics["psnr"] < 45 and "true ones" in metrics["protocol"]

    frames = FrameFolder(tmp_path / "frames")
    expected = (0.95 * dataset.batch([50]).image[0] * 255).byte().permute(1, 2, 0).numpy()
    assert len(frames) == 12 and np.array_equal(frames[2], expected)

    page = (tmp_path / "report.html").read_text()
    assert f"{metrics['psnr']:.2f}" in page and "No face found in 1 rendered frames" in page and ": 50" in page
    assert page.count("data:image/jpeg;base64,") == 6 and page.count("<svg") == 2
    assert not re.search(r"(src|href)=\"(?!data:)", page)  # nothing from outside

    with av.open(str(tmp_path / "side_by_side.mp4")) as container:
        video = container.streams.video[0]
        assert (video.width, video.height, len(container.streams.audio)) == (128, 64, 1)
        assert sum(1 for _ in container.decode(video)) == 12
        assert "Synthetic" in container.metadata["comment"]


def test_avatar_and_subject_must_fit(dataset, made_subject, tmp_path):
    avatar = MirrorAvatar(dataset)
    with SubjectDataset.open(made_subject, size=32) as small, pytest.raises(DataError, match="renders 64 px"):
        evaluate_avatar(avatar, small, INDICES, tmp_path)
    with (
        SubjectDataset.open(made_subject, extractor="deepspeech") as other,
        pytest.raises(DataError, match="driven by phone-mel"),
    ):
        evaluate_avatar(avatar, other, INDICES, tmp_path)
    avatar.norm = {**dataset.norm, "mode": "running"}
    with pytest.raises(DataError, match="normalised otherwise"):
        evaluate_avatar(avatar, dataset, INDICES, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_frames_that_were_trained_on_are_said(dataset, tmp_path):
    avatar = MirrorAvatar(dataset)
    avatar.split = dataset.split(all_for_train=True)
    evaluate_avatar(avatar, dataset, INDICES, tmp_path, track_faces=no_tracker, progress=False)
    assert "12 of these frames were trained on" in (tmp_path / "report.html").read_text()


def test_plot_survives_flat_curves():
    assert "nan" not in plot({"flat": np.zeros(5)}, 0)


def test_silence_of_rendered_frames_is_measured(dataset, painted_faces):
    frames = [dataset.picture(i).image for i in INDICES]
    test = silence_of_frames(frames, *dataset.sound_of(INDICES), painted_faces)
    assert test.speech_frames > 5 and test.speech > 0.05 and test.pause is None
