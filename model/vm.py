# SPDX-License-Identifier: GPL-2.0-only
"""Setting up a VM: the geometry, locks, pool, userspace's extents and planted bugs, written before any actor starts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from model.constants import (
    CHECK_LEVELS,
    KVM_X86_QUIRK_SLOT_ZAP_ALL,
    LOG_POLICIES,
    SP_FREE,
    TOGGLER_MODES,
    VARIANTS,
)
from model.layout import MAX_ACTORS, MAX_VCPUS, Vm
from model.lockdep import LOCK_MMU_WRITE, LOCK_POOL, LOCK_SLOTS, LOCK_SLOTS_ARCH, LOCK_TDP_MMU_PAGES
from model.mutations import MUTATIONS
from model.rng import rng_seed

__all__ = ["SlotSettings", "VmSettings", "setup_vm"]


@dataclass(frozen=True)
class SlotSettings:
    """One memslot: gfns [base_gfn, base_gfn + npages), and where a MOVE takes it."""

    base_gfn: int
    npages: int
    can_delete: bool = False
    move_to: int | None = None


@dataclass(frozen=True)
class VmSettings:
    """Everything a run of the model depends on. Ratios are 0 to 1, times as their names say, 0 means without limit.

    `cache_pages` is the capacity of a vCPU's memory cache; 0: one page a level. `scripts` has, for each actor that follows one, its
    id and what it does (model/script.py); without any, accesses and operations are drawn.
    """

    nr_vcpus: int
    levels: int
    bits_per_level: int
    slots: tuple[SlotSettings, ...]
    nr_pages: int
    seed: int
    variant: str = "split-once"
    bugs: tuple[str, ...] = ()
    ad_writeback: bool = True
    quirk_slot_zap_all: bool = True
    lock_break_on_contention: bool = True
    tlb_entries: int = 64
    check_level: str = "protocol"
    log_policy: str = "window"
    log_sample: int = 1
    ring_slots: int = 16
    write_ratio: float = 0.5
    hole_ratio: float = 0.0
    halt_ratio: float = 0.0
    halt_us_max: int = 2000
    accesses_per_entry_max: int = 4096
    warmup_accesses: int = 0
    dwell_us_max: int = 20_000
    operations_max: int = 0
    entries_max: int = 0
    toggler_mode: str = "off"
    toggler_period_us_max: int = 500
    cache_pages: int = 0
    scripts: tuple[tuple[int, tuple[int, ...]], ...] = ()

    def with_bugs(self, *bugs: str) -> VmSettings:
        """The same run with these bugs planted."""
        return replace(self, bugs=bugs)


_ONE = 1 << 32


def setup_vm(vm: Vm, settings: VmSettings) -> None:
    """Fill a zeroed record.

    Args:
        vm: views(record), see model/layout.py.
        settings: checked by the caller; the geometry must fit the layout's maxima.
    """
    cfg = vm.cfg
    cfg.nr_vcpus[0] = settings.nr_vcpus
    cfg.levels[0] = settings.levels
    cfg.bits_per_level[0] = settings.bits_per_level
    cfg.nr_pages[0] = settings.nr_pages
    cfg.nr_slots[0] = len(settings.slots)
    cfg.variant[0] = VARIANTS.index(settings.variant)
    cfg.ad_writeback[0] = settings.ad_writeback
    cfg.lock_break_on_contention[0] = settings.lock_break_on_contention
    cfg.tlb_mask[0] = settings.tlb_entries - 1
    cfg.check_level[0] = CHECK_LEVELS.index(settings.check_level)
    cfg.log_policy[0] = LOG_POLICIES.index(settings.log_policy)
    cfg.log_sample[0] = settings.log_sample
    cfg.ring_slots[0] = settings.ring_slots
    cfg.write_threshold[0] = int(settings.write_ratio * _ONE)
    cfg.hole_threshold[0] = int(settings.hole_ratio * _ONE)
    cfg.halt_threshold[0] = int(settings.halt_ratio * _ONE)
    cfg.halt_us_max[0] = settings.halt_us_max
    cfg.accesses_per_entry_max[0] = settings.accesses_per_entry_max
    cfg.warmup_accesses[0] = settings.warmup_accesses
    cfg.dwell_us_max[0] = settings.dwell_us_max
    cfg.operations_max[0] = settings.operations_max
    cfg.entries_max[0] = settings.entries_max
    cfg.toggler_mode[0] = TOGGLER_MODES.index(settings.toggler_mode)
    cfg.toggler_period_us_max[0] = settings.toggler_period_us_max
    cfg.cache_pages[0] = settings.cache_pages or settings.levels
    cfg.scripted[0] = 1 if settings.scripts else 0
    for actor, script in settings.scripts:
        vm.script[actor, : len(script)] = script
        vm.script_length[actor] = len(script)

    for name in settings.bugs:
        vm.mutation[MUTATIONS[name].id] = 1

    vm.mmu_lock.lock_id[0] = LOCK_MMU_WRITE
    vm.slots_lock.lock_id[0] = LOCK_SLOTS
    vm.slots_arch_lock.lock_id[0] = LOCK_SLOTS_ARCH
    vm.tdp_mmu_pages_lock.lock_id[0] = LOCK_TDP_MMU_PAGES
    vm.pool_lock.lock_id[0] = LOCK_POOL

    vm.kvm.disabled_quirks[0] = 0 if settings.quirk_slot_zap_all else KVM_X86_QUIRK_SLOT_ZAP_ALL

    # The pool hands out low pages first; page 0 means "none".
    pages = np.arange(1, settings.nr_pages)
    vm.sp.state[pages] = SP_FREE
    vm.sp.next[pages] = np.where(pages + 1 < settings.nr_pages, pages + 1, 0)
    vm.pool.head[0] = 1
    vm.pool.nr_free[0] = settings.nr_pages - 1

    _setup_userspace(vm, settings)
    for actor in range(MAX_ACTORS):
        vm.actor.rng[actor] = rng_seed(settings.seed, actor)
    vm.vcpu.retry_gfn[:MAX_VCPUS] = -1
    vm.run.vcpus_running[0] = settings.nr_vcpus


def _setup_userspace(vm: Vm, settings: VmSettings) -> None:
    ranges = []
    vm.cfg.extent_frames[0] = max(slot.npages for slot in settings.slots)
    for slot_id, slot in enumerate(settings.slots):
        vm.slot_cfg.base_gfn[slot_id] = slot.base_gfn
        vm.slot_cfg.npages[slot_id] = slot.npages
        vm.slot_cfg.can_delete[slot_id] = slot.can_delete
        ranges.append((slot.base_gfn, slot.npages))
        if slot.move_to is not None:
            vm.slot_cfg.can_move[slot_id] = 1
            vm.slot_cfg.move_to[slot_id] = slot.move_to
            ranges.append((slot.move_to, slot.npages))
    # A stack of extents, the lowest on top.
    vm.user_extent[: len(settings.slots)] = np.arange(len(settings.slots))[::-1]
    vm.user.extents_free[0] = len(settings.slots)
    for n, (base_gfn, npages) in enumerate(ranges):
        vm.range.base_gfn[n] = base_gfn
        vm.range.npages[n] = npages
    vm.cfg.nr_ranges[0] = len(ranges)
    vm.cfg.hole_gfn[0] = _first_hole(ranges, 1 << (settings.levels * settings.bits_per_level))


def _first_hole(ranges: list[tuple[int, int]], gfns: int) -> int:
    """The lowest gfn outside all ranges; the last gfn of the space if they fill it."""
    gfn = 0
    for base_gfn, npages in sorted(ranges):
        if gfn < base_gfn:
            break
        gfn = base_gfn + npages
    return min(gfn, gfns - 1)
