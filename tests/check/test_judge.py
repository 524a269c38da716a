# SPDX-License-Identifier: GPL-2.0-only
"""Tests of stress/check/judge.py: what the control log says, silence, the verdict, and the form of the result."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from stress.check import check_run, judge
from stress.check.judge import events_at
from stress.check.rules import NO_EVENTS
from stress.log.archive import Archive
from stress.log.schema import Kind
from stress.verdict import Verdict

from . import sample as sm
from .test_rules import PLANTS

if TYPE_CHECKING:
    from collections.abc import Iterable

NS_PER_S = 10**9


def codes(result: Any) -> set[str]:
    return {problem.code for problem in result.problems}


# --- the control log


def test_a_counter_below_its_threshold_is_inconclusive(tmp_path):
    """The run meant too little; the counter and what was asked for are named."""
    lines = [
        (1, "evidence", {"counter": "deletes", "counted": 5, "wanted": 5}),
        (1, "evidence", {"counter": "moves", "counted": 2, "wanted": 3}),
        (1, "evidence", {"counter": "creates", "counted": 0, "wanted": 1}),
    ]
    result = sm.named().check(tmp_path / "run", control=lines)
    assert (result.verdict, result.reason) == (Verdict.INCONCLUSIVE, "moves = 2, below evidence.moves = 3")


def counters_of(log: sm.Log) -> dict[str, int]:
    """What the run would have counted, by the names of its counters."""
    tlb_hit, ipi, stale, mmio, back = 4, 1, 1, 3, 2
    ends = log.of(Kind.SLOT_OP_END)
    return {
        "guest_accesses": len(log.of(Kind.GUEST_ACCESS)),
        "tlb_fills": len(log.of(Kind.TLB_FILL)),
        "tlb_hits": sum(event.arg1 & tlb_hit != 0 for event in log.of(Kind.GUEST_ACCESS)),
        "page_faults": len(log.of(Kind.KVM_PAGE_FAULT)),
        "stale_fault_retries": len(log.of(Kind.KVM_PAGE_FAULT, arg0=stale)),
        "mmio_exits": len(log.of(Kind.KVM_PAGE_FAULT, arg0=mmio)),
        "acks_in_guest": len(log.of(Kind.KVM_EXIT, arg0=ipi)),
        "back_half_yields": len(log.of(Kind.ZAP_YIELD, arg0=back)),
        "creates": sum(end.arg0 == 1 for end in ends),
        "deletes": sum(end.arg0 == sm.DELETE for end in ends),
        "moves": sum(end.arg0 == sm.MOVE for end in ends),
        "roots_freed": len(log.of(Kind.ROOT_PUT, arg0=0)),
    }


@pytest.mark.parametrize("name", ["split-once", "held", "holes", "zap-only, yields"])
def test_counters_are_those_of_the_run(name, tmp_path):
    """What the log shows is counted by the names of the run's counters; the run's own numbers agree."""
    log = sm.named(name)
    result = log.check(tmp_path / "run", control=[(1, "counters", counters_of(log))])
    assert result.counts == counters_of(log)
    assert (result.verdict, result.problems) == (Verdict.PASS, []), sm.told(result)


@pytest.mark.parametrize("counter", sorted(counters_of(sm.named())))
def test_a_counter_that_differs_from_the_log_is_a_problem(counter, tmp_path):
    """The run counted something that the log does not show, or the other way round."""
    log = sm.named()
    right = counters_of(log)
    result = log.check(tmp_path / "run", control=[(1, "counters", right | {counter: right[counter] + 1})])
    assert [(problem.code, problem.where) for problem in result.problems] == [("counters-differ", "events")]
    assert result.problems[0].what == f"{counter} = {right[counter]}, and the run counted {right[counter] + 1}"
    assert result.verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("done", "changes", "agrees"),
    [
        (True, {"guest_accesses": 1, "tlb_hits": -1}, True),
        (True, {"guest_accesses": 2}, False),
        (True, {"deletes": 1}, False),
        (False, {"guest_accesses": 1}, False),
    ],
)
def test_a_killed_vcpu_may_have_counted_one_access_that_it_did_not_log(done, changes, agrees, tmp_path):
    """Each kill may have cut one guest instruction in two, and nothing else."""
    log = sm.named()
    right = counters_of(log)
    kill = (1, "nemesis", {"act": "kill-vcpu", "done": done, "target": "vcpu0"})
    counted = (2, "counters", right | {name: right[name] + change for name, change in changes.items()})
    result = log.check(tmp_path / "run", control=[kill, counted])
    assert codes(result) == (set() if agrees else {"counters-differ"})


def test_counters_are_not_compared_with_a_part_of_a_log(tmp_path):
    """Of course they differ."""
    log = sm.named()
    result = log.check(tmp_path / "run", lost={"vcpu0": set(range(50, 90))}, control=[(1, "counters", counters_of(log))])
    assert "counters-differ" not in codes(result)


@pytest.mark.parametrize("exitcode", [1, -9])
def test_a_process_that_died_is_a_problem(exitcode, tmp_path):
    """A run whose process was killed does not pass, whatever its events look like; one that ended by itself does."""
    line = {"actor": "vcpu1", "pid": 7, "exitcode": exitcode}
    result = sm.named().check(tmp_path / "run", control=[(1, "process_exit", line)])
    assert [(problem.code, problem.where) for problem in result.problems] == [("process-died", "vcpu1")]
    assert str(exitcode) in result.problems[0].what
    assert result.verdict is Verdict.INCONCLUSIVE
    assert sm.named().check(tmp_path / "run", control=[(1, "process_exit", line | {"exitcode": 0})]).verdict is Verdict.PASS


def test_a_finding_of_the_run_that_the_log_does_not_show(tmp_path):
    """VIOLATION all the same, and the disagreement is said."""
    line = {"kind": "invariant", "invariant": "I27", "actor": "ctl"}
    result = sm.named().check(tmp_path / "run", control=[(1, "finding", line)])
    assert (result.verdict, result.reason) == (Verdict.VIOLATION, "1 finding of the run itself")
    assert result.disagreements == ["the run reported 1 findings, none of which the log shows"]
    assert (result.findings, result.recorded) == ([], [])


@pytest.mark.parametrize(("number", "rule"), [(27, "I27"), (100, "lockdep")])
def test_a_finding_event_of_the_run_is_read(number, rule, tmp_path):
    """What the oracle wrote into the event log is kept apart from what the checker finds."""
    log = sm.named()
    noted = log.add(log.end_ns // 2 + 1, "ctl", Kind.FINDING, arg0=4, arg1=number)
    result = log.check(tmp_path / "run")
    assert result.verdict is Verdict.VIOLATION
    recorded = [(finding.kind, finding.rule, finding.actor, finding.time_ns) for finding in result.recorded]
    assert recorded == [("invariant", rule, "ctl", noted.time_ns)]
    assert result.findings == []


def test_a_run_that_said_pass_and_was_wrong(tmp_path):
    """The disagreement is said; the finding counts."""
    log = sm.named()
    sm.make_stale(log)
    result = log.check(tmp_path / "run")
    assert result.run_verdict == "PASS"
    assert "the run said PASS" in result.disagreements


def test_stale_by_one_judgement_alone_is_a_disagreement(tmp_path):
    """An access that says it is stale before its DELETE returned, or that is late and says nothing: both are told."""
    log = sm.named()
    sm.make_stale(log)
    result = log.check(tmp_path / "run")
    assert result.findings[0].judged_by == "event"
    assert any("1 stale-use by what the event carries alone" in sentence for sentence in result.disagreements)
    late = next(plant for plant in PLANTS if plant.change.__name__ == "late_use")
    result = sm.planted(late, 0, 5000, tmp_path / "run")
    assert (result.findings[0].judged_by, result.findings[0].margin_ns) == ("time", 5000)
    assert any("1 stale-use by time alone" in sentence for sentence in result.disagreements)


def test_stale_by_both_judgements_is_none(tmp_path):
    """An access that is late and says that it is stale."""
    log = sm.named()
    end = log.of(Kind.SLOT_OP_END, arg0=sm.DELETE)[0]
    access = log.of(Kind.GUEST_ACCESS, incarnation=end.incarnation)[-1]
    access.time_ns, access.arg1 = end.time_ns + 5000, access.arg1 | sm.RETIRED
    result = log.check(tmp_path / "run")
    assert [(finding.judged_by, finding.other_actor) for finding in result.findings] == [("both", "ctl")]
    assert result.disagreements == ["the run said PASS"]


@pytest.mark.parametrize("verdict", ["INCONCLUSIVE", "HARNESS_ERROR"])
def test_a_run_that_did_not_pass_is_inconclusive_at_best(verdict, tmp_path):
    """What the run itself could not vouch for, its log cannot either."""
    path = sm.named().write(tmp_path / "run")
    control = path / "control.jsonl"
    control.write_text(control.read_text().replace('"PASS"', f'"{verdict}"').replace('"test"}', '"no luck"}'))
    result = check_run(path)
    assert (result.verdict, result.run_verdict) == (Verdict.INCONCLUSIVE, verdict)
    assert result.reason.startswith(f"the run ended as {verdict}: ")


# --- silence


def silent_log(actors: Iterable[str]) -> tuple[sm.Log, int]:
    """A log in which these actors log nothing from its middle on, the others nothing from a little later on."""
    log = sm.named()
    middle = log.end_ns // 2
    gone = {actor: middle if actor in actors else middle + 40 * NS_PER_S for actor in log.actors}
    log.events = [event for event in log.events if event.time_ns <= middle]
    for actor in (*log.vcpus, "ctl", "rcu"):
        if gone[actor] > middle:
            log.add(gone[actor], actor, Kind.CONTENTION_BEGIN, arg0=7, arg1=2)
    return log, middle + 40 * NS_PER_S + 1


@pytest.mark.parametrize("actor", ["vcpu1", "ctl"])
def test_an_actor_that_falls_silent_hangs(actor, tmp_path):
    """A run that was closed run.hang_s after the last event of a vCPU or of the controller, its VM still there (I25)."""
    log, closed_ns = silent_log([actor])
    result = log.check(tmp_path / "run", control=[(closed_ns, "heartbeat", {})])
    assert [(sm.code_of(finding), finding.actor) for finding in result.findings] == [(NO_EVENTS, actor)], sm.told(result)
    assert "40.0 s" in result.findings[0].detail
    assert result.findings[0].seq == len(log.own(actor)) - 1


def test_silence_is_no_hang_without_reason(tmp_path):
    """Not of the RCU actor, which sleeps; not for less than run.hang_s; not behind the VM's end; not in a part of a log."""
    log, closed_ns = silent_log(["rcu"])
    assert log.check(tmp_path / "run", control=[(closed_ns, "heartbeat", {})]).findings == []
    log, _ = silent_log(["vcpu1"])
    soon_ns = log.own("vcpu1")[-1].time_ns + 29 * NS_PER_S
    log.events = [event for event in log.events if event.time_ns < soon_ns]
    assert log.check(tmp_path / "run", control=[(soon_ns, "heartbeat", {})]).findings == []
    whole = sm.named()
    assert whole.check(tmp_path / "run", control=[(whole.end_ns + 99 * NS_PER_S, "heartbeat", {})]).findings == []
    log, closed_ns = silent_log(["vcpu1"])
    assert log.check(tmp_path / "run", lost={"vcpu1": {3}}, control=[(closed_ns, "heartbeat", {})]).findings == []


