"""A table's rows as dots with whiskers on an axis with its ends written, one panel a metric: an SVG drawing."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

LABEL_WIDTH, PLOT_WIDTH, VALUE_WIDTH, LINE = 300, 400, 120, 20  # px
MARGIN, DOT, SEED_DOT, WHISKER = 10, 4.5, 2.5, 5
ROOM = 0.06  # of the range, free on both sides
BLUE, GREY, PALE, RED = "#1f5f8b", "#888", "#e4e4e4", "#c8553d"


@dataclass(frozen=True)
class Mark:
    """A row of a panel: mean, deviation between seeds (None: one seed), the seeds' own values."""

    label: str
    mean: float
    deviation: float | None
    seeds: tuple[float, ...]
    reference: bool = False  # what the others are judged against: a line through the panel


@dataclass(frozen=True)
class Panel:
    """A metric: title, format of its values, rows."""

    title: str
    form: str
    marks: tuple[Mark, ...]


def draw(panels: Sequence[Panel]) -> str:
    """The drawing; empty without panels."""
    blocks, y = [], float(MARGIN)
    for panel in panels:
        block, height = _panel(panel, y)
        blocks.append(block)
        y += height
    if not blocks:
        return ""
    width = 2 * MARGIN + LABEL_WIDTH + PLOT_WIDTH + VALUE_WIDTH
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y:.0f}" viewBox="0 0 {width} {y:.0f}" '
            'font-size="12" font-family="sans-serif">')  # fmt: skip
    return head + f'<rect width="{width}" height="{y:.0f}" fill="white"/>' + "".join(blocks) + "</svg>\n"


def _panel(panel: Panel, top: float) -> tuple[str, float]:
    """Its elements and its height."""
    spans = [(m.mean - (m.deviation or 0), m.mean + (m.deviation or 0), *m.seeds) for m in panel.marks]
    low, high = min(map(min, spans)), max(map(max, spans))
    room = ROOM * (high - low) or 1.0
    low, high = low - room, high + room
    left = MARGIN + LABEL_WIDTH

    def at(value: float) -> float:
        return left + (value - low) / (high - low) * PLOT_WIDTH

    bottom = top + LINE * (len(panel.marks) + 1)
    out = [_text(MARGIN, top + 14, panel.title, 'font-weight="bold"')]
    out += [_line(left, y, left + PLOT_WIDTH, y, PALE) for y in (top + LINE, bottom)]
    out += [_line(at(m.mean), top + LINE, at(m.mean), bottom, RED, "4 3") for m in panel.marks if m.reference]
    for i, mark in enumerate(panel.marks):
        y = top + LINE * (i + 1.5)
        weight = 'font-weight="bold"' if mark.reference else ""
        spread = "" if mark.deviation is None else f" ± {mark.deviation:{panel.form}}"
        out.append(_text(MARGIN, y + 4, mark.label, weight))
        out.append(_text(left + PLOT_WIDTH + MARGIN, y + 4, f"{mark.mean:{panel.form}}{spread}", weight))
        if mark.deviation is not None:
            ends = [at(mark.mean + sign * mark.deviation) for sign in (-1, 1)]
            out.append(_line(ends[0], y, ends[1], y, BLUE))
            out += [_line(x, y - WHISKER, x, y + WHISKER, BLUE) for x in ends]
            out += [
                f'<circle cx="{at(v):.1f}" cy="{y}" r="{SEED_DOT}" fill="none" stroke="{GREY}"/>' for v in mark.seeds
            ]
        out.append(f'<circle cx="{at(mark.mean):.1f}" cy="{y}" r="{DOT}" fill="{RED if mark.reference else BLUE}"/>')
    out.append(_text(left, bottom + 13, f"{low:{panel.form}}", f'fill="{GREY}"'))
    out.append(_text(left + PLOT_WIDTH, bottom + 13, f"{high:{panel.form}}", f'fill="{GREY}" text-anchor="end"'))
    return "".join(out), LINE * (len(panel.marks) + 2) + 16


def _text(x: float, y: float, text: str, style: str = "") -> str:
    return f'<text x="{x}" y="{y}" {style}>{html.escape(text)}</text>'


def _line(x0: float, y0: float, x1: float, y1: float, colour: str, dashes: str = "") -> str:
    return (f'<path d="M{x0:.1f} {y0}L{x1:.1f} {y1}" stroke="{colour}"'
            + (f' stroke-dasharray="{dashes}"' if dashes else "") + "/>")  # fmt: skip
