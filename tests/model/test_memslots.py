# SPDX-License-Identifier: GPL-2.0-only
"""Tests of model/memslots.py, model/kvm_main.py and model/userspace.py: scripts against a slow twin, the swap's steps, I20."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.constants import (
    EV_LOCK_ACQUIRE,
    EV_LOCK_RELEASE,
    EV_SLOT_SWAP,
    EV_SRCU_SYNC_BEGIN,
    EV_SRCU_SYNC_END,
    KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS,
    KVM_MEMSLOT_INVALID,
    KVM_MR_DELETE,
    KVM_REQ_TLB_FLUSH,
    VARIANTS,
)
from model.kvm_main import kvm_set_memory_region
from model.layout import MAX_PLACES
from model.lockdep import LOCK_SLOTS_ARCH
from model.locks import mutex_lock
from model.memslots import gfn_to_memslot, kvm_swap_active_memslots
from model.mmu import kvm_mmu_page_fault, kvm_mmu_reload
from model.rcu import srcu_read_lock, srcu_read_unlock
from model.requests import kvm_check_request
from model.tlb import kvm_flush_tlb_all
from model.userspace import userspace_create, userspace_delete, userspace_move
from model.vcpu import guest_access
from model.vm import SlotSettings

from .stage import CTL, Recorder, Stage, drain_rcu, findings, small_vm

SLOTS = (SlotSettings(0, 2, True, move_to=8), SlotSettings(2, 1, True, move_to=3), SlotSettings(4, 3, True, move_to=12))


def generation(vm):
    return int((vm.memslots.generation0, vm.memslots.generation1)[vm.memslots.active[0]][0])


@given(
    variant=st.sampled_from(VARIANTS),
    quirk=st.booleans(),
    script=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["delete", "move", "guest"])), max_size=25),
)
def test_scripts_against_a_slow_twin(variant, quirk, script):
    """Whatever is created, deleted, moved and accessed in between, lookups, generations, tags and frames are the twin's."""
    vm = small_vm(slots=SLOTS, bits_per_level=2, variant=variant, quirk_slot_zap_all=quirk, nr_pages=200)
    places, extents, swaps = {}, [0, 1, 2], 0
    moved = [False] * 3
    for slot_id, operation in script:
        slot = SLOTS[slot_id]
        if operation == "guest":
            srcu_read_lock(vm, 0)
            for gfn in range(16):
                if kvm_check_request(vm, 0, KVM_REQ_TLB_FLUSH):
                    kvm_flush_tlb_all(vm, 0)
                kvm_mmu_reload(vm, 0)
                kvm_mmu_page_fault(vm, 0, gfn, True)
                hit = guest_access(vm, 0, int(vm.vcpu.root_hpa[0]), gfn, True)
                assert hit == any(base <= gfn < base + SLOTS[n].npages for n, (base, _) in places.items())
            srcu_read_unlock(vm, 0)
        elif slot_id not in places:
            userspace_create(vm, CTL, slot_id)
            places[slot_id] = (slot.move_to if moved[slot_id] else slot.base_gfn, extents.pop(0))
            swaps += 1
        elif operation == "move":
            moved[slot_id] = not moved[slot_id]
            userspace_move(vm, CTL, slot_id)
            places[slot_id] = (slot.move_to if moved[slot_id] else slot.base_gfn, places[slot_id][1])
            swaps += 2
        else:
            userspace_delete(vm, CTL, slot_id)
            extents.insert(0, places.pop(slot_id)[1])
            swaps += 2
        drain_rcu(vm)
        assert generation(vm) == swaps
        srcu_read_lock(vm, 1)
        for gfn in range(16):
            found = gfn_to_memslot(vm, 1, gfn)
            owner = next((n for n, (base, _) in places.items() if base <= gfn < base + SLOTS[n].npages), None)
            assert (found != 0) == (owner is not None)
            if owner is not None:
                base, extent = places[owner]
                assert vm.slot.id[found] == owner
                assert vm.slot.hva[found] + gfn - base == extent * 3 + gfn - base
                incarnation = vm.slot.incarnation[found]
                assert vm.live.incarnation[incarnation % MAX_PLACES] == incarnation
                assert vm.frame_tag[extent * 3 + gfn - base] == vm.user_slot.backing[owner]
        srcu_read_unlock(vm, 1)
        assert vm.slot.allocated.sum() == len(places)
    assert findings(vm) == []


