# SPDX-License-Identifier: GPL-2.0-only
"""Ticket spinlocks and mutexes, and the fair queued rwlock that mmu_lock is (kernel/locking/qrwlock.c).

The rwlock: readers count up in `cnts`, a writer owns its low byte, a waiting writer sets WAITING so that no new reader passes
it; everyone who cannot have the lock at once queues in ticket order, and whoever gives the lock up to reschedule comes back
at the tail. Sleeping and spinning locks behave alike here: waiters block in wait_while().
"""

from __future__ import annotations

from typing import Any

from model.atomics import (
    add_test,
    atomic_add,
    cmpxchg,
    fetch_add,
    fetch_and,
    fetch_or,
    load,
    load_acquire,
    nap_us,
    store,
    store_release,
)
from model.constants import C_LOCK_WAITS, EV_CONTENTION_BEGIN, EV_LOCK_ACQUIRE, EV_LOCK_RELEASE
from model.jit import kernel
from model.layout import Vm
from model.lockdep import LOCK_MMU_READ, LOCK_MMU_WRITE, lockdep_acquired, lockdep_check_order, lockdep_release
from model.trace import trace
from model.wait import wait_while

__all__ = [
    "cond_resched_rwlock_read",
    "cond_resched_rwlock_write",
    "mutex_lock",
    "mutex_unlock",
    "need_resched",
    "read_lock",
    "read_unlock",
    "rwlock_needbreak",
    "spin_lock",
    "spin_unlock",
    "write_lock",
    "write_unlock",
]

QW_LOCKED = 0xFF
QW_WAITING = 0x100
QR_BIAS = 0x200

_MODE_READ = 0
_MODE_WRITE = 1
_MODE_EXCLUSIVE = 2


@kernel
def _contended(vm: Vm, me: int, lock_id: int, mode: int) -> None:
    """The lock cannot be had at once: trace_contention_begin()."""
    trace(vm, me, EV_CONTENTION_BEGIN, -1, -1, -1, -1, lock_id, mode)


@kernel
def _wait_for_turn(vm: Vm, me: int, lock: Any, ticket: int) -> None:
    owner = load_acquire(lock.ticket_owner, 0)
    if owner != ticket:
        vm.counter[me, C_LOCK_WAITS] += 1
    while owner != ticket:
        wait_while(vm, me, lock.ticket_owner, 0, owner)
        owner = load_acquire(lock.ticket_owner, 0)


@kernel
def _queue(vm: Vm, me: int, lock: Any) -> None:
    """Take a ticket and wait for its turn: arch_spin_lock(&lock->wait_lock)."""
    _wait_for_turn(vm, me, lock, fetch_add(lock.ticket_next, 0, 1))


@kernel
def _dequeue(lock: Any) -> None:
    # Only the head of the queue writes ticket_owner. Pairs with the load_acquire() in _queue().
    store_release(lock.ticket_owner, 0, lock.ticket_owner[0] + 1)


@kernel
def spin_lock(vm: Vm, me: int, lock: Any) -> None:
    """Take a spinlock, in ticket order."""
    lock_id = lock.lock_id[0]
    lockdep_check_order(vm, me, lock_id)
    ticket = fetch_add(lock.ticket_next, 0, 1)
    if load_acquire(lock.ticket_owner, 0) != ticket:
        _contended(vm, me, lock_id, _MODE_EXCLUSIVE)
        _wait_for_turn(vm, me, lock, ticket)
    lockdep_acquired(vm, me, lock_id)
    store(lock.owner, 0, me + 1)
    trace(vm, me, EV_LOCK_ACQUIRE, -1, -1, -1, -1, lock_id, _MODE_EXCLUSIVE)


@kernel
def spin_unlock(vm: Vm, me: int, lock: Any) -> None:
    """Give a spinlock to the next ticket."""
    lock_id = lock.lock_id[0]
    trace(vm, me, EV_LOCK_RELEASE, -1, -1, -1, -1, lock_id, _MODE_EXCLUSIVE)
    store(lock.owner, 0, 0)
    lockdep_release(vm, me, lock_id)
    _dequeue(lock)


@kernel
def mutex_lock(vm: Vm, me: int, lock: Any) -> None:
    """Take a mutex; the model's waiters are fair, which the kernel's mostly are."""
    spin_lock(vm, me, lock)


@kernel
def mutex_unlock(vm: Vm, me: int, lock: Any) -> None:
    """Release a mutex."""
    spin_unlock(vm, me, lock)


