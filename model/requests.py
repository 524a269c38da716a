# SPDX-License-Identifier: GPL-2.0-only
"""Requests to vCPUs and the kicks that go with them (virt/kvm/kvm_main.c).

        sender                                  vCPU
        set the request bit                     mode := IN_GUEST_MODE
        full barrier                            full barrier
        read and change the mode                read the requests

Either the sender sees a vCPU that is not OUTSIDE, or the vCPU sees the request. A request with WAIT returns after every vCPU
that was not OUTSIDE has run the IPI's handler, which needs interrupts on, hence never inside a guest instruction.
"""

from __future__ import annotations

from model.atomics import cmpxchg, fetch_add, fetch_and, fetch_or, load, load_acquire, smp_mb, smp_wmb
from model.constants import (
    C_REMOTE_TLB_FLUSHES,
    EV_IPI_SEND,
    EV_REQUEST_CLEAR,
    EV_REQUEST_DONE,
    EV_REQUEST_SET,
    EXITING_GUEST_MODE,
    IN_GUEST_MODE,
    INVARIANT,
    KVM_REQ_TLB_FLUSH,
    OUTSIDE_GUEST_MODE,
)
from model.finding import report
from model.jit import kernel
from model.layout import Vm
from model.trace import trace
from model.wait import wait_while

__all__ = ["kvm_check_request", "kvm_flush_remote_tlbs", "kvm_make_all_cpus_request", "kvm_request_pending"]

DETAIL_NOT_ACKED = 30


@kernel
def kvm_request_pending(vm: Vm, vcpu: int) -> bool:
    """Is any request set? A plain read."""
    return load(vm.vcpu.requests, vcpu) != 0


@kernel
def kvm_check_request(vm: Vm, vcpu: int, request: int) -> bool:
    """Test and clear a request.

    The barrier pairs with the one before the bit is set in kvm_make_request(): who sees the request sees its reason.
    """
    if load(vm.vcpu.requests, vcpu) & (1 << request) == 0:
        return False
    fetch_and(vm.vcpu.requests, vcpu, ~(1 << request))
    smp_mb()
    trace(vm, vcpu, EV_REQUEST_CLEAR, -1, -1, -1, -1, request, -1)
    return True


@kernel
def kvm_make_request(vm: Vm, me: int, vcpu: int, request: int) -> None:
    """Set a request bit; what led to it is visible first."""
    smp_wmb()
    fetch_or(vm.vcpu.requests, vcpu, 1 << request)
    trace(vm, me, EV_REQUEST_SET, -1, -1, -1, -1, request, vcpu)


@kernel
def kvm_make_all_cpus_request(vm: Vm, me: int, request: int, wait: bool) -> None:
    """Ask every vCPU, kick those that may be in the guest; flags NO_WAKEUP, and WAIT if `wait`.

    Args:
        vm: the shared record.
        me: the sender; not a vCPU.
        request: bit number.
        wait: return only after every vCPU that was not OUTSIDE_GUEST_MODE has acknowledged.

    Context: any lock may be held; a vCPU that waits for that lock still acknowledges.

    Source: kvm_make_all_cpus_request(), virt/kvm/kvm_main.c.
    """
    for vcpu in range(vm.cfg.nr_vcpus[0]):
        if vm.cfg.check_level[0] > 0:
            # The snapshot is for I26 alone: which guest entry, if any, was under way before the request.
            vm.snapshot[me, vcpu] = vm.vcpu.entry_seq[vcpu] if load_acquire(vm.vcpu.in_guest, vcpu) != 0 else -1
        kvm_make_request(vm, me, vcpu, request)
        # Pairs with the barrier behind mode := IN_GUEST_MODE in vcpu_enter_guest().
        smp_mb()
        old = cmpxchg(vm.vcpu.mode, vcpu, IN_GUEST_MODE, EXITING_GUEST_MODE)
        if wait:
            kick = old != OUTSIDE_GUEST_MODE
        else:
            kick = old == IN_GUEST_MODE
        vm.cpumask[me, vcpu] = 1 if kick else 0
    for vcpu in range(vm.cfg.nr_vcpus[0]):
        if vm.cpumask[me, vcpu] != 0:
            vm.cpumask[me, vcpu] = fetch_add(vm.actor.ipi_sent, vcpu, 1) + 1
            trace(vm, me, EV_IPI_SEND, -1, -1, -1, -1, request, vcpu)
    if wait:
        for vcpu in range(vm.cfg.nr_vcpus[0]):
            acked = load_acquire(vm.actor.ipi_acked, vcpu)
            while acked < vm.cpumask[me, vcpu]:
                wait_while(vm, me, vm.actor.ipi_acked, vcpu, acked)
                acked = load_acquire(vm.actor.ipi_acked, vcpu)
    trace(vm, me, EV_REQUEST_DONE, -1, -1, -1, -1, request, -1)
    if vm.cfg.check_level[0] > 0:
        for vcpu in range(vm.cfg.nr_vcpus[0]):
            before = vm.snapshot[me, vcpu]
            vm.snapshot[me, vcpu] = 0
            if before >= 0 and load_acquire(vm.vcpu.in_guest, vcpu) != 0 and load(vm.vcpu.entry_seq, vcpu) == before:
                report(vm, me, INVARIANT, 26, -1, -1, -1, vm.vcpu.root_hpa[vcpu], vcpu, DETAIL_NOT_ACKED, before)


@kernel
def kvm_flush_remote_tlbs(vm: Vm, me: int) -> None:
    """Every vCPU is out of the guest or will flush before it enters again.

    Context: mmu_lock may be held.
    """
    vm.counter[me, C_REMOTE_TLB_FLUSHES] += 1
    kvm_make_all_cpus_request(vm, me, KVM_REQ_TLB_FLUSH, True)
