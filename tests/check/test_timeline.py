# SPDX-License-Identifier: GPL-2.0-only
"""Tests of stress/check/timeline.py: two actors around a finding, in the order of time, and no more than a page of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stress.check import check_run, timeline
from stress.check.timeline import AFTER_NS, BEFORE_NS, EVENTS_MAX, Timeline, timeline_of
from stress.log.archive import Archive
from stress.log.schema import Kind

from . import sample as sm
from .test_rules import PLANTS

if TYPE_CHECKING:
    from pathlib import Path


def first_timeline(path: Path) -> Timeline:
    return timeline_of(Archive.open(path), check_run(path).findings[0])


def late_use(path: Path, by_ns: int = 5000, extra: int = 0) -> tuple[Path, sm.Event, sm.Event]:
    """A log in which an access comes that long after the return of its DELETE, with more accesses in between."""
    log = sm.named()
    end, access = next(
        (end, touches[-1])
        for end in log.of(Kind.SLOT_OP_END, arg0=sm.DELETE)
        if (touches := log.of(Kind.GUEST_ACCESS, incarnation=end.incarnation))
    )
    access.time_ns = end.time_ns + by_ns
    for n in range(extra):
        log.add(end.time_ns + 1 + by_ns * n // extra, access.actor, Kind.CONTENTION_BEGIN, arg0=7, arg1=2)
        log.add(end.time_ns + 2 + by_ns * n // extra, "ctl", Kind.CONTENTION_BEGIN, arg0=7, arg1=2)
    return log.write(path), access, end


def test_both_events_stand_in_the_order_of_time(tmp_path):
    """The deciding event is marked, the other one is there, and nothing is out of order."""
    path, access, end = late_use(tmp_path / "run")
    line = first_timeline(path)
    assert (line.left, line.right) == (access.actor, "ctl")
    events = [event for event in line.events if event is not None]
    assert [event.time_ns for event in events] == sorted(event.time_ns for event in events)
    assert (line.events[line.here].actor, line.events[line.here].time_ns) == (access.actor, access.time_ns)
    assert (end.time_ns, "ctl") in {(event.time_ns, event.actor) for event in events}
    assert {event.actor for event in events} == {access.actor, "ctl"}


def test_only_what_is_near_is_shown(tmp_path):
    """From a little before to a little behind each of the two."""
    path, access, end = late_use(tmp_path / "run")
    times = [event.time_ns for event in first_timeline(path).events if event is not None]
    assert min(times) >= end.time_ns - BEFORE_NS
    assert max(times) <= access.time_ns + AFTER_NS


@pytest.mark.parametrize("by_ns", [5000, 50_000_000])
def test_what_is_left_out_is_marked(by_ns, tmp_path):
    """However many events lie between, or however close they stand, the timeline stays short and says where some are missing."""
    path, access, _ = late_use(tmp_path / "run", by_ns, extra=2000)
    finding = check_run(path).findings[0]
    line = timeline_of(Archive.open(path), finding)
    assert 2 < len(line.events) <= 2 * (2 * EVENTS_MAX + EVENTS_MAX) + 8
    assert None in line.events
    assert (line.events[line.here].actor, line.events[line.here].time_ns) == (access.actor, access.time_ns)
    assert (finding.other_actor, finding.other_seq) in {(event.actor, event.seq) for event in line.events if event}
    for one, other in zip(line.events, line.events[1:], strict=False):
        assert one is not None or other is not None


def test_what_lies_between_is_not_collected(tmp_path, monkeypatch):
    """The two events may be hours apart: only what stands near one of them becomes an event in memory."""
    path, _, _ = late_use(tmp_path / "run", 500_000_000, extra=20_000)
    made = []
    real = timeline.event_of
    monkeypatch.setattr(timeline, "event_of", lambda *arguments: made.append(1) or real(*arguments))
    finding = check_run(path).findings[0]
    timeline_of(Archive.open(path), finding)
    assert 0 < len(made) < 200


def test_a_finding_of_one_actor_is_set_against_the_controller(tmp_path):
    """Where the finding names no other actor, the one that is likeliest to be concerned stands beside it."""
    log = sm.named()
    access = sm.make_stale(log)
    line = first_timeline(log.write(tmp_path / "run"))
    assert (line.left, line.right) == (access.actor, "ctl")


def test_a_finding_of_the_controller_is_set_against_a_vcpu(tmp_path):
    """The other way round."""
    log = sm.named()
    log.of(Kind.WRITEBACK)[0].arg1 |= 1
    line = first_timeline(log.write(tmp_path / "run"))
    assert (line.left, line.right) == ("ctl", "vcpu0")


def test_a_run_of_one_actor_has_one_column(tmp_path):
    """There is nobody to set it against."""
    log = sm.named()
    # The first one: later this actor gets pages of which only another one's log says that they were freed.
    access = log.of(Kind.GUEST_ACCESS)[0]
    access.arg1 |= sm.RETIRED
    records = {access.actor: log.records()[access.actor]}
    line = first_timeline(log.write(tmp_path / "run", events=records))
    assert (line.left, line.right) == (access.actor, "")
    assert line.events[line.here].seq == log.own(access.actor).index(access)


@pytest.mark.parametrize("number", range(len(PLANTS)))
def test_every_finding_has_a_timeline(number, tmp_path):
    """With the deciding event in it, whatever the rule."""
    path = tmp_path / "run"
    for finding in sm.planted(PLANTS[number], 1, 5000, path).findings[:5]:
        line = timeline_of(Archive.open(path), finding)
        assert (line.events[line.here].actor, line.events[line.here].seq) == (finding.actor, finding.seq)
        if finding.other_time_ns is not None:
            shown = {(event.actor, event.seq) for event in line.events if event is not None}
            assert (finding.other_actor, finding.other_seq) in shown
