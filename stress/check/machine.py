# SPDX-License-Identifier: GPL-2.0-only
"""The checker's loop: the events of all actors in one order, each handed to the rules that it concerns.

Order: by time; at equal times by the actor's place in the run's list; within one actor by seq. Columns are read where the log's
reader put them, by address, so that nothing is copied.
"""

from __future__ import annotations

from typing import Any

from stress.check.compiled import entry, kernel, peek, peek16
from stress.check.entries import (
    ipi_ack,
    ipi_send,
    kvm_entry,
    kvm_exit,
    request_clear,
    request_done,
    request_set,
    settle_unacked,
    tlb_flush,
)
from stress.check.finding import EXACT, found_about, found_before
from stress.check.roots import (
    root_alloc,
    root_freed,
    root_get,
    root_invalidate,
    root_put,
    root_zap_begin,
    root_zap_end,
    settle_root,
)
from stress.check.rules import (
    PAGES_LEFT,
    RECORDED,
    REFERENCES_LEFT,
    ROOTS_LEFT,
    SPTES_LEFT,
)
from stress.check.slots import (
    fault,
    guest_access,
    slot_op_begin,
    slot_op_end,
    slot_swap,
    srcu_lock,
    srcu_sync_begin,
    srcu_sync_end,
    srcu_unlock,
    writeback,
)
from stress.check.state import EVENT_SHIFT, FIRST_OTHER, FOREVER, MAX_FOUND, MAX_PAGES, NEVER, NO_EVENT, NR_KINDS
from stress.check.tables import free_page, get_page, settle_page
from stress.check.zaps import (
    asked_in_front,
    back_begin,
    back_end,
    change_in_zap,
    flush_begin,
    flush_end,
    flushed_by_request,
    front_begin,
    front_end,
    invalidate_in_front,
    lock_acquire,
    lock_release,
    walk_begin,
    zap_yield,
)
from stress.log.schema import Kind

__all__ = ["COUNTS", "FEED_COLUMNS", "FEED_WORDS", "FULL", "OVER", "advance"]

# Columns of one actor's batch, in the order of their addresses in the feed.
FEED_COLUMNS = ("time_ns", "kind", "gfn", "root", "pfn", "incarnation", "arg0", "arg1")
# Words of one actor in the feed: position, end, seq at position 0, 1 if nothing follows, its id, the addresses.
FEED_POSITION = 0
FEED_END = 1
FEED_SEQ = 2
FEED_OVER = 3
FEED_ACTOR = 4
FEED_ADDRESS = 5
FEED_WORDS = FEED_ADDRESS + len(FEED_COLUMNS)

OVER = -1
FULL = -2
RESERVE = 256

# What is counted beside the kinds, in this order: what evidence may ask for.
COUNTS = (
    "tlb_hits",
    "stale_fault_retries",
    "mmio_exits",
    "acks_in_guest",
    "back_half_yields",
    "creates",
    "deletes",
    "moves",
    "roots_freed",
)
TLB_HITS, STALE_FAULT_RETRIES, MMIO_EXITS, ACKS_IN_GUEST, BACK_HALF_YIELDS, CREATES, DELETES, MOVES, ROOTS_FREED = range(9)

TLB_HIT = 4
FAULT_STALE = 1
FAULT_MMIO = 3
EXIT_IPI = 1
HALF_BACK = 2
OP_CREATE = 1
OP_MOVE = 3

