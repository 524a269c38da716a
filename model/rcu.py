# SPDX-License-Identifier: GPL-2.0-only
"""RCU and kvm->srcu: read sections that somebody else can wait out, and pages that are freed only then.

Every actor counts its own sections; an odd count means that it is inside. Waiting for a grace period is waiting for every
actor that is inside to move on. The kernel's SRCU does the same with two counters a CPU, which spares readers a line each.
"""

from __future__ import annotations

from typing import Any

from model.atomics import atomic_add, cmpxchg, load, load_acquire, smp_mb, store, xchg
from model.constants import (
    EV_RCU_GP_BEGIN,
    EV_RCU_GP_END,
    EV_SRCU_LOCK,
    EV_SRCU_SYNC_BEGIN,
    EV_SRCU_SYNC_END,
    EV_SRCU_UNLOCK,
    INVARIANT,
    PHASE_DONE,
    PHASE_RUNNING,
    SP_RCU,
)
from model.finding import report
from model.jit import kernel
from model.layout import MAX_ACTORS, MAX_VCPUS, Vm
from model.lockdep import LOCK_RCU, LOCK_SRCU, lockdep_acquired, lockdep_check_order, lockdep_release
from model.mutations import NO_ENTRY_BARRIER, NO_SRCU_WAIT, planted
from model.pages import free_page
from model.trace import trace
from model.wait import wait_while

__all__ = [
    "call_rcu",
    "rcu_read_lock",
    "rcu_read_unlock",
    "rcu_thread",
    "srcu_read_lock",
    "srcu_read_unlock",
    "synchronize_rcu",
    "synchronize_srcu",
]

DETAIL_SRCU_READER = 10


@kernel
def _wait_for_readers(vm: Vm, me: int, section: Any) -> None:
    """Wait until every actor that is inside a section now has left it."""
    # Pairs with the barrier in *_read_lock(): either we see the reader inside, or it sees what was published before.
    smp_mb()
    for actor in range(MAX_ACTORS):
        if vm.cfg.nr_vcpus[0] <= actor < MAX_VCPUS:
            continue
        count = load(section, actor)
        if count & 1 == 1 and actor != me:
            wait_while(vm, me, section, actor, count)
    # Pairs with the barrier in *_read_unlock(): what the readers did is done.
    smp_mb()


@kernel
def srcu_read_lock(vm: Vm, me: int) -> None:
    """Enter kvm->srcu: memslots looked up from here on stay valid."""
    lockdep_check_order(vm, me, LOCK_SRCU)
    lockdep_acquired(vm, me, LOCK_SRCU)
    store(vm.actor.srcu_seq, me, vm.actor.srcu_seq[me] + 1)
    # Pairs with the first barrier in _wait_for_readers().
    smp_mb()
    trace(vm, me, EV_SRCU_LOCK, -1, -1, -1, -1, -1, -1)


@kernel
def srcu_read_unlock(vm: Vm, me: int) -> None:
    """Leave kvm->srcu; no slot pointer may be kept."""
    trace(vm, me, EV_SRCU_UNLOCK, -1, -1, -1, -1, -1, -1)
    # Pairs with the second barrier in _wait_for_readers().
    # Deliberate bug (no-entry-barrier): it would take the place of the one that is missing in vcpu_enter_guest().
    if not planted(vm, NO_ENTRY_BARRIER):
        smp_mb()
    store(vm.actor.srcu_seq, me, vm.actor.srcu_seq[me] + 1)
    lockdep_release(vm, me, LOCK_SRCU)


