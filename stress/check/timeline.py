# SPDX-License-Identifier: GPL-2.0-only
"""What happened around a finding: the two actors whose events collide, side by side in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stress.check.machine import FEED_COLUMNS
from stress.check.result import Event, event_of

if TYPE_CHECKING:
    from stress.check.result import Finding
    from stress.log.archive import Archive

__all__ = ["Timeline", "timeline_of"]

BEFORE_NS = 50_000
AFTER_NS = 10_000
EVENTS_MAX = 24  # of each actor before, and as many behind, the middle that is left out


@dataclass(frozen=True)
class Timeline:
    """Events of two actors in the order of time.

    Attributes:
        left: the actor at whose event the rule is broken.
        right: the actor that it collides with.
        events: theirs, in the order of time; None stands for events that are left out.
        here: index of the deciding event.
    """

    left: str
    right: str
    events: list[Event | None]
    here: int


def timeline_of(archive: Archive, finding: Finding) -> Timeline:
    """The timeline of one finding: what happened around each of its two events.

    Args:
        archive: the log.
        finding: one of its findings.
    """
    times = sorted({time_ns for time_ns in (finding.time_ns, finding.other_time_ns) if time_ns is not None})
    right = finding.other_actor if finding.other_actor not in {None, finding.actor} else _counterpart(archive, finding.actor)
    events: list[Event] = []
    for actor in dict.fromkeys([finding.actor, right]):
        if actor is not None:
            own = _around(archive, archive.actors.index(actor), times)
            events += _thinned(own, finding)
    events.sort(key=lambda event: (event.time_ns, archive.actors.index(event.actor), event.seq))
    shown: list[Event | None] = []
    last: dict[str, int] = {}
    for event in events:
        if event.actor in last and last[event.actor] + 1 != event.seq:
            shown.append(None)
        last[event.actor] = event.seq
        shown.append(event)
    here = next(
        (n for n, event in enumerate(shown) if event is not None and (event.actor, event.seq) == (finding.actor, finding.seq)), 0
    )
    return Timeline(finding.actor, right or "", shown, here)


def _counterpart(archive: Archive, actor: str) -> str | None:
    """Whoever is likeliest to be concerned: the controller, or for the controller the first vCPU."""
    others = [name for name in archive.actors if name != actor]
    return "ctl" if "ctl" in others else next(iter(others), None)


def _around(archive: Archive, actor: int, times_ns: list[int]) -> list[Event]:
    """An actor's events a little before and a little behind each of these times, which rise."""
    events: list[Event] = []
    next_seq = 0
    for time_ns in times_ns:
        for batch in archive.batches(actor, FEED_COLUMNS, time_ns - BEFORE_NS, next_seq):
            times = batch.columns["time_ns"]
            first, end = map(int, np.searchsorted(times, [time_ns - BEFORE_NS, time_ns + AFTER_NS + 1]))
            events += [event_of(archive, batch, row) for row in range(first, end)]
            next_seq = batch.first_seq + end
            if end < len(times):
                break
    return events


def _thinned(events: list[Event], finding: Finding) -> list[Event]:
    """The events next to the finding's two, if there are too many."""
    if len(events) <= 2 * EVENTS_MAX:
        return events
    marks = {finding.time_ns, finding.other_time_ns}
    keep: set[int] = set()
    for mark in marks - {None}:
        nearest = min(range(len(events)), key=lambda n: abs(events[n].time_ns - (mark or 0)))
        keep |= set(range(max(0, nearest - EVENTS_MAX), min(len(events), nearest + EVENTS_MAX // 2)))
    return [events[n] for n in sorted(keep)]
