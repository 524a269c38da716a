# SPDX-License-Identifier: GPL-2.0-only
"""The pre-order walk over a TDP page table (arch/x86/kvm/mmu/tdp_iter.c).

One iterator an actor, in `vm.iter[me]`; no walk nests in another of the same actor. Levels count from PG_LEVEL_4K = 1 up to the
root's; a table has 2**bits_per_level entries.
"""

from __future__ import annotations

from model.atomics import load
from model.constants import INVARIANT, SP_FREE
from model.finding import report
from model.jit import kernel
from model.layout import Vm
from model.spte import spte_to_child_pt

__all__ = [
    "gfn_round_for_level",
    "kvm_tdp_mmu_read_spte",
    "pages_per_hpage",
    "spte_index",
    "tdp_iter_next",
    "tdp_iter_start",
    "tdp_mmu_max_gfn_exclusive",
]

DETAIL_FREED_TABLE = 20


@kernel
def pages_per_hpage(vm: Vm, level: int) -> int:
    """KVM_PAGES_PER_HPAGE(level): how many gfns one entry of this level covers."""
    return 1 << ((level - 1) * vm.cfg.bits_per_level[0])


@kernel
def spte_index(vm: Vm, gfn: int, level: int) -> int:
    """SPTE_INDEX(): the entry for gfn in a table of this level."""
    return (gfn >> ((level - 1) * vm.cfg.bits_per_level[0])) & ((1 << vm.cfg.bits_per_level[0]) - 1)


@kernel
def gfn_round_for_level(vm: Vm, gfn: int, level: int) -> int:
    """The first gfn that the entry holding gfn covers."""
    return gfn & -pages_per_hpage(vm, level)


@kernel
def tdp_mmu_max_gfn_exclusive(vm: Vm) -> int:
    """One past the last gfn that the tables can map."""
    return 1 << (vm.cfg.levels[0] * vm.cfg.bits_per_level[0])


@kernel
def kvm_tdp_mmu_read_spte(vm: Vm, me: int, table: int, index: int) -> int:
    """READ_ONCE(*sptep); the table must not have been freed under the walker (I12).

    Context: RCU read section.
    """
    spte = load(vm.pt, (table, index))
    if vm.cfg.check_level[0] > 0 and vm.sp.state[table] == SP_FREE:
        report(vm, me, INVARIANT, 12, -1, -1, -1, table, -1, DETAIL_FREED_TABLE, spte)
    return spte


@kernel
def _refresh_sptep(vm: Vm, me: int) -> None:
    level = vm.iter.level[me]
    vm.iter.table[me] = vm.iter_path[me, level]
    vm.iter.index[me] = spte_index(vm, vm.iter.gfn[me], level)
    vm.iter.old_spte[me] = kvm_tdp_mmu_read_spte(vm, me, vm.iter.table[me], vm.iter.index[me])


@kernel
def _restart(vm: Vm, me: int) -> None:
    """Walk down again from the root, to the gfn that comes next."""
    vm.iter.yielded[me] = 0
    vm.iter.yielded_gfn[me] = vm.iter.next_last_level_gfn[me]
    vm.iter.level[me] = vm.iter.root_level[me]
    vm.iter.gfn[me] = gfn_round_for_level(vm, vm.iter.next_last_level_gfn[me], vm.iter.level[me])
    _refresh_sptep(vm, me)
    vm.iter.valid[me] = 1


@kernel
def tdp_iter_start(vm: Vm, me: int, root: int, min_level: int, next_last_level_gfn: int) -> None:
    """Begin a walk of root at next_last_level_gfn that never goes below min_level.

    Context: RCU read section; the caller keeps the root alive.
    """
    vm.iter.root[me] = root
    vm.iter.root_level[me] = vm.cfg.levels[0]
    vm.iter.min_level[me] = min_level
    vm.iter.next_last_level_gfn[me] = next_last_level_gfn
    vm.iter_path[me, vm.cfg.levels[0]] = root
    _restart(vm, me)


@kernel
def _try_step_down(vm: Vm, me: int) -> bool:
    if vm.iter.level[me] == vm.iter.min_level[me]:
        return False
    # Reread: the entry may have changed since it was visited.
    vm.iter.old_spte[me] = kvm_tdp_mmu_read_spte(vm, me, vm.iter.table[me], vm.iter.index[me])
    child = spte_to_child_pt(vm.iter.old_spte[me])
    if child == 0:
        return False
    vm.iter.level[me] -= 1
    vm.iter_path[me, vm.iter.level[me]] = child
    vm.iter.gfn[me] = gfn_round_for_level(vm, vm.iter.next_last_level_gfn[me], vm.iter.level[me])
    _refresh_sptep(vm, me)
    return True


@kernel
def _try_step_side(vm: Vm, me: int) -> bool:
    if vm.iter.index[me] == (1 << vm.cfg.bits_per_level[0]) - 1:
        return False
    vm.iter.gfn[me] += pages_per_hpage(vm, vm.iter.level[me])
    vm.iter.next_last_level_gfn[me] = vm.iter.gfn[me]
    vm.iter.index[me] += 1
    vm.iter.old_spte[me] = kvm_tdp_mmu_read_spte(vm, me, vm.iter.table[me], vm.iter.index[me])
    return True


@kernel
def _try_step_up(vm: Vm, me: int) -> bool:
    if vm.iter.level[me] == vm.iter.root_level[me]:
        return False
    vm.iter.level[me] += 1
    vm.iter.gfn[me] = gfn_round_for_level(vm, vm.iter.gfn[me], vm.iter.level[me])
    _refresh_sptep(vm, me)
    return True


@kernel
def tdp_iter_next(vm: Vm, me: int) -> None:
    """Go on to the next entry in pre-order; `valid` becomes 0 at the end.

    After a yield the walk starts again from the root and is not advanced: the entry it stood at has not been visited yet
    (3a0f64de479c "KVM: x86/mmu: Don't advance iterator after restart due to yielding", 5.16).
    """
    if vm.iter.yielded[me] != 0:
        _restart(vm, me)
        return
    if _try_step_down(vm, me):
        return
    while True:
        if _try_step_side(vm, me):
            return
        if not _try_step_up(vm, me):
            break
    vm.iter.valid[me] = 0


@kernel
def tdp_iter_restart_and_advance(vm: Vm, me: int) -> None:
    """Deliberate bug (B08): restart at the yield itself, so that the loop's own step then skips the entry."""
    _restart(vm, me)
