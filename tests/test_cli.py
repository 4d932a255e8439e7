"""The command line: what it accepts, what it hands on, what its help teaches."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import instag.api
from instag.cli import EXIT_INTERRUPTED, EXIT_USER_ERROR, VERBS, main, parse, run_command
from instag.cli_help import LESSONS
from instag.config import LONG_MODE
from instag.data.audio import load_features
from instag.errors import InstagError
from instag.version import __version__

ROOT = Path(__file__).resolve().parents[1]
MOST_FLAGS = 15


def help_of(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--help"])
    assert stop.value.code in (0, None)
    return capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_help_teaches_with_few_flags(capsys, verb):
    text = help_of(capsys, verb)
    flags = set(re.findall(r"^│ (?:-h, )?(--[\w-]+)", text, re.MULTILINE)) - {"--help"}
    assert len(flags) <= MOST_FLAGS
    assert f"    instag {verb}" in text  # an example that can be copied
    assert "--no-" not in text and "{None}" not in text
    assert not re.search(r"│ PATH", text)  # positional arguments are called by their names


def test_the_main_help_shows_the_way(capsys):
    text = help_of(capsys)
    for verb in ("process", "adapt", "synthesize", "evaluate"):
        assert f"    instag {verb} " in text
    assert all(f"• {verb} " in text for verb in VERBS)
    assert LESSONS.keys() == VERBS.keys()


@pytest.mark.parametrize("verb", VERBS)
def test_every_example_can_be_parsed(verb):
    for line in LESSONS[verb].splitlines():
        if line.startswith("    instag "):
            parse(line.split()[1:])


def test_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"instag {__version__}\n"


# --- spellings ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("flag", ["--N_views", "--N-views", "--n-views", "--n_views"])
def test_views_as_the_field_spells_them(flag):
    assert parse(["adapt", "a", "b", flag, "250"]).n_views == 250
    assert parse(["adapt", "a", "b", flag, "-1"]).n_views == -1


@pytest.mark.parametrize(
    ("flag", "field", "value"),
    [
        ("--all_for_train", "all_for_train", True),
        ("--all-for-train", "all_for_train", True),
        ("--long", "long", True),
        ("--overwrite", "overwrite", True),
        ("--audio_extractor=hubert", "audio_extractor", "hubert"),
        ("--audio-extractor=hubert", "audio_extractor", "hubert"),
    ],
)
def test_other_flags_of_the_field(flag, field, value):
    assert getattr(parse(["adapt", "a", "b", flag]), field) == value
    assert not getattr(parse(["adapt", "a", "b"]), field)


@pytest.mark.parametrize("verb", ["synthesize", "evaluate"])
@pytest.mark.parametrize("views", ["--N_views 125", "--N_views=125", "--n-views 125"])
def test_what_the_avatar_knows_from_its_training_is_accepted_and_said(caplog, verb, views):
    line = f"{verb} a {views} b --long --use_train c --all_for_train --audio_extractor hubert --dilate"
    command = parse(line.split())
    assert [str(path) for path in vars(command).values() if isinstance(path, Path)] == ["a", "b", "c"]
    assert (command.poses if verb == "synthesize" else command.part) == "train"
    assert command.dilate and command.audio_extractor == "hubert"
    assert sum("knows it from its training" in record.message for record in caplog.records) == 3


def test_set_may_be_repeated(monkeypatch):
    called = []
    monkeypatch.setattr(
        instag.api, "adapt_subject", lambda s, o, preset, assignments, *rest: called.append(assignments)
    )
    settings = "--set training.seed=3 --set model.sh_degree=2"
    for line in (f"--N_views 125 --long --size 256 {settings}", "--all_for_train --seed 4", ""):
        main(f"adapt data/a out/a {line}".split())
    flags = (*LONG_MODE, "data.n_views=125", "data.size=256")
    assert called[0] == (*flags, "training.seed=3", "model.sh_degree=2")  # --set comes last: it has the last word
    assert called[1:] == [("data.all_for_train=True", "training.seed=4"), ()]


@pytest.mark.parametrize("name", ["--n-views=125", "--all-for-train", "--long", "--size=64", "--seed=3"])
def test_every_flag_is_a_setting(name, monkeypatch):
    from instag.config_io import load_config

    made = []
    monkeypatch.setattr(instag.api, "adapt_subject", lambda s, o, preset, a, *rest: made.append(load_config(preset, a)))
    main(["adapt", "a", "b", name])
    main(["adapt", "a", "b"])
    assert made[0] != made[1]


# --- the script in the field's style ------------------------------------------------------------------------------
@pytest.fixture
def script(monkeypatch):
    """scripts/synthesize.py with everything behind it replaced; returns what it would have rendered."""
    from types import SimpleNamespace

    calls = []
    space = runpy.run_path(str(ROOT / "scripts" / "synthesize.py"))
    avatar = SimpleNamespace(id="anna", model=SimpleNamespace(extractor="phone-mel"))
    known = space["main"].__globals__
    files = SimpleNamespace(load=lambda path, device: calls.append((path, device)) or avatar)
    monkeypatch.setattr(instag.api, "Avatar", files)
    monkeypatch.setattr(instag.api, "resolve_device", lambda device: device)
    monkeypatch.setitem(known, "synthesize", lambda *arguments, **options: calls.append((arguments[1:], options)))

    def run(line):
        calls.clear()
        space["main"](line.split())
        return calls

    return run


def test_synthesize_in_the_field_s_style(script):
    (model, device), ((audio, output), options) = script("-S data/anna -M output/anna --audio speech.wav --dilate")
    assert (model, device) == (Path("output/anna"), "auto")
    assert (audio, output) == (Path("speech.wav"), Path("output/anna/speech.mp4"))
    assert options == {"poses": "all", "dilate": True}
    (_, (paths, options)) = script("-S data/anna -M output/anna --use_train --device 0")
    assert paths == (Path("data/anna/aud.wav"), Path("output/anna/aud.mp4"))
    assert options == {"poses": "train", "dilate": False}
    (_, (_, options)) = script("-M m --audio a.wav --eval --N_views 125 --long --all_for_train")
    assert options["poses"] == "test"
    assert len(script("-M m --audio a.wav --audio_extractor phone-mel")) == 2


def test_synthesize_refuses_another_extractor_and_no_sound(script, capsys):
    for line, reason in (
        ("-M m --audio a.wav --audio_extractor hubert", "avatar 'anna' is driven by phone-mel features; leave"),
        ("-M m", "give --audio, or -S"),
        ("-M m --audio a.wav --eval --use_train", "not allowed with"),
    ):
        with pytest.raises(SystemExit) as stop:
            script(line)
        assert stop.value.code == EXIT_USER_ERROR
        assert reason in capsys.readouterr().err


# --- verbs that are small enough to run ----------------------------------------------------------------------------
def test_features_of_a_file(made_subject, tmp_path, capsys):
    main(["features", str(made_subject / "aud.wav"), str(tmp_path / "x.npy"), "--audio-extractor", "mel"])
    assert load_features(tmp_path / "x.npy", "mel").shape == (60, 16, 32)
    assert (tmp_path / "x.norm.json").is_file()
    assert "60 frames, mel" in capsys.readouterr().out


def test_features_of_a_subject_folder_reach_its_pack(make_subject, capsys):
    from instag.data.dataset import SubjectDataset

    root = make_subject(30)
    main(["pack", str(root)])
    pack = root / "subject.instag"
    assert pack.is_file()
    with pytest.raises(InstagError, match="mel"):
        SubjectDataset.open(pack, extractor="mel")
    main(["features", str(root), "--audio_extractor", "mel"])
    assert load_features(root, "mel").shape == (30, 16, 32)
    with SubjectDataset.open(pack, extractor="mel") as dataset:
        assert np.array_equal(dataset.features, load_features(root, "mel"))
    assert "aud_mel.npy: 30 frames, mel" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [("features {} x.npy", "leave the second path out"), ("features {}/aud.wav", r"give one that ends in \.npy")],
)
def test_features_wants_a_name_for_files_alone(made_subject, capsys, arguments, reason):
    with pytest.raises(SystemExit):
        main(arguments.format(made_subject).split())
    assert re.search(reason, capsys.readouterr().err)


def test_pack_in_another_place(made_field_subject, tmp_path, capsys):
    main(["pack", str(made_field_subject), str(tmp_path / "other.instag")])
    assert (tmp_path / "other.instag").is_file() and "other.instag" in capsys.readouterr().out


# --- how it ends --------------------------------------------------------------------------------------------------
def test_errors_and_interruptions_end_in_one_line(capsys):
    def fail():
        raise InstagError("clip.mp4: broken; mend it")

    def interrupt():
        raise KeyboardInterrupt

    for command, code, line in (
        (fail, EXIT_USER_ERROR, "instag: clip.mp4: broken; mend it\n"),
        (interrupt, EXIT_INTERRUPTED, "instag: interrupted; the same command continues\n"),
    ):
        with pytest.raises(SystemExit) as stop:
            run_command(command)
        assert stop.value.code == code and capsys.readouterr().err == line


def test_a_fault_of_ours_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 / 0)


@pytest.mark.parametrize("line", ["", "adept a b", "adapt a", "adapt a b --n-vews 3", "synthesize a b c --poses none"])
def test_what_is_no_command_exits_with_2(line, capsys):
    with pytest.raises(SystemExit) as stop:
        main(line.split())
    assert stop.value.code == EXIT_USER_ERROR
    assert capsys.readouterr().err


def test_what_computes_is_imported_without_collecting():
    program = """
import gc
rounds = []
gc.callbacks.append(lambda phase, info: rounds.append(phase))
from instag import cli
rounds.clear()
cli.import_method()
import sys
print(len(rounds), "torch" in sys.modules, gc.isenabled(), gc.get_freeze_count() > 100_000)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "0 True True True\n"


def test_the_command_leaves_nothing_unwritten_and_nothing_behind():
    """It ends without Python's own end: what is printed must be out, temporary files gone."""
    program = """
import weakref
from instag import cli
class Kept: pass
kept = Kept()
def main():
    weakref.finalize(kept, print, "cleaned")
    print("said", end=" ")
cli.main = main
cli.console()
print("never")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("said cleaned\n", 0)
