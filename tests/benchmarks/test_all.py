"""The suite in one call: failures are told, tables are kept; memory per video is a slope."""

import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import all as suite
import pretraining
import timing

BENCHMARKS = suite.HERE


def test_every_part_is_a_script_that_takes_its_options():
    made = suite.commands(Path("a"), Path("b"), Path("c"), "adapt_fast")
    assert sum(seconds for seconds, _ in made.values()) <= 200
    for script, *arguments in (command for _, command in made.values()):
        text = (BENCHMARKS / script).read_text(encoding="utf-8")
        assert [each for each in arguments if each.startswith("--") and f'"{each}"' not in text + RUN_PARTS] == []


RUN_PARTS = (BENCHMARKS / "timing.py").read_text(encoding="utf-8")


def script(folder: Path, body: str) -> list[str]:
    path = folder / "made.py"
    path.write_text("import sys, json\nfrom pathlib import Path\n" + body)
    return [str(path)]


def test_a_part_s_tables_and_errors_are_shown(tmp_path):
    body = """print("| | ms |\\n|---|---|\\n| a | 1 |\\nnoise")
Path(sys.argv[-1]).write_text(json.dumps({"fine": {}, "bad": {"error": ["x", "ValueError: no"]}}))"""
    page, line = suite.run_part("made", script(tmp_path, body), tmp_path, 60)
    assert "| a | 1 |" in page and "noise" not in page and "**Failed:** bad: ValueError: no" in page
    assert line.endswith("bad: ValueError: no") and "noise" in (tmp_path / "made.log").read_text()


FAILURES = [("sys.exit('why')", 60, "status 1: why"), ("import time; time.sleep(30)", 1, "stopped after 1 s")]


@pytest.mark.parametrize(("body", "limit", "told"), FAILURES)
def test_a_failing_part_is_a_line(tmp_path, body, limit, told):
    assert told in suite.run_part("made", script(tmp_path, body), tmp_path, limit)[1]


def test_memory_per_video_is_the_slope_without_pictures():
    rows = {k: {"peak_MiB": 500.0 + 130 * k, "frames_MiB": 100.0 * k} for k in (1, 5)}
    assert pretraining.memory_per_video(rows | {8: {"error": ["out of memory"]}}) == pytest.approx(30)
    assert pretraining.memory_per_video({1: rows[1]}) is None


def test_table_has_a_column_for_every_figure():
    shown = timing.table({"a": {"graph": 0.12345, "kernels_us": {"sum": 3.5, "launches": 2.0}}, "b": {"eager": 1}})
    assert shown.splitlines()[0] == "| | graph | kernels us | launches | eager |"
    assert shown.splitlines()[-1] == "| b |  |  |  | 1 |"


def test_a_part_that_fails_hides_no_other(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(timing.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(timing.torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(timing, "environment", dict)
    parts = {"bad": lambda: {}["gone"], "fine": lambda: {"a": {"ms": 2}}, "other": dict}
    options = Namespace(parts="bad,fine", out=tmp_path / "out.json")
    timing.measure_parts(parts, options, lambda name, entry: f"{name}: {timing.table(entry)}")
    shown, result = capsys.readouterr(), json.loads(options.out.read_text())
    assert json.loads(shown.out) == result and set(result) == {"environment", "bad", "fine"}
    assert result["bad"]["error"][-1] == "KeyError: 'gone'" and "KeyError: 'gone'" in shown.err
    assert "fine: | | ms |" in shown.err and result["fine"]["a"] == {"ms": 2}
    with pytest.raises(SystemExit, match="no part 'absent'; there are bad, fine, other"):
        timing.measure_parts(parts, Namespace(parts="absent", out=None), lambda name, entry: name)
