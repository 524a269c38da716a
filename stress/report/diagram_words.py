# SPDX-License-Identifier: GPL-2.0-only
"""The words of a diagram: the kernel's names of the places that matter, and where an actor stands while others go on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from stress.log.schema import FIELDS, SPTE_BITS, Kind

if TYPE_CHECKING:
    from stress.explore.interpreted import Step

__all__ = [
    "FOREIGN",
    "MMU_LOCK_READ",
    "MMU_LOCK_WRITE",
    "RETIRED",
    "SLOTS_LOCK",
    "TLB_HIT",
    "Event",
    "Fact",
    "drain_of",
    "number",
    "place_of",
    "spte_part",
    "stop_of",
]

# Of the model's functions those that stand in a diagram, under the kernel's names; the innermost one is where an actor is.
PLACES = {
    "guest_run": "guest",
    "kvm_arch_flush_shadow_memslot": "kvm_arch_flush_shadow_memslot",
    "_kvm_commit_memory_region": "kvm_commit_memory_region",
    "_kvm_vcpu_halt": "kvm_vcpu_halt",
    "kvm_flush_remote_tlbs": "kvm_flush_remote_tlbs",
    "kvm_make_all_cpus_request": "kvm_make_all_cpus_request",
    "kvm_mmu_free_obsolete_roots": "kvm_mmu_free_obsolete_roots",
    "_kvm_mmu_load": "kvm_mmu_load",
    "kvm_mmu_page_fault": "kvm_tdp_mmu_page_fault",
    "kvm_mmu_reload": "kvm_mmu_reload",
    "kvm_mmu_unload": "kvm_mmu_unload",
    "kvm_mmu_zap_all_fast_back_half": "__kvm_mmu_zap_all_fast_back_half",
    "kvm_mmu_zap_all_fast_front_half": "__kvm_mmu_zap_all_fast_front_half",
    "kvm_set_memory_region": "kvm_set_memory_region",
    "kvm_swap_active_memslots": "kvm_swap_active_memslots",
    "kvm_tdp_mmu_invalidate_roots": "kvm_tdp_mmu_invalidate_roots",
    "kvm_tdp_mmu_unmap_gfn_range": "kvm_tdp_mmu_unmap_gfn_range",
    "kvm_tdp_mmu_zap_invalidated_roots": "kvm_tdp_mmu_zap_invalidated_roots",
    "vcpu_enter_guest": "vcpu_enter_guest",
}
# A request has two callers, and they are what a reader looks for.
OUTER = {"kvm_make_all_cpus_request": "kvm_flush_remote_tlbs"}
NOT_C = {"guest"}

SLOTS_LOCK = 0
MMU_LOCK_READ = 3
MMU_LOCK_WRITE = 4
RETIRED, TLB_HIT, FOREIGN = 2, 4, 8
MODES = ("OUTSIDE_GUEST_MODE", "IN_GUEST_MODE", "EXITING_GUEST_MODE", "READING_SHADOW_PAGE_TABLES")
WAITS = {
    "actor.ipi_acked": "IPI acks",
    "actor.srcu_seq": "kvm->srcu readers",
    "actor.rcu_seq": "RCU readers",
    "rcu.kick": "RCU callbacks",
    "rcu.freed": "RCU callbacks to run",
}
# What a load has seen: its field, the function that it was in ("": any), and the words for 0 and for all else.
SEEN = (
    ("vcpu.requests", "", "sees no request", "sees a request"),
    ("sp.role_invalid", "", "sees a valid root", "sees an invalid root"),
    ("memslot_id", "gfn_to_memslot", "looks the slot up", "slot looked up, no lock yet"),
    ("kvm.mmu_invalidate_seq", "kvm_mmu_page_fault", "mmu_seq read, no lock yet", "mmu_seq read, no lock yet"),
    ("pt", "hw_walk", "walks the page table", "walks the page table"),
    ("live.incarnation", "guest_touch", "access under way", "access under way"),
    ("frame_tag", "guest_touch", "access under way", "access under way"),
    ("actor.ipi_sent", "guest_run", "no IPI so far", "no IPI so far"),
    ("actor.ipi_sent", "", "looks for IPIs", "looks for IPIs"),
)
LOCKS = ("mmu_lock", "slots_lock", "slots_arch_lock", "tdp_mmu_pages_lock", "pool_lock")


class Event(NamedTuple):
    """One event of a story: `step` steps came before it."""

    step: int
    actor: int
    kind: int
    gfn: int
    root: int
    pfn: int
    incarnation: int
    arg0: int
    arg1: int

    def word(self, column: str) -> str:
        """The name that the log's schema gives to an enumeration's value."""
        for field in FIELDS[Kind(self.kind)]:
            if field.column == column:
                value: int = getattr(self, column)
                return field.values.get(value, str(value))
        return ""


@dataclass(frozen=True)
class Fact:
    """What happened, and in which function; facts that differ in their items alone are told as one."""

    place: str
    before: str
    item: str = ""
    after: str = ""

    @property
    def text(self) -> str:
        """Without the place."""
        return f"{self.before}{self.item}{self.after}"

    def merged(self, other: Fact) -> Fact | None:
        """This fact and the one behind it as one, if they have the same words."""
        if not self.item or (self.place, self.before, self.after) != (other.place, other.before, other.after):
            return None
        return Fact(self.place, self.before, f"{self.item}, {other.item}", self.after)


def place_of(functions: tuple[tuple[str, int], ...]) -> str:
    """Where an actor is, as the kernel calls it, with "()"; "" in none of the functions that matter."""
    names = [name for name, _ in functions]
    for name in reversed(names):
        if name in PLACES:
            place = PLACES[OUTER[name]] if OUTER.get(name) in names else PLACES[name]
            return place if place in NOT_C else f"{place}()"
    return ""


def number(value: int) -> str:
    """A gfn or pfn; the same in both bases or else marked."""
    return str(value) if value < 10 else f"{value:#x}"


def spte_part(spte: int, name: str) -> int:
    """One of SPTE_BITS."""
    low, width = SPTE_BITS[name]
    return spte >> low & ((1 << width) - 1)


def stop_of(step: Step, *, waits: bool, guest_mode: bool) -> Fact:
    """Where an actor stands while others go on, and the last thing that it did there.

    Args:
        step: its last one.
        waits: it cannot go on by itself.
        guest_mode: it is a vCPU whose mode is not OUTSIDE_GUEST_MODE.
    """
    place = place_of(step.functions)
    if waits:
        lock = step.field.partition(".")[0]
        return Fact(place, f"waits for {lock if lock in LOCKS else WAITS.get(step.field, step.field)}")
    # In the mode already, and still able to cancel: what a kick is about.
    mode = f", {MODES[1]}" if guest_mode and place == "vcpu_enter_guest()" and step.field != "vcpu.mode" else ""
    return Fact(place, f"{_did(step, guest_mode=guest_mode)}{mode} ...")


def drain_of(step: Step, *, guest_mode: bool) -> Fact:
    """A store that others could not see so far."""
    return Fact("", "store visible: ", _did(step, guest_mode=guest_mode) if step.field == "vcpu.mode" else step.field)


def _did(step: Step, *, guest_mode: bool) -> str:
    names = {name for name, _ in step.functions}
    if any(name.lstrip("_").startswith("check_") for name in names):
        return "(being checked)"
    if step.field == "vcpu.mode":
        return f"sees {MODES[step.result]}" if step.primitive in {"load", "cmpxchg"} else f"mode := {MODES[guest_mode]}"
    for field, function, zero, other in SEEN:
        if step.field == field and function in names | {""} and step.primitive.startswith("load"):
            return other if step.result else zero
    inner = step.functions[-1][0].lstrip("_") if step.functions else ""
    return f"{step.primitive} {step.field}".strip() if inner == "" or inner in PLACES else f"{inner}()"
