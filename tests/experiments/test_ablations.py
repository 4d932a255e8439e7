"""The ablations: rows, jobs, their pool, packing, the report, and the measure of shared motion and style."""

import json
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from instag.config import Config
from instag.config_io import load_config
from instag.errors import InstagError
from instag.experiments import collect, fields, report
from instag.experiments.frames import read_frames, write_frames
from instag.experiments.jobs import cut_to_heads, run_job, yaw_rotation
from instag.experiments.paper import METRICS, TABLES
from instag.experiments.plan import Options, parse_subjects, plan, rows_of
from instag.experiments.plot import Mark, Panel, draw
from instag.experiments.pool import Job, run_jobs
from instag.experiments.rows import MEMORY_ROWS, ROWS, VARIANTS, adaptation, pretraining


# --- rows ---------------------------------------------------------------------------------------------------------
def test_every_line_of_the_paper_has_a_row_that_can_be_configured():
    for table in TABLES:
        for line in table.lines:
            assert line.row in ROWS or line.row in MEMORY_ROWS, line
            assert set(line.figures) <= set(METRICS)
    base = load_config("adapt_fast")
    made = {name: adaptation(base, row, 3, 125, whole=False) for name, row in ROWS.items()}
    assert all(config.training.seed == 3 for config in made.values())
    assert made["prior_on"].training.face.prior_from == 625 and made["prior_off"].training.face.prior_from is None
    assert made["long"].data.n_views == -1 and made["full"].data.n_views == 125
    assert {row.variant for row in ROWS.values()} - {None} <= set(VARIANTS)


def test_pretraining_takes_as_many_steps_as_asked_for_whatever_the_number_of_videos():
    from instag.training.pretrain import scaled_config

    for videos in (3, 15):
        config = pretraining(Config(), "no_contrast", 0, 30_000, videos)
        scaled = scaled_config(config.pretrain, videos)
        assert scaled.face.iterations == scaled.mouth.iterations == 30_000 and scaled.contrast == 0
        assert scaled.face.static_steps == 1000 and scaled.late_steps == 10_000
    published = scaled_config(pretraining(Config(), "full", 0, None, 3).pretrain, 3)
    assert published.face.iterations == 90_000


def test_a_wrong_name_lists_the_right_ones():
    with pytest.raises(InstagError, match="--rows fool: choose of full"):
        rows_of([], ["fool"], [5.0])
    with pytest.raises(InstagError, match="--tables 4: choose of 2, 5"):
        rows_of([4], [], [5.0])


# --- jobs ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def options(made_subject, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name in ("anna", "bert", "carl"):
        (corpus / name).symlink_to(made_subject)
    return Options(
        corpus, tmp_path / "out", ("anna", "bert"), {"carl": "carl"}, rows_of([], ["full", "scratch"], [1.0])
    )


def test_rows_share_a_pretraining_and_are_not_made_twice(options):
    jobs = plan(options)
    assert [job.name for job in jobs] == ["pretrain/full-s0", "rows/carl-full-1s-s0", "rows/carl-scratch-1s-s0"]
    assert jobs[1].needs == ("pretrain/full-s0",) and jobs[2].needs == ()
    path = options.output / "rows" / "carl-scratch-1s-s0" / "result.json"
    recipe = json.loads(json.dumps(jobs[2].payload["recipe"]))
    del recipe["settings"]["training"]["fuse"]["frames_per_step"]  # as if the setting were newer than the row
    path.write_text(json.dumps({"recipe": recipe}))
    assert [job.name for job in plan(options)] == [job.name for job in jobs[:2]]
    path.write_text(json.dumps({"recipe": {**jobs[2].payload["recipe"], "seconds": 2.0}}))
    with pytest.raises(InstagError, match="was made with other settings"):
        plan(options)


def test_ready_fields_replace_the_full_pretraining_alone(options):
    rows = rows_of([], ["full", "scratch", "no_hook"], [1.0])
    jobs = plan(replace(options, rows=rows, universal="shipped"))
    assert [job.name for job in jobs if job.kind == "pretrain"] == ["pretrain/no_hook-s0"]
    full, scratch, no_hook = jobs[1:]
    assert full.payload["universal"] == full.payload["recipe"]["pretrained"] == "shipped" and full.needs == ()
    assert scratch.payload["universal"] == "none" and no_hook.payload["universal"].endswith("universal.safetensors")
    assert no_hook.needs == ("pretrain/no_hook-s0",)
    with pytest.raises(InstagError, match="--universal none: holds no fields"):
        plan(replace(options, universal="none"))


def test_another_take_is_tested_whole_and_the_first_is_trained_whole():
    assert parse_subjects(["a", "b=c"]) == {"a": "a", "b": "c"}
    assert adaptation(Config(), ROWS["full"], 0, 125, whole=True).data.all_for_train


