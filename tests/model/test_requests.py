# SPDX-License-Identifier: GPL-2.0-only
"""Tests of model/requests.py, model/vcpu.py and model/tlb.py: acknowledgements, entries, flushes; I12, I21 and I26."""

from __future__ import annotations

import pytest

from model.atomics import store
from model.constants import (
    C_CANCELLED_ENTRIES,
    C_GUEST_ENTRIES,
    EXIT_CANCELLED,
    EXIT_FAULT,
    EXIT_VOLUNTARY,
    EXITING_GUEST_MODE,
    IN_GUEST_MODE,
    KVM_REQ_MMU_FREE_OBSOLETE_ROOTS,
    KVM_REQ_TLB_FLUSH,
    OUTSIDE_GUEST_MODE,
    SP_FREE,
)
from model.mmu import kvm_mmu_page_fault, kvm_mmu_reload
from model.mutations import MUTATIONS
from model.rcu import srcu_read_lock
from model.requests import kvm_check_request, kvm_flush_remote_tlbs, kvm_make_all_cpus_request
from model.spte import is_dirty_spte, spte_to_child_pt
from model.tlb import hw_walk, kvm_flush_tlb_all, kvm_flush_tlb_current, tlb_lookup
from model.userspace import userspace_create
from model.vcpu import vcpu_enter_guest
from model.wait import ack_ipis, wait_while

from .stage import CTL, Stage, findings, small_vm


@pytest.fixture
def vm():
    """A slot at gfn 0 and 1, mapped; vCPU 0 outside the guest with a root, about to access gfn 0."""
    vm = small_vm(accesses_per_entry_max=1)
    userspace_create(vm, CTL, 0)
    srcu_read_lock(vm, 0)
    kvm_mmu_reload(vm, 0)
    kvm_mmu_page_fault(vm, 0, 0, False)
    vm.vcpu.retry_gfn[0] = 0
    return vm


def test_wait_returns_only_after_the_acknowledgement(vm):
    """A vCPU in the guest is kicked and waited for; it acknowledges behind the instruction, out of the guest."""
    with Stage() as stage:
        stage.add("vcpu", vcpu_enter_guest, vm, 0)
        stage.run_until("vcpu", lambda: vm.vcpu.in_guest[0])
        stage.add("ctl", kvm_make_all_cpus_request, vm, CTL, KVM_REQ_TLB_FLUSH, True)
        stage.run_until_waiting("ctl")
        assert vm.vcpu.mode[0] == EXITING_GUEST_MODE
        stage.finish("vcpu")
        assert vm.vcpu.mode[0] == OUTSIDE_GUEST_MODE
        stage.finish("ctl")
    assert vm.actor.ipi_sent[1] == 0
    assert findings(vm) == []


def test_nobody_waits_for_a_vcpu_outside(vm):
    """OUTSIDE_GUEST_MODE needs no IPI: the bit is enough, since the vCPU looks at it before it enters."""
    kvm_make_all_cpus_request(vm, CTL, KVM_REQ_MMU_FREE_OBSOLETE_ROOTS, True)
    assert not vm.actor.ipi_sent[:2].any()
    assert (vm.vcpu.requests[:2] == 1).all()
    assert kvm_check_request(vm, 0, KVM_REQ_MMU_FREE_OBSOLETE_ROOTS)
    assert not kvm_check_request(vm, 0, KVM_REQ_MMU_FREE_OBSOLETE_ROOTS)
    assert vm.vcpu.requests[1] == 1


@pytest.mark.parametrize("wait", [True, False])
def test_who_is_kicked(vm, wait):
    """With WAIT everybody who is not OUTSIDE gets an IPI, without it only who is IN_GUEST_MODE."""
    vm.vcpu.mode[0] = EXITING_GUEST_MODE
    vm.vcpu.mode[1] = IN_GUEST_MODE
    with Stage() as stage:
        stage.add("ctl", kvm_make_all_cpus_request, vm, CTL, KVM_REQ_TLB_FLUSH, wait)
        stage.run_until("ctl", lambda: stage.done("ctl") or stage.waiting("ctl"))
        assert list(vm.actor.ipi_sent[:2]) == [1 if wait else 0, 1]
        ack_ipis(vm, 0)
        ack_ipis(vm, 1)
        if wait:
            stage.finish("ctl")
    assert vm.vcpu.mode[1] == EXITING_GUEST_MODE


def test_i26_fires_for_a_vcpu_still_in_the_guest(vm):
    """A request that is over while a guest entry from before it goes on has waited for nothing."""
    with Stage() as stage:
        stage.add("vcpu", vcpu_enter_guest, vm, 0)
        stage.run_until("vcpu", lambda: vm.vcpu.in_guest[0])
        stage.add("ctl", kvm_make_all_cpus_request, vm, CTL, KVM_REQ_TLB_FLUSH, False)
        stage.finish("ctl")
    assert findings(vm) == [("invariant", 26)]
    assert vm.finding.other[0] == 0


