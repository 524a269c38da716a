# SPDX-License-Identifier: GPL-2.0-only
"""What executes a campaign's runs: local processes (local.py) or a cluster (cluster.py), behind one small interface."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

__all__ = ["CommandJob", "Ended", "Executor", "RunJob"]


class RunJob(Struct, frozen=True):
    """One run to execute.

    Attributes:
        name: of its folder.
        config: resolved, as TOML, with its seed.
        out: folder that the run folder is made in.
        seconds_max: it is ended when it takes longer, everything included.
        memory_mb_max: it is ended when its processes take more.
        quantiles: leave them beside the verdict.
    """

    name: str
    config: str
    out: str
    seconds_max: float
    memory_mb_max: int
    quantiles: bool


class CommandJob(Struct, frozen=True):
    """One command to execute on this machine.

    Attributes:
        name: of the job; no two at once have the same.
        argv: program and arguments.
        output: file that takes what it prints.
        seconds_max: it is ended when it takes longer.
        beside: it does little and needs no place of its own.
    """

    name: str
    argv: tuple[str, ...]
    output: str
    seconds_max: float
    beside: bool = False


class Ended(Struct, frozen=True):
    """A job that is over.

    Attributes:
        name: of the job.
        exit_code: of a command.
        trouble: what went wrong with its process or its limits; empty when nothing did. A run's verdict, if it came to one, is in
            its folder.
        lost: the machine that it ran on is gone; nothing is wrong with the harness.
    """

    name: str
    exit_code: int
    trouble: str
    lost: bool = False


class Executor(Protocol):
    """Executes jobs. No method blocks for long, none is called from two threads."""

    def has_room(self, *, command: bool = False) -> bool:
        """May another run, or another command, be started?"""

    def start(self, job: RunJob | CommandJob) -> None:
        """Start a job; there must be room, unless it is a command that stays beside."""

    def poll(self, seconds: float) -> list[Ended]:
        """Wait until a job ends, but no longer than this; return those that have ended."""

    def running(self) -> dict[str, float]:
        """Jobs that have been started and have not ended, with their ages in seconds."""

    def stop(self, *, now: bool) -> None:
        """Ask all jobs to end; `now`: end them. They still come out of poll()."""

    def long_lived(self) -> dict[str, int]:
        """Process ids on this machine that live as long as the executor, by role."""

    def describe(self) -> str:
        """Where jobs go, in a few words."""

    def close(self) -> None:
        """End whatever is left."""
