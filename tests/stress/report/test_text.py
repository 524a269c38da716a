# SPDX-License-Identifier: GPL-2.0-only
"""Findings and verdicts as text."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stress.report.text import EVENTS_SHOWN, amount, finding_lines, verdict_line
from stress.verdict import Verdict


def finding(**changes: Any) -> Any:
    facts: dict[str, Any] = {
        "kind": "stale-use",
        "invariant": "I3",
        "actor": "vcpu3",
        "other_actor": "ctl",
        "time_ns": 1_234_567_000,
        "other_time_ns": 1_234_000_000,
        "gfn": 0x1F2,
        "pfn": 0x88,
        "incarnation": 7,
        "root": 3,
        "slot": 2,
        "detail": "slot 2 was gone",
        "last_events": {},
    }
    return SimpleNamespace(**facts | changes)


def result(verdict: Verdict, **changes: Any) -> Any:
    facts: dict[str, Any] = {
        "verdict": verdict,
        "reason": "",
        "findings": [],
        "counters": {"guest_accesses": 12_345_678, "deletes": 4210},
        "rates": {},
        "folder": Path("runs/x"),
        "elapsed_s": 10.23,
    }
    return SimpleNamespace(**facts | changes)


def test_pass_says_how_much_was_seen() -> None:
    """A PASS without amounts would mean nothing."""
    line = verdict_line("quick", result(Verdict.PASS))
    assert line == "PASS quick: 12.3 M guest accesses, 4,210 deletes, 0 findings (10.2 s)"
    stopped = verdict_line("quick", result(Verdict.PASS, reason="stopped by Ctrl-C"))
    assert stopped.endswith("0 findings; stopped by Ctrl-C (10.2 s)")


def test_violation_tells_its_story() -> None:
    """Kind, invariant, actor, gfn and pfn come first, then what it stands in and where the run lies."""
    line = verdict_line(
        "quick", result(Verdict.VIOLATION, reason="2 findings; and the harness: x", findings=[finding(), finding()])
    )
    assert line == (
        "VIOLATION stale-use [I3]: vcpu3 used gfn 0x1f2 -> pfn 0x88 (slot 2, incarnation 7, root 3) at 1.234567 s: "
        "slot 2 was gone; the other actor is ctl; DELETE or MOVE had returned by 1.234000 s; "
        "2 findings; and the harness: x (run runs/x)"
    )


def test_an_invariant_needs_no_gfn() -> None:
    """What is not known is left out."""
    changes = dict.fromkeys(["gfn", "pfn", "incarnation", "root", "slot", "other_actor", "other_time_ns"])
    broken = finding(kind="invariant", invariant="I8", actor="ctl", detail="3 pages leaked", **changes)
    line = verdict_line("quick", result(Verdict.VIOLATION, reason="1 finding", findings=[broken]))
    assert line == "VIOLATION invariant [I8]: ctl at 1.234567 s: 3 pages leaked; 1 finding (run runs/x)"


@pytest.mark.parametrize("verdict", [Verdict.VIOLATION, Verdict.INCONCLUSIVE, Verdict.HARNESS_ERROR])
def test_a_verdict_without_findings_gives_its_reason(verdict: Verdict) -> None:
    """In one line, whatever the reason holds."""
    line = verdict_line("quick", result(verdict, reason="deletes 3 < 5\nevidence.deletes"))
    assert line == f"{verdict.value} quick: deletes 3 < 5\\nevidence.deletes (10.2 s, run runs/x)"


def test_a_finding_is_followed_by_the_last_events_of_each_actor() -> None:
    """The newest of each, frame numbers in hexadecimal, fields that do not apply left out."""
    events = [{"time_ns": 1000 * n, "kind": "tlb_fill", "gfn": n, "pfn": None} for n in range(20)]
    lines = finding_lines(1, finding(last_events={"vcpu3": events}))
    assert lines[0].startswith("finding 1: stale-use [I3]: vcpu3 used gfn 0x1f2")
    assert len(lines) == 1 + EVENTS_SHOWN
    assert lines[-1].split() == ["vcpu3", "0.000019", "s", "tlb_fill", "gfn=0x13"]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (4210, "4,210"), (999_999, "999,999"), (12_345_678, "12.3 M"), (2_500_000_000, "2.50 G")],
)
def test_amounts_are_for_people(count: int, text: str) -> None:
    """Exact as long as that is short."""
    assert amount(count) == text
