# SPDX-License-Identifier: GPL-2.0-only
"""Planted violations of the rules in stress/check/tables.py, and of the balance at the end: pages, SPTEs, tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stress.check.rules import (
    FREED_IN_GRACE_PERIOD,
    FREED_TOO_EARLY,
    FREED_WHILE_LINKED,
    FROZEN_OVERWRITTEN,
    LEAF_TO_LEAF,
    LEFT_AT_COMMIT,
    LEFT_IN_INVALID_ROOT,
    LEFT_IN_VALID_ROOT,
    LINKED_TWICE,
    PAGE_FREED_TWICE,
    PAGE_TAKEN_TWICE,
    PAGES_LEFT,
    ROOT_NOT_EMPTY,
    ROOTS_LEFT,
    SPTES_LEFT,
    UNLINKED_ELSEWHERE,
)
from stress.log.schema import FROZEN_SPTE, Kind

from . import sample as sm

if TYPE_CHECKING:
    from collections.abc import Iterator

PLANTS = sm.Plants()


def _links(log: sm.Log) -> list[sm.Event]:
    """The changes that link a table; its page is the new entry's pfn."""
    return [change for change in log.of(Kind.SPTE_CHANGE) if sm.is_nonleaf(change.arg1)]


def _unlinks(log: sm.Log) -> Iterator[tuple[sm.Event, sm.Event]]:
    """The changes that unlink a table, each with what gives the page back."""
    for change in log.of(Kind.SPTE_CHANGE):
        if sm.is_nonleaf(change.arg0):
            yield change, log.after(change, Kind.KVM_MMU_FREE_PAGE, root=sm.spte_part(change.arg0, "pfn"))


def _link_of(log: sm.Log, unlink: sm.Event) -> sm.Event:
    page = sm.spte_part(unlink.arg0, "pfn")
    return max(
        (e for e in _links(log) if e.time_ns < unlink.time_ns and sm.spte_part(e.arg1, "pfn") == page), key=lambda e: e.time_ns
    )


# --- pages


@PLANTS.breaks(PAGE_TAKEN_TWICE, clock=True)
def taken_before_freed(log, pick, by_ns):
    """Somebody takes a page before the RCU actor has given it back."""
    freed, taken = pick(
        (freed, taken)
        for freed in log.of(Kind.KVM_MMU_FREE_PAGE, actor="rcu")
        if (taken := log.after(freed, Kind.KVM_MMU_GET_PAGE, root=freed.root))
    )
    freed.time_ns = taken.time_ns + by_ns


@PLANTS.breaks(PAGE_TAKEN_TWICE, also={PAGES_LEFT, ROOTS_LEFT})
def never_freed_and_taken(log, pick, by_ns):
    """A page that is never given back is taken again."""
    log.drop(pick(freed for freed in log.of(Kind.KVM_MMU_FREE_PAGE) if log.after(freed, Kind.KVM_MMU_GET_PAGE, root=freed.root)))


@PLANTS.breaks(PAGE_FREED_TWICE, also={PAGES_LEFT})
def freed_again(log, pick, by_ns):
    """A page is given back a second time, whether somebody takes it again later or not."""
    freed = pick(log.of(Kind.KVM_MMU_FREE_PAGE))
    log.add(freed.time_ns + by_ns, freed.actor, Kind.KVM_MMU_FREE_PAGE, root=freed.root)


@PLANTS.breaks(PAGE_FREED_TWICE, clock=True)
def freed_before_taken(log, pick, by_ns):
    """A page that nobody had taken is given back by another actor, and taken only then."""
    taken, freed = pick(
        (taken, freed)
        for taken in log.of(Kind.KVM_MMU_GET_PAGE)
        if (freed := log.after(taken, Kind.KVM_MMU_FREE_PAGE, root=taken.root)) and freed.actor != taken.actor
    )
    taken.time_ns = freed.time_ns + by_ns


@PLANTS.breaks(PAGES_LEFT)
def page_kept(log, pick, by_ns):
    """A page is not given back at the end."""
    log.drop(
        pick(
            freed
            for freed in log.of(Kind.KVM_MMU_FREE_PAGE, actor="rcu")
            if not log.after(freed, Kind.KVM_MMU_GET_PAGE, root=freed.root)
            and not log.before(freed, Kind.ROOT_ALLOC, root=freed.root)
        )
    )


# --- RCU


@PLANTS.breaks(FREED_WHILE_LINKED, also={SPTES_LEFT, ROOT_NOT_EMPTY})
def never_unlinked(log, pick, by_ns):
    """A table is given back, and nothing has unlinked it."""
    unlink, _ = pick(_unlinks(log))
    log.drop(unlink)


@PLANTS.breaks(FREED_WHILE_LINKED, clock=True)
def freed_before_unlinked(log, pick, by_ns):
    """A table is given back before it is unlinked."""
    unlink, freed = pick(_unlinks(log))
    freed.time_ns = unlink.time_ns - by_ns


