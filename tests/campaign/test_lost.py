# SPDX-License-Identifier: GPL-2.0-only
"""A run that is lost with its worker is made anew and counts once; a campaign waits for workers."""

from __future__ import annotations

from stress.campaign.supervise import LOSSES_MAX
from stress.verdict import Verdict

from .fakes import FakeExecutor, begin, campaign_file, finding, records, supervise, write_run

FOUR = 'scenarios = ["a"]\nrepeats = 4\n[finding]\nreproduce = ""\n[limits]\nharness_retries = 0\n'
LOST = {"silent": True, "lost": True, "trouble": "worker tcp://host:1 was lost"}


def events(out, name):
    return [record for record in records(out) if record["event"] == name]


def test_a_loss_uses_up_no_retry(tmp_path):
    """With no retries at all, every run counts once, the lost one under its next name."""
    begin(campaign_file(tmp_path / "file", FOUR), tmp_path / "c")
    lines: list[str] = []
    supervisor = supervise(tmp_path / "c", FakeExecutor(lambda number, job: LOST if number in (2, 3) else {}), lines)
    verdict, _ = supervisor.run()
    assert verdict is Verdict.PASS
    assert sorted(row["index"] for row in events(tmp_path / "c", "end")) == [0, 1, 2, 3]
    assert [record["attempt"] for record in events(tmp_path / "c", "dropped")] == [1, 2]
    assert not events(tmp_path / "c", "again")
    assert any(line.endswith("worker tcp://host:1 was lost; made anew") for line in lines)


def test_a_run_that_always_loses_its_worker_ends(tmp_path):
    """A run that kills every worker becomes an error of the harness."""
    begin(campaign_file(tmp_path / "file", FOUR.replace("4", "1", 1)), tmp_path / "c")
    verdict, reason = supervise(tmp_path / "c", FakeExecutor(lambda number, job: LOST)).run()
    assert verdict is Verdict.HARNESS_ERROR
    assert reason.endswith("was lost")
    assert len(events(tmp_path / "c", "dropped")) == LOSSES_MAX
    assert len(events(tmp_path / "c", "end")) == 1


def test_a_folder_that_shows_up_late_is_not_counted(tmp_path):
    """A worker that was thought dead writes its verdict after the run was made anew: one row, of the later attempt."""

    def script(number, job):
        if number == 1:
            return LOST
        write_run(tmp_path / "c" / "runs" / job.name.removesuffix("-again1"), verdict="VIOLATION", findings=[finding()])
        return {}

    begin(campaign_file(tmp_path / "file", FOUR.replace("4", "1", 1)), tmp_path / "c")
    verdict, _ = supervise(tmp_path / "c", FakeExecutor(script)).run()
    assert verdict is Verdict.PASS
    (row,) = events(tmp_path / "c", "end")
    assert row["attempt"] == 2


def test_a_finding_of_a_lost_worker_counts(tmp_path):
    """The verdict that was written before the worker died is a verdict."""
    script = lambda number, job: LOST | {"silent": False, "verdict": "VIOLATION", "reason": "1 finding", "findings": [finding()]}  # noqa: E731
    begin(campaign_file(tmp_path / "file", FOUR.replace("4", "1", 1)), tmp_path / "c")
    assert supervise(tmp_path / "c", FakeExecutor(script)).run()[0] is Verdict.VIOLATION
    assert len(events(tmp_path / "c", "end")) == 1


def test_a_campaign_waits_for_workers(tmp_path):
    """No room and nothing on is no reason to end."""

    class Late(FakeExecutor):
        polls = 0

        def has_room(self, *, command=False):
            return self.polls >= 3 and super().has_room(command=command)

        def poll(self, seconds):
            self.polls += 1
            return super().poll(seconds)

    begin(campaign_file(tmp_path / "file", FOUR), tmp_path / "c")
    assert supervise(tmp_path / "c", Late()).run()[0] is Verdict.PASS
    assert len(events(tmp_path / "c", "end")) == 4
