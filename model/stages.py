# SPDX-License-Identifier: GPL-2.0-only
"""An explored execution in three stages: a warm VM, the actors' scripts in all interleavings, the end of the VM.

Only the second stage is interleaved. The first and the last are played by one actor after the other, without a scheduler: what
leads to the race and what checks its outcome adds nothing to the race itself.
"""

from __future__ import annotations

from model.actors import actor_main
from model.constants import KVM_MR_CREATE, KVM_MR_DELETE
from model.jit import kernel
from model.kvm_main import run_deferred_back_half
from model.layout import ACTOR_CTL, ACTOR_RCU, ACTOR_TOGGLER, MAX_VCPUS, Vm
from model.locks import mutex_lock, mutex_unlock
from model.mmu import kvm_mmu_page_fault, kvm_mmu_reload, kvm_mmu_unload
from model.pages import drain_memory_caches
from model.rcu import rcu_thread, srcu_read_lock, srcu_read_unlock
from model.script import next_in_script, script_is_over
from model.teardown import check_balance, kvm_mmu_uninit_tdp_mmu
from model.userspace import toggle_quirk, userspace_create, userspace_delete, userspace_move
from model.vcpu import guest_access, vcpu_run
from model.wait import wait_while

__all__ = ["finish_vm", "play", "warm_vm"]


def warm_vm(vm: Vm, present: tuple[int, ...], warm: tuple[tuple[int, ...], ...]) -> None:
    """The first stage: slots exist, every vCPU has its root, and mappings in its tables and in its TLB.

    Args:
        vm: the record's views, set up.
        present: ids of the slots that exist.
        warm: for each vCPU the gfns that it has read.

    Context: nobody else runs.
    """
    for slot_id in present:
        userspace_create(vm, ACTOR_CTL, slot_id)
    for vcpu, gfns in enumerate(warm):
        srcu_read_lock(vm, vcpu)
        kvm_mmu_reload(vm, vcpu)
        for gfn in gfns:
            root = int(vm.vcpu.root_hpa[vcpu])
            if not guest_access(vm, vcpu, root, gfn, False):
                kvm_mmu_page_fault(vm, vcpu, gfn, False)
                guest_access(vm, vcpu, root, gfn, False)
        srcu_read_unlock(vm, vcpu)


@kernel
def _play_vcpu(vm: Vm, me: int) -> None:
    vm.vcpu.retry_gfn[me] = -1
    srcu_read_lock(vm, me)
    vcpu_run(vm, me)
    srcu_read_unlock(vm, me)
    # A kick may still be on its way: keep acknowledging.
    wait_while(vm, me, vm.run.destroyed, 0, 0)


@kernel
def _play_controller(vm: Vm, me: int) -> None:
    while not script_is_over(vm, me):
        item = next_in_script(vm, me)
        change = item >> 8
        slot_id = item & 0xFF
        if change == KVM_MR_CREATE:
            userspace_create(vm, me, slot_id)
        elif change == KVM_MR_DELETE:
            userspace_delete(vm, me, slot_id)
        else:
            userspace_move(vm, me, slot_id)


@kernel
def _play_toggler(vm: Vm, me: int) -> None:
    while not script_is_over(vm, me):
        next_in_script(vm, me)
        toggle_quirk(vm, me)


@kernel
def play(vm: Vm, me: int) -> None:
    """The second stage: one actor's part of it; without scripts, its part of a whole run."""
    if vm.cfg.scripted[0] == 0:
        actor_main(vm, me)
    elif me < MAX_VCPUS:
        _play_vcpu(vm, me)
    elif me == ACTOR_CTL:
        _play_controller(vm, me)
    elif me == ACTOR_TOGGLER:
        _play_toggler(vm, me)
    else:
        rcu_thread(vm, me)


@kernel
def finish_vm(vm: Vm) -> None:
    """The last stage: the vCPUs go, the slots are deleted, the MMU is taken down, and everything must balance.

    Context: the actors have come to the end of their scripts; nobody else runs.
    """
    me = ACTOR_CTL
    for vcpu in range(vm.cfg.nr_vcpus[0]):
        kvm_mmu_unload(vm, vcpu)
        drain_memory_caches(vm, vcpu)
    for slot_id in range(vm.cfg.nr_slots[0]):
        if vm.user_slot.present[slot_id] != 0:
            userspace_delete(vm, me, slot_id)
    mutex_lock(vm, me, vm.slots_lock)
    run_deferred_back_half(vm, me)
    kvm_mmu_uninit_tdp_mmu(vm, me)
    mutex_unlock(vm, me, vm.slots_lock)
    vm.run.rcu_stop[0] = 1
    rcu_thread(vm, ACTOR_RCU)
    check_balance(vm, me)
