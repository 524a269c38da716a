# SPDX-License-Identifier: GPL-2.0-only
"""The same script, interpreted and compiled, leaves the same record: one source, two engines."""

from __future__ import annotations

import numba
import numpy as np

from model.constants import KVM_REQ_TLB_FLUSH, VARIANTS
from model.context import CTX_CLOCK, context
from model.jit import kernel
from model.layout import ACTOR_CTL, empty_vm, views
from model.mmu import kvm_mmu_page_fault, kvm_mmu_reload, kvm_mmu_unload
from model.pages import drain_memory_caches
from model.rcu import rcu_thread, srcu_read_lock, srcu_read_unlock
from model.requests import kvm_check_request
from model.tlb import kvm_flush_tlb_all
from model.userspace import userspace_create, userspace_delete, userspace_move
from model.vcpu import guest_access
from model.vm import setup_vm

from .stage import SMALL, findings, replace

# The log and the clock are the engines' own; everything else must agree.
OWN = {"ring", "site"}
ROUNDS = 3


@kernel
def _guest(vm):
    srcu_read_lock(vm, 0)
    for gfn in range(4):
        if kvm_check_request(vm, 0, KVM_REQ_TLB_FLUSH):
            kvm_flush_tlb_all(vm, 0)
        kvm_mmu_reload(vm, 0)
        root = vm.vcpu.root_hpa[0]
        if not guest_access(vm, 0, root, gfn, gfn % 2 == 0):
            kvm_mmu_page_fault(vm, 0, gfn, gfn % 2 == 0)
            guest_access(vm, 0, root, gfn, gfn % 2 == 0)
    srcu_read_unlock(vm, 0)


@kernel
def _script(vm):
    for _ in range(ROUNDS):
        userspace_create(vm, ACTOR_CTL, 0)
        userspace_create(vm, ACTOR_CTL, 1)
        _guest(vm)
        userspace_move(vm, ACTOR_CTL, 1)
        _guest(vm)
        userspace_delete(vm, ACTOR_CTL, 0)
        _guest(vm)
        userspace_delete(vm, ACTOR_CTL, 1)
        vm.run.rcu_stop[0] = 1
        rcu_thread(vm, 65)
    srcu_read_lock(vm, 0)
    kvm_mmu_unload(vm, 0)
    srcu_read_unlock(vm, 0)
    drain_memory_caches(vm, 0)


_compiled_script = numba.njit(_script)


def record_after(script, settings, *, compiled):
    record = empty_vm()
    setup_vm(views(record), settings)
    script(record[0] if compiled else views(record))
    vm = views(record)
    vm.actor.ring_head[:] = 0
    vm.live.retired_time[:] = vm.finding.time[:] = vm.finding.other_time[:] = 0
    return vm


def same(one, other, path=""):
    """Names of the fields in which two records differ."""
    differing = []
    for name, value in vars(one).items():
        if not path and name in OWN:
            continue
        if isinstance(value, np.ndarray):
            if not np.array_equal(value, getattr(other, name)):
                differing.append(f"{path}{name}")
        else:
            differing += same(value, getattr(other, name), f"{path}{name}.")
    return differing


def test_a_script_leaves_the_same_record():
    """Creates, faults, accesses, a MOVE, deletes, both quirk values, every variant: word for word the same state."""
    context[CTX_CLOCK] = 1
    for variant in VARIANTS:
        for quirk in (True, False):
            settings = replace(SMALL, variant=variant, quirk_slot_zap_all=quirk)
            interpreted = record_after(_script, settings, compiled=False)
            compiled = record_after(_compiled_script, settings, compiled=True)
            assert same(interpreted, compiled) == []
            assert findings(compiled) == []
            assert compiled.counter.sum() > 0
