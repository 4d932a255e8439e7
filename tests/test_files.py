"""Files are written whole or not at all; what is read is ours or refused."""

import os
import threading

import pytest
import torch
from safetensors.torch import save_file

from instag.errors import CheckpointError, InstagError
from instag.files import atomic_path, load_tensors, make_folder, save_tensors, write_json, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_file_appears_whole_with_its_folders_and_usual_rights(tmp_path):
    path = tmp_path / "a" / "b" / "note.txt"
    with atomic_path(path) as part:
        part.write_text("whole")
        assert not path.exists()
        assert (part.parent, part.suffix) == (path.parent, path.suffix)
    assert path.read_text() == "whole" and names(path.parent) == ["note.txt"]
    (tmp_path / "plain").write_text("")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_error_inside_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "note.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and names(tmp_path) == ["note.txt"]


def test_who_reads_meanwhile_reads_the_old_file_to_its_end(tmp_path):
    path = tmp_path / "note.txt"
    write_text(path, "old")
    with path.open() as reader:
        write_text(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


def test_an_error_of_the_disk_is_one_line(tmp_path):
    path = tmp_path / "note.txt"
    with (
        pytest.raises(InstagError, match=r"note\.txt: cannot be written \(No space left.*free space"),
        atomic_path(path),
    ):
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == []


@pytest.mark.parametrize("below", ["file/note.txt", "file/deeper/note.txt"])
def test_a_file_where_a_folder_is_needed(tmp_path, below):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InstagError, match=r"note\.txt: cannot be written .*choose another"):
        write_json(tmp_path / below, {})
    with pytest.raises(InstagError, match="file: cannot be written"):
        make_folder(tmp_path / "file")
    assert names(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "mine"


def test_a_folder_where_the_file_is_needed(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(InstagError, match="it is a folder"):
        write_text(tmp_path / "folder", "x")
    assert names(tmp_path) == ["folder"] and names(tmp_path / "folder") == []


def test_writers_of_one_file_do_not_meet(tmp_path):
    path, texts = tmp_path / "note.txt", [letter * 100_000 for letter in "abcd"]
    threads = [threading.Thread(target=write_text, args=(path, text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in texts and names(tmp_path) == ["note.txt"]
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([1, 2], dtype=torch.int64)}
DOCUMENT = {"step": 3, "name": "ä", "nested": {"none": None, "list": [1, 2.5]}}


def test_tensors_and_document_come_back(tmp_path):
    path = tmp_path / "x.safetensors"
    sliced = {"a": TENSORS["a"].T, **{k: v for k, v in TENSORS.items() if k != "a"}}  # not contiguous
    save_tensors(path, sliced, DOCUMENT)
    tensors, document = load_tensors(path, "avatar")
    assert document == DOCUMENT and tensors.keys() == TENSORS.keys()
    assert torch.equal(tensors["a"], TENSORS["a"].T) and torch.equal(tensors["b"], TENSORS["b"])
    assert tensors["b"].dtype == torch.int64


def test_what_is_not_ours_is_refused(tmp_path):
    foreign, torn, listed = (tmp_path / f"{name}.safetensors" for name in ("foreign", "torn", "listed"))
    save_file(TENSORS, foreign)
    save_file(TENSORS, torn, {"instag": "{not json"})
    save_file(TENSORS, listed, {"instag": "[1]"})
    for path, reason in ((foreign, "not written by instag"), (torn, "damaged"), (listed, "not written by instag")):
        with pytest.raises(CheckpointError, match=rf"avatar .*{path.name}.*{reason}"):
            load_tensors(path, "avatar")


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_a_cut_file_is_refused(tmp_path, keep):
    path = tmp_path / "x.safetensors"
    save_tensors(path, TENSORS, DOCUMENT)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"x\.safetensors is damaged"):
        load_tensors(path, "avatar")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"avatar .*nobody\.safetensors does not exist"):
        load_tensors(tmp_path / "nobody.safetensors", "avatar")
