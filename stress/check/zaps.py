# SPDX-License-Identifier: GPL-2.0-only
"""Zaps as the log shows them: the two halves, the flush around them, zap-only walks, yields, and the locks that they rest on.

All of this is one actor's own doing, in its own order: no clock is involved.
"""

from __future__ import annotations

from typing import Any

from stress.check.compiled import kernel
from stress.check.finding import EXACT, found, found_about, whole
from stress.check.roots import check_invalid_roots
from stress.check.rules import (
    FRONT_LOCK_DROPPED,
    FRONT_NOT_LOCKED,
    FRONT_REQUEST_FIRST,
    FRONT_SAME_GENERATION,
    FRONT_WITHOUT_BACK,
    FRONT_WITHOUT_REQUEST,
    LEFT_IN_INVALID_ROOT,
    LEFT_IN_VALID_ROOT,
    LOCK_HELD_TWICE,
    LOCK_NOT_HELD,
    UNLOCK_WITH_OWED_FLUSH,
    YIELD_WITHOUT_PROGRESS,
)
from stress.check.slots import slot_invalid
from stress.check.state import MAX_ACTORS, MAX_PAGES, NEVER, NO_EVENT, NR_LOCKS, PLACES
from stress.check.tables import root_of, spte_change, table_with_leaf

__all__ = [
    "asked_in_front",
    "back_begin",
    "back_end",
    "change_in_zap",
    "flush_begin",
    "flush_end",
    "flushed_by_request",
    "front_begin",
    "front_end",
    "invalidate_in_front",
    "lock_acquire",
    "lock_release",
    "walk_begin",
    "zap_yield",
]

# What `front` says of an actor: not in a front half (0), in one, in one whose broken hold has been told.
IN_FRONT = 1
TOLD_OF_DROP = 2

MMU_READ = 3
MMU_WRITE = 4
REQUEST_FREE_OBSOLETE_ROOTS = 0
REQUEST_TLB_FLUSH = 1
BACK_HALF = 2


# --- locks


@kernel
def lock_acquire(s: Any, actor: int, lock: int) -> None:
    """A lock was taken."""
    if not 0 <= lock < NR_LOCKS:
        return
    s.held_ns[actor, lock] = s.now_ns
    s.held_event[actor, lock] = s.event
    if lock == MMU_READ:
        s.read_acquired_ns[actor] = s.now_ns


@kernel
def _check_exclusion(s: Any, actor: int, lock: int, against: int) -> None:
    """Holds are logged inside the lock, so two that exclude each other never overlap."""
    for other in range(MAX_ACTORS):
        held = s.held_ns[other, against]
        if other != actor and held != NEVER and whole(s):
            margin = s.now_ns - max(held, s.held_ns[actor, lock])
            if margin > 0:
                found(s, LOCK_HELD_TWICE, margin, s.held_event[other, against], held, -1, lock)


@kernel
def lock_release(s: Any, actor: int, lock: int) -> None:
    """A lock is about to be released: nobody held it too, no flush is owed (I16), no front half is half done (I5)."""
    if not 0 <= lock < NR_LOCKS:
        return
    if s.held_ns[actor, lock] == NEVER:
        if s.from_start != 0:
            found(s, LOCK_NOT_HELD, EXACT, NO_EVENT, NEVER, -1, lock)
    elif lock == MMU_READ:
        _check_exclusion(s, actor, lock, MMU_WRITE)
    else:
        _check_exclusion(s, actor, lock, lock)
        if lock == MMU_WRITE:
            _check_exclusion(s, actor, lock, MMU_READ)
    s.held_ns[actor, lock] = NEVER
    if lock != MMU_WRITE:
        return
    if s.owed_event[actor] != NO_EVENT:
        found(s, UNLOCK_WITH_OWED_FLUSH, EXACT, s.owed_event[actor], NEVER, -1, 0)
        s.owed_event[actor] = NO_EVENT
    if s.front[actor] == IN_FRONT and s.front_asked[actor] < s.nr_vcpus:
        found(s, FRONT_LOCK_DROPPED, EXACT, s.front_event[actor], s.front_ns[actor], -1, s.front_asked[actor])
        s.front[actor] = TOLD_OF_DROP


# --- the front half


@kernel
def front_begin(s: Any, actor: int) -> None:
    """F1 is next: the write lock must be held (I5)."""
    s.front[actor] = IN_FRONT
    s.front_asked[actor] = 0
    s.front_ns[actor] = s.now_ns
    s.front_event[actor] = s.event
    s.flush_front[actor] = 1
    if s.held_ns[actor, MMU_WRITE] == NEVER and s.from_start != 0:
        found(s, FRONT_NOT_LOCKED, EXACT, NO_EVENT, NEVER, -1, 0)


@kernel
def invalidate_in_front(s: Any, actor: int, root: int) -> None:
    """F2 comes before F3 (I5): a vCPU that is asked first would keep its root."""
    if s.front[actor] != 0 and s.front_asked[actor] > 0:
        found(s, FRONT_REQUEST_FIRST, EXACT, s.front_event[actor], s.front_ns[actor], root, s.front_asked[actor])


