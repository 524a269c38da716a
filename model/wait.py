# SPDX-License-Identifier: GPL-2.0-only
"""Waiting with interrupts on: a waiter still takes its IPIs.

Without that a correct protocol deadlocks: the sender of a request sees IN_GUEST_MODE, the vCPU leaves the guest and blocks on
mmu_lock, and the sender waits for its acknowledgement while holding that lock.
"""

from __future__ import annotations

from typing import Any

from model.atomics import block, load_acquire, store_release
from model.constants import C_ACKS, EV_IPI_ACK
from model.jit import kernel
from model.layout import MAX_VCPUS, Vm
from model.trace import trace

__all__ = ["ack_ipis", "ipi_pending", "wait_while"]


@kernel
def ipi_pending(vm: Vm, me: int) -> bool:
    """Has an IPI been sent to this actor that it has not acknowledged?"""
    return load_acquire(vm.actor.ipi_sent, me) != vm.actor.ipi_acked[me]


@kernel
def ack_ipis(vm: Vm, me: int) -> None:
    """The handler of a request's IPI, ack_kick(): tell the sender that this vCPU is out of the guest.

    Context: interrupts on, never inside a guest instruction. The release pairs with the sender's load_acquire().
    """
    sent = load_acquire(vm.actor.ipi_sent, me)
    if sent != vm.actor.ipi_acked[me]:
        if me < MAX_VCPUS:
            vm.counter[me, C_ACKS] += 1
            trace(vm, me, EV_IPI_ACK, -1, -1, -1, -1, vm.vcpu.mode[me], -1)
        store_release(vm.actor.ipi_acked, me, sent)


@kernel
def wait_while(vm: Vm, me: int, array: Any, index: Any, value: int) -> None:
    """Block while array[index] == value; acknowledge IPIs meanwhile.

    Context: interrupts on.
    """
    while True:
        ack_ipis(vm, me)
        if load_acquire(array, index) != value:
            return
        block(array, index, value, vm.actor.ipi_sent, me, vm.actor.ipi_acked[me])
