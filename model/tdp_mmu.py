# SPDX-License-Identifier: GPL-2.0-only
"""The TDP MMU (arch/x86/kvm/mmu/tdp_mmu.c): setting SPTEs, mapping a fault, zapping roots and ranges.

Under mmu_lock held for read, an SPTE changes by one cmpxchg, and only the winner accounts for the change. Under the lock held
for write plain exchanges do, and FROZEN is never seen.
"""

from __future__ import annotations

from model.atomics import atomic_add, cmpxchg, load, store, xchg
from model.constants import (
    C_BACK_HALF_YIELDS,
    C_LEAFS_YIELDS,
    C_SPTES_SET,
    C_SPTES_ZAPPED,
    EV_ROOT_INVALIDATE,
    EV_ROOT_ZAP_BEGIN,
    EV_ROOT_ZAP_END,
    EV_SPTE_CHANGE,
    EV_ZAP_LEAFS_BEGIN,
    EV_ZAP_LEAFS_END,
    EV_ZAP_YIELD,
    HALF_BACK,
    HALF_LEAFS,
    INVARIANT,
    PG_LEVEL_4K,
    RET_PF_FIXED,
    RET_PF_RETRY,
    RET_PF_SPURIOUS,
    SHADOW_NONPRESENT_VALUE,
    SP_LINKED,
)
from model.finding import report
from model.jit import kernel
from model.layout import Vm
from model.lockdep import (
    LOCK_SLOTS,
    lockdep_assert_held,
    lockdep_assert_held_read,
    lockdep_assert_held_write,
)
from model.locks import (
    cond_resched_rwlock_read,
    cond_resched_rwlock_write,
    need_resched,
    read_lock,
    read_unlock,
    rwlock_needbreak,
    write_lock,
    write_unlock,
)
from model.mutations import ADVANCE_AFTER_YIELD, PUT_BEFORE_ZAP, ZAP_ONLY_WITHOUT_FLUSH, planted
from model.oracle import check_root_empty, mmu_writeback
from model.pages import cache_alloc, cache_free
from model.rcu import call_rcu, rcu_read_lock, rcu_read_unlock
from model.requests import kvm_flush_remote_tlbs
from model.roots import check_root_references, kvm_tdp_mmu_put_root, tdp_mmu_next_root
from model.spte import (
    FROZEN_SPTE,
    is_accessed_spte,
    is_dirty_spte,
    is_frozen_spte,
    is_last_spte,
    is_shadow_present_pte,
    make_nonleaf_spte,
    make_spte,
    spte_to_child_pt,
    spte_to_incarnation,
    spte_to_pfn,
)
from model.tdp_iter import (
    gfn_round_for_level,
    pages_per_hpage,
    tdp_iter_next,
    tdp_iter_restart_and_advance,
    tdp_iter_start,
    tdp_mmu_max_gfn_exclusive,
)
from model.trace import trace

__all__ = [
    "kvm_mmu_zap_memslot_pages_and_flush",
    "kvm_tdp_mmu_invalidate_roots",
    "kvm_tdp_mmu_map",
    "kvm_tdp_mmu_unmap_gfn_range",
    "kvm_tdp_mmu_zap_invalidated_roots",
    "tdp_mmu_zap_scheduled_roots",
]

DETAIL_FROZEN_UNDER_WRITE = 60
DETAIL_LEAF_TO_LEAF = 61
DETAIL_OBSOLETE_INSTALL = 62
DETAIL_UNLINK_OF_UNLINKED = 63
DETAIL_SCHEDULED_BUT_VALID = 64
DETAIL_OWED_FLUSH = 65
DETAIL_STILL_SCHEDULED = 66


# --- changing SPTEs


@kernel
def _tdp_unaccount_mmu_page(vm: Vm) -> None:
    atomic_add(vm.kvm.tdp_mmu_pages, 0, -1)


