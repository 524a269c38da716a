# SPDX-License-Identifier: GPL-2.0-only
"""The oracle: is what a guest access, a write-back or a page table refers to still its own?

Every slot object has an incarnation, a number that is never used again; its lower bits are its place in `vm.live`. A fault copies
the incarnation from the slot object that it looked up into the SPTE, a TLB fill copies it from there. Userspace retires it after
DELETE or MOVE has returned, and clears the tags of a deleted slot's frames. What is touched under a retired incarnation, or on a
frame whose tag is not that of the incarnation's backing, is stale. Nothing here is ever filtered.
"""

from __future__ import annotations

from model.atomics import load
from model.constants import (
    C_WRITEBACKS,
    EV_GUEST_ACCESS,
    EV_WRITEBACK,
    LEFTOVER_MAPPING,
    SHADOW_NONPRESENT_VALUE,
    STALE_USE,
    STALE_WRITEBACK,
)
from model.finding import report
from model.jit import kernel
from model.layout import MAX_PLACES, Vm
from model.rcu import rcu_read_lock, rcu_read_unlock
from model.spte import (
    is_last_spte,
    is_shadow_present_pte,
    spte_to_child_pt,
    spte_to_incarnation,
    spte_to_pfn,
)
from model.tdp_iter import pages_per_hpage, spte_index
from model.trace import trace, trace_access

__all__ = [
    "check_commit",
    "check_flush_returned",
    "check_root_empty",
    "guest_touch",
    "mmu_writeback",
]

DETAIL_RETIRED = 40
DETAIL_TAG = 41
DETAIL_LEFT_IN_VALID_ROOT = 42
DETAIL_LEFT_AT_COMMIT = 43
DETAIL_LEFT_IN_INVALID_ROOT = 44
DETAIL_FRONT_WITHOUT_BACK = 45


@kernel
def _retired(vm: Vm, incarnation: int) -> bool:
    return load(vm.live.incarnation, incarnation & (MAX_PLACES - 1)) != incarnation


@kernel
def guest_touch(vm: Vm, me: int, gfn: int, root: int, spte: int, write: bool, tlb_hit: bool) -> None:
    """The guest's load or store itself, through a translation that it holds.

    Context: inside one guest instruction; no acknowledgement can come between walk, fill and touch.
    """
    pfn = spte_to_pfn(spte)
    incarnation = spte_to_incarnation(spte)
    retired = _retired(vm, incarnation)
    tag = load(vm.frame_tag, pfn)
    foreign = tag != vm.live.backing[incarnation & (MAX_PLACES - 1)]
    flags = (1 if write else 0) | (2 if retired else 0) | (4 if tlb_hit else 0) | (8 if foreign else 0)
    if retired or foreign:
        # Logged whatever the policy samples, and before the finding freezes the window.
        trace(vm, me, EV_GUEST_ACCESS, gfn, root, pfn, incarnation, tag, flags)
        detail = DETAIL_RETIRED if retired else DETAIL_TAG
        report(vm, me, STALE_USE, 3, gfn, pfn, incarnation, root, -1, detail, tag)
    else:
        trace_access(vm, me, EV_GUEST_ACCESS, gfn, root, pfn, incarnation, tag, flags)


@kernel
def mmu_writeback(vm: Vm, me: int, gfn: int, root: int, spte: int) -> None:
    """kvm_set_pfn_dirty() and kvm_set_pfn_accessed() at zap, as kernels up to 6.12 do: the MMU itself writes to the frame."""
    pfn = spte_to_pfn(spte)
    incarnation = spte_to_incarnation(spte)
    retired = _retired(vm, incarnation)
    tag = load(vm.frame_tag, pfn)
    vm.counter[me, C_WRITEBACKS] += 1
    foreign = tag != vm.live.backing[incarnation & (MAX_PLACES - 1)]
    trace(vm, me, EV_WRITEBACK, gfn, root, pfn, incarnation, tag, (1 if retired else 0) | (2 if foreign else 0))
    if retired:
        report(vm, me, STALE_WRITEBACK, 2, gfn, pfn, incarnation, root, -1, DETAIL_RETIRED, tag)
    elif foreign:
        report(vm, me, STALE_WRITEBACK, 2, gfn, pfn, incarnation, root, -1, DETAIL_TAG, tag)


