# SPDX-License-Identifier: GPL-2.0-only
"""Memslots as the log shows them: operations, swaps, SRCU, who owned which memory when, and who used it all the same.

An incarnation is judged twice. By what the event carries: the actor that touched the frame noted the frame's tag and whether the
incarnation was retired. And by time: an access that is logged after the DELETE or MOVE of its incarnation has returned comes out
of a guest that still held the translation then. The second needs no oracle at all, only the two times.
"""

from __future__ import annotations

from typing import Any

from stress.check.compiled import kernel
from stress.check.finding import BY_BOTH, BY_EVENT, BY_TIME, EXACT, FOUND_JUDGED_BY, found, found_about, whole
from stress.check.rules import (
    FAULT_AGAIN_IN_SRCU,
    FAULT_INTO_INVALID_SLOT,
    FAULT_INTO_OBSOLETE_ROOT,
    GENERATION_BACK,
    GENERATION_NOT_MARKED,
    INCARNATION_REUSED,
    LEFT_AT_COMMIT,
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
from stress.check.state import MAX_PAGES, MAX_SLOTS, NEVER, NO_EVENT, PLACES
from stress.check.tables import root_of, table_with_leaf

__all__ = [
    "fault",
    "guest_access",
    "slot_op_begin",
    "slot_op_end",
    "slot_swap",
    "srcu_lock",
    "srcu_sync_begin",
    "srcu_sync_end",
    "srcu_unlock",
    "writeback",
]

OP_CREATE = 1
OP_DELETE = 2
OP_MOVE = 3

UPDATE_IN_PROGRESS = 1 << 62
STEP_PUBLISH = 2
STEP_UNLOCK = 3
STEP_SYNCHRONIZE = 4
STEP_GENERATION = 5

RETIRED = 2
FOREIGN = 8
WRITEBACK_RETIRED = 1
WRITEBACK_FOREIGN = 2

FAULT_RETRY_INVALID_SLOT = 0
FAULT_FIXED = 2


# --- operations


@kernel
def slot_op_begin(s: Any, incarnation: int, op: int, slot: int) -> None:
    """A slot operation was called: from here on its new incarnation may be in use."""
    if not 0 <= slot < MAX_SLOTS:
        return
    s.op = op
    s.op_event = s.event
    s.op_swaps = 0
    s.op_old = 0
    known = s.slot_incarnation[slot]
    if op == OP_DELETE:
        s.op_old = incarnation
        return
    if op == OP_MOVE:
        s.op_old = known
    place = incarnation % PLACES
    if incarnation <= s.newest:
        found_about(s, INCARNATION_REUSED, EXACT, s.began_event[place], s.began_ns[place], -1, -1, -1, incarnation, s.newest)
    else:
        s.newest = incarnation
    backing = incarnation
    if op == OP_MOVE:
        # Unknown where the log begins in the middle: then the events' own word must do.
        backing = 0
        if known != 0 and s.incarnation[known % PLACES] == known:
            backing = s.backing[known % PLACES]
    if s.place_leafs[place] != 0:
        # Leafs of an earlier owner were left behind, which has been reported.
        for table in range(s.page_top + 1):
            s.leafs[table, place] = 0
    s.place_leafs[place] = 0
    s.incarnation[place] = incarnation
    s.backing[place] = backing
    s.began_ns[place] = s.now_ns
    s.began_event[place] = s.event
    s.invalid_ns[place] = NEVER
    s.invalid_event[place] = NO_EVENT
    s.returned_ns[place] = NEVER
    s.returned_event[place] = NO_EVENT
    s.slot_incarnation[slot] = incarnation


@kernel
def slot_op_end(s: Any, op: int, slot: int) -> None:
    """A slot operation returned: what it took away may not be touched any more."""
    if not 0 <= slot < MAX_SLOTS:
        return
    old = s.op_old
    if op != OP_CREATE and old != 0 and s.incarnation[old % PLACES] == old:
        s.returned_ns[old % PLACES] = s.now_ns
        s.returned_event[old % PLACES] = s.event
    if op == OP_DELETE:
        s.slot_incarnation[slot] = 0
    s.op = 0
    s.op_old = 0


@kernel
def slot_swap(s: Any, step: int, generation: int) -> None:
    """Steps 1 to 5 of kvm_swap_active_memslots(), in this order, the generation growing (I20); old readers waited for (I27)."""
    before = s.swap_step
    if before != 0 and step != before % STEP_GENERATION + 1:
        found(s, SWAP_STEP, EXACT, NO_EVENT, NEVER, -1, step)
    s.swap_step = step
    bare = generation & ~UPDATE_IN_PROGRESS
    if step == STEP_UNLOCK:
        s.swap_synced = 0
    if step < STEP_GENERATION and (bare == generation or (s.generation >= 0 and bare != s.generation)):
        found(s, GENERATION_NOT_MARKED, EXACT, NO_EVENT, NEVER, -1, generation)
    if step == STEP_PUBLISH:
        s.publish_ns = s.now_ns
        s.publish_event = s.event
        if s.op_swaps == 0 and s.op_old != 0:
            slot_invalid(s, s.op_old)
    if step == STEP_SYNCHRONIZE and before == STEP_UNLOCK and s.swap_synced == 0:
        found(s, SWAP_WITHOUT_SYNC, EXACT, s.publish_event, s.publish_ns, -1, 0)
    if step == STEP_GENERATION:
        if bare != generation or generation <= s.generation:
            found(s, GENERATION_BACK, EXACT, NO_EVENT, NEVER, -1, generation)
        s.generation = bare
        s.op_swaps += 1
        if s.op_swaps == 2 and s.op_old != 0:
            _check_commit(s)


@kernel
def slot_invalid(s: Any, incarnation: int) -> None:
    """From the first swap on, whoever looks the slot up finds it INVALID."""
    place = incarnation % PLACES
    if s.incarnation[place] == incarnation and s.invalid_ns[place] == NEVER:
        s.invalid_ns[place] = s.publish_ns
        s.invalid_event[place] = s.publish_event


@kernel
def _check_commit(s: Any) -> None:
    """After the second swap no root at all, valid or not, maps the old slot (I2)."""
    place = s.op_old % PLACES
    if not whole(s) or s.incarnation[place] != s.op_old or s.place_leafs[place] <= 0:
        return
    table = table_with_leaf(s, place, False)
    if table != 0:
        found_about(s, LEFT_AT_COMMIT, EXACT, s.op_event, NEVER, -1, root_of(s, table), -1, s.op_old, s.place_leafs[place])


# --- SRCU


@kernel
def srcu_lock(s: Any, actor: int) -> None:
    """An actor entered kvm->srcu."""
    s.srcu_ns[actor] = s.now_ns
    s.srcu_event[actor] = s.event


@kernel
def srcu_unlock(s: Any, actor: int) -> None:
    """An actor left kvm->srcu: did a wait for readers end while it was inside since before (I27)?"""
    s.must_leave_srcu[actor] = 0
    s.srcu_left_ns[actor] = s.now_ns
    entered = s.srcu_ns[actor]
    s.srcu_ns[actor] = NEVER
    if entered == NEVER:
        return
    for i in range(2):
        # It was inside before the wait began, and still inside when it ended.
        margin = min(s.sync_ns[i] - entered, s.now_ns - s.sync_done_ns[i])
        if s.sync_done_ns[i] != NEVER and margin > 0:
            found(s, SRCU_READER_LEFT_BEHIND, margin, s.sync_event[i], s.sync_done_ns[i], -1, s.sync_ns[i] - entered)
            return


@kernel
def srcu_sync_begin(s: Any, actor: int) -> None:
    """synchronize_srcu() was called."""
    s.sync_ns[1] = s.sync_ns[0]
    s.sync_done_ns[1] = s.sync_done_ns[0]
    s.sync_event[1] = s.sync_event[0]
    s.sync_ns[0] = s.now_ns
    s.sync_done_ns[0] = NEVER


@kernel
def srcu_sync_end(s: Any, actor: int) -> None:
    """synchronize_srcu() returned."""
    s.sync_done_ns[0] = s.now_ns
    s.sync_event[0] = s.event
    s.swap_synced = 1


# --- use


@kernel
def _lateness_ns(s: Any, incarnation: int) -> int:
    """How long ago the incarnation's DELETE or MOVE had returned; 0 if it had not, or is not known to have."""
    place = incarnation % PLACES
    owner = s.incarnation[place]
    if owner == incarnation:
        if s.returned_ns[place] == NEVER:
            return 0
        return s.now_ns - s.returned_ns[place] + 1
    if owner > incarnation > 0:
        # An earlier owner of the place: its operation had returned before the place was given away.
        return s.now_ns - s.began_ns[place] + 1
    return 0


@kernel
def _gone_event(s: Any, incarnation: int) -> int:
    place = incarnation % PLACES
    return s.returned_event[place] if s.incarnation[place] == incarnation else s.began_event[place]


@kernel
def _gone_ns(s: Any, incarnation: int) -> int:
    place = incarnation % PLACES
    return s.returned_ns[place] if s.incarnation[place] == incarnation else s.began_ns[place]


@kernel
def _is_foreign(s: Any, incarnation: int, tag: int, said: bool) -> bool:
    """Is the tag somebody else's? By the log's own knowledge of the backing, or else by what the event says."""
    place = incarnation % PLACES
    if s.incarnation[place] == incarnation and s.backing[place] != 0:
        return tag != s.backing[place]
    return said


@kernel
def _judge_use(
    s: Any, gfn: int, root: int, pfn: int, incarnation: int, tag: int, retired: bool, foreign: bool, details: Any
) -> None:
    by_event = retired or foreign
    late = _lateness_ns(s, incarnation)
    if not by_event and late <= 0:
        return
    detail = details[2]
    judged_by = BY_TIME
    margin = late - 1
    if by_event:
        # What the event carries was seen at the touch itself; no clock is involved.
        detail = details[0] if retired else details[1]
        margin = EXACT
        judged_by = BY_BOTH if late > 0 else BY_EVENT
    row = s.nr_found
    other, other_ns = (NO_EVENT, NEVER)
    if late > 0:
        other, other_ns = (_gone_event(s, incarnation), _gone_ns(s, incarnation))
    found_about(s, detail, margin, other, other_ns, gfn, root, pfn, incarnation, tag if by_event else late - 1)
    s.found[row, FOUND_JUDGED_BY] = judged_by


@kernel
def guest_access(s: Any, gfn: int, root: int, pfn: int, incarnation: int, tag: int, access: int) -> None:
    """The guest touched a frame (I3)."""
    foreign = _is_foreign(s, incarnation, tag, access & FOREIGN != 0)
    if access & RETIRED == 0 and not foreign and _lateness_ns(s, incarnation) <= 0:
        return
    details = (STALE_USE_RETIRED, STALE_USE_FOREIGN, STALE_USE_LATE)
    _judge_use(s, gfn, root, pfn, incarnation, tag, access & RETIRED != 0, foreign, details)


@kernel
def writeback(s: Any, gfn: int, root: int, pfn: int, incarnation: int, tag: int, met: int) -> None:
    """The MMU wrote accessed or dirty state to a frame (I2)."""
    foreign = _is_foreign(s, incarnation, tag, met & WRITEBACK_FOREIGN != 0)
    details = (STALE_WRITEBACK_RETIRED, STALE_WRITEBACK_FOREIGN, STALE_WRITEBACK_LATE)
    _judge_use(s, gfn, root, pfn, incarnation, tag, met & WRITEBACK_RETIRED != 0, foreign, details)


# --- faults


@kernel
def fault(s: Any, actor: int, gfn: int, root: int, pfn: int, incarnation: int, result: int) -> None:
    """A fault was handled: nothing installed for an INVALID slot (I18) or into an obsolete root (I6)."""
    if s.must_leave_srcu[actor] != 0:
        # The updater waits for this reader, and this reader for the updater.
        found_about(s, FAULT_AGAIN_IN_SRCU, EXACT, s.srcu_event[actor], s.srcu_ns[actor], gfn, root, pfn, incarnation, result)
        s.must_leave_srcu[actor] = 0
    if result == FAULT_RETRY_INVALID_SLOT and s.srcu_ns[actor] != NEVER:
        s.must_leave_srcu[actor] = 1
    if result != FAULT_FIXED:
        return
    place = incarnation % PLACES
    if s.incarnation[place] == incarnation and s.invalid_ns[place] != NEVER and s.srcu_ns[actor] != NEVER:
        # The slot was looked up inside this SRCU section, which began after the INVALID slot was published.
        margin = s.srcu_ns[actor] - s.invalid_ns[place]
        if margin > 0:
            other, other_ns = (s.invalid_event[place], s.invalid_ns[place])
            found_about(s, FAULT_INTO_INVALID_SLOT, margin, other, other_ns, gfn, root, pfn, incarnation, result)
    _check_root_valid(s, actor, gfn, root, pfn, incarnation)


@kernel
def _check_root_valid(s: Any, actor: int, gfn: int, root: int, pfn: int, incarnation: int) -> None:
    if not 0 < root < MAX_PAGES or s.root_invalid[root] == 0:
        return
    # role.invalid changes only under the write lock: it was set before this hold, so the check under the hold must see it.
    # And the root that this vCPU loaded, not one that had the page before.
    margin = min(s.read_acquired_ns[actor] - s.root_invalid_ns[root], s.root_invalid_ns[root] - s.loaded_ns[actor])
    if s.read_acquired_ns[actor] != NEVER and margin > 0:
        other, other_ns = (s.root_invalid_event[root], s.root_invalid_ns[root])
        found_about(s, FAULT_INTO_OBSOLETE_ROOT, margin, other, other_ns, gfn, root, pfn, incarnation, 0)
