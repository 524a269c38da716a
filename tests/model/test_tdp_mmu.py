# SPDX-License-Identifier: GPL-2.0-only
"""Tests of model/tdp_mmu.py and model/tdp_iter.py against a dict, in all geometries; yields; I7, I11, I12, I13, I14 and I16."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.constants import (
    C_BACK_HALF_YIELDS,
    C_REMOTE_TLB_FLUSHES,
    HALF_BACK,
    RET_PF_FIXED,
    RET_PF_RETRY,
    RET_PF_SPURIOUS,
    SP_FREE,
    SP_LINKED,
    SP_RCU,
)
from model.locks import read_lock, read_unlock, write_lock, write_unlock
from model.mmu import kvm_mmu_reload
from model.mutations import MUTATIONS
from model.pages import mmu_topup_memory_caches
from model.rcu import rcu_read_lock, rcu_read_unlock, srcu_read_lock
from model.spte import FROZEN_SPTE, make_spte, spte_to_child_pt
from model.tdp_iter import kvm_tdp_mmu_read_spte, tdp_iter_next, tdp_iter_start, tdp_mmu_max_gfn_exclusive
from model.tdp_mmu import (
    _tdp_mmu_iter_cond_resched,
    handle_removed_pt,
    kvm_mmu_zap_memslot_pages_and_flush,
    kvm_tdp_mmu_map,
    kvm_tdp_mmu_unmap_gfn_range,
    tdp_mmu_iter_set_spte,
    tdp_mmu_set_spte_atomic,
    tdp_mmu_zap_root,
)
from model.vm import SlotSettings

from .stage import CTL, Locked, drain_rcu, findings, small_vm

GEOMETRIES = [(2, 1), (3, 1), (4, 1), (2, 2), (3, 2), (4, 2)]
geometries = st.sampled_from(GEOMETRIES)


def rooted(levels=2, bits=1, **changes):
    """VCPU 0 with an empty root in a VM of this geometry; no write-back, since the incarnations here are made up."""
    changes.setdefault("ad_writeback", False)
    vm = small_vm(levels=levels, bits_per_level=bits, slots=(SlotSettings(0, 2, True),), nr_pages=600, **changes)
    srcu_read_lock(vm, 0)
    kvm_mmu_reload(vm, 0)
    return vm, int(vm.vcpu.root_hpa[0])


def fault(vm, root, gfn, pfn, incarnation=1, write=False, me=0):
    mmu_topup_memory_caches(vm, me)
    read_lock(vm, me, vm.mmu_lock)
    result = kvm_tdp_mmu_map(vm, me, root, gfn, pfn, incarnation, write)
    read_unlock(vm, me, vm.mmu_lock)
    return result


def mapped(vm, root):
    """The slow twin of every walk: recursion over the raw tables; gfn to SPTE, and the number of tables below the root."""
    bits, found, tables = int(vm.cfg.bits_per_level[0]), {}, 0

    def visit(table, level, base):
        nonlocal tables
        for index in range(1 << bits):
            spte = int(vm.pt[table, index])
            gfn = base | index << ((level - 1) * bits)
            if level == 1 and spte & 1:
                found[gfn] = spte
            elif spte_to_child_pt(spte):
                tables += 1
                visit(spte_to_child_pt(spte), level - 1, gfn)

    visit(root, int(vm.cfg.levels[0]), 0)
    return found, tables


def zap_root(vm, root, shared):
    lock, unlock = (read_lock, read_unlock) if shared else (write_lock, write_unlock)
    lock(vm, CTL, vm.mmu_lock)
    tdp_mmu_zap_root(vm, CTL, root, shared)
    unlock(vm, CTL, vm.mmu_lock)


def unmap(vm, start, end):
    with Locked(vm):
        write_lock(vm, CTL, vm.mmu_lock)
        flush = kvm_tdp_mmu_unmap_gfn_range(vm, CTL, start, end)
        kvm_mmu_zap_memslot_pages_and_flush(vm, CTL, flush)
        write_unlock(vm, CTL, vm.mmu_lock)
    return flush


@given(geometry=geometries, data=st.data())
def test_mapping_and_unmapping_against_a_dict(geometry, data):
    """Any script of faults and range zaps leaves exactly the mappings that a dict would hold, and balanced accounts."""
    vm, root = rooted(*geometry)
    vm.actor.need_resched[CTL] = data.draw(st.booleans())
    gfns = tdp_mmu_max_gfn_exclusive(vm)
    twin = {}
    for _ in range(data.draw(st.integers(1, 12))):
        start = data.draw(st.integers(0, gfns - 1))
        if data.draw(st.booleans()):
            known = start in twin
            assert fault(vm, root, start, start + 7, incarnation=3) == (RET_PF_SPURIOUS if known else RET_PF_FIXED)
            twin[start] = make_spte(start + 7, 3, write=False)
        else:
            end = data.draw(st.integers(start, gfns))
            gone = {gfn for gfn in twin if start <= gfn < end}
            before = int(vm.counter[CTL, C_REMOTE_TLB_FLUSHES])
            unmap(vm, start, end)
            # At the end or before a yield: but where something went, there was a flush, and nowhere else.
            assert (vm.counter[CTL, C_REMOTE_TLB_FLUSHES] > before) == bool(gone)
            twin = {gfn: spte for gfn, spte in twin.items() if gfn not in gone}
        found, tables = mapped(vm, root)
        assert found == twin
        assert vm.kvm.tdp_mmu_pages[0] == tables
    assert findings(vm) == []


@given(geometry=geometries, shared=st.booleans(), resched=st.booleans(), data=st.data())
def test_zapping_a_root_empties_it_and_frees_every_table(geometry, shared, resched, data):
    """Whatever is mapped, whatever the lock's mode, with a yield or without: nothing is left, every table is freed once."""
    vm, root = rooted(*geometry)
    gfns = tdp_mmu_max_gfn_exclusive(vm)
    for gfn in data.draw(st.sets(st.integers(0, gfns - 1), max_size=12)):
        fault(vm, root, gfn, gfn, write=data.draw(st.booleans()))
    vm.frame_tag[:gfns] = vm.live.backing[1] = vm.live.incarnation[1] = 1
    vm.sp.role_invalid[root] = 1
    vm.actor.need_resched[CTL] = resched
    _, tables = mapped(vm, root)
    zap_root(vm, root, shared)
    assert mapped(vm, root) == ({}, 0)
    assert not vm.pt[root, : 1 << geometry[1]].any()
    assert vm.rcu.queued[0] == tables
    assert vm.kvm.tdp_mmu_pages[0] == 0
    drain_rcu(vm)
    assert vm.pool.nr_free[0] == vm.cfg.nr_pages[0] - 1 - 1 - vm.cache_nr[0, 0]
    assert findings(vm) == []


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("levels", [2, 3, 4])
def test_a_removed_subtree_stays_frozen_until_it_is_freed(levels, shared):
    """Unlinked at the top, every table below is FROZEN through and through and queued for RCU; walkers find no way on."""
    vm, root = rooted(levels, 1)
    for gfn in range(tdp_mmu_max_gfn_exclusive(vm)):
        fault(vm, root, gfn, gfn)
    child = spte_to_child_pt(int(vm.pt[root, 0]))
    vm.pt[root, 0] = 0
    half = tdp_mmu_max_gfn_exclusive(vm) // 2
    handle_removed_pt(vm, CTL, child, 0, levels - 1, shared)
    gone = [page for page in range(600) if vm.sp.state[page] == SP_RCU]
    assert len(gone) == half - 1
    assert all((vm.pt[page, :2] == FROZEN_SPTE).all() for page in gone)
    assert set(mapped(vm, root)[0]) == set(range(half, 2 * half))
    assert findings(vm) == []


