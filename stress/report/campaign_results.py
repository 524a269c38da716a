# SPDX-License-Identifier: GPL-2.0-only
"""Results of a campaign as text for 80 columns: a line a run, a line a group with medians below, what became worse or better."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stress.errors import one_line
from stress.report.tables import count_text, duration_text, number_text
from stress.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stress.campaign.compare import Change, Comparison
    from stress.campaign.groups import Group

__all__ = ["COMPACT", "comparison_text", "groups_text", "runs_text"]

# Columns of a run where none are named.
COMPACT = ("run", "verdict", "elapsed_s", "guest_accesses_per_s", "reason")
HEADS = {"elapsed_s": "s", "guest_accesses_per_s": "accesses/s"}
VERDICT_HEADS = {"INCONCLUSIVE": "INCONCL.", "HARNESS_ERROR": "HARNESS"}
RUN_WIDTH_MAX = 36
WIDTH_UNCUT = 100_000
LABEL_WIDTH = 30
COLUMN_WIDTH = 8
EXACT_FROM = 0.001
EXACT_BELOW = 1e5
PROBABILITIES = ("violation", "inconclusive")


def runs_text(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    verdicts: Mapping[str, int],
    width: int,
    *,
    cut: bool,
    styled: bool = False,
) -> str:
    """A line a run, and what all of them came to.

    Args:
        columns: their names.
        rows: values of the runs to show, the last ones.
        verdicts: how many runs there are of each verdict, shown or not.
        width: columns of the terminal.
        cut: whether long values may be cut to fit.
        styled: with a terminal's escape sequences.
    """
    cells = [[_cell(name, value) for name, value in zip(columns, row, strict=True)] for row in rows]
    heads = [one_line(HEADS.get(name, name) if cut else name) for name in columns]
    room = width
    table = _table()
    for place, (name, head) in enumerate(zip(columns, heads, strict=True)):
        longest = max(len(text) for text in (head, *(row[place] for row in cells)))
        most = min(longest, RUN_WIDTH_MAX if name == "run" else room) if cut else longest  # the last column gets what is left
        numbers = bool(rows) and all(row[place] is None or isinstance(row[place], int | float) for row in rows)
        table.add_column(Text(head), justify="right" if numbers else "left", width=max(1, most), no_wrap=True, overflow="ellipsis")
        room -= most + 1
    for row in cells:
        table.add_row(*map(Text, row))
    total = sum(verdicts.values())
    lines = [_rendered(table, width if cut else WIDTH_UNCUT, styled=styled)] if rows else []
    if len(rows) < total:
        lines.append(f"{total - len(rows):,} more before them (--limit shows more, --filter chooses)")
    return "\n".join([*lines, summary_line(verdicts)]) + "\n"


def summary_line(verdicts: Mapping[str, int]) -> str:
    """How many runs there are, by verdict."""
    total = sum(verdicts.values())
    counts = ", ".join(f"{count:,} {verdict}" for verdict, count in verdicts.items() if count)
    return f"{total:,} run{'' if total == 1 else 's'}{': ' if counts else ''}{counts}"


def groups_text(groups: Sequence[Group], verdicts: Mapping[str, int], width: int, *, styled: bool = False) -> str:
    """A line a group, and below the medians of all that was measured, a column a group.

    Args:
        groups: in their order.
        verdicts: how many runs there are of each verdict.
        width: columns of the terminal.
        styled: with a terminal's escape sequences.
    """
    parts = []
    if groups:
        shown = [verdict.value for verdict in Verdict if any(group.verdicts[verdict.value] for group in groups)]
        table = _table(
            "#", *groups[0].key, numbers=("runs", *(VERDICT_HEADS.get(name, name) for name in shown), "guest", "p(fail)")
        )
        for number, group in enumerate(groups, 1):
            bound = "" if group.failure_bound is None else f"<{number_text(group.failure_bound)}"
            counts = [count_text(count) for count in (group.runs, *(group.verdicts[name] for name in shown))]
            table.add_row(*map(Text, (str(number), *map(_plain, group.key.values()), *counts, _time(group.guest_s), bound)))
        parts.append(_rendered(table, width, styled=styled))
    names = list(dict.fromkeys(name for group in groups for name in group.medians))
    at_once = max(1, (width - LABEL_WIDTH) // (COLUMN_WIDTH + 1))
    for begin in range(0, len(groups) if names else 0, at_once):
        some = groups[begin : begin + at_once]
        table = _table("median", numbers=[f"#{number}" for number in range(begin + 1, begin + 1 + len(some))])
        for name in names:
            table.add_row(Text(one_line(name)), *(Text(_cell(name, group.medians.get(name))) for group in some))
        parts.append(_rendered(table, width, styled=styled))
    return "\n\n".join([*parts, summary_line(verdicts)]) + "\n"


def comparison_text(done: Comparison, width: int, *, styled: bool = False) -> str:
    """What differs, a table a group, and how much does not.

    Args:
        done: the comparison.
        width: columns of the terminal.
        styled: with a terminal's escape sequences.
    """
    parts = [one_line(f"{done.now} ({done.now_runs:,} runs) against {done.base} ({done.base_runs:,} runs)")]
    by_group: dict[str, list[Change]] = {}
    for change in done.changes:
        by_group.setdefault(_label(change.group), []).append(change)
    for label, changes in by_group.items():
        table = _table("", "metric", numbers=("base", "now", "change", "95 % interval"))
        for change in sorted(changes, key=lambda change: not change.worse):
            table.add_row(*map(Text, ("worse" if change.worse else "better", one_line(change.metric), *_change_cells(change))))
        first = changes[0]
        parts.append(f"{label}: {first.now_runs:,} runs against {first.base_runs:,}\n{_rendered(table, width, styled=styled)}")
    parts.append("\n".join(map(one_line, _comparison_summary(done))))
    return "\n\n".join(parts) + "\n"


def _comparison_summary(done: Comparison) -> list[str]:
    if not done.groups:
        lonely = f"{_count(done.only_base, 'group')} only in the base, {done.only_now:,} only now"
        return [f"no group of {', '.join(done.keys)} has runs on both sides: {lonely} (--group matches by other columns)"]
    worse = sum(change.worse for change in done.changes)
    matched = f"groups of {', '.join(done.keys)}; {100 * done.confidence:.0f} % for all comparisons together"
    lines = [matched, f"{_count(worse, 'metric')} worse, {len(done.changes) - worse:,} better; {done.same:,} show no difference"]
    if done.out_of_reach:
        lines.append(
            f"of these, {done.out_of_reach:,} have too few runs to show even the clearest difference: more runs are needed"
        )
    if done.too_few:
        lines.append(f"{_count(done.too_few, 'metric')} not compared: a side has fewer than {done.runs_min} runs")
    if done.only_base or done.only_now:
        lines.append(f"{_count(done.only_base, 'group')} only in the base, {done.only_now:,} only now")
    return lines


def _change_cells(change: Change) -> tuple[str, str, str, str]:
    if change.metric in PROBABILITIES:
        values = [f"{value:.1%}" for value in (change.base, change.now)]
        shown = [f"{100 * (value or 0.0):+.1f}" for value in (change.change, change.low, change.high)]
        return values[0], values[1], f"{shown[0]} pp", f"{shown[1]} to {shown[2]} pp"
    base, now = _cell(change.metric, change.base), _cell(change.metric, change.now)
    if change.change is None or change.low is None or change.high is None:
        return base, now, "from none", ""
    return base, now, _percent(change.change), f"{_percent(change.low)} to {_percent(change.high)}"


def _percent(ratio: float) -> str:
    """A ratio as people say it."""
    return f"{100 * (ratio - 1):+.1f} %" if ratio < 10 else f"x{number_text(ratio)}"


def _label(key: Mapping[str, Any]) -> str:
    return one_line(" ".join(f"{name}={_plain(value)}" for name, value in key.items()))


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _cell(name: str, value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        if name.endswith("_ns"):
            return duration_text(value)
        if name.endswith("_per_s"):
            return number_text(value)
    return _plain(value)


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        exact = value == 0 or EXACT_FROM <= abs(value) < EXACT_BELOW
        return f"{value:.3f}".rstrip("0").rstrip(".") if exact else f"{value:.4g}"
    return one_line(str(value))


def _time(seconds: float) -> str:
    return duration_text(seconds * 1e9)


def _table(*texts: str, numbers: Sequence[str] = ()) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for head in texts:
        table.add_column(Text(one_line(head)), no_wrap=True, overflow="ellipsis")
    for head in numbers:
        table.add_column(Text(one_line(head)), justify="right", no_wrap=True)
    return table


def _rendered(table: Table, width: int, *, styled: bool) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=styled, highlight=False, legacy_windows=False).print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())
