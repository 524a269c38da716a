# SPDX-License-Identifier: GPL-2.0-only
"""Which CPUs go to which of the runs that are on at once: whole cores, no core to two of them."""

from __future__ import annotations

import os
from pathlib import Path

from stress.errors import UsageError

__all__ = ["cores_of_machine", "places"]

CPUS = Path("/sys/devices/system/cpu")


def cores_of_machine() -> list[tuple[int, ...]]:
    """The CPUs that this process may use, grouped by core, cores of a package beside each other."""
    cores: dict[tuple[int, int], list[int]] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        cores.setdefault((_topology(cpu, "physical_package_id"), _topology(cpu, "core_id")), []).append(cpu)
    return [tuple(cores[core]) for core in sorted(cores)]


def _topology(cpu: int, name: str) -> int:
    try:
        return int((CPUS / f"cpu{cpu}" / "topology" / name).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return cpu if name == "core_id" else 0  # not told: each CPU is a core


def places(cores: list[tuple[int, ...]], cpus: int, jobs: int | None) -> list[tuple[int, ...]]:
    """The CPUs of each run that may be on at once.

    Args:
        cores: of the machine.
        cpus: that each run gets at least.
        jobs: how many runs; as many as fit when absent.

    Raises:
        UsageError: so many do not fit.
    """
    found: list[tuple[int, ...]] = []
    place: tuple[int, ...] = ()
    for core in cores:
        place += core
        if len(place) >= cpus:
            found.append(place)
            place = ()
    allowed = sum(map(len, cores))
    if not found:
        raise UsageError(
            f"limits.cpus = {cpus}: this process may use {allowed} CPUs; expected {allowed} or less, or limits.share_cpus = true."
        )
    if jobs is not None and jobs > len(found):
        raise UsageError(
            f"--jobs {jobs}: {jobs} runs of {cpus} CPUs do not fit on {allowed} without sharing cores; "
            f"expected {len(found)} or less, or limits.share_cpus = true."
        )
    return found[:jobs]
