# SPDX-License-Identifier: GPL-2.0-only
"""TDP roots: the RCU-protected list, reference counts, and the reference that is gifted to the zap (tdp_mmu.c).

A valid root carries one reference for every vCPU that uses it and one of the TDP MMU's own. Invalidation gifts the latter to
the back half, which puts it after the zap; only then may the count reach zero.
"""

from __future__ import annotations

from model.atomics import cmpxchg, fetch_add, load, smp_wmb, store
from model.constants import (
    C_ROOTS_ALLOCATED,
    C_ROOTS_FREED,
    EV_ROOT_ALLOC,
    EV_ROOT_GET,
    EV_ROOT_PUT,
    INVARIANT,
    SP_ROOT,
)
from model.finding import report
from model.jit import kernel
from model.layout import Vm
from model.locks import read_lock, read_unlock, spin_lock, spin_unlock
from model.mutations import ITERATOR_WITHOUT_REFERENCE, NO_GIFT, planted
from model.oracle import check_root_empty
from model.pages import cache_alloc
from model.rcu import call_rcu, rcu_read_lock, rcu_read_unlock
from model.trace import trace

__all__ = [
    "check_root_references",
    "kvm_tdp_mmu_alloc_root",
    "kvm_tdp_mmu_get_root",
    "kvm_tdp_mmu_put_root",
    "tdp_mmu_next_root",
]

DETAIL_REFCOUNT_UNDERFLOW = 50
DETAIL_FINAL_PUT_ON_VALID_ROOT = 51
DETAIL_FREED_WHILE_ZAPPING = 52
DETAIL_FREED_WHILE_USED = 53
DETAIL_REFCOUNT_SUM = 54


@kernel
def kvm_tdp_mmu_get_root(vm: Vm, me: int, root: int) -> bool:
    """refcount_inc_not_zero(): a reference, unless the root is already on its way out."""
    count = load(vm.sp.refcount, root)
    while count != 0:
        seen = cmpxchg(vm.sp.refcount, root, count, count + 1)
        if seen == count:
            trace(vm, me, EV_ROOT_GET, -1, root, -1, -1, count + 1, -1)
            return True
        count = seen
    return False


@kernel
def kvm_tdp_mmu_put_root(vm: Vm, me: int, root: int) -> None:
    """Drop a reference; the last one takes the root off the list and frees it after a grace period.

    Context: mmu_lock held in either mode.
    """
    count = fetch_add(vm.sp.refcount, root, -1) - 1
    trace(vm, me, EV_ROOT_PUT, -1, root, -1, -1, count, -1)
    if count > 0:
        return
    if vm.cfg.check_level[0] > 0:
        _check_final_put(vm, me, root, count)
    if count < 0:
        return
    check_root_empty(vm, me, root, 7)
    spin_lock(vm, me, vm.tdp_mmu_pages_lock)
    _list_del_rcu(vm, root)
    spin_unlock(vm, me, vm.tdp_mmu_pages_lock)
    vm.counter[me, C_ROOTS_FREED] += 1
    call_rcu(vm, root)


@kernel
def _check_final_put(vm: Vm, me: int, root: int, count: int) -> None:
    if count < 0:
        report(vm, me, INVARIANT, 8, -1, -1, -1, root, -1, DETAIL_REFCOUNT_UNDERFLOW, count)
    elif vm.sp.role_invalid[root] == 0:
        report(vm, me, INVARIANT, 9, -1, -1, -1, root, -1, DETAIL_FINAL_PUT_ON_VALID_ROOT, count)
    elif vm.sp.scheduled_to_zap[root] != 0 or vm.sp.zapping[root] != 0:
        report(vm, me, INVARIANT, 10, -1, -1, -1, root, -1, DETAIL_FREED_WHILE_ZAPPING, count)
    else:
        for vcpu in range(vm.cfg.nr_vcpus[0]):
            if vcpu != me and vm.vcpu.root_ref[vcpu] == root:
                report(vm, me, INVARIANT, 8, -1, -1, -1, root, vcpu, DETAIL_FREED_WHILE_USED, count)


@kernel
def check_root_references(vm: Vm, me: int, root: int) -> None:
    """A valid root's references are those of the vCPUs and the TDP MMU's own one (I8).

    Context: mmu_lock held for write: nobody takes or drops a reference, and no iterator is under way.
    """
    expected = 1
    for vcpu in range(vm.cfg.nr_vcpus[0]):
        if vm.vcpu.root_ref[vcpu] == root:
            expected += 1
    if vm.sp.refcount[root] != expected:
        report(vm, me, INVARIANT, 8, -1, -1, -1, root, -1, DETAIL_REFCOUNT_SUM, vm.sp.refcount[root] - expected)