# --- the result


def test_evidence_names_the_rows_of_the_events(tmp_path):
    """File and row of every piece of evidence hold that very event, however the log is cut into files."""
    log = sm.named()
    end = log.of(Kind.SLOT_OP_END, arg0=sm.DELETE)[0]
    access = log.of(Kind.GUEST_ACCESS, incarnation=end.incarnation)[-1]
    access.time_ns = end.time_ns + 5000
    path = log.write(tmp_path / "run", row_group_rows=16, file_rows=48)
    finding = check_run(path).findings[0]
    assert [(event.actor, event.kind) for event in finding.evidence] == [(access.actor, "guest_access"), ("ctl", "slot_op_end")]
    for event, meant in zip(finding.evidence, (access, end), strict=True):
        row = pq.read_table(path / event.file, use_threads=False).slice(event.row, 1).to_pylist()[0]
        assert (row["seq"], row["time_ns"], row["kind"]) == (event.seq, meant.time_ns, meant.kind)
        assert event.time_ns == meant.time_ns
        assert event.fields["incarnation"] == row["incarnation"] == end.incarnation


def test_events_that_cannot_be_read_are_left_out_of_the_evidence(tmp_path):
    """A place in a gap has no event."""
    archive = Archive.open(sm.named().write(tmp_path / "run", lost={"ctl": {5}}))
    ctl = archive.actors.index("ctl")
    assert [event.seq for event in events_at(archive, [(ctl, 4), (ctl, 5), (ctl, 6), (ctl, 10**6)])] == [4, 6]


