# SPDX-License-Identifier: GPL-2.0-only
"""Planted bugs: named switches at named places of the model, off by default, one predicted branch each.

The names appear in `bugs = [...]` of a scenario. Every place where one acts carries the comment "Deliberate bug".
"""

from __future__ import annotations

from dataclasses import dataclass

from model.jit import kernel
from model.layout import Vm

__all__ = [
    "ADVANCE_AFTER_YIELD",
    "BACK_HALF_AFTER_COMMIT",
    "FAULT_INTO_INVALIDATED_ROOT",
    "ITERATOR_WITHOUT_REFERENCE",
    "MUTATIONS",
    "NO_ENTRY_BARRIER",
    "NO_FLUSH_ON_LOAD",
    "NO_GIFT",
    "NO_REQUEST",
    "NO_SRCU_WAIT",
    "PUT_BEFORE_ZAP",
    "REQUEST_BEFORE_INVALIDATE",
    "REQUEST_WITHOUT_ACK",
    "RETURN_BEFORE_BACK_HALF",
    "ZAP_ONLY_WITHOUT_FLUSH",
    "Mutation",
    "planted",
]

REQUEST_WITHOUT_ACK = 0
NO_REQUEST = 1
REQUEST_BEFORE_INVALIDATE = 2
NO_FLUSH_ON_LOAD = 3
NO_SRCU_WAIT = 4
ZAP_ONLY_WITHOUT_FLUSH = 5
FAULT_INTO_INVALIDATED_ROOT = 6
RETURN_BEFORE_BACK_HALF = 7
BACK_HALF_AFTER_COMMIT = 8
ADVANCE_AFTER_YIELD = 9
NO_GIFT = 10
PUT_BEFORE_ZAP = 11
ITERATOR_WITHOUT_REFERENCE = 12
NO_ENTRY_BARRIER = 13


@dataclass(frozen=True)
class Mutation:
    """One planted bug: its word in `vm.mutation`, the historic race it revives (or ""), what it breaks."""

    id: int
    bug: str
    doc: str


MUTATIONS: dict[str, Mutation] = {
    "request-without-ack": Mutation(REQUEST_WITHOUT_ACK, "", "F3 sends its IPIs and does not wait for the acknowledgements (I26)."),
    "no-request": Mutation(NO_REQUEST, "", "F3 is missing: no vCPU is asked to drop its obsolete root (I5)."),
    "request-before-invalidate": Mutation(
        REQUEST_BEFORE_INVALIDATE,
        "",
        "F3 stands before F2: a vCPU may serve the request while its root is still valid.",
    ),
    "no-flush-on-load": Mutation(
        NO_FLUSH_ON_LOAD, "", "kvm_mmu_load() does not flush: a recycled root page revives old translations (I21)."
    ),
    "no-srcu-wait": Mutation(
        NO_SRCU_WAIT, "", "The swap does not wait for SRCU readers: a fault may still use the old slot (I27)."
    ),
    "zap-only-without-flush": Mutation(
        ZAP_ONLY_WITHOUT_FLUSH, "B36", "The zap-only branch drops its flush before unlock and before a yield (I16)."
    ),
    "fault-into-invalidated-root": Mutation(
        FAULT_INTO_INVALIDATED_ROOT, "B01", "The fault does not check whether its root became obsolete (I6)."
    ),
    "return-before-back-half": Mutation(
        RETURN_BEFORE_BACK_HALF,
        "",
        "The flush returns after the front half; the back half runs before the next slot operation.",
    ),
    "back-half-after-commit": Mutation(BACK_HALF_AFTER_COMMIT, "", "The back half runs after the commit that frees the slot (I2)."),
    "advance-after-yield": Mutation(
        ADVANCE_AFTER_YIELD,
        "B08",
        "After a yield the iterator restarts and is then advanced: one entry is skipped (I7).",
    ),
    "no-gift": Mutation(
        NO_GIFT,
        "B22",
        "A new root carries no reference of the TDP MMU's own, which the back half puts all the same (I8).",
    ),
    "put-before-zap": Mutation(
        PUT_BEFORE_ZAP, "", "K4 before K3; masked by the reference of the iterator as long as that is taken (I10)."
    ),
    "iterator-without-reference": Mutation(
        ITERATOR_WITHOUT_REFERENCE,
        "",
        "The root iterator takes no reference; the gifted one hides that until K4 (I10).",
    ),
    "no-entry-barrier": Mutation(
        NO_ENTRY_BARRIER,
        "",
        "No full barrier between mode := IN_GUEST_MODE and the read of the requests, nor srcu_read_unlock()'s in its place.",
    ),
}


@kernel
def planted(vm: Vm, mutation: int) -> bool:
    """Is this bug planted? The words are written before any actor starts, so a plain read serves."""
    return vm.mutation[mutation] != 0
