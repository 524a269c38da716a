# SPDX-License-Identifier: GPL-2.0-only
"""The supervisor counts every run exactly once, whatever becomes of runs, of itself, and of the machine."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stress.campaign.executor import CommandJob, RunJob
from stress.campaign.journal import read_journal
from stress.campaign.state import State
from stress.errors import UsageError
from stress.verdict import Verdict

from .fakes import PLANTED, SCENARIO, FakeExecutor, begin, campaign_file, finding, records, supervise, write_run

TEN = 'scenarios = ["a"]\nrepeats = 10\n[finding]\nreproduce = ""\n'
POWER = '[power]\nscenarios = ["p"]\nevery = 5\n'
OUTCOMES = {
    "pass": {},
    "inconclusive": {"verdict": "INCONCLUSIVE", "reason": "deletes = 0, below evidence.deletes = 5"},
    "violation": {"verdict": "VIOLATION", "reason": "1 finding", "findings": [finding()]},
    "harness": {"verdict": "HARNESS_ERROR", "reason": "the drain ended"},
    "killed": {"silent": True, "trouble": "the run's process (pid 1) was killed by SIGKILL"},
}


def run_campaign(tmp_path, text, script=lambda number, job: {}, out="c", **scenarios):
    begin(campaign_file(tmp_path / "file", text, **scenarios), tmp_path / out)
    executor = FakeExecutor(script)
    supervisor = supervise(tmp_path / out, executor)
    verdict, reason = supervisor.run()
    return verdict, reason, supervisor.state, executor


def ends(out):
    return [record for record in records(out) if record["event"] == "end"]


def state_of(out):
    state = State()
    for record, _ in read_journal(out / "journal.jsonl"):
        state.apply(record)
    return state


def test_all_runs_are_made_and_counted(tmp_path):
    """Ten runs, ten rows, each with its config's facts; the verdict is PASS and says that nothing shows its worth."""
    verdict, reason, state, executor = run_campaign(tmp_path, TEN)
    assert verdict is Verdict.PASS
    assert reason.startswith("weak: no planted bug")
    assert [row["index"] for row in ends(tmp_path / "c")] == list(range(10))
    assert len({row["seed"] for row in ends(tmp_path / "c")}) == 10
    assert state.ended == 10
    assert not state.open
    assert len(executor.started) == 10


def test_planted_runs_are_counted_apart(tmp_path):
    """A planted bug's finding is no violation of the campaign; it shows what the machine finds."""

    def script(number, job):
        return OUTCOMES["violation"] if number % 6 == 0 else {}

    verdict, reason, state, _ = run_campaign(tmp_path, TEN + POWER, script, a=SCENARIO, p=PLANTED)
    assert (verdict, reason) == (Verdict.PASS, "")
    assert state.planted["p"].found == state.planted["p"].runs == 2
    assert state.tested["a"].runs == 10
    assert not state.findings


def test_planted_bugs_that_stay_silent_make_a_pass_weak(tmp_path):
    """Silence of the tests proves little where planted bugs are silent too."""
    verdict, reason, _, _ = run_campaign(tmp_path, TEN + POWER, a=SCENARIO, p=PLANTED)
    assert verdict is Verdict.PASS
    assert reason == "weak: the planted bugs p were found in less than 80% of their runs"


def test_a_violation_is_counted_at_once_and_folded(tmp_path):
    """The same rule at the same site is one entry with a count; another site is another; numbers make no difference."""
    details = ["the incarnation is retired; the frame's tag is 1", "the incarnation is retired; the frame's tag is 999"]
    other = finding(detail="a root still maps the slot at its commit", actor="ctl", kind="leftover-mapping", invariant="I2")
    numbers = count()

    def script(_number, job):
        turn = next(numbers)
        found = other if turn == 3 else finding(detail=details[turn % 2], actor=f"vcpu{turn}")
        return {"verdict": "VIOLATION", "reason": "1 finding", "findings": [found]}

    verdict, _, state, executor = run_campaign(tmp_path, TEN, script)
    assert verdict is Verdict.VIOLATION
    assert sorted(entry.count for entry in state.findings.values()) == [1, 9]
    frequent = max(state.findings.values(), key=lambda entry: entry.count)
    assert frequent.title == "stale-use [I3] vcpu: the incarnation is retired; the frame's tag is N (split-once)"
    assert frequent.first <= frequent.last
    assert len(frequent.runs) == 5
    assert len(list((tmp_path / "c" / "findings").iterdir())) == 2
    assert len(executor.started) == 10, "a violation is never tried again"
    assert "last_events" not in ends(tmp_path / "c")[0]["findings"][0]


