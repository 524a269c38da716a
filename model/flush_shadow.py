# SPDX-License-Identifier: GPL-2.0-only
"""kvm_arch_flush_shadow_memslot() in the variants that a scenario can choose (arch/x86/kvm/mmu/mmu.c).

    split        the patch as posted: both branches share one critical section, and the predicate is evaluated twice
    split-once   the same with the predicate resolved once
    unsplit      the code before the patch
    held         both halves with mmu_lock held for write, the back half in its exclusive form (it may still yield)

All return whether a front half and a back half ran, for I23 alone.
"""

from __future__ import annotations

from model.atomics import load
from model.constants import (
    C_HALVES_DISAGREED,
    EV_FLUSH_SHADOW_BEGIN,
    EV_FLUSH_SHADOW_END,
    EV_ZAP_BACK_BEGIN,
    EV_ZAP_BACK_END,
    KVM_X86_QUIRK_SLOT_ZAP_ALL,
    VARIANT_HELD,
    VARIANT_SPLIT,
    VARIANT_SPLIT_ONCE,
)
from model.jit import kernel
from model.layout import Vm
from model.locks import write_lock, write_unlock
from model.mmu import (
    kvm_mmu_zap_all_fast,
    kvm_mmu_zap_all_fast_back_half,
    kvm_mmu_zap_all_fast_front_half,
)
from model.mutations import BACK_HALF_AFTER_COMMIT, RETURN_BEFORE_BACK_HALF, planted
from model.oracle import check_flush_returned
from model.tdp_mmu import kvm_mmu_zap_memslot_pages_and_flush, kvm_tdp_mmu_unmap_gfn_range, tdp_mmu_zap_scheduled_roots
from model.trace import trace

__all__ = ["kvm_arch_flush_shadow_memslot", "kvm_memslot_flush_zap_all"]


@kernel
def kvm_memslot_flush_zap_all(vm: Vm) -> bool:
    """Zap everything, or only the slot? The quirk decides; the VM's type is KVM_X86_DEFAULT_VM here."""
    return load(vm.kvm.disabled_quirks, 0) & KVM_X86_QUIRK_SLOT_ZAP_ALL == 0


@kernel
def _kvm_unmap_gfn_range(vm: Vm, me: int, slot: int) -> bool:
    """The slot's leafs, in all roots; shadow rmaps come with the shadow MMU."""
    base_gfn = vm.slot.base_gfn[slot]
    return kvm_tdp_mmu_unmap_gfn_range(vm, me, base_gfn, base_gfn + vm.slot.npages[slot])


@kernel
def _back_half_put_off(vm: Vm) -> bool:
    # Deliberate bugs (return-before-back-half, back-half-after-commit): somebody else runs it, later.
    return planted(vm, RETURN_BEFORE_BACK_HALF) or planted(vm, BACK_HALF_AFTER_COMMIT)


@kernel
def _back_half(vm: Vm, me: int) -> None:
    if _back_half_put_off(vm):
        vm.kvm.deferred_back_half[0] = 1
        return
    kvm_mmu_zap_all_fast_back_half(vm, me)


@kernel
def _flush_split(vm: Vm, me: int, slot: int) -> int:
    """As posted. The quirk may change between the two evaluations (B41)."""
    front_ran = False
    write_lock(vm, me, vm.mmu_lock)

    if kvm_memslot_flush_zap_all(vm):
        kvm_mmu_zap_all_fast_front_half(vm, me)
        front_ran = True
    else:
        flush = _kvm_unmap_gfn_range(vm, me, slot)
        kvm_mmu_zap_memslot_pages_and_flush(vm, me, flush)

    write_unlock(vm, me, vm.mmu_lock)

    back_ran = kvm_memslot_flush_zap_all(vm)
    if back_ran:
        _back_half(vm, me)
    return _ran(front_ran, back_ran)


