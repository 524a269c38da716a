# SPDX-License-Identifier: GPL-2.0-only
"""Guest entries, requests and kicks as the log shows them.

A sender sets the request, then looks at the mode and kicks who may be in the guest; a vCPU sets its mode, then looks at the
requests. The log shows the events beside these steps, so the rules compare only what a correct order implies: a vCPU that left
kvm->srcu (which it does between its mode and its look) after the request was logged must have seen it.
"""

from __future__ import annotations

from typing import Any

from stress.check.compiled import kernel
from stress.check.finding import EXACT, found, found_before, whole
from stress.check.rules import (
    ENTRY_ON_FREED_ROOT,
    ENTRY_ON_OBSOLETE_ROOT,
    ENTRY_WITH_REQUEST,
    ENTRY_WITHOUT_FLUSH,
    ENTRY_WITHOUT_REQUESTED_FLUSH,
    GUEST_ACROSS_REQUEST,
    RETURNED_WITHOUT_ACK,
)
from stress.check.state import FIRST_OTHER, MAX_PAGES, NEVER, NO_EVENT, NR_REQUESTS

__all__ = [
    "ipi_ack",
    "ipi_send",
    "kvm_entry",
    "kvm_exit",
    "request_clear",
    "request_done",
    "request_set",
    "settle_unacked",
    "tlb_flush",
]

REQUEST_TLB_FLUSH = 1
FLUSH_ON_LOAD = 0


@kernel
def kvm_entry(s: Any, vcpu: int, root: int) -> None:
    """A vCPU is past its last check: root not obsolete, no request pending, flushed since the root was loaded (I21)."""
    s.in_guest_ns[vcpu] = s.now_ns
    s.in_guest_event[vcpu] = s.event
    if vcpu >= FIRST_OTHER or not 0 < root < MAX_PAGES:
        return
    if s.root[vcpu] == root and s.root_flushed[vcpu] == 0:
        found(s, ENTRY_WITHOUT_FLUSH, EXACT, NO_EVENT, NEVER, root, 0)
    if s.must_flush[vcpu] != 0:
        found(s, ENTRY_WITHOUT_REQUESTED_FLUSH, EXACT, NO_EVENT, NEVER, root, 0)
        s.must_flush[vcpu] = 0
    if not whole(s):
        return
    checked_ns = s.srcu_left_ns[vcpu]
    for request in range(NR_REQUESTS):
        asked_ns = s.asked_ns[vcpu, request]
        if asked_ns != NEVER and checked_ns > asked_ns:
            found(s, ENTRY_WITH_REQUEST, checked_ns - asked_ns, s.asked_event[vcpu, request], asked_ns, root, request)
            s.asked_ns[vcpu, request] = NEVER
    # The root that it loaded, not one that had the page before.
    if s.root_invalid[root] != 0 and s.root_asked_ns[root] != NEVER:
        margin = min(checked_ns - s.root_asked_ns[root], s.root_invalid_ns[root] - s.loaded_ns[vcpu])
        if margin > 0:
            found(s, ENTRY_ON_OBSOLETE_ROOT, margin, s.root_invalid_event[root], s.root_invalid_ns[root], root, 0)
    if s.root_known[root] != 0 and s.root_final[root] != 0:
        margin = min(checked_ns - s.root_put_ns[root], s.root_put_ns[root] - s.loaded_ns[vcpu])
        if margin > 0:
            found(s, ENTRY_ON_FREED_ROOT, margin, s.root_put_event[root], s.root_put_ns[root], root, 0)


@kernel
def kvm_exit(s: Any, vcpu: int, root: int) -> None:
    """A vCPU left the guest: it may not have been there since before a request whose sender had returned (I26)."""
    entered = s.in_guest_ns[vcpu]
    s.in_guest_ns[vcpu] = NEVER
    if entered == NEVER:
        return
    for i in range(2):
        margin = min(s.broadcast_ns[i] - entered, s.now_ns - s.broadcast_done_ns[i])
        if s.broadcast_done_ns[i] != NEVER and margin > 0:
            found(s, GUEST_ACROSS_REQUEST, margin, s.broadcast_event[i], s.broadcast_done_ns[i], root, s.broadcast_ns[i] - entered)
            return


