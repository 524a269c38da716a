# SPDX-License-Identifier: GPL-2.0-only
"""Rules between keys: the geometry, the pools it needs, and combinations that could only fail or do nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from model.layout import MAX_FRAMES, MAX_PAGES
from stress.config.schema import DURATION_ACCEPTS
from stress.config.tables import BadValueError
from stress.errors import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stress.config.schema import Config

__all__ = ["check_config", "gfn_ranges", "pages_needed"]

GENERATIONS = 3  # of page tables alive at once: the valid one, the one being zapped, the one in its grace period
DURATION_S_MIN = 0.01
DURATION_S_MAX = 720 * 3600.0


def check_config(config: Config) -> None:
    """Refuse what no run could do.

    Raises:
        BadValueError: the first rule broken.
    """
    _check_bugs(config)
    _check_slots(config)
    _check_pools(config)
    _check_perturb(config)
    _check_nemesis(config)
    _check_evidence(config)
    _check_times(config)


def gfn_ranges(config: Config) -> list[tuple[int, int, str]]:
    """Every range of gfns where some slot is at some time: first gfn, pages, and the key that places it; sorted."""
    ranges = []
    for index, slot in enumerate(config.slots):
        ranges.append((slot.base_gfn, slot.npages, f"slots.{index}.base_gfn"))
        if slot.move_to is not None:
            ranges.append((slot.move_to, slot.npages, f"slots.{index}.move_to"))
    return sorted(ranges)


def pages_needed(config: Config) -> int:
    """Page-table pages that a run can hold at once: full roots of every generation, and the vCPUs' caches."""
    levels, bits = config.vm.levels, config.vm.bits_per_level
    tables = 0
    for level in range(1, levels + 1):
        # A table of this level maps 2**(bits * level) gfns; neighbouring ranges may share one. Ranges are sorted.
        last = -1
        for base, npages, _ in gfn_ranges(config):
            low, high = base >> (bits * level), (base + npages - 1) >> (bits * level)
            tables += max(0, high - max(low, last + 1) + 1)
            last = max(last, high)
    return tables * GENERATIONS + config.vm.nr_vcpus * (levels + 2)


def _check_bugs(config: Config) -> None:
    if not config.bugs:
        return
    # Imported here: it brings the compiler along, which takes longer than everything else a usage error does.
    from model.mutations import MUTATIONS  # noqa: PLC0415

    for index, bug in enumerate(config.bugs):
        if bug not in MUTATIONS:
            hint = did_you_mean(bug, MUTATIONS) or f"one of {', '.join(sorted(MUTATIONS))}"
            raise BadValueError(("bugs", index), bug, f"a planted bug; {hint}")
        if bug in config.bugs[:index]:
            raise BadValueError(("bugs", index), bug, "each planted bug at most once")


def _check_slots(config: Config) -> None:
    for index, slot in enumerate(config.slots):
        if len(set(slot.ops)) != len(slot.ops):
            raise BadValueError(("slots", index, "ops"), slot.ops, "each operation at most once")
        if ("move" in slot.ops) != (slot.move_to is not None):
            if slot.move_to is None:
                raise BadValueError(("slots", index, "ops"), slot.ops, f"slots.{index}.move_to beside a move")
            raise BadValueError(("slots", index, "move_to"), slot.move_to, f'"move" in slots.{index}.ops beside it')
    nr_gfns = 1 << (config.vm.levels * config.vm.bits_per_level)
    end, owner = 0, ""
    for base, npages, key in gfn_ranges(config):
        path = _path(key)
        if base + npages > nr_gfns:
            expected = f"{npages} pages from there to fit into the {nr_gfns} gfns of vm.levels and vm.bits_per_level"
            raise BadValueError(path, base, expected)
        if base < end:
            raise BadValueError(path, base, f"{end} or more, or {npages} pages that end before {owner} begins")
        end, owner = base + npages, key
    if config.workload.hole_ratio > 0 and sum(npages for _, npages, _ in gfn_ranges(config)) == nr_gfns:
        raise BadValueError(("workload", "hole_ratio"), config.workload.hole_ratio, "0, since slots cover every gfn")


