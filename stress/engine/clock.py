# SPDX-License-Identifier: GPL-2.0-only
"""The run's clock: the cycle counter if it is invariant and the CPUs agree on it, else CLOCK_MONOTONIC."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model.context import CTX_CLOCK, context
from stress.log.events import Clock

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ClockReading", "measure_clock"]

CYCLE_COUNTER = 0
CLOCK_MONOTONIC = 1
SKEW_NS_MAX = 20_000
CALIBRATION_NS = 60_000_000
CPUS_COMPARED_MAX = 16
NS_PER_S = 1_000_000_000


@dataclass(frozen=True)
class ClockReading:
    """The clock chosen for a run, and why."""

    clock: Clock
    skew_ns: int  # largest disagreement between two CPUs that was seen
    reason: str


def measure_clock(read: Callable[[], int]) -> ClockReading:
    """Choose the clock, bind it in the context, measure its rate.

    Args:
        read: the compiled clock, which follows the choice in the context.
    """
    context[CTX_CLOCK] = CYCLE_COUNTER
    reason = _unusable()
    if not reason:
        rate = _rate(read)
        skew_ns = _skew_ns(read, rate)
        if skew_ns <= SKEW_NS_MAX:
            return ClockReading(Clock("cycle counter", rate, read()), skew_ns, "invariant, and the CPUs agree")
        reason = f"cycle counters of two CPUs differ by {skew_ns} ns"
    context[CTX_CLOCK] = CLOCK_MONOTONIC
    return ClockReading(Clock("CLOCK_MONOTONIC", NS_PER_S, read()), 0, reason)


def _unusable() -> str:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split()
    except OSError as error:
        return f"no /proc/cpuinfo: {error.strerror}"
    missing = [flag for flag in ("constant_tsc", "nonstop_tsc") if flag not in flags]
    return f"the CPU does not claim {' and '.join(missing)}" if missing else ""


def _rate(read: Callable[[], int]) -> int:
    """Ticks per second, from two pairs of readings."""
    first = _pair(read)
    while time.monotonic_ns() - first[0] < CALIBRATION_NS:
        pass
    last = _pair(read)
    return (last[1] - first[1]) * NS_PER_S // (last[0] - first[0])


def _pair(read: Callable[[], int]) -> tuple[int, int]:
    """The same moment on both clocks: the tightest of a few tries."""
    tries = []
    for _ in range(5):
        before = time.monotonic_ns()
        ticks = read()
        after = time.monotonic_ns()
        tries.append((after - before, (before + after) // 2, ticks))
    _, monotonic_ns, ticks = min(tries)
    return monotonic_ns, ticks


def _skew_ns(read: Callable[[], int], rate: int) -> int:
    """Compare the counter with CLOCK_MONOTONIC on each CPU in turn."""
    allowed = os.sched_getaffinity(0)
    offsets = []
    try:
        for cpu in sorted(allowed)[:CPUS_COMPARED_MAX]:
            os.sched_setaffinity(0, {cpu})
            monotonic_ns, ticks = _pair(read)
            offsets.append(monotonic_ns - ticks * NS_PER_S // rate)
    finally:
        os.sched_setaffinity(0, allowed)
    # The rate's own error grows with the time between the pairs, which is microseconds here.
    return max(offsets) - min(offsets)