@kernel
def tlb_flush(s: Any, vcpu: int, root: int, reason: int) -> None:
    """A vCPU dropped translations: of the root that it loaded, or all of them on request."""
    if reason == FLUSH_ON_LOAD:
        if s.root[vcpu] == root:
            s.root_flushed[vcpu] = 1
    else:
        s.must_flush[vcpu] = 0


@kernel
def request_set(s: Any, actor: int, request: int, vcpu: int) -> None:
    """A request was set; the vCPU may have seen it a little earlier than the log says."""
    if s.asking[actor] == 0:
        s.asking_ns[actor] = s.now_ns
    s.asking[actor] += 1
    if not 0 <= vcpu < FIRST_OTHER or not 0 <= request < NR_REQUESTS:
        return
    s.kick_ns[actor, vcpu] = NEVER
    # A clear since the sender's event before may have been of this very request; by its own clock even a little earlier.
    if whole(s) and s.cleared_ns[vcpu, request] < s.prev_ns[actor] - s.window_ns:
        s.asked_ns[vcpu, request] = s.now_ns
        s.asked_event[vcpu, request] = s.event


@kernel
def request_clear(s: Any, vcpu: int, request: int) -> None:
    """A vCPU took a request and is going to obey it."""
    if 0 <= request < NR_REQUESTS:
        s.asked_ns[vcpu, request] = NEVER
        s.cleared_ns[vcpu, request] = s.now_ns
    if request == REQUEST_TLB_FLUSH:
        s.must_flush[vcpu] = 1


@kernel
def ipi_send(s: Any, actor: int, vcpu: int) -> None:
    """A vCPU was kicked: its acknowledgement comes after the sender's event before this one."""
    if 0 <= vcpu < FIRST_OTHER:
        s.kick_ns[actor, vcpu] = s.prev_ns[actor]
        s.kick_event[actor, vcpu] = s.event


@kernel
def ipi_ack(s: Any, vcpu: int) -> None:
    """A vCPU ran the handler of a kick."""
    settle_unacked(s, vcpu)
    s.acked_ns[vcpu] = s.now_ns


@kernel
def settle_unacked(s: Any, vcpu: int) -> None:
    """A broadcast has returned, and until this moment no acknowledgement of its kick came (I26)."""
    done_ns = s.unacked_ns[vcpu]
    s.unacked_ns[vcpu] = NEVER
    margin = min(s.unacked_kick_ns[vcpu] - s.acked_ns[vcpu], s.now_ns - done_ns)
    if done_ns != NEVER and margin > 0:
        other, other_ns = (s.unacked_other_event[vcpu], s.unacked_other_ns[vcpu])
        found_before(s, RETURNED_WITHOUT_ACK, margin, s.unacked_event[vcpu], done_ns, other, other_ns, -1, vcpu)


@kernel
def request_done(s: Any, actor: int) -> None:
    """kvm_make_all_cpus_request(WAIT) returned: everybody who was kicked has acknowledged (I26)."""
    for vcpu in range(s.nr_vcpus):
        kicked = s.kick_ns[actor, vcpu]
        s.kick_ns[actor, vcpu] = NEVER
        if kicked == NEVER or kicked < s.whole_from_ns or not whole(s):
            continue
        if kicked > s.acked_ns[vcpu]:
            # By a clock that is ahead of this one it may have done so in time: its next one tells.
            settle_unacked(s, vcpu)
            s.unacked_ns[vcpu] = s.now_ns
            s.unacked_event[vcpu] = s.event
            s.unacked_kick_ns[vcpu] = kicked
            # The other side of the story is the vCPU's entry, if it is still inside.
            s.unacked_other_event[vcpu] = s.kick_event[actor, vcpu]
            s.unacked_other_ns[vcpu] = kicked
            if s.in_guest_ns[vcpu] != NEVER:
                s.unacked_other_event[vcpu] = s.in_guest_event[vcpu]
                s.unacked_other_ns[vcpu] = s.in_guest_ns[vcpu]
    s.broadcast_ns[1] = s.broadcast_ns[0]
    s.broadcast_done_ns[1] = s.broadcast_done_ns[0]
    s.broadcast_event[1] = s.broadcast_event[0]
    s.broadcast_ns[0] = s.asking_ns[actor]
    s.broadcast_done_ns[0] = s.now_ns
    s.broadcast_event[0] = s.event
    s.asking[actor] = 0
