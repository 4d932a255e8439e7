"""The report of a run: a Markdown table for each of the paper's, with spread, and whether directions agree."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instag.experiments.jobs import PROFILE
from instag.experiments.measure import LANDMARKS
from instag.experiments.paper import METRICS, TABLES, PaperRow, Table
from instag.experiments.plan import ADAPT, PRETRAIN, result_of
from instag.experiments.plot import Mark, Panel, draw
from instag.experiments.rows import MEMORY_ROWS, ROWS
from instag.files import write_text

REPORT = "report.md"
FORMS = {"PSNR": ".2f", "LPIPS": ".3f", "SSIM": ".4f", "LMD": ".3f", "AUE-L": ".3f", "Sync-C": ".3f", "MB": ".0f"}
HEADERS = {"Sync-C": "lip r", "MB": "MB (ours: tensors)"}
# Everything else that is measured, in the table of all rows: name in the result, heading, format.
FIGURES = (
    ("psnr", "PSNR", ".2f"),
    ("psnr_face", "PSNR face", ".2f"),
    ("ssim", "SSIM", ".4f"),
    ("lpips", "LPIPS", ".4f"),
    ("lmd", "LMD", ".3f"),
    ("lip_r", "lip r", ".3f"),
    ("aue_lower", "AUE-L", ".3f"),
    ("aue_upper", "AUE-U", ".3f"),
    ("jitter", "jitter", ".3f"),
    ("true_opening_r", "r, truth", ".3f"),
    ("true_opening_error", "error, truth", ".4f"),
    ("train_seconds", "training s", ".0f"),
)
FIRST = ("full", "scratch")  # whose profile views come before those of other rows
PLOTTED = ("PSNR", "LMD", "Sync-C")


@dataclass(frozen=True)
class Spread:
    """Mean over subjects and seeds; deviation between seeds (None for one seed)."""

    mean: float
    deviation: float | None
    count: int
    seeds: tuple[float, ...]  # a value a seed


Results = Mapping[tuple[str, float | None], Sequence[Mapping[str, Any]]]


def read_results(output: Path) -> Results:
    """All finished rows by (row, seconds); figures of landmarks beside the others."""
    rows: dict[tuple[str, float | None], list[Mapping[str, Any]]] = {}
    for kind in (PRETRAIN, ADAPT):
        for folder in sorted((output / kind).glob("*")):
            result = result_of(folder)
            if result is None:
                continue
            figures = result_of_file(folder / LANDMARKS)
            recipe = result["recipe"]
            rows.setdefault((recipe["row"], recipe.get("seconds")), []).append(
                {**result, **figures, "folder": str(folder)}
            )
    return rows


def result_of_file(path: Path) -> dict[str, Any]:
    """A JSON document, or nothing."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def spread(results: Iterable[Mapping[str, Any]], name: str) -> Spread | None:
    """Of a figure over subjects and seeds; None where nobody has it.

    Mean over subjects of their means. A seed's value: that mean and how far the seed is from each subject's own mean,
    over the subjects with several seeds, so that a seed without one of the subjects is no outlier.
    """
    subjects: dict[str, dict[int, float]] = {}
    for result in results:
        if name in result:
            recipe = result["recipe"]
            subjects.setdefault(recipe.get("subject", ""), {})[recipe.get("seed", 0)] = float(result[name])
    if not subjects:
        return None
    mean = statistics.fmean(statistics.fmean(values.values()) for values in subjects.values())
    away: dict[int, list[float]] = {}
    for values in subjects.values():
        for seed, value in values.items() if len(values) > 1 else ():
            away.setdefault(seed, []).append(value - statistics.fmean(values.values()))
    seeds = tuple(mean + statistics.fmean(values) for _, values in sorted(away.items()))
    count = sum(map(len, subjects.values()))
    return Spread(mean, statistics.stdev(seeds) if len(seeds) > 1 else None, count, seeds)


