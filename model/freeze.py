# SPDX-License-Identifier: GPL-2.0-only
"""The state at the moment of the first finding, copied aside before the actors leave it: vCPUs, locks, actors, roots, slots.

A racy look: no lock is taken and nobody is stopped, so what others change meanwhile may be seen half done. Plain reads and
writes, no step of the protocol: an explored schedule is the same with it. What moves fastest is copied first.
"""

from __future__ import annotations

from typing import Any

from model.jit import kernel
from model.layout import FROZEN_ROOTS_MAX, MAX_ACTORS, MAX_SLOTS, MAX_VCPUS, Vm

__all__ = ["FROZEN_BY_PARENT", "FROZEN_LOCKS", "freeze_state"]

FROZEN_BY_PARENT = -1
FROZEN_LOCKS = ("mmu_lock", "slots_lock", "slots_arch_lock", "tdp_mmu_pages_lock", "pool_lock")  # rows of vm.frozen_lock


@kernel
def freeze_state(vm: Vm, by: int) -> None:
    """Copy what is small of the state into the `frozen` fields.

    Args:
        vm: the shared record.
        by: the actor that looks, or FROZEN_BY_PARENT.

    Context: anything may be held. Who reads the copy makes sure that it is whole: report() publishes it with the finding.
    """
    vm.frozen.by[0] = by
    _freeze_vcpus(vm)
    _freeze_locks(vm)
    _freeze_actors(vm)
    _freeze_kvm(vm)
    _freeze_roots(vm)
    _freeze_slots(vm)


@kernel
def _freeze_vcpus(vm: Vm) -> None:
    for vcpu in range(vm.cfg.nr_vcpus[0]):
        vm.frozen_vcpu.mode[vcpu] = vm.vcpu.mode[vcpu]
        vm.frozen_vcpu.in_guest[vcpu] = vm.vcpu.in_guest[vcpu]
        vm.frozen_vcpu.requests[vcpu] = vm.vcpu.requests[vcpu]
        vm.frozen_vcpu.flushed[vcpu] = vm.vcpu.flushed[vcpu]
        vm.frozen_vcpu.entry_seq[vcpu] = vm.vcpu.entry_seq[vcpu]
        vm.frozen_vcpu.root_ref[vcpu] = vm.vcpu.root_ref[vcpu]
        _freeze_root(vm, FROZEN_ROOTS_MAX + vcpu, vm.vcpu.root_hpa[vcpu])


@kernel
def _freeze_locks(vm: Vm) -> None:
    vm.frozen.mmu_lock_cnts[0] = vm.mmu_lock.cnts[0]
    _freeze_lock(vm, 0, vm.mmu_lock)
    _freeze_lock(vm, 1, vm.slots_lock)
    _freeze_lock(vm, 2, vm.slots_arch_lock)
    _freeze_lock(vm, 3, vm.tdp_mmu_pages_lock)
    _freeze_lock(vm, 4, vm.pool_lock)


@kernel
def _freeze_lock(vm: Vm, row: int, lock: Any) -> None:
    vm.frozen_lock.owner[row] = lock.owner[0]
    vm.frozen_lock.ticket_owner[row] = lock.ticket_owner[0]
    vm.frozen_lock.ticket_next[row] = lock.ticket_next[0]


@kernel
def _freeze_actors(vm: Vm) -> None:
    for actor in range(MAX_ACTORS):
        if vm.cfg.nr_vcpus[0] <= actor < MAX_VCPUS:
            continue
        vm.frozen_actor.held[actor] = vm.actor.held[actor]
        vm.frozen_actor.wait_word[actor] = vm.actor.wait_word[actor]
        vm.frozen_actor.phase[actor] = vm.actor.phase[actor]
        vm.frozen_actor.ipi_acked[actor] = vm.actor.ipi_acked[actor]
        vm.frozen_actor.ipi_sent[actor] = vm.actor.ipi_sent[actor]
        vm.frozen_actor.srcu_seq[actor] = vm.actor.srcu_seq[actor]
        vm.frozen_actor.rcu_seq[actor] = vm.actor.rcu_seq[actor]
        vm.frozen_actor.need_resched[actor] = vm.actor.need_resched[actor]
        vm.frozen_actor.progress[actor] = vm.actor.progress[actor]
        vm.frozen_actor.retries[actor] = vm.actor.retries[actor]


@kernel
def _freeze_kvm(vm: Vm) -> None:
    vm.frozen.mmu_valid_gen[0] = vm.kvm.mmu_valid_gen[0]
    vm.frozen.mmu_invalidate_seq[0] = vm.kvm.mmu_invalidate_seq[0]
    vm.frozen.mmu_invalidate_in_progress[0] = vm.kvm.mmu_invalidate_in_progress[0]
    vm.frozen.disabled_quirks[0] = vm.kvm.disabled_quirks[0]
    vm.frozen.tdp_mmu_pages[0] = vm.kvm.tdp_mmu_pages[0]
    vm.frozen.rcu_queued[0] = vm.rcu.queued[0]
    vm.frozen.rcu_freed[0] = vm.rcu.freed[0]


@kernel
def _freeze_roots(vm: Vm) -> None:
    """The first FROZEN_ROOTS_MAX roots of the list.

    Without RCU a root may be recycled under this walk; each page links to some page, so the bound alone ends it.
    """
    root = vm.kvm.tdp_mmu_roots[0]
    for row in range(FROZEN_ROOTS_MAX):
        _freeze_root(vm, row, root)
        if root != 0:
            root = vm.sp.link_next[root]
    vm.frozen.more_roots[0] = 1 if root != 0 else 0


@kernel
def _freeze_root(vm: Vm, row: int, root: int) -> None:
    """Page 0, no root, has zeros too."""
    vm.frozen_root.page[row] = root
    vm.frozen_root.refcount[row] = vm.sp.refcount[root]
    vm.frozen_root.role_invalid[row] = vm.sp.role_invalid[root]
    vm.frozen_root.scheduled_to_zap[row] = vm.sp.scheduled_to_zap[root]
    vm.frozen_root.zapping[row] = vm.sp.zapping[root]
    vm.frozen_root.state[row] = vm.sp.state[root]


@kernel
def _freeze_slots(vm: Vm) -> None:
    """The slots of the set that is active now, by id."""
    active = vm.memslots.active[0]
    vm.frozen.active[0] = active
    vm.frozen.generation[0] = vm.memslots.generation0[0] if active == 0 else vm.memslots.generation1[0]
    for slot_id in range(MAX_SLOTS):
        slot = vm.memslot_id[active, slot_id]
        vm.frozen_slot.object[slot_id] = slot
        vm.frozen_slot.base_gfn[slot_id] = vm.slot.base_gfn[slot]
        vm.frozen_slot.npages[slot_id] = vm.slot.npages[slot]
        vm.frozen_slot.mem_flags[slot_id] = vm.slot.mem_flags[slot]
        vm.frozen_slot.hva[slot_id] = vm.slot.hva[slot]
        vm.frozen_slot.incarnation[slot_id] = vm.slot.incarnation[slot]
