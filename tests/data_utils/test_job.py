"""Steps: order, threads beside, errors, and a manifest that does not tell who was first."""

import threading

import pytest

from instag.data.layout import SubjectFolder
from instag.data_utils.job import Job, Step, run_steps
from instag.data_utils.manifest import Manifest
from instag.errors import DataError

SECONDS = 10  # until a test gives up waiting


@pytest.fixture
def job(tmp_path):
    manifest = Manifest(tmp_path / "subject.json", tmp_path / "timings.json")
    settings = dict.fromkeys(("limit_seconds", "shot", "best", "lag", "parser", "geometry", "extractor", "norm"))
    return Job(
        tmp_path / "clip.mp4",
        SubjectFolder(tmp_path),
        **(settings | {"size": 64, "fix_lag": False, "poses": "landmarks", "manifest": manifest, "pool": None}),
    )


def made(name, needs=(), run=lambda job: None, **options):
    return Step(name, needs, run, lambda job: [], **options)


def test_steps_beside_run_meanwhile_and_are_waited_for(job):
    told, goes_on = [], threading.Event()

    def late(job):
        assert goes_on.wait(SECONDS)
        told.append(job.step)

    def first(job):
        goes_on.set()
        told.append(job.step)

    steps = [
        made("late", run=late, beside=True),
        made("first", run=first),
        made("needy", ("late",), lambda job: told.append(job.step)),
    ]
    run_steps(job, steps)
    assert told == ["first", "late", "needy"]
    run_steps(job, steps)
    assert len(told) == 3  # all of them are done


@pytest.mark.parametrize("beside", [False, True])
def test_the_error_of_a_step_ends_the_run_and_leaves_it_undone(job, beside):
    def fail(job):
        raise DataError("clip.mp4: too dark; light it")

    with pytest.raises(DataError, match="too dark"):
        run_steps(job, [made("a"), made("b", ("a",), fail, beside=beside), made("c", ("b",))])
    assert [job.manifest.steps[name]["done"] for name in "ab"] == [True, False] and "c" not in job.manifest.steps


def test_the_manifest_does_not_tell_who_was_first(tmp_path):
    def written(order):
        manifest = Manifest(tmp_path / "subject.json", tmp_path / "timings.json")
        for name in order:
            manifest.begin(name, "0", [])
            manifest.facts |= {name: 1}
            manifest.warnings[name].append("dark")
            manifest.finish(name, 0.0)
        return manifest.path.read_bytes()

    assert written("ab") == written("ba")
