# SPDX-License-Identifier: GPL-2.0-only
"""The VM's userspace: backing frames, incarnations, and the controller that creates, moves and deletes memslots.

Frames come in extents of equal length from a stack, so that what one slot gave back the next one gets. A frame's tag is the
incarnation that CREATE gave its slot (the backing); a MOVE makes a new incarnation over the same backing.

        CREATE          write the tags, make the incarnation live, call CREATE
        DELETE          call DELETE; once it returned: retire the incarnation, clear the tags, push the extent
        MOVE            make the new incarnation live, call MOVE; once it returned: retire the old one
"""

from __future__ import annotations

from model.atomics import load, load_acquire, nap_us, smp_mb, store, store_release
from model.constants import (
    C_CREATES,
    C_DELETES,
    C_DWELL_TIMEOUTS,
    C_FRAMES_REUSED,
    C_MOVES,
    C_QUIRK_TOGGLES,
    EV_FRAME_RETIRE,
    EV_QUIRK_TOGGLE,
    EV_SLOT_OP_BEGIN,
    EV_SLOT_OP_END,
    KVM_MR_CREATE,
    KVM_MR_DELETE,
    KVM_MR_MOVE,
    KVM_X86_QUIRK_SLOT_ZAP_ALL,
    PHASE_DONE,
    PHASE_RUNNING,
    TOGGLER_FLIP,
)
from model.jit import kernel
from model.kvm_main import kvm_set_memory_region
from model.layout import MAX_PLACES, Vm
from model.rng import rng_bits, rng_next
from model.teardown import kvm_destroy_vm
from model.trace import now, trace
from model.wait import wait_while

__all__ = [
    "controller_main",
    "controller_taken_over",
    "toggle_quirk",
    "toggler_main",
    "userspace_create",
    "userspace_delete",
    "userspace_move",
]

_DWELL_NAP_US = 50


@kernel
def _new_incarnation(vm: Vm, slot_id: int, backing: int) -> int:
    """A number never used before, live from now on; backing 0: it is its own."""
    sequence = vm.user.next_seq[0] + 1
    vm.user.next_seq[0] = sequence
    # Two places a slot, used in turn: a MOVE's old and new incarnation are alive together.
    place = slot_id * 2 + (vm.user_slot.nr_operations[slot_id] & 1)
    vm.user_slot.nr_operations[slot_id] += 1
    incarnation = sequence * MAX_PLACES + place
    if backing == 0:
        backing = incarnation
    store(vm.live.backing, place, backing)
    store_release(vm.live.incarnation, place, incarnation)
    vm.user_slot.incarnation[slot_id] = incarnation
    vm.user_slot.backing[slot_id] = backing
    return incarnation


@kernel
def _retire(vm: Vm, me: int, incarnation: int) -> None:
    """From now on any use of this incarnation is stale."""
    place = incarnation & (MAX_PLACES - 1)
    store(vm.live.retired_time, place, now())
    store(vm.live.retired, place, incarnation)
    store_release(vm.live.incarnation, place, 0)
    trace(vm, me, EV_FRAME_RETIRE, -1, -1, -1, incarnation, -1, -1)


@kernel
def _base_gfn(vm: Vm, slot_id: int) -> int:
    if vm.user_slot.moved[slot_id] != 0:
        return vm.slot_cfg.move_to[slot_id]
    return vm.slot_cfg.base_gfn[slot_id]


@kernel
def userspace_create(vm: Vm, me: int, slot_id: int) -> None:
    """Back a slot with the extent that was given back last, and create it."""
    npages = vm.slot_cfg.npages[slot_id]
    vm.user.extents_free[0] -= 1
    extent = vm.user_extent[vm.user.extents_free[0]]
    vm.user_slot.extent[slot_id] = extent
    hva = extent * vm.cfg.extent_frames[0]
    if vm.user_extent_used[extent] != 0:
        vm.counter[me, C_FRAMES_REUSED] += npages
    vm.user_extent_used[extent] = 1
    incarnation = _new_incarnation(vm, slot_id, 0)
    for frame in range(hva, hva + npages):
        store(vm.frame_tag, frame, incarnation)
        vm.actor.progress[me] += 1
    base_gfn = _base_gfn(vm, slot_id)
    trace(vm, me, EV_SLOT_OP_BEGIN, base_gfn, -1, hva, incarnation, KVM_MR_CREATE, slot_id)
    kvm_set_memory_region(vm, me, KVM_MR_CREATE, slot_id, base_gfn, npages, hva, incarnation)
    trace(vm, me, EV_SLOT_OP_END, base_gfn, -1, hva, incarnation, KVM_MR_CREATE, slot_id)
    vm.user_slot.present[slot_id] = 1
    vm.counter[me, C_CREATES] += 1


