"""What goes wrong outside the program: one line that names culprit and remedy, exit code 2, nothing half-written."""

import re

import numpy as np
import pytest
import torch

from instag.api import adapt_subject
from instag.cli import EXIT_USER_ERROR, main
from instag.media import VideoWriter

FPS, SIZE, SECONDS = 25, 64, 3
RATE = 16_000  # Hz


def write_clip(path, sound=True):
    """A grey picture that grows brighter, with noise to hear and no face to see."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(SECONDS * RATE).astype(np.float32)
    with VideoWriter(path, FPS, SIZE, audio=(noise, RATE) if sound else None, pixel_format="yuv420p") as writer:
        for i in range(SECONDS * FPS):
            writer.write(np.full((SIZE, SIZE, 3), 2 * i, np.uint8))
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Videos of every bad kind."""
    folder = tmp_path_factory.mktemp("clips")
    whole = write_clip(folder / "wall.mp4").read_bytes()
    write_clip(folder / "mute.mp4", sound=False)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "notes.mp4").write_text("these are no pictures\n" * 50)
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "head.mp4").write_bytes(whole[:100])
    return folder


@pytest.fixture(scope="module")
def person(made_subject, tmp_path_factory):
    """A pack and an avatar of one training step a stage."""
    folder = tmp_path_factory.mktemp("person")
    main(["pack", str(made_subject), str(folder / "ellipse.instag")])
    settings = [f"training.{stage}.iterations=1" for stage in ("face", "mouth", "fuse")]
    settings += [f"training.{stage}.points=60" for stage in ("face", "mouth")]
    run = adapt_subject(
        folder / "ellipse.instag", folder / "run", assignments=settings, device="cpu", universal="none", progress=False
    )
    assert run.is_file()
    return folder


@pytest.fixture
def refused(tmp_path, capsys):
    """Runs the CLI, demands exit code 2, one line of error and no new file; returns the line.

    `begun`: name of the folder in which a run may have written whole files before it met the damage.
    """

    def run(*arguments, begun=None):
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        assert stop.value.code == EXIT_USER_ERROR
        error = re.sub(r"[^\n]*\r", "", capsys.readouterr().err)  # progress bars are overwritten
        lines = [line for line in error.splitlines() if line and "it/s" not in line and "frame/s" not in line]
        assert [line.startswith("instag: ") for line in lines] == [True], error
        assert "Traceback" not in error
        left = [path for path in sorted(tmp_path.rglob("*")) if path not in before]
        if begun is not None:
            left = [path for path in left if tmp_path / begun not in (path, path.parent) or path.name.startswith(".")]
        assert left == []
        return lines[0]

    return run


@pytest.mark.parametrize(
    ("name", "reason", "remedy"),
    [
        ("empty.mp4", "is empty", "copy or download it again"),
        ("notes.mp4", "not a readable video", "export or copy it again"),
        ("cut.mp4", r"only 1\.\d s can be decoded", "Give a longer clip"),
        ("head.mp4", "", "give|export"),
        ("wall.mp4", "no face found", "one face from the front"),
        ("mute.mp4", "no sound", "give a clip with speech"),
        ("nothing.mp4", "no such file", "give the path of a video"),
    ],
)
def test_clips_that_cannot_be_processed(clips, refused, tmp_path, name, reason, remedy):
    line = refused("process", clips / name, tmp_path / "anna")
    assert re.search(rf"{name}: .*{reason}.*({remedy})", line), line


@pytest.mark.parametrize(
    ("name", "reason"), [("empty.mp4", "empty"), ("notes.mp4", "cannot be read as sound"), ("mute.mp4", "no sound")]
)
def test_sound_that_cannot_be_heard(clips, person, refused, tmp_path, name, reason):
    for line in (
        refused("features", clips / name, tmp_path / "speech.npy"),
        refused("synthesize", person / "run", clips / name, tmp_path / "talk.mp4"),
    ):
        assert re.search(rf"{name}: .*{reason}.*;", line), line


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("training.fase.iterations=3", r"unknown setting 'training\.fase': did you mean 'training\.f"),
        ("training.face.iterations=lots", r"'training\.face\.iterations' is 'lots': expected int"),
        ("training.face.iterations=[1", "not valid YAML"),
        ("training.face.iterations", r"write it as section\.name=value"),
    ],
)
def test_settings_that_do_not_exist(made_subject, refused, tmp_path, setting, reason):
    assert re.search(reason, refused("adapt", made_subject, tmp_path / "run", "--set", setting))


def test_an_unknown_preset(made_subject, refused, tmp_path):
    said = refused("adapt", made_subject, tmp_path / "run", "--preset", "fast")
    assert "choose one of adapt, adapt_fast, demo" in said


def test_the_wrong_extractor(made_subject, person, clips, refused, tmp_path):
    line = refused("adapt", made_subject, tmp_path / "run", "--audio-extractor", "hubert")
    assert re.search(r"no aud_hu\.npy \(hubert features\); make them with `instag features`", line)
    line = refused("adapt", made_subject, tmp_path / "run", "--audio-extractor", "mfcc")
    assert "choose one of deepspeech" in line and "phone-mel" in line
    line = refused("process", clips / "wall.mp4", tmp_path / "anna", "--audio_extractor", "mfcc")
    assert "choose one of deepspeech" in line
    np.save(tmp_path / "other.npy", np.zeros((20, 2, 1024), np.float32))  # HuBERT's
    line = refused("synthesize", person / "run", tmp_path / "other.npy", tmp_path / "talk.mp4")
    assert re.search(r"other\.npy: expected shape \[T, 16, 74\] for phone-mel, found \[20, 2, 1024\]; choose", line)