@PLANTS.breaks(FREED_TOO_EARLY, clock=True)
def grace_period_too_early(log, pick, by_ns):
    """The grace period began before the table was unlinked."""

    def moves():
        for begin in log.of(Kind.RCU_GP_BEGIN):
            # The last one that this grace period is for; roots are unlinked by their last put.
            unlinks = [unlink for unlink, freed in _unlinks(log) if log.before(freed, Kind.RCU_GP_BEGIN) is begin]
            puts = [put for put in log.of(Kind.ROOT_PUT, arg0=0) if put.time_ns < begin.time_ns]
            unlink = max(unlinks, key=lambda e: e.time_ns, default=None)
            previous = log.before(begin, *Kind, actor=begin.actor)
            later_put = unlink and puts and puts[-1].time_ns > unlink.time_ns
            if unlink and not later_put and (previous is None or previous.time_ns < unlink.time_ns - by_ns):
                yield unlink, begin

    unlink, begin = pick(moves())
    begin.time_ns = unlink.time_ns - by_ns


@PLANTS.breaks(FREED_TOO_EARLY)
def no_grace_period(log, pick, by_ns):
    """The RCU actor gives tables back without waiting at all."""
    # The first one: what a later one frees may have been unlinked before the one ahead of it began.
    begin = log.of(Kind.RCU_GP_BEGIN)[0]
    log.drop(begin, log.after(begin, Kind.RCU_GP_END))


@PLANTS.breaks(FREED_IN_GRACE_PERIOD)
def freed_in_grace_period(log, pick, by_ns):
    """A table is given back before the wait is over."""
    end = pick(log.of(Kind.RCU_GP_END))
    end.time_ns = log.after(end, Kind.KVM_MMU_FREE_PAGE, actor=end.actor).time_ns + 1


# --- SPTEs


@PLANTS.breaks(FROZEN_OVERWRITTEN)
def frozen_overwritten(log, pick, by_ns):
    """A fault installs over a FROZEN entry."""
    pick(change for change in log.of(Kind.SPTE_CHANGE, arg0=0) if change.arg1 & 1).arg0 = FROZEN_SPTE


@PLANTS.breaks(LEAF_TO_LEAF, also={SPTES_LEFT})
def leaf_to_leaf(log, pick, by_ns):
    """A fault replaces a leaf by a leaf of another frame."""
    change = pick(change for change in log.of(Kind.SPTE_CHANGE, arg0=0) if sm.is_leaf(change.arg1))
    change.arg0 = sm.spte_with(change.arg1, "pfn", sm.spte_part(change.arg1, "pfn") + 1)


@PLANTS.breaks(LINKED_TWICE, also={SPTES_LEFT, ROOT_NOT_EMPTY})
def linked_twice(log, pick, by_ns):
    """A table is linked a second time, at the same place or at another one."""
    link = pick(_links(log))
    place = pick([{"root": link.root, "gfn": link.gfn}, {"root": link.root, "gfn": link.gfn + 2}])
    log.add(link.time_ns + 1, link.actor, Kind.SPTE_CHANGE, pfn=link.pfn, arg0=0, arg1=link.arg1, **place)


@PLANTS.breaks(UNLINKED_ELSEWHERE, also={ROOT_NOT_EMPTY})
def unlinked_elsewhere(log, pick, by_ns):
    """A table is unlinked from a table that it was never linked in."""
    unlink, _ = pick(_unlinks(log))
    unlink.root = pick(page for page in range(30, 35) if page != unlink.root)


@PLANTS.breaks(UNLINKED_ELSEWHERE, clock=True)
def unlinked_before_linked(log, pick, by_ns):
    """A table is unlinked, and linked there only afterwards."""
    unlink, _ = pick(pair for pair in _unlinks(log) if _link_of(log, pair[0]).actor != pair[0].actor)
    _link_of(log, unlink).time_ns = unlink.time_ns + by_ns


@PLANTS.breaks(UNLINKED_ELSEWHERE, also={SPTES_LEFT})
def never_linked(log, pick, by_ns):
    """A table is unlinked that was never linked at all."""
    unlink, _ = pick(_unlinks(log))
    log.drop(_link_of(log, unlink))


@PLANTS.breaks(SPTES_LEFT, also={LEFT_IN_INVALID_ROOT, LEFT_IN_VALID_ROOT, LEFT_AT_COMMIT})
def leaf_kept(log, pick, by_ns):
    """A leaf of a slot that stays is not cleared in an invalid root; its table may come back in a valid one."""

    def kept():
        for begin in log.of(Kind.FLUSH_SHADOW_BEGIN):
            end = log.after(begin, Kind.FLUSH_SHADOW_END)
            for change in log.between(begin, end, Kind.SPTE_CHANGE, actor="ctl", pfn=1):
                if sm.is_leaf(change.arg0) and sm.spte_part(change.arg0, "incarnation") != begin.incarnation:
                    yield change

    log.drop(pick(kept()))


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
