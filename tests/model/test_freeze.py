# SPDX-License-Identifier: GPL-2.0-only
"""Tests of model/freeze.py: the state at the first finding is the live state at report(), in both engines."""

from __future__ import annotations

import copy

import numba
import numpy as np
import pytest

from model import layout
from model.constants import IN_GUEST_MODE, INVARIANT, STALE_USE
from model.context import CTX_CLOCK, context
from model.finding import report
from model.freeze import FROZEN_BY_PARENT, FROZEN_LOCKS, freeze_state
from model.layout import FROZEN_ROOTS_MAX, MAX_FINDINGS, MAX_SLOTS, MAX_VCPUS, empty_vm, views
from model.locks import mutex_lock, write_lock
from model.mmu import kvm_mmu_reload
from model.rcu import srcu_read_lock
from model.stages import warm_vm
from model.userspace import userspace_create, userspace_delete
from model.vm import setup_vm

from .stage import CTL, SMALL, Stage, small_vm

ROWS = {name for name in layout.VM.names if layout.VM.fields[name][0].base.names}
ACTORS = [0, 1, CTL, 65, 66]
FINDING = (INVARIANT, 8, -1, -1, -1, 5, -1, 54, 1)


def busy(vm):
    """Two slots, a root in use, locks held, a queue, an IPI on its way: something in every field."""
    userspace_create(vm, CTL, 0)
    userspace_create(vm, CTL, 1)
    for me in (0, 1):
        srcu_read_lock(vm, me)
        kvm_mmu_reload(vm, me)
    mutex_lock(vm, CTL, vm.slots_lock)
    write_lock(vm, CTL, vm.mmu_lock)
    vm.slots_lock.ticket_next[0] += 1
    vm.vcpu.mode[1] = IN_GUEST_MODE
    vm.vcpu.in_guest[1] = 1
    vm.vcpu.requests[0] = 3
    vm.vcpu.entry_seq[0] = 7
    vm.actor.ipi_sent[1] = 2
    vm.actor.ipi_acked[1] = 1
    vm.actor.wait_word[0] = 4096
    vm.actor.need_resched[CTL] = 1
    vm.kvm.mmu_invalidate_seq[0] = 9
    vm.rcu.queued[0] = 4
    vm.rcu.freed[0] = 3


def rows_agree(frozen, live, rows):
    """Every field of a frozen group that its live one has too is equal in these rows."""
    names = set(vars(frozen)) & set(vars(live))
    assert names
    for name in names:
        assert getattr(frozen, name)[rows].tolist() == getattr(live, name)[rows].tolist(), name


def assert_frozen(vm):
    """All that was frozen is what the record says now."""
    rows_agree(vm.frozen_vcpu, vm.vcpu, [0, 1])
    rows_agree(vm.frozen_actor, vm.actor, ACTORS)
    assert set(vars(vm.frozen_vcpu)) <= set(vars(vm.vcpu))
    assert set(vars(vm.frozen_actor)) <= set(vars(vm.actor))
    rows_agree(vm.frozen, vm.kvm, [0])
    for row, name in enumerate(FROZEN_LOCKS):
        lock = getattr(vm, name)
        for field in vars(vm.frozen_lock):
            assert getattr(vm.frozen_lock, field)[row] == getattr(lock, field)[0], (name, field)
    assert vm.frozen.mmu_lock_cnts[0] == vm.mmu_lock.cnts[0]
    assert (vm.frozen.rcu_queued[0], vm.frozen.rcu_freed[0]) == (vm.rcu.queued[0], vm.rcu.freed[0])
    active = int(vm.memslots.active[0])
    assert vm.frozen.active[0] == active
    assert vm.frozen.generation[0] == (vm.memslots.generation0, vm.memslots.generation1)[active][0]
    assert vm.frozen_slot.object.tolist() == vm.memslot_id[active].tolist()
    for name in set(vars(vm.frozen_slot)) - {"object"}:
        assert getattr(vm.frozen_slot, name).tolist() == getattr(vm.slot, name)[vm.memslot_id[active]].tolist(), name
    assert pages_listed(vm)[:FROZEN_ROOTS_MAX] == [int(page) for page in vm.frozen_root.page[:FROZEN_ROOTS_MAX] if page]
    assert vm.frozen_root.page[FROZEN_ROOTS_MAX:].tolist() == vm.vcpu.root_hpa.tolist()
    for name in set(vars(vm.frozen_root)) - {"page"}:
        assert getattr(vm.frozen_root, name).tolist() == getattr(vm.sp, name)[vm.frozen_root.page].tolist(), name


def pages_listed(vm):
    """The root list, newest first."""
    pages, root = [], int(vm.kvm.tdp_mmu_roots[0])
    while root:
        pages.append(root)
        root = int(vm.sp.link_next[root])
    return pages


def test_every_lock_has_a_row():
    """As many as the record has room for, and all locks that it has."""
    assert layout.VM.fields["frozen_lock"][0].shape == (len(FROZEN_LOCKS),)
    assert {name for name in layout.VM.names if name.endswith("_lock") and name != "frozen_lock"} == set(FROZEN_LOCKS)


