# SPDX-License-Identifier: GPL-2.0-only
"""Lock rules as statements, with the kernel's names: who holds what is known for every actor.

`actor.held` has a bit a lock; only its actor writes it. A broken rule is a finding like any other.
"""

from __future__ import annotations

from model.constants import INVARIANT, LOCKDEP
from model.finding import report
from model.jit import kernel
from model.layout import Vm

__all__ = [
    "LOCK_MMU_READ",
    "LOCK_MMU_WRITE",
    "LOCK_NAMES",
    "LOCK_POOL",
    "LOCK_RCU",
    "LOCK_SLOTS",
    "LOCK_SLOTS_ARCH",
    "LOCK_SRCU",
    "LOCK_TDP_MMU_PAGES",
    "lockdep_acquired",
    "lockdep_assert_held",
    "lockdep_assert_held_read",
    "lockdep_assert_held_write",
    "lockdep_assert_not_held",
    "lockdep_check_order",
    "lockdep_release",
]

# Outer to inner: taking a lock while one of a higher number is held is an order violation (kvm-mmu lock order).
LOCK_SLOTS = 0
LOCK_SRCU = 1
LOCK_SLOTS_ARCH = 2
LOCK_MMU_READ = 3
LOCK_MMU_WRITE = 4
LOCK_RCU = 5
LOCK_TDP_MMU_PAGES = 6
LOCK_POOL = 7
LOCK_NAMES = (
    "slots_lock",
    "srcu",
    "slots_arch_lock",
    "mmu_lock (read)",
    "mmu_lock (write)",
    "rcu",
    "tdp_mmu_pages_lock",
    "pool_lock",
)

DETAIL_LOCK_ORDER = 1
DETAIL_LOCK_NOT_HELD = 2
DETAIL_LOCK_HELD = 3


@kernel
def lockdep_check_order(vm: Vm, me: int, lock_id: int) -> None:
    """May this actor take, or wait for, the lock?

    slots_lock inside an SRCU reader waits for itself; mmu_lock does not nest in either mode; everything nests outer to inner.
    """
    inner = vm.actor.held[me] >> lock_id
    if LOCK_MMU_READ <= lock_id <= LOCK_MMU_WRITE:
        inner = vm.actor.held[me] >> LOCK_MMU_READ
    if inner != 0:
        report(vm, me, INVARIANT, LOCKDEP, -1, -1, -1, -1, -1, DETAIL_LOCK_ORDER, lock_id)


@kernel
def lockdep_acquired(vm: Vm, me: int, lock_id: int) -> None:
    """Note that this actor has the lock; who still waits for it does not count as its holder."""
    vm.actor.held[me] |= 1 << lock_id


@kernel
def lockdep_release(vm: Vm, me: int, lock_id: int) -> None:
    """Note that this actor gives a lock back."""
    if vm.actor.held[me] & (1 << lock_id) == 0:
        report(vm, me, INVARIANT, LOCKDEP, -1, -1, -1, -1, -1, DETAIL_LOCK_NOT_HELD, lock_id)
    vm.actor.held[me] &= ~(1 << lock_id)


@kernel
def lockdep_assert_held(vm: Vm, me: int, lock_id: int) -> None:
    """This actor holds the lock."""
    if vm.actor.held[me] & (1 << lock_id) == 0:
        report(vm, me, INVARIANT, LOCKDEP, -1, -1, -1, -1, -1, DETAIL_LOCK_NOT_HELD, lock_id)


@kernel
def lockdep_assert_held_write(vm: Vm, me: int) -> None:
    """This actor holds mmu_lock for write; it is the only lock with modes."""
    lockdep_assert_held(vm, me, LOCK_MMU_WRITE)


@kernel
def lockdep_assert_held_read(vm: Vm, me: int) -> None:
    """This actor holds mmu_lock for read."""
    lockdep_assert_held(vm, me, LOCK_MMU_READ)


@kernel
def lockdep_assert_not_held(vm: Vm, me: int) -> None:
    """This actor holds mmu_lock in neither mode."""
    if vm.actor.held[me] & ((1 << LOCK_MMU_READ) | (1 << LOCK_MMU_WRITE)) != 0:
        report(vm, me, INVARIANT, LOCKDEP, -1, -1, -1, -1, -1, DETAIL_LOCK_HELD, LOCK_MMU_WRITE)
