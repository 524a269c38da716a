# SPDX-License-Identifier: GPL-2.0-only
"""The end of a VM: kvm_destroy_vm() down to kvm_mmu_uninit_tdp_mmu(), and the balance that must come out even.

Pages, roots, references, SPTEs and frames: what was taken has been given back, or something leaked (I8, I11).
"""

from __future__ import annotations

from model.atomics import atomic_add, load, load_acquire, store, store_release
from model.constants import (
    C_SPTES_SET,
    C_SPTES_ZAPPED,
    EV_VM_DESTROY,
    INVARIANT,
    SP_FREE,
)
from model.finding import report
from model.jit import kernel
from model.kvm_main import run_deferred_back_half
from model.layout import MAX_ACTORS, Vm
from model.locks import mutex_lock, mutex_unlock, write_lock, write_unlock
from model.tdp_mmu import kvm_tdp_mmu_invalidate_roots, kvm_tdp_mmu_zap_invalidated_roots
from model.trace import trace
from model.wait import wait_while

__all__ = ["check_balance", "kvm_destroy_vm", "kvm_mmu_uninit_tdp_mmu"]

DETAIL_PAGES_COUNTED = 100
DETAIL_ROOTS_LEFT = 101
DETAIL_POOL_SHORT = 102
DETAIL_SPTES_LEFT = 103
DETAIL_PAGE_STATE = 104
DETAIL_FRAMES_HELD = 105


@kernel
def kvm_mmu_uninit_tdp_mmu(vm: Vm, me: int) -> None:
    """Invalidate what is left and zap it; no vCPU exists any more.

    Context: slots_lock held, for the assertions alone.
    """
    write_lock(vm, me, vm.mmu_lock)
    kvm_tdp_mmu_invalidate_roots(vm, me)
    write_unlock(vm, me, vm.mmu_lock)
    kvm_tdp_mmu_zap_invalidated_roots(vm, me, False)


@kernel
def _rcu_barrier(vm: Vm, me: int) -> None:
    """Wait until every callback queued so far has run."""
    queued = load(vm.rcu.queued, 0)
    freed = load_acquire(vm.rcu.freed, 0)
    while freed < queued:
        wait_while(vm, me, vm.rcu.freed, 0, freed)
        freed = load_acquire(vm.rcu.freed, 0)


@kernel
def _leak(vm: Vm, me: int, invariant: int, root: int, detail: int, observed: int) -> None:
    report(vm, me, INVARIANT, invariant, -1, -1, -1, root, -1, detail, observed)


@kernel
def check_balance(vm: Vm, me: int) -> None:
    """Pages, roots, SPTEs and frames: all that was taken has been given back (I8, I11).

    Context: no other actor is left, no RCU callback pending.
    """
    if vm.kvm.tdp_mmu_roots[0] != 0:
        _leak(vm, me, 8, vm.kvm.tdp_mmu_roots[0], DETAIL_ROOTS_LEFT, vm.sp.refcount[vm.kvm.tdp_mmu_roots[0]])
    if load(vm.kvm.tdp_mmu_pages, 0) != 0:
        _leak(vm, me, 11, -1, DETAIL_PAGES_COUNTED, load(vm.kvm.tdp_mmu_pages, 0))
    # Page 0 is not in the pool.
    missing = vm.cfg.nr_pages[0] - 1 - load_acquire(vm.pool.nr_free, 0)
    if missing != 0:
        _leak(vm, me, 11, -1, DETAIL_POOL_SHORT, missing)
    for page in range(1, vm.cfg.nr_pages[0]):
        if vm.sp.state[page] != SP_FREE and missing == 0:
            _leak(vm, me, 11, page, DETAIL_PAGE_STATE, vm.sp.state[page])
    if vm.user.extents_free[0] != vm.cfg.nr_slots[0]:
        _leak(vm, me, 11, -1, DETAIL_FRAMES_HELD, vm.cfg.nr_slots[0] - vm.user.extents_free[0])
    sptes = 0
    for actor in range(MAX_ACTORS):
        sptes += vm.counter[actor, C_SPTES_SET] - vm.counter[actor, C_SPTES_ZAPPED]
    if sptes != 0:
        _leak(vm, me, 11, -1, DETAIL_SPTES_LEFT, sptes)


@kernel
def kvm_destroy_vm(vm: Vm, me: int) -> None:
    """Take the MMU down, let the RCU actor finish, compare what was taken with what was given back.

    Context: all vCPUs are gone, all slots deleted.
    """
    mutex_lock(vm, me, vm.slots_lock)
    run_deferred_back_half(vm, me)
    kvm_mmu_uninit_tdp_mmu(vm, me)
    mutex_unlock(vm, me, vm.slots_lock)
    _rcu_barrier(vm, me)
    check_balance(vm, me)
    trace(vm, me, EV_VM_DESTROY, -1, -1, -1, -1, -1, -1)
    store(vm.run.rcu_stop, 0, 1)
    atomic_add(vm.rcu.kick, 0, 1)
    store_release(vm.run.destroyed, 0, 1)
