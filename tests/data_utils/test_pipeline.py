"""From a video file to a subject folder: everything the contract names, resumed after a stop, clear on refusal."""

import json
import os
import shutil

import numpy as np
import pool_jobs
import pytest
import torch
from scipy.io import wavfile

from instag.camera import head_pose_to_camera
from instag.data.dataset import SubjectDataset
from instag.data.layout import FPS, LABEL_COLORS, SAMPLE_RATE, TRACKS, Label, SubjectFolder
from instag.data.pack import write_pack
from instag.data.subject_folder import FolderSource
from instag.data_utils import pictures, pipeline, refine_pose
from instag.data_utils.clip import ClipView
from instag.data_utils.files import read_image
from instag.data_utils.process import WORKER_MODULES, main, process
from instag.data_utils.split import main as split_main
from instag.data_utils.workers import FramePool
from instag.errors import DataError, InstagError
from instag.media import VideoWriter
from instag.synthetic import read_truth

FRAMES, SIZE = 60, 128


@pytest.fixture(scope="session")
def subject(clip, tmp_path_factory):
    """The folder of the procedural speaker, made by two processes. Not to be changed."""
    return process(clip, tmp_path_factory.mktemp("data") / "anna", size=SIZE, workers=2)


def marks(folder):
    return json.loads(folder.manifest.read_text())["steps"]


def test_everything_the_contract_names_is_there(subject):
    for path in (subject.image, subject.ground_truth, subject.torso, subject.parsing, subject.teeth, subject.landmarks):
        for i in range(FRAMES):
            assert path(i).is_file(), path(i)
        assert len(list(path(0).parent.glob("*" + path(0).suffix))) == FRAMES
    for path in (subject.background, subject.audio, subject.action_units, subject.frames, subject.plates):
        assert path.stat().st_size > 0
    for path in (subject.tracks, subject.pack, subject.contact_sheet, subject.root / "aud_pm.npy"):
        assert path.stat().st_size > 0
    assert not [path for path in subject.root.rglob("*") if "partial" in path.name]
    assert all(mark["done"] for mark in marks(subject).values()) and len(marks(subject)) == len(pipeline.STEPS)


def test_files_have_the_shapes_of_the_contract(subject):
    rate, samples = wavfile.read(subject.audio)
    assert rate == SAMPLE_RATE and len(samples) == FRAMES * SAMPLE_RATE // FPS
    assert np.load(subject.root / "aud_pm.npy").shape == (FRAMES, 16, 74)
    assert np.loadtxt(subject.landmarks(7)).shape == (68, 2)
    assert read_image(subject.torso(7)).shape == (SIZE, SIZE, 4)
    colors = np.unique(read_image(subject.parsing(7)).reshape(-1, 3), axis=0)
    assert {tuple(c) for c in colors} <= {tuple(c) for c in LABEL_COLORS}
    teeth = np.load(subject.teeth(7))
    assert teeth.shape == (SIZE, SIZE) and teeth.dtype == bool and not teeth.any()
    assert os.stat(subject.teeth(7)).st_ino == os.stat(subject.teeth(0)).st_ino  # one file on the disk
    train, val = (json.loads(subject.transforms(split).read_text())["frames"] for split in ("train", "val"))
    assert (len(train), len(val)) == (54, 6) and [f["img_id"] for f in train + val] == list(range(FRAMES))


def test_folder_and_pack_are_read_alike(subject):
    from_folder, from_pack = SubjectDataset.open(subject.root), SubjectDataset.open(subject.pack)
    assert len(from_folder) == len(from_pack) == FRAMES
    a, b = from_folder.batch([5, 30], prior=True), from_pack.batch([5, 30], prior=True)
    for one, other in ((a.image, b.image), (a.labels, b.labels), (a.condition.audio, b.condition.audio)):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-6)
    assert a.prior.valid.float().mean() > 0.05
    tracks = from_folder.tracks
    assert tracks.mesh.shape == (FRAMES, *TRACKS["mesh"][1])


def test_the_pack_is_what_packing_the_folder_gives(subject, tmp_path):
    assert write_pack(subject, tmp_path / "anew.instag").read_bytes() == subject.pack.read_bytes()


def test_the_field_reads_the_same_poses(subject, tmp_path):
    view = ClipView.open(subject)
    expected = head_pose_to_camera(view.rotation, view.translation_cm)
    np.testing.assert_allclose(SubjectDataset.open(subject.root).world_to_camera, expected, atol=1e-6)
    from instag.data.subject_folder import read_transforms

    poses, focal = read_transforms(subject)
    np.testing.assert_allclose(poses, expected, atol=1e-6)
    assert focal == pytest.approx(view.focal)


