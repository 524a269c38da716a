# SPDX-License-Identifier: GPL-2.0-only
"""Findings and the verdict as lines of text. The verdict is one line that starts with its name, for grep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stress.errors import one_line
from stress.verdict import Verdict

if TYPE_CHECKING:
    from stress.engine.result import Finding, RunResult

__all__ = ["amount", "finding_lines", "verdict_line"]

EVENTS_SHOWN = 8  # of each actor, the last ones
NS_PER_S = 1e9
MILLION = 1e6
BILLION = 1e9

_DID = {
    "stale-use": "used",
    "stale-writeback": "had accessed or dirty state written back for",
    "leftover-mapping": "found left behind",
}
_HEX = {"gfn", "pfn"}


def verdict_line(scenario: str, result: RunResult) -> str:
    """The last line of a run's output."""
    name = result.verdict.value
    folder = f"run {result.folder}"
    elapsed = f"{result.elapsed_s:.1f} s"
    if result.verdict is Verdict.VIOLATION and result.findings:
        # The reason counts all findings, also those beyond the table, and names trouble of the harness beside them.
        return one_line(f"{name} {_story(result.findings[0])}; {result.reason} ({folder})")
    if result.verdict is Verdict.PASS:
        accesses = amount(result.counters.get("guest_accesses", 0))
        deletes = amount(result.counters.get("deletes", 0))
        reason = f"; {result.reason}" if result.reason else ""
        return one_line(f"{name} {scenario}: {accesses} guest accesses, {deletes} deletes, 0 findings{reason} ({elapsed})")
    return one_line(f"{name} {scenario}: {result.reason} ({elapsed}, {folder})")


def finding_lines(number: int, finding: Finding) -> list[str]:
    """A finding and the last events of each actor before it."""
    lines = [one_line(f"finding {number}: {_story(finding)}")]
    for actor, events in finding.last_events.items():
        lines += [one_line(f"    {actor:<10} {_event(event)}") for event in events[-EVENTS_SHOWN:]]
    return lines


def amount(count: int) -> str:
    """A count for people: exact below a million, then with a unit."""
    if count < MILLION:
        return f"{count:,}"
    return f"{count / MILLION:.1f} M" if count < BILLION else f"{count / BILLION:.2f} G"


def _story(finding: Finding) -> str:
    story = f"{finding.kind} [{finding.invariant}]: {finding.actor}"
    if finding.kind in _DID:
        story += f" {_DID[finding.kind]} gfn {_hex(finding.gfn)} -> pfn {_hex(finding.pfn)}"
    known = {"slot": finding.slot, "incarnation": finding.incarnation, "root": finding.root}
    facts = ", ".join(f"{name} {value}" for name, value in known.items() if value is not None)
    story += f" ({facts})" if facts else ""
    story += f" at {_seconds(finding.time_ns)}"
    if finding.detail:
        story += f": {finding.detail}"
    if finding.other_actor is not None:
        story += f"; the other actor is {finding.other_actor}"
    if finding.other_time_ns is not None:
        story += f"; DELETE or MOVE had returned by {_seconds(finding.other_time_ns)}"
    return story


def _event(event: dict[str, Any]) -> str:
    facts = " ".join(
        f"{name}={_hex(value) if name in _HEX else value}"
        for name, value in event.items()
        if name not in {"time_ns", "kind"} and value is not None
    )
    time_ns = event.get("time_ns")
    return f"{_seconds(time_ns) if time_ns is not None else '':>14} {event.get('kind', '')} {facts}".rstrip()


def _seconds(time_ns: int) -> str:
    return f"{time_ns / NS_PER_S:.6f} s"


def _hex(value: int | None) -> str:
    return "?" if value is None else f"{value:#x}"