@kernel
def userspace_delete(vm: Vm, me: int, slot_id: int) -> None:
    """Delete a slot; its frames are ours again as soon as the call returns."""
    incarnation = vm.user_slot.incarnation[slot_id]
    extent = vm.user_slot.extent[slot_id]
    hva = extent * vm.cfg.extent_frames[0]
    base_gfn = _base_gfn(vm, slot_id)
    trace(vm, me, EV_SLOT_OP_BEGIN, base_gfn, -1, hva, incarnation, KVM_MR_DELETE, slot_id)
    kvm_set_memory_region(vm, me, KVM_MR_DELETE, slot_id, 0, 0, 0, 0)
    trace(vm, me, EV_SLOT_OP_END, base_gfn, -1, hva, incarnation, KVM_MR_DELETE, slot_id)
    _retire(vm, me, incarnation)
    for frame in range(hva, hva + vm.slot_cfg.npages[slot_id]):
        store(vm.frame_tag, frame, 0)
        vm.actor.progress[me] += 1
    vm.user_extent[vm.user.extents_free[0]] = extent
    vm.user.extents_free[0] += 1
    vm.user_slot.present[slot_id] = 0
    vm.counter[me, C_DELETES] += 1


@kernel
def userspace_move(vm: Vm, me: int, slot_id: int) -> None:
    """Move a slot to its other place in the guest; the frames stay, the new incarnation is in use before the call returns."""
    old = vm.user_slot.incarnation[slot_id]
    hva = vm.user_slot.extent[slot_id] * vm.cfg.extent_frames[0]
    incarnation = _new_incarnation(vm, slot_id, vm.user_slot.backing[slot_id])
    vm.user_slot.moved[slot_id] = 1 - vm.user_slot.moved[slot_id]
    base_gfn = _base_gfn(vm, slot_id)
    npages = vm.slot_cfg.npages[slot_id]
    trace(vm, me, EV_SLOT_OP_BEGIN, base_gfn, -1, hva, incarnation, KVM_MR_MOVE, slot_id)
    kvm_set_memory_region(vm, me, KVM_MR_MOVE, slot_id, base_gfn, npages, hva, incarnation)
    trace(vm, me, EV_SLOT_OP_END, base_gfn, -1, hva, incarnation, KVM_MR_MOVE, slot_id)
    _retire(vm, me, old)
    vm.counter[me, C_MOVES] += 1


@kernel
def _draw(vm: Vm, me: int, limit: int) -> int:
    rng = rng_next(vm.actor.rng[me])
    vm.actor.rng[me] = rng
    return (rng_bits(rng) * limit) >> 32


@kernel
def _warmed_up(vm: Vm, me: int) -> bool:
    for vcpu in range(vm.cfg.nr_vcpus[0]):
        vm.cpumask[me, vcpu] = load(vm.vcpu.accesses, vcpu)
    left_us = vm.cfg.dwell_us_max[0]
    for vcpu in range(vm.cfg.nr_vcpus[0]):
        while load(vm.vcpu.accesses, vcpu) - vm.cpumask[me, vcpu] < vm.cfg.warmup_accesses[0]:
            if left_us <= 0 or load_acquire(vm.run.stop, 0) != 0:
                return False
            nap_us(_DWELL_NAP_US)
            left_us -= _DWELL_NAP_US
    return True


@kernel
def _dwell(vm: Vm, me: int) -> None:
    """Let mappings warm up: until every vCPU has made its accesses, or time is up. Races need something to go stale.

    The thread is in userspace, between two calls, with nothing half done: here it may be killed, and another one goes on.
    """
    if vm.cfg.warmup_accesses[0] == 0:
        return
    # Release: what was done before is done for whoever sees the rest.
    store_release(vm.actor.at_rest, me, 1)
    warm = _warmed_up(vm, me)
    store(vm.actor.at_rest, me, 0)
    # Nothing of what follows is done, nor read, before everybody can see that the rest is over.
    smp_mb()
    if not warm:
        vm.counter[me, C_DWELL_TIMEOUTS] += 1