@given(geometry=geometries, data=st.data())
def test_the_walk_is_pre_order_from_its_start(geometry, data):
    """Down to min_level the iterator visits what recursion visits, in the same order, from the starting gfn on."""
    vm, root = rooted(*geometry)
    levels, bits = geometry
    gfns = tdp_mmu_max_gfn_exclusive(vm)
    for gfn in data.draw(st.sets(st.integers(0, gfns - 1), max_size=8)):
        fault(vm, root, gfn, gfn)
    start = data.draw(st.integers(0, gfns - 1))
    min_level = data.draw(st.integers(1, levels))
    expected = []

    def visit(table, level, base):
        span = 1 << (level - 1) * bits
        for index in range(1 << bits):
            gfn = base + index * span
            if gfn + span > start:
                expected.append((gfn, level))
                child = spte_to_child_pt(int(vm.pt[table, index]))
                if level > min_level and child:
                    visit(child, level - 1, gfn)

    visit(root, levels, 0)
    visited = []
    rcu_read_lock(vm, 0)
    tdp_iter_start(vm, 0, root, min_level, start)
    while vm.iter.valid[0]:
        visited.append((int(vm.iter.gfn[0]), int(vm.iter.level[0])))
        tdp_iter_next(vm, 0)
    rcu_read_unlock(vm, 0)
    assert visited == expected


