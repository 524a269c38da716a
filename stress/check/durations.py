# SPDX-License-Identifier: GPL-2.0-only
"""How long things took: one pass over an actor's events pairs each end with its begin and fills histograms.

An actor's own events tell everything but overlaps. For these the controller's events are read ahead a batch at a time and cut
into edges, the begins and ends of its zaps; a vCPU passes the edges in the order of time while its own events are read, so that
nobody's events are ever held as a whole.

| series                          | begin                                  | end                                |
|---------------------------------|----------------------------------------|------------------------------------|
| lock hold                       | lock_acquire                           | lock_release of the same lock      |
| lock hold, srcu                 | srcu_lock                              | srcu_unlock                        |
| lock wait                       | contention_begin                       | lock_acquire of the same lock      |
| slot operation                  | slot_op_begin                          | slot_op_end of the same operation  |
| request broadcast               | request_set, the first of a broadcast  | request_done of the same request   |
| zap, flush, SRCU sync, RCU      | *_begin                                | *_end                              |
| in guest                        | kvm_entry                              | kvm_exit, any reason but cancelled |
| outside                         | kvm_exit, any reason but cancelled     | kvm_entry                          |
| page fault                      | kvm_exit, reason fault                 | kvm_page_fault                     |
| halt                            | halt                                   | srcu_lock                          |

An end without a begin, and a begin without an end, are counted as unpaired: a log may begin and end in the middle of anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stress.check.compiled import entry, kernel
from stress.check.series import (
    ALL,
    BEGIN_OF,
    BOTH_HALVES,
    CANCELLED,
    EDGE_LOST,
    END_OF,
    FAULT,
    FAULTED,
    FRONT_BEGINS,
    HALF_OF,
    HALT,
    HOLD,
    INT64_MAX,
    NEVER,
    NR_HALVES,
    NR_KINDS,
    NR_LOCKS,
    NR_OPERATIONS,
    NR_REASONS,
    NR_REQUESTS,
    NR_RESULTS,
    NR_ZAPS,
    OPEN_FAULT,
    OPEN_STAY,
    OUTSIDE,
    OVERLAP,
    REQUEST,
    SLOT_OP,
    SRCU,
    STAY,
    SUB_BUCKET_BITS,
    TLB_HIT,
    UNJUDGED,
    UNTOUCHED,
    WAIT,
    ZAP_FLUSH,
)
from stress.log.schema import Kind

if TYPE_CHECKING:
    from stress.check.series import Records

__all__ = ["add", "bucket_index", "cross_edges", "fill"]

Words = npt.NDArray[np.int64]


# --- histograms


@kernel
def bucket_index(value: int) -> int:
    """The bucket of a value from 0 to 2^63 - 1."""
    rest = value >> (SUB_BUCKET_BITS + 1)
    shift = 0
    if rest >= 1 << 32:
        rest >>= 32
        shift += 32
    if rest >= 1 << 16:
        rest >>= 16
        shift += 16
    if rest >= 1 << 8:
        rest >>= 8
        shift += 8
    if rest >= 1 << 4:
        rest >>= 4
        shift += 4
    if rest >= 1 << 2:
        rest >>= 2
        shift += 2
    if rest >= 1 << 1:
        rest >>= 1
        shift += 1
    shift += rest
    return (shift << SUB_BUCKET_BITS) + (value >> shift)


@kernel
def add(held: Any, series: int, value: int) -> None:
    """Put a value into a series; a negative one, which only a damaged log gives, counts as the highest of all."""
    value = value if value >= 0 else INT64_MAX
    if held.count[series] == 0:
        held.min[series] = value
        held.max[series] = value
    elif value < held.min[series]:
        held.min[series] = value
    elif value > held.max[series]:
        held.max[series] = value
    held.count[series] += 1
    total = held.total[series]
    held.total[series] = total + value if total <= INT64_MAX - value else INT64_MAX
    held.buckets[series, bucket_index(value)] += 1


# --- pairs


@kernel
def _begin(actor: Any, place: int, now_ns: int) -> None:
    if actor.open_ns[place] != NEVER:
        actor.unpaired_begins[place] += 1
    actor.open_ns[place] = now_ns


@kernel
def _end(actor: Any, held: Any, place: int, series: int, now_ns: int) -> None:
    begun_ns = actor.open_ns[place]
    if begun_ns == NEVER:
        actor.unpaired_ends[place] += 1
        return
    actor.open_ns[place] = NEVER
    add(held, series, now_ns - begun_ns)


@kernel
def _end_if_open(actor: Any, held: Any, place: int, now_ns: int) -> None:
    if actor.open_ns[place] != NEVER:
        _end(actor, held, place, place, now_ns)


@kernel
def _known(actor: Any, code: int, codes: int) -> bool:
    if 0 <= code < codes:
        return True
    actor.unknown_codes += 1
    return False


# --- overlaps


@kernel
def _cross(actor: Any, edges: Any, now_ns: int) -> None:
    """Pass the edges that lie before an event of the actor."""
    at = actor.cursor
    while at < edges.count and (edges.ns[at] < now_ns or (edges.ns[at] == now_ns and actor.edges_first != 0)):
        code = edges.code[at]
        if code == EDGE_LOST:
            actor.known = 0
            actor.active = 0
            actor.unjudged = ALL
        else:
            zap = code >> 1
            # slots_lock lets one zap run at a time, and the halves lie inside a flush: its edges settle them too.
            settled = ALL if zap == ZAP_FLUSH else BOTH_HALVES
            actor.known |= settled
            actor.active &= ~settled
            if code & 1 == 0:
                actor.active |= 1 << zap
            # Also by its end: it ran until here, whether or not its begin was seen.
            actor.touched |= 1 << zap
            if code == FRONT_BEGINS:
                if actor.in_guest > 0:
                    edges.in_guest[at] += 1
                elif actor.in_guest < 0:
                    edges.unknown[at] += 1
        at += 1
    actor.cursor = at


@kernel
def _fault_begins(actor: Any, now_ns: int) -> None:
    _begin(actor, OPEN_FAULT, now_ns)
    actor.touched = actor.active
    actor.unjudged = ALL & ~actor.known


@kernel
def _fault_ends(actor: Any, held: Any, result: int, now_ns: int) -> None:
    begun_ns = actor.open_ns[OPEN_FAULT]
    _end(actor, held, OPEN_FAULT, FAULT + result, now_ns)
    if begun_ns == NEVER:
        return
    # An overlap that was seen is certain, even if something else was not seen.
    for zap in range(NR_ZAPS):
        if actor.touched >> zap & 1 != 0:
            add(held, OVERLAP + zap, now_ns - begun_ns)
    if actor.touched == 0:
        add(held, UNTOUCHED if actor.unjudged == 0 else UNJUDGED, now_ns - begun_ns)


# --- events


@kernel
def _exit(actor: Any, held: Any, reason: int, now_ns: int) -> None:
    actor.in_guest = 0
    # A cancelled entry has no kvm_entry: the vCPU was outside all the time.
    if reason == CANCELLED:
        return
    if actor.open_ns[OPEN_STAY] != NEVER:
        actor.guest_ns += now_ns - actor.open_ns[OPEN_STAY]
    _end(actor, held, OPEN_STAY, STAY + reason, now_ns)
    _begin(actor, OUTSIDE, now_ns)
    if reason == FAULTED:
        _fault_begins(actor, now_ns)


@kernel
def _guest_event(actor: Any, held: Any, edges: Any, kind: int, now_ns: int, arg0: int) -> None:
    """Events between which a vCPU is in the guest, outside, or handles a fault."""
    _cross(actor, edges, now_ns)
    if kind == Kind.KVM_ENTRY:
        # The first entry has nothing before it.
        _end_if_open(actor, held, OUTSIDE, now_ns)
        _begin(actor, OPEN_STAY, now_ns)
        actor.in_guest = 1
    elif kind == Kind.KVM_EXIT:
        if _known(actor, arg0, NR_REASONS):
            _exit(actor, held, arg0, now_ns)
    elif _known(actor, arg0, NR_RESULTS):
        actor.results[arg0] += 1
        _fault_ends(actor, held, arg0, now_ns)


@kernel
def _lock_event(actor: Any, held: Any, kind: int, now_ns: int, lock: int) -> None:
    if not _known(actor, lock, NR_LOCKS):
        return
    if kind == Kind.LOCK_ACQUIRE:
        # Most are had at once.
        _end_if_open(actor, held, WAIT + lock, now_ns)
        _begin(actor, HOLD + lock, now_ns)
    elif kind == Kind.LOCK_RELEASE:
        _end(actor, held, HOLD + lock, HOLD + lock, now_ns)
    else:
        _begin(actor, WAIT + lock, now_ns)


@kernel
def _slot_op_event(actor: Any, held: Any, kind: int, now_ns: int, operation: int) -> None:
    if not _known(actor, operation, NR_OPERATIONS):
        return
    if kind == Kind.SLOT_OP_BEGIN:
        _begin(actor, SLOT_OP + operation, now_ns)
    else:
        actor.operations[operation] += 1
        _end(actor, held, SLOT_OP + operation, SLOT_OP + operation, now_ns)


@kernel
def _request_event(actor: Any, held: Any, kind: int, now_ns: int, request: int, target: int) -> None:
    if not _known(actor, request, NR_REQUESTS):
        return
    if kind == Kind.REQUEST_DONE:
        _end(actor, held, REQUEST + request, REQUEST + request, now_ns)
        return
    # A broadcast asks the vCPUs in ascending order.
    if actor.open_ns[REQUEST + request] == NEVER or target <= actor.last_target[request]:
        _begin(actor, REQUEST + request, now_ns)
    actor.last_target[request] = target


@kernel
def _rare_event(actor: Any, held: Any, kind: int, now_ns: int, arg0: int, arg1: int) -> None:
    """Events of the controller and the helpers, and what a vCPU does now and then."""
    if BEGIN_OF[kind] >= 0:
        _begin(actor, BEGIN_OF[kind], now_ns)
    elif END_OF[kind] >= 0:
        _end(actor, held, END_OF[kind], END_OF[kind], now_ns)
        half = HALF_OF[kind]
        if half >= 0:
            actor.yields_max[half] = max(actor.yields_max[half], actor.yields_now[half])
            actor.yields_now[half] = 0
    elif kind == Kind.ZAP_YIELD:
        if _known(actor, arg0, NR_HALVES):
            actor.yields[arg0] += 1
            actor.yields_now[arg0] += 1
    elif kind == Kind.SLOT_OP_BEGIN or kind == Kind.SLOT_OP_END:  # noqa: PLR1714 - a tuple of members does not compile
        _slot_op_event(actor, held, kind, now_ns, arg0)
    elif kind == Kind.REQUEST_SET or kind == Kind.REQUEST_DONE:  # noqa: PLR1714 - as above
        _request_event(actor, held, kind, now_ns, arg0, arg1)
    elif kind == Kind.VCPU_DESTROY:
        # It never enters again.
        actor.open_ns[OUTSIDE] = NEVER


@entry
def fill(
    state: Records,
    histograms: Records,
    zaps: Records,
    time_ns: Words,
    kinds: npt.NDArray[np.int16],
    arg0: Words,
    arg1: Words,
) -> None:
    """Go on with the next events of an actor.

    Args:
        state: the actor's, one ACTOR.
        histograms: one HISTOGRAMS, of the actor or of several.
        zaps: one EDGES, in the order of time; what the actor has passed is not looked at again.
        time_ns: the events' columns, all of one length.
        kinds: likewise.
        arg0: likewise.
        arg1: likewise.
    """
    actor = state[0]
    held = histograms[0]
    edges = zaps[0]
    for row in range(len(kinds)):
        kind = kinds[row]
        if not 0 <= kind < NR_KINDS:
            actor.unknown_kinds += 1
            continue
        actor.kinds[kind] += 1
        # The frequent ones first.
        if kind == Kind.GUEST_ACCESS:
            actor.tlb_hits += arg1[row] >> TLB_HIT & 1
        elif Kind.KVM_ENTRY <= kind <= Kind.KVM_PAGE_FAULT:
            _guest_event(actor, held, edges, kind, time_ns[row], arg0[row])
        elif kind == Kind.SRCU_LOCK:
            _end_if_open(actor, held, HALT, time_ns[row])
            _begin(actor, HOLD + SRCU, time_ns[row])
        elif kind == Kind.SRCU_UNLOCK:
            _end(actor, held, HOLD + SRCU, HOLD + SRCU, time_ns[row])
        elif kind == Kind.LOCK_ACQUIRE or kind == Kind.LOCK_RELEASE or kind == Kind.CONTENTION_BEGIN:  # noqa: PLR1714 - as above
            _lock_event(actor, held, kind, time_ns[row], arg0[row])
        elif kind != Kind.TLB_FILL and kind != Kind.SPTE_CHANGE:  # noqa: PLR1714 - as above
            _rare_event(actor, held, kind, time_ns[row], arg0[row], arg1[row])


@entry
def cross_edges(state: Records, zaps: Records, until_ns: int) -> None:
    """Pass the edges that lie before `until_ns`, up to which the actor does nothing.

    Args:
        state: as for `fill`.
        zaps: as for `fill`.
        until_ns: the actor's next event is not earlier.
    """
    _cross(state[0], zaps[0], until_ns)