def test_more_findings_than_are_kept_are_counted(tmp_path, monkeypatch):
    """Every one is counted, also beyond one portion of the compiled loop; the first ones are kept, the very first with evidence."""
    log = sm.named()
    accesses = log.of(Kind.GUEST_ACCESS)
    for access in accesses:
        access.arg1 |= sm.RETIRED
    last = accesses[-1]
    for n in range(10_000):
        words = {"gfn": last.gfn, "root": last.root, "pfn": last.pfn, "incarnation": last.incarnation}
        log.add(last.time_ns + 1 + n // 4, last.actor, Kind.GUEST_ACCESS, arg0=last.arg0, arg1=last.arg1, **words)
    count = len(accesses) + 10_000
    result = log.check(tmp_path / "run")
    assert result.nr_findings == {"I3": count}
    assert [finding.number for finding in result.findings] == list(range(1, count + 1))
    assert [bool(finding.evidence) for finding in result.findings] == [n < 64 for n in range(count)]
    monkeypatch.setattr(judge, "FINDINGS_KEPT", 100)
    result = log.check(tmp_path / "run")
    assert (len(result.findings), result.nr_findings, result.reason) == (100, {"I3": count}, f"{count:,} findings")


def test_the_result_is_plain_data(tmp_path):
    """Every field of a result and of its findings survives JSON."""
    log = sm.named()
    access = sm.make_stale(log)
    result = log.check(tmp_path / "run", lost={"ctl": {5}})
    data = json.loads(json.dumps(result.to_dict()))
    assert data.keys() == vars(result).keys()
    assert (data["verdict"], data["folder"], data["window_ns"]) == ("VIOLATION", str(tmp_path / "run"), sm.WINDOW_NS)
    assert {problem["code"] for problem in data["problems"]} == {"gap", "lost-events"}
    finding = data["findings"][0]
    assert (finding["actor"], finding["time_ns"], finding["gfn"]) == (access.actor, access.time_ns, access.gfn)
    assert finding["evidence"][0]["fields"]["observed_tag"] == access.arg0


def test_the_window_is_the_measured_skew_and_what_a_processor_reorders(tmp_path):
    """It is part of the result, so that `certain` can be checked against it."""
    clock = {"kind": "test", "ticks_per_s": 10**9, "t0_ticks": 0, "skew_ns": 345, "reason": "test"}
    assert sm.named().check(tmp_path / "run", manifest={"clock": clock}).window_ns == 1345


def test_the_folder_is_left_as_it_was(tmp_path):
    """A check writes nothing."""
    path = sm.named().write(tmp_path / "run")
    before = {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in path.rglob("*")}
    check_run(path)
    assert before == {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in path.rglob("*")}
