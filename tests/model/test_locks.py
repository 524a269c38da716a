# SPDX-License-Identifier: GPL-2.0-only
"""Tests of model/locks.py, under interleavings of small actors."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.atomics import might_sleep
from model.locks import (
    cond_resched_rwlock_read,
    cond_resched_rwlock_write,
    mutex_lock,
    mutex_unlock,
    read_lock,
    read_unlock,
    rwlock_needbreak,
    write_lock,
    write_unlock,
)

from .stage import CTL, Stage, findings, small_vm


class _Inside:
    """Who is inside the critical section, checked at every entry."""

    def __init__(self):
        self.readers = self.writers = self.most_readers = 0
        self.order = []

    def read(self, vm, me, times=1):
        for _ in range(times):
            read_lock(vm, me, vm.mmu_lock)
            self.readers += 1
            self.most_readers = max(self.most_readers, self.readers)
            assert self.writers == 0
            self.order.append(me)
            might_sleep()
            assert self.writers == 0
            self.readers -= 1
            read_unlock(vm, me, vm.mmu_lock)

    def write(self, vm, me, times=1):
        for _ in range(times):
            write_lock(vm, me, vm.mmu_lock)
            self.writers += 1
            assert (self.readers, self.writers) == (0, 1)
            self.order.append(me)
            might_sleep()
            assert (self.readers, self.writers) == (0, 1)
            self.writers -= 1
            write_unlock(vm, me, vm.mmu_lock)

    def exclusive(self, vm, me, times=1):
        for _ in range(times):
            mutex_lock(vm, me, vm.slots_lock)
            self.writers += 1
            assert self.writers == 1
            might_sleep()
            assert self.writers == 1
            self.writers -= 1
            mutex_unlock(vm, me, vm.slots_lock)


@settings(max_examples=60)
@given(seed=st.integers(0, 1 << 32), writers=st.integers(0, 3), readers=st.integers(0, 3))
def test_writers_exclude_everybody(seed, writers, readers):
    """In every interleaving a writer is alone, everybody gets the lock in the end, and it is left free."""
    vm, inside = small_vm(), _Inside()
    with Stage() as stage:
        for n in range(writers):
            stage.add(f"w{n}", inside.write, vm, n, 3)
        for n in range(readers):
            stage.add(f"r{n}", inside.read, vm, 10 + n, 3)
        assert stage.run_at_random(seed) == []
    lock = vm.mmu_lock
    assert (lock.cnts[0], lock.owner[0], lock.ticket_next[0]) == (0, 0, lock.ticket_owner[0])
    assert len(inside.order) == 3 * (writers + readers)
    assert findings(vm) == []


@settings(max_examples=30)
@given(seed=st.integers(0, 1 << 32))
def test_a_mutex_admits_one(seed):
    """In every interleaving one actor at a time holds a mutex."""
    vm, inside = small_vm(), _Inside()
    with Stage() as stage:
        for n in range(3):
            stage.add(n, inside.exclusive, vm, n, 3)
        assert stage.run_at_random(seed) == []
    assert findings(vm) == []


def test_readers_share():
    """Two readers are inside together."""
    vm, inside = small_vm(), _Inside()
    with Stage() as stage:
        for n in (0, 1):
            stage.add(n, inside.read, vm, n)
            stage.run_until(n, lambda n=n: n in inside.order)
        stage.finish(0, 1)
    assert inside.most_readers == 2


def test_a_waiting_writer_blocks_new_readers():
    """A reader that comes after a waiting writer gets the lock after him, although readers hold it."""
    vm, inside = small_vm(), _Inside()
    with Stage() as stage:
        stage.add("first", inside.read, vm, 0)
        stage.add("writer", inside.write, vm, CTL)
        stage.add("late", inside.read, vm, 1)
        stage.run_until("first", lambda: inside.readers == 1)
        stage.run_until_waiting("writer")
        stage.run_until_waiting("late")
        stage.finish("first")
        assert stage.waiting("late")
        stage.finish("writer", "late")
    assert inside.order == [0, CTL, 1]


def test_who_gives_up_the_lock_comes_back_at_the_tail():
    """A lock break lets everybody who waits go first."""
    vm, inside = small_vm(), _Inside()
    order = []

    def breaker():
        write_lock(vm, 0, vm.mmu_lock)
        might_sleep()
        order.append(cond_resched_rwlock_write(vm, 0, vm.mmu_lock))
        order.append(tuple(inside.order))
        write_unlock(vm, 0, vm.mmu_lock)

    with Stage() as stage:
        stage.add("breaker", breaker)
        stage.run_until("breaker", lambda: vm.mmu_lock.owner[0] == 1)
        for n in (1, 2):
            stage.add(n, inside.write, vm, n)
            stage.run_until_waiting(n)
        stage.run_until_waiting("breaker")
        stage.finish(1, 2, "breaker")
    assert order == [True, (1, 2)]


@pytest.mark.parametrize("contention", [True, False])
@pytest.mark.parametrize("resched", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_lock_break_modes(contention, resched, shared):
    """With a waiter queued, a preemptible kernel breaks the lock; the other one only when told to reschedule."""
    vm, inside = small_vm(lock_break_on_contention=contention), _Inside()
    broke = []

    def holder():
        if shared:
            read_lock(vm, 0, vm.mmu_lock)
        else:
            write_lock(vm, 0, vm.mmu_lock)
        might_sleep()
        broke.append((cond_resched_rwlock_read if shared else cond_resched_rwlock_write)(vm, 0, vm.mmu_lock))
        if shared:
            read_unlock(vm, 0, vm.mmu_lock)
        else:
            write_unlock(vm, 0, vm.mmu_lock)

    vm.actor.need_resched[0] = resched
    with Stage() as stage:
        stage.add("holder", holder)
        stage.run_until("holder", lambda: vm.actor.held[0] != 0 and vm.mmu_lock.cnts[0] != 0 and stage.next["holder"][1] is None)
        stage.add("waiter", inside.write, vm, 1)
        stage.run_until_waiting("waiter")
        assert rwlock_needbreak(vm, vm.mmu_lock) == contention
        assert stage.run_at_random(1) == []
    assert broke == [contention or resched]
    assert vm.actor.need_resched[0] == 0
    assert findings(vm) == []


def test_nobody_waiting_nothing_breaks():
    """Without a waiter and without need_resched the lock is kept."""
    vm = small_vm()
    write_lock(vm, 0, vm.mmu_lock)
    holds = vm.mmu_lock.holds[0]
    assert not cond_resched_rwlock_write(vm, 0, vm.mmu_lock)
    assert vm.mmu_lock.holds[0] == holds
    vm.actor.need_resched[0] = 1
    assert cond_resched_rwlock_write(vm, 0, vm.mmu_lock)
    assert vm.mmu_lock.holds[0] == holds + 1


def test_a_waiter_acknowledges_its_ipis():
    """Waiting for mmu_lock keeps interrupts on: an IPI is acknowledged, and the wait goes on."""
    vm, inside = small_vm(), _Inside()
    write_lock(vm, CTL, vm.mmu_lock)
    with Stage() as stage:
        stage.add("vcpu", inside.read, vm, 0)
        stage.run_until_waiting("vcpu")
        vm.actor.ipi_sent[0] += 1
        assert not stage.waiting("vcpu")
        stage.run_until_waiting("vcpu")
        assert vm.actor.ipi_acked[0] == vm.actor.ipi_sent[0] == 1
        write_unlock(vm, CTL, vm.mmu_lock)
        stage.finish("vcpu")
    assert findings(vm) == []
