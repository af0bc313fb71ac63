"""Figures over days as drawings made here: SVG without a script, in the theme's colours, with their table beside.

Each drawing is for the eye alone; who cannot see it reads the finding in its title and the table behind it.
"""

from collections.abc import Sequence
from datetime import date
from typing import NamedTuple

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from config.money import format_yuan

WIDTH, HEIGHT = 420, 160
_LEFT, _TOP, _BOTTOM = 8, 22, 24


class Series(NamedTuple):
    """What is drawn in one colour: a figure in fen for each day, None where it is not known."""

    label: object
    figures: Sequence[int | None]
    colour: str


class Chart(NamedTuple):
    """A drawing, what it tells, and its figures as a table: a head and a row for each day, newest first."""

    finding: object
    drawing: SafeString
    head: Sequence[object]
    rows: Sequence[Sequence[object]]


def lines(days: Sequence[date], series: Sequence[Series]) -> SafeString:
    """Figures that are held from day to day; the line is interrupted where one is not known."""
    most = _most(series)
    step = (WIDTH - 2 * _LEFT) / max(1, len(days) - 1)
    drawn = []
    for one in series:
        pen, path = "M", []
        for at, fen in enumerate(one.figures):
            if fen is None:
                pen = "M"
                continue
            path.append(f"{pen}{_LEFT + at * step:.1f} {_height(fen, most):.1f}")
            pen = "L"
        known = [(at, fen) for at, fen in enumerate(one.figures) if fen is not None]
        if known:
            # A single day has no line; the last known one always has its dot.
            x, y = _LEFT + known[-1][0] * step, _height(known[-1][1], most)
            dot = format_html('<circle class="drawing-{}" cx="{}" cy="{}" r="3"/>', one.colour, f"{x:.1f}", f"{y:.1f}")
            drawn.append(format_html('<path class="drawing-{}" d="{}"/>{}', one.colour, "".join(path), dot))
    return _frame(days, most, drawn, series)


def bars(days: Sequence[date], series: Sequence[Series]) -> SafeString:
    """Figures that flow on each day, side by side; what is below nothing stands as nothing."""
    most = _most(series)
    room = (WIDTH - 2 * _LEFT) / max(1, len(days))
    wide = room * 0.8 / len(series)
    drawn = [
        format_html(
            '<rect class="drawing-{}" x="{}" y="{}" width="{}" height="{}"/>',
            one.colour,
            f"{_LEFT + at * room + room * 0.1 + nth * wide:.1f}",
            f"{_height(fen, most):.1f}",
            f"{max(1.0, wide):.1f}",
            f"{_height(0, most) - _height(fen, most):.1f}",
        )
        for nth, one in enumerate(series)
        for at, fen in enumerate(one.figures)
        if fen is not None and fen > 0
    ]
    return _frame(days, most, drawn, series)


def _most(series: Sequence[Series]) -> int:
    return max((fen for one in series for fen in one.figures if fen), default=1)


def _height(fen: int, most: int) -> float:
    return HEIGHT - _BOTTOM - max(0, fen) / most * (HEIGHT - _TOP - _BOTTOM)


def _frame(days: Sequence[date], most: int, drawn: Sequence[SafeString], series: Sequence[Series]) -> SafeString:
    base = HEIGHT - _BOTTOM
    ends = [(_LEFT, "start", days[0])] + ([(WIDTH - _LEFT, "end", days[-1])] if len(days) > 1 else [])
    return format_html(
        '<svg class="drawing" viewBox="0 0 {} {}" aria-hidden="true" focusable="false">'
        '<line class="drawing-axis" x1="0" x2="{}" y1="{}" y2="{}"/>'
        '<line class="drawing-axis" x1="0" x2="{}" y1="{}" y2="{}"/>'
        '<text x="{}" y="{}">{}</text>{}{}</svg><p class="drawing-key">{}</p>',
        *(WIDTH, HEIGHT, WIDTH, base, base, WIDTH, _TOP, _TOP, _LEFT, _TOP - 6, format_yuan(most)[:-3]),
        format_html_join(
            "", '<text x="{}" y="{}" text-anchor="{}">{}</text>',
            ((x, HEIGHT - 6, anchor, day.isoformat()) for x, anchor, day in ends),
        ),
        format_html_join("", "{}", ((one,) for one in drawn)),
        format_html_join(" ", '<span class="drawing-{}">{}</span>', ((one.colour, one.label) for one in series)),
    )  # fmt: skip
