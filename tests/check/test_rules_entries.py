# SPDX-License-Identifier: GPL-2.0-only
"""Planted violations of the rules in stress/check/entries.py: guest entries, requests, acknowledgements; and silence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stress.check.rules import (
    ENTRY_ON_FREED_ROOT,
    ENTRY_ON_OBSOLETE_ROOT,
    ENTRY_WITH_REQUEST,
    ENTRY_WITHOUT_FLUSH,
    ENTRY_WITHOUT_REQUESTED_FLUSH,
    GUEST_ACROSS_REQUEST,
    NO_EVENTS,
    RETURNED_WITHOUT_ACK,
)
from stress.log.schema import Kind

from . import sample as sm

if TYPE_CHECKING:
    from collections.abc import Iterator

PLANTS = sm.Plants()

ON_LOAD, ON_REQUEST = 0, 1
NS_PER_S = 10**9


def _visit(log: sm.Log, actor: str, checked_ns: int, root: int) -> None:
    """Send a vCPU into the guest, whose last look at requests and root is at that time, and back to where it was."""
    last = log.before(checked_ns, Kind.SRCU_LOCK, Kind.SRCU_UNLOCK, actor=actor)
    was = log.before(checked_ns, Kind.KVM_ENTRY, Kind.KVM_EXIT, actor=actor)
    inside = last is not None and last.kind == Kind.SRCU_LOCK
    in_guest = was is not None and was.kind == Kind.KVM_ENTRY
    if in_guest:
        log.add(checked_ns - 3, actor, Kind.KVM_EXIT, root=was.root, arg0=0)
    if not inside:
        log.add(checked_ns - 2, actor, Kind.SRCU_LOCK)
    log.add(checked_ns, actor, Kind.SRCU_UNLOCK)
    log.add(checked_ns + 1, actor, Kind.KVM_ENTRY, root=root, arg0=999)
    if not in_guest:
        log.add(checked_ns + 2, actor, Kind.KVM_EXIT, root=root, arg0=0)
    if inside:
        log.add(checked_ns + 3, actor, Kind.SRCU_LOCK)


def _loaded(log: sm.Log, actor: str, mark: sm.Event | int) -> sm.Event | None:
    """The last root load of a vCPU before an event or time."""
    return log.before(mark, Kind.ROOT_ALLOC, Kind.ROOT_GET, actor=actor)


def _has_root(log: sm.Log, actor: str, root: int, mark: sm.Event) -> bool:
    """Does a vCPU hold this root at that time?"""
    loaded = _loaded(log, actor, mark)
    dropped = log.after(loaded, Kind.ROOT_PUT, actor=actor, root=root) if loaded else None
    return bool(dropped) and loaded.root == root and dropped.time_ns > mark.time_ns


# --- the root


@PLANTS.breaks(ENTRY_ON_FREED_ROOT, also={ENTRY_ON_OBSOLETE_ROOT}, clock=True)
def entry_on_freed_root(log, pick, by_ns):
    """A vCPU that has dropped its root enters the guest on it all the same, after the last reference is gone."""

    def without_root():
        for put in log.of(Kind.ROOT_PUT, arg0=0):
            for actor in log.vcpus:
                dropped = log.before(put.time_ns + 1, Kind.ROOT_PUT, actor=actor, root=put.root)
                asked = _pending(log, actor, put)
                if dropped and not asked and (_loaded(log, actor, put) or put).time_ns < dropped.time_ns:
                    yield put, actor

    put, actor = pick(without_root())
    _visit(log, actor, put.time_ns + by_ns, put.root)


def _pending(log: sm.Log, actor: str, mark: sm.Event) -> bool:
    """Has a vCPU a request that it has not taken, nor obeyed?"""
    number = int(actor.removeprefix("vcpu"))
    for request in (sm.FREE_OBSOLETE_ROOTS, sm.TLB_FLUSH):
        asked = log.before(mark, Kind.REQUEST_SET, arg0=request, arg1=number)
        taken = log.after(asked, Kind.REQUEST_CLEAR, actor=actor, arg0=request) if asked else None
        if asked and (taken is None or taken.time_ns > mark.time_ns):
            return True
    return False


@PLANTS.breaks(ENTRY_ON_OBSOLETE_ROOT, also={ENTRY_WITH_REQUEST}, clock=True)
def entry_on_obsolete_root(log, pick, by_ns):
    """A vCPU enters the guest on a root although the front half that invalidated it has asked everybody to drop it."""

    def holding():
        for begin in log.of(Kind.ZAP_FRONT_BEGIN):
            end = log.after(begin, Kind.ZAP_FRONT_END)
            for mark in log.between(begin, end, Kind.ROOT_INVALIDATE):
                yield from ((actor, mark.root, end) for actor in log.vcpus if _has_root(log, actor, mark.root, end))

    actor, root, end = pick(holding())
    _visit(log, actor, end.time_ns + by_ns, root)


@PLANTS.breaks(ENTRY_WITHOUT_FLUSH)
def entry_without_flush(log, pick, by_ns):
    """A vCPU loads a root and enters the guest without a flush."""

    def before_entry():
        for flush in log.of(Kind.TLB_FLUSH, arg1=ON_LOAD):
            put = log.after(flush, Kind.ROOT_PUT, actor=flush.actor)
            entry = log.after(flush, Kind.KVM_ENTRY, actor=flush.actor)
            if entry and entry.time_ns < put.time_ns:
                yield flush

    log.drop(pick(before_entry()))


# --- requests


@PLANTS.breaks(ENTRY_WITHOUT_REQUESTED_FLUSH)
def request_not_obeyed(log, pick, by_ns):
    """A vCPU takes the request to flush, and does not."""

    def before_entry():
        for flush in log.of(Kind.TLB_FLUSH, arg1=ON_REQUEST):
            entry = log.after(flush, Kind.KVM_ENTRY, actor=flush.actor)
            again = log.after(flush, Kind.TLB_FLUSH, actor=flush.actor, arg1=ON_REQUEST)
            if entry and (again is None or entry.time_ns < again.time_ns):
                yield flush

    log.drop(pick(before_entry()))


def _asked(log: sm.Log) -> Iterator[tuple[sm.Event, str, sm.Event]]:
    """Every request, the vCPU, and where it takes it; only if the one before was taken before this sender's last event."""
    for asked in log.of(Kind.REQUEST_SET):
        actor = f"vcpu{asked.arg1}"
        taken = log.after(asked, Kind.REQUEST_CLEAR, actor=actor, arg0=asked.arg0)
        previous = log.before(asked, *Kind, actor=asked.actor)
        late = log.before(asked, Kind.REQUEST_CLEAR, actor=actor, arg0=asked.arg0)
        if taken and (late is None or late.time_ns < previous.time_ns):
            yield asked, actor, taken