@kernel
def _handle_changed_leaf(vm: Vm, me: int, gfn: int, table: int, old: int, new: int) -> None:
    """Accounting and dirty state of one level-4K entry; the caller owns the change."""
    trace(vm, me, EV_SPTE_CHANGE, gfn, table, PG_LEVEL_4K, -1, old, new)
    was_present = is_shadow_present_pte(old)
    is_present = is_shadow_present_pte(new)
    if is_present and not was_present:
        vm.counter[me, C_SPTES_SET] += 1
    if was_present and not is_present:
        vm.counter[me, C_SPTES_ZAPPED] += 1
        if vm.cfg.ad_writeback[0] != 0 and (is_accessed_spte(old) or is_dirty_spte(old)):
            mmu_writeback(vm, me, gfn, vm.iter.root[me], old)
    if was_present and is_present and spte_to_pfn(old) != spte_to_pfn(new) and vm.cfg.check_level[0] > 0:
        report(vm, me, INVARIANT, 14, gfn, spte_to_pfn(new), spte_to_incarnation(new), table, -1, DETAIL_LEAF_TO_LEAF, old)


@kernel
def _take_spte(vm: Vm, me: int, table: int, index: int, shared: bool) -> int:
    """Make an entry of a removed table FROZEN and return what it was; from here on its content is this actor's."""
    if not shared:
        old = xchg(vm.pt, (table, index), FROZEN_SPTE)
        if is_frozen_spte(old) and vm.cfg.check_level[0] > 0:
            report(vm, me, INVARIANT, 13, -1, -1, -1, table, -1, DETAIL_FROZEN_UNDER_WRITE, index)
        return old
    while True:
        old = xchg(vm.pt, (table, index), FROZEN_SPTE)
        if not is_frozen_spte(old):
            return old
        # Another actor is taking this very entry out; it will write a value again before it lets go.


@kernel
def handle_removed_pt(vm: Vm, me: int, table: int, base_gfn: int, level: int, shared: bool) -> None:
    """Tear down a table that was just unlinked, and everything below it; the winner of the unlinking owns the subtree.

    The kernel recurses; here the way back up is kept in `vm.removed_*[me]`, since compiled model functions cannot.

    Args:
        vm: the shared record.
        me: the owner.
        table: page of the removed table.
        base_gfn: first gfn that it maps.
        level: level of its entries.
        shared: mmu_lock is held for read.

    Source: handle_removed_pt(), arch/x86/kvm/mmu/tdp_mmu.c.
    """
    entries = 1 << vm.cfg.bits_per_level[0]
    depth = 0
    vm.removed_table[me, 0] = table
    vm.removed_index[me, 0] = 0
    vm.removed_gfn[me, 0] = base_gfn
    _unlink_sp(vm, me, table)
    while depth >= 0:
        table = vm.removed_table[me, depth]
        index = vm.removed_index[me, depth]
        if index == entries:
            # Lockless walkers may stand on the page; its entries stay FROZEN until it is freed.
            call_rcu(vm, table)
            depth -= 1
            continue
        vm.removed_index[me, depth] = index + 1
        gfn = vm.removed_gfn[me, depth] + index * pages_per_hpage(vm, level - depth)
        old = _take_spte(vm, me, table, index, shared)
        child = spte_to_child_pt(old)
        if child != 0:
            trace(vm, me, EV_SPTE_CHANGE, gfn, table, level - depth, -1, old, FROZEN_SPTE)
            _unlink_sp(vm, me, child)
            depth += 1
            vm.removed_table[me, depth] = child
            vm.removed_index[me, depth] = 0
            vm.removed_gfn[me, depth] = gfn
        elif is_shadow_present_pte(old):
            _handle_changed_leaf(vm, me, gfn, table, old, FROZEN_SPTE)


@kernel
def _unlink_sp(vm: Vm, me: int, table: int) -> None:
    if vm.sp.state[table] != SP_LINKED and vm.cfg.check_level[0] > 0:
        report(vm, me, INVARIANT, 11, -1, -1, -1, table, -1, DETAIL_UNLINK_OF_UNLINKED, vm.sp.state[table])
    _tdp_unaccount_mmu_page(vm)


