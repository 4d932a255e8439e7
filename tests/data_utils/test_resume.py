"""Killed at any moment, again and again, and started again: the subject ends as if nothing had happened."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from instag.data.layout import SubjectFolder
from instag.data_utils.clip import WorkFiles

ROOT = Path(__file__).resolve().parents[2]
SIZE = 152  # px; at this width x264 was not repeatable with its macroblock tree
KILLS = 4
SCRIPT = "import sys; from instag.data_utils.process import main; sys.exit(main(sys.argv[1:]))"


def start(clip, root):
    packages = [ROOT, *(ROOT / "submodules" / name for name in ("diff-gaussian-rasterization", "simple-knn"))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, packages)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(clip), "--folder", str(root), "--size", str(SIZE), "--workers", "1"]
    return subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )


def contents(root):
    """Digest of each file, subject.json and the pack among them, but for how long the steps took."""
    skip = {WorkFiles(SubjectFolder(root)).timings}
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and path not in skip
    }


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_alike(clip, tmp_path):
    plain = tmp_path / "plain" / "anna"
    began = time.monotonic()
    assert start(clip, plain).wait(timeout=600) == 0
    whole = time.monotonic() - began
    moments = np.random.default_rng().uniform(0.15, 0.9, KILLS) * whole
    killed = tmp_path / "killed" / "anna"
    for moment in moments:  # each run continues: together they pass through all the steps
        process = start(clip, killed)
        time.sleep(moment)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    last = start(clip, killed)
    assert last.wait(timeout=600) == 0, last.stderr.read().decode()[-2000:]
    assert contents(killed) == contents(plain), f"killed after {moments.round(2)} s"
    assert not list(killed.rglob("*partial*"))
