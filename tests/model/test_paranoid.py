# SPDX-License-Identifier: GPL-2.0-only
"""Tests of model/paranoid.py: the walk of all tables is silent on a sound VM, and each of its checks fires."""

from __future__ import annotations

import pytest

from model.constants import SP_FREE
from model.kvm_main import kvm_set_memory_region
from model.locks import mutex_lock, mutex_unlock
from model.mmu import kvm_mmu_page_fault, kvm_mmu_reload
from model.paranoid import (
    DETAIL_FROZEN_AT_REST,
    DETAIL_INVALID_ROOT_NOT_EMPTY,
    DETAIL_LEAF_OF_NOBODY,
    DETAIL_LINKED_TWICE,
    DETAIL_TABLES_COUNTED,
    check_tables_at_quiesce_point,
)
from model.rcu import srcu_read_lock, srcu_read_unlock
from model.spte import FROZEN_SPTE, spte_to_child_pt
from model.userspace import userspace_create, userspace_delete, userspace_move

from .stage import CTL, details, findings, small_vm


def mapped_vm(**changes):
    """A VM whose vCPU 0 has mapped gfns 0 and 2, in two tables of one root."""
    vm = small_vm(check_level="paranoid", **changes)
    userspace_create(vm, CTL, 0)
    userspace_create(vm, CTL, 1)
    srcu_read_lock(vm, 0)
    kvm_mmu_reload(vm, 0)
    kvm_mmu_page_fault(vm, 0, 0, True)
    kvm_mmu_page_fault(vm, 0, 2, True)
    srcu_read_unlock(vm, 0)
    return vm, int(vm.kvm.tdp_mmu_roots[0])


def audit(vm):
    mutex_lock(vm, CTL, vm.slots_lock)
    check_tables_at_quiesce_point(vm, CTL)
    mutex_unlock(vm, CTL, vm.slots_lock)
    return details(vm)


@pytest.mark.parametrize("quirk", [True, False])
def test_sound_tables_are_silent_and_every_update_is_audited(quirk):
    """CREATE, MOVE and DELETE each end with a walk, and a correct protocol gives it nothing to say."""
    vm, _ = mapped_vm(quirk_slot_zap_all=quirk)
    assert vm.kvm.audit[0] == 2
    userspace_move(vm, CTL, 1)
    userspace_delete(vm, CTL, 0)
    assert vm.kvm.audit[0] == 4
    assert findings(vm) == []


def test_the_level_protocol_does_not_walk():
    """The walks cost a hold of mmu_lock for write, so only `paranoid` makes them."""
    vm = small_vm(check_level="protocol")
    userspace_create(vm, CTL, 0)
    assert vm.kvm.audit[0] == 0


def test_frozen_at_rest_fires():
    """I13: whoever freezes an entry writes it again before it lets go of mmu_lock."""
    vm, root = mapped_vm()
    vm.pt[spte_to_child_pt(int(vm.pt[root, 0])), 1] = FROZEN_SPTE
    assert audit(vm) == [DETAIL_FROZEN_AT_REST]


def test_a_table_under_two_parents_fires():
    """I11: a table is linked exactly once, and counted once."""
    vm, root = mapped_vm()
    vm.pt[root, 1] = vm.pt[root, 0]
    assert audit(vm) == [DETAIL_LINKED_TWICE, DETAIL_TABLES_COUNTED]


def test_a_freed_table_that_is_still_linked_fires():
    """I11: what is linked is not in the pool."""
    vm, root = mapped_vm()
    vm.sp.state[spte_to_child_pt(int(vm.pt[root, 0]))] = SP_FREE
    assert audit(vm) == [DETAIL_LINKED_TWICE, DETAIL_TABLES_COUNTED]


def test_a_lost_count_fires():
    """I11: tdp_mmu_pages is the number of linked tables."""
    vm, _ = mapped_vm()
    vm.kvm.tdp_mmu_pages[0] += 1
    assert audit(vm) == [DETAIL_TABLES_COUNTED]


def test_a_leaf_of_a_retired_incarnation_fires():
    """I1: a leaf belongs to an incarnation that is alive, whatever slot update comes next."""
    vm, _ = mapped_vm()
    vm.live.incarnation[int(vm.user_slot.incarnation[0]) & 15] = 0
    assert audit(vm) == [DETAIL_LEAF_OF_NOBODY]
    assert findings(vm) == [("leftover-mapping", 1)]


def test_a_populated_invalid_root_fires():
    """I7: between two updates an invalid root is empty."""
    vm, root = mapped_vm()
    vm.sp.role_invalid[root] = 1
    assert set(audit(vm)) == {DETAIL_INVALID_ROOT_NOT_EMPTY}
    assert ("leftover-mapping", 7) in findings(vm)


def test_the_walk_is_part_of_the_update():
    """The finding comes from kvm_set_memory_region() itself, before it gives slots_lock back."""
    vm, _ = mapped_vm(quirk_slot_zap_all=False)
    vm.kvm.tdp_mmu_pages[0] += 1
    kvm_set_memory_region(vm, CTL, 2, 0, 0, 0, 0, 0)
    assert details(vm) == [DETAIL_TABLES_COUNTED]
