# SPDX-License-Identifier: GPL-2.0-only
"""Memslots (virt/kvm/kvm_main.c): two sets, one active, changes only ever made in the other one and then swapped in.

Slot objects are immutable once a set that readers can reach points to them; a change builds a new object. A vCPU looks a slot
up inside kvm->srcu, so after the swap's synchronize_srcu() nobody uses what the swap took out.
"""

from __future__ import annotations

from model.atomics import load, load_acquire, smp_rmb, store, store_release
from model.constants import (
    EV_SLOT_SWAP,
    INVARIANT,
    KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS,
    NR_AS_IDS,
)
from model.finding import report
from model.jit import kernel
from model.layout import MAX_SLOT_OBJECTS, MAX_SLOTS, Vm
from model.lockdep import LOCK_SLOTS, LOCK_SLOTS_ARCH, LOCK_SRCU, lockdep_assert_held
from model.locks import mutex_unlock
from model.rcu import synchronize_srcu
from model.trace import trace

__all__ = [
    "alloc_memslot",
    "free_memslot",
    "gfn_to_memslot",
    "kvm_copy_active_memslot",
    "kvm_replace_memslot",
    "kvm_swap_active_memslots",
    "memslot_by_id",
]

DETAIL_GENERATION = 70


@kernel
def gfn_to_memslot(vm: Vm, me: int, gfn: int) -> int:
    """__gfn_to_memslot(): the active slot object that holds gfn, or 0.

    Context: kvm->srcu held; the object stays valid until it is released.
    """
    lockdep_assert_held(vm, me, LOCK_SRCU)
    # Pairs with the store_release() in kvm_swap_active_memslots().
    active = load_acquire(vm.memslots.active, 0)
    for slot_id in range(MAX_SLOTS):
        slot = load(vm.memslot_id, (active, slot_id))
        if slot != 0 and vm.slot.base_gfn[slot] <= gfn < vm.slot.base_gfn[slot] + vm.slot.npages[slot]:
            return slot
    return 0


@kernel
def memslot_by_id(vm: Vm, me: int, slot_id: int) -> int:
    """id_to_memslot() of the active set, or 0.

    Context: slots_lock held.
    """
    lockdep_assert_held(vm, me, LOCK_SLOTS)
    smp_rmb()
    return load(vm.memslot_id, (load(vm.memslots.active, 0), slot_id))


@kernel
def alloc_memslot(vm: Vm, me: int, slot_id: int, base_gfn: int, npages: int, flags: int, hva: int, incarnation: int) -> int:
    """A new slot object.

    Context: slots_lock held.
    """
    lockdep_assert_held(vm, me, LOCK_SLOTS)
    slot = 1
    while slot < MAX_SLOT_OBJECTS - 1 and vm.slot.allocated[slot] != 0:
        slot += 1
    vm.slot.allocated[slot] = 1
    vm.slot.base_gfn[slot] = base_gfn
    vm.slot.npages[slot] = npages
    vm.slot.mem_flags[slot] = flags
    vm.slot.hva[slot] = hva
    vm.slot.incarnation[slot] = incarnation
    vm.slot.id[slot] = slot_id
    return slot


@kernel
def free_memslot(vm: Vm, slot: int) -> None:
    """kfree() of a slot object that no set points to and no reader holds."""
    vm.slot.allocated[slot] = 0


@kernel
def kvm_replace_memslot(vm: Vm, me: int, slot_id: int, slot: int) -> None:
    """Put an object (0: none) into the inactive set; nobody sees it before the swap.

    Context: slots_lock held.
    """
    lockdep_assert_held(vm, me, LOCK_SLOTS)
    store(vm.memslot_id, (1 - load(vm.memslots.active, 0), slot_id), slot)


@kernel
def kvm_copy_active_memslot(vm: Vm, me: int, slot_id: int) -> None:
    """After a swap, bring the set that is now inactive up to date.

    Context: slots_lock held.
    """
    lockdep_assert_held(vm, me, LOCK_SLOTS)
    active = load(vm.memslots.active, 0)
    store(vm.memslot_id, (1 - active, slot_id), load(vm.memslot_id, (active, slot_id)))


@kernel
def _kvm_arch_memslots_updated(vm: Vm, generation: int) -> None:
    """The arch hook, before the new generation is visible (152482580a1b, 5.1): MMIO SPTEs will need it for wrap detection."""


@kernel
def kvm_swap_active_memslots(vm: Vm, me: int) -> None:
    """Make the inactive set active and wait until nobody uses the old one.

    Context: slots_lock and slots_arch_lock held; the latter is dropped here, so that an SRCU reader that needs it can finish.

    Source: kvm_swap_active_memslots(), virt/kvm/kvm_main.c, steps 1 to 5.
    """
    lockdep_assert_held(vm, me, LOCK_SLOTS_ARCH)
    active = load(vm.memslots.active, 0)
    generation = vm.memslots.generation0[0] if active == 0 else vm.memslots.generation1[0]
    # 1. The inactive set carries the generation with the update-in-progress bit.
    in_progress = generation | KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS
    _store_generation(vm, 1 - active, in_progress)
    trace(vm, me, EV_SLOT_SWAP, -1, -1, -1, -1, 1, in_progress)
    # 2. Publish. The wait for mn_active_invalidate_count comes with the mmu_notifier.
    store_release(vm.memslots.active, 0, 1 - active)
    trace(vm, me, EV_SLOT_SWAP, -1, -1, -1, -1, 2, in_progress)
    # 3. Readers may take slots_arch_lock for lazy allocation; we must not hold it while we wait for them.
    mutex_unlock(vm, me, vm.slots_arch_lock)
    trace(vm, me, EV_SLOT_SWAP, -1, -1, -1, -1, 3, in_progress)
    # 4. Every fault that looked a slot up before is over.
    synchronize_srcu(vm, me)
    trace(vm, me, EV_SLOT_SWAP, -1, -1, -1, -1, 4, in_progress)
    # 5. The new generation, without the bit.
    following = generation + NR_AS_IDS
    _kvm_arch_memslots_updated(vm, following)
    _store_generation(vm, 1 - active, following)
    trace(vm, me, EV_SLOT_SWAP, -1, -1, -1, -1, 5, following)
    if vm.cfg.check_level[0] > 0 and following <= vm.user.last_generation[0]:
        report(vm, me, INVARIANT, 20, -1, -1, -1, -1, -1, DETAIL_GENERATION, following)
    vm.user.last_generation[0] = following


@kernel
def _store_generation(vm: Vm, which: int, generation: int) -> None:
    if which == 0:
        store(vm.memslots.generation0, 0, generation)
    else:
        store(vm.memslots.generation1, 0, generation)
