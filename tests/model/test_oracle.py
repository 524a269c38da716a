# SPDX-License-Identifier: GPL-2.0-only
"""Tests of model/oracle.py: each finding fires, and each way in which the oracle could be fooled is walked through."""

from __future__ import annotations

import pytest

from model import atomics
from model.constants import CHECK_LEVELS, EV_FRAME_RETIRE, EV_SLOT_OP_END, IN_GUEST_MODE, KVM_MR_MOVE
from model.layout import MAX_PLACES
from model.mmu import kvm_mmu_page_fault, kvm_mmu_reload
from model.mutations import MUTATIONS
from model.oracle import check_commit, check_flush_returned, check_root_empty, guest_touch, mmu_writeback
from model.rcu import rcu_thread, srcu_read_lock, srcu_read_unlock
from model.spte import make_nonleaf_spte, make_spte
from model.userspace import userspace_create, userspace_delete, userspace_move
from model.vcpu import guest_access, vcpu_enter_guest

from .stage import CTL, Recorder, Stage, findings, small_vm


def touch(vm, gfn, write=False, me=0):
    """Fault gfn in until it is mapped, as KVM_RUN would, and touch it once."""
    srcu_read_lock(vm, me)
    kvm_mmu_reload(vm, me)
    for _ in range(8):
        if guest_access(vm, me, int(vm.vcpu.root_hpa[me]), gfn, write):
            break
        kvm_mmu_page_fault(vm, me, gfn, write)
    srcu_read_unlock(vm, me)


def slot_object(vm, slot_id):
    return int(vm.memslot_id[vm.memslots.active[0], slot_id])


def created(**changes):
    vm = small_vm(**changes)
    userspace_create(vm, CTL, 0)
    userspace_create(vm, CTL, 1)
    return vm


def leaf(vm, slot_id, pfn=None):
    slot = slot_object(vm, slot_id)
    return make_spte(int(vm.slot.hva[slot]) if pfn is None else pfn, int(vm.slot.incarnation[slot]), True)


def test_a_touch_through_a_live_mapping_is_silent():
    """Access after access through mappings of live slots finds nothing, hits and misses alike."""
    vm = created()
    for gfn in (0, 1, 2, 0, 1, 2):
        touch(vm, gfn, write=True)
    assert findings(vm) == []


@pytest.mark.parametrize("level", CHECK_LEVELS)
def test_a_touch_under_a_retired_incarnation_is_stale_use(level):
    """I3 fires at every check level when the slot's DELETE has returned before the touch."""
    vm = created(check_level=level)
    spte = leaf(vm, 0)
    userspace_delete(vm, CTL, 0)
    guest_touch(vm, 0, 0, 1, spte, False, True)
    assert findings(vm) == [("stale-use", 3)]
    assert vm.finding.slot[0] == 0
    assert 0 < vm.finding.other_time[0] < vm.finding.time[0]


def test_a_touch_of_a_frame_with_a_new_owner_is_stale_use():
    """I3 fires when the frame has got another tag, even under a live incarnation."""
    vm = created()
    spte = leaf(vm, 0)
    vm.frame_tag[vm.slot.hva[slot_object(vm, 0)]] += MAX_PLACES
    guest_touch(vm, 0, 0, 1, spte, False, True)
    assert findings(vm) == [("stale-use", 3)]


def test_reused_frames_are_recognised():
    """A mapping of the slot before, to a frame that the next slot has got, is stale although the frame is in good use."""
    vm = created()
    spte = leaf(vm, 0)
    userspace_delete(vm, CTL, 0)
    userspace_create(vm, CTL, 0)
    assert leaf(vm, 0) != spte
    guest_touch(vm, 0, 0, 1, leaf(vm, 0), False, True)
    assert findings(vm) == []
    guest_touch(vm, 0, 0, 1, spte, False, True)
    assert findings(vm) == [("stale-use", 3)]


@pytest.mark.parametrize("retired", [True, False])
def test_a_writeback_to_a_lost_frame_is_found(retired):
    """The MMU's own dirty write-back fires under a retired incarnation, and on a frame with another tag."""
    vm = created()
    spte = leaf(vm, 0)
    mmu_writeback(vm, CTL, 0, 1, spte)
    assert findings(vm) == []
    if retired:
        userspace_delete(vm, CTL, 0)
    else:
        vm.frame_tag[vm.slot.hva[slot_object(vm, 0)]] = 0
    mmu_writeback(vm, CTL, 0, 1, spte)
    assert findings(vm) == [("stale-writeback", 2)]


