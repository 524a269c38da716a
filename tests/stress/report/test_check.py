# SPDX-License-Identifier: GPL-2.0-only
"""Tests of stress/report/check.py: findings as sentences, what is not judged, the verdict line, two columns of time."""

from __future__ import annotations

from pathlib import Path

import pytest

from stress.check import CheckResult, Event, Finding
from stress.check.timeline import Timeline
from stress.log.archive import Problem
from stress.report.check import COLUMN_WIDTH, check_lines, check_verdict_line, story, timeline_lines
from stress.verdict import Verdict

USE = Event("vcpu1", 7, 2_500_000, "events/vcpu1-00000.parquet", 7, "guest_access", {"gfn": 0x1F2, "access": "write|retired"})
END = Event("ctl", 9, 2_000_000, "events/ctl-00000.parquet", 9, "slot_op_end", {"base_gfn": 0x1F0, "op": "delete"})


def finding(**changes) -> Finding:
    facts = {
        "number": 1,
        "rule": "I3",
        "kind": "stale-use",
        "detail": "the incarnation is retired; the frame's tag is 0",
        "confidence": "certain",
        "judged_by": "both",
        "margin_ns": None,
        "actor": "vcpu1",
        "seq": 7,
        "time_ns": 2_500_000,
        "other_actor": "ctl",
        "other_seq": 9,
        "other_time_ns": 2_000_000,
        "gfn": 0x1F2,
        "root": 3,
        "pfn": 0x40,
        "incarnation": 17,
        "evidence": (USE, END),
    }
    return Finding(**facts | changes)


def result(verdict=Verdict.PASS, **changes) -> CheckResult:
    facts = {
        "verdict": verdict,
        "reason": "",
        "folder": Path("runs/x"),
        "scenario": "quick",
        "findings": [],
        "ambiguous": [],
        "nr_findings": {},
        "recorded": [],
        "disagreements": [],
        "problems": [],
        "events": 2_500_000,
        "counts": {"guest_accesses": 1_200_000, "deletes": 340},
        "window_ns": 1016,
        "run_verdict": None,
        "elapsed_s": 0.25,
    }
    return CheckResult(**facts | changes)


# --- one finding


def test_a_stale_use_says_who_used_what():
    """Actor, translation, incarnation, time, what is wrong, and the event that it collides with."""
    assert story(finding()) == (
        "stale-use [I3]: vcpu1 used gfn 0x1f2 -> pfn 0x40 (incarnation 17, root 3) at 0.002500 s: "
        "the incarnation is retired; the frame's tag is 0; against ctl at 0.002000 s"
    )


def test_a_stale_writeback_is_not_called_a_use():
    """The MMU wrote on somebody's behalf."""
    text = story(finding(kind="stale-writeback", rule="I2", actor="ctl"))
    assert text.startswith("stale-writeback [I2]: ctl had accessed or dirty state written back for gfn 0x1f2 -> pfn 0x40 ")


def test_what_does_not_apply_is_left_out():
    """An invariant without translation, incarnation, root or other event is a short sentence."""
    nothing = dict.fromkeys(["gfn", "pfn", "incarnation", "root", "other_actor", "other_seq", "other_time_ns"])
    text = story(finding(kind="invariant", rule="I20", detail="step 4 of a swap is out of order", actor="ctl", **nothing))
    assert text == "invariant [I20]: ctl at 0.002500 s: step 4 of a swap is out of order"


def test_number_0_applies():
    """Frame 0 and root 0 are numbers like any other."""
    text = story(finding(gfn=0, pfn=0, root=0, incarnation=0))
    assert "used gfn 0x0 -> pfn 0x0 (incarnation 0, root 0)" in text


def test_an_ambiguous_finding_says_how_close_it_is():
    """So that nobody takes it for certain."""
    assert story(finding(confidence="ambiguous", margin_ns=77)).endswith("; only 77 ns apart")


# --- all lines


def test_findings_come_with_their_evidence():
    """Each piece of evidence names the event, its fields, the file and the row."""
    lines = check_lines(result(findings=[finding()], nr_findings={"I3": 1}), 3)
    assert lines[0].startswith("finding 1: stale-use [I3]")
    assert lines[1] == ("    vcpu1      0.002500 s guest_access gfn=0x1f2 access=write|retired [events/vcpu1-00000.parquet row 7]")
    assert lines[2] == "    ctl        0.002000 s slot_op_end base_gfn=0x1f0 op=delete [events/ctl-00000.parquet row 9]"
    assert len(lines) == 3


