# SPDX-License-Identifier: GPL-2.0-only
"""One execution as a diagram of text: a column for each actor, time downwards, plain ASCII, fit for a mail to a kernel list.

An actor's text may run over the columns to its right, which are empty in its row: with three or four actors in 72 columns there is
no other room for the kernel's function names.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from model.constants import EV_SLOT_OP_BEGIN
from stress.errors import one_line
from stress.report.diagram_rows import LIVES, MADE, RETURNED, STALE, USED, Row, columns_of, rows_of
from stress.report.diagram_state import State
from stress.report.diagram_words import Event

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stress.explore.story import Story

__all__ = ["facts_of", "legend_of", "roots_text", "split_text", "text_diagram", "wrapped"]

WIDTH_MIN = 40
COLUMN_MIN = 7
ROOTS_MAX = 12
OPERATIONS_MAX = 8
INDENT = "  "
GLUE = "\0"  # a space at which no line is broken
MARKS = {"": " ", MADE: "o", LIVES: "|", RETURNED: "D", STALE: "#", USED: "X"}
MMU_LOCK, SLOTS_LOCK, ROOTS = ("mmu_", "lock"), ("slots", "_lock"), ("", "roots")


def text_diagram(story: Story, *, width: int = 100) -> list[str]:
    """Draw a story.

    Args:
        story: an execution, told by the interpreted engine.
        width: columns that no line may be longer than; 72 suits a mail.

    Returns:
        Lines of printable ASCII, without newlines.
    """
    width = max(width, WIDTH_MIN)
    rows = rows_of(story)
    lines = [*wrapped(story.ending.sentence(), width, INDENT)]
    for fact in facts_of(story):
        lines += wrapped(fact, width, INDENT)
    lines.append("")
    lines += _Table(story, rows, width).lines()
    lines.append("")
    signs = {MADE: "made", LIVES: "in force", RETURNED: "DELETE or MOVE returned", STALE: "stale", USED: "found"}
    lives = {row.life for row in rows}
    told = [f"{MARKS[life]}{GLUE}{text.replace(' ', GLUE)}" for life, text in signs.items() if life in lives]
    margin = [f"Margin: the mapping's life: {', '.join(told)}."] if told else []
    for part in [*margin, *legend_of(rows)]:
        lines += wrapped(part, width, INDENT)
    if not story.ending.kind and story.ending.is_failure:
        lines += ["", "at the end:"]
        for position in story.positions:
            lines += wrapped(INDENT + position, width, INDENT * 2)
    return [_ascii(line).rstrip() for line in lines]


def facts_of(story: Story) -> list[str]:
    """What the story is of: its size, and who takes part."""
    columns = columns_of(story)
    idle = [name for name in story.actors if name not in columns]
    switches = f"{story.switches} context {'switch' if story.switches == 1 else 'switches'}"
    facts = [f"{switches}, {len(story.steps):,} steps; actors {', '.join(columns)}"]
    if idle:
        facts[0] += f" (no step of {', '.join(idle)})"
    events = [Event(*words) for words in story.events if words[0] < len(story.steps)]
    operations = [f"{event.word('arg0').upper()} slot {event.arg1}" for event in events if event.kind == EV_SLOT_OP_BEGIN]
    if operations and "ctl" in columns:
        facts.append(f"ctl: {', '.join(operations[:OPERATIONS_MAX])}{', ...' if len(operations) > OPERATIONS_MAX else ''}")
    if any(step.drain for step in story.steps):
        facts.append("Stores go through store buffers (tso).")
    return facts


def legend_of(rows: Sequence[Row]) -> list[str]:
    """What signs mean, as far as they are there."""
    legend = ["mmu_lock: R:n readers, W:writer. Roots: 16 valid, 16x invalid."]
    if any(row.text.endswith("...") for row in rows):
        legend.append("'...': where an actor stands when another one goes on.")
    return legend


def roots_text(state: State) -> str:
    """The roots' pages, invalid ones marked."""
    return " ".join(f"{page}{'' if valid else 'x'}" for page, valid in state.roots)


def split_text(row: Row, width: int) -> tuple[list[str], list[str]]:
    """A row's text in a column: lines that only say where, and lines that say what."""
    text = f"*** {row.text} ***" if row.finding else row.text
    if not row.place:
        return [], wrapped(text, width, INDENT)
    if row.opens and len(row.place) + 2 + len(text) <= width:
        return [], [f"{row.place}: {text}"]
    where = wrapped(f"{row.place}:", width, INDENT) if row.opens else []
    return where, wrapped(INDENT + text, width, INDENT * 2)


def wrapped(text: str, width: int, indent: str) -> list[str]:
    """Text in lines of at most `width`; all but the first are indented. A long identifier is broken behind an underscore."""
    lines: list[str] = []
    start = text[: len(text) - len(text.lstrip())]
    line, is_empty = start, True
    for word in text.split():
        rest = word
        while rest:
            gap = "" if is_empty else " "
            if len(line) + len(gap) + len(rest) <= width:
                line, is_empty, rest = line + gap + rest, False, ""
                continue
            if is_empty:
                piece = _piece(rest, width - len(line))
                line, rest = line + piece, rest[len(piece) :]
            lines.append(line)
            line, is_empty = indent, True
    lines += [line] if not is_empty or not lines else []
    return [line.replace(GLUE, " ") for line in lines]


def _piece(word: str, room: int) -> str:
    """As much of a word as there is room for."""
    room = max(room, 1)
    breaks = [match.end() for match in re.finditer(r"[a-z0-9]_(?=[a-z0-9])", word) if match.end() <= room]
    return word[: breaks[-1] if breaks else room]


