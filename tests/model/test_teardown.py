# SPDX-License-Identifier: GPL-2.0-only
"""Tests of model/teardown.py and model/finding.py: the balance comes out even, each kind of leak fires, no finding is lost."""

from __future__ import annotations

import pytest

from model.constants import C_SPTES_SET, INVARIANT, SP_LINKED, SP_ROOT
from model.finding import report
from model.layout import MAX_FINDINGS
from model.mmu import kvm_mmu_page_fault, kvm_mmu_reload, kvm_mmu_unload
from model.pages import drain_memory_caches
from model.rcu import rcu_thread, srcu_read_lock, srcu_read_unlock
from model.teardown import (
    DETAIL_FRAMES_HELD,
    DETAIL_PAGE_STATE,
    DETAIL_PAGES_COUNTED,
    DETAIL_POOL_SHORT,
    DETAIL_ROOTS_LEFT,
    DETAIL_SPTES_LEFT,
    kvm_destroy_vm,
)
from model.userspace import userspace_create, userspace_delete

from .stage import CTL, Stage, details, findings, small_vm


def used_vm(**changes):
    """A VM that has lived: a slot, a vCPU with a root and a mapping, all given back."""
    vm = small_vm(**changes)
    userspace_create(vm, CTL, 0)
    srcu_read_lock(vm, 0)
    kvm_mmu_reload(vm, 0)
    kvm_mmu_page_fault(vm, 0, 0, True)
    kvm_mmu_unload(vm, 0)
    srcu_read_unlock(vm, 0)
    drain_memory_caches(vm, 0)
    userspace_delete(vm, CTL, 0)
    return vm


def destroy(vm):
    with Stage() as stage:
        stage.add("ctl", kvm_destroy_vm, vm, CTL)
        stage.add("rcu", rcu_thread, vm, 65)
        assert stage.run_at_random(0) == []


@pytest.mark.parametrize("quirk", [True, False])
def test_a_clean_end_balances(quirk):
    """With nothing leaked the destruction is silent, whether roots were invalidated before or only now."""
    vm = used_vm(quirk_slot_zap_all=quirk)
    destroy(vm)
    assert findings(vm) == []
    assert vm.run.destroyed[0] == 1
    assert vm.pool.nr_free[0] == vm.cfg.nr_pages[0] - 1


def lose_reference(vm):
    root = int(vm.kvm.tdp_mmu_roots[0])
    vm.sp.refcount[root] += 1


def count_page(vm):
    vm.kvm.tdp_mmu_pages[0] += 1


def lose_page(vm):
    vm.pool.head[0] = vm.sp.next[vm.pool.head[0]]
    vm.pool.nr_free[0] -= 1


def wrong_state(vm):
    vm.sp.state[30] = SP_LINKED


def hold_frames(vm):
    userspace_create(vm, CTL, 0)


def count_spte(vm):
    vm.counter[1, C_SPTES_SET] += 1


@pytest.mark.parametrize(
    ("leak", "rule", "detail"),
    [
        (count_page, 11, DETAIL_PAGES_COUNTED),
        (lose_page, 11, DETAIL_POOL_SHORT),
        (wrong_state, 11, DETAIL_PAGE_STATE),
        (hold_frames, 11, DETAIL_FRAMES_HELD),
        (count_spte, 11, DETAIL_SPTES_LEFT),
    ],
)
def test_each_kind_of_leak_fires(leak, rule, detail):
    """Pages, frames and SPTEs that were not given back are I11, each with its own sentence, and no other."""
    vm = used_vm()
    leak(vm)
    destroy(vm)
    assert findings(vm) == [("invariant", rule)]
    assert details(vm) == [detail]


def test_a_root_that_keeps_a_reference_fires():
    """A reference that nobody gave back keeps the root on the list after the end (I8), and its page from the pool (I11)."""
    vm = used_vm(quirk_slot_zap_all=False, check_level="use")
    lose_reference(vm)
    destroy(vm)
    assert findings(vm) == [("invariant", 8), ("invariant", 11)]
    assert details(vm) == [DETAIL_ROOTS_LEFT, DETAIL_POOL_SHORT]
    assert vm.sp.state[vm.kvm.tdp_mmu_roots[0]] == SP_ROOT


def test_the_table_of_findings_overflows_gracefully():
    """The first MAX_FINDINGS are kept whole, later ones are counted, and the run is told to stop at the first."""
    vm = small_vm()
    for n in range(MAX_FINDINGS + 5):
        report(vm, 1, INVARIANT, 5, n, -1, -1, -1, -1, 1, n)
        assert vm.run.stop[0] == 1
    assert vm.run.nr_findings[0] == MAX_FINDINGS + 5
    assert list(vm.finding.gfn) == list(range(MAX_FINDINGS))
    assert vm.finding.ready.all()
    assert (vm.finding.actor == 1).all()