def test_what_is_not_shown_is_counted():
    """The first findings in full, all of them by rule."""
    many = [finding(number=number, evidence=()) for number in range(1, 6)]
    lines = check_lines(result(findings=many, nr_findings={"I21": 1, "I3": 1_234}), 3)
    assert [line.split(":")[0] for line in lines] == ["finding 1", "finding 2", "finding 3", "findings by rule"]
    assert lines[-1] == "findings by rule: I21 1, I3 1,234"


def test_ambiguous_orders_disagreements_and_problems_follow():
    """In this order, each with what it is in front."""
    lines = check_lines(
        result(
            ambiguous=[finding(confidence="ambiguous", margin_ns=5)] * 5,
            disagreements=["the run said PASS"],
            problems=[Problem("not-closed", "control.jsonl", "the run was killed")],
        ),
        3,
    )
    assert [line.split(":")[0] for line in lines[:3]] == ["ambiguous, inside the clock's window of 1016 ns"] * 3
    assert lines[3:] == ["disagreement: the run said PASS", "not judged: control.jsonl: the run was killed"]


def test_a_clean_result_has_nothing_but_its_verdict():
    """No line says nothing."""
    assert check_lines(result(), 3) == []


def test_every_message_is_one_line():
    """Names out of a damaged folder may hold anything."""
    odd = "x\n\x1b[2J"
    lines = check_lines(result(findings=[finding(actor=odd)], problems=[Problem("gap", odd, odd)], disagreements=[odd]), 3)
    lines.append(check_verdict_line(result(Verdict.INCONCLUSIVE, scenario=odd, reason=odd, folder=Path(odd))))
    lines += timeline_lines(finding(actor=odd), Timeline(odd, odd, [USE], 0))
    assert all(line.isprintable() for line in lines)


# --- the verdict


def test_a_pass_says_what_it_is_worth():
    """How much was judged, and how long it took."""
    line = check_verdict_line(result())
    assert line == "PASS quick: 1.2 M guest accesses, 340 deletes, 0 findings (2.5 M events in 0.2 s, run runs/x)"


def test_a_violation_shows_its_first_finding():
    """And how many there are."""
    line = check_verdict_line(result(Verdict.VIOLATION, findings=[finding()], nr_findings={"I3": 5}, reason="5 findings"))
    assert line == f"VIOLATION {story(finding())}; 5 findings (2.5 M events in 0.2 s, run runs/x)"


@pytest.mark.parametrize("verdict", [Verdict.INCONCLUSIVE, Verdict.VIOLATION])
def test_other_verdicts_say_why(verdict):
    """Also a violation that only the run itself has seen."""
    line = check_verdict_line(result(verdict, reason="1 finding of the run itself"))
    assert line == f"{verdict.value} quick: 1 finding of the run itself (2.5 M events in 0.2 s, run runs/x)"


def test_a_run_without_scenario_is_called_after_its_folder():
    """A damaged manifest does not say what was run."""
    assert check_verdict_line(result(scenario="")).startswith("PASS x: ")


# --- the timeline


def test_two_columns_of_time():
    """Each actor's events in its own column, microseconds from the deciding event, which is marked; gaps show."""
    lines = timeline_lines(finding(), Timeline("vcpu1", "ctl", [END, None, USE], 2))
    assert lines == [
        f"finding 1: {story(finding())}",
        f"          us   {'vcpu1':<{COLUMN_WIDTH}} ctl",
        f"    -500.000   {'':<{COLUMN_WIDTH}} slot_op_end base_gfn=0x1f0 op=delete",
        "               ...",
        "       0.000 > guest_access gfn=0x1f2 access=write|retired",
    ]


def test_one_column_of_time():
    """Where there is no other actor, nothing trails behind."""
    lines = timeline_lines(finding(), Timeline("vcpu1", "", [USE], 0))
    assert lines[1:] == ["          us   vcpu1", "       0.000 > guest_access gfn=0x1f2 access=write|retired"]


def test_no_line_trails_blanks():
    """Copied into a mail or a commit they would be noise."""
    lines = timeline_lines(finding(), Timeline("vcpu1", "ctl", [END, None, USE], 2))
    assert [line for line in lines if line != line.rstrip()] == []