def test_an_error_of_the_harness_is_tried_again(tmp_path):
    """As often as allowed, in a folder of its own; then it counts as what it is."""
    verdict, reason, state, _ = run_campaign(
        tmp_path, TEN.replace("10", "3"), lambda number, job: OUTCOMES["harness"] if "000001" in job.name else {}
    )
    assert verdict is Verdict.HARNESS_ERROR
    assert "the drain ended" in reason
    assert [record["attempt"] for record in records(tmp_path / "c") if record["event"] == "again"] == [1, 2]
    assert [(row["index"], row["attempt"]) for row in ends(tmp_path / "c")] == [(0, 1), (1, 3), (2, 1)]
    assert state.retries == 2


def test_a_run_over_its_limits_is_no_pass(tmp_path):
    """Ended from outside, its verdict says nothing, unless it had found something."""

    def script(number, job):
        outcome = OUTCOMES["violation"] if "000001" in job.name else {"reason": "stopped by SIGTERM"}
        return outcome | {"trouble": "its processes take 900 MiB, limits.memory_mb = 64"}

    verdict, _, state, _ = run_campaign(tmp_path, TEN.replace("10", "2") + "[limits]\nharness_retries = 0\n", script)
    assert verdict is Verdict.VIOLATION
    assert state.verdicts == {"HARNESS_ERROR": 1, "VIOLATION": 1}
    assert "limits.memory_mb" in ends(tmp_path / "c")[0]["reason"]


def test_the_log_of_a_run_without_verdict_is_judged(tmp_path):
    """A killed run may have left its finding on the disk: it counts, and is not run again."""

    def script(_number, job):
        if isinstance(job, CommandJob):
            assert job.argv[3:] == ("check", str(tmp_path / "c" / "runs" / job.name[6:]), "--json")
            (tmp_path / "c" / "runs" / job.name[6:] / "salvage.txt").write_text(
                "compiling\n" + json.dumps({"verdict": "VIOLATION", "findings": [finding() | {"rule": "I3"}]}) + "\n"
            )
            return {"exit_code": 1}
        events = tmp_path / "c" / "runs" / job.name / "events"
        events.mkdir(parents=True)
        (events / "vcpu0-00001.parquet").write_bytes(b"PAR1")
        return OUTCOMES["killed"]

    verdict, _, state, executor = run_campaign(tmp_path, TEN.replace("10", "1"), script)
    assert verdict is Verdict.VIOLATION
    assert state.violations == 1
    assert len(state.findings) == 1
    assert "was killed by SIGKILL; its log shows 1 findings" in ends(tmp_path / "c")[0]["reason"]
    assert sum(isinstance(job, RunJob) for job in executor.started) == 1


def test_a_check_that_was_cut_off_is_made_again(tmp_path):
    """Ctrl-C while a killed run's log is judged leaves the run open: its finding is found when the campaign goes on."""
    out = tmp_path / "c"
    begin(campaign_file(tmp_path / "file", TEN.replace("10", "1")), out)

    def script(_number, job):
        if isinstance(job, CommandJob):
            os.kill(os.getpid(), signal.SIGINT)
            return {"exit_code": -15}
        events = out / "runs" / job.name / "events"
        events.mkdir(parents=True)
        (events / "vcpu0-00001.parquet").write_bytes(b"PAR1")
        return OUTCOMES["killed"]

    verdict, _ = supervise(out, FakeExecutor(script)).run()
    assert verdict is Verdict.INCONCLUSIVE

    def again(_number, job):
        assert job.name.startswith("check ")
        judged = {"verdict": "VIOLATION", "findings": [finding() | {"rule": "I3"}]}
        Path(job.output).write_text(json.dumps(judged) + "\n")
        return {"exit_code": 1}

    assert supervise(out, FakeExecutor(again)).run()[0] is Verdict.VIOLATION


def test_a_check_that_crashed_is_no_violation(tmp_path):
    """Python's own exit code for a crash is 1 too: without a verdict of the checker nothing was found."""

    def script(_number, job):
        if isinstance(job, CommandJob):
            Path(job.output).write_text("Traceback (most recent call last):\nImportError\n")
            return {"exit_code": 1}
        events = tmp_path / "c" / "runs" / job.name / "events"
        events.mkdir(parents=True)
        (events / "vcpu0-00001.parquet").write_bytes(b"PAR1")
        return OUTCOMES["killed"]

    verdict, reason, _, _ = run_campaign(tmp_path, TEN.replace("10", "1") + "[limits]\nharness_retries = 0\n", script)
    assert verdict is Verdict.HARNESS_ERROR
    assert "its log could not be judged" in reason


