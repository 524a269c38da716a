# SPDX-License-Identifier: GPL-2.0-only
"""Planted violations of the rules in stress/check/slots.py: stale uses, swaps, SRCU, faults."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stress.check.rules import (
    FAULT_AGAIN_IN_SRCU,
    FAULT_INTO_INVALID_SLOT,
    FAULT_INTO_OBSOLETE_ROOT,
    GENERATION_BACK,
    GENERATION_NOT_MARKED,
    INCARNATION_REUSED,
    LEFT_AT_COMMIT,
    SPTES_LEFT,
    SRCU_READER_LEFT_BEHIND,
    STALE_USE_FOREIGN,
    STALE_USE_LATE,
    STALE_USE_RETIRED,
    STALE_WRITEBACK_FOREIGN,
    STALE_WRITEBACK_LATE,
    STALE_WRITEBACK_RETIRED,
    SWAP_STEP,
    SWAP_WITHOUT_SYNC,
)
from stress.log.schema import Kind

from . import sample as sm

if TYPE_CHECKING:
    from collections.abc import Iterator

PLANTS = sm.Plants()

RETIRED, FOREIGN = 2, 8
WRITEBACK_RETIRED, WRITEBACK_FOREIGN = 1, 2
RETRY_INVALID_SLOT = 0
IN_PROGRESS = 1 << 62


# --- stale uses


def _returns(log: sm.Log) -> Iterator[tuple[int, sm.Event]]:
    """Each incarnation that a DELETE or MOVE takes away, with the return of that operation."""
    owners: dict[int, int] = {}
    for end in log.of(Kind.SLOT_OP_END):
        if end.arg0 == sm.DELETE:
            yield end.incarnation, end
        elif end.arg0 == sm.MOVE:
            yield owners[end.arg1], end
        owners[end.arg1] = end.incarnation


def _late(log: sm.Log, pick: sm.Pick, kind: Kind, by_ns: int) -> None:
    touch, end = pick((touch, end) for old, end in _returns(log) for touch in log.of(kind, incarnation=old))
    touch.time_ns = end.time_ns + by_ns


@PLANTS.breaks(STALE_USE_RETIRED)
def retired_use(log, pick, by_ns):
    """An access says that it met a retired incarnation."""
    pick(log.of(Kind.GUEST_ACCESS)).arg1 |= RETIRED


@PLANTS.breaks(STALE_USE_FOREIGN)
def use_of_another_tag(log, pick, by_ns):
    """An access observed a tag that the log knows not to be its incarnation's; the event itself does not say so."""
    pick(log.of(Kind.GUEST_ACCESS)).arg0 += 16


@PLANTS.breaks(STALE_USE_FOREIGN)
def foreign_use(log, pick, by_ns):
    """The same, and the event says so."""
    access = pick(log.of(Kind.GUEST_ACCESS))
    access.arg0, access.arg1 = 0, access.arg1 | FOREIGN


@PLANTS.breaks(STALE_USE_LATE, clock=True)
def late_use(log, pick, by_ns):
    """An access is logged after the DELETE or MOVE of its incarnation returned."""
    _late(log, pick, Kind.GUEST_ACCESS, by_ns)


@PLANTS.breaks(STALE_WRITEBACK_RETIRED)
def retired_writeback(log, pick, by_ns):
    """As for an access."""
    pick(log.of(Kind.WRITEBACK)).arg1 |= WRITEBACK_RETIRED


@PLANTS.breaks(STALE_WRITEBACK_FOREIGN)
def writeback_of_another_tag(log, pick, by_ns):
    """As for an access."""
    pick(log.of(Kind.WRITEBACK)).arg0 += 16


@PLANTS.breaks(STALE_WRITEBACK_FOREIGN)
def foreign_writeback(log, pick, by_ns):
    """As for an access."""
    touch = pick(log.of(Kind.WRITEBACK))
    touch.arg0, touch.arg1 = 0, touch.arg1 | WRITEBACK_FOREIGN


@PLANTS.breaks(STALE_WRITEBACK_LATE, clock=True)
def late_writeback(log, pick, by_ns):
    """As for an access."""
    _late(log, pick, Kind.WRITEBACK, by_ns)


