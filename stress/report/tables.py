# SPDX-License-Identifier: GPL-2.0-only
"""Statistics as tables of text: three digits and a unit, made for 80 columns, fewer columns where there is less room."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stress.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from stress.check.stats import ActorRates, Duration, Rate, Stats

__all__ = ["count_text", "duration_text", "number_text", "stats_text"]

WIDTH_MIN = 40
PROBLEMS_SHOWN = 2
ACTORS_SHOWN = 8  # of one role, all of them; of more, the least, the middle and the most busy one
ROWS_OF_GUESTS = 8
EXACT_BELOW = 100_000

NS_UNITS = ((1.0, "ns"), (1e3, "us"), (1e6, "ms"), (1e9, "s"), (3.6e12, "h"))
COUNT_UNITS = ((1.0, ""), (1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T"))

# The tables of durations, in the order in which they are shown.
TITLES = {
    "guest": "vCPUs",
    "faults": "page faults",
    "overlaps": "page faults that overlapped",
    "slots": "slot operations",
    "zaps": "zaps and grace periods",
    "requests": "requests, until all vCPUs acknowledged",
    "holds": "lock holds",
    "waits": "lock waits",
}
# Whoever holds a lock matters; elsewhere the role stands only where there are two.
WITH_ROLE = ("holds", "waits")

COLUMNS: dict[str, Callable[[Duration], str]] = {
    "count": lambda duration: count_text(duration.count),
    "min": lambda duration: duration_text(duration.min_ns),
    "median": lambda duration: duration_text(duration.median_ns),
    "p90": lambda duration: duration_text(duration.p90_ns),
    "p99": lambda duration: duration_text(duration.p99_ns),
    "p99.9": lambda duration: duration_text(duration.p999_ns),
    "max": lambda duration: duration_text(duration.max_ns),
    "total": lambda duration: duration_text(duration.total_ns),
}
CELL_WIDTH = 6
# Where there is too little room, these go, one after the other.
LEAST_MISSED = ("min", "p90", "p99.9", "total")

SAMPLED = ("guest_access", "tlb_fill")


def duration_text(ns: float) -> str:
    """A duration in three digits: `999ns`, `1.23ms`, `168h`."""
    return _three_digits(float(f"{ns:.2e}"), NS_UNITS)


def count_text(count: int) -> str:
    """A count, exact as long as it is short: `84673`, `2.70M`."""
    return str(count) if count < EXACT_BELOW else _three_digits(float(f"{count:.2e}"), COUNT_UNITS)


def stats_text(stats: Stats, width: int, *, styled: bool = False) -> str:
    """All tables as one text.

    Args:
        stats: what to show.
        width: columns of the terminal.
        styled: with a terminal's escape sequences.
    """
    stream = io.StringIO()
    console = Console(file=stream, width=max(width, WIDTH_MIN), force_terminal=styled, highlight=False, legacy_windows=False)
    if stats.problems or not stats.complete:
        console.print(Text(_missing(stats)), soft_wrap=True)
    console.print(Text(_headline(stats)), soft_wrap=True)
    tables = [_totals(stats), _actors(stats), *_durations(stats, console.width), _overlaps(stats), _kinds(stats), _unpaired(stats)]
    for table in tables:
        if table.row_count:
            # The title for itself: a table's own would wrap at the table's width.
            title, table.title = table.title, None
            console.print(f"\n{title}", style="bold", markup=False, soft_wrap=True)
            console.print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def _missing(stats: Stats) -> str:
    problems = "; ".join(str(problem) for problem in stats.problems[:PROBLEMS_SHOWN])
    more = len(stats.problems) - PROBLEMS_SHOWN
    text = f"{'incomplete' if not stats.complete else 'note'}: {problems or 'events are missing'}"
    return one_line(f"{text}; and {more} more (--json has all)" if more > 0 else text)


def _headline(stats: Stats) -> str:
    actors = f"{len(stats.actors)} actors" if len(stats.actors) != 1 else "1 actor"
    events = f"{count_text(stats.totals.events.count)} events"
    return one_line(f"{stats.run}: policy {stats.policy}, {actors}, {events} in {duration_text(stats.span_ns)}")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(columns[0], no_wrap=True, overflow="ellipsis")
    for column in columns[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _totals(stats: Stats) -> Table:
    totals = stats.totals
    table = _table("run", "what", "count", "per s")
    _add_rate(table, _sampled(stats, "guest_access", "guest accesses"), totals.guest_accesses)
    _add_rate(table, "page faults", totals.page_faults)
    for name, rate in totals.results.items():
        _add_rate(table, f"  {name}", rate)
    for name, rate in totals.operations.items():
        _add_rate(table, f"{name}s", rate)
    if totals.tlb_hit_ratio is not None:
        table.add_row(_sampled(stats, "guest_access", "TLB hits"), f"{totals.tlb_hit_ratio:.1%}", "")
    return table


def _actors(stats: Stats) -> Table:
    accesses = "sampled accesses/s" if stats.policy == "sampled" else "accesses/s"
    table = _table("actors", "actor", "events", "per s", accesses, "faults/s", "in guest", "span")
    for actor in _shown(stats.actors):
        span_ns = 0 if actor.first_ns is None or actor.last_ns is None else actor.last_ns - actor.first_ns
        table.add_row(
            one_line(actor.actor),
            count_text(actor.events.count),
            _per_s(actor.events),
            *(_per_s(actor.kinds.get(kind)) for kind in ("guest_access", "kvm_page_fault")),
            "" if actor.in_guest is None else f"{actor.in_guest:.1%}",
            duration_text(span_ns),
        )
    return table


def _shown(actors: Sequence[ActorRates]) -> Iterable[ActorRates]:
    for role in dict.fromkeys(actor.role for actor in actors):
        own = [actor for actor in actors if actor.role == role]
        if len(own) > ACTORS_SHOWN:
            own.sort(key=lambda actor: actor.events.count)
            own = [own[0], own[len(own) // 2], own[-1]]
        yield from own


def _kinds(stats: Stats) -> Table:
    roles = list(dict.fromkeys(actor.role for actor in stats.actors))
    counts: dict[str, dict[str, int]] = {}
    per_s: dict[str, float] = {}
    for actor in stats.actors:
        kinds = {kind: (rate.count, rate.per_s or 0.0) for kind, rate in actor.kinds.items()}
        if actor.unknown_kinds:
            kinds["unknown kinds"] = (actor.unknown_kinds, 0.0)
        for kind, (count, rate_per_s) in kinds.items():
            row = counts.setdefault(kind, dict.fromkeys(roles, 0))
            row[actor.role] += count
            per_s[kind] = per_s.get(kind, 0.0) + rate_per_s
    table = _table("events", "kind", "per s", *map(one_line, roles))
    for kind, row in sorted(counts.items(), key=lambda item: -sum(item[1].values())):
        name = _sampled(stats, kind, kind)
        table.add_row(name, number_text(per_s[kind]), *(count_text(count) if count else "" for count in row.values()))
    return table


def _durations(stats: Stats, width: int) -> Iterable[Table]:
    rows: dict[str, list[tuple[str, Duration]]] = {name: [] for name in TITLES}
    for duration in stats.durations:
        own = rows[duration.table]
        twice = sum(other.table == duration.table and other.name == duration.name for other in stats.durations) > 1
        label = f"{duration.name} {one_line(duration.role)}" if duration.table in WITH_ROLE or twice else duration.name
        own.append((label, duration))
    # All tables alike, so that a column is one column down the page.
    label_width = max((len(label) for table in rows.values() for label, _ in table), default=0)
    columns = list(COLUMNS)
    for least_missed in LEAST_MISSED:
        if label_width + len(columns) * (CELL_WIDTH + 1) <= width:
            break
        columns.remove(least_missed)
    for name, title in TITLES.items():
        table = _table(title, "what", *columns)
        table.columns[0].min_width = label_width
        for cells in table.columns[1:]:
            cells.min_width = CELL_WIDTH
        for label, duration in rows[name]:
            table.add_row(label, *(COLUMNS[head](duration) for head in columns))
        yield table


def _overlaps(stats: Stats) -> Table:
    overlaps = stats.overlaps
    table = _table("while the controller zapped", "what", "count", "most in one")
    for guests, halves in _few(overlaps.in_guest):
        table.add_row(f"front halves begun with {guests} in the guest", count_text(halves), "")
    if overlaps.not_known:
        table.add_row("front halves begun with vCPUs not known", count_text(overlaps.not_known), "")
    table.add_row("page faults retried as stale", count_text(stats.totals.results["retry_stale"].count), "")
    for yields in overlaps.yields:
        table.add_row(f"yields of mmu_lock, {yields.half}", count_text(yields.count), count_text(yields.most))
    return table


def _few(in_guest: dict[int, int]) -> Iterable[tuple[str, int]]:
    """Front halves by the number of vCPUs, a range of numbers a row where there would be too many rows."""
    size = max(in_guest, default=0) // ROWS_OF_GUESTS + 1
    for low in range(0, max(in_guest, default=-1) + 1, size):
        halves = sum(in_guest.get(number, 0) for number in range(low, low + size))
        yield f"{low} to {low + size - 1} vCPUs" if size > 1 else f"{low} vCPU{'s' if low != 1 else ''}", halves


def _unpaired(stats: Stats) -> Table:
    table = _table("unpaired, not in the tables above", "what", "begins", "ends")
    for unpaired in stats.unpaired:
        table.add_row(f"{unpaired.name} {one_line(unpaired.role)}", count_text(unpaired.begins), count_text(unpaired.ends))
    unknown = sum(actor.unknown_codes for actor in stats.actors)
    if unknown:
        table.add_row("events with a code unknown to this version", count_text(unknown), "")
    return table


def _sampled(stats: Stats, kind: str, name: str) -> str:
    if stats.policy != "sampled" or kind not in SAMPLED:
        return name
    return f"{name}, sampled" if stats.sample is None else f"{name}, sampled 1 in {stats.sample}"


def _add_rate(table: Table, name: str, rate: Rate) -> None:
    if rate.count:
        table.add_row(name, count_text(rate.count), _per_s(rate))


def _per_s(rate: Rate | None) -> str:
    return "" if rate is None or rate.per_s is None else number_text(rate.per_s)


def number_text(value: float) -> str:
    """A number in three digits: `1.23`, `2.70M`."""
    return _three_digits(float(f"{value:.2e}"), COUNT_UNITS)


def _three_digits(value: float, units: Sequence[tuple[float, str]]) -> str:
    """A value that has three digits, in the largest unit that it reaches."""
    scale, unit = next((unit for unit in reversed(units) if value >= unit[0]), units[0])
    scaled = value / scale
    if scaled >= 1000 or (scale == 1 and scaled.is_integer()):
        return f"{scaled:.0f}{unit}"
    return f"{scaled:#.3g}".rstrip(".") + unit