@kernel
def _find_mapping(vm: Vm, root: int, start: int, end: int, incarnation: int) -> int:
    """The first gfn in [start, end) that root maps for this incarnation, or -1.

    Context: RCU read section. Plain reads: a look from outside, not a step of the protocol.
    """
    gfn = start
    while gfn < end:
        table = root
        level = vm.cfg.levels[0]
        while level > 1 and table != 0:
            table = spte_to_child_pt(vm.pt[table, spte_index(vm, gfn, level)])
            if table != 0:
                level -= 1
        if table == 0:
            # Nothing below this entry: on to the gfn behind it.
            gfn = (gfn | (pages_per_hpage(vm, level) - 1)) + 1
            continue
        spte = vm.pt[table, spte_index(vm, gfn, 1)]
        if is_shadow_present_pte(spte) and is_last_spte(spte) and spte_to_incarnation(spte) == incarnation:
            return gfn
        gfn += 1
    return -1


@kernel
def _check_roots(vm: Vm, me: int, slot: int, valid_only: bool, invariant: int, detail: int) -> None:
    start = vm.slot.base_gfn[slot]
    end = start + vm.slot.npages[slot]
    incarnation = vm.slot.incarnation[slot]
    rcu_read_lock(vm, me)
    root = vm.kvm.tdp_mmu_roots[0]
    while root != 0:
        if not valid_only or vm.sp.role_invalid[root] == 0:
            gfn = _find_mapping(vm, root, start, end, incarnation)
            if gfn >= 0:
                pfn = vm.slot.hva[slot] + gfn - start
                report(vm, me, LEFTOVER_MAPPING, invariant, gfn, pfn, incarnation, root, -1, detail, 0)
        root = vm.sp.link_next[root]
    rcu_read_unlock(vm, me)


@kernel
def check_flush_returned(vm: Vm, me: int, slot: int, front_ran: bool, back_ran: bool) -> None:
    """kvm_arch_flush_shadow_memslot() returned: no valid root maps the slot (I1); a front half had its back half (I23).

    Context: slots_lock held, mmu_lock not held.
    """
    if front_ran and not back_ran:
        observed = 0
        rcu_read_lock(vm, me)
        root = vm.kvm.tdp_mmu_roots[0]
        while root != 0:
            if vm.sp.scheduled_to_zap[root] != 0:
                observed = root
            root = vm.sp.link_next[root]
        rcu_read_unlock(vm, me)
        if observed != 0:
            incarnation = vm.slot.incarnation[slot]
            report(
                vm,
                me,
                LEFTOVER_MAPPING,
                23,
                vm.slot.base_gfn[slot],
                -1,
                incarnation,
                observed,
                -1,
                DETAIL_FRONT_WITHOUT_BACK,
                0,
            )
            return
    _check_roots(vm, me, slot, True, 1, DETAIL_LEFT_IN_VALID_ROOT)


@kernel
def check_commit(vm: Vm, me: int, slot: int) -> None:
    """The slot is about to be freed: no root at all, valid or not, maps it (I2).

    Context: slots_lock held, after the second swap.
    """
    _check_roots(vm, me, slot, False, 2, DETAIL_LEFT_AT_COMMIT)


@kernel
def check_root_empty(vm: Vm, me: int, root: int, invariant: int) -> None:
    """An invalid root that has been zapped, or is about to be freed, has no present SPTE left (I7)."""
    for index in range(1 << vm.cfg.bits_per_level[0]):
        spte = vm.pt[root, index]
        if spte != SHADOW_NONPRESENT_VALUE and is_shadow_present_pte(spte):
            gfn = index << ((vm.cfg.levels[0] - 1) * vm.cfg.bits_per_level[0])
            report(vm, me, LEFTOVER_MAPPING, invariant, gfn, -1, -1, root, -1, DETAIL_LEFT_IN_INVALID_ROOT, spte)
            return