def test_every_finding_of_a_run_is_folded(tmp_path):
    """Also the seventh, and one of which nothing is known but that it was there."""
    many = [finding()] * 6 + [finding(detail="an orphan", invariant="I7")]

    def script(number, _job):
        return {"verdict": "VIOLATION", "findings": many if number == 1 else []}

    _, _, state, _ = run_campaign(tmp_path, TEN.replace("10", "2"), script)
    assert sorted(entry.title.partition("]")[0] for entry in state.findings.values()) == [
        "stale-use [I3",
        "stale-use [I7",
        "unknown [?",
    ]
    assert len(ends(tmp_path / "c")[0]["findings"]) == 5, "the journal keeps some, the folder all"


def test_commands_that_a_crash_cut_off_are_run_again(tmp_path):
    """At least once, whatever happens between the finding and the command's end."""
    out = tmp_path / "c"
    text = TEN.replace("10", "1") + 'commands = [["logger", "{title}"]]\n'
    begin(campaign_file(tmp_path / "file", text), out)

    def script(_number, job):
        if isinstance(job, CommandJob):
            raise Died
        return OUTCOMES["violation"]

    with pytest.raises(Died):
        supervise(out, FakeExecutor(script)).run()
    executor = FakeExecutor()
    supervise(out, executor).run()
    assert [job.name.split()[0] for job in executor.started] == ["command"]
    executor = FakeExecutor()
    supervise(out, executor).run()
    assert executor.started == []


def test_stop_after_so_many_violations(tmp_path):
    """The rule stops the campaign, and the reason names it."""
    verdict, reason, state, _ = run_campaign(tmp_path, TEN + "[stop]\nviolations = 2\n", lambda number, job: OUTCOMES["violation"])
    assert verdict is Verdict.VIOLATION
    assert "stop.violations = 2 reached" in reason
    assert state.ended == 2


def test_expected_findings_pass_and_others_do_not(tmp_path):
    """A museum piece passes with its own finding, is inconclusive when silent, and a violation with another one."""
    other = OUTCOMES["violation"] | {"findings": [finding(invariant="I1", kind="leftover-mapping")]}
    outcomes = [OUTCOMES["violation"], {}, other]
    text = 'scenarios = ["a"]\nrepeats = 3\n[finding]\nreproduce = ""\n[expect]\na = "stale-use [I3]"\n'
    _, _, state, _ = run_campaign(tmp_path, text, lambda number, job: outcomes[number - 1])
    rows = ends(tmp_path / "c")
    assert [row["verdict"] for row in rows] == ["PASS", "INCONCLUSIVE", "VIOLATION"]
    assert [row["reason"] for row in rows] == [
        "stale-use [I3], as expected",
        "expected stale-use [I3], and nothing was found",
        "expected stale-use [I3], found leftover-mapping [I1]",
    ]
    assert [entry.title[:21] for entry in state.findings.values()] == ["leftover-mapping [I1]"]


def test_a_finding_is_reproduced_once_and_commands_are_run(tmp_path):
    """Only the first finding of a signature starts the search and the user's commands, words filled in, no shell."""
    text = (
        'scenarios = ["a"]\nrepeats = 3\n[finding]\nreproduce = "5s"\n'
        'commands = [["logger", "{title} in {run}; rm -rf *", "{signature}"]]\n'
    )

    def script(_number, job):
        if isinstance(job, RunJob):
            return OUTCOMES["violation"]
        if job.name.startswith("reproduce"):
            Path(job.output).write_text('trying\n{"reproduced": true, "tried": "1"}\n')
            return {"exit_code": 1}
        return {"exit_code": 3}

    _, _, state, executor = run_campaign(tmp_path, text, script)
    commands = [job for job in executor.started if isinstance(job, CommandJob)]
    assert [job.name.split()[0] for job in commands] == ["command", "reproduce"]
    signature = next(iter(state.findings))
    title = state.findings[signature].title
    first = state.findings[signature].runs[0]
    assert commands[0].argv == ("logger", f"{title} in {tmp_path / 'c' / 'runs' / first}; rm -rf *", signature)
    assert commands[0].beside
    assert commands[1].argv[3:] == ("reproduce", str(tmp_path / "c" / "runs" / first), "--budget", "5s", "--json")
    assert state.findings[signature].reproduced.startswith("yes: ")
    assert [record["exit_code"] for record in records(tmp_path / "c") if record["event"] == "command"] == [3]


