# SPDX-License-Identifier: GPL-2.0-only
"""Tests of model/rcu.py and model/pages.py: grace periods really wait, pages come back last in, first out, I27 fires."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.atomics import might_sleep
from model.constants import SP_FREE, SP_RCU
from model.mutations import MUTATIONS
from model.pages import alloc_page, cache_alloc, cache_free, drain_memory_caches, free_page, mmu_topup_memory_caches
from model.rcu import (
    call_rcu,
    rcu_read_lock,
    rcu_read_unlock,
    rcu_thread,
    srcu_read_lock,
    srcu_read_unlock,
    synchronize_rcu,
    synchronize_srcu,
)

from .stage import CTL, Stage, drain_rcu, findings, small_vm

SECTIONS = {
    "srcu": (srcu_read_lock, srcu_read_unlock, synchronize_srcu),
    "rcu": (rcu_read_lock, rcu_read_unlock, synchronize_rcu),
}


@pytest.mark.parametrize("kind", SECTIONS)
def test_a_grace_period_waits_for_the_readers_from_before(kind):
    """It does not end while a reader from before is inside, and does not wait for one that came later."""
    lock, unlock, synchronize = SECTIONS[kind]
    vm = small_vm()
    lock(vm, 0)
    with Stage() as stage:
        stage.add("updater", synchronize, vm, CTL)
        stage.run_until_waiting("updater")
        unlock(vm, 0)
        lock(vm, 0)
        stage.finish("updater")
    assert findings(vm) == []


@pytest.mark.parametrize("kind", SECTIONS)
@settings(max_examples=50)
@given(seed=st.integers(0, 1 << 32))
def test_no_reader_sees_both_sides_of_a_grace_period(kind, seed):
    """In every interleaving a section that saw the old value is over before the updater destroys it."""
    lock, unlock, synchronize = SECTIONS[kind]
    vm = small_vm()
    destroyed = []
    published = ["old"]

    def reader(me):
        for _ in range(3):
            lock(vm, me)
            mine = published[0]
            might_sleep()
            assert mine not in destroyed
            unlock(vm, me)

    def updater():
        for new in ("middle", "new"):
            old, published[0] = published[0], new
            synchronize(vm, CTL)
            destroyed.append(old)

    with Stage() as stage:
        stage.add("updater", updater)
        for me in (0, 1):
            stage.add(me, reader, me)
        assert stage.run_at_random(seed) == []
    assert findings(vm) == []


def test_i27_fires_for_a_synchronize_that_does_not_wait():
    """With a reader inside and no wait the finding names the reader; without a reader there is none."""
    vm = small_vm()
    vm.mutation[MUTATIONS["no-srcu-wait"].id] = 1
    synchronize_srcu(vm, CTL)
    assert findings(vm) == []
    srcu_read_lock(vm, 1)
    synchronize_srcu(vm, CTL)
    assert findings(vm) == [("invariant", 27)]
    assert vm.finding.other[0] == 1


def test_i27_fires_for_a_reader_that_waits_for_itself():
    """synchronize_srcu() inside a section of one's own would never return in the kernel."""
    vm = small_vm()
    srcu_read_lock(vm, CTL)
    synchronize_srcu(vm, CTL)
    assert findings(vm) == [("invariant", 27)]


def test_a_page_is_freed_only_after_the_readers():
    """call_rcu() keeps the page from the pool until the section of a reader that may see it has ended."""
    vm = small_vm()
    page = alloc_page(vm, 0)
    rcu_read_lock(vm, 0)
    call_rcu(vm, page)
    with Stage() as stage:
        stage.add("rcu", rcu_thread, vm, 65)
        stage.run_until_waiting("rcu")
        assert vm.sp.state[page] == SP_RCU
        assert vm.rcu.freed[0] == 0
        rcu_read_unlock(vm, 0)
        stage.run_until_waiting("rcu")
        assert vm.sp.state[page] == SP_FREE
        assert vm.rcu.freed[0] == 1
        vm.run.rcu_stop[0] = 1
        vm.rcu.kick[0] += 1
        stage.finish("rcu")
    assert findings(vm) == []


def test_pages_come_back_last_in_first_out():
    """The page freed last is handed out first, after a grace period too."""
    vm = small_vm()
    pages = [alloc_page(vm, 0) for _ in range(3)]
    assert pages == [1, 2, 3]
    for page in pages:
        call_rcu(vm, page)
    drain_rcu(vm)
    assert [alloc_page(vm, 0) for _ in range(3)] == pages[::-1]


def test_a_new_page_is_empty():
    """What the page held in its last life is gone."""
    vm = small_vm()
    page = alloc_page(vm, 0)
    vm.pt[page, :] = 7
    for field in ("role_invalid", "scheduled_to_zap", "zapping", "refcount", "link_next"):
        getattr(vm.sp, field)[page] = 1
    free_page(vm, 0, page)
    assert alloc_page(vm, 0) == page
    assert not vm.pt[page, :2].any()
    assert not any(getattr(vm.sp, field)[page] for field in ("role_invalid", "scheduled_to_zap", "zapping", "refcount"))


def test_an_empty_pool_waits_for_the_rcu_actor():
    """Allocation waits while there is no page, and goes on with the first one that is freed."""
    vm = small_vm(nr_pages=3)
    pages = [alloc_page(vm, 0), alloc_page(vm, 0)]
    got = []
    with Stage() as stage:
        stage.add("vcpu", lambda: got.append(alloc_page(vm, 1)))
        stage.run_until_waiting("vcpu")
        call_rcu(vm, pages[1])
        drain_rcu(vm)
        stage.finish("vcpu")
    assert got == [pages[1]]


def test_memory_caches_balance():
    """A top-up fills one page a level, taken pages can be put back, and the drain returns all."""
    vm = small_vm()
    mmu_topup_memory_caches(vm, 0)
    mmu_topup_memory_caches(vm, 0)
    assert vm.cache_nr[0, 0] == vm.cfg.levels[0]
    cache_free(vm, 0, cache_alloc(vm, 0))
    drain_memory_caches(vm, 0)
    assert vm.pool.nr_free[0] == vm.cfg.nr_pages[0] - 1
    assert findings(vm) == []