def _ascii(text: str) -> str:
    return one_line(text).encode("ascii", "backslashreplace").decode()


class _Table:
    def __init__(self, story: Story, rows: list[Row], width: int) -> None:
        self._rows = rows
        self._names = columns_of(story)
        self._has_life = any(row.life for row in rows)
        self._step_width = max(4, len(str(rows[-1].step if rows else 0)))
        self._mmu_width = max([len(row.state.mmu_lock) for row in rows] + [len(MMU_LOCK[1])])
        self._slots_width = len(SLOTS_LOCK[0])
        self._roots_width = min(max([len(roots_text(row.state)) for row in rows] + [len(ROOTS[1])]), ROOTS_MAX)
        beside = self._mmu_width + self._slots_width + self._roots_width + 3
        self._left = (2 if self._has_life else 0) + self._step_width + 1
        self._area = width - self._left - beside
        self._starts = self._columns()

    def lines(self) -> list[str]:
        """The head and all rows."""
        lines = [self._head(0), self._head(1)]
        before = State()
        life = ""
        for row in self._rows:
            if row.switch:
                lines.append(self._line(MARKS[_through(life, row.life)], "", self._lifelines(""), before, before))
            lines += self._row(row, before, life)
            before, life = row.state, row.life
        return lines

    def _head(self, line: int) -> str:
        names = [" "] * self._area
        for name, start in zip(self._names, self._starts, strict=True):
            names[start : start + len(name)] = name
        actors = "".join(names) if line else " " * self._area
        step = "step".rjust(self._step_width) if line else " " * self._step_width
        beside = f"{MMU_LOCK[line]:<{self._mmu_width}} {SLOTS_LOCK[line]:<{self._slots_width}} {ROOTS[line]}"
        return f"{'  ' if self._has_life else ''}{step} {actors} {beside}".rstrip()

    def _row(self, row: Row, before: State, life: str) -> Iterator[str]:
        mark = MARKS[row.life]
        above = MARKS[_through(life, row.life)]
        below = MARKS[{MADE: LIVES, RETURNED: STALE, USED: ""}.get(row.life, row.life)]
        if not row.actor:
            text = f"*** {row.text} ***" if row.finding else row.text
            for n, line in enumerate(wrapped(text, self._area, INDENT)):
                yield self._line(below if n else mark, "", line, row.state if n else before, row.state)
            return
        column = self._names.index(row.actor) if row.actor in self._names else 0
        start = self._starts[column]
        where, what = split_text(row, self._area - start)
        for line in where:
            yield self._line(above, "", self._lifelines(line, start), before, before)
        for n, line in enumerate(what):
            step = "" if n else str(row.step)
            yield self._line(below if n else mark, step, self._lifelines(line, start), row.state if n else before, row.state)

    def _line(self, mark: str, step: str, actors: str, before: State, state: State) -> str:
        margin = f"{mark} " if self._has_life else ""
        mmu = state.mmu_lock if state.mmu_lock != before.mmu_lock else "|" if state.mmu_lock else ""
        slots = state.slots_lock if state.slots_lock != before.slots_lock else "|" if state.slots_lock else ""
        roots = (roots_text(state) or "-") if state.roots != before.roots else ""
        beside = f"{mmu:<{self._mmu_width}} {slots:<{self._slots_width}} {roots[: self._roots_width]}"
        return f"{margin}{step:>{self._step_width}} {actors:<{self._area}} {beside}".rstrip()

    def _lifelines(self, text: str, start: int = 0) -> str:
        """A line of the actors' area: a text, and dots under the names of all others as far as it leaves room."""
        cells = [" "] * self._area
        cells[start : start + len(text)] = text
        for column in self._starts:
            if not text or column + 1 < start or column > start + len(text):
                cells[column] = "."
        return "".join(cells)

    def _columns(self) -> list[int]:
        """Where each column begins: such that the rows need the fewest lines, and else as far apart as that allows."""
        least = [max(len(name) + 1, COLUMN_MIN) for name in self._names]
        if not least:
            return []
        most = max(self._area - sum(least[:-1]), least[-1])
        needed = max((self._needed(row) for row in self._rows if row.actor == self._names[-1]), default=0)
        candidates = [self._starts_with(last, least) for last in {*range(least[-1], min(needed, most) + 1), most}]
        return min(candidates, key=lambda starts: (self._nr_lines(starts), [-start for start in starts]))

    def _starts_with(self, last: int, least: list[int]) -> list[int]:
        """The columns if the last one is so wide: the others share what is left."""
        spare = max(self._area - last - sum(least[:-1]), 0)
        starts = [0]
        for width in least[:-1]:
            starts.append(starts[-1] + width + spare // (len(least) - 1))
        return starts

    def _needed(self, row: Row) -> int:
        """Columns for a row without a break, but for the one behind its place."""
        return max(len(row.place) + 1, *(len(line) for line in split_text(replace(row, opens=False), 1 << 10)[1]))

    def _nr_lines(self, starts: list[int]) -> int:
        start_of = dict(zip(self._names, starts, strict=True))
        parts = [split_text(row, self._area - start_of[row.actor]) for row in self._rows if row.actor]
        return sum(len(where) + len(what) for where, what in parts)


def _through(above: str, below: str) -> str:
    """The life between two rows."""
    if above in {"", USED}:
        return ""
    return STALE if above in {RETURNED, STALE} else LIVES if below else ""
