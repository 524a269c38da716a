# SPDX-License-Identifier: GPL-2.0-only
"""The watchdog: is every process of the run alive, does the protocol make progress, or is only the machine slow?

A process that died or was stopped is trouble of the harness. An actor that makes no progress for `hang_s` while its process
runs is a finding (I25): a deadlock if it waits for a word, a livelock if it retries. If its process did not get the CPU, the
machine is slow, and that is only trouble once it lasts.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil

from model.constants import LOG_WINDOW, PHASE_DONE, PHASE_RUNNING
from model.layout import ACTOR_TOGGLER, MAX_VCPUS, Vm
from stress.engine.liveness import ending, is_stopped
from stress.engine.outcome import locks_held
from stress.engine.result import Finding

if TYPE_CHECKING:
    from stress.engine.process import FieldTable

__all__ = ["Member", "Watch"]

SLOW_MACHINE_FACTOR = 4
# An endless loop passes primitives far faster than this, an actor under heavy stalls far slower.
LOOP_PRIMITIVES_PER_S_MIN = 1000
RUNS = "runs without progress"
OWN_GAP_S = 1.0  # a parent that was away for so long cannot blame others
# Below both of these a process did not run: neither to work nor to look at the word that it waits for.
CPU_SHARE_MIN = 0.01
SWITCHES_PER_S_MIN = 20
SAMPLES_PER_HANG = 4


@dataclass
class Member:
    """One process of the run.

    Attributes:
        actor: whom it plays; None for the drain.
        reaped: it has ended as it should.
        held: the nemesis has stopped or killed it, and answers for it.
        life: how many processes of its name were killed before it.
    """

    name: str
    actor: int | None
    process: Any
    reaped: bool = False
    held: bool = False
    life: int = 0

    @property
    def pid(self) -> int:
        """Its process id."""
        return int(self.process.pid)


@dataclass
class _Seen:
    progress: int = -1
    retries: int = 0
    since: float = 0.0
    retries_at_since: int = 0
    passed_at_since: int = 0
    sampled_at: float = 0.0
    cpu_s: float = 0.0
    switches: int = 0
    starved_at: float = 0.0


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
            if code == 0 and (member.actor is None or self._vm.actor.phase[member.actor] == PHASE_DONE):
                member.reaped = True
            elif member.held:
                continue
            elif code is not None:
                return f"{self._who(member)} {ending(code)}"
            elif is_stopped(member.pid):
                return f"{self._who(member)} was stopped by a signal"
        return ""

    def _who(self, member: Member) -> str:
        held = "" if member.actor is None else f", {locks_held(self._vm, member.actor)},"
        return f"{member.name} (pid {member.pid}){held}"

    def hang(self, now_ns: int) -> tuple[Finding | None, str]:
        """Look for a hang.

        Returns:
            A finding if the protocol hangs, else None; and a sentence if the machine has been too slow for too long, else "".
        """
        now = time.monotonic()
        self._pass_over_gaps(now)
        live = [m for m in self._members if m.actor is not None and not m.reaped and self._vm.actor.phase[m.actor] == PHASE_RUNNING]
        # The toggler sleeps most of the time by design.
        starved = [member for member in live if member.actor != ACTOR_TOGGLER and self._starved(member, now)]
        for member in live:
            quiet_s = self._quiet_s(member, now)
            if quiet_s < self._hang_s:
                continue
            full = self._full_ring(live)
            if full:
                return None, f"the log cannot keep up: the ring of {full} has been full for {quiet_s:.0f} s and stops its actor"
            if self._held_up_by_noise(member, quiet_s):
                continue
            if not starved:
                return self._finding(member, self._reason(member), now_ns), ""
            # Whoever waits may wait for the one that got no CPU.
            if quiet_s > SLOW_MACHINE_FACTOR * self._hang_s:
                who = f"{starved[0].name} (pid {starved[0].pid})"
                return None, f"no progress for {quiet_s:.0f} s while {who} got no CPU: the machine is too slow or too full"
        return None, ""

    def _pass_over_gaps(self, now: float) -> None:
        """Time in which silence says nothing does not count."""
        gap_s, self._last_look = now - self._last_look, now
        if gap_s > OWN_GAP_S:
            for seen in self._seen.values():
                seen.since = seen.starved_at = now
        elif any(member.held for member in self._members):
            # Everybody may wait for the one that the nemesis holds.
            for seen in self._seen.values():
                seen.since += gap_s

    def _passed(self, actor: int) -> int:
        """Primitives that the actor has passed; counted in instrumented builds alone."""
        return int(self._vm.site[actor, :, :, 0].sum())

    def _held_up_by_noise(self, member: Member, quiet_s: float) -> bool:
        """Does it neither wait nor retry, but pass primitives as slowly as only our own pauses make it?"""
        passed = self._passed(member.actor or 0) - self._seen[member.name].passed_at_since
        return self._reason(member) == RUNS and 0 < passed < LOOP_PRIMITIVES_PER_S_MIN * quiet_s

    def _full_ring(self, live: list[Member]) -> str:
        """An actor that waits for the drain: its silence says nothing about the protocol."""
        if self._vm.cfg.log_policy[0] == LOG_WINDOW:
            return ""
        for member in live:
            if self._vm.actor.ring_head[member.actor] - self._vm.actor.ring_tail[member.actor] >= self._vm.cfg.ring_slots[0]:
                return member.name
        return ""

    def _quiet_s(self, member: Member, now: float) -> float:
        if (member.actor or 0) >= MAX_VCPUS and member.name != "ctl":
            return 0.0  # the others have nothing to do most of the time
        seen = self._seen[member.name]
        progress = int(self._vm.actor.progress[member.actor])
        if progress != seen.progress or self._done_with_its_work(member):
            seen.progress, seen.since = progress, now
            seen.retries_at_since = int(self._vm.actor.retries[member.actor])
            seen.passed_at_since = self._passed(member.actor or 0)
        return now - seen.since

    def _starved(self, member: Member, now: float) -> bool:
        """Was it kept from running at some time within the last `hang_s`?

        Who works uses the CPU; who waits wakes up again and again to look, and that shows as context switches.
        """
        seen = self._seen[member.name]
        passed_s = now - seen.sampled_at
        if member.held:
            seen.sampled_at, (seen.cpu_s, seen.switches) = now, _cpu_use(member.pid)
        elif passed_s >= self._hang_s / SAMPLES_PER_HANG:
            cpu_s, switches = _cpu_use(member.pid)
            ran = cpu_s - seen.cpu_s >= CPU_SHARE_MIN * passed_s or switches - seen.switches >= SWITCHES_PER_S_MIN * passed_s
            if not ran:
                seen.starved_at = now
            seen.sampled_at, seen.cpu_s, seen.switches = now, cpu_s, switches
        return now - seen.starved_at < self._hang_s

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

    def _reason(self, member: Member) -> str:
        actor = member.actor
        assert actor is not None  # noqa: S101 - the caller skips members without one
        waits_for = self._waits_for(actor)
        if waits_for:
            return f"waits for {waits_for}"
        retries = int(self._vm.actor.retries[actor]) - self._seen[member.name].retries_at_since
        return f"made {retries} retries and no progress" if retries > 0 else RUNS

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


def _cpu_use(pid: int) -> tuple[float, int]:
    """Seconds of CPU that a process used, and how often it gave the CPU up to wait."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        times = process.cpu_times()
        return float(times.user + times.system), int(process.num_ctx_switches().voluntary)
    return 0.0, 0
