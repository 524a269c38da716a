# SPDX-License-Identifier: GPL-2.0-only
"""From a scenario to the model's settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from model.vm import SlotSettings, VmSettings
from stress.config import pages_needed

if TYPE_CHECKING:
    from stress.config import Config

__all__ = ["vm_settings"]


def vm_settings(config: Config) -> VmSettings:
    """The model's settings for a scenario that has been checked."""
    slots = tuple(
        SlotSettings(slot.base_gfn, slot.npages, "delete" in slot.ops, slot.move_to if "move" in slot.ops else None)
        for slot in config.slots
    )
    return VmSettings(
        nr_vcpus=config.vm.nr_vcpus,
        levels=config.vm.levels,
        bits_per_level=config.vm.bits_per_level,
        slots=slots,
        nr_pages=1 + pages_needed(config),
        seed=config.run.seed or 0,
        variant=config.variant,
        bugs=config.bugs,
        ad_writeback=config.vm.ad_writeback,
        quirk_slot_zap_all=config.vm.quirk_slot_zap_all,
        lock_break_on_contention=config.vm.lock_break == "contention",
        tlb_entries=config.vm.tlb_entries,
        check_level=config.check.level,
        log_policy=config.log.policy,
        log_sample=config.log.sample,
        ring_slots=config.log.window_events,
        write_ratio=config.workload.write_ratio,
        hole_ratio=config.workload.hole_ratio,
        halt_ratio=config.workload.halt_probability,
        halt_us_max=config.workload.halt_us_max,
        accesses_per_entry_max=config.workload.accesses_per_entry_max,
        warmup_accesses=config.workload.warmup_accesses,
        dwell_us_max=config.workload.dwell_ms_max * 1000,
        toggler_mode=config.toggler.mode,
        toggler_period_us_max=config.toggler.period_us_max,
    )
