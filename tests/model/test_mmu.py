# SPDX-License-Identifier: GPL-2.0-only
"""Tests of model/mmu.py: the front half, the fault's results, the vCPU's root, and I4, I5 and I6."""

from __future__ import annotations

import pytest

from model.constants import (
    EV_ROOT_INVALIDATE,
    EV_ZAP_BACK_BEGIN,
    EV_ZAP_FRONT_BEGIN,
    EV_ZAP_FRONT_END,
    KVM_MEMSLOT_INVALID,
    RET_PF_EMULATE,
    RET_PF_FIXED,
    RET_PF_RETRY,
    RET_PF_SPURIOUS,
)
from model.locks import write_lock, write_unlock
from model.mmu import (
    _check_front_half,
    kvm_mmu_free_obsolete_roots,
    kvm_mmu_page_fault,
    kvm_mmu_reload,
    kvm_mmu_unload,
    kvm_mmu_zap_all_fast,
    kvm_mmu_zap_all_fast_front_half,
)
from model.mutations import MUTATIONS
from model.rcu import srcu_read_lock, srcu_read_unlock
from model.userspace import userspace_create

from .stage import CTL, Locked, Recorder, Stage, findings, small_vm


@pytest.fixture
def vm():
    """Two slots, vCPU 0 with a root, inside kvm->srcu."""
    vm = small_vm()
    userspace_create(vm, CTL, 0)
    srcu_read_lock(vm, 0)
    kvm_mmu_reload(vm, 0)
    return vm


def test_results_of_a_fault(vm):
    """First fault FIXED, second SPURIOUS, no slot EMULATE without an SPTE, INVALID slot RETRY before any lock."""
    assert kvm_mmu_page_fault(vm, 0, 0, False) == RET_PF_FIXED
    assert kvm_mmu_page_fault(vm, 0, 0, False) == RET_PF_SPURIOUS
    before = vm.pt.copy()[:40]
    assert kvm_mmu_page_fault(vm, 0, 3, False) == RET_PF_EMULATE
    vm.slot.mem_flags[vm.memslot_id[vm.memslots.active[0], 0]] |= KVM_MEMSLOT_INVALID
    assert kvm_mmu_page_fault(vm, 0, 1, False) == RET_PF_RETRY
    assert (vm.pt[:40] == before).all()
    assert findings(vm) == []


def test_a_fault_on_an_obsolete_root_retries_until_the_request_is_served(vm):
    """is_page_fault_stale() holds the fault off; serving the request gives the vCPU a new root, and the fault is fixed."""
    with Locked(vm):
        kvm_mmu_zap_all_fast(vm, CTL)
    assert kvm_mmu_page_fault(vm, 0, 0, True) == RET_PF_RETRY
    old = int(vm.vcpu.root_hpa[0])
    kvm_mmu_reload(vm, 0)
    assert vm.vcpu.root_hpa[0] != old
    assert vm.vcpu.requests[0] == 0
    assert kvm_mmu_page_fault(vm, 0, 0, True) == RET_PF_FIXED
    assert findings(vm) == []


def test_a_moved_notifier_sequence_makes_a_fault_stale(vm):
    """An invalidation between the snapshot and mmu_lock makes the fault retry; so does one in progress."""
    with Stage() as stage:
        stage.add("fault", lambda: results.append(kvm_mmu_page_fault(vm, 0, 0, False)))
        results = []
        stage.run_into("fault", "read_lock")
        vm.kvm.mmu_invalidate_seq[0] += 1
        stage.finish("fault")
    assert results == [RET_PF_RETRY]
    vm.kvm.mmu_invalidate_in_progress[0] = 1
    assert kvm_mmu_page_fault(vm, 0, 0, False) == RET_PF_RETRY