@kernel
def asked_in_front(s: Any, actor: int, request: int) -> None:
    """One vCPU was asked in F3."""
    if s.front[actor] != 0 and request == REQUEST_FREE_OBSOLETE_ROOTS:
        s.front_asked[actor] += 1


@kernel
def front_end(s: Any, actor: int, valid_gen: int) -> None:
    """Every vCPU was asked, and mmu_valid_gen changed (I5)."""
    if s.front[actor] == 0:
        return
    s.front[actor] = 0
    if s.front_asked[actor] < s.nr_vcpus:
        found(s, FRONT_WITHOUT_REQUEST, EXACT, s.front_event[actor], s.front_ns[actor], -1, s.nr_vcpus - s.front_asked[actor])
    if valid_gen == s.valid_gen:
        found(s, FRONT_SAME_GENERATION, EXACT, s.front_event[actor], s.front_ns[actor], -1, valid_gen)
    s.valid_gen = valid_gen
    for i in range(s.nr_roots):
        root = s.roots[i]
        if s.root_invalid[root] != 0 and s.root_invalid_ns[root] >= s.front_ns[actor]:
            s.root_asked_ns[root] = s.now_ns


# --- the back half


@kernel
def back_begin(s: Any, actor: int) -> None:
    """The back half was called."""
    s.yield_root[actor] = 0


@kernel
def back_end(s: Any, actor: int) -> None:
    """The back half returned (I7)."""
    s.flush_back[actor] = 1
    check_invalid_roots(s, s.flush_event[actor])


# --- the flush


@kernel
def flush_begin(s: Any, actor: int, incarnation: int) -> None:
    """kvm_arch_flush_shadow_memslot() was called for a slot that is INVALID since the first swap."""
    s.flushing[actor] = incarnation
    s.flush_event[actor] = s.event
    s.flush_front[actor] = 0
    s.flush_back[actor] = 0
    s.op_old = incarnation
    if s.op_swaps == 1:
        slot_invalid(s, incarnation)


@kernel
def flush_end(s: Any, actor: int) -> None:
    """It returned: no valid root maps the slot (I1), invalid ones are empty (I7), a front half had its back half (I23)."""
    incarnation = s.flushing[actor]
    s.flushing[actor] = 0
    if incarnation == 0 or not whole(s):
        return
    scheduled = 0
    for i in range(s.nr_roots):
        if s.root_scheduled[s.roots[i]] != 0:
            scheduled = s.roots[i]
    if s.flush_front[actor] != 0 and s.flush_back[actor] == 0 and scheduled != 0:
        event, ns = (s.root_invalid_event[scheduled], s.root_invalid_ns[scheduled])
        found_about(s, FRONT_WITHOUT_BACK, EXACT, event, ns, -1, scheduled, -1, incarnation, 0)
        return
    place = incarnation % PLACES
    if s.incarnation[place] != incarnation or s.place_leafs[place] <= 0:
        return
    table = table_with_leaf(s, place, True)
    detail = LEFT_IN_VALID_ROOT
    if table == 0:
        table = table_with_leaf(s, place, False)
        detail = LEFT_IN_INVALID_ROOT
    if table != 0:
        root = root_of(s, table)
        found_about(s, detail, EXACT, s.flush_event[actor], NEVER, -1, root, -1, incarnation, s.place_leafs[place])


@kernel
def change_in_zap(s: Any, actor: int, gfn: int, table: int, level: int, old: int, new: int) -> None:
    """An SPTE changed; if a leaf of a valid root went under the write lock, a flush is owed until it is released (I16)."""
    if not spte_change(s, gfn, table, level, old, new) or s.held_ns[actor, MMU_WRITE] == NEVER:
        return
    root = root_of(s, table) if 0 < table < MAX_PAGES else 0
    if root != 0 and s.root_invalid[root] == 0:
        s.owed_event[actor] = s.event


@kernel
def flushed_by_request(s: Any, actor: int, request: int) -> None:
    """A broadcast returned; if it asked every vCPU to flush, nothing is owed any more."""
    if request == REQUEST_TLB_FLUSH and s.asking[actor] >= s.nr_vcpus:
        s.owed_event[actor] = NO_EVENT


# --- yields


@kernel
def walk_begin(s: Any, actor: int) -> None:
    """A walk over a root, or over all of them, begins."""
    s.yield_root[actor] = 0


@kernel
def zap_yield(s: Any, actor: int, gfn: int, root: int, half: int) -> None:
    """A walk dropped mmu_lock: it got ahead since it did so last (I25).

    A back half passes over a root once a level, a zap-only walk once.
    """
    if s.yield_root[actor] != root:
        s.yield_root[actor] = root
        s.yield_back[actor] = 0
    elif gfn <= s.yield_gfn[actor]:
        s.yield_back[actor] += 1
        passes = s.levels_max if half == BACK_HALF else 1
        if s.yield_back[actor] >= passes:
            found_about(s, YIELD_WITHOUT_PROGRESS, EXACT, NO_EVENT, NEVER, gfn, root, -1, -1, s.yield_back[actor])
            s.yield_back[actor] = 0
    s.yield_gfn[actor] = gfn
