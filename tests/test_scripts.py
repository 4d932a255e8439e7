"""Shell entry points and the commands of the README: they exist, parse, and say what they want."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from instag.cli import VERBS, parse

ROOT = Path(__file__).resolve().parents[1]
SHELL = sorted((ROOT / "scripts").glob("*.sh")) + [ROOT / ".ci" / "run"]
PYTHON = [
    *sorted((ROOT / "scripts").glob("*.py")),
    ROOT / "data_utils" / "process.py",
    ROOT / "data_utils" / "split.py",
]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [README, *(page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md")))]
PATHS = [ROOT, *(ROOT / "submodules" / name for name in ("diff-gaussian-rasterization", "simple-knn"))]


def run(*command, **variables):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, PATHS))} | variables
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def commands():
    """Commands in the code blocks and code spans of README and docs."""
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL):
            yield from (line.split(" #")[0].strip() for line in block.splitlines())
        yield from re.findall(r"`(instag [a-z]+ [^`]+)`", page)


@pytest.mark.parametrize("script", SHELL, ids=lambda path: path.name)
def test_shell_scripts_are_well_formed(script):
    assert run("bash", "-n", str(script)).stderr == ""
    text = script.read_text()
    assert script.name == "environment.sh" or ("set -euo pipefail" in text and text.startswith("#!/usr/bin/env bash"))


@pytest.mark.parametrize("script", PYTHON, ids=lambda path: path.name)
def test_python_scripts_explain_themselves(script):
    shown = run(sys.executable, str(script), "--help")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("usage:") and len(shown.stdout.splitlines()) > 5


@pytest.mark.parametrize("name", ["adapt", "pretrain"])
def test_shell_scripts_say_what_they_want(name):
    shown = run("bash", f"scripts/{name}.sh", INSTAG_NO_INSTALL="1")
    assert shown.returncode == 2 and f"usage: bash scripts/{name}.sh" in shown.stderr


def test_the_field_s_call_reaches_the_verb(tmp_path):
    call = ("bash", "scripts/adapt.sh", str(tmp_path / "nobody"), str(tmp_path / "out"), "cpu", "--N_views", "125")
    shown = run(*call, "--audio_extractor", "phone-mel", "--all_for_train", "--long", INSTAG_NO_INSTALL="1")
    assert shown.returncode == 2
    assert re.fullmatch(r"instag: .*nobody: no such file; make it with `instag process`\n", shown.stderr), shown.stderr
    assert not (tmp_path / "out").exists()


def test_readme_commands_exist():
    seen = set()
    for command in commands():
        words = shlex.split(re.sub(r"\[[\w.]+\]", "", command))
        words = [word for word in words if not re.match(r"[A-Z_]+=", word)]
        if not words or words[0] not in ("bash", "python", "instag"):
            continue
        if words[0] == "instag":
            assert words[1] in VERBS, command
            seen.add(words[1])
        else:
            assert (ROOT / words[1]).is_file(), command
            seen.add(words[1])
    assert {"scripts/demo.sh", "scripts/test.sh", "process", "adapt", "synthesize", "evaluate", "doctor"} <= seen


def test_readme_instag_commands_parse():
    parsed = 0
    for command in commands():
        words = shlex.split(command)
        if words[:1] == ["instag"] and words[1] != "doctor" and len(words) > 3 and "NAME" not in words:
            parse(words[1:])
            parsed += 1
    assert parsed >= 5


def test_both_commands_stand_at_the_top_of_the_readme():
    top = "\n".join(README.splitlines()[:12])
    assert "bash scripts/demo.sh [clip.mp4] [speech.wav]" in top and "bash scripts/test.sh" in top


def test_versions_stand_in_one_place():
    """environment.yml takes exact versions from constraints.txt; setup.py holds ranges only."""
    assert "-c constraints.txt" in (ROOT / "environment.yml").read_text()
    setup = (ROOT / "setup.py").read_text()
    assert set(re.findall(r'"([\w-]+)==', setup)) == {"mediapipe"}
    everything = setup + (ROOT / "constraints.txt").read_text()
    assert "torchvision" not in everything and "torchaudio" not in everything