def _renumber(log: sm.Log, new: int, old: int) -> None:
    """Give an incarnation the number of another wherever it appears."""
    for event in log.events:
        if event.incarnation == new:
            event.incarnation = old
        if event.kind in {Kind.GUEST_ACCESS, Kind.WRITEBACK} and event.arg0 == new:
            event.arg0 = old
        if event.kind == Kind.SPTE_CHANGE:
            for word in ("arg0", "arg1"):
                spte = getattr(event, word)
                if sm.is_leaf(spte) and sm.spte_part(spte, "incarnation") == new:
                    setattr(event, word, sm.spte_with(spte, "incarnation", old))
        if event.kind == Kind.TLB_FILL and sm.spte_part(event.arg0, "incarnation") == new:
            event.arg0 = sm.spte_with(event.arg0, "incarnation", old)


@PLANTS.breaks(INCARNATION_REUSED)
def incarnation_again(log, pick, by_ns):
    """A new slot object gets the number of one that had its place before."""
    begun = log.of(Kind.SLOT_OP_BEGIN)
    new, old = pick(
        (new.incarnation, old.incarnation)
        for new in begun
        for old in begun
        if new.arg0 != sm.DELETE != old.arg0 and old.incarnation < new.incarnation and (old.incarnation - new.incarnation) % 16 == 0
    )
    _renumber(log, new, old)


# --- swaps


@PLANTS.breaks(SWAP_STEP)
def swap_step_missing(log, pick, by_ns):
    """One of the inner steps is not there."""
    log.drop(pick(step for step in log.of(Kind.SLOT_SWAP) if step.arg0 in {3, 4}))


@PLANTS.breaks(SWAP_STEP, also={SWAP_WITHOUT_SYNC})
def swap_steps_swapped(log, pick, by_ns):
    """Two neighbours are logged the wrong way round."""
    steps = log.of(Kind.SLOT_SWAP)
    number = pick(n for n in range(len(steps) - 1) if steps[n].arg0 in {1, 2, 3})
    first, second = steps[number], steps[number + 1]
    first.arg0, second.arg0 = second.arg0, first.arg0


@PLANTS.breaks(GENERATION_BACK, also={GENERATION_NOT_MARKED})
def generation_falls(log, pick, by_ns):
    """The generation at the end of a swap is that of the swap before, or still marked."""
    last = pick(step for step in log.of(Kind.SLOT_SWAP, arg0=5) if step.arg1 > 1)
    last.arg1 = pick([last.arg1 - 1, last.arg1 | IN_PROGRESS])


@PLANTS.breaks(GENERATION_NOT_MARKED)
def generation_unmarked(log, pick, by_ns):
    """During a swap the generation lacks its mark, or is another one."""
    step = pick(step for step in log.of(Kind.SLOT_SWAP) if step.arg0 != 5 and step.arg1 != IN_PROGRESS)
    step.arg1 = pick([step.arg1 & ~IN_PROGRESS, step.arg1 + 1])


@PLANTS.breaks(SWAP_WITHOUT_SYNC)
def swap_without_sync(log, pick, by_ns):
    """synchronize_srcu() is left out of a swap."""
    begin = pick(log.of(Kind.SRCU_SYNC_BEGIN))
    log.drop(begin, log.after(begin, Kind.SRCU_SYNC_END))


@PLANTS.breaks(LEFT_AT_COMMIT, also={SPTES_LEFT})
def install_before_commit(log, pick, by_ns):
    """A fault brings back a mapping between the flush and the commit."""
    flush = pick(log.of(Kind.FLUSH_SHADOW_END))
    install = pick(
        change
        for change in log.of(Kind.SPTE_CHANGE, pfn=1)
        if change.time_ns < flush.time_ns
        and sm.is_leaf(change.arg1)
        and sm.spte_part(change.arg1, "incarnation") == flush.incarnation
    )
    log.add(
        flush.time_ns + by_ns,
        install.actor,
        Kind.SPTE_CHANGE,
        gfn=install.gfn,
        root=install.root,
        pfn=1,
        arg0=0,
        arg1=install.arg1,
    )


# --- SRCU