def write_report(output: Path) -> Path:
    """Write report.md with its plots and profile views below the output; returns its path."""
    results = read_results(output)
    parts = ["# Ablations", _preface(results)]
    for table in TABLES:
        section = table_section(table, results)
        if section:
            parts.append(section)
            drawing = plot(table, results)
            if drawing:
                name = f"table{table.number}.svg"
                write_text(output / name, drawing)
                parts.append(f"![table {table.number}]({name})")
    parts += [_all_rows(results), _profiles(output, results)]
    write_text(output / REPORT, "\n\n".join(part for part in parts if part) + "\n")
    return output / REPORT


def _preface(results: Results) -> str:
    rows = [result for group in results.values() for result in group if "subject" in result["recipe"]]
    subjects = sorted({f"{r['recipe']['subject']} (tested on {r['recipe']['test']})" for r in rows})
    seeds = sorted({r["recipe"]["seed"] for r in rows})
    devices = sorted({r["device"] for r in rows})
    return (
        f"{len(rows)} adaptations of {len(subjects)} subjects: {', '.join(subjects) or 'none'}; seeds "
        f"{', '.join(map(str, seeds)) or 'none'}; on {', '.join(devices) or 'nothing'}. A figure is the mean over "
        "subjects and seeds +- the deviation between seeds (of the mean over subjects). Plots: dot the mean, whisker "
        "the deviation, circles the seeds, dashed what the rows are judged against. *paper*: the published figure, "
        "other people, 512 px. A direction is the sign of a row's difference from the line that it is judged against: "
        "it *agrees*, *disagrees*, or is *within spread* (smaller than both deviations), over the subjects and seeds "
        "that both lines have. A table holds the people that all its finished lines have. lip r, the correlation of "
        "lip openings, stands in for Sync-C; LPIPS needs its weights."
    )


def _group(results: Results, line: PaperRow) -> Sequence[Mapping[str, Any]]:
    """Finished rows of a line; a line without seconds takes the shortest video there is."""
    if line.row in MEMORY_ROWS or ROWS[line.row].long or line.seconds is not None:
        return results.get((line.row, line.seconds), ())
    lengths = sorted(s for row, s in results if row == line.row and s is not None)
    return results[line.row, lengths[0]] if lengths else ()


def table_groups(table: Table, results: Results) -> list[Sequence[Mapping[str, Any]]]:
    """Finished rows of each line, of the people that all finished lines have: other people are other figures."""
    groups = [_group(results, line) for line in table.lines]
    people = [{result["recipe"].get("subject") for result in group} for group in groups if group]
    shared = set.intersection(*people) if people else set()
    if not shared:
        return groups
    return [[result for result in group if result["recipe"].get("subject") in shared] for group in groups]


def table_section(table: Table, results: Results) -> str:
    """One of the paper's tables; empty where not two of its rows are finished."""
    groups = table_groups(table, results)
    if sum(map(bool, groups)) < 2:
        return ""
    people = sorted({result["recipe"].get("subject", "") for group in groups for result in group} - {""})
    metrics = [name for name in METRICS if any(name in line.figures for line in table.lines)] or ["PSNR", "SSIM", "LMD"]
    metrics = [name for name in metrics if any(spread(group, METRICS[name][0]) for group in groups)]
    published = any(line.figures for line in table.lines)
    heads = [cell for name in metrics for cell in (HEADERS.get(name, name), *(["paper"] if published else []))]
    heads = ["", "n", *heads, *(["direction"] if published else [])]
    lines = [f"## Table {table.number}: {table.title}" if table.number else f"## {table.title}", "",
             f"People: {', '.join(people) or '-'}.", "",
             f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]  # fmt: skip
    for line, group in zip(table.lines, groups, strict=True):
        cells = [line.label, str(len(group))]
        for name in metrics:
            cells.append(show(spread(group, METRICS[name][0]), FORMS[name]))
            if published:
                cells.append(f"{line.figures[name]:{FORMS[name]}}" if name in line.figures else "")
        if published:
            other = table.against if line.against is None else line.against
            own = line is table.lines[other]
            cells.append("" if own else directions(line, table.lines[other], group, groups[other], metrics))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def show(value: Spread | None, form: str) -> str:
    """`mean +- deviation`, as far as there is any."""
    if value is None:
        return "-"
    return f"{value.mean:{form}}" + ("" if value.deviation is None else f" +- {value.deviation:{form}}")


