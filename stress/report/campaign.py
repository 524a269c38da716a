# SPDX-License-Identifier: GPL-2.0-only
"""A campaign in words: its plan, how it stands, what it came to."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from stress.campaign.proof import bound_lines, power_lines, time_text
from stress.errors import one_line

if TYPE_CHECKING:
    from pathlib import Path

    from stress.campaign.plan import Plan
    from stress.campaign.schema import Campaign
    from stress.campaign.state import State
    from stress.campaign.status import Status

__all__ = ["plan_lines", "status_lines", "summary_lines"]

OVERHEAD_S = 1.0  # of a run beyond its duration
PLANTED_S = 2.0  # a planted bug is mostly found at once
ITEMS_SHOWN = 40


def plan_lines(plan: Plan, campaign: Campaign, seed: int, soak_s: float | None, jobs: int | None) -> list[str]:
    """The plan: what is run, how often, and how long it will take.

    Args:
        plan: of the campaign.
        campaign: its file.
        seed: that all seeds are derived from.
        soak_s: how long to soak; None for a campaign.
        jobs: runs at once; None where a cluster decides.
    """
    counts: dict[str, int] = {}
    for item in plan.tests:
        name = item.key.rpartition("#")[0]
        counts[name] = counts.get(name, 0) + 1
    lines = [f"campaign {campaign.campaign} seed {seed} dry run"]
    shown = list(counts.items())[:ITEMS_SHOWN]
    lines += [f"  {count} x {name}" if count > 1 else f"  {name}" for name, count in shown]
    if len(counts) > len(shown):
        lines.append(f"  and {len(counts) - len(shown)} more")
    if plan.planted:
        lines.append(f"planted, one run after {campaign.power.every} others: {', '.join(i.config.scenario for i in plan.planted)}")
    rotation_s = sum(PLANTED_S if item.expected else item.config.duration_s + OVERHEAD_S for item in plan.tests)
    rotation_s += PLANTED_S * (len(plan.tests) // campaign.power.every if plan.planted else 0)
    at_once = jobs or 1
    beside = f"{jobs} at once" if jobs else "as many at once as the cluster has workers"
    if soak_s is not None:
        lines.append(
            f"soak of {time_text(soak_s)}: a rotation has {len(plan.tests)} runs and takes about {time_text(rotation_s / at_once)} "
            f"({beside}), so about {soak_s * at_once / rotation_s:.1f} rotations"
        )
    else:
        times = f"{campaign.repeats} rotations" if campaign.repeats > 1 else "1 rotation"
        lines.append(
            f"{plan.total:,} runs in {times}, about {time_text(rotation_s * campaign.repeats / at_once)} ({beside}); "
            "to compile for the first time takes a minute more"
        )
    return [one_line(line) for line in lines]


def status_lines(status: Status) -> list[str]:
    """How a campaign stands."""
    state = status.state
    verdict, reason = state.verdict()
    done = f"{state.ended:,} of {status.total:,} runs" if status.total is not None else f"{state.ended:,} runs"
    spent = time_text(state.total_s) + (f" of {time_text(status.soak_s)}" if status.soak_s is not None else "")
    lines = [f"{state.identity.get('campaign', '')} {_how(status)}: {done}, {spent}"]
    lines.append("so far " + one_line(f"{verdict.value}{': ' if reason else ''}{reason}"))
    lines += _counts(state)
    lines += _findings(state)
    lines += [f"proven: {line}" for line in status.bounds]
    lines += [f"planted: {line}" for line in status.power]
    if status.weakness:
        lines.append(status.weakness)
    running = status.heartbeat.get("running", {}) if status.running else {}
    lines += [f"on: {name}, for {time_text(age)}" for name, age in running.items()]
    if "disk_mb" in status.heartbeat:
        lines.append(f"disk: {status.heartbeat['disk_mb']:.0f} MiB; {state.thinned:,} runs thinned")
    return lines


def _how(status: Status) -> str:
    if status.running:
        age = time.time() - status.heartbeat.get("time", time.time())
        return f"is running, last sign of life {max(0.0, age):.0f} s ago"
    return f"has ended ({status.state.stopped})" if status.state.stopped else "is not running and was not stopped: resume it"


def _counts(state: State) -> list[str]:
    counts = ", ".join(f"{count:,} {name}" for name, count in state.verdicts.items()) or "none"
    more = [
        f"{number:,} {what}"
        for number, what in ((state.retries, "tried again"), (state.dropped, "interrupted"), (state.sessions - 1, "resumed"))
        if number > 0
    ]
    lines = [f"verdicts: {counts}{'; ' if more else ''}{', '.join(more)}"]
    if state.notes:
        lines.append("notes: " + ", ".join(f"{count} {about}" for about, count in state.notes.items()))
    return lines + [one_line(f"leak: {text}") for text in state.leaks.values()]


def _findings(state: State) -> list[str]:
    lines = []
    for signature, entry in sorted(state.findings.items(), key=lambda item: -item[1].count):
        times = f"once, {entry.first}" if entry.count == 1 else f"{entry.count:,} times, {entry.first} to {entry.last}"
        lines.append(one_line(f"finding {signature}: {entry.title}"))
        lines.append(one_line(f"    {times}; runs {', '.join(entry.runs)}"))
        if entry.reproduced:
            lines.append(one_line(f"    reproduced: {entry.reproduced}"))
    return lines


def summary_lines(state: State, folder: Path) -> list[str]:
    """What a campaign came to, before its verdict."""
    lines = [*_counts(state), *_findings(state)]
    lines += [f"proven: {line}" for line in bound_lines(state.tested)]
    lines += [f"planted: {line}" for line in power_lines(state.planted)]
    return [*lines, f"    zaptorture campaign results {folder}"]