def test_the_front_half_touches_no_spte(vm):
    """F1 toggles the generation, F2 invalidates and schedules, F3 asks every vCPU; the tables are as before."""
    kvm_mmu_page_fault(vm, 0, 0, True)
    root = int(vm.vcpu.root_hpa[0])
    before = vm.pt[:40].copy()
    with Recorder() as recorder, Locked(vm):
        write_lock(vm, CTL, vm.mmu_lock)
        generation = kvm_mmu_zap_all_fast_front_half(vm, CTL)
        write_unlock(vm, CTL, vm.mmu_lock)
    assert generation == vm.kvm.mmu_valid_gen[0] == 1
    assert (vm.pt[:40] == before).all()
    assert (vm.sp.role_invalid[root], vm.sp.scheduled_to_zap[root], vm.sp.refcount[root]) == (1, 1, 2)
    assert (vm.vcpu.requests[:2] == 1).all()
    kinds = recorder.kinds(CTL)
    assert kinds.index(EV_ZAP_FRONT_BEGIN) < kinds.index(EV_ROOT_INVALIDATE) < kinds.index(EV_ZAP_FRONT_END)
    assert EV_ZAP_BACK_BEGIN not in kinds
    assert findings(vm) == []


def test_a_valid_root_survives_the_request(vm):
    """Serving MMU_FREE_OBSOLETE_ROOTS drops only an obsolete root."""
    root = int(vm.vcpu.root_hpa[0])
    kvm_mmu_free_obsolete_roots(vm, 0)
    assert vm.vcpu.root_hpa[0] == root
    vm.sp.role_invalid[root] = 1
    kvm_mmu_free_obsolete_roots(vm, 0)
    assert vm.vcpu.root_hpa[0] == 0
    assert vm.sp.refcount[root] == 1
    kvm_mmu_unload(vm, 0)
    assert vm.sp.refcount[root] == 1


def test_i5_fires_for_a_broken_hold(vm):
    """F1 to F3 in two holds of mmu_lock, or without it, are no unbroken section."""
    with Locked(vm):
        write_lock(vm, CTL, vm.mmu_lock)
        _check_front_half(vm, CTL, int(vm.mmu_lock.holds[0]))
        assert findings(vm) == []
        _check_front_half(vm, CTL, int(vm.mmu_lock.holds[0]) - 1)
        write_unlock(vm, CTL, vm.mmu_lock)
    assert findings(vm) == [("invariant", 5)]


def test_i5_fires_for_an_obsolete_root_without_request(vm):
    """A fault that finds its root obsolete, and no request pending for it, has found the protocol broken."""
    vm.mutation[MUTATIONS["no-request"].id] = 1
    with Locked(vm):
        kvm_mmu_zap_all_fast(vm, CTL)
    kvm_mmu_page_fault(vm, 0, 0, False)
    assert findings(vm) == [("invariant", 5)]


def test_i4_fires_for_a_guest_on_an_invalid_root(vm):
    """A vCPU in the guest on an invalid root after F3 is found; one outside, or on another root, is not."""
    root = int(vm.vcpu.root_hpa[0])
    with Locked(vm):
        write_lock(vm, CTL, vm.mmu_lock)
        hold = int(vm.mmu_lock.holds[0])
        vm.sp.role_invalid[root] = 1
        _check_front_half(vm, CTL, hold)
        assert findings(vm) == []
        vm.vcpu.in_guest[0] = 1
        _check_front_half(vm, CTL, hold)
        write_unlock(vm, CTL, vm.mmu_lock)
    assert findings(vm) == [("invariant", 4)]


def test_i6_fires_for_an_install_into_an_invalid_root(vm):
    """B01: without its own check the fault installs into a root that has been zapped."""
    vm.mutation[MUTATIONS["fault-into-invalidated-root"].id] = 1
    with Locked(vm):
        kvm_mmu_zap_all_fast(vm, CTL)
    assert kvm_mmu_page_fault(vm, 0, 0, False) == RET_PF_FIXED
    assert findings(vm) == [("invariant", 6)]
    srcu_read_unlock(vm, 0)
