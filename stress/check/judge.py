# SPDX-License-Identifier: GPL-2.0-only
"""Judging a run from its log alone: the events through the state machine, the rest out of the control log, one verdict.

What is certain and what is not: an actor's own events are in the order of their seqs, whatever its clock says. Two actors' events
are in the order of their times if these are further apart than the window: the skew that was measured at the start of the run,
and what a processor may move a clock reading against the memory accesses beside it. A rule that needs an order inside the
window proves nothing; such cases are listed apart (`ambiguous`).
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from stress.check.finding import (
    BY_BOTH,
    BY_TIME,
    EXACT,
    FOUND_A,
    FOUND_DETAIL,
    FOUND_EVENT,
    FOUND_GFN,
    FOUND_INCARNATION,
    FOUND_JUDGED_BY,
    FOUND_MARGIN_NS,
    FOUND_NS,
    FOUND_OTHER_EVENT,
    FOUND_OTHER_NS,
    FOUND_PFN,
    FOUND_ROOT,
)
from stress.check.machine import (
    COUNTS,
    FEED_ACTOR,
    FEED_ADDRESS,
    FEED_COLUMNS,
    FEED_END,
    FEED_OVER,
    FEED_POSITION,
    FEED_SEQ,
    FEED_WORDS,
    FULL,
    OVER,
    advance,
)
from stress.check.result import CheckResult, Event, Finding, Recorded, event_of
from stress.check.rules import DETAILS, NO_EVENTS, NOT_IN_VERSION_1, RECORDED
from stress.check.state import EVENT_SHIFT, FIRST_OTHER, FOREVER, MAX_ACTORS, MAX_VCPUS, NO_EVENT, new_state
from stress.log.archive import Archive, Problem
from stress.log.schema import FIELDS, Kind
from stress.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stress.log.archive import Batch

__all__ = ["FINDINGS_KEPT", "check_run", "events_at"]

FINDINGS_KEPT = 100_000
FINDINGS_SHOWN_WITH_EVIDENCE = 64
# A processor may read its cycle counter some hundred cycles before or after the locked access that stands beside it.
REORDERING_NS = 1000
LEVELS_MAX = 5
NOT_JUDGED = -1
NS_PER_S = 1_000_000_000

_LOCKS = next(field for field in FIELDS[Kind.LOCK_ACQUIRE] if field.name == "lock").values
_FINDING_KINDS = next(field for field in FIELDS[Kind.FINDING] if field.name == "finding").values
_LOCKDEP = 100
_VCPU_NUMBERS = frozenset(map(str, range(MAX_VCPUS)))
# Counters of the run that the event log counts too.
_BY_KIND = {"guest_accesses": Kind.GUEST_ACCESS, "tlb_fills": Kind.TLB_FILL, "page_faults": Kind.KVM_PAGE_FAULT}
_OF_GUEST_ACCESSES = ("guest_accesses", "tlb_fills", "tlb_hits")


def check_run(path: Path) -> CheckResult:
    """Judge one run from its folder alone.

    Args:
        path: the run folder; nothing in it is changed.

    Raises:
        UsageError: it is no run.

    Context: reads through pyarrow, which starts threads; do not fork afterwards.
    """
    return _Check(Archive.open(path)).run()


def events_at(archive: Archive, places: list[tuple[int, int]]) -> list[Event]:
    """Single events of a log, by their actor's index and seq; those that cannot be read are left out."""
    events = []
    for actor, seq in places:
        batch = next(archive.batches(actor, FEED_COLUMNS, None, seq), None)
        if batch is not None and batch.first_seq == seq:
            events.append(event_of(archive, batch, 0))
    return events


