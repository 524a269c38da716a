# SPDX-License-Identifier: GPL-2.0-only
"""The loop that runs a campaign or a soak: start what comes next, count what has ended, look after everything.

Nothing counts before the journal has it. A run that a dying campaign left behind is settled when the campaign is taken up again:
it counts if its folder holds a verdict, its log is judged if it holds one, and else it is run anew.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from stress import __version__
from stress.campaign.clocks import ClockWatch
from stress.campaign.disk import SALVAGE_FILE, DiskBudget, sync_tree
from stress.campaign.executor import CommandJob, RunJob
from stress.campaign.fold import folded
from stress.campaign.journal import Journal, JournalLock, read_journal
from stress.campaign.notify import Heartbeat, notify_systemd
from stress.campaign.proof import weakness
from stress.campaign.row import ended_row, failed_row, last_object, lines_of, salvaged_row, was_stopped
from stress.campaign.state import State
from stress.campaign.vitals import Vitals
from stress.config import parse_duration
from stress.errors import HarnessError
from stress.log.folder import write_atomic
from stress.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from stress.campaign.executor import Ended, Executor
    from stress.campaign.folder import CampaignFolder
    from stress.campaign.plan import Plan, PlannedRun
    from stress.campaign.schema import Campaign

__all__ = ["Supervisor"]

DIED = "the campaign's process died"
POLL_S = 0.5
COMMAND_S_MAX = 60.0
SALVAGE_S_MAX = 600.0
REPRODUCE_EXTRA_S = 120.0  # to compile the explorer, shrink and draw
FINDINGS_KEPT = 5  # in the journal; a run's folder has all of them
LOSSES_MAX = 20  # a run that is lost so often with its worker may be what kills it
MIB = 1 << 20


@dataclass
class _Attempt:
    """A run that is on, or whose log is being judged; `lost`: with the process or the worker that was in charge of it."""

    planned: PlannedRun
    number: int
    trouble: str = ""
    lost: bool = False

    @property
    def name(self) -> str:
        return self.planned.name(self.number)


class Supervisor:
    """Runs one campaign in one process, from where its journal ends."""

    def __init__(
        self,
        folder: CampaignFolder,
        campaign: Campaign,
        plan: Plan,
        executor: Executor,
        soak_s: float | None,
        on_line: Callable[[str], None],
        on_progress: Callable[[str, float], None],
    ) -> None:
        """Take the campaign up.

        Args:
            folder: of the campaign.
            campaign: its file.
            plan: its runs.
            executor: executes them.
            soak_s: for how long; None until the plan is done.
            on_line: called with lines for the user.
            on_progress: called with how far it has come, and the seconds since the start.

        Raises:
            UsageError: another process runs it.
            HarnessError: its journal is damaged.
        """
        self._folder = folder
        self._campaign = campaign
        self._plan = plan
        self._executor = executor
        self._soak_s = soak_s
        self._on_line = on_line
        self._on_progress = on_progress
        self.state = State()
        self._lock = JournalLock(folder.lock)
        self._journal = Journal(folder.journal, self.state.checkpoint)
        for record, _ in read_journal(folder.journal):
            self.state.apply(record)
        self._attempts: dict[str, _Attempt] = {}  # by the name of the job
        self._again: list[_Attempt] = []  # to be started before anything new
        self._commands: list[CommandJob] = []  # that wait for a place
        self._enough = ""  # why nothing new is started
        self._asked = 0  # how often a signal asked for the end
        self._clocks = ClockWatch()
        self._vitals = Vitals(folder.path, parse_duration(campaign.soak.sample))
        self._heartbeat = Heartbeat(folder.path)
        self._disk = DiskBudget(folder.path, campaign.limits.disk_mb * MIB, self._is_planted)

    # --- the loop

    def run(self) -> tuple[Verdict, str]:
        """Go on until the plan is done, a limit or a rule says stop, or a signal does; the verdict and its reason.

        A journal that cannot be written and a cluster that is gone end it as well. Nothing is lost, and a violation stays one.
        """
        try:
            with self._signals():
                self._begin()
                more = self._fill()
                while more or self._executor.running():
                    for ended in self._executor.poll(POLL_S):
                        self._take(ended)
                    self._look_around()
                    more = self._fill()
                return self._finish()
        except (HarnessError, OSError, EOFError) as error:  # of the journal, the disk, the cluster, the server of processes
            verdict, reason = self.state.verdict()
            if verdict is Verdict.VIOLATION:
                return verdict, f"{reason}; and the harness: {error}"
            return Verdict.HARNESS_ERROR, str(error)
        finally:
            notify_systemd("STOPPING=1")
            self._executor.close()
            self._journal.close()
            self._lock.release()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Once: let runs end in order. Twice: end them. A terminal that hangs up ends nothing."""

        def stop(number: int, _frame: Any) -> None:
            self._asked += 1
            self._enough = f"stopped by {signal.Signals(number).name}"

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _record(self, event: str, **fields: Any) -> None:
        self.state.apply(self._journal.append(event, **fields))

    def _begin(self) -> None:
        if not self.state.identity:
            self._record("campaign", campaign=self._campaign.campaign, total=self._plan.total, soak_s=self._soak_s)
        self._record("session", pid=os.getpid(), version=__version__, executor=self._executor.describe())
        if self._journal.torn_bytes:
            self._note("journal", f"{self._journal.torn_bytes} bytes of a torn line were cut off, kept in journal.torn")
        notify_systemd("READY=1")
        for left in list(self.state.open.values()):
            attempt = _Attempt(self._plan.run(left.index), left.attempt, DIED, lost=True)
            if left.started:
                self._settle(attempt)
            else:
                self._again.append(_Attempt(attempt.planned, left.attempt + 1))
        for signature in self.state.findings:
            self._follow_up(signature)

    def _fill(self) -> bool:
        """Start what there is room for; is anything left that waits for room?"""
        self._stop_early()
        while self._waits():
            if not self._executor.has_room(command=bool(self._commands)):
                return True
            if self._commands:
                self._executor.start(self._commands.pop(0))
            elif self._again:
                self._start(self._again.pop(0))
            else:
                self._start(_Attempt(self._plan.run(self.state.next_index), 1))
        return False

    def _waits(self) -> bool:
        new = self._plan.total is None or self.state.next_index < self._plan.total
        return bool(self._commands) or (not self._enough and (bool(self._again) or new))

    @property
    def _total_s(self) -> float:
        return self.state.spent_s + self._journal.up_s

    def _stop_early(self) -> None:
        """See whether it is enough."""
        limits, stop = self._campaign.limits, self._campaign.stop
        if self._asked:
            self._executor.stop(now=self._asked > 1)
            self._commands.clear()
        elif self._soak_s is not None and self._total_s >= self._soak_s:
            self._enough = self._enough or "time is over"
        elif limits.total_time and self._total_s >= parse_duration(limits.total_time):
            self._enough = self._enough or f"limits.total_time = {limits.total_time} is over"
        elif stop.violations and self.state.violations >= stop.violations:
            self._enough = self._enough or f"stop.violations = {stop.violations} reached"

    def _start(self, attempt: _Attempt) -> None:
        planned = attempt.planned
        limits = self._campaign.limits
        self._record("start", index=planned.index, attempt=attempt.number, run=attempt.name)
        if (self._folder.runs / attempt.name).exists():  # begun by a process whose journal lost its tail
            attempt.trouble, attempt.lost = DIED, True
            self._settle(attempt)
            return
        self._attempts[attempt.name] = attempt
        job = RunJob(
            attempt.name,
            planned.toml,
            str(self._folder.runs),
            planned.config.duration_s + parse_duration(limits.overtime),
            limits.memory_mb,
            self._campaign.quantiles,
        )
        self._executor.start(job)

    # --- what has ended

    def _take(self, ended: Ended) -> None:
        kind, _, rest = ended.name.partition(" ")
        if not rest:
            attempt = self._attempts.pop(ended.name)
            attempt.trouble, attempt.lost = ended.trouble, ended.lost
            self._settle(attempt)
        elif kind == "check":
            self._salvaged(self._attempts.pop(ended.name), ended)
        elif kind == "reproduce":
            self._reproduced(rest, ended)
        else:
            signature, _, number = rest.partition(" ")
            if not self._asked:  # else it is run when the campaign is taken up again
                self._record("command", signature=signature, number=int(number), exit_code=ended.exit_code, trouble=ended.trouble)

    def _settle(self, attempt: _Attempt) -> None:
        """Count an attempt at a run, or see to it that another one is made."""
        row = ended_row(self._folder.runs / attempt.name, attempt.planned.known(attempt.number), attempt.planned.item.expected)
        if row is None:
            self._salvage(attempt)
        elif row["run_verdict"] == Verdict.VIOLATION.value:
            self._count(row)
        elif was_stopped(row) or row["run_verdict"] == Verdict.HARNESS_ERROR.value or (attempt.trouble and not attempt.lost):
            self._lost(attempt, attempt.trouble or row["reason"])
        else:
            self._count(row)

    def _salvage(self, attempt: _Attempt) -> None:
        """A run that left no verdict may have left a finding in its log."""
        folder = self._folder.runs / attempt.name
        if not any(folder.glob("events/*.parquet")):
            self._lost(attempt, attempt.trouble)
            return
        name = f"check {attempt.name}"
        self._attempts[name] = attempt
        self._queue(name, ["check", str(folder), "--json"], folder / SALVAGE_FILE, SALVAGE_S_MAX)

    def _salvaged(self, attempt: _Attempt, ended: Ended) -> None:
        judged = last_object(self._folder.runs / attempt.name / SALVAGE_FILE)
        if judged.get("verdict") == Verdict.VIOLATION.value:
            self._count(salvaged_row(attempt.planned.known(attempt.number), judged["findings"], attempt.trouble))
        elif "verdict" in judged:
            self._lost(attempt, attempt.trouble)
        elif not self._asked:  # else the run stays open, and its log is judged when the campaign is taken up again
            self._lost(attempt, f"{attempt.trouble}; and its log could not be judged: {ended.trouble or ended.exit_code}")

    def _lost(self, attempt: _Attempt, why: str) -> None:
        """An attempt that says nothing of the protocol: made again, unless the harness has failed too often."""
        index = attempt.planned.index
        self._disk.added(attempt.name)
        again = _Attempt(attempt.planned, attempt.number + 1)
        anew = attempt.lost and (attempt.trouble == DIED or attempt.number <= LOSSES_MAX)
        if self._asked or anew:
            if not self._asked:
                self._on_line(f"{attempt.name}: {why}; made anew")
            self._record("dropped", index=index, attempt=attempt.number, run=attempt.name, why=why)
            self._again.append(again)
        elif self.state.open[index].failures < self._campaign.limits.harness_retries:
            self._record("again", index=index, attempt=attempt.number, run=attempt.name, why=why)
            self._on_line(f"{Verdict.HARNESS_ERROR.value} {attempt.name}: {why}; tried again")
            self._again.append(again)
        else:
            self._count(failed_row(attempt.planned.known(attempt.number), why))

    def _count(self, row: dict[str, Any]) -> None:
        entries = folded(row) if row["verdict"] == Verdict.VIOLATION.value and row["role"] != "planted" else []
        if entries:
            sync_tree(self._folder.runs / row["run"])
        new = [signature for signature, _ in entries if signature not in self.state.findings]
        self._record("end", **(row | {"findings": row["findings"][:FINDINGS_KEPT]}), folded=entries)
        self._disk.added(row["run"])
        if row["verdict"] != Verdict.PASS.value and row["role"] != "planted":
            self._on_line(f"{row['verdict']} {row['run']}: {row['reason']}")
        for signature in new:
            self._on_line(f"    new: {self.state.findings[signature].title} ({signature})")
        for signature, _ in entries:
            self._follow_up(signature)
        self._keep_within_budget()

    # --- findings

    def _follow_up(self, signature: str) -> None:
        """Do what is still to be done about a finding: the user's commands, and looking for a schedule that shows it."""
        entry = self.state.findings[signature]
        folder = self._folder.findings / signature
        if not folder.exists():
            folder.mkdir()
            content = {"title": entry.title, "first": entry.first, "run": entry.runs[0]}
            write_atomic(folder / "finding.json", msgspec.json.encode(content))
        words = {
            "title": entry.title,
            "signature": signature,
            "run": str(self._folder.runs / entry.runs[0]),
            "campaign": str(self._folder.path),
        }
        for number, command in enumerate(self._campaign.finding.commands):
            name = f"command {signature} {number}"
            if number not in entry.commands and name not in self._executor.running():
                argv = tuple(word.format(**words) for word in command)
                self._executor.start(CommandJob(name, argv, str(folder / f"command-{number}.txt"), COMMAND_S_MAX, beside=True))
        budget = self._campaign.finding.reproduce
        if budget and entry.lead and not entry.reproduced:
            words_of_ours = ["reproduce", str(self._folder.runs / entry.lead), "--budget", budget, "--json"]
            self._queue(
                f"reproduce {signature}", words_of_ours, folder / "reproduce.txt", parse_duration(budget) + REPRODUCE_EXTRA_S
            )

    def _queue(self, name: str, argv: list[str], output: Path, seconds_max: float) -> None:
        if name in self._executor.running() or any(job.name == name for job in self._commands):
            return
        output.unlink(missing_ok=True)
        self._commands.append(CommandJob(name, (sys.executable, "-m", "stress.cli", *argv), str(output), seconds_max))

    def _reproduced(self, signature: str, ended: Ended) -> None:
        run = self.state.findings[signature].lead
        said = last_object(self._folder.findings / signature / "reproduce.txt")
        if said.get("reproduced"):
            outcome = f"yes: {self._folder.runs / run / 'failure.json'}"
        elif ended.exit_code == Verdict.INCONCLUSIVE.exit_code:
            outcome = f"not within {self._campaign.finding.reproduce}"
        else:
            lines = lines_of(self._folder.findings / signature / "reproduce.txt")
            outcome = f"failed: {ended.trouble or (lines[-1] if lines else f'exit code {ended.exit_code}')}"
        if not self._asked:  # else it is tried when the campaign is taken up again
            self._record("reproduced", signature=signature, outcome=outcome)
            self._on_line(f"    {signature} reproduced: {outcome}")

    # --- looking after everything

    def _look_around(self) -> None:
        for about, text in self._clocks.look():
            self._note(about, text)
        if self._vitals.is_due():
            used = self._disk.used if self._disk.thinning else None
            for about, text in self._vitals.sample(self._executor.long_lived(), used):
                self._note(about, text)
            self._tell_leaks()
        if self._heartbeat.is_due():
            self._heartbeat.beat(self._progress(), running=self._executor.running(), disk_mb=self._disk.used / MIB)
        self._on_progress(self._progress(), self._journal.up_s)

    def _note(self, about: str, text: str) -> None:
        self._record("note", about=about, text=text)
        self._on_line(f"note: {text}")

    def _tell_leaks(self) -> None:
        for resource, text in self._vitals.leaks():
            self._record("leak", resource=resource, text=text)
            self._on_line(f"{Verdict.HARNESS_ERROR.value} {text}")

    def _keep_within_budget(self) -> None:
        thinned, holds = self._disk.thin({run.run for run in self.state.open.values()})
        if thinned:
            self._record("thinned", runs=thinned)
        if not holds and not self._enough:
            limit = self._campaign.limits.disk_mb
            text = f"the evidence of findings alone takes {self._disk.used // MIB} MiB, limits.disk_mb = {limit}"
            self._record("leak", resource="disk", text=text)
            self._enough = text

    def _is_planted(self, run: str) -> bool:
        number = run.partition("-")[0]
        return number.isdigit() and self._plan.run(int(number)).item.planted

    def _progress(self) -> str:
        state, total = self.state, self._plan.total
        counts = ", ".join(f"{count} {verdict}" for verdict, count in state.verdicts.items())
        done = f"{state.ended:,} of {total:,} runs" if total is not None else f"{state.ended:,} runs"
        left = f", {max(0.0, self._soak_s - self._total_s) / 60:.0f} min left" if self._soak_s is not None else ""
        return f"{done}: {counts or 'none ended'}; {len(state.findings)} different findings{left}"

    def _finish(self) -> tuple[Verdict, str]:
        self._tell_leaks()
        verdict, reason = self.state.verdict()
        total = self._plan.total
        done = self.state.ended == total if total is not None else self._enough == "time is over"
        if total is not None and not done and verdict.severity < Verdict.INCONCLUSIVE.severity:
            verdict = Verdict.INCONCLUSIVE
        if verdict is Verdict.PASS:
            reason = weakness(self.state)
        if not done:
            reason = "; ".join(part for part in (self._enough, reason) if part)
        self._record("stop", verdict=verdict.value, reason=self._enough or "all runs have ended")
        self._heartbeat.beat(self._progress(), running={}, disk_mb=self._disk.used / MIB)
        return verdict, reason
