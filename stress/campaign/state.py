# SPDX-License-Identifier: GPL-2.0-only
"""What a campaign has come to: built from the journal's records, one by one, live and after a crash by the same code.

| event        | meaning                                                                        |
|--------------|--------------------------------------------------------------------------------|
| `campaign`   | first line: identity, seed, versions                                           |
| `session`    | a process took the campaign up, for the first time or again                    |
| `start`      | a run, or a further attempt at it, is about to begin                           |
| `end`        | it has ended and counts; the record is its row of the results                  |
| `again`      | an error of the harness; the run will be tried again                           |
| `dropped`    | the campaign was stopped, or it or a worker died; the run will be made anew    |
| `reproduced` | what the search for a schedule came to                                         |
| `command`    | a command of the user's was run on a finding                                   |
| `thinned`    | runs whose logs were removed to keep the disk budget                           |
| `note`       | the machine: suspended, hot, stolen from, overloaded; clock steps              |
| `leak`       | a resource of the harness that grows                                           |
| `stop`       | the process left the campaign, with the reason                                 |
| `checkpoint` | all of the above at once, when somebody had truncated the file                 |
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct, field

from stress.verdict import Verdict, worst

__all__ = ["Exposure", "Folded", "OpenRun", "State"]

RUNS_NAMED = 5  # folders kept by name for each finding


class OpenRun(Struct):
    """A run that has begun and does not count yet.

    Attributes:
        run: folder of the last attempt.
        started: that attempt is on, as far as the journal knows.
        failures: attempts that ended in an error of the harness.
    """

    index: int
    attempt: int
    run: str
    started: bool
    failures: int = 0


class Folded(Struct):
    """All findings of one signature.

    Attributes:
        runs: the first that had it.
        lead: the first whose first finding it was, and which left a verdict: a schedule is looked for from there.
        commands: numbers of the user's commands that have been run.
    """

    title: str
    count: int
    first: str
    last: str
    runs: list[str]
    lead: str = ""
    reproduced: str = ""
    commands: list[int] = field(default_factory=list)


class Exposure(Struct):
    """Runs of one scenario, and what they add up to.

    Attributes:
        runs: that ended with a verdict on the protocol: errors of the harness and runs that saw too little are none.
        found: of them with a finding.
        seconds: of guest time in all of them.
    """

    runs: int = 0
    found: int = 0
    seconds: float = 0.0


class State(Struct):
    """The sum of a journal.

    Attributes:
        next_index: first run that never began.
        open: runs that began and do not count yet.
        verdicts: runs that count by verdict, planted ones apart.
        tested: exposure by scenario, planted ones apart.
        planted: the same of those with a planted bug, whether between the others or expected to be found.
        spent_s: seconds of all sessions but the one that goes on.
        up_s: of that one.
    """

    identity: dict[str, Any] = field(default_factory=dict)
    next_index: int = 0
    open: dict[int, OpenRun] = field(default_factory=dict)
    verdicts: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    tested: dict[str, Exposure] = field(default_factory=dict)
    planted: dict[str, Exposure] = field(default_factory=dict)
    findings: dict[str, Folded] = field(default_factory=dict)
    leaks: dict[str, str] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    ended: int = 0
    violations: int = 0
    retries: int = 0
    dropped: int = 0
    thinned: int = 0
    sessions: int = 0
    spent_s: float = 0.0
    up_s: float = 0.0
    stopped: str = ""

    def apply(self, record: dict[str, Any]) -> None:
        """Take one record in."""
        getattr(self, f"_{record['event']}", self._unknown)(record)
        self.up_s = max(self.up_s, record["up_s"])

    @property
    def total_s(self) -> float:
        """Seconds that processes were at work on the campaign."""
        return self.spent_s + self.up_s

    def verdict(self) -> tuple[Verdict, str]:
        """The worst verdict of all runs that count and a reason, planted runs apart; leaks count as errors of the harness."""
        found = {name: self.reasons.get(name, "") for name in self.verdicts}
        if self.leaks:
            found.setdefault(Verdict.HARNESS_ERROR.value, next(iter(self.leaks.values())))
        if not found:
            return Verdict.INCONCLUSIVE, "no run has ended"
        verdict = worst(Verdict(name) for name in found)
        count = self.verdicts.get(verdict.value, 0)
        if verdict is Verdict.PASS or not count:
            return verdict, "" if verdict is Verdict.PASS else found[verdict.value]
        first = "the first " if count > 1 else ""
        return verdict, f"{count} of {sum(self.verdicts.values()):,} runs, {first}{found[verdict.value]}"

    def checkpoint(self) -> dict[str, Any]:
        """All of it as fields of a record."""
        state: dict[str, Any] = msgspec.to_builtins(self)
        return {"state": state}

    # --- one method an event

    def _unknown(self, record: dict[str, Any]) -> None:
        """A later version's event."""

    def _checkpoint(self, record: dict[str, Any]) -> None:
        old = msgspec.convert(record["state"], State, strict=False)
        for name in self.__struct_fields__:
            setattr(self, name, getattr(old, name))

    def _campaign(self, record: dict[str, Any]) -> None:
        self.identity = {name: value for name, value in record.items() if name not in {"event", "up_s"}}

    def _session(self, _record: dict[str, Any]) -> None:
        self.spent_s, self.up_s = self.total_s, 0.0
        self.sessions += 1
        self.stopped = ""

    def _start(self, record: dict[str, Any]) -> None:
        index = record["index"]
        before = self.open.get(index)
        failures = before.failures if before else 0
        self.open[index] = OpenRun(index, record["attempt"], record["run"], started=True, failures=failures)
        self.next_index = max(self.next_index, index + 1)

    def _end(self, record: dict[str, Any]) -> None:
        index, verdict, scenario = record["index"], record["verdict"], record["scenario"]
        self.open.pop(index, None)
        self.next_index = max(self.next_index, index + 1)
        self.ended += 1
        planted = record["role"] == "planted"
        if not planted:
            self.verdicts[verdict] = self.verdicts.get(verdict, 0) + 1
            self.reasons.setdefault(verdict, f"{record['run']}: {record['reason']}" if record["reason"] else record["run"])
            self.violations += verdict == Verdict.VIOLATION.value
            self._fold(record)
        tests = record["role"] == "test"
        # A test that saw too little says nothing; a planted bug that was not found was not found, whatever the reason.
        silent = {Verdict.HARNESS_ERROR.value} | ({Verdict.INCONCLUSIVE.value} if tests else set())
        if record["run_verdict"] not in silent:
            exposure = (self.tested if tests else self.planted).setdefault(scenario, Exposure())
            exposure.runs += 1
            exposure.found += record["run_verdict"] == Verdict.VIOLATION.value
            exposure.seconds += record["elapsed_s"]

    def _fold(self, record: dict[str, Any]) -> None:
        for number, (signature, title) in enumerate(record["folded"]):
            seen = record["time"]
            folded = self.findings.setdefault(signature, Folded(title, 0, seen, seen, []))
            folded.count += 1
            folded.last = seen
            if record["run"] not in folded.runs and len(folded.runs) < RUNS_NAMED:
                folded.runs.append(record["run"])
            if number == 0 and not folded.lead and record["counters"]:
                folded.lead = record["run"]

    def _again(self, record: dict[str, Any]) -> None:
        self.retries += 1
        self._close_attempt(record["index"])
        if record["index"] in self.open:
            self.open[record["index"]].failures += 1

    def _dropped(self, record: dict[str, Any]) -> None:
        self.dropped += 1
        self._close_attempt(record["index"])

    def _close_attempt(self, index: int) -> None:
        if index in self.open:
            self.open[index].started = False

    def _reproduced(self, record: dict[str, Any]) -> None:
        if record["signature"] in self.findings:
            self.findings[record["signature"]].reproduced = record["outcome"]

    def _command(self, record: dict[str, Any]) -> None:
        if record["signature"] in self.findings:
            self.findings[record["signature"]].commands.append(record["number"])

    def _thinned(self, record: dict[str, Any]) -> None:
        self.thinned += len(record["runs"])

    def _note(self, record: dict[str, Any]) -> None:
        self.notes[record["about"]] = self.notes.get(record["about"], 0) + 1

    def _leak(self, record: dict[str, Any]) -> None:
        self.leaks[record["resource"]] = record["text"]

    def _stop(self, record: dict[str, Any]) -> None:
        self.stopped = record["reason"]