@kernel
def _list_add_rcu(vm: Vm, root: int) -> None:
    vm.sp.link_next[root] = vm.kvm.tdp_mmu_roots[0]
    # A walker that finds the root finds its link too. Pairs with the dependent load in tdp_mmu_next_root().
    smp_wmb()
    store(vm.kvm.tdp_mmu_roots, 0, root)


@kernel
def _list_del_rcu(vm: Vm, root: int) -> None:
    # The entry keeps its own link: a reader that stands on it goes on from there until the grace period ends.
    if vm.kvm.tdp_mmu_roots[0] == root:
        store(vm.kvm.tdp_mmu_roots, 0, vm.sp.link_next[root])
        return
    previous = vm.kvm.tdp_mmu_roots[0]
    while previous != 0 and vm.sp.link_next[previous] != root:
        previous = vm.sp.link_next[previous]
    if previous != 0:
        store(vm.sp.link_next, previous, vm.sp.link_next[root])


@kernel
def tdp_mmu_next_root(vm: Vm, me: int, previous: int) -> int:
    """The root after `previous` (0: the first) with a reference taken; the reference on `previous` is dropped afterwards.

    Every root is visited, valid or not.

    Returns:
        The root's page, or 0 at the end of the list.

    Context: mmu_lock held in either mode; it may be dropped between two calls, the references keep the place.
    """
    # Deliberate bug (iterator-without-reference): nothing keeps the root but the gifted reference.
    take = not planted(vm, ITERATOR_WITHOUT_REFERENCE)
    rcu_read_lock(vm, me)
    if previous == 0:
        root = load(vm.kvm.tdp_mmu_roots, 0)
    else:
        root = load(vm.sp.link_next, previous)
    while root != 0 and take and not kvm_tdp_mmu_get_root(vm, me, root):
        root = load(vm.sp.link_next, root)
    rcu_read_unlock(vm, me)
    if previous != 0 and take:
        kvm_tdp_mmu_put_root(vm, me, previous)
    return root


@kernel
def _find_valid_root(vm: Vm, me: int) -> int:
    """tdp_mmu_try_get_root(): a reference on the valid root of this vCPU's role; all vCPUs share one role here."""
    root = load(vm.kvm.tdp_mmu_roots, 0)
    while root != 0:
        if load(vm.sp.role_invalid, root) == 0 and kvm_tdp_mmu_get_root(vm, me, root):
            return root
        root = load(vm.sp.link_next, root)
    return 0


@kernel
def kvm_tdp_mmu_alloc_root(vm: Vm, me: int) -> int:
    """Share the valid root, or make one with two references: the vCPU's, and the TDP MMU's own.

    The root may be invalidated as soon as the lock is dropped: the pending request then stops the entry, and the vCPU's
    reference stops the free.

    Context: memory caches topped up; takes mmu_lock for read.

    Source: kvm_tdp_mmu_alloc_root(), arch/x86/kvm/mmu/tdp_mmu.c.
    """
    read_lock(vm, me, vm.mmu_lock)
    # RCU: an invalid root on the list may lose its last reference while the lock is held for read.
    rcu_read_lock(vm, me)
    root = _find_valid_root(vm, me)
    rcu_read_unlock(vm, me)
    if root == 0:
        spin_lock(vm, me, vm.tdp_mmu_pages_lock)
        # Somebody may have been faster.
        root = _find_valid_root(vm, me)
        if root == 0:
            root = cache_alloc(vm, me)
            vm.sp.level[root] = vm.cfg.levels[0]
            vm.sp.gfn[root] = 0
            vm.sp.state[root] = SP_ROOT
            # Deliberate bug (no-gift): the reference that the back half puts was never taken.
            references = 1 if planted(vm, NO_GIFT) else 2
            store(vm.sp.refcount, root, references)
            _list_add_rcu(vm, root)
            vm.counter[me, C_ROOTS_ALLOCATED] += 1
            trace(vm, me, EV_ROOT_ALLOC, -1, root, -1, -1, references, -1)
        spin_unlock(vm, me, vm.tdp_mmu_pages_lock)
    vm.vcpu.root_ref[me] = root
    read_unlock(vm, me, vm.mmu_lock)
    return root
