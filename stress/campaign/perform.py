# SPDX-License-Identifier: GPL-2.0-only
"""One job from start to end, in a process of its own; what it leaves is its run folder."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import psutil

from stress.campaign.host import hottest_c
from stress.campaign.row import HOST_FILE, QUANTILES_FILE
from stress.config import config_from
from stress.engine.process import enter_child
from stress.engine.run import run_scenario
from stress.log.folder import write_atomic

if TYPE_CHECKING:
    from stress.campaign.executor import CommandJob, RunJob

__all__ = ["perform_command", "perform_run", "play_run"]

QUANTILES = ("median_ns", "p90_ns", "p99_ns", "p999_ns", "max_ns")
COMMAND_FAILED = 127


def play_run(job: RunJob) -> None:
    """Execute a run; its folder holds the verdict afterwards, and facts of the machine beside it.

    Raises:
        StressError: it could not even begin.

    Context: the main thread of a process that runs nothing else.
    """
    config = config_from(tomllib.loads(job.config), job.name)
    started, steal = time.monotonic(), _steal_s()
    result = run_scenario(config, Path(job.out), name=job.name)
    wall_s = time.monotonic() - started
    facts = {
        "name": os.uname().nodename,
        "cpus": len(os.sched_getaffinity(0)),
        "load_1m": os.getloadavg()[0],
        "steal_ratio": (_steal_s() - steal) / (wall_s * (os.cpu_count() or 1)),
        "temperature_c": hottest_c()[0],
        "wall_s": wall_s,
    }
    _write(result.folder / HOST_FILE, {name: value for name, value in facts.items() if value is not None})
    if job.quantiles:
        _write(result.folder / QUANTILES_FILE, _quantiles(result.folder))


def perform_run(job: RunJob, cpus: tuple[int, ...], output: str, parent: int, trouble: Any) -> None:
    """The process of a run.

    Args:
        job: what to run.
        cpus: to stay on; empty leaves the choice to the kernel.
        output: file that takes what the processes print.
        parent: dies with it.
        trouble: connection that takes one line when the run could not begin.
    """
    _become(parent, cpus, output)
    try:
        play_run(job)
    except Exception as error:
        trouble.send(str(error) or type(error).__name__)
        raise


def perform_command(job: CommandJob, cpus: tuple[int, ...], parent: int) -> None:
    """The process of a command."""
    _become(parent, cpus, job.output)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        os.execvp(job.argv[0], job.argv)  # noqa: S606 - the user's own command, as they wrote it
    except OSError as error:
        print(f"{job.argv[0]}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(COMMAND_FAILED)


def _become(parent: int, cpus: tuple[int, ...], output: str) -> None:
    """Tie the process to its parent, out of reach of the terminal's signals, on its CPUs."""
    enter_child(parent)
    os.setsid()
    if cpus:
        os.sched_setaffinity(0, cpus)
    fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


def _write(path: Path, content: dict[str, Any]) -> None:
    write_atomic(path, msgspec.json.encode(content))


def _steal_s() -> float:
    return float(getattr(psutil.cpu_times(), "steal", 0.0))


def _quantiles(folder: Path) -> dict[str, float]:
    # Imported here: they bring readers along that start threads.
    from stress.check.stats import collect_stats  # noqa: PLC0415
    from stress.log.archive import Archive  # noqa: PLC0415

    return {
        re.sub(r"\W+", "_", f"{duration.table}_{duration.name}_{duration.role}_{quantile}"): getattr(duration, quantile)
        for duration in collect_stats(Archive.open(folder)).durations
        for quantile in QUANTILES
    }
