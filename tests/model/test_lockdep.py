# SPDX-License-Identifier: GPL-2.0-only
"""Tests of model/lockdep.py: each rule fires, and the model's own order does not."""

from __future__ import annotations

import pytest

from model.constants import LOCKDEP
from model.lockdep import (
    LOCK_MMU_READ,
    LOCK_MMU_WRITE,
    LOCK_NAMES,
    LOCK_RCU,
    LOCK_SLOTS,
    LOCK_SRCU,
    lockdep_acquired,
    lockdep_assert_held,
    lockdep_assert_held_read,
    lockdep_assert_held_write,
    lockdep_assert_not_held,
    lockdep_check_order,
    lockdep_release,
)

from .stage import findings, small_vm

FIRED = [("invariant", LOCKDEP)]
# Either mode of mmu_lock excludes the other on the same actor.
ORDERS = [
    [lock for lock in range(len(LOCK_NAMES)) if lock != LOCK_MMU_WRITE],
    [lock for lock in range(len(LOCK_NAMES)) if lock != LOCK_MMU_READ],
]


def take(vm, me, lock):
    lockdep_check_order(vm, me, lock)
    lockdep_acquired(vm, me, lock)


@pytest.mark.parametrize("order", ORDERS)
def test_outer_to_inner_is_silent(order):
    """Locks taken in the documented order and released in any other break no rule."""
    vm = small_vm()
    for lock in order:
        take(vm, 0, lock)
    for lock in order:
        lockdep_release(vm, 0, lock)
    assert findings(vm) == []
    assert vm.actor.held[0] == 0


@pytest.mark.parametrize("outer", range(len(LOCK_NAMES)))
@pytest.mark.parametrize("inner", range(len(LOCK_NAMES)))
def test_inner_to_outer_fires(outer, inner):
    """Taking a lock while it, or one inside it, is held is reported: with either one actor alone or two it would deadlock."""
    vm = small_vm()
    take(vm, 0, inner)
    take(vm, 0, outer)
    both_modes = {outer, inner} == {LOCK_MMU_READ, LOCK_MMU_WRITE}
    assert findings(vm) == (FIRED if outer <= inner or both_modes else [])


def test_slots_lock_inside_srcu_fires():
    """A reader that takes slots_lock waits for the updater that waits for the reader."""
    vm = small_vm()
    take(vm, 0, LOCK_SRCU)
    take(vm, 0, LOCK_SLOTS)
    assert findings(vm) == FIRED


def test_actors_are_told_apart():
    """What one actor holds is neither held nor in the way of another."""
    vm = small_vm()
    take(vm, 0, LOCK_MMU_WRITE)
    take(vm, 1, LOCK_SLOTS)
    assert findings(vm) == []
    lockdep_assert_held_write(vm, 1)
    assert findings(vm) == FIRED


@pytest.mark.parametrize("held", [None, LOCK_MMU_READ, LOCK_MMU_WRITE, LOCK_RCU])
def test_assertions(held):
    """Each assertion about mmu_lock is silent in its own mode and fires in any other."""
    for check, wants in (
        (lockdep_assert_held_read, held == LOCK_MMU_READ),
        (lockdep_assert_held_write, held == LOCK_MMU_WRITE),
        (lockdep_assert_not_held, held not in {LOCK_MMU_READ, LOCK_MMU_WRITE}),
    ):
        vm = small_vm()
        if held is not None:
            take(vm, 0, held)
        check(vm, 0)
        assert findings(vm) == ([] if wants else FIRED)


def test_release_and_assert_of_what_is_not_held_fire():
    """Giving back a lock that was never taken, and relying on one, are reported."""
    vm = small_vm()
    lockdep_release(vm, 0, LOCK_RCU)
    lockdep_assert_held(vm, 0, LOCK_SLOTS)
    assert findings(vm) == FIRED * 2