GUEST_ACCESS = int(Kind.GUEST_ACCESS)
TLB_FILL = int(Kind.TLB_FILL)
TLB_FLUSH = int(Kind.TLB_FLUSH)
KVM_ENTRY = int(Kind.KVM_ENTRY)
KVM_EXIT = int(Kind.KVM_EXIT)
KVM_PAGE_FAULT = int(Kind.KVM_PAGE_FAULT)
SPTE_CHANGE = int(Kind.SPTE_CHANGE)
GET_PAGE = int(Kind.KVM_MMU_GET_PAGE)
FREE_PAGE = int(Kind.KVM_MMU_FREE_PAGE)
ROOT_ALLOC = int(Kind.ROOT_ALLOC)
ROOT_GET = int(Kind.ROOT_GET)
ROOT_PUT = int(Kind.ROOT_PUT)
ROOT_INVALIDATE = int(Kind.ROOT_INVALIDATE)
REQUEST_SET = int(Kind.REQUEST_SET)
IPI_SEND = int(Kind.IPI_SEND)
IPI_ACK = int(Kind.IPI_ACK)
LOCK_ACQUIRE = int(Kind.LOCK_ACQUIRE)
LOCK_RELEASE = int(Kind.LOCK_RELEASE)
SLOT_SWAP = int(Kind.SLOT_SWAP)
SLOT_OP_BEGIN = int(Kind.SLOT_OP_BEGIN)
SLOT_OP_END = int(Kind.SLOT_OP_END)
ZAP_FRONT_BEGIN = int(Kind.ZAP_FRONT_BEGIN)
ZAP_FRONT_END = int(Kind.ZAP_FRONT_END)
ZAP_BACK_BEGIN = int(Kind.ZAP_BACK_BEGIN)
ZAP_BACK_END = int(Kind.ZAP_BACK_END)
ZAP_YIELD = int(Kind.ZAP_YIELD)
WRITEBACK = int(Kind.WRITEBACK)
SRCU_LOCK = int(Kind.SRCU_LOCK)
SRCU_UNLOCK = int(Kind.SRCU_UNLOCK)
SRCU_SYNC_BEGIN = int(Kind.SRCU_SYNC_BEGIN)
SRCU_SYNC_END = int(Kind.SRCU_SYNC_END)
FINDING = int(Kind.FINDING)
ZAP_LEAFS_BEGIN = int(Kind.ZAP_LEAFS_BEGIN)
VM_DESTROY = int(Kind.VM_DESTROY)
REQUEST_CLEAR = int(Kind.REQUEST_CLEAR)
REQUEST_DONE = int(Kind.REQUEST_DONE)
FLUSH_SHADOW_BEGIN = int(Kind.FLUSH_SHADOW_BEGIN)
FLUSH_SHADOW_END = int(Kind.FLUSH_SHADOW_END)
ROOT_ZAP_BEGIN = int(Kind.ROOT_ZAP_BEGIN)
ROOT_ZAP_END = int(Kind.ROOT_ZAP_END)
RCU_GP_BEGIN = int(Kind.RCU_GP_BEGIN)
RCU_GP_END = int(Kind.RCU_GP_END)


@kernel
def _finish(s: Any) -> None:
    """Behind the last event: what was left open stays so, and after a VM's end all has been given back."""
    s.now_ns = FOREVER
    s.event = NO_EVENT
    for vcpu in range(FIRST_OTHER):
        settle_unacked(s, vcpu)
    for i in range(s.nr_roots):
        if s.nr_found < MAX_FOUND - RESERVE // 2:
            settle_root(s, s.roots[i])
    for page in range(s.page_top + 1):
        if s.nr_found < MAX_FOUND - RESERVE // 2:
            settle_page(s, page)
    if s.destroyed_ns != NEVER and s.from_start != 0:
        _check_balance(s)


@kernel
def _check_balance(s: Any) -> None:
    """At the end all is given back: pages (I11), SPTEs (I11), roots and references (I8)."""
    event, ns = (s.destroyed_event, s.destroyed_ns)
    if s.live_pages != 0:
        found_before(s, PAGES_LEFT, EXACT, event, ns, NO_EVENT, NEVER, -1, s.live_pages)
    if s.present_sptes != 0:
        found_before(s, SPTES_LEFT, EXACT, event, ns, NO_EVENT, NEVER, -1, s.present_sptes)
    if s.nr_roots != 0:
        found_before(s, ROOTS_LEFT, EXACT, event, ns, NO_EVENT, NEVER, s.roots[0], s.nr_roots)
    for page in range(s.page_top + 1):
        if s.root_refs[page] != 0:
            found_before(s, REFERENCES_LEFT, EXACT, event, ns, NO_EVENT, NEVER, page, s.root_refs[page])
            break


