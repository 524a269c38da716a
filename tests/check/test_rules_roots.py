# SPDX-License-Identifier: GPL-2.0-only
"""Planted violations of the rules in stress/check/roots.py: references, the zap of invalid roots, the last put."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stress.check.rules import (
    FREED_WHILE_LINKED,
    LAST_PUT_BEFORE_ZAP,
    LAST_PUT_ON_VALID_ROOT,
    PAGES_LEFT,
    REFCOUNT_AT_ALLOC,
    REFCOUNT_BELOW_ZERO,
    REFCOUNT_SUM,
    REFERENCES_LEFT,
    ROOT_NOT_EMPTY,
    ROOT_STILL_SCHEDULED,
    ROOT_TAKEN_AFTER_LAST_PUT,
    ROOTS_LEFT,
    SPTES_LEFT,
)
from stress.log.schema import Kind

from . import sample as sm

if TYPE_CHECKING:
    from collections.abc import Iterator

PLANTS = sm.Plants()


@PLANTS.breaks(REFCOUNT_AT_ALLOC, also={REFCOUNT_SUM, REFERENCES_LEFT})
def wrong_references_at_alloc(log, pick, by_ns):
    """A new root has one reference, or three."""
    pick(log.of(Kind.ROOT_ALLOC)).arg0 = pick([1, 3])


@PLANTS.breaks(REFCOUNT_BELOW_ZERO)
def one_put_too_many(log, pick, by_ns):
    """The atomic decrement came out below zero."""
    pick(put for put in log.of(Kind.ROOT_PUT) if put.arg0 > 0).arg0 = -1


@PLANTS.breaks(REFCOUNT_SUM)
def reference_of_nobody(log, pick, by_ns):
    """A vCPU takes a second reference of its root, and no put gives it back."""
    taken = pick(
        taken
        for actor in log.vcpus
        for taken in log.of(Kind.ROOT_ALLOC, Kind.ROOT_GET, actor=actor)
        if (invalid := log.after(taken, Kind.ROOT_INVALIDATE, root=taken.root))
        and not log.between(taken, invalid, Kind.TLB_FLUSH, actor=actor, root=taken.root)[1:]
    )
    log.add(taken.time_ns + 1, taken.actor, Kind.ROOT_GET, root=taken.root, arg0=3)


def _puts_of_invalid_roots(log: sm.Log, *, reused: bool) -> Iterator[sm.Event]:
    """Puts by vCPUs, not the last one, of roots whose page is or is not a root again later."""
    for put in log.of(Kind.ROOT_PUT):
        last = log.before(put, Kind.ROOT_ALLOC, Kind.ROOT_INVALIDATE, root=put.root)
        again = log.after(put, Kind.ROOT_ALLOC, root=put.root) is not None
        if put.actor in log.vcpus and put.arg0 > 0 and last.kind == Kind.ROOT_INVALIDATE and again == reused:
            yield put


@PLANTS.breaks(REFERENCES_LEFT)
def reference_kept(log, pick, by_ns):
    """A vCPU never drops the reference of its invalid root."""
    log.drop(pick(_puts_of_invalid_roots(log, reused=False)))


@PLANTS.breaks(REFCOUNT_SUM)
def reference_kept_in_life_before(log, pick, by_ns):
    """The same, and the root's page becomes a root again: then the sum is compared once more."""
    log.drop(pick(_puts_of_invalid_roots(log, reused=True)))


@PLANTS.breaks(ROOT_TAKEN_AFTER_LAST_PUT, also={REFERENCES_LEFT}, clock=True)
def taken_after_last_put(log, pick, by_ns):
    """An iterator gets hold of a root that is on its way out."""
    put = pick(put for put in log.of(Kind.ROOT_PUT, arg0=0) if put.actor != "ctl")
    log.add(put.time_ns + by_ns, "ctl", Kind.ROOT_GET, root=put.root, arg0=1)


