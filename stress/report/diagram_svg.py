# SPDX-License-Identifier: GPL-2.0-only
"""One execution as a picture: the rows of diagram_rows.py as SVG, self-contained, without scripts and without fonts of its own.

Text is set in a monospaced family and laid out by counting characters, which no renderer can disagree about by much.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from stress.errors import one_line
from stress.report.diagram import facts_of, legend_of, roots_text, split_text, wrapped
from stress.report.diagram_rows import MADE, RETURNED, STALE, USED, Row, columns_of, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stress.explore.story import Story
    from stress.report.diagram_state import State

__all__ = ["svg_diagram"]

FONT = "monospace"
SIZE = 12
CHAR = 7.3  # advance of a character at that size
LINE = 16
PAD = 10
BAR = 12
COLUMN_CHARS = (24, 44)  # least and most characters of a column
HEAD_CHARS = 110

INK, FAINT, PAPER, STRIPE = "#1b1f24", "#8a929c", "#ffffff", "#f4f6f8"
WRITE, READ, SLOTS = "#c2410c", "#2f7fc1", "#6b7280"
FRESH, BAD = "#2e7d32", "#c62828"
LIFE = "Arrow: the mapping's life; red from the return of the DELETE or MOVE on."


@dataclass(frozen=True)
class _Placed:
    """A row with its lines and where they stand."""

    row: Row
    lines: tuple[str, ...]
    nr_where: int  # of them that say where only
    top: float
    fact_y: float  # middle of the line that says what
    bottom: float


def svg_diagram(story: Story) -> str:
    """Draw a story.

    Args:
        story: an execution, told by the interpreted engine.

    Returns:
        An SVG document.
    """
    return _Picture(story, rows_of(story)).draw()


class _Picture:
    def __init__(self, story: Story, rows: list[Row]) -> None:
        self._story = story
        self._names = columns_of(story)
        chars = [self._chars(rows, name) for name in self._names]
        self._life_x = PAD + 10.0
        self._step_x = self._life_x + 16 + 6 * CHAR  # its right end
        self._columns: list[float] = []
        x = self._step_x + 14
        for count in chars:
            self._columns.append(x)
            x += count * CHAR + 14
        self._chars_of = dict(zip(self._names, chars, strict=True))
        self._note_chars = max(int((x - self._step_x - 28) / CHAR), 20)
        self._mmu_x = x + 8
        self._slots_x = self._mmu_x + 10 * CHAR
        self._roots_x = self._slots_x + 8 * CHAR
        roots = max([len(roots_text(row.state)) for row in rows] + [5])
        self._sentence = wrapped(story.ending.sentence(), HEAD_CHARS, "  ")
        self._head_lines = [*self._sentence, *(line for fact in facts_of(story) for line in wrapped(fact, HEAD_CHARS, "  "))]
        self._width = max(self._roots_x + roots * CHAR + PAD, PAD * 2 + max(map(len, self._head_lines)) * CHAR)
        self._names_y = PAD + LINE * (len(self._head_lines) + 2)
        self._placed = self._place(rows)
        self._bottom = self._placed[-1].bottom if self._placed else self._names_y + LINE
        self._svg = ET.Element("svg")

    def draw(self) -> str:
        """The document."""
        rows = [placed.row for placed in self._placed]
        tail = [LIFE] if any(row.life for row in rows) else []
        tail += [*legend_of(rows), *self._positions()]
        height = self._bottom + LINE * (len(tail) + 1) + PAD
        size = {"width": f"{self._width:.0f}", "height": f"{height:.0f}", "viewBox": f"0 0 {self._width:.0f} {height:.0f}"}
        self._svg = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", **size, "font-family": FONT, "font-size": str(SIZE)})
        ET.SubElement(self._svg, "title").text = one_line(self._story.ending.sentence())
        self._rect(0, 0, self._width, height, PAPER)
        for n, line in enumerate(self._head_lines):
            self._text(PAD, PAD + LINE * (n + 1), line, weight="bold" if n < len(self._sentence) else "")
        self._draw_columns()
        for placed in self._placed:
            self._draw_row(placed)
        self._draw_bars()
        self._draw_life()
        for n, line in enumerate(tail):
            self._text(PAD, self._bottom + LINE * (n + 1.5), line, fill=FAINT)
        ET.indent(self._svg)
        return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(self._svg, encoding="unicode") + "\n"

    # --- layout

    def _positions(self) -> list[str]:
        if self._story.ending.kind or not self._story.ending.is_failure:
            return []
        return ["at the end:", *(f"  {position}" for position in self._story.positions)]

    def _chars(self, rows: Sequence[Row], name: str) -> int:
        needed = [line for row in rows if row.actor == name for part in split_text(row, COLUMN_CHARS[1]) for line in part]
        return max(COLUMN_CHARS[0], min(max(map(len, needed), default=0), COLUMN_CHARS[1]))

    def _place(self, rows: Sequence[Row]) -> list[_Placed]:
        placed = []
        y = self._names_y + 10.0
        for row in rows:
            y += LINE / 2 if row.switch else 0
            if row.actor:
                where, what = split_text(row, self._chars_of[row.actor])
            else:
                where, what = [], wrapped(f"*** {row.text} ***" if row.finding else row.text, self._note_chars, "  ")
            lines = (*where, *what)
            placed.append(_Placed(row, lines, len(where), y, y + LINE * (len(where) + 0.5), y + LINE * len(lines)))
            y = placed[-1].bottom
        return placed

    # --- what is drawn

    def _draw_columns(self) -> None:
        for n, (name, x) in enumerate(zip(self._names, self._columns, strict=True)):
            right = x + self._chars_of[name] * CHAR + 8
            if n % 2 == 0:
                self._rect(x - 6, self._names_y - LINE, right - x + 6, self._bottom - self._names_y + LINE + 4, STRIPE)
            self._text(x, self._names_y, name, weight="bold", kind="actor")
        self._text(self._step_x, self._names_y, "step", anchor="end", fill=FAINT)
        for x, name in ((self._mmu_x, "mmu_lock"), (self._slots_x, "slots"), (self._roots_x, "roots")):
            self._text(x, self._names_y, name, fill=FAINT)

    def _draw_row(self, placed: _Placed) -> None:
        row = placed.row
        x = self._columns[self._names.index(row.actor)] if row.actor else self._step_x + 14
        if row.switch:
            self._line(self._step_x + 8, placed.top - LINE / 4, self._mmu_x - 8, placed.top - LINE / 4, FAINT, dash="2 4")
        fill = BAD if row.finding or row.life in {USED, RETURNED} else INK
        for n, line in enumerate(placed.lines):
            ink, weight = FAINT if n < placed.nr_where else fill, "bold" if row.finding else ""
            self._text(x, placed.top + LINE * (n + 1) - 4, line, fill=ink, weight=weight)
        if row.actor:
            self._text(self._step_x, placed.fact_y + 4, str(row.step), anchor="end", fill=FAINT)

    def _draw_bars(self) -> None:
        self._draw_bar(self._mmu_x, lambda state: state.mmu_lock, lambda label: WRITE if label.startswith("W") else READ)
        self._draw_bar(self._slots_x, lambda state: state.slots_lock, lambda _: SLOTS)
        before = None
        for placed in self._placed:
            if placed.row.state.roots != before:
                self._text(self._roots_x, placed.fact_y + 4, roots_text(placed.row.state) or "-")
            before = placed.row.state.roots

    def _draw_bar(self, x: float, label_of: Callable[[State], str], colour_of: Callable[[str], str]) -> None:
        """Intervals in which a lock is held, from the row that says so to the one that says it is not."""
        label, since = "", 0.0
        ends = [(placed.fact_y, label_of(placed.row.state)) for placed in self._placed]
        for y, following in [*ends, (self._bottom, "")]:
            if following == label:
                continue
            if label:
                self._rect(x, since, BAR, max(y - since, 3), colour_of(label), kind="lock")
                self._text(x + BAR + 3, since + 9, label, size=SIZE - 2, fill=colour_of(label))
            label, since = following, y

    def _draw_life(self) -> None:
        """The mapping's life as an arrow: green as long as it may be used, red from the DELETE's or MOVE's return on."""
        living = [placed for placed in self._placed if placed.row.life]
        for above, below in pairwise(living):
            stale = above.row.life in {RETURNED, STALE}
            x, end = self._life_x, below.fact_y - (9 if below.row.life == USED else 0)
            colour, width, kind = (BAD, 3.0, "life-stale") if stale else (FRESH, 2.0, "life")
            self._line(x, above.fact_y, x, end, colour, width=width, kind=kind)
        for placed in living:
            y = placed.fact_y
            if placed.row.life == MADE:
                self._mark("circle", {"cx": self._life_x, "cy": y, "r": 4.5}, FRESH, "life-made")
            elif placed.row.life == RETURNED:
                self._mark("rect", {"x": self._life_x - 6, "y": y - 1.5, "width": 12, "height": 3}, BAD, "life-returned")
            elif placed.row.life == USED:
                points = f"{self._life_x - 6},{y - 9} {self._life_x + 6},{y - 9} {self._life_x},{y + 3}"
                self._mark("polygon", {"points": points}, BAD, "life-used")

    # --- elements

    def _text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        fill: str = INK,
        weight: str = "",
        anchor: str = "",
        size: int = SIZE,
        kind: str = "",
    ) -> None:
        # Blanks in front are indentation, and a viewer would drop them.
        indent = (len(text) - len(text.lstrip())) * CHAR
        attributes = {"x": f"{x + indent:.1f}", "y": f"{y:.1f}", "fill": fill}
        attributes |= {"class": kind} if kind else {}
        attributes |= {"font-weight": weight} if weight else {}
        attributes |= {"text-anchor": anchor} if anchor else {}
        attributes |= {"font-size": str(size)} if size != SIZE else {}
        # Control characters are none of XML's, escaped or not.
        ET.SubElement(self._svg, "text", attributes).text = one_line(text.strip())

    def _rect(self, x: float, y: float, width: float, height: float, fill: str, kind: str = "") -> None:
        attributes = {"x": f"{x:.1f}", "y": f"{y:.1f}", "width": f"{width:.1f}", "height": f"{height:.1f}", "fill": fill}
        ET.SubElement(self._svg, "rect", attributes | ({"class": kind} if kind else {}))

    def _line(
        self, x1: float, y1: float, x2: float, y2: float, colour: str, *, width: float = 1.0, dash: str = "", kind: str = ""
    ) -> None:
        attributes = {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}", "stroke": colour}
        attributes |= {"stroke-width": str(width)} | ({"class": kind} if kind else {})
        ET.SubElement(self._svg, "line", attributes | ({"stroke-dasharray": dash} if dash else {}))

    def _mark(self, tag: str, shape: dict[str, float | str], fill: str, kind: str) -> None:
        ET.SubElement(self._svg, tag, {name: str(value) for name, value in shape.items()} | {"fill": fill, "class": kind})
