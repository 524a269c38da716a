# SPDX-License-Identifier: GPL-2.0-only
"""Jobs as processes of this machine, each on cores of its own.

They are forked by a server process that has imported the engine once, so a run starts in a fraction of a second and still in a
process that nothing else has used. Whatever happens to the campaign's process, they end with it: the server notices that its pipe
is closed, and each process dies with its parent. All of a run's processes share the run's session, so whoever outlives the run is
found by it.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

import multiprocess
import psutil
from multiprocess import forkserver, resource_tracker

from stress.campaign.executor import CommandJob, Ended, RunJob
from stress.engine.liveness import ending

if TYPE_CHECKING:
    from stress.campaign.executor import Executor

__all__ = ["LocalExecutor"]

GRACE_S = 60.0  # between asking a job to end and ending it: a run may have much to write
MEMORY_LOOK_S = 2.0
MIB = 1 << 20


@dataclass
class _Running:
    job: RunJob | CommandJob
    process: Any
    place: int | None
    trouble: Any  # connection
    started: float = field(default_factory=time.monotonic)
    memory_at: float = 0.0
    asked_at: float | None = None
    reason: str = ""


class LocalExecutor:
    """An executor of this machine (stress/campaign/executor.py)."""

    def __init__(self, places: list[tuple[int, ...]], output: str) -> None:
        """Prepare; the server starts with the first job, and ignores the signals that this process ignores by then.

        Args:
            places: CPUs of each run that may be on at once; an empty one leaves the choice to the kernel.
            output: file that takes what runs print.
        """
        self._places = places
        self._output = output
        self._jobs: dict[str, _Running] = {}
        self._context = multiprocess.get_context("forkserver")
        self._context.set_forkserver_preload(["stress.campaign.perform"])

    def has_room(self, *, command: bool = False) -> bool:  # noqa: ARG002 - they share the places
        """May another run, or another command, be started?"""
        return len(self._taken()) < len(self._places)

    def _taken(self) -> set[int]:
        return {running.place for running in self._jobs.values() if running.place is not None}

    def start(self, job: RunJob | CommandJob) -> None:
        """Start a job; there must be room, unless it is a command that stays beside."""
        beside = isinstance(job, CommandJob) and job.beside
        place = None if beside else min(set(range(len(self._places))) - self._taken())
        cpus = () if place is None else self._places[place]
        ours, theirs = self._context.Pipe(duplex=False)
        forkserver.ensure_running()  # for the first time, or again should somebody have killed it
        parent = self.long_lived()["fork server"]
        process = self._context.Process(target=_perform, args=(job, cpus, self._output, parent, theirs), name=job.name)
        process.start()
        theirs.close()
        self._jobs[job.name] = _Running(job, process, place, ours)

    def poll(self, seconds: float) -> list[Ended]:
        """Wait until a job ends, but no longer than this; return those that have ended."""
        connection.wait([running.process.sentinel for running in self._jobs.values()], seconds)
        for running in self._jobs.values():
            self._hold_to_limits(running)
        over = [running for running in self._jobs.values() if not running.process.is_alive()]
        return [self._reap(running) for running in over]

    def _hold_to_limits(self, running: _Running) -> None:
        now = time.monotonic()
        if running.asked_at is not None:
            if now - running.asked_at > GRACE_S:
                running.process.kill()
        elif now - running.started > running.job.seconds_max:
            self._ask(running, f"not over after {running.job.seconds_max:.0f} s")
        elif isinstance(running.job, RunJob) and now - running.memory_at > MEMORY_LOOK_S:
            running.memory_at = now
            used_mb = _memory_bytes(running.process.pid) / MIB
            if used_mb > running.job.memory_mb_max:
                self._ask(running, f"its processes take {used_mb:.0f} MiB, limits.memory_mb = {running.job.memory_mb_max}")

    @staticmethod
    def _ask(running: _Running, reason: str) -> None:
        running.reason = running.reason or reason
        running.asked_at = running.asked_at or time.monotonic()
        running.process.terminate()

    def _reap(self, running: _Running) -> Ended:
        running.process.join()
        code = running.process.exitcode
        trouble = running.reason
        with contextlib.suppress(EOFError, OSError):
            if running.trouble.poll():
                trouble = trouble or running.trouble.recv()
        running.trouble.close()
        left = _end_session(running.process.pid)
        if isinstance(running.job, RunJob):
            if code != 0:
                trouble = trouble or f"the run's process (pid {running.process.pid}) {ending(code)}"
            elif left:
                trouble = trouble or f"the run left processes behind: {', '.join(left)}"
        running.process.close()
        del self._jobs[running.job.name]
        return Ended(running.job.name, code, trouble)

    def running(self) -> dict[str, float]:
        """Jobs that have been started and have not ended, with their ages in seconds."""
        now = time.monotonic()
        return {name: now - running.started for name, running in self._jobs.items()}

    def stop(self, *, now: bool) -> None:
        """Ask all jobs to end; `now`: end them. They still come out of poll()."""
        for running in self._jobs.values():
            self._ask(running, "the campaign was stopped")
            if now:
                running.process.kill()

    def long_lived(self) -> dict[str, int]:
        """Process ids on this machine that live as long as the executor, by role."""
        # Neither has a public way to ask; a tester that may leak wants to see all of its own processes.
        helpers = {"fork server": forkserver._forkserver._forkserver_pid, "tracker": resource_tracker._resource_tracker._pid}  # noqa: SLF001
        return {role: pid for role, pid in helpers.items() if pid is not None}

    def describe(self) -> str:
        """Where jobs go, in a few words."""
        if self._places[0]:
            return "; ".join(f"CPUs {','.join(map(str, place))}" for place in self._places)
        return f"{len(self._places)} at once, cores shared"

    def close(self) -> None:
        """End whatever is left, the server included."""
        self.stop(now=True)
        while self._jobs:
            self.poll(1.0)
        forkserver._forkserver._stop()  # noqa: SLF001 - it would only end with this process


def _perform(job: RunJob | CommandJob, cpus: tuple[int, ...], output: str, parent: int, trouble: Any) -> None:
    # Imported here: only the server and what it forks bring the compiler along, not the campaign's process.
    from stress.campaign.perform import perform_command, perform_run  # noqa: PLC0415

    # The server ends when nobody holds the other end of its pipe: the campaign's process shall be the only one that does.
    os.close(forkserver._forkserver._forkserver_alive_fd)  # noqa: SLF001 - every process gets it
    if isinstance(job, RunJob):
        perform_run(job, cpus, output, parent, trouble)
    else:
        perform_command(job, cpus, parent)


def _memory_bytes(pid: int) -> int:
    """Memory of a process and all below it, what they share counted once."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                total += int(process.memory_full_info().pss)
    return total


def _end_session(session: int) -> list[str]:
    """End every process of a session whose leader is gone; returns what they were."""
    left = []
    for process in psutil.process_iter(["pid", "name", "status"]):
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
            if os.getsid(process.pid) == session and process.info["status"] != psutil.STATUS_ZOMBIE:
                left.append(f"{process.info['name']} (pid {process.pid})")
                process.kill()
    return left


_: type[Executor] = LocalExecutor