@kernel
def read_lock(vm: Vm, me: int, lock: Any) -> None:
    """queued_read_lock(): share the lock unless a writer holds it or waits for it."""
    lockdep_check_order(vm, me, LOCK_MMU_READ)
    if add_test(lock.cnts, 0, QR_BIAS, QW_LOCKED | QW_WAITING) != 0:
        # Somebody writes or is about to: step back and queue behind him.
        atomic_add(lock.cnts, 0, -QR_BIAS)
        _contended(vm, me, LOCK_MMU_READ, _MODE_READ)
        _queue(vm, me, lock)
        cnts = fetch_add(lock.cnts, 0, QR_BIAS) + QR_BIAS
        while (cnts & QW_LOCKED) != 0:
            wait_while(vm, me, lock.cnts, 0, cnts)
            cnts = load_acquire(lock.cnts, 0)
        _dequeue(lock)
    lockdep_acquired(vm, me, LOCK_MMU_READ)
    trace(vm, me, EV_LOCK_ACQUIRE, -1, -1, -1, -1, LOCK_MMU_READ, _MODE_READ)


@kernel
def read_unlock(vm: Vm, me: int, lock: Any) -> None:
    """queued_read_unlock()."""
    trace(vm, me, EV_LOCK_RELEASE, -1, -1, -1, -1, LOCK_MMU_READ, _MODE_READ)
    lockdep_release(vm, me, LOCK_MMU_READ)
    atomic_add(lock.cnts, 0, -QR_BIAS)


@kernel
def write_lock(vm: Vm, me: int, lock: Any) -> None:
    """queued_write_lock(): own the lock; while waiting, no new reader gets in."""
    lockdep_check_order(vm, me, LOCK_MMU_WRITE)
    if cmpxchg(lock.cnts, 0, 0, QW_LOCKED) != 0:
        _contended(vm, me, LOCK_MMU_WRITE, _MODE_WRITE)
        _queue(vm, me, lock)
        if cmpxchg(lock.cnts, 0, 0, QW_LOCKED) != 0:
            cnts = fetch_or(lock.cnts, 0, QW_WAITING) | QW_WAITING
            # Only the head of the queue waits here, so WAITING is ours; go when it is all that is left.
            while cnts != QW_WAITING or cmpxchg(lock.cnts, 0, QW_WAITING, QW_LOCKED) != QW_WAITING:
                if cnts != QW_WAITING:
                    wait_while(vm, me, lock.cnts, 0, cnts)
                cnts = load_acquire(lock.cnts, 0)
        _dequeue(lock)
    lockdep_acquired(vm, me, LOCK_MMU_WRITE)
    store(lock.owner, 0, me + 1)
    # Counts the holds: two steps under one number were one unbroken hold.
    lock.holds[0] += 1
    trace(vm, me, EV_LOCK_ACQUIRE, -1, -1, -1, -1, LOCK_MMU_WRITE, _MODE_WRITE)


@kernel
def write_unlock(vm: Vm, me: int, lock: Any) -> None:
    """queued_write_unlock(): clear the writer's byte, leave waiting and passing readers' bits."""
    trace(vm, me, EV_LOCK_RELEASE, -1, -1, -1, -1, LOCK_MMU_WRITE, _MODE_WRITE)
    store(lock.owner, 0, 0)
    lockdep_release(vm, me, LOCK_MMU_WRITE)
    fetch_and(lock.cnts, 0, ~QW_LOCKED)


@kernel
def need_resched(vm: Vm, me: int) -> bool:
    """Has the scheduler, here the perturbation, asked this actor to give up its CPU?"""
    return load(vm.actor.need_resched, me) != 0


@kernel
def rwlock_needbreak(vm: Vm, lock: Any) -> bool:
    """Is somebody queued for the lock? Always false where the kernel is not preemptible."""
    if vm.cfg.lock_break_on_contention[0] == 0:
        return False
    return load(lock.ticket_next, 0) != load(lock.ticket_owner, 0)


@kernel
def _cond_resched(vm: Vm, me: int) -> None:
    if need_resched(vm, me):
        store(vm.actor.need_resched, me, 0)
        nap_us(0)


@kernel
def cond_resched_rwlock_read(vm: Vm, me: int, lock: Any) -> bool:
    """Drop and retake the lock, at the tail of the queue, if asked to reschedule or if somebody waits.

    Returns:
        True if the lock was dropped.
    """
    if not need_resched(vm, me) and not rwlock_needbreak(vm, lock):
        return False
    read_unlock(vm, me, lock)
    _cond_resched(vm, me)
    read_lock(vm, me, lock)
    return True


@kernel
def cond_resched_rwlock_write(vm: Vm, me: int, lock: Any) -> bool:
    """As cond_resched_rwlock_read(), for a writer."""
    if not need_resched(vm, me) and not rwlock_needbreak(vm, lock):
        return False
    write_unlock(vm, me, lock)
    _cond_resched(vm, me)
    write_lock(vm, me, lock)
    return True