@kernel
def _handle_changed_spte(vm: Vm, me: int, gfn: int, table: int, level: int, old: int, new: int, shared: bool) -> None:
    """handle_changed_spte(): what follows from a change that this actor made."""
    if level == PG_LEVEL_4K:
        _handle_changed_leaf(vm, me, gfn, table, old, new)
        return
    trace(vm, me, EV_SPTE_CHANGE, gfn, table, level, -1, old, new)
    child = spte_to_child_pt(old)
    if child != 0 and spte_to_child_pt(new) != child:
        handle_removed_pt(vm, me, child, gfn, level - 1, shared)


@kernel
def tdp_mmu_set_spte_atomic(vm: Vm, me: int, new: int) -> bool:
    """One cmpxchg at the iterator; on failure the iterator's old_spte is what was found.

    Returns:
        True if this actor made the change.

    Context: mmu_lock held for read, RCU.
    """
    lockdep_assert_held_read(vm, me)
    old = vm.iter.old_spte[me]
    if is_frozen_spte(old) and vm.cfg.check_level[0] > 0:
        report(vm, me, INVARIANT, 13, vm.iter.gfn[me], -1, -1, vm.iter.table[me], -1, DETAIL_FROZEN_UNDER_WRITE, old)
    seen = cmpxchg(vm.pt, (vm.iter.table[me], vm.iter.index[me]), old, new)
    if seen != old:
        vm.iter.old_spte[me] = seen
        return False
    _handle_changed_spte(vm, me, vm.iter.gfn[me], vm.iter.table[me], vm.iter.level[me], old, new, True)
    return True


@kernel
def tdp_mmu_iter_set_spte(vm: Vm, me: int, new: int) -> None:
    """The exclusive form: an exchange, since the CPU may still set accessed and dirty bits.

    Context: mmu_lock held for write, RCU.
    """
    lockdep_assert_held_write(vm, me)
    old = xchg(vm.pt, (vm.iter.table[me], vm.iter.index[me]), new)
    if is_frozen_spte(old) and vm.cfg.check_level[0] > 0:
        report(vm, me, INVARIANT, 13, vm.iter.gfn[me], -1, -1, vm.iter.table[me], -1, DETAIL_FROZEN_UNDER_WRITE, old)
    vm.iter.old_spte[me] = old
    _handle_changed_spte(vm, me, vm.iter.gfn[me], vm.iter.table[me], vm.iter.level[me], old, new, False)


# --- mapping


@kernel
def _tdp_mmu_link_sp(vm: Vm, me: int, page: int) -> bool:
    """tdp_mmu_link_sp(): make a new, empty table visible."""
    if not tdp_mmu_set_spte_atomic(vm, me, make_nonleaf_spte(page)):
        return False
    atomic_add(vm.kvm.tdp_mmu_pages, 0, 1)
    return True


@kernel
def _tdp_mmu_map_handle_target_level(vm: Vm, me: int, pfn: int, incarnation: int, write: bool) -> int:
    old = vm.iter.old_spte[me]
    if is_shadow_present_pte(old) and is_last_spte(old) and spte_to_incarnation(old) == incarnation:
        # Another vCPU was faster; every mapping here is writable.
        return RET_PF_SPURIOUS
    if vm.cfg.check_level[0] > 0 and vm.sp.role_invalid[vm.iter.root[me]] != 0:
        report(vm, me, INVARIANT, 6, vm.iter.gfn[me], pfn, incarnation, vm.iter.root[me], -1, DETAIL_OBSOLETE_INSTALL, 0)
    if not tdp_mmu_set_spte_atomic(vm, me, make_spte(pfn, incarnation, write)):
        return RET_PF_RETRY
    return RET_PF_FIXED