class Died(BaseException):
    """Stands for the moment at which the campaign's process is gone."""


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_killed_anywhere_nothing_is_lost_or_counted_twice(tmp_path_factory, data):
    """Killed again and again, with a run unfinished, finished but not journaled, or a torn line: each run counts once."""
    tmp_path = tmp_path_factory.mktemp("killed")
    out = tmp_path / "c"
    begin(campaign_file(tmp_path / "file", TEN), out)
    outcomes = data.draw(st.lists(st.sampled_from(["pass", "violation", "inconclusive"]), min_size=10, max_size=10))

    def outcome_of(job):
        return OUTCOMES[outcomes[int(job.name[:6])]]

    for _ in range(data.draw(st.integers(0, 4))):
        last = data.draw(st.integers(1, 8))
        finished = data.draw(st.booleans())

        def script(so_far, job, last=last, finished=finished):
            if so_far >= last:
                if finished:
                    write_run(out / "runs" / job.name, **outcome_of(job))
                raise Died
            return outcome_of(job)

        supervisor = supervise(out, FakeExecutor(script))
        with contextlib.suppress(Died):
            supervisor.run()
        size = (out / "journal.jsonl").stat().st_size
        os.truncate(out / "journal.jsonl", int(size * data.draw(st.sampled_from([1, 1, 0.999, 0.97, 0.9, 0.8, 0.5, 0]))))
    supervisor = supervise(out, FakeExecutor(lambda number, job: outcome_of(job)))
    verdict, _ = supervisor.run()
    rows = ends(out)
    assert sorted(row["index"] for row in rows) == list(range(10))
    assert [row["verdict"] for row in sorted(rows, key=lambda row: row["index"])] == [
        OUTCOMES[name].get("verdict", "PASS") for name in outcomes
    ]
    assert supervisor.state.ended == 10
    assert sum(supervisor.state.verdicts.values()) == 10
    assert verdict is Verdict.VIOLATION if "violation" in outcomes else verdict is not Verdict.VIOLATION


def test_a_run_that_had_ended_counts_without_being_made_again(tmp_path):
    """Its folder holds the verdict that the journal does not know: that is the one that counts."""
    out = tmp_path / "c"
    begin(campaign_file(tmp_path / "file", TEN), out)

    def script(number, job):
        write_run(out / "runs" / job.name, elapsed_s=7.5)
        raise Died

    with pytest.raises(Died):
        supervise(out, FakeExecutor(script)).run()
    executor = FakeExecutor()
    supervise(out, executor).run()
    assert next((row["index"], row["attempt"], row["elapsed_s"]) for row in ends(out)) == (0, 1, 7.5)
    assert len(executor.started) == 9


def test_what_a_left_run_found_is_followed_up_once(tmp_path):
    """Settling the run and taking the campaign up both ask for it; two jobs of one name would lose sight of each other."""
    out = tmp_path / "c"
    begin(campaign_file(tmp_path / "file", TEN.replace("10", "1").replace('reproduce = ""', 'reproduce = "5s"')), out)

    def script(number, job):
        write_run(out / "runs" / job.name, **OUTCOMES["violation"])
        raise Died

    with pytest.raises(Died):
        supervise(out, FakeExecutor(script)).run()
    executor = FakeExecutor(room=2)
    supervise(out, executor).run()
    assert [job.name.split()[0] for job in executor.started] == ["reproduce"]


def test_a_run_that_was_told_to_stop_is_not_adopted(tmp_path):
    """A partial verdict that a dying campaign left is no result: the run is made anew."""
    out = tmp_path / "c"
    begin(campaign_file(tmp_path / "file", TEN), out)

    def script(number, job):
        write_run(out / "runs" / job.name, reason="stopped by SIGTERM")
        raise Died

    with pytest.raises(Died):
        supervise(out, FakeExecutor(script)).run()
    supervisor = supervise(out, FakeExecutor())
    supervisor.run()
    assert ends(out)[0]["attempt"] == 2
    assert supervisor.state.dropped == 1


def test_ctrl_c_lets_runs_end_and_resume_goes_on(tmp_path):
    """The first signal stops new runs and asks those that are on to end; what they leave is not counted; resume runs them again."""
    out = tmp_path / "c"
    begin(campaign_file(tmp_path / "file", TEN), out)

    def script(number, job):
        if number == 4:
            os.kill(os.getpid(), signal.SIGINT)
            return {"reason": "stopped by SIGTERM", "trouble": "the campaign was stopped"}
        return {}

    verdict, reason = supervise(out, FakeExecutor(script)).run()
    assert verdict is Verdict.INCONCLUSIVE
    assert "stopped by SIGINT" in reason
    assert len(ends(out)) == 3
    supervisor = supervise(out, FakeExecutor())
    assert supervisor.run()[0] is Verdict.PASS
    assert sorted(row["index"] for row in ends(out)) == list(range(10))


