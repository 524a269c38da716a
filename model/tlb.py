# SPDX-License-Identifier: GPL-2.0-only
"""The guest's TLB and the hardware page walk: one guest access at a time.

A TLB is direct mapped, one a vCPU, its entries tagged by the root's page; translations of other roots survive a flush of the
current one. A miss walks the tables as hardware does: lock-free and outside RCU, setting accessed and dirty bits by cmpxchg.
"""

from __future__ import annotations

from model.atomics import cmpxchg, load
from model.constants import EV_TLB_FILL, EV_TLB_FLUSH, INVARIANT, SP_FREE
from model.finding import report
from model.jit import kernel
from model.layout import Vm
from model.spte import (
    SPTE_ACCESSED,
    SPTE_DIRTY,
    is_dirty_spte,
    is_last_spte,
    is_shadow_present_pte,
    spte_to_child_pt,
    spte_to_incarnation,
    spte_to_pfn,
)
from model.tdp_iter import spte_index
from model.trace import trace, trace_access

__all__ = ["FLUSH_ON_LOAD", "FLUSH_ON_REQUEST", "hw_walk", "kvm_flush_tlb_all", "kvm_flush_tlb_current", "tlb_lookup"]

FLUSH_ON_LOAD = 0
FLUSH_ON_REQUEST = 1

# A key is the root's page and the gfn; page 0 is never a root, so an empty entry's 0 matches nothing.
_ROOT_SHIFT = 40
# Translations of the same gfn under other roots lie elsewhere, so that they survive as they do in an associative TLB.
_ROOT_STRIDE = 61
DETAIL_FREED_TABLE = 20


@kernel
def kvm_flush_tlb_current(vm: Vm, me: int, root: int) -> None:
    """Drop the translations tagged with one root; only the vCPU itself touches its TLB."""
    trace(vm, me, EV_TLB_FLUSH, -1, root, -1, -1, root, FLUSH_ON_LOAD)
    for entry in range(vm.cfg.tlb_mask[0] + 1):
        if vm.tlb_key[me, entry] >> _ROOT_SHIFT == root:
            vm.tlb_key[me, entry] = 0
    vm.vcpu.flushed[me] = root


@kernel
def kvm_flush_tlb_all(vm: Vm, me: int) -> None:
    """Drop all translations: KVM_REQ_TLB_FLUSH."""
    trace(vm, me, EV_TLB_FLUSH, -1, -1, -1, -1, 0, FLUSH_ON_REQUEST)
    for entry in range(vm.cfg.tlb_mask[0] + 1):
        vm.tlb_key[me, entry] = 0


@kernel
def _entry(vm: Vm, root: int, gfn: int) -> int:
    return (gfn + root * _ROOT_STRIDE) & vm.cfg.tlb_mask[0]


@kernel
def tlb_lookup(vm: Vm, me: int, root: int, gfn: int, write: bool) -> int:
    """The SPTE of a cached translation, or 0; a first write through a clean one misses, to set the dirty bit."""
    entry = _entry(vm, root, gfn)
    if vm.tlb_key[me, entry] != (root << _ROOT_SHIFT) | gfn:
        return 0
    spte = vm.tlb_spte[me, entry]
    if write and not is_dirty_spte(spte):
        return 0
    return int(spte)


@kernel
def hw_walk(vm: Vm, me: int, root: int, gfn: int, write: bool) -> int:
    """Walk from the root; fill the TLB on success.

    Returns:
        The leaf SPTE, or 0: an EPT violation.

    Context: guest mode, interrupts off.
    """
    while True:
        table = root
        level = vm.cfg.levels[0]
        spte = load(vm.pt, (table, spte_index(vm, gfn, level)))
        while level > 1:
            child = spte_to_child_pt(spte)
            if child == 0:
                return 0
            table = child
            level -= 1
            spte = load(vm.pt, (table, spte_index(vm, gfn, level)))
        if vm.cfg.check_level[0] > 0 and vm.sp.state[table] == SP_FREE:
            report(vm, me, INVARIANT, 12, gfn, -1, -1, table, -1, DETAIL_FREED_TABLE, spte)
        if not is_shadow_present_pte(spte) or not is_last_spte(spte):
            return 0
        marked = spte | SPTE_ACCESSED
        if write:
            marked = marked | SPTE_DIRTY
        # Hardware sets the bits by a locked exchange that fails if the entry changed; then it walks again.
        if marked == spte or cmpxchg(vm.pt, (table, spte_index(vm, gfn, 1)), spte, marked) == spte:
            entry = _entry(vm, root, gfn)
            vm.tlb_key[me, entry] = (root << _ROOT_SHIFT) | gfn
            vm.tlb_spte[me, entry] = marked
            trace_access(vm, me, EV_TLB_FILL, gfn, root, spte_to_pfn(marked), spte_to_incarnation(marked), marked, -1)
            return marked
