"""Fetching from a server on this machine: whole, resumed, refused."""

import hashlib
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from instag.data_utils.prepare import ITEMS, PARTIAL, Item, fetch, get_item, main, table
from instag.errors import DataError

CONTENT = bytes(range(256)) * 5000


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.seen.append(self.headers.get("Range"))
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1]) if self.server.ranges else 0
        if self.path == "/absent" or start >= len(CONTENT):
            self.send_error(404 if self.path == "/absent" else 416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        stop = len(CONTENT) // 2 if self.path == "/breaks" and not start else len(CONTENT)
        self.wfile.write(CONTENT[start:stop])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        made.seen, made.ranges = [], True
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield made
        made.shutdown()


@pytest.fixture
def item(server):
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    return Item("made", "made.bin", "a test", "none", "any", f"http://127.0.0.1:{server.server_port}/file", sha256)


def test_a_file_is_fetched_once(server, item, tmp_path):
    folder = tmp_path / "weights"
    assert fetch(item, folder).read_bytes() == CONTENT
    assert fetch(item, folder) == folder / "made.bin"
    assert len(server.seen) == 1 and [path.name for path in folder.iterdir()] == ["made.bin"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_fetch_goes_on(ranges, server, item, tmp_path):
    server.ranges = ranges
    broken = replace(item, url=item.url.replace("file", "breaks"))
    with pytest.raises(DataError, match="broke off|IncompleteRead|run it again"):
        fetch(broken, tmp_path)
    assert not (tmp_path / "made.bin").exists() and (tmp_path / f"made.bin{PARTIAL}").stat().st_size > 0
    assert fetch(item, tmp_path).read_bytes() == CONTENT
    assert server.seen[1].startswith("bytes=")


def test_a_complete_part_needs_no_more(item, tmp_path):
    (tmp_path / f"made.bin{PARTIAL}").write_bytes(CONTENT)
    assert fetch(item, tmp_path).read_bytes() == CONTENT


def test_the_beginning_of_a_hash_is_enough_and_another_content_is_refused(item, tmp_path):
    assert fetch(replace(item, sha256=item.sha256[:8]), tmp_path / "a").is_file()
    with pytest.raises(DataError, match="expected 00000000"):
        fetch(replace(item, sha256="00000000"), tmp_path / "b")
    assert not list((tmp_path / "b").iterdir())


def test_what_cannot_be_had_is_said_in_one_line(item, tmp_path):
    with pytest.raises(DataError, match="404"):
        fetch(replace(item, url=item.url.replace("file", "absent")), tmp_path)
    with pytest.raises(DataError, match="needs registration"):
        fetch(get_item("bfm"), tmp_path)
    with pytest.raises(DataError, match="unknown file 'nose': choose one of lpips-trunk"):
        get_item("nose")


def test_the_table_tells_licence_use_and_place_of_every_file(tmp_path, capsys):
    (tmp_path / "lpips_alex.pth").touch()
    text = table(tmp_path)
    for item in ITEMS:
        assert item.licence in text and item.use in text and (item.url or item.where) in text
    assert "lpips-heads  [here]" in text and "lpips-trunk  [fetched without --only]" in text
    assert main(["--list", "--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == text
    assert main(["--only", "bfm", "--folder", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_files_go_where_the_metrics_look():
    from instag.metrics.lpips import HEAD_NAMES, TRUNK_NAMES

    assert get_item("lpips-trunk").file.removesuffix(".pth") in TRUNK_NAMES
    assert get_item("lpips-heads").file.removesuffix(".pth") in HEAD_NAMES