@kernel
def _guest_event(s: Any, actor: int, kind: int, gfn: int, root: int, pfn: int, incarnation: int, arg0: int, arg1: int) -> None:
    """The kinds that come by the million."""
    if kind == GUEST_ACCESS:
        if arg1 & TLB_HIT != 0:
            s.counts[TLB_HITS] += 1
        guest_access(s, gfn, root, pfn, incarnation, arg0, arg1)
    elif kind == SRCU_LOCK:
        srcu_lock(s, actor)
    elif kind == SRCU_UNLOCK:
        srcu_unlock(s, actor)
    elif kind == KVM_ENTRY:
        kvm_entry(s, actor, root)
    elif kind == KVM_EXIT:
        if arg0 == EXIT_IPI:
            s.counts[ACKS_IN_GUEST] += 1
        kvm_exit(s, actor, root)
    elif kind == KVM_PAGE_FAULT:
        if arg0 == FAULT_STALE:
            s.counts[STALE_FAULT_RETRIES] += 1
        elif arg0 == FAULT_MMIO:
            s.counts[MMIO_EXITS] += 1
        fault(s, actor, gfn, root, pfn, incarnation, arg0)


@kernel
def _table_event(s: Any, actor: int, kind: int, gfn: int, root: int, pfn: int, arg0: int, arg1: int) -> None:
    if kind == SPTE_CHANGE:
        change_in_zap(s, actor, gfn, root, pfn, arg0, arg1)
    elif kind == LOCK_ACQUIRE:
        lock_acquire(s, actor, arg0)
    elif kind == LOCK_RELEASE:
        lock_release(s, actor, arg0)
    elif kind == GET_PAGE:
        root_freed(s, root)
        get_page(s, root)
    elif kind == FREE_PAGE:
        # If it has been taken again already, by a clock that is behind, that was the end of its life.
        if s.page_live[root & (MAX_PAGES - 1)] < 2:
            root_freed(s, root)
        free_page(s, actor, root)
    elif kind == ROOT_ALLOC:
        root_alloc(s, actor, root, arg0)
    elif kind == ROOT_GET:
        root_get(s, actor, root)
    elif kind == ROOT_PUT:
        if arg0 == 0:
            s.counts[ROOTS_FREED] += 1
        root_put(s, actor, root, arg0)
    elif kind == ROOT_INVALIDATE:
        invalidate_in_front(s, actor, root)
        root_invalidate(s, root)
    elif kind == ROOT_ZAP_BEGIN:
        walk_begin(s, actor)
        root_zap_begin(s, root)
    elif kind == ROOT_ZAP_END:
        root_zap_end(s, root)
    elif kind == RCU_GP_BEGIN:
        s.grace_ns[actor] = s.now_ns
    elif kind == RCU_GP_END:
        s.grace_done_ns[actor] = s.now_ns


@kernel
def _zap_event(s: Any, actor: int, kind: int, gfn: int, root: int, incarnation: int, arg0: int, arg1: int) -> None:
    if kind == REQUEST_SET:
        asked_in_front(s, actor, arg0)
        request_set(s, actor, arg0, arg1)
    elif kind == IPI_SEND:
        ipi_send(s, actor, arg1)
    elif kind == IPI_ACK:
        ipi_ack(s, actor)
    elif kind == REQUEST_CLEAR:
        request_clear(s, actor, arg0)
    elif kind == REQUEST_DONE:
        flushed_by_request(s, actor, arg0)
        request_done(s, actor)
    elif kind == TLB_FLUSH:
        tlb_flush(s, actor, root, arg1)
    elif kind == ZAP_YIELD:
        if arg0 == HALF_BACK:
            s.counts[BACK_HALF_YIELDS] += 1
        zap_yield(s, actor, gfn, root, arg0)
    elif kind == ZAP_LEAFS_BEGIN:
        walk_begin(s, actor)
    elif kind == ZAP_FRONT_BEGIN:
        front_begin(s, actor)
    elif kind == ZAP_FRONT_END:
        front_end(s, actor, arg0)
    elif kind == ZAP_BACK_BEGIN:
        back_begin(s, actor)
    elif kind == ZAP_BACK_END:
        back_end(s, actor)
    elif kind == FLUSH_SHADOW_BEGIN:
        flush_begin(s, actor, incarnation)
    elif kind == FLUSH_SHADOW_END:
        flush_end(s, actor)


