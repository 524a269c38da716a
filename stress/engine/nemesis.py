# SPDX-License-Identifier: GPL-2.0-only
"""The nemesis: faults of the machine that hit the run's own processes, while the protocol is judged as ever.

An act is a generator. Up to its first `yield` it does its harm, each `yield` says for how many seconds things stay so, and what
stands behind the last one undoes it all. The parent steps them from its loop; there is no thread. docs/reference/nemesis.md says
what each act means.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import random
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import multiprocess
import psutil

from model.constants import EV_KVM_EXIT, EV_SRCU_UNLOCK, PHASE_KILLED, PHASE_RUNNING
from model.layout import ACTOR_CTL, MAX_VCPUS, Vm
from model.rng import rng_seed
from stress.engine.process import enter_child
from stress.log.drain import DRAIN_EXIT_FAILED, DRAIN_RUNNING, DRAIN_STARTING, STATUS_ERRNO, STATUS_HEARTBEAT, STATUS_STATE

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from stress.config import Nemesis as Settings
    from stress.engine.watch import Member

__all__ = ["Nemesis"]

_STREAM = 900  # of the run's seed, apart from those of the actors
# Acts beside which nobody makes progress: one of them at a time, and then a pause without any.
_HOLDING = {"stop-vcpu", "kill-vcpu", "stop-ctl", "kill-ctl", "stop-drain", "kill-drain", "slow-disk", "full-disk"}
# A thread is stopped to look at it this often, each time when it just seems to be where it may die.
_CATCHES = 10
_CATCH_S = 0.01
_STOPPED_S = 0.5  # a starved process needs the CPU once more to stop
_POLL_S = 0.0002
# A slow disk: the drain stands still for so long, and then goes on for so long.
_SLOW_STOP_S = 0.02
_SLOW_RUN_S = 0.005
_DRAIN_LOOK_S = 0.01
_DRAIN_S = 10.0  # a drain that has shown nothing for so long is the watchdog's again
_NICE_MAX = 19
_MIB = 1 << 20
_MEMORY_SPARE = 2  # so many times the memory must be there, or the machine itself is at risk


class _NotPossibleError(Exception):
    """The act cannot be done here and now, for the reason that it says."""


class Nemesis:
    """Does the acts of one run, and knows which of them are its own doing."""

    def __init__(
        self,
        settings: Settings,
        seed: int,
        vm: Vm,
        members: list[Member],
        status: NDArray[np.int64],
        succeed: Callable[[Member], None],
        emit: Callable[..., None],
    ) -> None:
        """Do nothing yet.

        Args:
            settings: the scenario's `[nemesis]`.
            seed: the run's seed.
            vm: views of the shared record.
            members: the run's processes; the first is the drain.
            status: the drain's status.
            succeed: forks a process in the place of a member's that is dead.
            emit: writes a control event.
        """
        self.counts: dict[str, dict[str, int]] = {act: {"done": 0, "not_possible": 0} for act in settings.acts}
        self.tore_log = False
        self._settings = settings
        self._random = random.Random(rng_seed(seed, _STREAM))
        self._vm = vm
        self._members = members
        self._drain = members[0]
        self._status = status
        self._succeed = succeed
        self._emit = emit
        self._running: dict[str, tuple[Generator[float, None, str], float]] = {}
        self._over = not settings.acts
        self._next_at = time.monotonic() + self._pause_s()
        self._calm_until = 0.0
        # Progress of an actor when its thread was replaced: it is left alone until it has made more.
        self._replaced_at: dict[int, int] = {}
        vcpus = [member for member in members if member.actor is not None and member.actor < MAX_VCPUS]
        ctl = [member for member in members if member.actor == ACTOR_CTL]
        self._plays: dict[str, Callable[[str], Generator[float, None, str]]] = {
            "stop-vcpu": lambda act: self._stop(act, vcpus),
            "stop-ctl": lambda act: self._stop(act, ctl),
            "stop-drain": lambda act: self._stop(act, [self._drain]),
            "kill-vcpu": lambda act: self._kill(act, vcpus, self._vcpu_may_die),
            "kill-ctl": lambda act: self._kill(act, ctl, self._controller_may_die),
            "kill-drain": self._kill_drain,
            "affinity": self._affinity,
            "priority": self._priority,
            "hog": self._hog,
            "memory": self._memory,
            "slow-disk": self._slow_disk,
            "full-disk": self._full_disk,
        }

    # --- for the parent's loop

    def step(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        for act, (steps, due) in list(self._running.items()):
            if now >= due:
                self._go_on(act, steps)
        if not self._over and now >= self._next_at:
            self._next_at = now + self._pause_s()
            holds = bool(_HOLDING & self._running.keys()) or now < self._calm_until
            acts = [act for act in self._settings.acts if act not in self._running and not (holds and act in _HOLDING)]
            if acts:
                act = self._random.choice(acts)
                self._go_on(act, self._plays[act](act))

    def due_in_s(self, longest_s: float) -> float:
        """Seconds until the next step is due, at most `longest_s`."""
        times = [math.inf if self._over else self._next_at, *(due for _, due in self._running.values())]
        return min(longest_s, max(0.0, min(times) - time.monotonic()))

    def end(self) -> None:
        """Undo what is still done, and do no more."""
        self._over = True
        with contextlib.ExitStack() as stack:
            for act, (steps, _) in list(self._running.items()):
                stack.callback(self._finish, act, steps)

    def _finish(self, act: str, steps: Generator[float, None, str]) -> None:
        while act in self._running:
            self._go_on(act, steps)
            time.sleep(_POLL_S)

    def _go_on(self, act: str, steps: Generator[float, None, str]) -> None:
        """One step of an act; it is over when there is none."""
        self._running.pop(act, None)
        try:
            pause_s = next(steps)
            self._running[act] = (steps, time.monotonic() + pause_s)
        except StopIteration as stop:
            if act in _HOLDING:
                self._calm_until = time.monotonic() + self._pause_s()
            self._emit("nemesis_end", act=act, outcome=stop.value)
        except (_NotPossibleError, psutil.Error, OSError) as error:
            self.counts[act]["not_possible"] += 1
            self._emit("nemesis", act=act, done=False, target="", reason=str(error))

    def _did(self, act: str, target: str, **fields: Any) -> None:
        self.counts[act]["done"] += 1
        self._emit("nemesis", act=act, done=True, target=target, **fields)

    # --- chance

    def _pause_s(self) -> float:
        return self._random.uniform(0, 2 * self._settings.period_ms / 1000)

    def _duration_s(self) -> float:
        return self._random.uniform(0, self._settings.stop_ms_max / 1000)

    def _one(self, members: list[Member]) -> Member:
        alive = [member for member in members if not member.reaped and member.process.exitcode is None]
        if not alive:
            raise _NotPossibleError("nobody is there to be hit")
        return self._random.choice(alive)

    def _some(self) -> list[Member]:
        alive = [member for member in self._members if not member.reaped and member.process.exitcode is None]
        return self._random.sample(alive, self._random.randint(1, len(alive)))

    # --- signals

    @staticmethod
    def _signal(member: Member, number: int) -> None:
        # Who has not been waited for keeps its process id.
        if member.process.exitcode is None:
            os.kill(member.pid, number)

    def _stop(self, act: str, members: list[Member]) -> Generator[float, None, str]:
        """SIGSTOP for a while, wherever the process is: a virtual CPU that the host does not run."""
        member, duration_s = self._one(members), self._duration_s()
        with _held(member):
            self._signal(member, signal.SIGSTOP)
            self._did(act, member.name, pid=member.pid, ms=_ms(duration_s))
            yield duration_s
            self._signal(member, signal.SIGCONT)
        return ""

    def _kill(self, act: str, members: list[Member], may_die: Callable[[int], bool]) -> Generator[float, None, str]:
        """SIGKILL where Linux would act upon it; after a while another thread takes over."""
        actors = self._vm.actor
        rested = [
            member
            for member in members
            if actors.phase[member.actor] == PHASE_RUNNING
            and actors.progress[member.actor] != self._replaced_at.get(member.actor or 0)
        ]
        member = self._one(rested)
        actor = member.actor or 0
        dead_s = self._random.uniform(0, self._settings.dead_ms_max / 1000)
        pid = member.pid
        with _held(member):
            if not self._catch(member, lambda: may_die(actor)):
                raise _NotPossibleError(f"{member.name} was not met where its thread may die")
            member.process.kill()
            member.process.join()
            self._replaced_at[actor] = int(actors.progress[actor])
            actors.dead_us[actor] = int(dead_s * 1e6)
            actors.phase[actor] = PHASE_KILLED
            self._succeed(member)
            self._did(act, member.name, pid=pid, ms=_ms(dead_s))
            yield dead_s
        return f"pid {member.pid} took over"

    def _catch(self, member: Member, may_die: Callable[[], bool]) -> bool:
        """Stop a process where it may die. Only a process that stands still can be looked at: all that it did is in memory."""
        for _ in range(_CATCHES):
            _wait_until(may_die, _CATCH_S)
            self._signal(member, signal.SIGSTOP)
            _wait_until(lambda: member.process.exitcode is not None or _stands_still(member.pid), _STOPPED_S)
            if member.process.exitcode is not None:
                return False
            if _stands_still(member.pid) and may_die():
                return True
            self._signal(member, signal.SIGCONT)
        return False

    def _vcpu_may_die(self, vcpu: int) -> bool:
        """In the guest, with no lock and in no read section, and the log says so; a finding is not cut off."""
        vm = self._vm
        newest = vm.ring[vcpu, (int(vm.actor.ring_head[vcpu]) - 1) & (int(vm.cfg.ring_slots[0]) - 1), 1]
        return bool(
            vm.vcpu.in_guest[vcpu] == 1
            and vm.actor.held[vcpu] == 0
            and vm.actor.srcu_seq[vcpu] & 1 == 0
            and vm.actor.rcu_seq[vcpu] & 1 == 0
            and newest not in {EV_SRCU_UNLOCK, EV_KVM_EXIT}
            and vm.run.nr_findings[0] == 0
        )

    def _controller_may_die(self, ctl: int) -> bool:
        """In userspace, between two operations."""
        return bool(self._vm.actor.at_rest[ctl] == 1 and self._vm.actor.held[ctl] == 0 and self._vm.run.nr_findings[0] == 0)

    def _kill_drain(self, act: str) -> Generator[float, None, str]:
        """SIGKILL of the drain, anywhere; what it had not put into closed files is lost, unless the rings still have it."""
        drain = self._one([self._drain])
        pid = drain.pid
        with _held(drain):
            drain.process.kill()
            drain.process.join()
            self._did(act, drain.name, pid=pid)
            yield from self._another_drain()
        return f"pid {drain.pid} took over"

    def _another_drain(self) -> Generator[float, None, None]:
        """Fork a drain and answer for it until it runs: before that the actors' rings may be full."""
        self.tore_log = True
        self._status[STATUS_ERRNO] = 0
        self._status[STATUS_STATE] = DRAIN_STARTING
        self._succeed(self._drain)
        yield from self._while_drain_lives(lambda: self._over or self._status[STATUS_STATE] != DRAIN_STARTING)

    def _while_drain_lives(self, enough: Callable[[], bool]) -> Generator[float, None, None]:
        until = time.monotonic() + _DRAIN_S
        while self._drain.process.exitcode is None and not enough() and time.monotonic() < until:
            yield _DRAIN_LOOK_S

    # --- the disk

    def _slow_disk(self, act: str) -> Generator[float, None, str]:
        """The drain's writes come last, and it stands still most of the time."""
        drain, duration_s = self._one([self._drain]), self._duration_s()
        process = psutil.Process(drain.pid)
        before = process.ionice()
        with _held(drain):
            process.ionice(psutil.IOPRIO_CLASS_IDLE)
            self._did(act, drain.name, pid=drain.pid, ms=_ms(duration_s))
            until = time.monotonic() + duration_s
            while True:
                self._signal(drain, signal.SIGSTOP)
                yield _SLOW_STOP_S
                self._signal(drain, signal.SIGCONT)
                if self._over or time.monotonic() >= until:
                    break
                yield _SLOW_RUN_S
            with contextlib.suppress(psutil.Error):
                process.ionice(*before)
        return ""

    def _full_disk(self, act: str) -> Generator[float, None, str]:
        """The kernel refuses the drain every write for a while; a drain that ends for it has a successor."""
        drain, duration_s = self._one([self._drain]), self._duration_s()
        if self._status[STATUS_STATE] != DRAIN_RUNNING:
            raise _NotPossibleError("the drain does not write yet")
        process, pid = psutil.Process(drain.pid), drain.pid
        soft, hard = process.rlimit(psutil.RLIMIT_FSIZE)
        with _held(drain):
            process.rlimit(psutil.RLIMIT_FSIZE, (0, hard))
            self._did(act, drain.name, pid=pid, ms=_ms(duration_s))
            until = time.monotonic() + duration_s
            yield from self._while_drain_lives(lambda: self._over or time.monotonic() >= until)
            with contextlib.suppress(psutil.Error):
                process.rlimit(psutil.RLIMIT_FSIZE, (soft, hard))
            # A pass that begins and ends now meets no refusal; a drain that met one has no more passes.
            passes = int(self._status[STATUS_HEARTBEAT]) + 2
            yield from self._while_drain_lives(lambda: bool(self._status[STATUS_HEARTBEAT] >= passes))
            if drain.process.exitcode != DRAIN_EXIT_FAILED or self._status[STATUS_ERRNO] != errno.EFBIG:
                return "no write was refused"
            yield from self._another_drain()
        return f"pid {drain.pid} took over"

    # --- the scheduler

    def _affinity(self, act: str) -> Generator[float, None, str]:
        """Some processes may use some CPUs only."""
        cpus = sorted(os.sched_getaffinity(0))
        if len(cpus) == 1:
            raise _NotPossibleError("there is one CPU")
        members, duration_s = self._some(), self._duration_s()
        moved = [psutil.Process(member.pid) for member in members]
        for process in moved:
            with contextlib.suppress(psutil.Error):  # whoever has ended meanwhile is nowhere
                process.cpu_affinity(self._random.sample(cpus, self._random.randint(1, len(cpus) - 1)))
        self._did(act, _names(members), ms=_ms(duration_s))
        yield duration_s
        for process in moved:
            with contextlib.suppress(psutil.Error):
                process.cpu_affinity(cpus)
        return ""

    def _priority(self, act: str) -> Generator[float, None, str]:
        """Some processes come behind the others; whether they may come back is the system's to say."""
        members, duration_s = self._some(), self._duration_s()
        classes = (os.SCHED_OTHER, os.SCHED_BATCH, os.SCHED_IDLE)
        lowered = [(member, psutil.Process(member.pid), os.sched_getscheduler(member.pid)) for member in members]
        nice = os.getpriority(os.PRIO_PROCESS, 0)
        for _, process, _ in lowered:
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                process.nice(self._random.randint(max(nice, 1), _NICE_MAX))
                os.sched_setscheduler(process.pid, self._random.choice(classes), os.sched_param(0))
        self._did(act, _names(members), ms=_ms(duration_s))
        yield duration_s
        kept = []
        for member, process, before in lowered:
            try:
                if process.is_running():
                    process.nice(nice)
                    os.sched_setscheduler(process.pid, before, os.sched_param(0))
            except (psutil.AccessDenied, PermissionError):
                kept.append(member)
            except (psutil.NoSuchProcess, ProcessLookupError):
                pass
        return f"may not be raised again: {_names(kept)}" if kept else ""

    # --- other processes

    def _hog(self, act: str) -> Generator[float, None, str]:
        """As many busy processes as there are CPUs."""
        duration_s = self._duration_s()
        with _helpers(len(os.sched_getaffinity(0)), _burn):
            self._did(act, "", ms=_ms(duration_s))
            yield duration_s
        return ""

    def _memory(self, act: str) -> Generator[float, None, str]:
        """A process that takes memory, all of it for real, and goes away."""
        wanted, duration_s = self._settings.memory_mb * _MIB, self._duration_s()
        available = psutil.virtual_memory().available
        if available < _MEMORY_SPARE * wanted:
            raise _NotPossibleError(f"{available // _MIB} MiB are left")
        with _helpers(1, lambda: _take(wanted)):
            self._did(act, "", ms=_ms(duration_s), memory_mb=self._settings.memory_mb)
            yield duration_s
        return ""


@contextlib.contextmanager
def _held(member: Member) -> Iterator[None]:
    """That this process stands still, or is dead, is our doing."""
    member.held = True
    try:
        yield
    finally:
        member.held = False


@contextlib.contextmanager
def _helpers(number: int, main: Callable[[], None]) -> Iterator[None]:
    """Processes that go on until the block ends, or the parent dies."""
    parent = os.getpid()

    def enter() -> None:
        enter_child(parent)
        main()

    forks = multiprocess.get_context("fork")
    helpers = [forks.Process(target=enter, name="nemesis", daemon=True) for _ in range(number)]
    try:
        for helper in helpers:
            helper.start()
        yield
    finally:
        for helper in helpers:
            if helper.pid is not None:
                helper.kill()
                helper.join()
                helper.close()


def _burn() -> None:
    while True:
        pass


def _take(size: int) -> None:
    # Should memory run out all the same, this is the process to end.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    memory = b"\1" * size
    while memory:
        signal.pause()


def _stands_still(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    return False


def _wait_until(condition: Callable[[], bool], longest_s: float) -> bool:
    deadline = time.monotonic() + longest_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _names(members: list[Member]) -> str:
    return ", ".join(member.name for member in members)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