@kernel
def kvm_tdp_mmu_map(vm: Vm, me: int, root: int, gfn: int, pfn: int, incarnation: int, write: bool) -> int:
    """Install a 4K mapping, and the tables above it.

    Returns:
        RET_PF_FIXED, RET_PF_SPURIOUS, or RET_PF_RETRY after a lost race or a FROZEN entry.

    Context: mmu_lock held for read since is_page_fault_stale().

    Source: kvm_tdp_mmu_map(), arch/x86/kvm/mmu/tdp_mmu.c.
    """
    result = RET_PF_RETRY
    rcu_read_lock(vm, me)
    tdp_iter_start(vm, me, root, PG_LEVEL_4K, gfn)
    while vm.iter.valid[me] != 0 and vm.iter.gfn[me] <= gfn:
        old = vm.iter.old_spte[me]
        # First of all (f5d16bb9be68, 6.2): a FROZEN entry is somebody else's, whatever its level.
        if is_frozen_spte(old):
            break
        if vm.iter.level[me] == PG_LEVEL_4K:
            result = _tdp_mmu_map_handle_target_level(vm, me, pfn, incarnation, write)
            break
        if not is_shadow_present_pte(old):
            page = cache_alloc(vm, me)
            vm.sp.level[page] = vm.iter.level[me] - 1
            vm.sp.gfn[page] = gfn_round_for_level(vm, gfn, vm.iter.level[me])
            vm.sp.state[page] = SP_LINKED
            if not _tdp_mmu_link_sp(vm, me, page):
                # Never visible, so it goes straight back.
                cache_free(vm, me, page)
                break
        tdp_iter_next(vm, me)
    rcu_read_unlock(vm, me)
    return result


# --- zapping


@kernel
def _tdp_mmu_iter_cond_resched(vm: Vm, me: int, flush: bool, shared: bool, half: int) -> bool:
    """Yield if asked to, but only after some progress since the last yield.

    Returns:
        True if mmu_lock was dropped, or would have been had the reason lasted; the iterator then restarts at the same gfn.

    Context: mmu_lock in the mode that `shared` says, RCU; both are dropped and retaken.
    """
    # For the watchdog: a zap of large tables under heavy noise is slow, not stuck.
    vm.actor.progress[me] += 1
    if vm.iter.next_last_level_gfn[me] == vm.iter.yielded_gfn[me]:
        return False
    if not need_resched(vm, me) and not rwlock_needbreak(vm, vm.mmu_lock):
        return False
    if flush:
        _flush_owed(vm, me)
    if not shared:
        _check_no_flush_owed(vm, me)
    rcu_read_unlock(vm, me)
    if shared:
        cond_resched_rwlock_read(vm, me, vm.mmu_lock)
    else:
        cond_resched_rwlock_write(vm, me, vm.mmu_lock)
    rcu_read_lock(vm, me)
    trace(vm, me, EV_ZAP_YIELD, vm.iter.next_last_level_gfn[me], vm.iter.root[me], -1, -1, half, -1)
    if half == HALF_LEAFS:
        vm.counter[me, C_LEAFS_YIELDS] += 1
    else:
        vm.counter[me, C_BACK_HALF_YIELDS] += 1
    # Deliberate bug (B08): restart now; the loop's step then goes past the entry it stood at.
    if planted(vm, ADVANCE_AFTER_YIELD):
        tdp_iter_restart_and_advance(vm, me)
    else:
        vm.iter.yielded[me] = 1
    return True


@kernel
def _flush_owed(vm: Vm, me: int) -> None:
    # Deliberate bug (zap-only-without-flush, B36): the pending flush is forgotten.
    if not planted(vm, ZAP_ONLY_WITHOUT_FLUSH):
        kvm_flush_remote_tlbs(vm, me)
        vm.kvm.flush_owed[0] = 0


@kernel
def _check_no_flush_owed(vm: Vm, me: int) -> None:
    """Before mmu_lock is dropped, by a yield or for good, what was zapped in a valid root has been flushed (I16)."""
    if vm.cfg.check_level[0] > 0 and vm.kvm.flush_owed[0] != 0:
        report(vm, me, INVARIANT, 16, -1, -1, -1, -1, -1, DETAIL_OWED_FLUSH, 0)
        vm.kvm.flush_owed[0] = 0