class _Check:
    """One check; the steps are called once, in the order of run()."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._started = time.perf_counter()
        self._names: dict[int, str] = {}
        self._ids: list[int] = []
        self._problems: list[Problem] = []
        others = 0
        for name in archive.actors:
            number = name.removeprefix("vcpu")
            if number != name and number in _VCPU_NUMBERS:
                actor = int(number)
            elif FIRST_OTHER + others < MAX_ACTORS:
                actor = FIRST_OTHER + others
                others += 1
            else:
                actor = NOT_JUDGED
                self._problem("too-many-actors", name, f"more than {MAX_VCPUS} vCPUs and {others} others; not judged")
            self._ids.append(actor)
            self._names[actor] = name
        self._vcpus = sum(0 <= actor < FIRST_OTHER for actor in self._ids)
        self._window_ns = archive.skew_ns + REORDERING_NS
        self._found: list[list[int]] = []
        self._nr_found: Counter[int] = Counter()
        self._recorded: list[Recorded] = []
        self._nr_recorded = 0
        self._events = 0
        self._kinds = np.zeros(0, np.int64)
        self._counts = np.zeros(0, np.int64)
        self._last_seen: dict[int, tuple[int, int]] = {}

    def run(self) -> CheckResult:
        self._read_control()
        self._judge_events()
        self._check_silence()
        self._check_counters()
        return self._result()

    # --- the control log

    def _read_control(self) -> None:
        self._counters: dict[str, int] = {}
        self._missing_evidence = ""
        self._run_verdict: str | None = None
        self._run_reason = ""
        self._control_findings = 0
        self._closed_ns: int | None = None
        self._vcpus_killed = 0
        for event in self._archive.control_events():
            match event.get("event"):
                case "counters":
                    self._counters = {name: value for name, value in event.items() if isinstance(value, int) and name != "t_ns"}
                case "evidence":
                    self._read_evidence(event)
                case "process_exit":
                    if event.get("exitcode") != 0:
                        self._problem("process-died", str(event.get("actor")), f"ended with exit code {event.get('exitcode')}")
                case "nemesis":
                    self._vcpus_killed += event.get("act") == "kill-vcpu" and event.get("done") is True
                case "finding":
                    self._control_findings += 1
                case "log_closed":
                    self._closed_ns = _integer(event.get("t_ns"))
                case "verdict":
                    self._run_verdict = str(event.get("verdict"))
                    self._run_reason = str(event.get("reason"))

    def _read_evidence(self, event: dict[str, Any]) -> None:
        counted, wanted = _integer(event.get("counted")), _integer(event.get("wanted"))
        if counted is not None and wanted is not None and counted < wanted and not self._missing_evidence:
            self._missing_evidence = f"{event.get('counter')} = {counted}, below evidence.{event.get('counter')} = {wanted}"

    # --- the events

    def _judge_events(self) -> None:
        archive = self._archive
        if not archive.actors:
            return
        levels = (
            archive.config.get("vm", {}).get("levels", LEVELS_MAX) if isinstance(archive.config.get("vm"), dict) else LEVELS_MAX
        )
        self._levels = levels if isinstance(levels, int) and 0 < levels <= LEVELS_MAX else LEVELS_MAX
        batches: list[Iterator[Batch]] = [
            iter(()) if actor == NOT_JUDGED else archive.batches(index, FEED_COLUMNS) for index, actor in enumerate(self._ids)
        ]
        # The feed holds addresses: the batches that they point into are kept beside it.
        current: list[Batch | None] = [None] * len(batches)
        feed = np.zeros((len(batches), FEED_WORDS), np.int64)
        feed[:, FEED_ACTOR] = self._ids
        state = self._first_state()
        while True:
            row = advance(state[0], feed)
            self._take_findings(state)
            if row == OVER:
                break
            if row == FULL:
                continue
            before = current[row]
            batch = next(batches[row], None)
            current[row] = batch
            if batch is None:
                feed[row, FEED_OVER] = 1
                continue
            expected = 0 if before is None else before.first_seq + len(before.columns["kind"])
            if before is not None and batch.first_seq != expected:
                state = self._after_gap(state, int(batch.columns["time_ns"][0]))
            n = len(batch.columns["kind"])
            self._events += n
            self._last_seen[self._ids[row]] = (batch.first_seq + n - 1, int(batch.columns["time_ns"][-1]))
            feed[row, FEED_POSITION] = 0
            feed[row, FEED_END] = n
            feed[row, FEED_SEQ] = batch.first_seq
            for column, name in enumerate(FEED_COLUMNS):
                feed[row, FEED_ADDRESS + column] = batch.columns[name].ctypes.data
        self._kinds = state["kinds"][0]
        self._counts = state["counts"][0]

    def _first_state(self) -> Any:
        """What may be judged from where to where: the span in which every actor's events are there."""
        archive = self._archive
        state = new_state(self._vcpus, self._levels, self._window_ns)
        if archive.complete:
            return state
        starts, ends = [], []
        for index, name in enumerate(archive.actors):
            first = next(archive.batches(index, ("time_ns",)), None)
            recorded = archive.recorded.get(name)
            if first is None:
                if recorded != 0:
                    starts.append(FOREVER)
                continue
            if first.first_seq != 0:
                starts.append(int(first.columns["time_ns"][0]))
            if recorded is None or first.first_seq + archive.rows[name] != recorded:
                ends.append(archive.last_ns[name])
        state["whole_from_ns"] = max(starts, default=-FOREVER)
        state["whole_to_ns"] = min(ends, default=FOREVER)
        state["from_start"] = int(not starts)
        return state

    def _after_gap(self, state: Any, time_ns: int) -> Any:
        """Events are missing: what was known before says nothing any more."""
        fresh = new_state(self._vcpus, self._levels, self._window_ns)
        for name in ("found", "nr_found", "kinds", "counts", "whole_to_ns"):
            fresh[name] = state[name]
        fresh["whole_from_ns"] = max(time_ns, int(state["whole_from_ns"][0]))
        fresh["from_start"] = 0
        return fresh

    def _take_findings(self, state: Any) -> None:
        for row in state["found"][0, : state["nr_found"][0]].tolist():
            if self._archive.schema_version == 1 and row[FOUND_DETAIL] in NOT_IN_VERSION_1:
                continue
            if row[FOUND_DETAIL] == RECORDED:
                self._take_recorded(row)
            elif row[FOUND_MARGIN_NS] != EXACT and row[FOUND_MARGIN_NS] <= self._window_ns:
                self._nr_found[-row[FOUND_DETAIL]] += 1
                if self._nr_found[-row[FOUND_DETAIL]] <= FINDINGS_SHOWN_WITH_EVIDENCE:
                    self._found.append(row)
            else:
                self._nr_found[row[FOUND_DETAIL]] += 1
                if len(self._found) < FINDINGS_KEPT:
                    self._found.append(row)
        state["nr_found"] = 0

    def _take_recorded(self, row: list[int]) -> None:
        self._nr_recorded += 1
        if len(self._recorded) < FINDINGS_KEPT:
            kind, invariant = divmod(row[FOUND_A], 1000)
            self._recorded.append(
                Recorded(
                    kind=_FINDING_KINDS.get(kind, f"kind {kind}"),
                    rule="lockdep" if invariant == _LOCKDEP else f"I{invariant}",
                    actor=self._names[row[FOUND_EVENT] >> EVENT_SHIFT],
                    time_ns=row[FOUND_NS],
                )
            )

    # --- what the stream alone does not show

    def _check_silence(self) -> None:
        """A vCPU or the controller that logged nothing for longer than run.hang_s before a run ended without its VM (I25)."""
        run = self._archive.config.get("run")
        hang_s = run.get("hang_s") if isinstance(run, dict) else None
        ended = self._kinds.size and self._kinds[Kind.VM_DESTROY]
        if self._closed_ns is None or not isinstance(hang_s, (int, float)) or not self._archive.complete or ended:
            return
        for actor, (seq, time_ns) in sorted(self._last_seen.items()):
            silent_ns = self._closed_ns - time_ns
            if (actor < FIRST_OTHER or self._names[actor] == "ctl") and silent_ns > hang_s * NS_PER_S:
                row = [NO_EVENTS, (actor << EVENT_SHIFT) + seq, time_ns, NO_EVENT, 0, EXACT, 1, -1, -1, -1, -1, silent_ns]
                self._nr_found[NO_EVENTS] += 1
                self._found.append(row)

    def _check_counters(self) -> None:
        """The run counted too; a complete log must come to the same numbers.

        A vCPU that was killed inside a guest instruction had counted it and not yet logged it, or the other way round.
        """
        self._counted: dict[str, int] = {}
        if self._kinds.size:
            self._counted = {name: int(self._kinds[kind]) for name, kind in _BY_KIND.items()}
            self._counted |= {name: int(self._counts[index]) for index, name in enumerate(COUNTS)}
        if not self._archive.complete:
            return
        for name, counted in self._counted.items():
            wanted = self._counters.get(name)
            cut_off = self._vcpus_killed if name in _OF_GUEST_ACCESSES else 0
            if wanted is not None and abs(wanted - counted) > cut_off:
                self._problem("counters-differ", "events", f"{name} = {counted}, and the run counted {wanted}")

    def _problem(self, code: str, where: str, what: str) -> None:
        self._problems.append(Problem(code, where, what))

    # --- the end

    def _result(self) -> CheckResult:
        certain: list[Finding] = []
        ambiguous: list[Finding] = []
        self._found.sort(key=lambda row: (row[FOUND_NS], row[FOUND_EVENT]))
        for row in self._found:
            finding = self._finding(row, len(certain) + 1)
            (certain if finding.confidence == "certain" else ambiguous).append(finding)
        by_rule: Counter[str] = Counter()
        for code, count in self._nr_found.items():
            if code > 0:
                by_rule[DETAILS[code].rule] += count
        for number, finding in enumerate(certain[:FINDINGS_SHOWN_WITH_EVIDENCE]):
            certain[number] = dataclasses.replace(finding, evidence=self._evidence(finding))
        problems = [*self._archive.problems, *self._problems]
        disagreements = self._disagreements(certain, sum(by_rule.values()))
        verdict, reason = self._verdict(sum(by_rule.values()), problems)
        return CheckResult(
            verdict=verdict,
            reason=reason,
            folder=self._archive.path,
            scenario=str(self._archive.manifest.get("scenario", "")),
            findings=certain,
            ambiguous=ambiguous,
            nr_findings=dict(sorted(by_rule.items())),
            recorded=self._recorded,
            disagreements=disagreements,
            problems=problems,
            events=self._events,
            counts=self._counted,
            window_ns=self._window_ns,
            run_verdict=self._run_verdict,
            elapsed_s=time.perf_counter() - self._started,
        )

    def _finding(self, row: list[int], number: int) -> Finding:
        detail = DETAILS[row[FOUND_DETAIL]]
        exact = row[FOUND_MARGIN_NS] == EXACT
        other = row[FOUND_OTHER_EVENT]
        judged: dict[int, Any] = {BY_TIME: "time", BY_BOTH: "both"}
        a = row[FOUND_A] / NS_PER_S if row[FOUND_DETAIL] == NO_EVENTS else row[FOUND_A]
        return Finding(
            number=number,
            rule=detail.rule,
            kind=detail.kind,
            detail=detail.sentence.format(a=a, lock=_LOCKS.get(row[FOUND_A], "")),
            confidence="certain" if exact or row[FOUND_MARGIN_NS] > self._window_ns else "ambiguous",
            judged_by=judged.get(row[FOUND_JUDGED_BY], "event"),
            margin_ns=None if exact else row[FOUND_MARGIN_NS],
            actor=self._names[row[FOUND_EVENT] >> EVENT_SHIFT],
            seq=row[FOUND_EVENT] & ((1 << EVENT_SHIFT) - 1),
            time_ns=row[FOUND_NS],
            other_actor=None if other < 0 else self._names[other >> EVENT_SHIFT],
            other_seq=None if other < 0 else other & ((1 << EVENT_SHIFT) - 1),
            other_time_ns=None if row[FOUND_OTHER_NS] < 0 or other < 0 else row[FOUND_OTHER_NS],
            gfn=_known(row[FOUND_GFN]),
            root=_known(row[FOUND_ROOT]),
            pfn=_known(row[FOUND_PFN]),
            incarnation=_known(row[FOUND_INCARNATION]),
        )

    def _evidence(self, finding: Finding) -> tuple[Event, ...]:
        places = [(self._archive.actors.index(finding.actor), finding.seq)]
        if finding.other_actor is not None and finding.other_seq is not None:
            places.append((self._archive.actors.index(finding.other_actor), finding.other_seq))
        return tuple(events_at(self._archive, places))

    def _disagreements(self, findings: list[Finding], count: int) -> list[str]:
        """Where two judges should agree and do not; none of these is explained away."""
        sentences = []
        for kind in ("stale-use", "stale-writeback"):
            judged = [finding.judged_by for finding in findings if finding.kind == kind]
            late = judged.count("time")
            if late:
                sentences.append(
                    f"{late} {kind} by time alone: logged after the DELETE or MOVE had returned, "
                    "though the event itself met nothing retired or foreign"
                )
            early = judged.count("event")
            if early:
                sentences.append(f"{early} {kind} by what the event carries alone: not later than the DELETE or MOVE's return")
        logged = max(self._nr_recorded, self._control_findings)
        if logged and not count:
            sentences.append(f"the run reported {logged} findings, none of which the log shows")
        if self._run_verdict == Verdict.PASS.value and count:
            sentences.append("the run said PASS")
        return sentences

    def _verdict(self, count: int, problems: list[Problem]) -> tuple[Verdict, str]:
        logged = max(self._nr_recorded, self._control_findings)
        if count or logged:
            reason = _plural(count, "finding") if count else f"{_plural(logged, 'finding')} of the run itself"
            return Verdict.VIOLATION, reason + (f"; and {_plural(len(problems), 'problem')} of the log" if problems else "")
        if not self._archive.actors or not self._events:
            return Verdict.INCONCLUSIVE, str(problems[0]) if problems else "the log has no events"
        if problems:
            more = f" (and {_plural(len(problems) - 1, 'more problem')})" if len(problems) > 1 else ""
            return Verdict.INCONCLUSIVE, f"{problems[0]}{more}"
        if self._missing_evidence:
            return Verdict.INCONCLUSIVE, self._missing_evidence
        if self._run_verdict is not None and self._run_verdict != Verdict.PASS.value:
            return Verdict.INCONCLUSIVE, f"the run ended as {self._run_verdict}: {self._run_reason}"
        return Verdict.PASS, ""


def _known(word: int) -> int | None:
    return None if word < 0 else word


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
