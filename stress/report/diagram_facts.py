# SPDX-License-Identifier: GPL-2.0-only
"""What an execution's events and steps say in the words of a KVM engineer: one short fact each, under the kernel's function names.

Events are the facts, with ids of model/constants.py; the functions that a step was inside say where. What only keeps the model
going (page caches, reference counts of an iterator, RCU sections) says nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from model.layout import actor_name
from stress.log.schema import FROZEN_SPTE, Kind
from stress.report.diagram_words import (
    FOREIGN,
    MMU_LOCK_READ,
    MMU_LOCK_WRITE,
    RETIRED,
    TLB_HIT,
    Event,
    Fact,
    number,
    place_of,
    spte_part,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from stress.explore.interpreted import Step

__all__ = ["Narrator"]

REQ_TLB_FLUSH = 1
BEHIND_SWAP_2 = {"delete": "gone", "move": "moved"}
PAGE_FAULTS = {
    "retry_invalid_slot": ": slot is INVALID, retry",
    "retry_stale": ": root is obsolete, retry",
    "fixed": " fixed",
    "mmio": ": no slot, MMIO",
    "retry_race": ": lost a race, retry",
    "spurious": ": spurious",
}
EXITS = {"voluntary": "VM exit", "ipi": "VM exit, IPI", "cancelled_entry": "entry cancelled", "halt": "VM exit, HLT"}


class Narrator:
    """Tells events as facts; it remembers what a single event does not say.

    `runs` is the number of the run of each event, a run being what one actor does without another in between. With `buffered`
    a store is no step, so that the load before it has to stand for both.
    """

    def __init__(self, events: list[Event], runs: list[int], *, buffered: bool = False) -> None:
        self._buffered = buffered
        self._events = events
        self._runs = runs
        self._functions: tuple[tuple[str, int], ...] = ()
        self._at = 0
        self._operation = ""
        self._slot = 0
        self._swaps = 0
        self._asked_in = -1
        self._unacked: set[int] = set()
        self._interrupted = False
        self._syncing = 0
        self._left_srcu: set[int] = set()
        self._filled: dict[int, tuple[int, int]] = {}  # of each actor the run and gfn of its last TLB fill
        self._valid_gen = 0
        self._telling: dict[int, Callable[[Event], Fact | None]] = {
            int(Kind[name[1:].upper()]): getattr(self, name)
            for name in dir(self)
            if name.startswith("_") and name[1:].upper() in Kind.__members__
        }

    def event(self, at: int, functions: tuple[tuple[str, int], ...]) -> Fact | None:
        """What an event says, or nothing.

        Args:
            at: its index.
            functions: those that its actor was inside at its last step.
        """
        self._at, self._functions = at, functions
        event = self._events[at]
        tell = self._telling.get(event.kind)
        return tell(event) if tell is not None else None

    def step(self, step: Step) -> Fact | None:
        """What a step says of which there is no event: F1, and how the quirk was read."""
        if step.field == "kvm.mmu_valid_gen":
            if step.primitive == "load":
                self._valid_gen = 1 - step.result
            if (step.primitive == "load") == self._buffered:
                return Fact(place_of(step.functions), f"F1 mmu_valid_gen := {self._valid_gen}")
        if step.field == "kvm.disabled_quirks" and "kvm_memslot_flush_zap_all" in (name for name, _ in step.functions):
            return Fact(place_of(step.functions), f"zap all? {'no' if step.result else 'yes'}")
        return None

    def _inside(self, function: str) -> bool:
        return any(name == function for name, _ in self._functions)

    def _here(self, before: str, item: str = "", after: str = "") -> Fact:
        return Fact(place_of(self._functions), before, item, after)

    # --- the guest

    def _kvm_entry(self, event: Event) -> Fact:
        return Fact("", f"guest entry on root {event.root}")

    def _kvm_exit(self, event: Event) -> Fact:
        reason = event.word("arg0")
        return Fact("", EXITS[reason] if reason in EXITS else f"EPT violation gfn {number(event.gfn)}")

    def _tlb_fill(self, event: Event) -> Fact:
        self._filled[event.actor] = (self._runs[self._at], event.gfn)
        return Fact("", f"TLB fill gfn {number(event.gfn)} -> pfn {number(event.pfn)} (inc {event.incarnation})")

    def _guest_access(self, event: Event) -> Fact | None:
        stale = event.arg1 & (RETIRED | FOREIGN)
        if not stale and not event.arg1 & TLB_HIT and self._filled.get(event.actor) == (self._runs[self._at], event.gfn):
            return None  # the fill has just said so
        how = "TLB hit gfn " if event.arg1 & TLB_HIT else "touches gfn "
        owner = f": {_owner(event)}"
        return Fact("", how, f"{number(event.gfn)} -> pfn {number(event.pfn)}", owner if stale else "")

    def _tlb_flush(self, event: Event) -> Fact:
        return self._here(f"flushes TLB of root {event.arg0}" if event.arg0 else "flushes whole TLB")

    def _halt(self, _: Event) -> Fact:
        return Fact("", "halts")

    # --- requests

    def _request_set(self, event: Event) -> Fact:
        if self._asked_in < 0:
            self._asked_in = self._runs[self._at]
        step = "F3 " if self._inside("kvm_mmu_zap_all_fast_front_half") else ""
        what = "TLB_FLUSH" if event.arg0 == REQ_TLB_FLUSH else "request"
        return self._here(f"{step}{what} -> ", actor_name(event.arg1))

    def _ipi_send(self, event: Event) -> Fact:
        self._unacked.add(event.arg1)
        self._interrupted = True
        return self._here("IPI -> ", actor_name(event.arg1))

    def _ipi_ack(self, event: Event) -> Fact:
        self._unacked.discard(event.actor)
        return Fact("", "acks IPI")

    def _request_done(self, _: Event) -> Fact | None:
        asked_in, interrupted = self._asked_in, self._interrupted
        self._asked_in, self._interrupted = -1, False
        if self._unacked:
            return self._here("returns, no ack from ", ", ".join(actor_name(vcpu) for vcpu in sorted(self._unacked)))
        return self._here("all have acked") if interrupted and asked_in != self._runs[self._at] else None

    def _request_clear(self, event: Event) -> Fact:
        name = "TLB_FLUSH" if event.arg0 == REQ_TLB_FLUSH else "FREE_OBSOLETE_ROOTS"
        return Fact("kvm_check_request()", name)

    # --- locks

    def _lock_acquire(self, event: Event) -> Fact | None:
        return self._lock(event, "lock", "K1 ")

    def _lock_release(self, event: Event) -> Fact | None:
        if self._inside("kvm_mmu_page_fault") and self._follows_in_run(event, Kind.KVM_PAGE_FAULT):
            return None
        return self._lock(event, "unlock", "K5 ")

    def _lock(self, event: Event, does: str, step: str) -> Fact | None:
        if event.arg0 not in {MMU_LOCK_READ, MMU_LOCK_WRITE}:
            return None
        if self._inside("kvm_tdp_mmu_alloc_root") or self._inside("_mmu_free_root_page"):
            return None  # a short hold around one fact
        if self._inside("_tdp_mmu_iter_cond_resched"):
            step = ""
            if self._follows_in_run(event, Kind.ZAP_YIELD):
                return None
        elif not self._inside("kvm_tdp_mmu_zap_invalidated_roots"):
            step = ""
        return self._here(f"{step}{'read' if event.arg0 == MMU_LOCK_READ else 'write'}_{does}(mmu_lock)")

    def _follows_in_run(self, event: Event, kind: Kind) -> bool:
        """Does the actor come to an event of this kind before another one goes on?"""
        for at in range(self._at + 1, len(self._events)):
            if self._runs[at] != self._runs[self._at]:
                return False
            if (self._events[at].actor, self._events[at].kind) == (event.actor, kind):
                return True
        return False

    # --- roots and SPTEs

    def _root_alloc(self, event: Event) -> Fact:
        return self._here(f"new root {event.root}")

    def _root_get(self, event: Event) -> Fact | None:
        return self._here(f"shares root {event.root}") if self._inside("kvm_tdp_mmu_alloc_root") else None

    def _root_put(self, event: Event) -> Fact | None:
        if self._inside("tdp_mmu_next_root") and event.arg0 > 0:
            return None
        step = "K4 " if self._inside("tdp_mmu_zap_scheduled_roots") and not self._inside("tdp_mmu_next_root") else ""
        left = f"{event.arg0} left" if event.arg0 else "the last"
        return self._here(f"{step}puts root {event.root}, {left}")

    def _root_invalidate(self, event: Event) -> Fact:
        step = "F2 " if self._inside("kvm_mmu_zap_all_fast_front_half") else ""
        return self._here(f"{step}root ", str(event.root), " invalid")

    def _root_zap_begin(self, event: Event) -> Fact:
        return self._here(f"K2 root {event.root} was scheduled")

    def _zap_yield(self, event: Event) -> Fact:
        return self._here(f"has yielded mmu_lock at gfn {number(event.gfn)}")

    def _spte_change(self, event: Event) -> Fact:
        step = "K3 " if self._inside("tdp_mmu_zap_root") else ""
        old, new = event.arg0, event.arg1
        if event.pfn > 1:
            if spte_part(new, "present"):
                return self._here("links table ", str(spte_part(new, "pfn")))
            return self._here(f"{step}unlinks table ", str(spte_part(old, "pfn")))
        gfn = number(event.gfn)
        if spte_part(new, "present"):
            return self._here(f"SPTE gfn {gfn} := pfn {number(spte_part(new, 'pfn'))} (inc {spte_part(new, 'incarnation')})")
        return self._here(f"{step}SPTE gfn ", gfn, " FROZEN" if new == FROZEN_SPTE else " zapped")

    def _writeback(self, event: Event) -> Fact | None:
        if not event.arg1:
            return None
        return self._here(f"writes back gfn {number(event.gfn)} -> pfn {number(event.pfn)}: {_owner(event)}")

    def _kvm_page_fault(self, event: Event) -> Fact:
        return Fact("kvm_tdp_mmu_page_fault()", f"gfn {number(event.gfn)}{PAGE_FAULTS[event.word('arg0')]}")

    def _zap_leafs_end(self, event: Event) -> Fact | None:
        return self._here("a TLB flush is owed") if event.arg0 else None

    def _kvm_mmu_free_page(self, event: Event) -> Fact | None:
        return self._here("frees page ", str(event.root)) if self._inside("rcu_thread") else None

    # --- memslots

    def _slot_op_begin(self, event: Event) -> Fact:
        self._operation, self._slot, self._swaps = event.word("arg0"), event.arg1, 0
        at = {"create": f" at gfn {number(event.gfn)}", "move": f" to gfn {number(event.gfn)}"}.get(self._operation, "")
        return Fact("", f"{self._operation.upper()} slot {event.arg1}{at} (inc {event.incarnation})")

    def _slot_op_end(self, event: Event) -> Fact:
        return Fact("", f"{event.word('arg0').upper()} returned")

    def _slot_swap(self, event: Event) -> Fact | None:
        if event.word("arg0") != "publish":
            return None
        self._swaps += 1
        if self._operation == "create":
            return Fact("", f"swap published: slot {self._slot} is there")
        what = "INVALID" if self._swaps == 1 else BEHIND_SWAP_2.get(self._operation, "")
        return Fact("", f"swap #{self._swaps} published: slot {self._slot} {what}")

    def _srcu_sync_begin(self, _: Event) -> None:
        self._syncing += 1
        self._left_srcu.clear()

    def _srcu_sync_end(self, _: Event) -> Fact:
        self._syncing -= 1
        return Fact("", "synchronize_srcu() returns")

    def _srcu_unlock(self, event: Event) -> Fact | None:
        if not self._syncing or event.actor in self._left_srcu:
            return None
        self._left_srcu.add(event.actor)
        return Fact("", "leaves kvm->srcu")

    def _flush_shadow_end(self, _: Event) -> Fact:
        return Fact("kvm_arch_flush_shadow_memslot()", "returns")

    def _frame_retire(self, event: Event) -> Fact:
        return Fact("", f"inc {event.incarnation} retired")

    def _quirk_toggle(self, event: Event) -> Fact:
        return Fact("", f"quirk SLOT_ZAP_ALL := {'off' if event.arg0 else 'on'}")

    # --- RCU

    def _rcu_gp_end(self, _: Event) -> Fact:
        return Fact("", "grace period over")


def _owner(event: Event) -> str:
    """Whose the frame is that a retired mapping led to; behind a MOVE it is the slot's as before."""
    if event.arg0 == event.incarnation:
        return f"inc {event.incarnation} is retired"
    return f"frame of inc {event.arg0}" if event.arg0 else "frame is free"
