# SPDX-License-Identifier: GPL-2.0-only
"""Memslot updates from the ioctl down (virt/kvm/kvm_main.c): CREATE, DELETE and MOVE; FLAGS_ONLY will join them here.

DELETE, MOVE                                        vCPU
swap #1: the slot becomes INVALID
synchronize_srcu()                                  faults that found the slot valid are over
kvm_arch_flush_shadow_memslot()                     faults find it INVALID and retry, out of kvm->srcu
swap #2: the slot is gone, or moved
commit: the old object is freed
"""

from __future__ import annotations

from model.constants import CHECK_PARANOID, KVM_MEMSLOT_INVALID, KVM_MR_CREATE, KVM_MR_DELETE
from model.flush_shadow import kvm_arch_flush_shadow_memslot
from model.jit import kernel
from model.layout import Vm
from model.locks import mutex_lock, mutex_unlock
from model.memslots import (
    alloc_memslot,
    free_memslot,
    kvm_copy_active_memslot,
    kvm_replace_memslot,
    kvm_swap_active_memslots,
    memslot_by_id,
)
from model.mmu import kvm_mmu_zap_all_fast_back_half
from model.mutations import RETURN_BEFORE_BACK_HALF, planted
from model.oracle import check_commit
from model.paranoid import check_tables_at_quiesce_point

__all__ = ["kvm_set_memory_region", "run_deferred_back_half"]


@kernel
def run_deferred_back_half(vm: Vm, me: int) -> None:
    """Only with a planted bug: the back half that an earlier flush put off.

    Context: slots_lock held.
    """
    if vm.kvm.deferred_back_half[0] != 0:
        vm.kvm.deferred_back_half[0] = 0
        kvm_mmu_zap_all_fast_back_half(vm, me)


@kernel
def _kvm_invalidate_memslot(vm: Vm, me: int, slot_id: int, old: int, invalid_slot: int) -> None:
    """Replace the slot by its INVALID copy and wait until no fault uses the valid one; then zap.

    Context: slots_lock and slots_arch_lock held; returns with both held.
    """
    kvm_replace_memslot(vm, me, slot_id, invalid_slot)
    kvm_swap_active_memslots(vm, me)  # swap #1; drops slots_arch_lock
    kvm_copy_active_memslot(vm, me, slot_id)
    # From here no new mapping of the slot can appear: whoever looks it up finds it INVALID.
    kvm_arch_flush_shadow_memslot(vm, me, old)
    # kvm_arch_guest_memory_reclaimed() has its place here.
    mutex_lock(vm, me, vm.slots_arch_lock)
    # The kernel copies invalid_slot.arch back to old.arch here (bda44d844758): rmaps come with the shadow MMU.


@kernel
def _kvm_commit_memory_region(vm: Vm, me: int, change: int, old: int) -> None:
    """After swap #2: nobody may refer to the old slot's memory through KVM any more; free the object."""
    if change == KVM_MR_CREATE:
        return
    check_commit(vm, me, old)
    if not planted(vm, RETURN_BEFORE_BACK_HALF):
        # Deliberate bug (back-half-after-commit).
        run_deferred_back_half(vm, me)
    free_memslot(vm, old)


@kernel
def _kvm_set_memslot(vm: Vm, me: int, change: int, slot_id: int, old: int, new: int) -> None:
    """Steps 1 to 7 of a change.

    Context: slots_lock held.

    Source: kvm_set_memslot(), virt/kvm/kvm_main.c.
    """
    mutex_lock(vm, me, vm.slots_arch_lock)
    invalid_slot = 0
    if change != KVM_MR_CREATE:
        invalid_slot = alloc_memslot(
            vm,
            me,
            slot_id,
            vm.slot.base_gfn[old],
            vm.slot.npages[old],
            vm.slot.mem_flags[old] | KVM_MEMSLOT_INVALID,
            vm.slot.hva[old],
            vm.slot.incarnation[old],
        )
        _kvm_invalidate_memslot(vm, me, slot_id, old, invalid_slot)
    # kvm_prepare_memory_region() has its place here; nothing in it can fail yet.
    kvm_replace_memslot(vm, me, slot_id, new)
    kvm_swap_active_memslots(vm, me)  # swap #2, or the only one of a CREATE; drops slots_arch_lock
    kvm_copy_active_memslot(vm, me, slot_id)
    if invalid_slot != 0:
        free_memslot(vm, invalid_slot)
    _kvm_commit_memory_region(vm, me, change, old)


@kernel
def kvm_set_memory_region(
    vm: Vm, me: int, change: int, slot_id: int, base_gfn: int, npages: int, hva: int, incarnation: int
) -> None:
    """KVM_SET_USER_MEMORY_REGION: one change of one slot, from userspace's thread.

    Args:
        vm: the shared record.
        me: the calling actor.
        change: KVM_MR_CREATE, KVM_MR_DELETE or KVM_MR_MOVE.
        slot_id: 0 to MAX_SLOTS - 1.
        base_gfn: first gfn of the new slot; unused for DELETE.
        npages: its length; unused for DELETE.
        hva: first backing frame; unused for DELETE.
        incarnation: of the new slot object; unused for DELETE.

    Context: no lock held; takes slots_lock.
    """
    mutex_lock(vm, me, vm.slots_lock)
    # Deliberate bug (return-before-back-half): the earlier update's zap is done only now.
    run_deferred_back_half(vm, me)
    old = memslot_by_id(vm, me, slot_id)
    new = 0
    if change != KVM_MR_DELETE:
        new = alloc_memslot(vm, me, slot_id, base_gfn, npages, 0, hva, incarnation)
    _kvm_set_memslot(vm, me, change, slot_id, old, new)
    if vm.cfg.check_level[0] == CHECK_PARANOID:
        check_tables_at_quiesce_point(vm, me)
    mutex_unlock(vm, me, vm.slots_lock)
