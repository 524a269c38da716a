# SPDX-License-Identifier: GPL-2.0-only
"""What a campaign has proven so far: a bound on how often the protocol can still fail, and how well this machine finds bugs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stress.campaign.bounds import rate_upper, share_lower, share_upper

if TYPE_CHECKING:
    from stress.campaign.state import Exposure, State

__all__ = ["bound_lines", "power_lines", "time_text", "weakness"]

SHARE_GOOD = 0.8  # a planted bug that fewer of its runs find is found badly


def bound_lines(tested: dict[str, Exposure]) -> list[str]:
    """One line for all scenarios together, and one for each of them."""
    lines = []
    if len(tested) > 1:
        runs, found = (sum(getattr(exposure, name) for exposure in tested.values()) for name in ("runs", "found"))
        lines.append(f"all: {_bound(found, runs, sum(exposure.seconds for exposure in tested.values()))}")
    return lines + [f"{name}: {_bound(exposure.found, exposure.runs, exposure.seconds)}" for name, exposure in tested.items()]


def _bound(found: int, runs: int, seconds: float) -> str:
    findings = f"{found} findings" if found != 1 else "1 finding"
    often = time_text(1 / rate_upper(found, seconds))
    at_most = f"at most {share_upper(found, runs):.3g} of runs fail, one in {often} of guest time"
    return f"{findings} in {runs:,} runs of {time_text(seconds)}: {at_most} (95 %)"


def power_lines(planted: dict[str, Exposure]) -> list[str]:
    """One line for each planted bug: how often and how soon it was found."""
    lines = []
    for name, exposure in planted.items():
        soon = f", after {time_text(exposure.seconds / exposure.found)} of guest time" if exposure.found else ""
        least = share_lower(exposure.found, exposure.runs)
        lines.append(
            f"{name}: found in {exposure.found} of {exposure.runs} runs{soon}; at least {least:.0%} of runs find it (95 %)"
        )
    return lines


def weakness(state: State) -> str:
    """Why silence proves little here; empty if planted bugs were found as they should be."""
    if not state.planted:
        return "weak: no planted bug was run beside it, so nothing shows that this machine would have found one ([power])"
    badly = [name for name, exposure in state.planted.items() if exposure.found < SHARE_GOOD * exposure.runs]
    if badly:
        return f"weak: the planted bugs {', '.join(badly)} were found in less than {SHARE_GOOD:.0%} of their runs"
    return ""


def time_text(seconds: float) -> str:
    """A time in three digits and a unit."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