@pytest.mark.parametrize("min_level", [1, 2, 3])
@pytest.mark.parametrize("bug", [False, True])
def test_a_yield_loses_no_entry(bug, min_level):
    """A walk that yields wherever it may visits every entry; advanced after the restart (B08), it skips some at the top level."""
    vm, root = rooted(3, 2)
    vm.mutation[MUTATIONS["advance-after-yield"].id] = bug
    gfns = tdp_mmu_max_gfn_exclusive(vm)
    for gfn in range(gfns):
        fault(vm, root, gfn, gfn)
    visited = set()
    read_lock(vm, CTL, vm.mmu_lock)
    rcu_read_lock(vm, CTL)
    tdp_iter_start(vm, CTL, root, min_level, 0)
    while vm.iter.valid[CTL]:
        vm.actor.need_resched[CTL] = 1
        yielded = _tdp_mmu_iter_cond_resched(vm, CTL, False, True, HALF_BACK)
        if not yielded and vm.iter.level[CTL] == min_level:
            visited.add(int(vm.iter.gfn[CTL]))
        tdp_iter_next(vm, CTL)
    rcu_read_unlock(vm, CTL)
    read_unlock(vm, CTL, vm.mmu_lock)
    assert vm.counter[CTL, C_BACK_HALF_YIELDS] > 0
    # Below the top level the restart finds its way down again, and the bug stays hidden.
    assert (visited == set(range(0, gfns, 4 ** (min_level - 1)))) != (bug and min_level == 3)


def test_no_yield_without_progress():
    """Two yields at the same gfn would be a livelock: the second is refused."""
    vm, root = rooted(2, 2)
    read_lock(vm, CTL, vm.mmu_lock)
    rcu_read_lock(vm, CTL)
    tdp_iter_start(vm, CTL, root, 1, 0)
    vm.actor.need_resched[CTL] = 1
    assert not _tdp_mmu_iter_cond_resched(vm, CTL, False, True, HALF_BACK)
    tdp_iter_next(vm, CTL)
    assert _tdp_mmu_iter_cond_resched(vm, CTL, False, True, HALF_BACK)
    tdp_iter_next(vm, CTL)
    vm.actor.need_resched[CTL] = 1
    assert not _tdp_mmu_iter_cond_resched(vm, CTL, False, True, HALF_BACK)


@pytest.mark.parametrize("level", [1, 2])
def test_a_fault_backs_off_from_frozen(level):
    """FROZEN at the leaf or above it makes the fault retry and is not overwritten (f5d16bb9be68)."""
    vm, root = rooted()
    fault(vm, root, 0, 0)
    table = root if level == 2 else spte_to_child_pt(int(vm.pt[root, 0]))
    vm.pt[table, 0] = FROZEN_SPTE
    assert fault(vm, root, 0, 0) == RET_PF_RETRY
    assert vm.pt[table, 0] == FROZEN_SPTE
    assert findings(vm) == []


def test_a_lost_race_for_a_table_gives_the_page_back():
    """A table that never became visible returns to the cache, unaccounted."""
    from model import atomics

    from .stage import Stage

    vm, root = rooted()
    srcu_read_lock(vm, 1)
    results = []
    with Stage() as stage:
        for me in (0, 1):
            stage.add(me, lambda me=me: results.append(fault(vm, root, me, me, me=me)))
            stage.run_to(me, atomics.CMPXCHG, vm.pt)
        stage.finish(0, 1)
    assert sorted(results) == sorted([RET_PF_FIXED, RET_PF_RETRY])
    assert vm.kvm.tdp_mmu_pages[0] == 1
    assert vm.cache_nr[1, 0] == 2
    assert (vm.sp.state == SP_LINKED).sum() == 1
    assert findings(vm) == []


# --- each invariant fires


def at_leaf(vm, root, lock):
    """An iterator of the controller at gfn 0's leaf, under mmu_lock in the mode of `lock`."""
    fault(vm, root, 0, 1)
    lock(vm, CTL, vm.mmu_lock)
    rcu_read_lock(vm, CTL)
    tdp_iter_start(vm, CTL, root, 1, 0)
    while vm.iter.level[CTL] != 1:
        tdp_iter_next(vm, CTL)
    return int(vm.iter.table[CTL])


