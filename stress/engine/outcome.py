# SPDX-License-Identifier: GPL-2.0-only
"""Reading a run's outcome out of the shared record: findings, counters, sites, evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from model.atomics import PRIMITIVES
from model.constants import COUNTERS, FINDING_KINDS, LOCKDEP
from model.layout import MAX_FINDINGS, Vm, actor_name
from model.lockdep import LOCK_NAMES
from stress.engine.result import Finding
from stress.log.ring import decode
from stress.log.schema import WORD_TIME

if TYPE_CHECKING:
    from stress.config import Evidence
    from stress.engine.process import FieldTable
    from stress.log.events import Clock
    from stress.log.ring import Rings

__all__ = ["counters_of", "findings_of", "last_events", "locks_held", "missing_evidence", "sites_of"]

EVENTS_KEPT = 32  # newest events of each actor in a finding

# One sentence a code that model functions pass as `detail`; {observed} is the number they pass with it.
DETAILS: dict[int, str] = {
    1: "took {lock} while holding a lock that nests inside it",
    2: "{lock} is not held",
    3: "mmu_lock is held where it must not be",
    10: "synchronize_srcu() returned while a reader from before was still inside",
    20: "reached a page table that had been freed",
    30: "kvm_make_all_cpus_request(WAIT) returned with the vCPU still in guest mode since before (entry {observed})",
    40: "the incarnation is retired; the frame's tag is {observed}",
    41: "the frame's tag {observed} is not that of the incarnation's backing",
    42: "a valid root still maps the slot after kvm_arch_flush_shadow_memslot() returned",
    43: "a root still maps the slot at its commit",
    44: "an invalid root has a present SPTE {observed:#x} after its zap",
    45: "a front half ran without its back half: the root is invalid, scheduled and never zapped",
    50: "reference count dropped to {observed}",
    51: "the last reference of a valid root was put",
    52: "the last reference was put before the zap of the root had ended",
    53: "the last reference was put while a vCPU still uses the root",
    54: "references differ from those of the vCPUs and the TDP MMU's own by {observed}",
    60: "FROZEN was seen where only its owner may see it (entry {observed})",
    61: "present leaf {observed:#x} replaced by a leaf of another frame",
    62: "installed into an obsolete root",
    63: "a table that is not linked was torn down (state {observed})",
    64: "a valid root was scheduled to be zapped",
    65: "mmu_lock is about to be released with a flush owed",
    66: "an invalid root is still scheduled to be zapped after the back half",
    70: "generation {observed} does not follow the one before",
    80: "mmu_lock was dropped between F1 and F3",
    81: "in guest mode on an invalid root after the request (entry {observed})",
    82: "the root is obsolete and no request is pending (requests {observed:#x})",
    90: "entered the guest without a flush since the root was loaded",
    100: "tdp_mmu_pages is {observed} at the end",
    101: "a root is left on the list with {observed} references at the end",
    102: "{observed} pages are missing from the pool at the end",
    103: "{observed} more SPTEs were set than zapped",
    104: "page is in state {observed} at the end",
    105: "{observed} extents of frames were not given back",
    110: "a FROZEN SPTE at rest (entry {observed})",
    111: "a table is not linked, or linked twice (state {observed})",
    112: "tdp_mmu_pages differs from the tables that are linked by {observed}",
    113: "a leaf {observed:#x} of an incarnation that is not alive",
    114: "an invalid root has a present SPTE {observed:#x} between two memslot updates",
}

# Which key to raise when a counter stays below its threshold.
RAISE = {
    "guest_accesses": "run.duration",
    "tlb_hits": "workload.accesses_per_entry_max",
    "page_faults": "run.duration",
    "stale_fault_retries": "perturb.probability",
    "faults_during_zap": "perturb.probability",
    "acks_in_guest": "workload.accesses_per_entry_max",
    "back_half_yields": "perturb.resched_probability",
    "front_half_yields": "perturb.resched_probability",
    "roots_freed": "run.duration",
    "deletes": "run.duration",
    "moves": "run.duration",
    "frames_reused": "run.duration",
    "mmio_exits": "workload.hole_ratio",
}


def findings_of(vm: Vm, clock: Clock, rings: Rings) -> list[Finding]:
    """The findings in the record, in the order in which they were seen, each with the newest events of every actor."""
    rows = [row for row in range(min(int(vm.run.nr_findings[0]), MAX_FINDINGS)) if vm.finding.ready[row] != 0]
    if not rows:
        return []
    newest = {name: rings.last(actor, rings.slots)[0] for actor, name in enumerate(rings.names)}
    return [_finding(vm, row, clock, newest) for row in rows]


def last_events(clock: Clock, rings: Rings) -> dict[str, list[dict[str, Any]]]:
    """The newest events of every actor, as of now."""
    return {name: [decode(record, clock) for record in rings.last(actor, EVENTS_KEPT)[0]] for actor, name in enumerate(rings.names)}


def _events_until(records: Any, ticks: int, clock: Clock) -> list[dict[str, Any]]:
    before = records[records[:, WORD_TIME] <= ticks]
    return [decode(record, clock) for record in before[-EVENTS_KEPT:]]


def _finding(vm: Vm, row: int, clock: Clock, newest: dict[str, Any]) -> Finding:
    fields = vm.finding

    def known(name: str) -> int | None:
        value = int(getattr(fields, name)[row])
        return None if value < 0 else value

    invariant, other, observed = int(fields.invariant[row]), known("other"), int(fields.observed[row])
    sentence = DETAILS[int(fields.detail[row])]
    lock = LOCK_NAMES[observed] if invariant == LOCKDEP and 0 <= observed < len(LOCK_NAMES) else ""
    other_time = known("other_time")
    return Finding(
        kind=FINDING_KINDS[int(fields.kind[row])],
        invariant="lockdep" if invariant == LOCKDEP else f"I{invariant}",
        actor=actor_name(int(fields.actor[row])),
        other_actor=None if other is None else actor_name(other),
        time_ns=int(clock.to_ns(fields.time[row : row + 1])[0]),
        other_time_ns=None if other_time is None else int(clock.to_ns(fields.other_time[row : row + 1])[0]),
        gfn=known("gfn"),
        pfn=known("pfn"),
        incarnation=known("incarnation"),
        root=known("root"),
        slot=known("slot"),
        detail=sentence.format(observed=observed, lock=lock),
        last_events={name: _events_until(records, int(fields.time[row]), clock) for name, records in newest.items()},
    )


def counters_of(vm: Vm) -> dict[str, int]:
    """Every counter, summed over the actors."""
    sums = vm.counter.sum(axis=0)
    return {name: int(sums[number]) for number, name in enumerate(COUNTERS)}


def sites_of(vm: Vm, fields: FieldTable) -> list[dict[str, Any]]:
    """How often each primitive on each field was passed and disturbed; empty in a plain build."""
    sums = vm.site.sum(axis=0)
    return [
        {"primitive": primitive, "field": field, "passed": int(sums[p, f, 0]), "perturbed": int(sums[p, f, 1])}
        for p, primitive in enumerate(PRIMITIVES)
        for f, field in enumerate(fields.names)
        if sums[p, f, 0]
    ]


def missing_evidence(evidence: Evidence, counters: dict[str, int]) -> str:
    """The first counter below its threshold as a sentence, or "" if the run meant something."""
    for name, wanted in msgspec.structs.asdict(evidence).items():
        found = counters[name]
        if found < wanted:
            return f"{name} = {found}, below evidence.{name} = {wanted}; raise {RAISE[name]}"
    return ""


def locks_held(vm: Vm, actor: int) -> str:
    """What an actor held last, for the report of its death."""
    held = int(vm.actor.held[actor])
    names = [name for number, name in enumerate(LOCK_NAMES) if held >> number & 1]
    return "holding " + ", ".join(names) if names else "holding no lock"
