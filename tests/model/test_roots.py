# SPDX-License-Identifier: GPL-2.0-only
"""Tests of model/roots.py: sharing, references, the gift, the iterator, and I8, I9 and I10."""

from __future__ import annotations

import numpy as np
import pytest

from model.constants import SP_RCU
from model.locks import read_lock, read_unlock, write_lock, write_unlock
from model.mmu import kvm_mmu_reload, kvm_mmu_unload, kvm_mmu_zap_all_fast
from model.rcu import srcu_read_lock
from model.roots import check_root_references, kvm_tdp_mmu_get_root, kvm_tdp_mmu_put_root, tdp_mmu_next_root
from model.tdp_mmu import tdp_mmu_zap_scheduled_roots

from .stage import CTL, Locked, findings, small_vm


@pytest.fixture
def vm():
    """Two vCPUs that share a root."""
    vm = small_vm()
    for vcpu in (0, 1):
        srcu_read_lock(vm, vcpu)
        kvm_mmu_reload(vm, vcpu)
    return vm


def put(vm, root, me=CTL):
    read_lock(vm, me, vm.mmu_lock)
    kvm_tdp_mmu_put_root(vm, me, root)
    read_unlock(vm, me, vm.mmu_lock)


def test_vcpus_share_the_valid_root(vm):
    """Two vCPUs and the TDP MMU itself hold three references of one root."""
    root = vm.vcpu.root_hpa[0]
    assert root == vm.vcpu.root_hpa[1] == vm.kvm.tdp_mmu_roots[0]
    assert vm.sp.refcount[root] == 3


def test_a_valid_root_outlives_its_vcpus(vm):
    """With all vCPUs gone the TDP MMU's own reference keeps the root for the next one (edbdb43fc96b, 6.4)."""
    root = int(vm.vcpu.root_hpa[0])
    kvm_mmu_unload(vm, 0)
    kvm_mmu_unload(vm, 1)
    assert vm.sp.refcount[root] == 1
    kvm_mmu_reload(vm, 0)
    assert vm.vcpu.root_hpa[0] == root
    assert findings(vm) == []


def test_an_invalid_root_goes_with_its_last_vcpu(vm):
    """The back half puts the gift; the root stays on the list, empty, until the last vCPU lets go."""
    root = int(vm.vcpu.root_hpa[0])
    with Locked(vm):
        kvm_mmu_zap_all_fast(vm, CTL)
    assert (vm.sp.refcount[root], vm.kvm.tdp_mmu_roots[0]) == (2, root)
    kvm_mmu_reload(vm, 0)
    new = int(vm.vcpu.root_hpa[0])
    assert new != root
    assert vm.sp.refcount[root] == 1
    kvm_mmu_reload(vm, 1)
    assert vm.vcpu.root_hpa[1] == new == vm.kvm.tdp_mmu_roots[0]
    assert vm.sp.link_next[new] == 0
    assert vm.sp.state[root] == SP_RCU
    assert findings(vm) == []


def test_no_reference_of_a_dying_root_is_given_out():
    """refcount_inc_not_zero(): 0 stays 0."""
    vm = small_vm()
    assert not kvm_tdp_mmu_get_root(vm, CTL, 5)
    vm.sp.refcount[5] = 1
    assert kvm_tdp_mmu_get_root(vm, CTL, 5)
    assert vm.sp.refcount[5] == 2


def test_the_iterator_holds_one_root_at_a_time(vm):
    """It visits valid and invalid roots with one reference each, dropped when it goes on."""
    first = int(vm.vcpu.root_hpa[0])
    with Locked(vm):
        kvm_mmu_zap_all_fast(vm, CTL)
    kvm_mmu_reload(vm, 0)
    second = int(vm.vcpu.root_hpa[0])
    counts = vm.sp.refcount[[first, second]].copy()
    read_lock(vm, CTL, vm.mmu_lock)
    assert tdp_mmu_next_root(vm, CTL, 0) == second
    assert (vm.sp.refcount[[first, second]] == np.add(counts, [0, 1])).all()
    assert tdp_mmu_next_root(vm, CTL, second) == first
    assert (vm.sp.refcount[[first, second]] == np.add(counts, [1, 0])).all()
    assert tdp_mmu_next_root(vm, CTL, first) == 0
    assert (vm.sp.refcount[[first, second]] == counts).all()
    read_unlock(vm, CTL, vm.mmu_lock)
    assert findings(vm) == []


def test_i8_fires_for_an_underflow():
    """A put without a reference is found, and frees nothing."""
    vm = small_vm()
    put(vm, 5)
    assert findings(vm) == [("invariant", 8)]
    assert vm.rcu.queued[0] == 0


def test_i8_fires_for_a_root_freed_under_its_vcpu(vm):
    """A last reference that was not the vCPU's own, while the vCPU still uses the root."""
    root = int(vm.vcpu.root_hpa[0])
    vm.sp.role_invalid[root] = 1
    vm.sp.refcount[root] = 1
    put(vm, root)
    assert findings(vm) == [("invariant", 8)] * 2
    assert list(vm.finding.other[:2]) == [0, 1]


@pytest.mark.parametrize("surplus", [-1, 1])
def test_i8_fires_for_a_wrong_sum(vm, surplus):
    """A valid root's references are those of its vCPUs and one more, neither fewer nor more."""
    root = int(vm.vcpu.root_hpa[0])
    write_lock(vm, CTL, vm.mmu_lock)
    check_root_references(vm, CTL, root)
    assert findings(vm) == []
    vm.sp.refcount[root] += surplus
    check_root_references(vm, CTL, root)
    write_unlock(vm, CTL, vm.mmu_lock)
    assert findings(vm) == [("invariant", 8)]
    assert vm.finding.observed[0] == surplus


def test_i9_fires_for_the_final_put_of_a_valid_root(vm):
    """Only an invalid root may lose its last reference."""
    root = int(vm.vcpu.root_hpa[0])
    vm.sp.refcount[root] = 1
    put(vm, root)
    assert findings(vm) == [("invariant", 9)]


def test_i9_fires_for_a_scheduled_root_that_is_valid(vm):
    """K2: who schedules a root has invalidated it."""
    root = int(vm.vcpu.root_hpa[0])
    vm.sp.scheduled_to_zap[root] = 1
    read_lock(vm, CTL, vm.mmu_lock)
    tdp_mmu_zap_scheduled_roots(vm, CTL, True)
    read_unlock(vm, CTL, vm.mmu_lock)
    assert findings(vm)[0] == ("invariant", 9)


@pytest.mark.parametrize("field", ["zapping", "scheduled_to_zap"])
def test_i10_fires_for_a_root_freed_before_its_zap_has_ended(vm, field):
    """From the schedule to K4 the root stays on the list."""
    root = int(vm.vcpu.root_hpa[0])
    vm.sp.role_invalid[root] = 1
    getattr(vm.sp, field)[root] = 1
    vm.sp.refcount[root] = 1
    put(vm, root)
    assert findings(vm) == [("invariant", 10)]