@kernel
def _slot_event(s: Any, actor: int, kind: int, gfn: int, root: int, pfn: int, incarnation: int, arg0: int, arg1: int) -> None:
    if kind == SLOT_SWAP:
        slot_swap(s, arg0, arg1)
    elif kind == SRCU_SYNC_BEGIN:
        srcu_sync_begin(s, actor)
    elif kind == SRCU_SYNC_END:
        srcu_sync_end(s, actor)
    elif kind == WRITEBACK:
        writeback(s, gfn, root, pfn, incarnation, arg0, arg1)
    elif kind == SLOT_OP_BEGIN:
        slot_op_begin(s, incarnation, arg0, arg1)
    elif kind == SLOT_OP_END:
        if OP_CREATE <= arg0 <= OP_MOVE:
            s.counts[CREATES + arg0 - OP_CREATE] += 1
        slot_op_end(s, arg0, arg1)
    elif kind == FINDING:
        found_about(s, RECORDED, EXACT, NO_EVENT, NEVER, gfn, root, pfn, incarnation, arg0 * 1000 + arg1)
    elif kind == VM_DESTROY:
        s.destroyed_ns = s.now_ns
        s.destroyed_event = s.event


@kernel
def _event(s: Any, actor: int, kind: int, gfn: int, root: int, pfn: int, incarnation: int, arg0: int, arg1: int) -> None:
    s.kinds[kind & (NR_KINDS - 1)] += 1
    if kind == TLB_FILL:
        pass
    elif (kind <= KVM_PAGE_FAULT and kind != TLB_FLUSH) or SRCU_LOCK <= kind <= SRCU_UNLOCK:
        _guest_event(s, actor, kind, gfn, root, pfn, incarnation, arg0, arg1)
    else:
        _table_event(s, actor, kind, gfn, root, pfn, arg0, arg1)
        _zap_event(s, actor, kind, gfn, root, incarnation, arg0, arg1)
        _slot_event(s, actor, kind, gfn, root, pfn, incarnation, arg0, arg1)
    s.prev_ns[actor] = s.now_ns


@entry
def advance(s: Any, feed: Any) -> int:
    """Judge events in order until an actor's batch is used up.

    Args:
        s: the state.
        feed: a row of FEED_WORDS for each actor, in the run's order of actors.

    Returns:
        The row whose batch is used up and wants the next one; OVER when all are over; FULL when findings must be taken first.
    """
    rows = feed.shape[0]
    while True:
        best = -1
        best_ns = FOREVER
        second = -1
        second_ns = FOREVER
        for row in range(rows):
            position = feed[row, FEED_POSITION]
            if position == feed[row, FEED_END]:
                if feed[row, FEED_OVER] == 0:
                    return row
                continue
            time_ns = peek(feed[row, FEED_ADDRESS] + 8 * position)
            if time_ns < best_ns:
                second = best
                second_ns = best_ns
                best = row
                best_ns = time_ns
            elif time_ns < second_ns:
                second = row
                second_ns = time_ns
        if best < 0:
            _finish(s)
            return OVER
        # This one goes on until another one's next event comes first.
        position = feed[best, FEED_POSITION]
        end = feed[best, FEED_END]
        actor = feed[best, FEED_ACTOR]
        base = (actor << EVENT_SHIFT) + feed[best, FEED_SEQ]
        times = feed[best, FEED_ADDRESS]
        kinds = feed[best, FEED_ADDRESS + 1]
        gfns = feed[best, FEED_ADDRESS + 2]
        roots = feed[best, FEED_ADDRESS + 3]
        pfns = feed[best, FEED_ADDRESS + 4]
        incarnations = feed[best, FEED_ADDRESS + 5]
        args0 = feed[best, FEED_ADDRESS + 6]
        args1 = feed[best, FEED_ADDRESS + 7]
        time_ns = best_ns
        while True:
            s.now_ns = time_ns
            s.event = base + position
            at = 8 * position
            _event(
                s,
                actor,
                peek16(kinds + 2 * position),
                peek(gfns + at),
                peek(roots + at),
                peek(pfns + at),
                peek(incarnations + at),
                peek(args0 + at),
                peek(args1 + at),
            )
            position += 1
            if position == end or s.nr_found > MAX_FOUND - RESERVE:
                break
            time_ns = peek(times + 8 * position)
            if time_ns > second_ns or (time_ns == second_ns and best > second):
                break
        feed[best, FEED_POSITION] = position
        if s.nr_found > MAX_FOUND - RESERVE:
            return FULL
