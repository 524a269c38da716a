# SPDX-License-Identifier: GPL-2.0-only
"""The fast zap in its two halves, the fault path, and the vCPU's root (arch/x86/kvm/mmu/mmu.c).

vCPU                                    memslot update
read_lock(mmu_lock)                     write_lock(mmu_lock)
is_page_fault_stale()?                  F1 mmu_valid_gen, F2 role.invalid, F3 request + IPI
map                                     F4 obsolete shadow pages
read_unlock(mmu_lock)                   write_unlock(mmu_lock)
K1-K5 zap the invalidated roots
"""

from __future__ import annotations

from model.atomics import load, load_acquire, might_sleep, smp_rmb, store
from model.constants import (
    C_FAULTS_DURING_ZAP,
    C_FAULTS_FIXED,
    C_INVALID_SLOT_RETRIES,
    C_MMIO_EXITS,
    C_PAGE_FAULTS,
    C_RACE_RETRIES,
    C_STALE_FAULT_RETRIES,
    EV_KVM_PAGE_FAULT,
    EV_ZAP_BACK_BEGIN,
    EV_ZAP_BACK_END,
    EV_ZAP_FRONT_BEGIN,
    EV_ZAP_FRONT_END,
    FAULT_FIXED,
    FAULT_MMIO,
    FAULT_RETRY_INVALID_SLOT,
    FAULT_RETRY_RACE,
    FAULT_RETRY_STALE,
    FAULT_SPURIOUS,
    INVALID_PAGE,
    INVARIANT,
    KVM_MEMSLOT_INVALID,
    KVM_REQ_MMU_FREE_OBSOLETE_ROOTS,
    RET_PF_EMULATE,
    RET_PF_FIXED,
    RET_PF_RETRY,
)
from model.finding import report
from model.jit import kernel
from model.layout import Vm
from model.lockdep import (
    LOCK_SLOTS,
    lockdep_assert_held,
    lockdep_assert_held_read,
    lockdep_assert_held_write,
    lockdep_assert_not_held,
)
from model.locks import read_lock, read_unlock, write_lock, write_unlock
from model.memslots import gfn_to_memslot
from model.mutations import (
    FAULT_INTO_INVALIDATED_ROOT,
    NO_FLUSH_ON_LOAD,
    NO_REQUEST,
    REQUEST_BEFORE_INVALIDATE,
    REQUEST_WITHOUT_ACK,
    planted,
)
from model.pages import mmu_topup_memory_caches
from model.requests import kvm_check_request, kvm_make_all_cpus_request
from model.roots import kvm_tdp_mmu_alloc_root, kvm_tdp_mmu_put_root
from model.tdp_mmu import (
    kvm_tdp_mmu_invalidate_roots,
    kvm_tdp_mmu_map,
    kvm_tdp_mmu_zap_invalidated_roots,
)
from model.tlb import kvm_flush_tlb_current
from model.trace import trace

__all__ = [
    "is_obsolete_sp",
    "kvm_mmu_free_obsolete_roots",
    "kvm_mmu_page_fault",
    "kvm_mmu_reload",
    "kvm_mmu_unload",
    "kvm_mmu_zap_all_fast",
    "kvm_mmu_zap_all_fast_back_half",
    "kvm_mmu_zap_all_fast_front_half",
]

DETAIL_BROKEN_HOLD = 80
DETAIL_IN_GUEST_ON_INVALID_ROOT = 81
DETAIL_NO_REQUEST = 82


# --- the fast zap


@kernel
def _kvm_zap_obsolete_pages(vm: Vm, me: int) -> None:
    """F4: the shadow MMU's obsolete pages, in batches, with lock breaks. No shadow MMU yet, so the list is empty."""
    lockdep_assert_held_write(vm, me)


@kernel
def _make_reload_request(vm: Vm, me: int) -> None:
    # Deliberate bug (no-request): nobody is asked. Deliberate bug (request-without-ack): nobody is waited for.
    if not planted(vm, NO_REQUEST):
        kvm_make_all_cpus_request(vm, me, KVM_REQ_MMU_FREE_OBSOLETE_ROOTS, not planted(vm, REQUEST_WITHOUT_ACK))