@kernel
def _tdp_mmu_zap_root_level(vm: Vm, me: int, root: int, shared: bool, zap_level: int) -> None:
    """__tdp_mmu_zap_root(): clear every present entry at zap_level and below it, over the whole gfn space."""
    end = tdp_mmu_max_gfn_exclusive(vm)
    tdp_iter_start(vm, me, root, zap_level, 0)
    while vm.iter.valid[me] != 0 and vm.iter.gfn[me] < end:
        if not _tdp_mmu_iter_cond_resched(vm, me, False, shared, HALF_BACK):
            while is_shadow_present_pte(vm.iter.old_spte[me]) and vm.iter.level[me] <= zap_level:
                if not shared:
                    tdp_mmu_iter_set_spte(vm, me, SHADOW_NONPRESENT_VALUE)
                    break
                if tdp_mmu_set_spte_atomic(vm, me, SHADOW_NONPRESENT_VALUE):
                    break
        tdp_iter_next(vm, me)


@kernel
def tdp_mmu_zap_root(vm: Vm, me: int, root: int, shared: bool) -> None:
    """Zap a root bottom-up, level by level (8ca983631f3c, 6.9): no single step tears down a large subtree.

    No flush: the root is invalid, and every vCPU flushes when it loads its next one (fcdffe97f80e, 6.9).

    Context: mmu_lock in the mode that `shared` says; yields.
    """
    vm.sp.zapping[root] = 1
    rcu_read_lock(vm, me)
    for level in range(PG_LEVEL_4K, vm.cfg.levels[0] + 1):
        _tdp_mmu_zap_root_level(vm, me, root, shared, level)
    rcu_read_unlock(vm, me)
    vm.sp.zapping[root] = 0


@kernel
def tdp_mmu_zap_scheduled_roots(vm: Vm, me: int, shared: bool) -> None:
    """K1 to K4: the loop over all roots, under mmu_lock in the mode that `shared` says.

    Each zapped root loses the reference that its invalidation gifted, and only after the zap: until then it must stay on the
    list, so that an mmu_notifier reaches its SPTEs whenever the zap yields.
    """
    root = tdp_mmu_next_root(vm, me, 0)  # K1
    while root != 0:
        if load(vm.sp.scheduled_to_zap, root) != 0:  # K2
            store(vm.sp.scheduled_to_zap, root, 0)
            trace(vm, me, EV_ROOT_ZAP_BEGIN, -1, root, -1, -1, -1, -1)
            if vm.sp.role_invalid[root] == 0 and vm.cfg.check_level[0] > 0:
                report(vm, me, INVARIANT, 9, -1, -1, -1, root, -1, DETAIL_SCHEDULED_BUT_VALID, 0)
            # Deliberate bug (put-before-zap): K4 before K3.
            put_first = planted(vm, PUT_BEFORE_ZAP)
            if put_first:
                vm.sp.zapping[root] = 1
                kvm_tdp_mmu_put_root(vm, me, root)
            tdp_mmu_zap_root(vm, me, root, shared)  # K3
            trace(vm, me, EV_ROOT_ZAP_END, -1, root, -1, -1, -1, -1)
            check_root_empty(vm, me, root, 7)
            if not put_first:
                kvm_tdp_mmu_put_root(vm, me, root)  # K4
        root = tdp_mmu_next_root(vm, me, root)
    _check_invalid_roots(vm, me)


@kernel
def _check_invalid_roots(vm: Vm, me: int) -> None:
    """After the back half every invalid root is empty and none is scheduled (I7)."""
    rcu_read_lock(vm, me)
    root = vm.kvm.tdp_mmu_roots[0]
    while root != 0:
        if vm.sp.role_invalid[root] != 0:
            check_root_empty(vm, me, root, 7)
            if vm.cfg.check_level[0] > 0 and vm.sp.scheduled_to_zap[root] != 0:
                report(vm, me, INVARIANT, 7, -1, -1, -1, root, -1, DETAIL_STILL_SCHEDULED, 0)
        root = vm.sp.link_next[root]
    rcu_read_unlock(vm, me)


@kernel
def kvm_tdp_mmu_zap_invalidated_roots(vm: Vm, me: int, shared: bool) -> None:
    """Zap every root that the front half scheduled, and put the gifted reference of each.

    Context: slots_lock held, mmu_lock not held; takes it for read if `shared`, else for write, and yields.

    Source: kvm_tdp_mmu_zap_invalidated_roots(), arch/x86/kvm/mmu/tdp_mmu.c.
    """
    if shared:
        read_lock(vm, me, vm.mmu_lock)
    else:
        write_lock(vm, me, vm.mmu_lock)
    tdp_mmu_zap_scheduled_roots(vm, me, shared)
    if shared:
        read_unlock(vm, me, vm.mmu_lock)  # K5
    else:
        write_unlock(vm, me, vm.mmu_lock)