def test_the_swaps_steps_are_in_order():
    """Publish, drop slots_arch_lock, wait for readers, new generation: in this order, the bit set until the end."""
    vm = small_vm()
    with Recorder() as recorder:
        userspace_create(vm, CTL, 0)
    events = [(event[2], event[7], event[8]) for event in recorder.events]
    kinds = [
        (kind, arg0)
        for kind, arg0, _ in events
        if kind in {EV_SLOT_SWAP, EV_SRCU_SYNC_BEGIN, EV_SRCU_SYNC_END}
        or (kind in {EV_LOCK_ACQUIRE, EV_LOCK_RELEASE} and arg0 == LOCK_SLOTS_ARCH)
    ]
    assert kinds == [
        (EV_LOCK_ACQUIRE, LOCK_SLOTS_ARCH),
        (EV_SLOT_SWAP, 1),
        (EV_SLOT_SWAP, 2),
        (EV_LOCK_RELEASE, LOCK_SLOTS_ARCH),
        (EV_SLOT_SWAP, 3),
        (EV_SRCU_SYNC_BEGIN, -1),
        (EV_SRCU_SYNC_END, -1),
        (EV_SLOT_SWAP, 4),
        (EV_SLOT_SWAP, 5),
    ]
    generations = [arg1 for kind, _, arg1 in events if kind == EV_SLOT_SWAP]
    assert [bool(number & KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS) for number in generations] == [True] * 4 + [False]


def test_a_delete_shows_its_slot_invalid_while_it_zaps():
    """Between the swaps the slot is found, and is INVALID; after the second one it is not found."""
    vm = small_vm()
    userspace_create(vm, CTL, 0)
    with Stage() as stage:
        stage.add("ctl", userspace_delete, vm, CTL, 0)
        stage.run_into("ctl", "kvm_arch_flush_shadow_memslot")
        srcu_read_lock(vm, 0)
        found = gfn_to_memslot(vm, 0, 1)
        assert vm.slot.mem_flags[found] & KVM_MEMSLOT_INVALID
        srcu_read_unlock(vm, 0)
        stage.finish("ctl")
    srcu_read_lock(vm, 0)
    assert gfn_to_memslot(vm, 0, 1) == 0


def test_an_object_is_not_freed_under_a_reader():
    """A slot pointer that was looked up stays valid until its SRCU section ends, however far the update has come."""
    vm = small_vm()
    userspace_create(vm, CTL, 0)
    srcu_read_lock(vm, 0)
    slot = gfn_to_memslot(vm, 0, 0)
    with Stage() as stage:
        stage.add("ctl", userspace_delete, vm, CTL, 0)
        stage.run_until_waiting("ctl")
        assert "synchronize_srcu" in stage.inside("ctl")
        assert vm.slot.allocated[slot]
        srcu_read_unlock(vm, 0)
        stage.finish("ctl")
    assert not vm.slot.allocated[slot]
    assert findings(vm) == []


@pytest.mark.parametrize("last", [1, 5])
def test_i20_fires_for_a_generation_that_does_not_increase(last):
    """A swap whose generation was there before would revive what the older one had killed."""
    vm = small_vm()
    vm.user.last_generation[0] = last
    mutex_lock(vm, CTL, vm.slots_lock)
    mutex_lock(vm, CTL, vm.slots_arch_lock)
    kvm_swap_active_memslots(vm, CTL)
    assert findings(vm) == [("invariant", 20)]


def test_every_lock_is_given_back():
    """After any operation the updater holds nothing."""
    vm = small_vm()
    for operation, slot_id in ((userspace_create, 1), (userspace_move, 1), (userspace_delete, 1)):
        operation(vm, CTL, slot_id)
        assert vm.actor.held[CTL] == 0
    userspace_create(vm, CTL, 0)
    kvm_set_memory_region(vm, CTL, KVM_MR_DELETE, 0, 0, 0, 0, 0)
    assert vm.actor.held[CTL] == 0
    assert findings(vm) == []