@kernel
def kvm_mmu_zap_all_fast_front_half(vm: Vm, me: int) -> int:
    """Obsolete every root, make all vCPUs drop theirs, zap obsolete shadow pages.

    Args:
        vm: the shared record.
        me: the calling actor.

    Returns:
        The new mmu_valid_gen, 0 or 1.

    Context: slots_lock held; mmu_lock held for write. F1 to F3 in one unbroken hold; F4 may drop and retake mmu_lock.

    Source: __kvm_mmu_zap_all_fast_front_half(), arch/x86/kvm/mmu/mmu.c, "Split kvm_mmu_zap_all_fast() into "front" and "back"
    halves", v2 6/9, June 2026.
    """
    lockdep_assert_held(vm, me, LOCK_SLOTS)
    lockdep_assert_held_write(vm, me)
    trace(vm, me, EV_ZAP_FRONT_BEGIN, -1, -1, -1, -1, -1, -1)
    hold = vm.mmu_lock.holds[0]
    # F1. Two values are enough: slots_lock allows one obsolete generation at a time, and it is gone before the next.
    valid_gen = 1 - load(vm.kvm.mmu_valid_gen, 0)
    store(vm.kvm.mmu_valid_gen, 0, valid_gen)
    # Deliberate bug (request-before-invalidate): F3 before F2; a vCPU may clear the request and keep its root.
    if planted(vm, REQUEST_BEFORE_INVALIDATE):
        _make_reload_request(vm, me)
    # F2 before F3: a vCPU that serves the request must find its root invalid, or it would keep it.
    kvm_tdp_mmu_invalidate_roots(vm, me)
    # F3 before any unlock: whoever takes mmu_lock later may rely on "invalid root: no vCPU runs on it".
    if not planted(vm, REQUEST_BEFORE_INVALIDATE):
        _make_reload_request(vm, me)
    if vm.cfg.check_level[0] > 0:
        _check_front_half(vm, me, hold)
    # F4 after F3: obsolete pages need no flush of their own, since no vCPU can be using them.
    _kvm_zap_obsolete_pages(vm, me)
    trace(vm, me, EV_ZAP_FRONT_END, -1, -1, -1, -1, valid_gen, -1)
    return valid_gen


@kernel
def _check_front_half(vm: Vm, me: int, hold: int) -> None:
    """One unbroken hold (I5), and nobody in the guest on an invalid root (I4)."""
    if vm.mmu_lock.holds[0] != hold or vm.mmu_lock.owner[0] != me + 1:
        report(vm, me, INVARIANT, 5, -1, -1, -1, -1, -1, DETAIL_BROKEN_HOLD, hold)
    for vcpu in range(vm.cfg.nr_vcpus[0]):
        entry = load_acquire(vm.vcpu.entry_seq, vcpu)
        root = vm.vcpu.root_hpa[vcpu]
        if root == INVALID_PAGE or vm.sp.role_invalid[root] == 0 or load_acquire(vm.vcpu.in_guest, vcpu) == 0:
            continue
        # Two looks at the same entry: the vCPU did not leave and reload in between.
        same = load_acquire(vm.vcpu.entry_seq, vcpu) == entry and load(vm.vcpu.root_hpa, vcpu) == root
        if same and load_acquire(vm.vcpu.in_guest, vcpu) != 0:
            report(vm, me, INVARIANT, 4, -1, -1, -1, root, vcpu, DETAIL_IN_GUEST_ON_INVALID_ROOT, entry)


@kernel
def kvm_mmu_zap_all_fast_back_half(vm: Vm, me: int) -> None:
    """Zap the roots that the front half invalidated; all their SPTEs are gone before the caller swaps memslots again.

    Otherwise an mmu_notifier could not find the slot by its address any more, could not reach these SPTEs, and dirty state
    would later be written to freed pages.

    Context: slots_lock held, mmu_lock not held; takes it for read and yields.

    Source: __kvm_mmu_zap_all_fast_back_half(), as above.
    """
    lockdep_assert_held(vm, me, LOCK_SLOTS)
    lockdep_assert_not_held(vm, me)
    trace(vm, me, EV_ZAP_BACK_BEGIN, -1, -1, -1, -1, -1, -1)
    kvm_tdp_mmu_zap_invalidated_roots(vm, me, True)
    trace(vm, me, EV_ZAP_BACK_END, -1, -1, -1, -1, -1, -1)