@kernel
def _flush_split_once(vm: Vm, me: int, slot: int) -> int:
    zap_all = kvm_memslot_flush_zap_all(vm)
    write_lock(vm, me, vm.mmu_lock)

    if zap_all:
        kvm_mmu_zap_all_fast_front_half(vm, me)
    else:
        flush = _kvm_unmap_gfn_range(vm, me, slot)
        kvm_mmu_zap_memslot_pages_and_flush(vm, me, flush)

    write_unlock(vm, me, vm.mmu_lock)

    if zap_all:
        _back_half(vm, me)
    return _ran(zap_all, zap_all)


@kernel
def _flush_unsplit(vm: Vm, me: int, slot: int) -> int:
    if kvm_memslot_flush_zap_all(vm):
        kvm_mmu_zap_all_fast(vm, me)
        return _ran(True, True)
    write_lock(vm, me, vm.mmu_lock)
    flush = _kvm_unmap_gfn_range(vm, me, slot)
    kvm_mmu_zap_memslot_pages_and_flush(vm, me, flush)
    write_unlock(vm, me, vm.mmu_lock)
    return _ran(False, False)


@kernel
def _flush_held(vm: Vm, me: int, slot: int) -> int:
    zap_all = kvm_memslot_flush_zap_all(vm)
    write_lock(vm, me, vm.mmu_lock)
    if zap_all:
        kvm_mmu_zap_all_fast_front_half(vm, me)
        trace(vm, me, EV_ZAP_BACK_BEGIN, -1, -1, -1, -1, -1, -1)
        tdp_mmu_zap_scheduled_roots(vm, me, False)
        trace(vm, me, EV_ZAP_BACK_END, -1, -1, -1, -1, -1, -1)
    else:
        flush = _kvm_unmap_gfn_range(vm, me, slot)
        kvm_mmu_zap_memslot_pages_and_flush(vm, me, flush)
    write_unlock(vm, me, vm.mmu_lock)
    return _ran(zap_all, zap_all)


@kernel
def _ran(front: bool, back: bool) -> int:
    return (1 if front else 0) | (2 if back else 0)


@kernel
def _trace_flush(vm: Vm, me: int, kind: int, slot: int) -> None:
    trace(
        vm,
        me,
        kind,
        vm.slot.base_gfn[slot],
        -1,
        vm.slot.hva[slot],
        vm.slot.incarnation[slot],
        vm.slot.npages[slot],
        vm.slot.id[slot],
    )


@kernel
def kvm_arch_flush_shadow_memslot(vm: Vm, me: int, slot: int) -> None:
    """No vCPU uses a mapping of the slot any more, and none can be made: what a DELETE or MOVE needs before it goes on.

    Args:
        vm: the shared record.
        me: the updater.
        slot: the old slot object; its INVALID copy is already live.

    Context: slots_lock held, no other lock; takes mmu_lock.

    Source: kvm_arch_flush_shadow_memslot(), with kvm_mmu_zap_memslot() folded in, June 2026.
    """
    _trace_flush(vm, me, EV_FLUSH_SHADOW_BEGIN, slot)
    # Only counted by, never acted upon: data_race() in the kernel.
    vm.kvm.zapping[0] = 1
    variant = vm.cfg.variant[0]
    if variant == VARIANT_SPLIT:
        ran = _flush_split(vm, me, slot)
    elif variant == VARIANT_SPLIT_ONCE:
        ran = _flush_split_once(vm, me, slot)
    elif variant == VARIANT_HELD:
        ran = _flush_held(vm, me, slot)
    else:
        ran = _flush_unsplit(vm, me, slot)
    vm.kvm.zapping[0] = 0
    _trace_flush(vm, me, EV_FLUSH_SHADOW_END, slot)
    front_ran = ran & 1 != 0
    back_ran = ran & 2 != 0
    if front_ran != back_ran:
        vm.counter[me, C_HALVES_DISAGREED] += 1
    check_flush_returned(vm, me, slot, front_ran, back_ran)