def test_a_failed_job_stops_only_what_needs_it(tmp_path):
    payload = {"kind": "nonsense", "folder": str(tmp_path / "a"), "recipe": {}}
    jobs = [Job("a", "x", payload), Job("b", "x", payload, needs=("a",))]
    outcome = run_jobs(jobs, run_job, [""])
    assert "KeyError" in outcome.failed["a"] and outcome.left == ["b"] and not outcome.done
    assert "nonsense" in (tmp_path / "a" / "job.log").read_text()


def test_jobs_run_in_order_and_none_starts_that_would_end_too_late(tmp_path):
    jobs = [Job(name, "x", {"folder": str(tmp_path / name)}, needs) for name, needs in
            (("late", ("first",)), ("first", ()), ("other", ()))]  # fmt: skip
    outcome = run_jobs(jobs, json.dumps, [""])
    assert list(outcome.done) == ["first", "late", "other"] and not outcome.left
    times = iter([0.0] * 2 + [5.0] * 50)  # the first takes 5 s, and 4 are left
    outcome = run_jobs(jobs, json.dumps, [""], deadline=9.0, clock=lambda: next(times))
    assert list(outcome.done) == ["first"] and sorted(outcome.left) == ["late", "other"]


# --- files --------------------------------------------------------------------------------------------------------
def test_frames_come_back(tmp_path):
    ramp = np.linspace(0, 255, 64)
    frames = [np.stack(np.broadcast_arrays(ramp[:, None], ramp, 40 * k), 2).astype(np.uint8) for k in range(4)]
    back = list(read_frames(write_frames(tmp_path / "f.avif", frames)))
    assert len(back) == 4
    for a, b in zip(frames, back, strict=True):
        assert np.abs(a.astype(int) - b).mean() < 4


def test_packed_results_come_back_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(collect, "PART_BYTES", 3000)
    for k in range(4):
        folder = tmp_path / "out" / "rows" / f"r{k}"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text("{}")
        (folder / "frames.avif").write_bytes(bytes(1000))
        (folder / "secret.txt").write_text("stays")
    parts = collect.pack_results(tmp_path / "out", tmp_path)
    assert len(parts) > 1 and all(part.stat().st_size <= 3000 for part in parts)
    collect.unpack_results(parts, tmp_path / "back")
    assert len(list((tmp_path / "back").glob("rows/*/frames.avif"))) == 4
    assert not list((tmp_path / "back").rglob("secret.txt"))


# --- report -------------------------------------------------------------------------------------------------------
def write_row(output, row, seed, subject="anna", **figures):
    folder = output / "rows" / f"{subject}-{row}-5s-s{seed}"
    folder.mkdir(parents=True)
    recipe = {"row": row, "subject": subject, "test": subject, "seconds": 5.0, "seed": seed}
    (folder / "result.json").write_text(json.dumps({"recipe": recipe, "device": "cpu", **figures}))


def test_the_report_judges_directions_with_spread(tmp_path):
    for seed in (0, 1):
        write_row(tmp_path, "full", seed, psnr=30.0 + 0.1 * seed, lmd=3.0)
        write_row(tmp_path, "no_hook", seed, psnr=30.02 + 0.1 * seed, lmd=3.5)
        write_row(tmp_path, "single_branch", seed, psnr=31.0 + 0.1 * seed, lmd=3.2)
    text = report.write_report(tmp_path).read_text()
    table = text.split("## Table 6")[1].split("##")[0]
    assert "| two branches, no hook | 2 | 30.07 +- 0.07 | 28.69 |" in table
    assert "PSNR within spread; LMD agrees" in table and "PSNR disagrees; LMD agrees" in table
    assert (tmp_path / "table6.svg").read_text().startswith("<svg")


def test_a_table_holds_the_people_of_all_its_lines(tmp_path):
    for row in ("full", "no_hook"):
        write_row(tmp_path, row, 0, psnr=30.0)
    write_row(tmp_path, "full", 0, "ben", psnr=40.0)
    text = report.write_report(tmp_path).read_text()
    table = text.split("## Table 6")[1].split("##")[0]
    assert "People: anna." in table and "| full | 1 | 30.00 |" in table
    assert "## Table 7" not in text  # one row alone compares nothing


def test_a_seed_without_one_of_the_subjects_is_no_outlier():
    def result(subject: str, seed: int, value: float) -> dict:
        return {"recipe": {"subject": subject, "seed": seed}, "psnr": value}

    both = [result("anna", 0, 30.0), result("anna", 1, 30.2), result("ben", 0, 20.0), result("ben", 1, 20.4)]
    value = report.spread(both, "psnr")
    assert value.mean == pytest.approx(25.15) and value.seeds == pytest.approx((25.0, 25.3))
    less = report.spread(both[:3], "psnr")
    assert less.mean == pytest.approx(25.05) and less.deviation == pytest.approx(0.2 / 2**0.5)
    assert report.spread(both[:1], "psnr").deviation is None and report.spread(both, "lmd") is None