@PLANTS.breaks(ROOTS_LEFT, also={PAGES_LEFT})
def root_never_freed(log, pick, by_ns):
    """The page of a root is not given back at the end."""

    def last_of_roots():
        for alloc in log.of(Kind.ROOT_ALLOC):
            freed = log.after(alloc, Kind.KVM_MMU_FREE_PAGE, root=alloc.root)
            if not log.after(freed, Kind.KVM_MMU_GET_PAGE, root=alloc.root):
                yield freed

    log.drop(pick(last_of_roots()))


@PLANTS.breaks(LAST_PUT_ON_VALID_ROOT)
def never_invalidated(log, pick, by_ns):
    """The last reference of a root is put that nobody has invalidated."""
    log.drop(pick(log.of(Kind.ROOT_INVALIDATE)))


@PLANTS.breaks(LAST_PUT_ON_VALID_ROOT, also={REFCOUNT_SUM, REFERENCES_LEFT, LAST_PUT_BEFORE_ZAP}, clock=True)
def invalidated_after_last_put(log, pick, by_ns):
    """It is invalidated only then; the zap comes out of order with it."""
    put = pick(put for put in log.of(Kind.ROOT_PUT, arg0=0) if put.actor != "ctl")
    mark = log.before(put, Kind.ROOT_INVALIDATE, root=put.root)
    mark.time_ns = put.time_ns + by_ns
    for offset, kind in enumerate((Kind.ROOT_ZAP_BEGIN, Kind.ROOT_ZAP_END), 1):
        log.before(put, kind, root=put.root).time_ns = mark.time_ns + offset


@PLANTS.breaks(LAST_PUT_BEFORE_ZAP)
def zap_never_ends(log, pick, by_ns):
    """The last reference is put, and the zap has not ended."""
    log.drop(pick(log.of(Kind.ROOT_ZAP_END)))


@PLANTS.breaks(LAST_PUT_BEFORE_ZAP)
def own_put_before_zap(log, pick, by_ns):
    """The zapper puts the last reference a nanosecond before the zap ends: its own events need no clock."""
    put = pick(put for put in log.of(Kind.ROOT_PUT, arg0=0, actor="ctl"))
    log.before(put, Kind.ROOT_ZAP_END, root=put.root).time_ns = put.time_ns + 1


@PLANTS.breaks(LAST_PUT_BEFORE_ZAP, clock=True)
def put_before_zap(log, pick, by_ns):
    """A vCPU puts the last reference before the zap ends."""
    put = pick(put for put in log.of(Kind.ROOT_PUT, arg0=0) if put.actor != "ctl")
    log.before(put, Kind.ROOT_ZAP_END, root=put.root).time_ns = put.time_ns + by_ns


@PLANTS.breaks(ROOT_STILL_SCHEDULED, also={LAST_PUT_BEFORE_ZAP})
def never_zapped(log, pick, by_ns):
    """The back half passes over a root."""

    def zapped_in_back_half():
        for begin in log.of(Kind.ROOT_ZAP_BEGIN):
            back = log.before(begin, Kind.ZAP_BACK_BEGIN, Kind.ZAP_BACK_END)
            if back and back.kind == Kind.ZAP_BACK_BEGIN and _outlives(log, begin, log.after(begin, Kind.ZAP_BACK_END)):
                yield begin

    begin = pick(zapped_in_back_half())
    log.drop(begin, log.after(begin, Kind.ROOT_ZAP_END))


@PLANTS.breaks(ROOT_NOT_EMPTY, also={FREED_WHILE_LINKED, SPTES_LEFT})
def spte_kept_in_root(log, pick, by_ns):
    """An entry of an invalid root is not cleared."""

    def cleared():
        for back in log.of(Kind.ZAP_BACK_BEGIN):
            end = log.after(back, Kind.ZAP_BACK_END)
            for change in log.between(back, end, Kind.SPTE_CHANGE, actor="ctl", pfn=log.levels):
                if sm.is_nonleaf(change.arg0) and _outlives(log, change, end):
                    yield change

    log.drop(pick(cleared()))


def _outlives(log: sm.Log, event: sm.Event, end: sm.Event) -> bool:
    """Is the root still there behind the end of the back half?"""
    return log.after(event, Kind.KVM_MMU_FREE_PAGE, root=event.root).time_ns > end.time_ns


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