def _check_pools(config: Config) -> None:
    # Frames go round in extents of equal length, one a slot.
    largest = max(range(len(config.slots)), key=lambda index: config.slots[index].npages)
    if config.slots[largest].npages * len(config.slots) > MAX_FRAMES:
        share = MAX_FRAMES // len(config.slots)
        expected = f"{share} at most, an equal share of {MAX_FRAMES} frames for each of {len(config.slots)} slots"
        raise BadValueError(("slots", largest, "npages"), config.slots[largest].npages, expected)
    pages = pages_needed(config)
    if pages > MAX_PAGES:
        expected = (
            f"{MAX_PAGES} page-table pages at most, not {pages}: raise it, or shrink slots.*.npages, vm.levels or vm.nr_vcpus"
        )
        raise BadValueError(("vm", "bits_per_level"), config.vm.bits_per_level, expected)


def _check_perturb(config: Config) -> None:
    perturb = config.perturb
    if perturb.probability > 0:
        if perturb.yield_weight + perturb.spin_weight + perturb.sleep_weight == 0:
            expected = "a weight above 0 for yield, spin or sleep while perturb.probability is above 0"
            raise BadValueError(("perturb", "sleep_weight"), perturb.sleep_weight, expected)
        return
    for key in ("stall_probability", "resched_probability"):
        if getattr(perturb, key) > 0:
            raise BadValueError(("perturb", key), getattr(perturb, key), "0 while perturb.probability is 0")


def _check_nemesis(config: Config) -> None:
    acts = config.nemesis.acts
    for index, act in enumerate(acts):
        path = ("nemesis", "acts", index)
        if act in acts[:index]:
            raise BadValueError(path, act, "each act at most once")
        if act == "kill-ctl" and config.workload.warmup_accesses == 0:
            raise BadValueError(path, act, "workload.warmup_accesses above 0 beside it: the controller rests nowhere else")
        if act in {"slow-disk", "full-disk"} and config.log.policy == "window":
            raise BadValueError(path, act, 'another log.policy than "window" beside it, which writes nothing before the end')


def _check_evidence(config: Config) -> None:
    # A threshold that cannot be reached would make every run inconclusive.
    ops = {op for slot in config.slots for op in slot.ops}
    possible = {
        "deletes": ("delete" in ops, 'no slot has "delete" in its ops'),
        "moves": ("move" in ops, 'no slot has "move" in its ops'),
        "mmio_exits": (config.workload.hole_ratio > 0, "workload.hole_ratio is 0"),
    }
    for counter, (reachable, reason) in possible.items():
        threshold = getattr(config.evidence, counter)
        if threshold > 0 and not reachable:
            raise BadValueError(("evidence", counter), threshold, f"0, since {reason}")


def _check_times(config: Config) -> None:
    try:
        duration_s = config.duration_s
    except ValueError:
        duration_s = -1.0
    if not DURATION_S_MIN <= duration_s <= DURATION_S_MAX:
        raise BadValueError(("run", "duration"), config.run.duration, DURATION_ACCEPTS)
    # A pause as long as the watchdog's patience would be reported as a hang of the protocol.
    pauses: Sequence[tuple[str, str, float]] = (
        ("workload", "halt_us_max", config.workload.halt_us_max / 1e6),
        ("workload", "dwell_ms_max", config.workload.dwell_ms_max / 1e3),
        ("perturb", "sleep_us_max", config.perturb.sleep_us_max / 1e6),
        ("perturb", "stall_ms_max", config.perturb.stall_ms_max / 1e3),
        ("nemesis", "stop_ms_max", config.nemesis.stop_ms_max / 1e3),
        ("nemesis", "dead_ms_max", config.nemesis.dead_ms_max / 1e3),
    )
    for table, key, pause_s in pauses:
        if 2 * pause_s > config.run.hang_s:
            expected = f"at most half of run.hang_s, which is {config.run.hang_s:g} s"
            raise BadValueError((table, key), getattr(getattr(config, table), key), expected)


def _path(key: str) -> tuple[str | int, ...]:
    return tuple(int(part) if part.isdigit() else part for part in key.split("."))