def test_missing_weights(made_subject, person, refused, tmp_path):
    line = refused("adapt", made_subject, tmp_path / "run", "--universal", tmp_path / "umf.safetensors")
    assert re.search(r"umf\.safetensors does not exist: check the path", line)
    for line in (
        refused("synthesize", tmp_path, made_subject / "aud.wav", tmp_path / "talk.mp4"),
        refused("evaluate", tmp_path / "avatar.safetensors", made_subject, tmp_path / "report"),
    ):
        assert re.search(r"avatar .*avatar\.safetensors does not exist: check the path", line)
    line = refused("adapt", made_subject, tmp_path / "run", "--universal", person / "run" / "avatar.safetensors")
    assert re.search(r"avatar\.safetensors holds no universal fields .*: make them with `instag pretrain`", line)


def test_outputs_that_cannot_be_written(made_subject, person, clips, refused, tmp_path):
    (tmp_path / "file").write_text("mine")
    below, sound = tmp_path / "file" / "x", made_subject / "aud.wav"
    for arguments in (
        ("process", clips / "wall.mp4", below),
        ("features", sound, below.with_suffix(".npy"), "--audio-extractor", "mel"),
        ("pack", made_subject, below.with_suffix(".instag")),
        ("adapt", made_subject, below),
        ("adapt", made_subject, tmp_path / "file"),
        ("adapt", made_subject, tmp_path / "file", "--overwrite"),
        ("synthesize", person / "run", sound, below.with_suffix(".mp4")),
        ("synthesize", person / "run", sound, tmp_path / "file"),
        ("evaluate", person / "run", made_subject, below),
    ):
        line = refused(*arguments)
        assert re.search(r"file.* (choose|free)", line) and re.search("cannot (be written|write)", line), line
    assert (tmp_path / "file").read_text() == "mine"


def test_a_damaged_avatar(made_subject, person, refused, tmp_path):
    data = (person / "run" / "avatar.safetensors").read_bytes()
    for name, spoilt in (("cut", data[: len(data) // 2]), ("noise", b"\xff" * 5000), ("empty", b"")):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(spoilt)
        line = refused("synthesize", path, made_subject / "aud.wav", tmp_path / "talk.mp4")
        assert re.search(rf"avatar .*{name}\.safetensors is damaged .*: make it again", line), line


def test_an_avatar_that_lacks_a_part(made_subject, person, refused, tmp_path):
    from instag.files import load_tensors, save_tensors

    tensors, header = load_tensors(person / "run" / "avatar.safetensors", "avatar")
    for name, change in (
        ("track", {"expression": None}),
        ("shape", {"head.face.motion.decoder.layers.0.weight": torch.zeros(2, 2)}),
        ("plates", {"plates": torch.zeros(100, dtype=torch.uint8)}),
    ):
        path = tmp_path / f"{name}.safetensors"
        changed = {k: v for k, v in (tensors | change).items() if v is not None}
        save_tensors(path, changed, header)
        line = refused("synthesize", path, made_subject / "aud.wav", tmp_path / "talk.mp4")
        assert path.name in line and re.search("damaged|anew|again", line), line


def test_a_damaged_pack(person, refused, tmp_path):
    data = (person / "ellipse.instag").read_bytes()
    (tmp_path / "cut.instag").write_bytes(data[: len(data) // 2])
    line = refused("adapt", tmp_path / "cut.instag", tmp_path / "run")
    assert re.search(r"cut\.instag: .*damaged .*; pack the subject anew", line)
    spoilt = bytearray(data)
    start = data.index(b"labels/000004.png")  # its bytes follow
    spoilt[start + 40 : start + 60] = bytes(20)
    (tmp_path / "spoilt.instag").write_bytes(spoilt)
    line = refused(
        "evaluate", person / "run", tmp_path / "spoilt.instag", tmp_path / "report", "--part", "train", begun="report"
    )
    assert re.search(r"spoilt\.instag: labels/000004\.png .*; ", line)


def test_a_folder_that_is_no_subject(refused, tmp_path):
    assert re.search("no transforms_train.json .*; make it with", refused("adapt", tmp_path, tmp_path / "run"))
    assert re.search("no subject at all.*make them with", refused("pretrain", tmp_path, tmp_path / "run"))
    assert re.search("nobody: no such", refused("adapt", tmp_path / "nobody", tmp_path / "run"))


def test_a_damaged_picture_of_a_subject_folder(make_subject, refused, tmp_path):
    root = make_subject(8, ours=False)
    (root / "parsing" / "3.png").write_bytes(b"no picture")
    line = refused("pack", root, tmp_path / "anna.instag")
    assert re.search(r"parsing/3\.png: .*(;|: )", line)
    line = refused("adapt", root, tmp_path / "run", "--set", "training.face.prior_from=null", begun="run")
    assert "parsing/3.png" in line


def test_a_subject_without_geometry_is_told_before_the_training(made_field_subject, refused, tmp_path):
    line = refused("adapt", made_field_subject, tmp_path / "run")
    assert re.search(r"no face mesh and no sapiens/ .*; process .*--set training\.face\.prior_from=null", line)


def test_a_device_that_is_not_there(made_subject, refused, tmp_path):
    line = refused("adapt", made_subject, tmp_path / "run", "--device", "63")
    assert re.search(r"--device 63: \d GPU\(s\) here; use --device cpu", line)
    assert "give cpu, cuda or a GPU's number" in refused("adapt", made_subject, tmp_path / "run", "--device", "gpu")
