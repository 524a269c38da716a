# SPDX-License-Identifier: GPL-2.0-only
"""The rules that a log is held against: for every way to break one, its id, its kind and a sentence.

The ids are the invariants' (docs/reference/findings.md); `lockdep` and `oracle` have no number. A code is what compiled code
writes into a finding.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "DETAILS",
    "ENTRY_ON_FREED_ROOT",
    "ENTRY_ON_OBSOLETE_ROOT",
    "ENTRY_WITHOUT_FLUSH",
    "ENTRY_WITHOUT_REQUESTED_FLUSH",
    "ENTRY_WITH_REQUEST",
    "FAULT_AGAIN_IN_SRCU",
    "FAULT_INTO_INVALID_SLOT",
    "FAULT_INTO_OBSOLETE_ROOT",
    "FREED_IN_GRACE_PERIOD",
    "FREED_TOO_EARLY",
    "FREED_WHILE_LINKED",
    "FRONT_LOCK_DROPPED",
    "FRONT_NOT_LOCKED",
    "FRONT_REQUEST_FIRST",
    "FRONT_SAME_GENERATION",
    "FRONT_WITHOUT_BACK",
    "FRONT_WITHOUT_REQUEST",
    "FROZEN_OVERWRITTEN",
    "GENERATION_BACK",
    "GENERATION_NOT_MARKED",
    "GUEST_ACROSS_REQUEST",
    "INCARNATION_REUSED",
    "LAST_PUT_BEFORE_ZAP",
    "LAST_PUT_ON_VALID_ROOT",
    "LEAF_TO_LEAF",
    "LEFT_AT_COMMIT",
    "LEFT_IN_INVALID_ROOT",
    "LEFT_IN_VALID_ROOT",
    "LINKED_TWICE",
    "LOCK_HELD_TWICE",
    "LOCK_NOT_HELD",
    "NOT_IN_VERSION_1",
    "NO_EVENTS",
    "PAGES_LEFT",
    "PAGE_FREED_TWICE",
    "PAGE_TAKEN_TWICE",
    "RECORDED",
    "REFCOUNT_AT_ALLOC",
    "REFCOUNT_BELOW_ZERO",
    "REFCOUNT_SUM",
    "REFERENCES_LEFT",
    "RETURNED_WITHOUT_ACK",
    "ROOTS_LEFT",
    "ROOT_NOT_EMPTY",
    "ROOT_STILL_SCHEDULED",
    "ROOT_TAKEN_AFTER_LAST_PUT",
    "SPTES_LEFT",
    "SRCU_READER_LEFT_BEHIND",
    "STALE_USE_FOREIGN",
    "STALE_USE_LATE",
    "STALE_USE_RETIRED",
    "STALE_WRITEBACK_FOREIGN",
    "STALE_WRITEBACK_LATE",
    "STALE_WRITEBACK_RETIRED",
    "SWAP_STEP",
    "SWAP_WITHOUT_SYNC",
    "UNLINKED_ELSEWHERE",
    "UNLOCK_WITH_OWED_FLUSH",
    "YIELD_WITHOUT_PROGRESS",
    "Detail",
]


class Detail(NamedTuple):
    """One way to break a rule."""

    kind: str
    rule: str
    sentence: str


RECORDED = 0  # a finding that the run's own oracle logged
STALE_USE_RETIRED = 1
STALE_USE_FOREIGN = 2
STALE_USE_LATE = 3
STALE_WRITEBACK_RETIRED = 4
STALE_WRITEBACK_FOREIGN = 5
STALE_WRITEBACK_LATE = 6
LEFT_IN_VALID_ROOT = 7
LEFT_IN_INVALID_ROOT = 8
LEFT_AT_COMMIT = 9
ROOT_NOT_EMPTY = 10
ROOT_STILL_SCHEDULED = 11
FRONT_WITHOUT_BACK = 12
FRONT_NOT_LOCKED = 13
FRONT_LOCK_DROPPED = 14
FRONT_REQUEST_FIRST = 15
FRONT_WITHOUT_REQUEST = 16
FRONT_SAME_GENERATION = 17
FAULT_INTO_OBSOLETE_ROOT = 18
REFCOUNT_AT_ALLOC = 19
REFCOUNT_BELOW_ZERO = 20
REFCOUNT_SUM = 21
ROOT_TAKEN_AFTER_LAST_PUT = 22
ENTRY_ON_FREED_ROOT = 23
ROOTS_LEFT = 24
REFERENCES_LEFT = 25
LAST_PUT_ON_VALID_ROOT = 26
LAST_PUT_BEFORE_ZAP = 27
PAGE_TAKEN_TWICE = 28
PAGE_FREED_TWICE = 29
FREED_WHILE_LINKED = 30
LINKED_TWICE = 31
UNLINKED_ELSEWHERE = 32
PAGES_LEFT = 33
SPTES_LEFT = 34
FREED_TOO_EARLY = 35
FREED_IN_GRACE_PERIOD = 36
FROZEN_OVERWRITTEN = 37
LEAF_TO_LEAF = 38
UNLOCK_WITH_OWED_FLUSH = 39
FAULT_INTO_INVALID_SLOT = 40
FAULT_AGAIN_IN_SRCU = 41
GENERATION_BACK = 42
GENERATION_NOT_MARKED = 43
SWAP_STEP = 44
ENTRY_WITHOUT_FLUSH = 45
ENTRY_WITHOUT_REQUESTED_FLUSH = 46
ENTRY_WITH_REQUEST = 47
ENTRY_ON_OBSOLETE_ROOT = 48
YIELD_WITHOUT_PROGRESS = 49
NO_EVENTS = 50
RETURNED_WITHOUT_ACK = 51
GUEST_ACROSS_REQUEST = 52
SRCU_READER_LEFT_BEHIND = 53
SWAP_WITHOUT_SYNC = 54
LOCK_HELD_TWICE = 55
LOCK_NOT_HELD = 56
INCARNATION_REUSED = 57

# What these rest on is logged from format version 2 on.
NOT_IN_VERSION_1 = frozenset(
    {
        FRONT_WITHOUT_BACK,
        ROOT_STILL_SCHEDULED,
        LAST_PUT_BEFORE_ZAP,
        FREED_TOO_EARLY,
        FREED_IN_GRACE_PERIOD,
        UNLOCK_WITH_OWED_FLUSH,
        ENTRY_WITHOUT_REQUESTED_FLUSH,
        ENTRY_WITH_REQUEST,
        YIELD_WITHOUT_PROGRESS,
    }
)

# {a} is the number that the checker put down with the finding.
DETAILS: dict[int, Detail] = {
    STALE_USE_RETIRED: Detail("stale-use", "I3", "the incarnation is retired; the frame's tag is {a}"),
    STALE_USE_FOREIGN: Detail("stale-use", "I3", "the frame's tag {a} is not that of the incarnation's backing"),
    STALE_USE_LATE: Detail("stale-use", "I3", "logged {a} ns after the DELETE or MOVE of the incarnation had returned"),
    STALE_WRITEBACK_RETIRED: Detail("stale-writeback", "I2", "the incarnation is retired; the frame's tag is {a}"),
    STALE_WRITEBACK_FOREIGN: Detail("stale-writeback", "I2", "the frame's tag {a} is not that of the incarnation's backing"),
    STALE_WRITEBACK_LATE: Detail("stale-writeback", "I2", "logged {a} ns after the DELETE or MOVE of the incarnation had returned"),
    LEFT_IN_VALID_ROOT: Detail(
        "leftover-mapping", "I1", "{a} leafs of the slot are still in a valid root when kvm_arch_flush_shadow_memslot() returns"
    ),
    LEFT_IN_INVALID_ROOT: Detail(
        "leftover-mapping", "I7", "{a} leafs of the slot are still in an invalid root when kvm_arch_flush_shadow_memslot() returns"
    ),
    LEFT_AT_COMMIT: Detail("leftover-mapping", "I2", "{a} leafs of the slot are still in a root at its commit"),
    ROOT_NOT_EMPTY: Detail("leftover-mapping", "I7", "an invalid root has {a} present SPTEs after the back half"),
    ROOT_STILL_SCHEDULED: Detail("invariant", "I7", "an invalid root is still scheduled to be zapped after the back half"),
    FRONT_WITHOUT_BACK: Detail(
        "leftover-mapping",
        "I23",
        "a front half ran without its back half: the root is invalid, scheduled and not zapped when the flush returns",
    ),
    FRONT_NOT_LOCKED: Detail("invariant", "I5", "the front half began without mmu_lock held for write"),
    FRONT_LOCK_DROPPED: Detail("invariant", "I5", "mmu_lock was dropped between F1 and F3, after {a} vCPUs had been asked"),
    FRONT_REQUEST_FIRST: Detail("invariant", "I5", "a root was invalidated after {a} vCPUs had been asked to drop theirs"),
    FRONT_WITHOUT_REQUEST: Detail("invariant", "I5", "the front half ended and {a} vCPUs were not asked to drop their roots"),
    FRONT_SAME_GENERATION: Detail("invariant", "I5", "mmu_valid_gen is {a}, as it was before"),
    FAULT_INTO_OBSOLETE_ROOT: Detail("invariant", "I6", "a fault installed into a root that was invalid before mmu_lock was taken"),
    REFCOUNT_AT_ALLOC: Detail("invariant", "I8", "a root was allocated with {a} references, not 2"),
    REFCOUNT_BELOW_ZERO: Detail("invariant", "I8", "the reference count dropped to {a}"),
    REFCOUNT_SUM: Detail(
        "invariant", "I8", "at its invalidation the references differ from those of the vCPUs and the TDP MMU's own by {a}"
    ),
    ROOT_TAKEN_AFTER_LAST_PUT: Detail("invariant", "I8", "a reference was taken after the last one had been put"),
    ENTRY_ON_FREED_ROOT: Detail("invariant", "I8", "entered the guest on a root whose last reference had been put"),
    ROOTS_LEFT: Detail("invariant", "I8", "{a} roots are left at the end"),
    REFERENCES_LEFT: Detail("invariant", "I8", "references taken and dropped differ by {a} at the end"),
    LAST_PUT_ON_VALID_ROOT: Detail("invariant", "I9", "the last reference of a valid root was put"),
    LAST_PUT_BEFORE_ZAP: Detail("invariant", "I10", "the last reference was put before the zap of the root had ended"),
    PAGE_TAKEN_TWICE: Detail("invariant", "I11", "a page was taken from the pool that had not been given back"),
    PAGE_FREED_TWICE: Detail("invariant", "I11", "a page was given back that nobody had taken"),
    FREED_WHILE_LINKED: Detail("invariant", "I11", "a table was freed while it was still linked"),
    LINKED_TWICE: Detail("invariant", "I11", "a table was linked that is linked already, below table {a}"),
    UNLINKED_ELSEWHERE: Detail("invariant", "I11", "a table was unlinked that hangs below table {a}"),
    PAGES_LEFT: Detail("invariant", "I11", "{a} pages were not given back at the end"),
    SPTES_LEFT: Detail("invariant", "I11", "{a} more SPTEs were set than cleared at the end"),
    FREED_TOO_EARLY: Detail("invariant", "I12", "a table was freed without a grace period that began after it was unlinked"),
    FREED_IN_GRACE_PERIOD: Detail("invariant", "I12", "a table was freed before the grace period had ended"),
    FROZEN_OVERWRITTEN: Detail("invariant", "I13", "a FROZEN SPTE was overwritten with {a:#x}"),
    LEAF_TO_LEAF: Detail("invariant", "I14", "a present leaf of pfn {a:#x} was replaced by a leaf of another frame"),
    UNLOCK_WITH_OWED_FLUSH: Detail("invariant", "I16", "mmu_lock is released with a flush owed for the zap of a valid root"),
    FAULT_INTO_INVALID_SLOT: Detail(
        "invariant", "I18", "a fault installed for a slot that had been INVALID since before it looked"
    ),
    FAULT_AGAIN_IN_SRCU: Detail("invariant", "I18", "a fault was retried on an INVALID slot without leaving kvm->srcu"),
    GENERATION_BACK: Detail("invariant", "I20", "generation {a:#x} does not follow the one before"),
    GENERATION_NOT_MARKED: Detail(
        "invariant", "I20", "generation {a:#x} during a swap is not the one before with the update-in-progress bit"
    ),
    SWAP_STEP: Detail("invariant", "I20", "step {a} of a swap is out of order"),
    ENTRY_WITHOUT_FLUSH: Detail("invariant", "I21", "entered the guest without a flush since the root was loaded"),
    ENTRY_WITHOUT_REQUESTED_FLUSH: Detail("invariant", "I21", "entered the guest without the TLB flush that was requested"),
    ENTRY_WITH_REQUEST: Detail("invariant", "I21", "entered the guest with request {a} pending"),
    ENTRY_ON_OBSOLETE_ROOT: Detail("invariant", "I21", "entered the guest on an obsolete root"),
    YIELD_WITHOUT_PROGRESS: Detail(
        "invariant", "I25", "a zap yielded again without having got ahead, for the {a}. time in this root"
    ),
    NO_EVENTS: Detail("invariant", "I25", "logged nothing for the last {a:.1f} s of the run"),
    RETURNED_WITHOUT_ACK: Detail("invariant", "I26", "kvm_make_all_cpus_request(WAIT) returned before vCPU {a} had acknowledged"),
    GUEST_ACROSS_REQUEST: Detail(
        "invariant", "I26", "stayed in the guest from before a request until after its sender had returned"
    ),
    SRCU_READER_LEFT_BEHIND: Detail(
        "invariant", "I27", "synchronize_srcu() returned while this reader was inside since {a} ns before the wait"
    ),
    SWAP_WITHOUT_SYNC: Detail("invariant", "I27", "the swap went on without synchronize_srcu()"),
    LOCK_HELD_TWICE: Detail("invariant", "lockdep", "{lock} was held by two that exclude each other"),
    LOCK_NOT_HELD: Detail("invariant", "lockdep", "{lock} was released and not held"),
    INCARNATION_REUSED: Detail("invariant", "oracle", "incarnation is not newer than {a}: its number was used before"),
}