def test_the_truth_is_found(subject, clip):
    truth, view = read_truth(clip), ClipView.open(subject)
    for i in (0, 30, 59):
        labels = pictures.read_labels(subject, i)
        person = truth.labels(i)[::2, ::2] != Label.BACKGROUND
        found = labels != Label.BACKGROUND
        assert (person & found).sum() / (person | found).sum() > 0.95
    plate = read_image(subject.background).astype(float)
    room = truth.background.reshape(SIZE, 2, SIZE, 2, 3).mean((1, 3))
    assert np.abs(plate - room)[view.plate.seen].mean() < 4
    moved = np.diff(np.linalg.inv(truth.world_to_camera)[:, :3, 3], axis=0)
    assert np.isfinite(moved).all() and view.track.rmse < 1.0


def test_started_again_it_does_nothing(subject, clip):
    before = {path: path.stat().st_mtime_ns for path in subject.root.rglob("*") if path != subject.manifest}
    process(clip, subject.root, size=SIZE)
    assert before == {path: path.stat().st_mtime_ns for path in subject.root.rglob("*") if path != subject.manifest}


def test_numbers_of_another_type_are_the_same_settings(clip, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("instag.data_utils.job.run_steps", lambda job, *rest: seen.append(job.manifest.facts))
    for size, seconds, lag in ((SIZE, 10, 2), (float(SIZE), 10.0, 2.0), (np.int64(SIZE), np.float32(10), np.int8(2))):
        process(clip, tmp_path / "anna", size=size, limit_seconds=seconds, best=seconds, lag=lag)
    assert len({json.dumps(facts["settings"]) for facts in seen}) == 1


@pytest.fixture
def begun(subject, clip, tmp_path, monkeypatch):
    """A run that died in the middle of the pictures, after 30 label maps and 10 of everything."""
    folder = SubjectFolder(tmp_path / "anna")
    shutil.copytree(subject.root, folder.root)
    manifest = json.loads(folder.manifest.read_text())
    for step in ("pack", "contact_sheet"):
        del manifest["steps"][step]
    manifest["steps"]["pictures"]["done"] = False
    folder.manifest.write_text(json.dumps(manifest))
    for i in range(30, FRAMES):
        folder.parsing(i).unlink()
    for i in range(10, FRAMES):
        for path in (folder.torso(i), folder.image(i), folder.landmarks(i), folder.ground_truth(i)):
            path.unlink()
    folder.parsing(30).with_name(".30.123.partial.png").write_bytes(b"half")
    return folder


def test_a_killed_run_goes_on_where_it_stopped(begun, subject, clip):
    kept = begun.parsing(3).stat().st_mtime_ns
    finished = begun.parsing(40)
    process(clip, begun.root, size=SIZE, workers=1)
    assert begun.parsing(3).stat().st_mtime_ns == kept
    assert not list(begun.root.rglob("*partial*"))
    assert finished.read_bytes() == subject.parsing(40).read_bytes()
    assert begun.frames.stat().st_mtime_ns == subject.frames.stat().st_mtime_ns  # copied with its time, not made again
    assert all(mark["done"] for mark in marks(begun).values())
    for i in (9, 20, 40):
        np.testing.assert_array_equal(read_image(begun.torso(i)), read_image(subject.torso(i)))


def test_one_step_alone_makes_the_later_ones_stale(subject, clip, tmp_path):
    folder = SubjectFolder(tmp_path / "anna")
    shutil.copytree(subject.root, folder.root)
    process(clip, folder.root, steps=["action_units"])  # size and limit as before
    process(clip, folder.root, steps=["background"])
    assert {step for step, mark in marks(folder).items() if mark["done"]} == {
        *("survey", "video", "audio", "features", "landmarks", "pose", "refine_pose"),
        *("background", "geometry", "action_units", "tracks"),
    }
    with pytest.raises(DataError, match="'pack' needs 'pictures'"):
        process(clip, folder.root, steps=["pack"])


def test_labels_survive_their_colours(tmp_path):
    folder, labels = SubjectFolder(tmp_path), np.arange(len(Label), dtype=np.uint8).repeat(20).reshape(10, -1)
    pictures.write_labels(folder, 0, labels)
    np.testing.assert_array_equal(read_image(folder.parsing(0)), LABEL_COLORS[labels])
    np.testing.assert_array_equal(pictures.read_labels(folder, 0), labels)


class Fixed(torch.nn.Module):
    """A network that says the same of every pixel."""

    def __init__(self, *channels):
        super().__init__()
        self.channels = torch.tensor(channels, dtype=torch.float32)

    def forward(self, x):
        return x[:, :1] * 0 + self.channels[None, :, None, None]


def test_networks_of_the_user_take_part(subject, clip, tmp_path, monkeypatch):
    monkeypatch.setattr("instag.data_utils.networks.SAPIENS_SIZE", (SIZE, SIZE * 3 // 4))  # an eighth of the true side
    files = {name: tmp_path / f"{name}.pt" for name in ("parser", "depth", "normal")}
    channels = {"parser": [0.0] * 17 + [1.0, 0.0], "depth": [2.0], "normal": [0.0, 0.6, 0.8]}
    for name, file in files.items():
        torch.jit.trace(Fixed(*channels[name]), torch.zeros(1, 3, 8, 8), check_trace=False).save(str(file))
    folder = SubjectFolder(tmp_path / "anna")
    shutil.copytree(subject.root, folder.root)
    geometry = files["normal"], files["depth"]
    process(clip, folder.root, parser=files["parser"], geometry=geometry, steps=["pictures", "geometry"], workers=1)
    assert (pictures.read_labels(folder, 3) == Label.HAIR).all()  # class 17 of CelebAMask
    depth, normal = FolderSource(folder.root).network_prior(5)
    assert (depth == 2).all() and normal.shape == (SIZE, SIZE, 3)
    np.testing.assert_allclose(normal[0, 0], (0, 0.6, 0.8), atol=1e-3)
    with pytest.raises(DataError, match="depth and depth; give one of depth, one of normals"):
        process(clip, folder.root, geometry=(files["depth"],) * 2, steps=["geometry"], workers=1)


def test_a_step_that_fails_is_run_again(subject, clip, tmp_path, monkeypatch):
    root, calls = tmp_path / "anna", []

    def fail(*arguments):
        calls.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr("instag.data_utils.pipeline.fit_poses", fail)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            process(clip, root, size=SIZE, workers=1)
    assert len(calls) == 2
    done = {step for step, mark in marks(SubjectFolder(root)).items() if mark["done"]}
    assert (
        done == {"survey", "video", "audio", "features", "landmarks", "background"}
        and not (root / "work" / "track.npz").exists()
    )


def silent(path, seconds=3.0, color=90, audio=False):
    sound = (np.zeros(int(seconds * 16000), np.float32), 16000) if audio else None
    with VideoWriter(path, 25, 64, audio=sound) as writer:
        for _ in range(round(seconds * 25)):
            writer.write(np.full((64, 64, 3), color, np.uint8))
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path, "no such file"),
        (lambda path: path.touch() or path, "empty"),
        (lambda path: path.write_text("text") and path, "not a readable video"),
        (silent, "no sound"),
        (lambda path: silent(path, audio=True), "no face found"),
        (lambda path: silent(path, 1.0, audio=True), "1.0 s long"),
    ],
    ids=["missing", "empty", "text", "silent", "faceless", "short"],
)
def test_useless_clips_are_refused_in_one_line(tmp_path, capsys, make, words):
    clip = make(tmp_path / "clip.mp4")
    assert main([str(clip), "--folder", str(tmp_path / "anna"), "--size", "64"]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and "clip.mp4" in last and words in last
    assert not (tmp_path / "anna").exists()


def test_useless_flags_are_refused(clip, tmp_path, capsys):
    (tmp_path / "file").touch()
    for options, words in (
        (["--folder", str(tmp_path / "file" / "anna")], "cannot be written"),
        (["--folder", str(tmp_path), "--size", "127"], "must be even"),
        (["--folder", str(tmp_path), "--limit-seconds", "-1"], "at least 2 s"),
        (["--folder", str(tmp_path), "--task", "nonsense"], "unknown step 'nonsense'"),
        (["--folder", str(tmp_path), "--extractor", "nonsense"], "unknown audio extractor"),
        (["--folder", str(tmp_path), "--norm", "nonsense"], "nonsense"),
    ):
        assert main([str(clip), *options]) == 2
        assert words in capsys.readouterr().err
    with pytest.raises(DataError, match="rename"):
        process(silent(tmp_path / "frames.mp4"), tmp_path)


def test_split_script_puts_the_end_apart(subject, tmp_path, capsys):
    copy = SubjectFolder(tmp_path / "anna")
    copy.root.mkdir()
    for split in ("train", "val"):
        copy.transforms(split).write_bytes(subject.transforms(split).read_bytes())
    assert split_main([str(copy.root)]) == 0
    train, val = (json.loads(copy.transforms(split).read_text()) for split in ("train", "val"))
    assert [f["img_id"] for f in val["frames"]] == list(range(48, 60)) and len(train["frames"]) == 48
    assert train["focal_len"] == val["focal_len"] and "last 12" in capsys.readouterr().err
    assert split_main([str(tmp_path)]) == 2 and "transforms_train.json" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [1, 2])
def test_pool_keeps_order(workers):
    with FramePool(workers) as pool:
        results = list(pool.map(pool_jobs.double, 260, 2))
    assert [chunk.start for chunk, _ in results] == list(range(0, 260, 25))
    assert [value for _, values in results for value in values] == list(range(0, 520, 2))


def test_worker_processes_import_what_they_run_beforehand():
    needed = {function.__module__ for function in (refine_pose.refine_chunk, pictures.write_pictures)}
    assert needed == set(WORKER_MODULES)


def test_a_dead_worker_is_reported():
    with FramePool(2) as pool, pytest.raises(InstagError, match="--workers 1"):
        list(pool.map(pool_jobs.die, 100))
