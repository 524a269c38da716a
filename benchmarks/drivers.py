# SPDX-License-Identifier: GPL-2.0-only
"""Compiled loops around the model's own functions; import only after the build (plain or instrumented) has been chosen.

The loops at the end of twin.c are their counterparts.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numba

from model.constants import EXIT_FAULT, PG_LEVEL_4K
from model.jit import kernel
from model.layout import MAX_VCPUS, VM, Vm
from model.locks import read_lock, read_unlock
from model.mmu import kvm_mmu_page_fault
from model.rcu import rcu_read_lock, rcu_read_unlock
from model.tdp_mmu import _tdp_mmu_zap_root_level
from model.vcpu import guest_run

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["run_accesses", "run_faults", "run_zap"]

_ACCESSES, _FAULTS, _ZAP = range(3)
_kept: list[Any] = []


def _by_address(function: Callable[..., None]) -> Any:
    """Compile and call as the twin is called, with the record's address: to unwrap the record takes Numba 0.3 ms a call."""
    integers = function.__code__.co_argcount - 1
    compiled = numba.cfunc(numba.void(numba.from_dtype(VM), *[numba.int64] * integers))(function)
    _kept.append(compiled)
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_int64] * integers)(compiled.address)


@kernel
def _accesses(vm: Vm, me: int, entries: int) -> None:
    """So many times into the guest, without the entry sequence around it."""
    for _ in range(entries):
        if guest_run(vm, me) == EXIT_FAULT:
            kvm_mmu_page_fault(vm, me, vm.vcpu.retry_gfn[me], vm.vcpu.retry_write[me] != 0)
        # In the drain's place: the ring never fills up.
        vm.actor.ring_tail[me] = vm.actor.ring_head[me]


@kernel
def _faults(vm: Vm, me: int, base_gfn: int, faults: int) -> None:
    """Fault pages in, one after another."""
    for gfn in range(base_gfn, base_gfn + faults):
        kvm_mmu_page_fault(vm, me, gfn, gfn & 1 != 0)
        vm.actor.ring_tail[me] = vm.actor.ring_head[me]


@kernel
def _zap(vm: Vm, me: int) -> None:
    """Clear all leafs of the vCPU's root by cmpxchg, as the back half does first; the tables stay."""
    read_lock(vm, me, vm.mmu_lock)
    rcu_read_lock(vm, me)
    _tdp_mmu_zap_root_level(vm, me, vm.vcpu.root_hpa[me], shared=True, zap_level=PG_LEVEL_4K)
    rcu_read_unlock(vm, me)
    read_unlock(vm, me, vm.mmu_lock)
    vm.actor.ring_tail[me] = vm.actor.ring_head[me]


@kernel
def _actor(vm: Vm, me: int, what: int, first: int, count: int) -> None:
    # One function below each entry point, and an actor known to be one, as in model/actors.py.
    if not 0 <= me < MAX_VCPUS:
        return
    if what == _ACCESSES:
        _accesses(vm, me, count)
    elif what == _FAULTS:
        _faults(vm, me, first, count)
    else:
        _zap(vm, me)


@_by_address
def run_driver(vm: Vm, me: int, what: int, first: int, count: int) -> None:
    """The one entry point."""
    _actor(vm, me, what, first, count)


def run_accesses(record: int, me: int, entries: int) -> None:
    """See _accesses()."""
    run_driver(record, me, _ACCESSES, 0, entries)


def run_faults(record: int, me: int, base_gfn: int, faults: int) -> None:
    """See _faults()."""
    run_driver(record, me, _FAULTS, base_gfn, faults)


def run_zap(record: int, me: int) -> None:
    """See _zap()."""
    run_driver(record, me, _ZAP, 0, 0)