@kernel
def kvm_tdp_mmu_invalidate_roots(vm: Vm, me: int) -> None:
    """F2: mark every valid root invalid and schedule its zap; the TDP MMU's own reference now belongs to the back half.

    No SPTE is touched.

    Context: slots_lock and mmu_lock (write) held, so the list is stable.

    Source: kvm_tdp_mmu_invalidate_roots(), arch/x86/kvm/mmu/tdp_mmu.c.
    """
    lockdep_assert_held_write(vm, me)
    lockdep_assert_held(vm, me, LOCK_SLOTS)
    root = load(vm.kvm.tdp_mmu_roots, 0)
    while root != 0:
        if load(vm.sp.role_invalid, root) == 0:
            if vm.cfg.check_level[0] > 0:
                check_root_references(vm, me, root)
            store(vm.sp.scheduled_to_zap, root, 1)
            # Pairs with the load in is_obsolete_sp(); a fault's read_lock comes after this write_lock's end anyway.
            store(vm.sp.role_invalid, root, 1)
            trace(vm, me, EV_ROOT_INVALIDATE, -1, root, -1, -1, -1, -1)
        root = load(vm.sp.link_next, root)


@kernel
def _tdp_mmu_zap_leafs(vm: Vm, me: int, root: int, start: int, end: int, flush: bool) -> bool:
    """Zap the leafs of [start, end) in one root; page tables stay.

    Returns:
        True if a flush is owed, by this root or by one before it.

    Context: mmu_lock held for write; may yield, flushing first if a flush is owed.
    """
    lockdep_assert_held_write(vm, me)
    rcu_read_lock(vm, me)
    tdp_iter_start(vm, me, root, PG_LEVEL_4K, start)
    while vm.iter.valid[me] != 0 and vm.iter.gfn[me] < end:
        if _tdp_mmu_iter_cond_resched(vm, me, flush, False, HALF_LEAFS):
            flush = False
        elif is_shadow_present_pte(vm.iter.old_spte[me]) and is_last_spte(vm.iter.old_spte[me]):
            tdp_mmu_iter_set_spte(vm, me, SHADOW_NONPRESENT_VALUE)
            # Nobody runs on an invalid root, and whoever loads another one flushes (fcdffe97f80e, 6.9).
            if vm.sp.role_invalid[root] == 0:
                flush = True
                vm.kvm.flush_owed[0] = 1
        tdp_iter_next(vm, me)
    rcu_read_unlock(vm, me)
    return flush


@kernel
def kvm_tdp_mmu_unmap_gfn_range(vm: Vm, me: int, start: int, end: int) -> bool:
    """Zap the leafs of a range in all roots, valid and invalid (d62007edf01f, 5.18).

    The owed flush is carried from root to root (a835429cda91, 5.12).

    Context: mmu_lock held for write; yields.
    """
    lockdep_assert_held(vm, me, LOCK_SLOTS)
    trace(vm, me, EV_ZAP_LEAFS_BEGIN, start, -1, -1, -1, -1, -1)
    flush = False
    root = tdp_mmu_next_root(vm, me, 0)
    while root != 0:
        flush = _tdp_mmu_zap_leafs(vm, me, root, start, end, flush)
        root = tdp_mmu_next_root(vm, me, root)
    trace(vm, me, EV_ZAP_LEAFS_END, end, -1, -1, -1, 1 if flush else 0, -1)
    return flush


@kernel
def kvm_mmu_zap_memslot_pages_and_flush(vm: Vm, me: int, flush: bool) -> None:
    """The rest of the zap-only branch: shadow pages of the slot, none yet, and the flush that is owed.

    Still under mmu_lock, since the roots are in use (I16).
    """
    lockdep_assert_held_write(vm, me)
    if flush:
        _flush_owed(vm, me)
    _check_no_flush_owed(vm, me)