@pytest.mark.parametrize("seed", range(30))
def test_a_request_and_an_entry_never_miss_each_other(vm, seed):
    """In every interleaving the sender saw the vCPU, or the vCPU saw the request: nobody is in the guest unflushed after it."""

    def vcpu():
        vcpu_enter_guest(vm, 0)
        # It stays to acknowledge, as a vCPU outside the guest does.
        wait_while(vm, 0, vm.run.destroyed, 0, 0)

    def ctl():
        kvm_flush_remote_tlbs(vm, CTL)
        store(vm.run.destroyed, 0, 1)

    with Stage() as stage:
        stage.add("vcpu", vcpu)
        stage.add("ctl", ctl)
        assert stage.run_at_random(seed) == []
    assert findings(vm) == []


def test_a_pending_request_cancels_the_entry(vm):
    """The last check before the guest: mode back to OUTSIDE, kvm->srcu held again, no entry counted."""
    with Stage() as stage:
        reasons = []
        stage.add("vcpu", lambda: reasons.append(vcpu_enter_guest(vm, 0)))
        stage.run_until("vcpu", lambda: vm.vcpu.mode[0] == IN_GUEST_MODE)
        vm.vcpu.requests[0] = 1 << KVM_REQ_TLB_FLUSH
        stage.finish("vcpu")
    assert reasons == [EXIT_CANCELLED]
    assert (vm.vcpu.mode[0], vm.vcpu.in_guest[0], vm.actor.srcu_seq[0] % 2) == (OUTSIDE_GUEST_MODE, 0, 1)
    assert vm.counter[0, C_CANCELLED_ENTRIES] == 1
    assert vm.counter[0, C_GUEST_ENTRIES] == 0


def test_an_entry_drops_srcu_and_takes_it_again(vm):
    """In the guest kvm->srcu is not held; outside it is."""
    with Stage() as stage:
        stage.add("vcpu", vcpu_enter_guest, vm, 0)
        stage.run_until("vcpu", lambda: vm.vcpu.in_guest[0])
        assert vm.actor.srcu_seq[0] % 2 == 0
        stage.finish("vcpu")
    assert vm.actor.srcu_seq[0] % 2 == 1


def test_exits(vm):
    """A mapped gfn lets the guest go on to its own end, an unmapped one makes it fault with the access kept for a retry."""
    assert vcpu_enter_guest(vm, 0) == EXIT_VOLUNTARY
    assert vm.vcpu.retry_gfn[0] == -1
    vm.vcpu.retry_gfn[0] = 1
    assert vcpu_enter_guest(vm, 0) == EXIT_FAULT
    assert vm.vcpu.retry_gfn[0] == 1
    assert findings(vm) == []


def test_i21_fires_for_an_entry_on_a_root_loaded_without_flush():
    """A root that was loaded without a local flush must not be entered."""
    vm = small_vm(accesses_per_entry_max=1)
    vm.mutation[MUTATIONS["no-flush-on-load"].id] = 1
    srcu_read_lock(vm, 0)
    vcpu_enter_guest(vm, 0)
    assert findings(vm) == [("invariant", 21)]


# --- TLB


def test_a_walk_fills_the_tlb_under_the_roots_tag(vm):
    """A hit needs the same root and gfn; a first write through a clean entry misses and sets the dirty bit."""
    root = int(vm.vcpu.root_hpa[0])
    assert tlb_lookup(vm, 0, root, 0, False) == 0
    assert hw_walk(vm, 0, root, 1, False) == 0
    spte = hw_walk(vm, 0, root, 0, False)
    assert tlb_lookup(vm, 0, root, 0, False) == spte
    assert tlb_lookup(vm, 0, root + 1, 0, False) == 0
    assert tlb_lookup(vm, 1, root, 0, False) == 0
    assert tlb_lookup(vm, 0, root, 0, True) == 0
    assert is_dirty_spte(hw_walk(vm, 0, root, 0, True))
    table = spte_to_child_pt(int(vm.pt[root, 0]))
    assert is_dirty_spte(int(vm.pt[table, 0]))
    assert tlb_lookup(vm, 0, root, 0, True) != 0


def test_flushes(vm):
    """A load flushes the translations of its root alone, a request all; nobody flushes another vCPU's TLB."""
    root = int(vm.vcpu.root_hpa[0])
    for vcpu in (0, 1):
        hw_walk(vm, vcpu, root, 0, False)
    kvm_flush_tlb_current(vm, 0, root + 1)
    assert tlb_lookup(vm, 0, root, 0, False)
    kvm_flush_tlb_current(vm, 0, root)
    assert not tlb_lookup(vm, 0, root, 0, False)
    assert tlb_lookup(vm, 1, root, 0, False)
    kvm_flush_tlb_all(vm, 1)
    assert not vm.tlb_key[:2].any()


def test_i12_fires_for_a_hardware_walk_through_a_freed_table(vm):
    """The guest's own walker takes no RCU section; that it meets no freed table is the protocol's business."""
    root = int(vm.vcpu.root_hpa[0])
    vm.sp.state[spte_to_child_pt(int(vm.pt[root, 0]))] = SP_FREE
    hw_walk(vm, 0, root, 0, False)
    assert findings(vm) == [("invariant", 12)]
