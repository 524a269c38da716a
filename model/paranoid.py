# SPDX-License-Identifier: GPL-2.0-only
"""Check level `paranoid`: a walk of every page table at a quiesce point, as an auditor who trusts no bookkeeping.

The quiesce point is mmu_lock held for write between two memslot updates: no fault is installing, no zap is under way.
"""

from __future__ import annotations

from model.atomics import load
from model.constants import INVARIANT, LEFTOVER_MAPPING, SP_LINKED
from model.finding import report
from model.jit import kernel
from model.layout import MAX_PLACES, Vm
from model.lockdep import lockdep_assert_held_write
from model.locks import write_lock, write_unlock
from model.roots import check_root_references
from model.spte import (
    is_frozen_spte,
    is_shadow_present_pte,
    spte_to_child_pt,
    spte_to_incarnation,
    spte_to_pfn,
)
from model.tdp_iter import pages_per_hpage

__all__ = ["check_all_tables", "check_tables_at_quiesce_point"]

DETAIL_FROZEN_AT_REST = 110
DETAIL_LINKED_TWICE = 111
DETAIL_TABLES_COUNTED = 112
DETAIL_LEAF_OF_NOBODY = 113
DETAIL_INVALID_ROOT_NOT_EMPTY = 114


@kernel
def check_tables_at_quiesce_point(vm: Vm, me: int) -> None:
    """Take mmu_lock for write and look at every table.

    Context: slots_lock held, mmu_lock not held; between two memslot updates.
    """
    write_lock(vm, me, vm.mmu_lock)
    check_all_tables(vm, me)
    write_unlock(vm, me, vm.mmu_lock)


@kernel
def check_all_tables(vm: Vm, me: int) -> None:
    """Each linked table under one parent, all of them counted (I11), no FROZEN (I13), every leaf somebody's (I1, I7).

    Context: mmu_lock held for write, no back half owed.
    """
    lockdep_assert_held_write(vm, me)
    vm.kvm.audit[0] += 1
    tables = 0
    root = load(vm.kvm.tdp_mmu_roots, 0)
    while root != 0:
        if vm.sp.role_invalid[root] == 0:
            check_root_references(vm, me, root)
        tables += _check_tree(vm, me, root)
        root = load(vm.sp.link_next, root)
    counted = load(vm.kvm.tdp_mmu_pages, 0)
    if counted != tables:
        report(vm, me, INVARIANT, 11, -1, -1, -1, -1, -1, DETAIL_TABLES_COUNTED, counted - tables)


@kernel
def _check_tree(vm: Vm, me: int, root: int) -> int:
    """Walk one root depth first; returns how many tables are linked below it."""
    entries = 1 << vm.cfg.bits_per_level[0]
    levels = vm.cfg.levels[0]
    tables = 0
    depth = 0
    vm.removed_table[me, 0] = root
    vm.removed_index[me, 0] = 0
    vm.removed_gfn[me, 0] = 0
    while depth >= 0:
        table = vm.removed_table[me, depth]
        index = vm.removed_index[me, depth]
        if index == entries:
            depth -= 1
            continue
        vm.removed_index[me, depth] = index + 1
        gfn = vm.removed_gfn[me, depth] + index * pages_per_hpage(vm, levels - depth)
        spte = vm.pt[table, index]
        if is_frozen_spte(spte):
            report(vm, me, INVARIANT, 13, gfn, -1, -1, table, -1, DETAIL_FROZEN_AT_REST, index)
        elif is_shadow_present_pte(spte):
            child = spte_to_child_pt(spte)
            if vm.sp.role_invalid[root] != 0:
                report(vm, me, LEFTOVER_MAPPING, 7, gfn, -1, -1, root, -1, DETAIL_INVALID_ROOT_NOT_EMPTY, spte)
            if child == 0:
                _check_leaf(vm, me, root, gfn, spte)
            elif vm.sp.state[child] != SP_LINKED or vm.sp.audited[child] == vm.kvm.audit[0]:
                report(vm, me, INVARIANT, 11, gfn, -1, -1, child, -1, DETAIL_LINKED_TWICE, vm.sp.state[child])
            else:
                vm.sp.audited[child] = vm.kvm.audit[0]
                tables += 1
                depth += 1
                vm.removed_table[me, depth] = child
                vm.removed_index[me, depth] = 0
                vm.removed_gfn[me, depth] = gfn
    return tables


@kernel
def _check_leaf(vm: Vm, me: int, root: int, gfn: int, spte: int) -> None:
    incarnation = spte_to_incarnation(spte)
    if load(vm.live.incarnation, incarnation & (MAX_PLACES - 1)) != incarnation:
        report(vm, me, LEFTOVER_MAPPING, 1, gfn, spte_to_pfn(spte), incarnation, root, -1, DETAIL_LEAF_OF_NOBODY, spte)