def test_the_state_is_that_at_the_finding():
    """With locks held, vCPUs in the guest and requests pending: word for word the live state, and who looked."""
    vm = small_vm()
    busy(vm)
    report(vm, 1, *FINDING)
    assert_frozen(vm)
    assert vm.frozen.by[0] == 1
    assert vm.frozen.until[0] > vm.finding.time[0]
    assert vm.finding.ready[0] == 1
    assert vm.frozen_lock.owner[FROZEN_LOCKS.index("slots_lock")] == CTL + 1
    assert vm.frozen_vcpu.mode[:2].tolist() == [0, IN_GUEST_MODE]
    assert vm.frozen_slot.object[:2].tolist() == [1, 2]
    assert (vm.frozen_root.page[0], vm.frozen_root.refcount[0]) == (vm.vcpu.root_hpa[0], 3)


def test_the_first_finding_keeps_its_state():
    """What changes behind it, later findings included, changes nothing."""
    vm = small_vm()
    busy(vm)
    report(vm, 1, *FINDING)
    vm.vcpu.mode[1] = 0
    vm.vcpu.root_hpa[0] = 0
    for _ in range(MAX_FINDINGS + 1):
        report(vm, 0, *FINDING)
    assert vm.frozen.by[0] == 1
    assert vm.frozen_vcpu.mode[1] == IN_GUEST_MODE
    assert vm.frozen_root.page[FROZEN_ROOTS_MAX] != 0


def test_the_parent_looks_too():
    """The same look from outside: nothing but the frozen fields changes."""
    vm = small_vm()
    busy(vm)
    live = [name for name in vars(vm) if not name.startswith("frozen") and name not in {"pt", "site", "ring"}]
    before = copy.deepcopy([getattr(vm, name) for name in live])
    freeze_state(vm, FROZEN_BY_PARENT)
    assert_frozen(vm)
    assert vm.frozen.by[0] == FROZEN_BY_PARENT
    for name, value in zip(live, before, strict=True):
        now = getattr(vm, name)
        np.testing.assert_equal(*((vars(now), vars(value)) if name in ROWS else (now, value)))


@pytest.mark.parametrize("length", [FROZEN_ROOTS_MAX, FROZEN_ROOTS_MAX + 1])
def test_a_long_list_of_roots_is_cut(length):
    """The first ones are kept, and that there are more is said; even a list that never ends has an end."""
    vm = small_vm(nr_pages=100)
    vm.kvm.tdp_mmu_roots[0] = 1
    for page in range(1, length):
        vm.sp.link_next[page] = page + 1
    freeze_state(vm, 0)
    assert vm.frozen_root.page[:FROZEN_ROOTS_MAX].tolist() == list(range(1, FROZEN_ROOTS_MAX + 1))
    assert vm.frozen.more_roots[0] == (length > FROZEN_ROOTS_MAX)
    vm.sp.link_next[length] = 1
    freeze_state(vm, 0)
    assert vm.frozen.more_roots[0] == 1


def test_the_list_comes_before_the_vcpus_own_roots():
    """As many rows as both need."""
    assert layout.VM.fields["frozen_root"][0].shape == (FROZEN_ROOTS_MAX + MAX_VCPUS,)
    assert layout.VM.fields["frozen_slot"][0].shape == (MAX_SLOTS,)


def test_both_engines_freeze_the_same():
    """Interpreted and compiled, field for field; only the clocks are their own."""
    context[CTX_CLOCK] = 1

    @numba.njit
    def compiled_report(vm):
        report(vm, 1, 4, 8, -1, -1, -1, 5, -1, 54, 1)

    record = empty_vm()
    vm = views(record)
    setup_vm(vm, SMALL)
    busy(vm)
    other = record.copy()
    report(vm, 1, *FINDING)
    compiled_report(other[0])
    for name in (name for name in layout.VM.names if name.startswith("frozen")):
        for field, words in vars(getattr(vm, name)).items():
            assert field == "until" or words.tolist() == getattr(getattr(views(other), name), field).tolist(), (name, field)


def test_no_place_for_another_actor():
    """A finding has as many scheduling points with the look as without: the first as many as the second."""
    steps = []
    vm = small_vm()
    busy(vm)
    with Stage() as stage:
        for number in range(2):
            stage.add(number, report, vm, 1, *FINDING)
            count = 0
            while not stage.done(number):
                stage.step(number)
                count += 1
            steps.append(count)
    assert steps[0] == steps[1]


def test_a_stale_use_finds_its_vcpu_in_the_guest():
    """A planted no-request: the finder's own row names the obsolete root that the finding names."""
    vm = small_vm(bugs=("no-request",))
    warm_vm(vm, (0, 1), ((0, 1), ()))
    vm.vcpu.mode[0] = IN_GUEST_MODE
    root = int(vm.vcpu.root_hpa[0])
    userspace_delete(vm, CTL, 0)
    report(vm, 0, STALE_USE, 3, 0, 0, -1, root, -1, 40, 0)
    own = FROZEN_ROOTS_MAX
    assert vm.frozen_root.page[own] == root
    assert vm.frozen_root.role_invalid[own] == 1
    assert vm.frozen_vcpu.mode[0] == IN_GUEST_MODE
    assert vm.frozen_slot.object[0] == 0