@PLANTS.breaks(ENTRY_WITH_REQUEST)
def request_not_seen(log, pick, by_ns):
    """A vCPU enters the guest and takes a request only afterwards."""

    def before_entry():
        for asked, actor, taken in _asked(log):
            entry = log.after(taken, Kind.KVM_ENTRY, actor=actor)
            unlock = log.before(entry, Kind.SRCU_UNLOCK, actor=actor) if entry else None
            if unlock and unlock.time_ns > taken.time_ns and not log.between(taken, entry, Kind.REQUEST_SET, arg1=asked.arg1):
                yield taken, entry

    taken, entry = pick(before_entry())
    log.drop(*[e for e in [log.after(taken, Kind.TLB_FLUSH, actor=taken.actor, arg1=ON_REQUEST)] if e and taken.arg0 == 1])
    taken.time_ns = entry.time_ns + 1
    if taken.arg0 == sm.TLB_FLUSH:
        log.add(entry.time_ns + 2, taken.actor, Kind.TLB_FLUSH, arg0=0, arg1=ON_REQUEST)


@PLANTS.breaks(ENTRY_WITH_REQUEST, clock=True)
def entry_after_request(log, pick, by_ns):
    """A vCPU's last look before it enters the guest comes after a request was set, and misses it."""
    asked, actor, _ = pick(found for found in _asked(log) if _loaded(log, found[1], found[0]))
    _visit(log, actor, asked.time_ns + by_ns, _loaded(log, actor, asked).root)


# --- acknowledgements


def _acknowledged(log: sm.Log) -> Iterator[tuple[sm.Event, sm.Event, sm.Event, sm.Event]]:
    """First request, kick, acknowledgement and return of every broadcast that kicked somebody, for each who was."""
    for kick in log.of(Kind.IPI_SEND):
        done = log.after(kick, Kind.REQUEST_DONE, actor=kick.actor)
        previous = log.before(kick, Kind.REQUEST_DONE, actor=kick.actor)
        first = log.after(previous or 0, Kind.REQUEST_SET, actor=kick.actor)
        acks = [ack for ack in log.of(Kind.IPI_ACK, actor=f"vcpu{kick.arg1}") if first.time_ns < ack.time_ns < done.time_ns]
        yield first, kick, acks[-1], done


@PLANTS.breaks(RETURNED_WITHOUT_ACK, clock=True)
def acknowledged_too_late(log, pick, by_ns):
    """A broadcast returns before a vCPU that it kicked has acknowledged."""
    _, _, ack, done = pick(_acknowledged(log))
    ack.time_ns = done.time_ns + by_ns


@PLANTS.breaks(RETURNED_WITHOUT_ACK)
def never_acknowledged(log, pick, by_ns):
    """It never does."""
    _, _, ack, _ = pick(_acknowledged(log))
    log.drop(ack)


@PLANTS.breaks(GUEST_ACROSS_REQUEST, clock=True)
def stays_in_guest(log, pick, by_ns):
    """A vCPU acknowledges, and stays in the guest until after the broadcast has returned."""

    def inside():
        for first, _, ack, done in _acknowledged(log):
            left = log.before(ack, Kind.KVM_EXIT, actor=ack.actor)
            entered = log.before(left, Kind.KVM_ENTRY, actor=ack.actor) if left else None
            cancelled = 3
            if entered and entered.time_ns < first.time_ns < left.time_ns and left.arg0 != cancelled:
                yield left, done

    left, done = pick(inside())
    left.time_ns = done.time_ns + by_ns


# --- silence


@PLANTS.breaks(NO_EVENTS)
def silence(log, pick, by_ns):
    """From some time on nobody logs anything any more, and run.hang_s later the run is ended without its VM."""
    after_ns = pick(range(log.end_ns // 4, log.end_ns // 2))
    log.drop(*[event for event in log.events if event.time_ns > after_ns])
    return {"control": [(after_ns + 31 * NS_PER_S, "heartbeat", {})]}


# --- all of them


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("plant", PLANTS, ids=str)
def test_a_planted_violation_is_found(plant, seed, tmp_path):
    """Each way of breaking one of these rules is found as what it is, whichever events of whichever sample it is done to."""
    sm.assert_found(plant, seed, tmp_path / "run")


@pytest.mark.parametrize("by_ns", [1, 400, sm.WINDOW_NS])
@pytest.mark.parametrize("plant", [plant for plant in PLANTS if plant.clock], ids=str)
def test_an_order_within_the_window_is_ambiguous(plant, by_ns, tmp_path):
    """Two events of two actors that are no further apart than the window prove nothing."""
    sm.assert_ambiguous(plant, by_ns, tmp_path / "run")