@PLANTS.breaks(SRCU_READER_LEFT_BEHIND, clock=True)
def reader_stays(log, pick, by_ns):
    """A reader that was inside before the wait leaves behind its end."""

    def waited_for(begin):
        end = log.after(begin, Kind.SRCU_SYNC_END)
        for actor in log.vcpus:
            left = log.after(begin, Kind.SRCU_UNLOCK, actor=actor)
            entered = log.before(left, Kind.SRCU_LOCK, actor=actor) if left else None
            following = log.after(left, Kind.SRCU_LOCK, actor=actor) if left else None
            inside = entered and entered.time_ns < begin.time_ns and left.time_ns < end.time_ns
            if inside and (following is None or following.time_ns > end.time_ns):
                yield left, end

    left, end = pick(pair for begin in log.of(Kind.SRCU_SYNC_BEGIN) for pair in waited_for(begin))
    left.time_ns = end.time_ns + by_ns


# --- faults


@PLANTS.breaks(FAULT_AGAIN_IN_SRCU)
def fault_again(log, pick, by_ns):
    """After RET_PF_RETRY on an INVALID slot the vCPU faults again in the same SRCU section."""
    fault = pick(log.of(Kind.KVM_PAGE_FAULT, arg0=RETRY_INVALID_SLOT))
    words = {"gfn": fault.gfn, "root": fault.root, "arg0": RETRY_INVALID_SLOT, "arg1": 0}
    log.add(fault.time_ns + 1, fault.actor, Kind.KVM_PAGE_FAULT, incarnation=fault.incarnation, **words)
    unlock = log.after(fault, Kind.SRCU_UNLOCK, actor=fault.actor)
    # The slot was no longer INVALID for the second one: it may not be reported twice.
    unlock.time_ns = max(unlock.time_ns, fault.time_ns + 2)


@PLANTS.breaks(FAULT_INTO_INVALID_SLOT, clock=True)
def fault_on_invalid_slot(log, pick, by_ns):
    """A vCPU enters kvm->srcu after the INVALID slot was published, and installs a mapping of it."""
    flush = pick(log.of(Kind.FLUSH_SHADOW_BEGIN))
    published = log.before(flush, Kind.SLOT_SWAP, arg0=2)
    actor = pick(log.vcpus)
    at = published.time_ns + by_ns
    last = log.before(at, Kind.SRCU_LOCK, Kind.SRCU_UNLOCK, actor=actor)
    inside = last is not None and last.kind == Kind.SRCU_LOCK
    if inside:
        log.add(at - 1, actor, Kind.SRCU_UNLOCK)
    log.add(at, actor, Kind.SRCU_LOCK)
    log.add(at + 1, actor, Kind.KVM_PAGE_FAULT, gfn=flush.gfn, pfn=flush.pfn, incarnation=flush.incarnation, arg0=sm.FIXED, arg1=0)
    if not inside:
        log.add(at + 2, actor, Kind.SRCU_UNLOCK)


@PLANTS.breaks(FAULT_INTO_OBSOLETE_ROOT, clock=True)
def fault_on_obsolete_root(log, pick, by_ns):
    """A vCPU takes mmu_lock after its root was invalidated, and installs a mapping all the same."""

    def holders(invalidate):
        for actor in log.vcpus:
            loaded = log.before(invalidate, Kind.ROOT_ALLOC, Kind.ROOT_GET, actor=actor)
            dropped = log.after(loaded, Kind.ROOT_PUT, actor=actor, root=loaded.root) if loaded else None
            if dropped and loaded.root == invalidate.root and dropped.time_ns > invalidate.time_ns:
                yield actor, invalidate

    actor, invalidate = pick(pair for mark in log.of(Kind.ROOT_INVALIDATE) for pair in holders(mark))
    at = invalidate.time_ns + by_ns
    log.add(at, actor, Kind.LOCK_ACQUIRE, arg0=sm.MMU_READ, arg1=0)
    log.add(at + 1, actor, Kind.KVM_PAGE_FAULT, gfn=0, root=invalidate.root, pfn=0, incarnation=0, arg0=sm.FIXED, arg1=0)
    log.add(at + 2, actor, Kind.LOCK_RELEASE, arg0=sm.MMU_READ, arg1=0)


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