def test_plots_show_every_row_inside_the_drawing():
    marks = (Mark("a < b", 0.5, 0.2, (0.3, 0.7), True), Mark("c", -0.4, None, (-0.4,)))
    svg = draw([Panel("lip r", ".3f", marks)])
    root = ElementTree.fromstring(svg)
    assert {"a < b", "c", "lip r", "0.500 ± 0.200", "-0.400"} <= {node.text for node in root.iter() if node.text}
    width, places = float(root.get("width")), [float(node.get("cx")) for node in root.iter() if node.get("cx")]
    assert len(places) == 4 and all(0 < place < width for place in places)
    assert max(places) - min(places) > 200 and draw([]) == ""


def test_profile_views_are_cut_alike_to_the_heads():
    views = np.full((2, 50, 100, 3), 128, np.uint8)
    views[0, 10:30, 40:60] = 0
    views[1, 12:35, 45:70] = 255
    cut = cut_to_heads(views)
    assert cut.shape == (2, 27, 32, 3)  # a margin of one pixel
    assert (cut != 128).sum() == (views != 128).sum()
    assert cut_to_heads(views[:, :5]).shape == (2, 5, 100, 3)


def test_the_report_shows_one_profile_a_row(tmp_path):
    for seed in (0, 1):
        write_row(tmp_path, "full", seed, psnr=30.0)
        (tmp_path / "rows" / f"anna-full-5s-s{seed}" / "profile.jpg").write_bytes(b"")
    text = report.write_report(tmp_path).read_text()
    assert text.count("profile.jpg") == 1 and "full, 5 s, seed 0" in text
    assert "| full | 5 s | 1 | 2 | 30.00 +- 0.00 |" in text  # people, runs


# --- made speakers ------------------------------------------------------------------------------------------------
def test_an_unfinished_table_compares_the_subjects_of_both_rows():
    def result(subject: str, seed: int) -> dict:
        return {"recipe": {"subject": subject, "seed": seed}}

    full, scratch = [result("anna", 0)], [result("anna", 0), result("ben", 0), result("anna", 1)]
    assert report.in_common(scratch, full) == full and report.in_common(full, scratch) == full


def test_shared_motion_and_style_sum_to_the_clip_s_own(tmp_path):
    from instag.synthetic import Speaker
    from instag.synthetic.landmarks import NAMES, head_landmarks

    truth = {"seeds": np.array([4, 7, 1]), "landmarks": np.zeros((50, len(NAMES), 3))}
    speaker = Speaker(4, 7)
    shared, style = fields.made_motions(truth, fields.mean_style([speaker, Speaker(4, 8)]))
    pose = speaker.perform(1, 50 / 25).articulation.at(40)
    points = head_landmarks(speaker.rig, speaker.landmark_vertices, speaker.rig.deform(pose), pose) / 100
    expected = points[[NAMES.index(name) for name in fields.LIPS]]
    np.testing.assert_allclose((shared + style)[40], expected, atol=1e-9)
    assert np.abs(style).max() > 1e-4
    assert np.abs(fields.made_motions(truth, fields.mean_style([speaker]))[1]).max() == 0  # all of it is shared


def test_a_field_holds_what_it_is_up_to_one_gain():
    random = np.random.default_rng(0)
    shared = [random.normal(size=(200, 5, 3)) for _ in range(3)]
    gains = (0.7, 1.0, 1.3)
    style = [(gain - 1) * part for gain, part in zip(gains, shared, strict=True)]
    assert fields.holds([2 * part + 7 for part in shared], shared) == pytest.approx(1)
    assert abs(fields.holds(shared, style)) < 0.05  # one gain for all: the shared motion cannot pass for style
    assert fields.holds(style, style) == pytest.approx(1)
    assert fields.holds([random.normal(size=(200, 5, 3)) for _ in range(3)], shared) < 0.01


def test_similarity_is_found():
    points = np.random.default_rng(1).normal(size=(20, 3))
    turn = yaw_rotation(20)[:3, :3]
    scale, found = fields.similarity(points, 1.7 * points @ turn.T + 3)
    assert scale == pytest.approx(1.7)
    np.testing.assert_allclose(found, turn, atol=1e-9)


def test_neighbours_are_the_visible_gaussians_next_to_a_point():
    means = torch.cat([torch.zeros(5, 3), torch.ones(30, 3)])
    opacity = torch.full((35, 1), 3.0)
    opacity[:5] = -9
    near = fields.neighbours({"means": means, "opacities_raw": opacity}, np.zeros((1, 3)))
    assert near.shape == (1, fields.NEIGHBOURS, 3) and near.min() == 1