def test_a_truncated_journal_does_not_repeat_runs(tmp_path):
    """After copy-and-truncate rotation the campaign goes on where it was, and its sums stay right."""
    out = tmp_path / "c"
    begin(campaign_file(tmp_path / "file", TEN), out)

    def script(number, job):
        if number == 5:
            os.truncate(out / "journal.jsonl", 0)
        if number == 7:
            raise Died
        return {}

    with pytest.raises(Died):
        supervise(out, FakeExecutor(script)).run()
    supervisor = supervise(out, FakeExecutor())
    verdict, _ = supervisor.run()
    assert verdict is Verdict.PASS
    assert supervisor.state.ended == 10
    assert [row["index"] for row in ends(out)] == [4, 5, 6, 7, 8, 9]


def test_a_soak_ends_with_its_time(tmp_path):
    """Runs are started until the time is over; the seconds of earlier sessions count."""
    out = tmp_path / "c"
    begin(campaign_file(tmp_path / "file", TEN), out, soak_s=100.0)
    supervisor = supervise(out, FakeExecutor())
    supervisor.state.spent_s = 0.0

    def script(number, job):
        if number == 5:
            supervisor.state.spent_s = 1000.0
        return {}

    supervisor._executor.script = script
    verdict, reason = supervisor.run()
    assert verdict is Verdict.PASS
    assert reason.startswith("weak")
    assert supervisor.state.stopped == "time is over"
    assert supervisor.state.ended == 5


def test_total_time_leaves_a_campaign_inconclusive(tmp_path):
    """A campaign that had no time for all of its runs does not say PASS."""
    out = tmp_path / "c"
    begin(campaign_file(tmp_path / "file", TEN + '[limits]\ntotal_time = "1h"\n'), out)
    supervisor = supervise(out, FakeExecutor())

    def script(number, job):
        if number == 5:
            supervisor.state.spent_s = 4000.0
        return {}

    supervisor._executor.script = script
    verdict, reason = supervisor.run()
    assert verdict is Verdict.INCONCLUSIVE
    assert "limits.total_time = 1h is over" in reason


@pytest.mark.parametrize("outcome", ["pass", "violation"])
def test_a_full_disk_ends_the_campaign_and_costs_nothing(tmp_path, outcome):
    """A journal that cannot be written is an error of the harness, unless a violation was seen; resume makes the rest."""
    out = tmp_path / "c"
    begin(campaign_file(tmp_path / "file", TEN), out)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def script(number, job):
        if number == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, ((out / "journal.jsonl").stat().st_size + 100, hard))
            return {"silent": True}
        return OUTCOMES[outcome]

    try:
        verdict, reason = supervise(out, FakeExecutor(script)).run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert verdict is (Verdict.VIOLATION if outcome == "violation" else Verdict.HARNESS_ERROR)
    assert "journal.jsonl: cannot write" in reason
    assert len(ends(out)) == 4
    supervise(out, FakeExecutor(lambda number, job: OUTCOMES[outcome])).run()
    assert sorted(row["index"] for row in ends(out)) == list(range(10))


def test_two_at_once_are_refused(tmp_path):
    """A campaign belongs to one process."""
    out = tmp_path / "c"
    begin(campaign_file(tmp_path / "file", TEN), out)
    first = supervise(out, FakeExecutor())
    with pytest.raises(UsageError, match="another process"):
        supervise(out, FakeExecutor())
    first.run()


def test_a_leak_ends_in_a_finding_of_the_harness(tmp_path):
    """A resource that grows is told once, and no campaign with it passes."""
    out = tmp_path / "c"
    begin(campaign_file(tmp_path / "file", TEN), out)
    supervisor = supervise(out, FakeExecutor())
    told = iter([[("campaign fds", "campaign fds grows by 7 an hour")]])
    supervisor._vitals.leaks = lambda: next(told, [])
    supervisor._vitals.is_due = lambda: True
    verdict, reason = supervisor.run()
    assert verdict is Verdict.HARNESS_ERROR
    assert reason == "campaign fds grows by 7 an hour"
    assert [record["event"] for record in records(out)].count("leak") == 1
    assert state_of(out).leaks == {"campaign fds": "campaign fds grows by 7 an hour"}
