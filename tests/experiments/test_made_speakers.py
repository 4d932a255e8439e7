"""The whole of the ablations on made speakers, small: minutes on a CPU (`-m slow`)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from instag.synthetic import make_clip

ROOT = Path(__file__).resolve().parents[2]
SIZE, SECONDS = 128, 3.0
STEPS = [
    "training.fuse.iterations=20", "training.face.align_from=20", "training.mouth.align_from=20",
    *(f"{part}.{stage}.{setting}" for part in ("pretrain", "training") for stage in ("face", "mouth")
      for setting in ("initial=random", "points=400")),
    *(f"training.{stage}.iterations=150" for stage in ("face", "mouth")),
]  # fmt: skip


@pytest.mark.slow
def test_rows_are_trained_measured_and_reported(tmp_path):
    from instag.data_utils.process import process

    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name, seed, sentences in (("one", 1, 0), ("two", 2, 0), ("three", 3, 0), ("three_again", 3, 1)):
        clip = make_clip(tmp_path / f"{name}.mp4", seed, seed, sentences, SECONDS, SIZE, progress=False)
        process(clip, corpus / name, size=SIZE)
        (corpus / name).joinpath(f"{name}.truth.npz").write_bytes(clip.with_suffix(".truth.npz").read_bytes())
    command = [
        sys.executable, ROOT / "scripts" / "ablations.py", corpus, tmp_path / "out", "--subjects", "three=three_again",
        "--rows", "full,scratch", "--seconds", "3", "--pretrain-steps", "300", "--size", "64", "--pretrain-size", "64",
        *(part for setting in STEPS for part in ("--set", setting)),
    ]  # fmt: skip
    for _ in range(2):  # the second call finds everything done
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("0 jobs done, 0 failed, 0 left")
    fields = json.loads((tmp_path / "out/pretrain/full-s0/result.json").read_text())
    assert {"u_holds_shared_y", "d_holds_style_y"} <= fields.keys()
    row = tmp_path / "out/rows/three-full-3s-s0"
    assert json.loads((row / "result.json").read_text())["psnr"] > 10
    assert "true_opening_r" in json.loads((row / "landmarks.json").read_text())
    assert "| scratch | 3 s | 1 |" in (tmp_path / "out/report.md").read_text()
