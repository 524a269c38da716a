# SPDX-License-Identifier: GPL-2.0-only
"""The frozen state of model/freeze.py in names: what becomes state.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from model.constants import (
    EXITING_GUEST_MODE,
    IN_GUEST_MODE,
    KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS,
    KVM_MEMSLOT_INVALID,
    KVM_REQ_MMU_FREE_OBSOLETE_ROOTS,
    KVM_REQ_TLB_FLUSH,
    KVM_X86_QUIRK_SLOT_ZAP_ALL,
    OUTSIDE_GUEST_MODE,
    PHASE_DONE,
    PHASE_KILLED,
    PHASE_RUNNING,
    PHASE_STARTING,
    READING_SHADOW_PAGE_TABLES,
    SP_CACHED,
    SP_FREE,
    SP_LINKED,
    SP_RCU,
    SP_ROOT,
)
from model.freeze import FROZEN_BY_PARENT, FROZEN_LOCKS, freeze_state
from model.layout import FROZEN_ROOTS_MAX, MAX_SLOTS, Vm, actor_name
from model.lockdep import LOCK_MMU_READ, LOCK_NAMES

if TYPE_CHECKING:
    from stress.engine.process import FieldTable
    from stress.log.events import Clock

__all__ = ["PARENT", "state_of"]

PARENT = "parent"

MODES = {
    OUTSIDE_GUEST_MODE: "OUTSIDE_GUEST_MODE",
    IN_GUEST_MODE: "IN_GUEST_MODE",
    EXITING_GUEST_MODE: "EXITING_GUEST_MODE",
    READING_SHADOW_PAGE_TABLES: "READING_SHADOW_PAGE_TABLES",
}
REQUESTS = {
    1 << KVM_REQ_MMU_FREE_OBSOLETE_ROOTS: "KVM_REQ_MMU_FREE_OBSOLETE_ROOTS",
    1 << KVM_REQ_TLB_FLUSH: "KVM_REQ_TLB_FLUSH",
}
SLOT_FLAGS = {KVM_MEMSLOT_INVALID: "KVM_MEMSLOT_INVALID"}
QUIRKS = {KVM_X86_QUIRK_SLOT_ZAP_ALL: "KVM_X86_QUIRK_SLOT_ZAP_ALL"}
LOCKS = {1 << number: name for number, name in enumerate(LOCK_NAMES)}
PHASES = {PHASE_STARTING: "starting", PHASE_RUNNING: "running", PHASE_DONE: "done", PHASE_KILLED: "killed"}
PAGE_STATES = {SP_FREE: "free", SP_CACHED: "cached", SP_LINKED: "linked", SP_ROOT: "root", SP_RCU: "rcu"}


def state_of(vm: Vm, actors: list[int], fields: FieldTable, base: int, clock: Clock, now_ns: int) -> dict[str, Any]:
    """The state at the first finding, as its finder saw it; where no finder has seen all of it, the state as it is now.

    Args:
        vm: views of the shared record.
        actors: ids of those who take part.
        fields: names the word that an actor waits for.
        base: address of the shared record, the same in every process.
        clock: of the finder's two times.
        now_ns: the time now.

    Context: the actors have ended, so the record is as they left it.
    """
    begun_ns = ended_ns = now_ns
    if vm.finding.ready[0] != 0:
        begun_ns = int(clock.to_ns(vm.finding.time[:1])[0])
        ended_ns = int(clock.to_ns(vm.frozen.until)[0])
    else:
        freeze_state(vm, FROZEN_BY_PARENT)
    by = int(vm.frozen.by[0])
    return {
        "taken_by": PARENT if by == FROZEN_BY_PARENT else actor_name(by),
        "time_ns": begun_ns,
        "took_ns": ended_ns - begun_ns,
        "vcpus": {actor_name(vcpu): _vcpu(vm, vcpu) for vcpu in range(vm.cfg.nr_vcpus[0])},
        "actors": {actor_name(actor): _actor(vm, actor, fields, base) for actor in actors},
        "locks": _locks(vm, actors),
        "roots": [_root(vm, row) for row in range(FROZEN_ROOTS_MAX) if vm.frozen_root.page[row] != 0],
        "more_roots": bool(vm.frozen.more_roots[0]),
        "memslots": _memslots(vm),
        "mmu": _mmu(vm),
        "rcu": {"queued": int(vm.frozen.rcu_queued[0]), "freed": int(vm.frozen.rcu_freed[0])},
    }


def _names(bits: int, names: dict[int, str]) -> list[str]:
    """The names of the bits that are set; a bit without one as a number."""
    known = [name for bit, name in names.items() if bits & bit]
    unknown = bits & ~sum(names)
    return [*known, f"{unknown:#x}"] if unknown else known


def _holder(owner: int) -> str | None:
    return actor_name(owner - 1) if owner else None


def _vcpu(vm: Vm, vcpu: int) -> dict[str, Any]:
    row = vm.frozen_vcpu
    root = FROZEN_ROOTS_MAX + vcpu
    return {
        "mode": MODES[int(row.mode[vcpu])],
        "in_guest": bool(row.in_guest[vcpu]),
        "requests": _names(int(row.requests[vcpu]), REQUESTS),
        "root": _root(vm, root) if vm.frozen_root.page[root] != 0 else None,
        "root_ref": int(row.root_ref[vcpu]) or None,
        "flushed": int(row.flushed[vcpu]) or None,
        "entry_seq": int(row.entry_seq[vcpu]),
    }


def _root(vm: Vm, number: int) -> dict[str, Any]:
    row = vm.frozen_root
    return {
        "page": int(row.page[number]),
        "refcount": int(row.refcount[number]),
        "invalid": bool(row.role_invalid[number]),
        "scheduled_to_zap": bool(row.scheduled_to_zap[number]),
        "zapping": bool(row.zapping[number]),
        "state": PAGE_STATES[int(row.state[number])],
    }


def _actor(vm: Vm, actor: int, fields: FieldTable, base: int) -> dict[str, Any]:
    row = vm.frozen_actor
    word = int(row.wait_word[actor])
    return {
        "phase": PHASES[int(row.phase[actor])],
        "holds": _names(int(row.held[actor]), LOCKS),
        "waits_for": fields.field_of(word - base) if word else None,
        "ipis_sent": int(row.ipi_sent[actor]),
        "ipis_acked": int(row.ipi_acked[actor]),
        "need_resched": bool(row.need_resched[actor]),
        "srcu_seq": int(row.srcu_seq[actor]),
        "rcu_seq": int(row.rcu_seq[actor]),
        "progress": int(row.progress[actor]),
        "retries": int(row.retries[actor]),
    }


def _locks(vm: Vm, actors: list[int]) -> dict[str, dict[str, Any]]:
    row = vm.frozen_lock
    locks: dict[str, dict[str, Any]] = {
        name: {
            "owner": _holder(int(row.owner[number])),
            "ticket_owner": int(row.ticket_owner[number]),
            "ticket_next": int(row.ticket_next[number]),
        }
        for number, name in enumerate(FROZEN_LOCKS)
    }
    readers = [actor_name(actor) for actor in actors if vm.frozen_actor.held[actor] >> LOCK_MMU_READ & 1]
    locks["mmu_lock"] |= {"readers": readers, "cnts": int(vm.frozen.mmu_lock_cnts[0])}
    return locks


def _memslots(vm: Vm) -> dict[str, Any]:
    generation = int(vm.frozen.generation[0])
    return {
        "active": int(vm.frozen.active[0]),
        "generation": generation & ~KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS,
        "update_in_progress": bool(generation & KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS),
        "slots": [_slot(vm, slot_id) for slot_id in range(MAX_SLOTS) if vm.frozen_slot.object[slot_id] != 0],
    }


def _slot(vm: Vm, slot_id: int) -> dict[str, Any]:
    row = vm.frozen_slot
    return {
        "id": slot_id,
        "object": int(row.object[slot_id]),
        "base_gfn": int(row.base_gfn[slot_id]),
        "npages": int(row.npages[slot_id]),
        "flags": _names(int(row.mem_flags[slot_id]), SLOT_FLAGS),
        "hva": int(row.hva[slot_id]),
        "incarnation": int(row.incarnation[slot_id]),
    }


def _mmu(vm: Vm) -> dict[str, Any]:
    return {
        "mmu_valid_gen": int(vm.frozen.mmu_valid_gen[0]),
        "mmu_invalidate_seq": int(vm.frozen.mmu_invalidate_seq[0]),
        "mmu_invalidate_in_progress": int(vm.frozen.mmu_invalidate_in_progress[0]),
        "tdp_mmu_pages": int(vm.frozen.tdp_mmu_pages[0]),
        "disabled_quirks": _names(int(vm.frozen.disabled_quirks[0]), QUIRKS),
    }
