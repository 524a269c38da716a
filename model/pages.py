# SPDX-License-Identifier: GPL-2.0-only
"""The pool of page-table pages, recycled last in, first out, and the vCPUs' memory caches.

Roots come from the same pool as any other table, so that a root's page is soon somebody else's, and a TLB that was not flushed
on load shows it. Allocation never happens under mmu_lock: mmu_topup_memory_caches() fills a cache beforehand.
"""

from __future__ import annotations

from model.atomics import load_acquire, might_sleep, store
from model.constants import (
    C_PAGES_ALLOCATED,
    C_PAGES_FREED,
    EV_KVM_MMU_FREE_PAGE,
    EV_KVM_MMU_GET_PAGE,
    SHADOW_NONPRESENT_VALUE,
    SP_CACHED,
    SP_FREE,
)
from model.jit import kernel
from model.layout import Vm
from model.lockdep import lockdep_assert_not_held
from model.locks import spin_lock, spin_unlock
from model.trace import trace
from model.wait import wait_while

__all__ = ["cache_alloc", "cache_free", "drain_memory_caches", "free_page", "mmu_topup_memory_caches"]


@kernel
def alloc_page(vm: Vm, me: int) -> int:
    """Take the page that was freed last; wait for the RCU actor while there is none.

    Context: no lock held.
    """
    while True:
        spin_lock(vm, me, vm.pool_lock)
        page = vm.pool.head[0]
        if page != 0:
            vm.pool.head[0] = vm.sp.next[page]
            store(vm.pool.nr_free, 0, vm.pool.nr_free[0] - 1)
            vm.sp.state[page] = SP_CACHED
            spin_unlock(vm, me, vm.pool_lock)
            break
        spin_unlock(vm, me, vm.pool_lock)
        if load_acquire(vm.pool.nr_free, 0) == 0:
            wait_while(vm, me, vm.pool.nr_free, 0, 0)
    for index in range(1 << vm.cfg.bits_per_level[0]):
        vm.pt[page, index] = SHADOW_NONPRESENT_VALUE
    vm.sp.role_invalid[page] = 0
    vm.sp.scheduled_to_zap[page] = 0
    vm.sp.zapping[page] = 0
    vm.sp.refcount[page] = 0
    vm.sp.link_next[page] = 0
    vm.counter[me, C_PAGES_ALLOCATED] += 1
    trace(vm, me, EV_KVM_MMU_GET_PAGE, -1, page, -1, -1, -1, -1)
    return page


@kernel
def free_page(vm: Vm, me: int, page: int) -> None:
    """Put a page on top of the pool.

    Context: nobody can reach the page any more; no mmu_lock needed.
    """
    trace(vm, me, EV_KVM_MMU_FREE_PAGE, -1, page, -1, -1, -1, -1)
    spin_lock(vm, me, vm.pool_lock)
    vm.sp.state[page] = SP_FREE
    vm.sp.next[page] = vm.pool.head[0]
    vm.pool.head[0] = page
    store(vm.pool.nr_free, 0, vm.pool.nr_free[0] + 1)
    spin_unlock(vm, me, vm.pool_lock)
    vm.counter[me, C_PAGES_FREED] += 1


@kernel
def mmu_topup_memory_caches(vm: Vm, me: int) -> None:
    """Make sure that a fault or a root load finds all the pages that it may need: one a level.

    A cache that is short of that is filled to its capacity, which is the same number in a run: pages shall go round quickly.

    Context: may sleep, so no mmu_lock.

    Source: __kvm_mmu_topup_memory_cache(), virt/kvm/kvm_main.c.
    """
    lockdep_assert_not_held(vm, me)
    might_sleep()
    if vm.cache_nr[me, 0] >= vm.cfg.levels[0]:
        return
    while vm.cache_nr[me, 0] < vm.cfg.cache_pages[0]:
        page = alloc_page(vm, me)
        vm.cache_page[me, vm.cache_nr[me, 0]] = page
        vm.cache_nr[me, 0] += 1


@kernel
def cache_alloc(vm: Vm, me: int) -> int:
    """kvm_mmu_memory_cache_alloc(): never fails after a top-up."""
    vm.cache_nr[me, 0] -= 1
    return vm.cache_page[me, vm.cache_nr[me, 0]]


@kernel
def cache_free(vm: Vm, me: int, page: int) -> None:
    """Take back a page that nobody has ever seen; it is still zeroed."""
    vm.sp.state[page] = SP_CACHED
    vm.cache_page[me, vm.cache_nr[me, 0]] = page
    vm.cache_nr[me, 0] += 1


@kernel
def drain_memory_caches(vm: Vm, me: int) -> None:
    """mmu_free_memory_caches(): at the end of the vCPU, what it hoarded goes back."""
    while vm.cache_nr[me, 0] > 0:
        free_page(vm, me, cache_alloc(vm, me))