def test_i14_fires_for_one_leaf_over_another():
    """A present leaf may not turn into one of another frame without being nonpresent in between."""
    vm, root = rooted()
    at_leaf(vm, root, write_lock)
    tdp_mmu_iter_set_spte(vm, CTL, make_spte(2, 1, write=False))
    assert findings(vm) == [("invariant", 14)]


def test_i13_fires_for_frozen_under_the_write_lock():
    """Nobody who could have frozen an entry is about while the lock is held for write."""
    vm, root = rooted()
    table = at_leaf(vm, root, write_lock)
    vm.pt[table, 0] = FROZEN_SPTE
    tdp_mmu_iter_set_spte(vm, CTL, 0)
    assert findings(vm) == [("invariant", 13)]


def test_i13_fires_for_overwriting_frozen_under_the_read_lock():
    """A FROZEN entry belongs to who froze it."""
    vm, root = rooted()
    table = at_leaf(vm, root, read_lock)
    vm.pt[table, 0] = vm.iter.old_spte[CTL] = FROZEN_SPTE
    tdp_mmu_set_spte_atomic(vm, CTL, 0)
    assert findings(vm) == [("invariant", 13)]


def test_i13_fires_for_frozen_in_a_table_removed_exclusively():
    """The exclusive teardown may not meet FROZEN either."""
    vm, root = rooted()
    fault(vm, root, 0, 1)
    child = spte_to_child_pt(int(vm.pt[root, 0]))
    vm.pt[child, 1] = FROZEN_SPTE
    handle_removed_pt(vm, CTL, child, 0, 1, False)
    assert findings(vm) == [("invariant", 13)]


def test_i11_fires_for_a_table_unlinked_twice():
    """A table that is not linked has nothing to be unlinked from."""
    vm, root = rooted()
    fault(vm, root, 0, 1)
    child = spte_to_child_pt(int(vm.pt[root, 0]))
    handle_removed_pt(vm, CTL, child, 0, 1, False)
    assert findings(vm) == []
    vm.pt[child, :] = 0
    handle_removed_pt(vm, CTL, child, 0, 1, False)
    assert findings(vm)[0] == ("invariant", 11)


def test_i12_fires_for_a_walk_into_a_freed_table():
    """A walker that stands on a page of the pool has outlived the grace period."""
    vm, root = rooted()
    kvm_tdp_mmu_read_spte(vm, 0, root, 0)
    assert findings(vm) == []
    vm.sp.state[root] = SP_FREE
    kvm_tdp_mmu_read_spte(vm, 0, root, 0)
    assert findings(vm) == [("invariant", 12)]


def test_i7_fires_for_an_invalid_root_that_the_back_half_left():
    """An invalid root that was never scheduled keeps its entries: found when the back half ends."""
    from model.tdp_mmu import tdp_mmu_zap_scheduled_roots

    vm, root = rooted()
    fault(vm, root, 0, 1)
    vm.sp.role_invalid[root] = 1
    read_lock(vm, CTL, vm.mmu_lock)
    tdp_mmu_zap_scheduled_roots(vm, CTL, True)
    read_unlock(vm, CTL, vm.mmu_lock)
    assert findings(vm) == [("leftover-mapping", 7)]


@pytest.mark.parametrize("resched", [True, False])
def test_i16_fires_for_a_forgotten_flush(resched):
    """Leafs of valid roots were zapped and mmu_lock is about to go without a flush, at a yield or at the end."""
    vm, root = rooted(2, 2)
    for gfn in range(8):
        fault(vm, root, gfn, gfn)
    vm.mutation[MUTATIONS["zap-only-without-flush"].id] = 1
    vm.actor.need_resched[CTL] = resched
    unmap(vm, 0, 8)
    # Once at the end, and at every yield before.
    assert set(findings(vm)) == {("invariant", 16)}


def test_a_flush_is_made_before_the_yield_and_not_again():
    """What was flushed at the yield is not owed at the end, unless more was zapped."""
    vm, root = rooted(2, 2)
    fault(vm, root, 0, 0)
    vm.actor.need_resched[CTL] = 1
    flushes = []
    for _ in range(2):
        unmap(vm, 0, 8)
        flushes.append(int(vm.counter[CTL, C_REMOTE_TLB_FLUSHES]))
    assert flushes == [1, 1]
    assert findings(vm) == []