@kernel
def _one_operation(vm: Vm, me: int) -> None:
    """CREATE an absent slot, or DELETE or MOVE a present one that may be; static slots stay."""
    slot_id = _draw(vm, me, vm.cfg.nr_slots[0])
    for _ in range(vm.cfg.nr_slots[0]):
        if vm.user_slot.present[slot_id] == 0 or vm.slot_cfg.can_delete[slot_id] + vm.slot_cfg.can_move[slot_id] != 0:
            break
        slot_id = (slot_id + 1) % vm.cfg.nr_slots[0]
    if vm.user_slot.present[slot_id] == 0:
        userspace_create(vm, me, slot_id)
        return
    _dwell(vm, me)
    if vm.slot_cfg.can_delete[slot_id] + vm.slot_cfg.can_move[slot_id] == 0:
        nap_us(_DWELL_NAP_US)
        return
    if vm.slot_cfg.can_move[slot_id] != 0 and (vm.slot_cfg.can_delete[slot_id] == 0 or _draw(vm, me, 2) == 0):
        userspace_move(vm, me, slot_id)
    else:
        userspace_delete(vm, me, slot_id)


@kernel
def controller_main(vm: Vm, me: int) -> None:
    """Create all slots, change them until the run stops, then take the VM down and check that everything balances."""
    store(vm.actor.phase, me, PHASE_RUNNING)
    for slot_id in range(vm.cfg.nr_slots[0]):
        userspace_create(vm, me, slot_id)
    _controller_thread(vm, me)


@kernel
def controller_taken_over(vm: Vm, me: int) -> None:
    """A controller whose thread was killed at rest: after a while another thread of userspace goes on.

    All that the controller knows is in the record; what it had drawn for its next operation is drawn anew.
    """
    store(vm.actor.phase, me, PHASE_RUNNING)
    store(vm.actor.at_rest, me, 0)
    dead_us = vm.actor.dead_us[me]
    while dead_us > 0 and load_acquire(vm.run.stop, 0) == 0:
        nap_us(min(dead_us, _DWELL_NAP_US))
        dead_us -= _DWELL_NAP_US
    _controller_thread(vm, me)


@kernel
def _controller_thread(vm: Vm, me: int) -> None:
    """Change the slots until the run stops, then take the VM down."""
    operations = 0
    while load_acquire(vm.run.stop, 0) == 0:
        if vm.cfg.operations_max[0] != 0 and operations >= vm.cfg.operations_max[0]:
            break
        _one_operation(vm, me)
        operations += 1
        vm.actor.progress[me] += 1
    running = load_acquire(vm.run.vcpus_running, 0)
    while running > 0:
        wait_while(vm, me, vm.run.vcpus_running, 0, running)
        running = load_acquire(vm.run.vcpus_running, 0)
    for slot_id in range(vm.cfg.nr_slots[0]):
        if vm.user_slot.present[slot_id] != 0:
            userspace_delete(vm, me, slot_id)
            vm.actor.progress[me] += 1
    kvm_destroy_vm(vm, me)
    store(vm.actor.phase, me, PHASE_DONE)


@kernel
def toggle_quirk(vm: Vm, me: int) -> None:
    """KVM_CAP_DISABLE_QUIRKS2: the other way round, or off once for all."""
    quirks = load(vm.kvm.disabled_quirks, 0)
    if vm.cfg.toggler_mode[0] == TOGGLER_FLIP:
        quirks = quirks ^ KVM_X86_QUIRK_SLOT_ZAP_ALL
    else:
        quirks = quirks | KVM_X86_QUIRK_SLOT_ZAP_ALL
    store(vm.kvm.disabled_quirks, 0, quirks)
    vm.counter[me, C_QUIRK_TOGGLES] += 1
    vm.actor.progress[me] += 1
    trace(vm, me, EV_QUIRK_TOGGLE, -1, -1, -1, -1, quirks, -1)


@kernel
def toggler_main(vm: Vm, me: int) -> None:
    """A second userspace thread that changes the quirk: there and back (kernels of the 6.12 era), or off once for all."""
    store(vm.actor.phase, me, PHASE_RUNNING)
    while load_acquire(vm.run.stop, 0) == 0 and load_acquire(vm.run.destroyed, 0) == 0:
        nap_us(1 + _draw(vm, me, vm.cfg.toggler_period_us_max[0]))
        toggle_quirk(vm, me)
        if vm.cfg.toggler_mode[0] != TOGGLER_FLIP:
            break
    store(vm.actor.phase, me, PHASE_DONE)