def test_a_late_back_half_writes_back_to_lost_frames():
    """The story behind I2: the zap runs only after DELETE returned, meets a dirty SPTE and writes to a frame given away."""
    vm = created()
    vm.mutation[MUTATIONS["return-before-back-half"].id] = 1
    touch(vm, 0, write=True)
    userspace_delete(vm, CTL, 0)
    assert findings(vm) == [("leftover-mapping", 2)]
    userspace_delete(vm, CTL, 1)
    assert findings(vm)[1] == ("stale-writeback", 2)


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize("ad_writeback", [False, True])
def test_accessed_state_is_written_back_too_if_anything_is(write, ad_writeback):
    """A mapping that was only read counts as well; nothing is written where vm.ad_writeback is off."""
    vm = created(ad_writeback=ad_writeback)
    vm.mutation[MUTATIONS["return-before-back-half"].id] = 1
    touch(vm, 0, write=write)
    userspace_delete(vm, CTL, 0)
    userspace_delete(vm, CTL, 1)
    assert (("stale-writeback", 2) in findings(vm)) == ad_writeback


def test_a_mapping_left_in_a_valid_root_is_found_at_the_flushs_return():
    """I1 fires for a valid root that still maps the slot, not for another slot's mapping."""
    vm = created()
    touch(vm, 0)
    check_flush_returned(vm, CTL, slot_object(vm, 1), False, False)
    assert findings(vm) == []
    check_flush_returned(vm, CTL, slot_object(vm, 0), False, False)
    assert findings(vm) == [("leftover-mapping", 1)]
    assert (vm.finding.gfn[0], vm.finding.pfn[0]) == (0, vm.slot.hva[slot_object(vm, 0)])


@pytest.mark.parametrize("invalid", [0, 1])
def test_a_mapping_left_in_any_root_is_found_at_commit(invalid):
    """I2 fires whether or not the root is valid; I1 would pass over an invalid one."""
    vm = created()
    touch(vm, 1)
    vm.sp.role_invalid[vm.vcpu.root_hpa[0]] = invalid
    check_commit(vm, CTL, slot_object(vm, 0))
    assert findings(vm) == [("leftover-mapping", 2)]


def test_an_invalid_root_with_entries_is_found():
    """I7 fires for a root that keeps a present entry, leaf or not, and is silent for FROZEN and empty ones."""
    vm = created()
    vm.pt[5, 0] = 0x5A0
    check_root_empty(vm, CTL, 5, 7)
    assert findings(vm) == []
    vm.pt[5, 1] = make_nonleaf_spte(6)
    check_root_empty(vm, CTL, 5, 7)
    assert findings(vm) == [("leftover-mapping", 7)]


def test_a_front_half_without_back_half_is_found():
    """I23 fires when a root was left scheduled, and says nothing where no root was there to be zapped."""
    vm = created()
    slot = slot_object(vm, 0)
    check_flush_returned(vm, CTL, slot, True, False)
    check_flush_returned(vm, CTL, slot, False, True)
    assert findings(vm) == []
    touch(vm, 0)
    vm.sp.scheduled_to_zap[vm.vcpu.root_hpa[0]] = 1
    check_flush_returned(vm, CTL, slot, False, True)
    assert [kind for kind, rule in findings(vm) if rule == 23] == []
    check_flush_returned(vm, CTL, slot, True, False)
    assert findings(vm)[-1] == ("leftover-mapping", 23)


# --- how the oracle could be fooled


def test_tags_are_written_before_the_slot_is_published():
    """A guest may use a slot before CREATE has returned: tags and incarnation are there when the swap publishes it."""
    vm = small_vm()
    with Stage() as stage:
        stage.add("ctl", userspace_create, vm, CTL, 0)
        stage.run_until("ctl", lambda: vm.memslot_id[vm.memslots.active[0], 0] != 0)
        stage.add("vcpu", touch, vm, 0)
        assert vm.user_slot.present[0] == 0
        stage.finish("vcpu")
        stage.finish("ctl")
    assert vm.counter[0].sum() > 0
    assert findings(vm) == []


def test_the_oracle_sees_a_tag_that_comes_too_late():
    """The test above means something: with the tags gone at that moment the same access is stale."""
    vm = small_vm()
    with Stage() as stage:
        stage.add("ctl", userspace_create, vm, CTL, 0)
        stage.run_until("ctl", lambda: vm.memslot_id[vm.memslots.active[0], 0] != 0)
        vm.frame_tag[:] = 0
        stage.add("vcpu", touch, vm, 0)
        stage.finish("vcpu")
    assert findings(vm) == [("stale-use", 3)]


