# SPDX-License-Identifier: GPL-2.0-only
"""One view of a run: the events of all actors and of the control log in one time order, filtered.

    for event in View(Archive.open(path), Selection(gfn=0x1F2)).events():
        print(event["time_ns"], event["actor"], event["kind"])

Order: by time; at equal times the actors in the manifest's order, then the control log; within one actor always by seq.

Events travel as pages: columns for the actors' events, dicts for the few control events between them. Filters work on
columns before anything is merged, so that an event that is not shown costs nanoseconds. `stress/log/lines.py` turns
pages into text; `events` turns them into dicts, which is the slow and plain form of the same.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stress.log.frame import FrameFilter
from stress.log.merge import Merged, merge
from stress.log.naming import WORD_COLUMNS, event_fields, kind_label, kind_number, named_value
from stress.log.parquet import EVENT_COLUMNS, Batch
from stress.log.schema import NULL, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from stress.log.archive import Archive

__all__ = ["CONTROL", "Page", "Selection", "View", "control_event", "event_dicts"]

CONTROL = "control"  # the control log's name among the actors

CONTROL_EVENTS_MAX = 1024  # of one page, which bounds its memory
_COLUMNS = ("seq", *EVENT_COLUMNS)
_TAKEN = frozenset({"time_ns", "actor", "seq", "kind", "here"})
_KIND_NUMBERS = 1 << 16


@dataclass(frozen=True)
class Selection:
    """Which events to show; None selects all.

    Attributes:
        gfn: events about this guest frame, see `stress/log/frame.py`; of control events those whose `gfn` it is.
        actors: names of actors, and `control`.
        kinds: names of kinds and of control events.
        since_ns: nothing before, nanoseconds since the start of the run.
        until_ns: nothing after.
        here: actor and time of the events to mark.
    """

    gfn: int | None = None
    actors: frozenset[str] | None = None
    kinds: frozenset[str] | None = None
    since_ns: int | None = None
    until_ns: int | None = None
    here: tuple[str, int] | None = None

    def has_actor(self, name: str) -> bool:
        """Whether the actor's events are wanted at all."""
        return self.actors is None or name in self.actors

    def has_control_event(self, event: dict[str, Any]) -> bool:
        """Whether a control event, as `control_event` gives it, is wanted."""
        return (
            self.has_actor(CONTROL)
            and (self.kinds is None or event["kind"] in self.kinds)
            and (self.gfn is None or event.get("gfn") == self.gfn)
            and (self.since_ns is None or event["time_ns"] >= self.since_ns)
            and (self.until_ns is None or event["time_ns"] <= self.until_ns)
        )


@dataclass(frozen=True)
class Page:
    """A stretch of the view.

    Attributes:
        actor: index of each event's actor.
        columns: `seq` and the columns of the event log, one value for each event.
        control: control events, each with the number of the page's events that stand before it.
        here: rows of the events to mark.
    """

    actor: npt.NDArray[np.int16]
    columns: dict[str, npt.NDArray[Any]]
    control: list[tuple[int, dict[str, Any]]]
    here: list[int]

    @property
    def rows(self) -> int:
        """Events, those of the control log not counted."""
        return len(self.actor)


class View:
    """The selected events of a run, in pages."""

    def __init__(self, archive: Archive, selection: Selection) -> None:
        """Nothing is read yet."""
        self._archive = archive
        self._selection = selection
        self._wanted = _wanted_kinds(selection.kinds)
        names = archive.actors
        self._here = (names.index(selection.here[0]), selection.here[1]) if selection.here and selection.here[0] in names else None
        self._lanes = {
            actor: _Lane(FrameFilter(selection.gfn, archive.config) if selection.gfn is not None else None)
            for actor, name in enumerate(names)
            if selection.has_actor(name)
        }

    def events(self) -> Iterator[dict[str, Any]]:
        """Every selected event as a dict: time_ns, actor, seq, kind, and the fields by their names."""
        for page in self.pages():
            yield from event_dicts(page, self._archive.actors)

    def pages(self, control: Iterable[dict[str, Any]] | None = None, until_ns: int | None = None) -> Iterator[Page]:
        """What is selected and was not given before.

        Args:
            control: control events as they are in the file; the archive's if None.
            until_ns: actors' events after it are left for the next call. Those of `control` are not, and must not be
                later than that.
        """
        if control is None:
            control = self._archive.control_events() if self._selection.has_actor(CONTROL) else ()
        selected = (event for event in map(control_event, control) if self._selection.has_control_event(event))
        merged = merge({actor: self._batches(actor, until_ns) for actor in self._lanes}, _COLUMNS)
        for page in _with_control(merged, _never_falling(selected)):
            yield replace(page, here=_rows_at(page, *self._here)) if self._here else page

    def _batches(self, actor: int, until_ns: int | None) -> Iterator[Batch]:
        """One actor's selected events, with their seqs as a column, since they are no longer contiguous."""
        lane, since_ns = self._lanes[actor], self._selection.since_ns
        ends = [end for end in (until_ns, self._selection.until_ns) if end is not None]
        for batch in self._archive.batches(actor, EVENT_COLUMNS, since_ns, lane.next_seq):
            times = batch.columns["time_ns"]
            rows = len(times)
            stop = int(np.searchsorted(times, min(ends), side="right")) if ends else rows
            lane.next_seq = batch.first_seq + stop
            columns = self._selected({name: column[:stop] for name, column in batch.columns.items()}, lane, batch.first_seq)
            if len(columns["seq"]):
                yield batch._replace(columns=columns)
            if stop < rows:
                return

    def _selected(self, columns: dict[str, npt.NDArray[Any]], lane: _Lane, first_seq: int) -> dict[str, npt.NDArray[Any]]:
        columns["seq"] = np.arange(first_seq, first_seq + len(columns["kind"]))
        wanted: npt.NDArray[np.bool_] | None = None
        if self._wanted is not None:
            wanted = self._wanted[columns["kind"].view(np.uint16)]
        if lane.frame is not None:
            about = lane.frame.about(columns)
            wanted = about if wanted is None else wanted & about
        since_ns = self._selection.since_ns
        start = 0 if since_ns is None else int(np.searchsorted(columns["time_ns"], since_ns))
        if wanted is None:
            return {name: column[start:] for name, column in columns.items()}
        rows = start + np.flatnonzero(wanted[start:])
        return {name: column[rows] for name, column in columns.items()}


