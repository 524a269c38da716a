# SPDX-License-Identifier: GPL-2.0-only
"""The plan that `run --dry-run` prints: what the run would do, without doing it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from model.layout import MAX_FRAMES, MAX_PAGES
from stress.config import pages_needed

if TYPE_CHECKING:
    from stress.config import Config, Nemesis, Perturb, Slot

__all__ = ["plan_lines"]

VARIANTS = {
    "split": "split (both halves, quirk evaluated twice)",
    "split-once": "split-once (both halves, quirk evaluated once)",
    "unsplit": "unsplit (before the split)",
    "held": "held (both halves under the write lock)",
}


def plan_lines(config: Config) -> list[str]:
    """The plan of one run, a line for each thing that the config decides."""
    vm, workload = config.vm, config.workload
    toggler = config.toggler.mode != "off"
    return [
        f"scenario {config.scenario}, {config.duration_s:g} s",
        f"variant {VARIANTS[config.variant]}",
        f"planted bugs: {', '.join(config.bugs) or 'none'}",
        f"actors: {vm.nr_vcpus} vCPUs, controller{', quirk toggler' if toggler else ''}",
        f"geometry: {vm.levels} levels of {1 << vm.bits_per_level} entries, TLB of {vm.tlb_entries} entries",
        f"page tables: at most {pages_needed(config):,} of {MAX_PAGES:,} pages",
        f"frames: {sum(slot.npages for slot in config.slots):,} of {MAX_FRAMES:,}",
        *(_slot_line(index, slot) for index, slot in enumerate(config.slots)),
        f"a slot operation after {workload.warmup_accesses:,} accesses of every vCPU or {workload.dwell_ms_max} ms",
        f"a delete zaps {'all roots' if vm.quirk_slot_zap_all else 'leafs'}{', toggled' if toggler else ''}",
        f"guest: {workload.write_ratio:.0%} writes, {workload.hole_ratio:.0%} MMIO",
        f"perturbation: {_perturb(config.perturb)}",
        f"nemesis: {_nemesis(config.nemesis)}",
        f"checks: {config.check.level}",
        f"evidence: {_evidence(config)}",
        f"log: {_log(config)}",
    ]


def _slot_line(index: int, slot: Slot) -> str:
    where = f"slot {index}: {slot.npages:,} pages at gfn {slot.base_gfn:#x}"
    moves = f" (to gfn {slot.move_to:#x} and back)" if slot.move_to is not None else ""
    return f"{where}, {' and '.join(slot.ops) or 'static'}{moves}"


def _perturb(perturb: Perturb) -> str:
    if perturb.probability == 0:
        return "off"
    weights = f"yield:spin:sleep = {perturb.yield_weight}:{perturb.spin_weight}:{perturb.sleep_weight}"
    return (
        f"{perturb.probability:g} of all primitives, {weights}, "
        f"of these {perturb.stall_probability:g} stall up to {perturb.stall_ms_max} ms, "
        f"{perturb.resched_probability:g} set need_resched"
    )


def _nemesis(nemesis: Nemesis) -> str:
    if not nemesis.acts:
        return "off"
    return (
        f"{', '.join(nemesis.acts)}; one about every {nemesis.period_ms} ms, "
        f"for up to {nemesis.stop_ms_max} ms, dead for up to {nemesis.dead_ms_max} ms"
    )


def _evidence(config: Config) -> str:
    thresholds = msgspec.structs.asdict(config.evidence).items()
    return ", ".join(f"{counter} >= {least:,}" for counter, least in thresholds if least > 0) or "none asked for"


def _log(config: Config) -> str:
    if config.log.policy == "all":
        return "all events"
    if config.log.policy == "window":
        return f"the last {config.log.window_events:,} events of each actor"
    return f"all events, but one guest access in {config.log.sample:,}"
