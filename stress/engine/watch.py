# SPDX-License-Identifier: GPL-2.0-only
"""The watchdog: is every process of the run alive, does the protocol make progress, or is only the machine slow?

A process that died or was stopped is trouble of the harness. An actor that makes no progress for `hang_s` while its process
runs is a finding (I25): a deadlock if it waits for a word, a livelock if it retries. If its process did not get the CPU, the
machine is slow, and that is only trouble once it lasts.
"""

from __future__ import annotations

import contextlib
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil

from model.constants import PHASE_DONE, PHASE_RUNNING
from model.layout import MAX_VCPUS, Vm
from stress.engine.outcome import locks_held
from stress.engine.result import Finding

if TYPE_CHECKING:
    from stress.engine.process import FieldTable

__all__ = ["Member", "Watch"]

SLOW_MACHINE_FACTOR = 4
OWN_GAP_S = 1.0  # a parent that was away for so long cannot blame others
CPU_SHARE_MIN = 0.02


@dataclass
class Member:
    """One process of the run; `actor` is None for the drain."""

    name: str
    actor: int | None
    process: Any
    reaped: bool = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return int(self.process.pid)


@dataclass
class _Seen:
    progress: int = -1
    retries: int = 0
    since: float = 0.0
    cpu_s: float = 0.0
    retries_at_since: int = 0


class Watch:
    """Looks at all members of a run, again and again."""

    def __init__(self, vm: Vm, members: list[Member], fields: FieldTable, base: int, hang_s: float) -> None:
        """Start watching.

        Args:
            vm: views of the shared record.
            members: the run's processes.
            fields: names the word that an actor waits for.
            base: address of the shared record, the same in every process.
            hang_s: no progress for so long is a hang.
        """
        self._vm = vm
        self._members = members
        self._fields = fields
        self._base = base
        self._hang_s = hang_s
        self._seen = {member.name: _Seen() for member in members}
        self._last_look = time.monotonic()

    def dead_or_stopped(self) -> str:
        """A sentence about the first member that died or was stopped, or ""."""
        for member in self._members:
            if member.reaped:
                continue
            code = member.process.exitcode
            if code is None:
                if self._is_stopped(member):
                    return f"{self._who(member)} was stopped by a signal"
                continue
            if code == 0 and (member.actor is None or self._vm.actor.phase[member.actor] == PHASE_DONE):
                member.reaped = True
                continue
            how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
            return f"{self._who(member)} {how}"
        return ""

    def _who(self, member: Member) -> str:
        held = "" if member.actor is None else f", {locks_held(self._vm, member.actor)},"
        return f"{member.name} (pid {member.pid}){held}"

    @staticmethod
    def _is_stopped(member: Member) -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            return bool(psutil.Process(member.pid).status() == psutil.STATUS_STOPPED)
        return False

    def hang(self, now_ns: int) -> tuple[Finding | None, str]:
        """Look for a hang.

        Returns:
            A finding if the protocol hangs, else None; and a sentence if the machine has been too slow for too long, else "".
        """
        now = time.monotonic()
        if now - self._last_look > OWN_GAP_S:
            for seen in self._seen.values():
                seen.since = now
        self._last_look = now
        for member in self._members:
            if member.actor is None or member.reaped or self._vm.actor.phase[member.actor] != PHASE_RUNNING:
                continue
            if member.actor >= MAX_VCPUS and member.name != "ctl":
                continue
            quiet_s = self._quiet_s(member, now)
            if quiet_s < self._hang_s:
                continue
            reason = self._reason(member, quiet_s)
            if reason:
                return self._finding(member, reason, now_ns), ""
            if quiet_s > SLOW_MACHINE_FACTOR * self._hang_s:
                return None, f"{member.name} (pid {member.pid}) got no CPU for {quiet_s:.0f} s: the machine is too slow or too full"
        return None, ""

    def _quiet_s(self, member: Member, now: float) -> float:
        seen = self._seen[member.name]
        progress = int(self._vm.actor.progress[member.actor])
        if progress != seen.progress or self._done_with_its_work(member):
            seen.progress, seen.since = progress, now
            seen.cpu_s = _cpu_s(member.pid)
            seen.retries_at_since = int(self._vm.actor.retries[member.actor])
        return now - seen.since

    def _done_with_its_work(self, member: Member) -> bool:
        # A vCPU that has left waits for the VM's end by design; the controller answers for how long that takes.
        waits_for = self._waits_for(member.actor or 0)
        return member.actor is not None and member.actor < MAX_VCPUS and waits_for == "run.destroyed"

    def _doing(self, actor: int) -> str:
        waits_for = self._waits_for(actor)
        return f"waits for {waits_for}" if waits_for else "runs"

    def _waits_for(self, actor: int) -> str:
        word = int(self._vm.actor.wait_word[actor])
        return self._fields.field_of(word - self._base) if word else ""

    def _reason(self, member: Member, quiet_s: float) -> str:
        actor = member.actor
        assert actor is not None  # noqa: S101 - the caller skips members without one
        seen = self._seen[member.name]
        waits_for = self._waits_for(actor)
        if waits_for:
            return f"waits for {waits_for}"
        retries = int(self._vm.actor.retries[actor]) - seen.retries_at_since
        if retries > 0:
            return f"made {retries} retries and no progress"
        if _cpu_s(member.pid) - seen.cpu_s > CPU_SHARE_MIN * quiet_s:
            return "runs without progress"
        return ""

    def _finding(self, member: Member, reason: str, now_ns: int) -> Finding:
        others = "; ".join(
            f"{other.name} {self._doing(other.actor)}, {locks_held(self._vm, other.actor)}"
            for other in self._members
            if other.actor is not None and not other.reaped
        )
        return Finding(
            kind="invariant",
            invariant="I25",
            actor=member.name,
            other_actor=None,
            time_ns=now_ns,
            other_time_ns=None,
            gfn=None,
            pfn=None,
            incarnation=None,
            root=None,
            slot=None,
            detail=f"no progress for {self._hang_s:g} s: {reason} ({others})",
        )


def _cpu_s(pid: int) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    return 0.0


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
