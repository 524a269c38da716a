# SPDX-License-Identifier: GPL-2.0-only
"""The outcome of a check as lines of text: findings as stories, what could not be judged, the verdict last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stress.errors import one_line
from stress.report.text import amount
from stress.verdict import Verdict

if TYPE_CHECKING:
    from stress.check import CheckResult, Event, Finding
    from stress.check.timeline import Timeline

__all__ = ["check_lines", "check_verdict_line", "story", "timeline_lines"]

NS_PER_S = 1e9
NS_PER_US = 1e3
COLUMN_WIDTH = 56
_HEX = {"gfn", "pfn", "base_gfn", "base_pfn", "spte", "old_spte", "new_spte", "generation"}
_DID = {
    "stale-use": "used",
    "stale-writeback": "had accessed or dirty state written back for",
}


def story(finding: Finding) -> str:
    """A finding in one sentence."""
    text = f"{finding.kind} [{finding.rule}]: {finding.actor}"
    if finding.kind in _DID and finding.gfn is not None and finding.pfn is not None:
        text += f" {_DID[finding.kind]} gfn {finding.gfn:#x} -> pfn {finding.pfn:#x}"
    known = {"incarnation": finding.incarnation, "root": finding.root}
    facts = ", ".join(f"{name} {value}" for name, value in known.items() if value is not None)
    text += f" ({facts})" if facts else ""
    text += f" at {_seconds(finding.time_ns)}: {finding.detail}"
    if finding.other_actor is not None and finding.other_time_ns is not None:
        text += f"; against {finding.other_actor} at {_seconds(finding.other_time_ns)}"
    if finding.confidence == "ambiguous":
        text += f"; only {finding.margin_ns} ns apart"
    return text


def check_lines(result: CheckResult, shown: int) -> list[str]:
    """What comes before the verdict: the first findings with their evidence, disagreements, problems of the log."""
    lines = []
    for finding in result.findings[:shown]:
        lines.append(f"finding {finding.number}: {story(finding)}")
        lines += [f"    {_evidence(event)}" for event in finding.evidence]
    if sum(result.nr_findings.values()) > shown:
        rules = ", ".join(f"{rule} {count:,}" for rule, count in result.nr_findings.items())
        lines.append(f"findings by rule: {rules}")
    lines += [
        f"ambiguous, inside the clock's window of {result.window_ns} ns: {story(finding)}" for finding in result.ambiguous[:shown]
    ]
    lines += [f"disagreement: {sentence}" for sentence in result.disagreements]
    lines += [f"not judged: {problem}" for problem in result.problems]
    return [one_line(line) for line in lines]


def check_verdict_line(result: CheckResult) -> str:
    """The last line: starts with the verdict, for grep."""
    name = result.scenario or result.folder.name
    took = f"{amount(result.events)} events in {result.elapsed_s:.1f} s, run {result.folder}"
    if result.verdict is Verdict.PASS:
        counts = (
            f"{amount(result.counts.get('guest_accesses', 0))} guest accesses, {amount(result.counts.get('deletes', 0))} deletes"
        )
        return one_line(f"{result.verdict.value} {name}: {counts}, 0 findings ({took})")
    if result.verdict is Verdict.VIOLATION and result.findings:
        return one_line(f"{result.verdict.value} {story(result.findings[0])}; {result.reason} ({took})")
    return one_line(f"{result.verdict.value} {name}: {result.reason} ({took})")


def timeline_lines(finding: Finding, timeline: Timeline) -> list[str]:
    """Two columns, one actor each; times are microseconds from the deciding event."""
    lines = [
        one_line(f"finding {finding.number}: {story(finding)}"),
        one_line(f"{'us':>12}   {timeline.left:<{COLUMN_WIDTH}} {timeline.right}".rstrip()),
    ]
    for number, event in enumerate(timeline.events):
        if event is None:
            lines.append(f"{'':>12}   ...")
            continue
        mark = ">" if number == timeline.here else " "
        text = _short(event)
        column = f"{text:<{COLUMN_WIDTH}}" if event.actor == timeline.left else f"{'':<{COLUMN_WIDTH}} {text}"
        lines.append(one_line(f"{(event.time_ns - finding.time_ns) / NS_PER_US:>12.3f} {mark} {column}".rstrip()))
    return lines


def _short(event: Event) -> str:
    return f"{event.kind} {_fields(event)}".rstrip()


def _evidence(event: Event) -> str:
    return f"{event.actor:<10} {_seconds(event.time_ns)} {_short(event)} [{event.file} row {event.row}]"


def _fields(event: Event) -> str:
    return " ".join(
        f"{name}={value:#x}" if name in _HEX and isinstance(value, int) else f"{name}={value}"
        for name, value in event.fields.items()
    )


def _seconds(time_ns: int) -> str:
    return f"{time_ns / NS_PER_S:.6f} s"