@kernel
def kvm_mmu_zap_all_fast(vm: Vm, me: int) -> None:
    """Both halves, for callers that put nothing else into the critical section.

    Context: slots_lock held, mmu_lock not held.
    """
    write_lock(vm, me, vm.mmu_lock)
    kvm_mmu_zap_all_fast_front_half(vm, me)
    write_unlock(vm, me, vm.mmu_lock)

    kvm_mmu_zap_all_fast_back_half(vm, me)


# --- the vCPU's root


@kernel
def is_obsolete_sp(vm: Vm, root: int) -> bool:
    """Has the root been invalidated? TDP pages ignore mmu_valid_gen.

    Context: any; under mmu_lock the answer stays true or false as long as the lock is held.
    """
    return load(vm.sp.role_invalid, root) != 0


@kernel
def _mmu_free_root_page(vm: Vm, me: int) -> None:
    """kvm_mmu_free_roots(): drop the current root; cached previous roots come with nested guests."""
    root = vm.vcpu.root_hpa[me]
    read_lock(vm, me, vm.mmu_lock)
    vm.vcpu.root_ref[me] = INVALID_PAGE
    vm.vcpu.flushed[me] = INVALID_PAGE
    kvm_tdp_mmu_put_root(vm, me, root)
    read_unlock(vm, me, vm.mmu_lock)
    store(vm.vcpu.root_hpa, me, INVALID_PAGE)


@kernel
def kvm_mmu_free_obsolete_roots(vm: Vm, me: int) -> None:
    """Serve KVM_REQ_MMU_FREE_OBSOLETE_ROOTS: the test needs no lock, only the put does.

    Context: outside guest mode, kvm->srcu held.
    """
    root = vm.vcpu.root_hpa[me]
    if root != INVALID_PAGE and is_obsolete_sp(vm, root):
        _mmu_free_root_page(vm, me)


@kernel
def kvm_mmu_unload(vm: Vm, me: int) -> None:
    """Drop the root whatever its state: the vCPU goes away."""
    if vm.vcpu.root_hpa[me] != INVALID_PAGE:
        _mmu_free_root_page(vm, me)


@kernel
def _kvm_mmu_load(vm: Vm, me: int) -> None:
    mmu_topup_memory_caches(vm, me)
    root = kvm_tdp_mmu_alloc_root(vm, me)
    store(vm.vcpu.root_hpa, me, root)
    # Unconditional: the page may have been another root before, and translations are tagged by it.
    # Deliberate bug (no-flush-on-load): the old ones come back to life.
    if not planted(vm, NO_FLUSH_ON_LOAD):
        kvm_flush_tlb_current(vm, me, root)


@kernel
def kvm_mmu_reload(vm: Vm, me: int) -> None:
    """Make sure that the vCPU has a root; an obsolete one that a pending request names is dropped first (20a6cff3b283, 6.15).

    Context: outside guest mode, kvm->srcu held; may sleep.
    """
    if kvm_check_request(vm, me, KVM_REQ_MMU_FREE_OBSOLETE_ROOTS):
        kvm_mmu_free_obsolete_roots(vm, me)
    if vm.vcpu.root_hpa[me] != INVALID_PAGE:
        return
    _kvm_mmu_load(vm, me)


# --- the fault


@kernel
def mmu_invalidate_retry_gfn(vm: Vm, mmu_seq: int) -> bool:
    """Has an mmu_notifier invalidated since the snapshot, or is one at it? None does yet; memslot deletion moves neither word.

    Context: mmu_lock held in either mode.
    """
    if load(vm.kvm.mmu_invalidate_in_progress, 0) != 0:
        return True
    # Pairs with the write barrier between seq and in_progress at the end of an invalidation.
    smp_rmb()
    return load(vm.kvm.mmu_invalidate_seq, 0) != mmu_seq


