import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from instag.data.dataset import SubjectDataset
from instag.data.layout import Pack, SubjectFolder
from instag.data.pack import PackSource, write_pack
from instag.errors import DataError, InstagError

MADE_FRAMES = 60  # of the fixture `made_subject`
FRAMES = list(range(0, MADE_FRAMES, 7))


@pytest.fixture(scope="module")
def pack(made_subject, tmp_path_factory) -> Path:
    return write_pack(SubjectFolder(made_subject), tmp_path_factory.mktemp("pack") / "ellipse.instag")


def rewrite(pack: Path, target: Path, change=None, drop=(), add=(), compression=zipfile.ZIP_STORED) -> Path:
    """A copy of a pack with some members changed, dropped or added."""
    change = change or {}
    with zipfile.ZipFile(pack) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            if name not in drop:
                new.writestr(name, change.get(name, old.read(name)))
        for name, data in add:
            new.writestr(name, data)
    return target


def meta(pack: Path, **changes) -> dict[str, str]:
    with zipfile.ZipFile(pack) as archive:
        content = json.loads(archive.read(Pack.META))
    return {Pack.META: json.dumps({**content, **changes})}


def test_pack_holds_exactly_what_the_folder_gives(made_subject, pack):
    with SubjectDataset.open(made_subject) as folder, SubjectDataset.open(pack) as packed:
        assert (len(packed), packed.size, packed.id, packed.norm) == (len(folder), folder.size, folder.id, folder.norm)
        ours, theirs = folder.batch(FRAMES), packed.batch(FRAMES)
        for name in ("image", "background", "labels", "lip_rectangle"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
        assert torch.equal(ours.condition.audio, theirs.condition.audio)
        assert torch.equal(ours.condition.camera.focal, theirs.condition.camera.focal)
        for name in ("world_to_camera", "landmarks", "action_units", "mesh"):
            assert np.array_equal(getattr(folder.tracks, name), getattr(packed.tracks, name)), name
        assert np.array_equal(folder.sound()[0], packed.sound()[0])


def test_field_folder_is_packed_within_the_codec(made_field_subject, tmp_path):
    with SubjectDataset.open(made_field_subject) as folder:
        path = write_pack(SubjectFolder(made_field_subject), tmp_path / "field.instag")
        with SubjectDataset.open(path) as packed:
            ours, theirs = folder.batch(FRAMES), packed.batch(FRAMES)
            assert torch.equal(ours.labels, theirs.labels)
            assert torch.equal(ours.condition.camera.world_to_camera, theirs.condition.camera.world_to_camera)
            for name in ("image", "background"):
                error = ((getattr(ours, name) - getattr(theirs, name)) ** 2).mean()
                assert 10 * torch.log10(1 / error) > 38, name


def test_other_extractors_travel_along_and_a_missing_one_is_named(pack):
    with SubjectDataset.open(pack, extractor="deepspeech") as packed:
        assert packed.features.shape == (MADE_FRAMES, 16, 29)
    with pytest.raises(DataError, match="no hubert features .there: deepspeech, phone-mel"):
        SubjectDataset.open(pack, extractor="hubert")


def test_opens_fast_and_leaves_nothing_behind(pack):
    started = time.perf_counter()
    source = PackSource(pack)
    assert time.perf_counter() - started < 2.0
    source.image(3)
    scratch = source._scratch
    assert scratch is not None and scratch.is_dir()
    del source
    assert not scratch.exists()


def test_reading_imports_no_encoder_landmark_or_speech_package(pack):
    program = f"""
import sys
for name in ("av", "mediapipe", "pocketsphinx", "numba", "tyro", "soundfile", "transformers"):
    sys.modules[name] = None  # an import of it now fails
import instag.avatar, instag.synthesize, instag.metrics.evaluate  # they read packs without these packages too
from instag.data.dataset import SubjectDataset
with SubjectDataset.open({str(pack)!r}) as dataset:
    assert dataset.batch([0, 40], prior=True).image.shape[0] == 2 and len(dataset.statistics) == {MADE_FRAMES}
    assert len(dataset.sound()[0])
print("read")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "read", done.stderr


def test_packed_again_at_another_time_it_is_the_same_bytes(make_subject, tmp_path, monkeypatch):
    folder = SubjectFolder(make_subject(6))
    steps = {"format_version": 1, "crop": [0, 0, 9], "steps": {"pack": {"done": False}}}
    folder.manifest.write_text(json.dumps(steps))
    first = write_pack(folder, tmp_path / "first.instag").read_bytes()
    folder.manifest.write_text(json.dumps(steps | {"steps": {"pack": {"done": True}}}))
    for path in (folder.frames, folder.audio):
        os.utime(path, (1e9, 1e9))
    monkeypatch.setattr(time, "time", lambda: 1.5e9)
    assert write_pack(folder, tmp_path / "again.instag").read_bytes() == first
    with zipfile.ZipFile(tmp_path / "first.instag") as archive:
        assert json.loads(archive.read(Pack.META))["provenance"]["subject"]["crop"] == [0, 0, 9]


def test_writing_is_whole_or_not_at_all(make_subject, tmp_path):
    root = make_subject()
    SubjectFolder(root).parsing(5).unlink()
    target = tmp_path / "out" / "broken.instag"
    with pytest.raises(DataError, match="parsing/5.png"):
        write_pack(SubjectFolder(root), target)
    assert list(target.parent.iterdir()) == []


def test_place_that_cannot_be_written_is_one_clear_line(made_subject, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InstagError, match="cannot be written"):
        write_pack(SubjectFolder(made_subject), tmp_path / "file" / "x.instag")


# --- damaged, unsafe, foreign --------------------------------------------------------------------------------------
def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        SubjectDataset.open(tmp_path / "nothing.instag")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_file_that_is_cut_short(pack, tmp_path, share):
    data = pack.read_bytes()
    broken = tmp_path / "cut.instag"
    broken.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataError, match=r"cut.instag: .*pack the subject anew"):
        SubjectDataset.open(broken)


@pytest.mark.parametrize("member", [Pack.FRAMES, Pack.TRACKS, Pack.labels(4), Pack.features("phone-mel")])
def test_flipped_byte_is_found(pack, tmp_path, member):
    data = bytearray(pack.read_bytes())
    with zipfile.ZipFile(pack) as archive:
        info = archive.getinfo(member)
    data[info.header_offset + 30 + len(member) + info.file_size // 2] ^= 0xFF
    broken = tmp_path / "flipped.instag"
    broken.write_bytes(data)
    with pytest.raises(DataError, match=f"{member} is damaged"):
        SubjectDataset.open(broken).batch([4])


@pytest.mark.parametrize("member", [Pack.META, Pack.FRAMES, Pack.PLATES, Pack.TRACKS, Pack.labels(0)])
def test_missing_member_is_named(pack, tmp_path, member):
    with pytest.raises(DataError, match=f"{member} is missing"):
        SubjectDataset.open(rewrite(pack, tmp_path / "x.instag", drop=[member]))


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/../../b", "C:\\x", "labels\\0.png"])
def test_unsafe_member_names_are_refused(pack, tmp_path, name):
    with pytest.raises(DataError, match="unsafe member name"):
        SubjectDataset.open(rewrite(pack, tmp_path / "x.instag", add=[(name, b"x")]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 99}, "pack format 99"),
        ({"frames": 0}, "frames is 0"),
        ({"frames": 10**9}, "frames is 1000000000"),
        ({"frames": MADE_FRAMES - 1}, f"holds {MADE_FRAMES} frames"),
        ({"size": "64"}, "size is '64'"),
        ({"action_unit_names": ["AU01"]}, "action_units has shape"),
    ],
)
def test_nonsense_in_the_description_is_refused(pack, tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        SubjectDataset.open(rewrite(pack, tmp_path / "x.instag", meta(pack, **changes)))


def test_compressed_members_are_refused(pack, tmp_path):
    with pytest.raises(DataError, match="compressed"):
        SubjectDataset.open(rewrite(pack, tmp_path / "x.instag", compression=zipfile.ZIP_DEFLATED))


def test_video_shorter_than_promised_is_found(pack, make_subject, tmp_path):
    short = SubjectFolder(make_subject(frames=10)).frames.read_bytes()
    with (
        SubjectDataset.open(rewrite(pack, tmp_path / "x.instag", {Pack.FRAMES: short})) as dataset,
        pytest.raises(DataError, match="frame 10 of 60"),
    ):
        dataset.batch([12])


def test_picture_of_another_size_is_found(pack, make_subject, tmp_path):
    other = SubjectFolder(make_subject(frames=60, size=32)).plates.read_bytes()
    with (
        SubjectDataset.open(rewrite(pack, tmp_path / "x.instag", {Pack.PLATES: other})) as dataset,
        pytest.raises(DataError, match="plate 0 is 32x32"),
    ):
        dataset.batch([0])