@dataclass
class _Lane:
    """What is known of one actor between calls."""

    frame: FrameFilter | None
    next_seq: int = 0


def control_event(event: dict[str, Any]) -> dict[str, Any]:
    """A line of the control log in the shape of the other events.

    `t_ns` is called `time_ns` and `event` is called `kind`. A field of the line whose name is taken by the view is called
    `about_<name>`: `about_actor` is the actor that the line is about.
    """
    fields = {f"about_{name}" if name in _TAKEN else name: value for name, value in event.items()}
    return {"time_ns": fields.pop("t_ns", None), "actor": CONTROL, "kind": fields.pop("event", None), **fields}


def event_dicts(page: Page, actors: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The events of a page as dicts.

    Args:
        page: the page.
        actors: the actors' names.
    """
    control = iter([*page.control, (page.rows + 1, {})])
    at, event = next(control)
    words = [page.columns[name].tolist() for name in ("time_ns", "seq", "kind", *WORD_COLUMNS)]
    for row, (actor, time_ns, seq, kind, *rest) in enumerate(zip(page.actor.tolist(), *words, strict=True)):
        while at == row:
            yield event
            at, event = next(control)
        fields = {
            field.name: named_value(field, word) for field, word in zip(event_fields(kind), rest, strict=True) if word != NULL
        }
        mark = {"here": True} if row in page.here else {}
        yield {"time_ns": time_ns, "actor": actors[actor], "seq": seq, "kind": kind_label(kind), **fields, **mark}
    while at == page.rows:
        yield event
        at, event = next(control)


def _rows_at(page: Page, actor: int, time_ns: int) -> list[int]:
    first, last = np.searchsorted(page.columns["time_ns"], [time_ns, time_ns + 1]).tolist()
    rows = [row for row in range(first, last) if page.actor[row] == actor]
    # What was done in the same nanosecond is not meant, if there is an event of the finding itself.
    return [row for row in rows if page.columns["kind"][row] == Kind.FINDING] or rows


def _wanted_kinds(labels: frozenset[str] | None) -> npt.NDArray[np.bool_] | None:
    if labels is None:
        return None
    wanted = np.zeros(_KIND_NUMBERS, np.bool_)
    for label in labels:
        number = kind_number(label)
        if number is not None:
            wanted[number % _KIND_NUMBERS] = True
    return wanted


def _never_falling(events: Iterable[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    latest_ns = 0
    for event in events:
        latest_ns = max(latest_ns, event["time_ns"])
        yield latest_ns, event


def _with_control(pages: Iterable[Merged], control: Iterator[tuple[int, dict[str, Any]]]) -> Iterator[Page]:
    """Put each control event behind all events that are not later."""
    ahead = next(control, None)
    for page in pages:
        times = page.columns["time_ns"]
        last_ns, start, placed = int(times[-1]), 0, []
        while ahead is not None and ahead[0] < last_ns:  # at the page's last time: the next page may have more of it
            at = int(np.searchsorted(times, ahead[0], side="right"))
            placed.append((at - start, ahead[1]))
            ahead = next(control, None)
            if len(placed) == CONTROL_EVENTS_MAX:
                yield _page(page, start, at, placed)
                start, placed = at, []
        yield _page(page, start, len(times), placed)
    rest = itertools.chain(() if ahead is None else (ahead,), control)
    while placed := [(0, event) for _, event in itertools.islice(rest, CONTROL_EVENTS_MAX)]:
        yield _page(None, 0, 0, placed)


def _page(merged: Merged | None, start: int, stop: int, control: list[tuple[int, dict[str, Any]]]) -> Page:
    if merged is None:
        merged = Merged(np.empty(0, np.int16), np.empty(0, np.int64), {name: np.empty(0, np.int64) for name in _COLUMNS})
    return Page(merged.actor[start:stop], {name: column[start:stop] for name, column in merged.columns.items()}, control, [])