@kernel
def is_page_fault_stale(vm: Vm, me: int, mmu_seq: int) -> bool:
    """Must the fault be retried, because its root or its pfn is out of date?

    Pairs with F2: role.invalid cannot change while mmu_lock is held for read, so the answer holds until the install is done.

    Context: mmu_lock held.

    Source: is_page_fault_stale(), a955cad84cda (5.16) and later.
    """
    lockdep_assert_held_read(vm, me)
    obsolete = is_obsolete_sp(vm, vm.vcpu.root_hpa[me])
    if obsolete and vm.cfg.check_level[0] > 0:
        # Only this vCPU clears its request, and drops its root right after: whoever sees the one must see the other (I5).
        requests = load(vm.vcpu.requests, me)
        if requests & (1 << KVM_REQ_MMU_FREE_OBSOLETE_ROOTS) == 0:
            report(vm, me, INVARIANT, 5, -1, -1, -1, vm.vcpu.root_hpa[me], -1, DETAIL_NO_REQUEST, requests)
    # Deliberate bug (B01): the fault does not look at its root again.
    if obsolete and not planted(vm, FAULT_INTO_INVALIDATED_ROOT):
        return True
    return mmu_invalidate_retry_gfn(vm, mmu_seq)


@kernel
def kvm_mmu_page_fault(vm: Vm, me: int, gfn: int, write: bool) -> int:
    """Handle one fault: find the slot, resolve the pfn, install the mapping, all of it optional.

    Returns:
        RET_PF_RETRY, RET_PF_FIXED, RET_PF_SPURIOUS, or RET_PF_EMULATE where no slot is.

    Context: kvm->srcu held and no other lock; takes mmu_lock for read. A caller that gets RET_PF_RETRY must leave kvm->srcu before
    it tries again (3ccbf6f47098, 6.18).

    Source: kvm_tdp_mmu_page_fault() and kvm_mmu_faultin_pfn(), arch/x86/kvm/mmu/mmu.c.
    """
    vm.counter[me, C_PAGE_FAULTS] += 1
    if vm.kvm.zapping[0] != 0:
        vm.counter[me, C_FAULTS_DURING_ZAP] += 1
    root = vm.vcpu.root_hpa[me]
    # fast_page_fault() has its place here; every mapping is writable, so it has nothing to fix yet.
    mmu_topup_memory_caches(vm, me)
    slot = gfn_to_memslot(vm, me, gfn)
    if slot == 0:
        vm.counter[me, C_MMIO_EXITS] += 1
        _trace_fault(vm, me, gfn, root, -1, -1, FAULT_MMIO, write)
        return RET_PF_EMULATE
    incarnation = vm.slot.incarnation[slot]
    if vm.slot.mem_flags[slot] & KVM_MEMSLOT_INVALID != 0:
        # Not MMIO: the old mapping may still be there (e0c378684b65, 5.12).
        vm.counter[me, C_INVALID_SLOT_RETRIES] += 1
        _trace_fault(vm, me, gfn, root, -1, incarnation, FAULT_RETRY_INVALID_SLOT, write)
        return RET_PF_RETRY
    # After the slot lookup and before the pfn lookup; pairs with the end of an invalidation.
    mmu_seq = load(vm.kvm.mmu_invalidate_seq, 0)
    smp_rmb()
    might_sleep()
    pfn = vm.slot.hva[slot] + gfn - vm.slot.base_gfn[slot]

    read_lock(vm, me, vm.mmu_lock)
    if is_page_fault_stale(vm, me, mmu_seq):
        read_unlock(vm, me, vm.mmu_lock)
        vm.counter[me, C_STALE_FAULT_RETRIES] += 1
        _trace_fault(vm, me, gfn, root, pfn, incarnation, FAULT_RETRY_STALE, write)
        return RET_PF_RETRY
    result = kvm_tdp_mmu_map(vm, me, root, gfn, pfn, incarnation, write)
    read_unlock(vm, me, vm.mmu_lock)
    if result == RET_PF_FIXED:
        vm.counter[me, C_FAULTS_FIXED] += 1
        _trace_fault(vm, me, gfn, root, pfn, incarnation, FAULT_FIXED, write)
    elif result == RET_PF_RETRY:
        vm.counter[me, C_RACE_RETRIES] += 1
        _trace_fault(vm, me, gfn, root, pfn, incarnation, FAULT_RETRY_RACE, write)
    else:
        _trace_fault(vm, me, gfn, root, pfn, incarnation, FAULT_SPURIOUS, write)
    return result


@kernel
def _trace_fault(vm: Vm, me: int, gfn: int, root: int, pfn: int, incarnation: int, result: int, write: bool) -> None:
    trace(vm, me, EV_KVM_PAGE_FAULT, gfn, root, pfn, incarnation, result, 1 if write else 0)