def directions(line: PaperRow, against: PaperRow, group: Sequence, reference: Sequence, metrics: Sequence[str]) -> str:
    """For each metric of both, whether our difference has the published sign, on the subjects and seeds of both."""
    group, reference = in_common(group, reference), in_common(reference, group)
    out = []
    for name in metrics:
        ours, other = spread(group, METRICS[name][0]), spread(reference, METRICS[name][0])
        if ours is None or other is None or name not in line.figures or name not in against.figures:
            continue
        published = line.figures[name] - against.figures[name]
        found = ours.mean - other.mean
        noise = (ours.deviation or 0.0) + (other.deviation or 0.0)
        verdict = "agrees" if published * found > 0 else "disagrees"
        if published == 0 or abs(found) <= noise:
            verdict = "same in the paper" if published == 0 else "within spread"
        out.append(f"{HEADERS.get(name, name)} {verdict}")
    return "; ".join(out)


def in_common(group: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The results of a group whose subject and seed the other has too: an unfinished table compares like with like."""

    def key(result: Mapping[str, Any]) -> tuple:
        return result["recipe"].get("subject"), result["recipe"].get("seed")

    there = {key(result) for result in other}
    return [result for result in group if key(result) in there]


def _all_rows(results: Results) -> str:
    """Every row with everything that is measured, and of how many people: other people are other figures."""
    names = [f for f in FIGURES if any(f[0] in result for group in results.values() for result in group)]
    lines = ["## All rows", "", "| row | video | people | n | " + " | ".join(heading for _, heading, _ in names) + " |",
             "|---|---|---|---|" + "---|" * len(names)]  # fmt: skip
    for (row, seconds), group in sorted(results.items(), key=lambda item: (item[0][1] or 0, item[0][0])):
        if row in ROWS and "subject" in group[0]["recipe"]:
            people = len({result["recipe"]["subject"] for result in group})
            cells = " | ".join([str(people), str(len(group)), *(show(spread(group, n), form) for n, _, form in names)])
            lines.append(f"| {row} | {'all' if seconds is None else f'{seconds:g} s'} | {cells} |")
    return "\n".join(lines)


def _profiles(output: Path, results: Results) -> str:
    """Heads turned to both sides, subject by subject, one picture a row, those of the geometry prior first."""
    order = sorted(results, key=lambda key: (not key[0].startswith("prior"), key[0] not in FIRST, key[0], key[1] or 0))
    parts: dict[str, dict[tuple[str, float | None], str]] = {}
    for row, seconds in order:
        for result in results[row, seconds]:
            picture = Path(result["folder"]) / PROFILE
            if picture.is_file():
                recipe, length = result["recipe"], "all" if seconds is None else f"{seconds:g} s"
                caption = f"{row}, {length}, seed {recipe['seed']}: {ROWS[row].what}"
                text = f"{caption}\n\n![{row}]({picture.relative_to(output)})"
                parts.setdefault(recipe["subject"], {}).setdefault((row, seconds), text)
    sections = ["\n\n".join([f"### {subject}", *pictures.values()]) for subject, pictures in sorted(parts.items())]
    return "\n\n".join(["## Seen from -40 to 40 degrees (figures 8, 11)", *sections]) if sections else ""


def plot(table: Table, results: Results) -> str:
    """PSNR, LMD and lip r of a table's rows, an SVG drawing; empty where there are not two rows with one of them."""
    panels = []
    for name in PLOTTED:
        figure, more_is_better = METRICS[name]
        marks = []
        for line, group in zip(table.lines, table_groups(table, results), strict=True):
            value = spread(group, figure)
            if value is not None:
                reference = line is table.lines[table.against]
                marks.append(Mark(line.label, value.mean, value.deviation, value.seeds, reference))
        if len(marks) > 1:
            title = f"{HEADERS.get(name, name)} ({'higher' if more_is_better else 'lower'} is better)"
            panels.append(Panel(title, FORMS[name], tuple(marks)))
    return draw(panels)