def test_a_moved_slot_may_be_used_before_move_returns():
    """From the second swap on the new incarnation is in use; the old one is retired only after the return."""
    vm = created()
    new = None
    with Recorder() as recorder, Stage() as stage:
        stage.add("ctl", userspace_move, vm, CTL, 1)
        stage.run_until("ctl", lambda: vm.slot.base_gfn[slot_object(vm, 1)] == 3)
        new = int(vm.slot.incarnation[slot_object(vm, 1)])
        stage.add("vcpu", touch, vm, 3, True)
        stage.finish("vcpu")
        assert vm.counter[0].sum() > 0
        assert vm.user_slot.incarnation[1] == new
        # The guest's SRCU section is over, so the swap can end; no actor runs RCU callbacks, and none is needed.
        stage.finish("ctl")
        touch(vm, 3)
    assert findings(vm) == []
    ends = [event for event in recorder.events if event[2] == EV_SLOT_OP_END and event[7] == KVM_MR_MOVE]
    retires = [event for event in recorder.events if event[2] == EV_FRAME_RETIRE]
    assert ends[0][0] < retires[0][0]
    assert retires[0][6] != new


def test_both_incarnations_of_a_move_are_alive_until_it_returns():
    """Neither the old place, until the flush, nor the new one, from the swap on, is stale while MOVE runs."""
    vm = created()
    old = leaf(vm, 1)
    with Stage() as stage:
        stage.add("ctl", userspace_move, vm, CTL, 1)
        stage.run_into("ctl", "kvm_arch_flush_shadow_memslot")
        guest_touch(vm, 0, 2, 1, old, False, True)
        assert findings(vm) == []
        stage.finish("ctl")
    guest_touch(vm, 0, 2, 1, old, False, True)
    assert findings(vm) == [("stale-use", 3)]


def test_an_entering_vcpu_that_cancels_is_not_in_the_guest():
    """Mode IN_GUEST_MODE before the last check is no guest: the request arrives, the entry is cancelled, nothing is found."""
    vm = created()
    touch(vm, 0)
    with Stage() as stage:
        srcu_read_lock(vm, 0)
        stage.add("vcpu", vcpu_enter_guest, vm, 0)
        stage.run_until("vcpu", lambda: vm.vcpu.mode[0] == IN_GUEST_MODE and vm.actor.srcu_seq[0] % 2 == 0)
        stage.add("ctl", userspace_delete, vm, CTL, 0)
        # F3 waits for the acknowledgement of a vCPU that is about to enter.
        stage.run_until_waiting("ctl")
        assert "kvm_make_all_cpus_request" in stage.inside("ctl")
        stage.finish("vcpu")
        assert (vm.vcpu.in_guest[0], vm.vcpu.entry_seq[0]) == (0, 0)
        assert vm.actor.ipi_acked[0] == vm.actor.ipi_sent[0] == 1
        srcu_read_unlock(vm, 0)
        stage.finish("ctl")
    assert findings(vm) == []


def test_a_guest_instruction_is_one_piece():
    """DELETE cannot return between a guest's walk and its touch: the acknowledgement comes only behind the instruction."""
    vm = created(accesses_per_entry_max=1)
    touch(vm, 0)
    vm.vcpu.retry_gfn[0] = 0
    with Stage() as stage:
        srcu_read_lock(vm, 0)
        stage.add("vcpu", vcpu_enter_guest, vm, 0)
        stage.run_into("vcpu", "guest_touch")
        stage.add("ctl", userspace_delete, vm, CTL, 0)
        stage.run_until_waiting("ctl")
        assert vm.live.retired.sum() == 0
        stage.finish("vcpu")
        srcu_read_unlock(vm, 0)
        stage.finish("ctl")
    assert findings(vm) == []


def test_a_retirement_between_walk_and_touch_is_seen():
    """Without the request nothing holds DELETE up: it returns between walk and touch, and the touch is stale."""
    vm = created(accesses_per_entry_max=1, check_level="use")
    vm.mutation[MUTATIONS["no-request"].id] = 1
    touch(vm, 0)
    vm.vcpu.retry_gfn[0] = 0
    with Stage() as stage:
        srcu_read_lock(vm, 0)
        stage.add("vcpu", vcpu_enter_guest, vm, 0)
        stage.run_to("vcpu", atomics.LOAD, vm.live.incarnation)
        assert "guest_touch" in stage.inside("vcpu")
        stage.add("ctl", userspace_delete, vm, CTL, 0)
        stage.finish("ctl", "vcpu")
    assert findings(vm) == [("stale-use", 3)]


def test_nothing_of_the_oracle_needs_the_rcu_actor():
    """Freed tables stay queued until the RCU actor runs; DELETE returns without it."""
    vm = created()
    touch(vm, 0)
    userspace_delete(vm, CTL, 0)
    queued = int(vm.rcu.queued[0])
    assert queued > 0 == vm.rcu.freed[0]
    vm.run.rcu_stop[0] = 1
    rcu_thread(vm, 65)
    assert vm.rcu.freed[0] == queued
