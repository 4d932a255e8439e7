"""The report of a run: a Markdown table for each of the paper's, with spread, and whether directions agree."""

from __future__ import annotations

import html
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instag.experiments.jobs import PROFILE
from instag.experiments.measure import LANDMARKS
from instag.experiments.paper import METRICS, TABLES, PaperRow, Table
from instag.experiments.plan import ADAPT, PRETRAIN, result_of
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
BAR_WIDTH, BAR_HEIGHT, LABEL_WIDTH = 420, 18, 240  # px of a plot
WHISKER = 5


@dataclass(frozen=True)
class Spread:
    """Mean over subjects and seeds; deviation between seeds of the mean over subjects (None for one seed)."""

    mean: float
    deviation: float | None
    count: int


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
    import json

    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def spread(results: Iterable[Mapping[str, Any]], name: str) -> Spread | None:
    """Of a figure over subjects and seeds; None where nobody has it."""
    by_seed: dict[int, list[float]] = {}
    for result in results:
        if name in result:
            by_seed.setdefault(result["recipe"].get("seed", 0), []).append(float(result[name]))
    if not by_seed:
        return None
    means = [statistics.fmean(values) for values in by_seed.values()]
    count = sum(map(len, by_seed.values()))
    return Spread(statistics.fmean(means), statistics.stdev(means) if len(means) > 1 else None, count)


def write_report(output: Path) -> Path:
    """Write report.md with its plots and profile views below the output; returns its path."""
    results = read_results(output)
    parts = ["# Ablations", _preface(results)]
    for table in TABLES:
        section = table_section(table, results)
        if section:
            parts.append(section)
            plot = bars(table, results)
            if plot:
                name = f"table{table.number}.svg"
                write_text(output / name, plot)
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
        "subjects and seeds +- the deviation between seeds (of the mean over subjects). *paper*: the published figure, "
        "other people, 512 px. A direction is the sign of a row's difference from the line that it is judged against: "
        "it *agrees*, *disagrees*, or is *within spread* (smaller than both deviations), over the subjects and seeds "
        "that both lines have. lip r, the correlation of lip "
        "openings, stands in for Sync-C; LPIPS needs its weights."
    )


def _group(results: Results, line: PaperRow) -> Sequence[Mapping[str, Any]]:
    """Finished rows of a line; a line without seconds takes the shortest video there is."""
    if line.row in MEMORY_ROWS or ROWS[line.row].long or line.seconds is not None:
        return results.get((line.row, line.seconds), ())
    lengths = sorted(s for row, s in results if row == line.row and s is not None)
    return results[line.row, lengths[0]] if lengths else ()


def table_section(table: Table, results: Results) -> str:
    """One of the paper's tables; empty where none of its rows is finished."""
    groups = [_group(results, line) for line in table.lines]
    if not any(groups):
        return ""
    metrics = [name for name in METRICS if any(name in line.figures for line in table.lines)] or ["PSNR", "SSIM", "LMD"]
    metrics = [name for name in metrics if any(spread(group, METRICS[name][0]) for group in groups)]
    head = " | ".join(f"{HEADERS.get(name, name)} | paper" for name in metrics)
    lines = [f"## Table {table.number}: {table.title}" if table.number else f"## {table.title}", "",
             f"| | n | {head} | direction |", "|---|" + "---|" * (2 * len(metrics) + 2)]  # fmt: skip
    reference = groups[table.against]
    for line, group in zip(table.lines, groups, strict=True):
        cells = []
        for name in metrics:
            value = spread(group, METRICS[name][0])
            published = line.figures.get(name)
            cells += [show(value, FORMS[name]), "" if published is None else f"{published:{FORMS[name]}}"]
        own = group is reference and line is table.lines[table.against]
        verdict = "" if own else directions(line, table.lines[table.against], group, reference, metrics)
        lines.append(f"| {line.label} | {len(group)} | {' | '.join(cells)} | {verdict} |")
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
    """Every row with everything that is measured."""
    names = [f for f in FIGURES if any(f[0] in result for group in results.values() for result in group)]
    lines = ["## All rows", "", "| row | video | n | " + " | ".join(heading for _, heading, _ in names) + " |",
             "|---|---|---|" + "---|" * len(names)]  # fmt: skip
    for (row, seconds), group in sorted(results.items(), key=lambda item: (item[0][1] or 0, item[0][0])):
        if row in ROWS and "subject" in group[0]["recipe"]:
            cells = " | ".join(show(spread(group, name), form) for name, _, form in names)
            lines.append(f"| {row} | {'all' if seconds is None else f'{seconds:g} s'} | {len(group)} | {cells} |")
    return "\n".join(lines)


def _profiles(output: Path, results: Results) -> str:
    """Pictures of heads turned to both sides, the rows of the geometry prior first."""
    order = sorted(results, key=lambda key: (not key[0].startswith("prior"), key[0], key[1] or 0))
    lines = []
    for key in order:
        for result in results[key]:
            picture = Path(result["folder"]) / PROFILE
            if picture.is_file():
                place = picture.relative_to(output)
                lines.append(f"{key[0]}, {result['recipe']['subject']}:\n\n![{key[0]}]({place})")
    return "\n\n".join(["## Seen from -40 to 40 degrees (figures 8, 11)", *lines]) if lines else ""


def bars(table: Table, results: Results) -> str:
    """PSNR, LMD and lip r of a table's rows as bars with whiskers, an SVG drawing; empty where there is nothing."""
    blocks, y = [], 0
    for name in ("PSNR", "LMD", "Sync-C"):
        found = [(line.label, spread(_group(results, line), METRICS[name][0])) for line in table.lines]
        values = [(label, value) for label, value in found if value is not None]
        if len(values) < 2:
            continue
        low = min(value.mean - (value.deviation or 0) for _, value in values)
        high = max(value.mean + (value.deviation or 0) for _, value in values)
        low -= 0.15 * (high - low or 1.0)
        scale = BAR_WIDTH / (high - low or 1.0)
        blocks.append(f'<text x="0" y="{y + 14}" font-weight="bold">{HEADERS.get(name, name)}</text>')
        y += BAR_HEIGHT + 4
        for label, value in values:
            blocks.append(_bar(label, value, y, low, scale, FORMS[name]))
            y += BAR_HEIGHT
        y += 12
    if not blocks:
        return ""
    size = f'viewBox="0 0 {LABEL_WIDTH + BAR_WIDTH + 90} {y}" font-size="12" font-family="sans-serif"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>' + "".join(blocks) + "</svg>\n"


def _bar(label: str, value: Spread, y: int, low: float, scale: float, form: str) -> str:
    end, middle = LABEL_WIDTH + (value.mean - low) * scale, y + BAR_HEIGHT / 2
    out = (
        f'<text x="0" y="{y + 13}">{html.escape(label)}</text>'
        f'<rect x="{LABEL_WIDTH}" y="{y + 3}" width="{end - LABEL_WIDTH:.1f}" height="{BAR_HEIGHT - 6}" '
        f'fill="#2a6f97"/>'
        f'<text x="{LABEL_WIDTH + BAR_WIDTH + 8}" y="{y + 13}">{value.mean:{form}}</text>'
    )
    if value.deviation:
        a, b = (end + sign * value.deviation * scale for sign in (-1, 1))
        out += f'<path d="M{a:.1f} {middle}H{b:.1f}M{a:.1f} {middle - WHISKER}v{2 * WHISKER}M{b:.1f} {middle - WHISKER}v{2 * WHISKER}" stroke="#c8553d"/>'  # noqa: E501
    return out