@kernel
def synchronize_srcu(vm: Vm, me: int) -> None:
    """Wait out every reader from before (I27): synchronize_srcu_expedited(&kvm->srcu).

    Context: outside any SRCU section.
    """
    trace(vm, me, EV_SRCU_SYNC_BEGIN, -1, -1, -1, -1, -1, -1)
    if vm.cfg.check_level[0] > 0:
        for actor in range(MAX_ACTORS):
            vm.snapshot[me, actor] = vm.actor.srcu_seq[actor]
    # Deliberate bug (no-srcu-wait): a fault may go on with the old slot after the swap.
    if not planted(vm, NO_SRCU_WAIT):
        _wait_for_readers(vm, me, vm.actor.srcu_seq)
    if vm.cfg.check_level[0] > 0:
        for actor in range(MAX_ACTORS):
            before = vm.snapshot[me, actor]
            # Nothing of it is kept: states that differ in the past alone shall be equal.
            vm.snapshot[me, actor] = 0
            if before & 1 == 1 and load_acquire(vm.actor.srcu_seq, actor) == before:
                report(vm, me, INVARIANT, 27, -1, -1, -1, -1, actor, DETAIL_SRCU_READER, before)
    trace(vm, me, EV_SRCU_SYNC_END, -1, -1, -1, -1, -1, -1)


@kernel
def rcu_read_lock(vm: Vm, me: int) -> None:
    """Enter an RCU section: page tables seen from here on are not recycled before it ends."""
    lockdep_check_order(vm, me, LOCK_RCU)
    lockdep_acquired(vm, me, LOCK_RCU)
    store(vm.actor.rcu_seq, me, vm.actor.rcu_seq[me] + 1)
    # Pairs with the first barrier in _wait_for_readers(). The kernel needs none: its grace periods wait for every CPU.
    smp_mb()


@kernel
def rcu_read_unlock(vm: Vm, me: int) -> None:
    """Leave the RCU section; no pointer to a page table may be kept."""
    # Pairs with the second barrier in _wait_for_readers().
    smp_mb()
    store(vm.actor.rcu_seq, me, vm.actor.rcu_seq[me] + 1)
    lockdep_release(vm, me, LOCK_RCU)


@kernel
def synchronize_rcu(vm: Vm, me: int) -> None:
    """Wait until every RCU section from before has ended."""
    _wait_for_readers(vm, me, vm.actor.rcu_seq)


@kernel
def call_rcu(vm: Vm, page: int) -> None:
    """Free a page after a grace period: tdp_mmu_free_sp_rcu_callback() is what will run."""
    vm.sp.state[page] = SP_RCU
    atomic_add(vm.rcu.queued, 0, 1)
    head = load(vm.rcu.pending, 0)
    while True:
        vm.sp.next[page] = head
        seen = cmpxchg(vm.rcu.pending, 0, head, page)
        if seen == head:
            break
        head = seen
    atomic_add(vm.rcu.kick, 0, 1)


@kernel
def rcu_thread(vm: Vm, me: int) -> None:
    """The actor that runs RCU callbacks: take what is queued, wait for a grace period, free it in the order of queueing.

    Ends when `run.rcu_stop` is set and the queue is empty.
    """
    store(vm.actor.phase, me, PHASE_RUNNING)
    while True:
        kick = load_acquire(vm.rcu.kick, 0)
        batch = xchg(vm.rcu.pending, 0, 0)
        if batch == 0:
            if load_acquire(vm.run.rcu_stop, 0) != 0:
                store(vm.actor.phase, me, PHASE_DONE)
                return
            wait_while(vm, me, vm.rcu.kick, 0, kick)
            continue
        oldest = 0
        while batch != 0:
            following = vm.sp.next[batch]
            vm.sp.next[batch] = oldest
            oldest = batch
            batch = following
        trace(vm, me, EV_RCU_GP_BEGIN, -1, -1, -1, -1, -1, -1)
        synchronize_rcu(vm, me)
        trace(vm, me, EV_RCU_GP_END, -1, -1, -1, -1, -1, -1)
        while oldest != 0:
            following = vm.sp.next[oldest]
            free_page(vm, me, oldest)
            oldest = following
            atomic_add(vm.rcu.freed, 0, 1)
        vm.actor.progress[me] += 1
