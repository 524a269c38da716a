# SPDX-License-Identifier: GPL-2.0-only
"""A real scheduler with workers as processes of this machine, for the tests of campaigns on a cluster."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from pathlib import Path

MARK = "ZAPTORTURE_TEST_CLUSTER"
PATIENCE_S = 200.0  # of a wait for what must come; no rule of any test


def until(condition, what: str):
    """Wait for what must come to be; its value."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"never: {what}")


class Cluster:
    """Processes of one cluster; every process below them carries its mark in the environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {MARK: secrets.token_hex(8)}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        arguments = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
        self.address = self._start("scheduler", ["distributed.cli.dask_scheduler", *arguments], r"Scheduler at: +(tcp://\S+)")

    def _start(self, name: str, arguments: list[str], wanted: str) -> str:
        log = self.folder / f"{name}.log"
        with log.open("wb") as file:
            command = [sys.executable, "-m", *arguments]
            self.processes[name] = subprocess.Popen(command, stdout=file, stderr=file, env=self.environment)
        found = until(lambda: re.search(wanted, log.read_text()), f"{wanted} in {log}")
        return found[1]

    def add_worker(self, name: str, *options: str) -> str:
        """Start a worker and wait until the scheduler knows it; its address."""
        arguments = ["distributed.cli.dask_worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
        arguments += ["--local-directory", str(self.folder / name), *options]
        return self._start(name, arguments, r"(?s)Start worker at: +(tcp://\S+).*Registered to")

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def runs_of(self, name: str) -> list[psutil.Process]:
        """The processes that look after a run on a worker."""
        worker = psutil.Process(self.processes[name].pid)
        return [child for child in worker.children() if child.is_running() and "stress.campaign.remote" in cmdline(child)]

    def processes_left(self) -> list[str]:
        """Processes that carry the mark and are none of the scheduler and the workers."""
        known = {process.pid for process in self.processes.values()}
        return [f"{pid}: {words}" for pid, words in marked(self.environment[MARK]).items() if pid not in known]

    def close(self) -> None:
        for name in list(self.processes):
            self.kill(name)
        until(lambda: not self.processes_left(), f"no process left, but {self.processes_left()}")

    # --- campaigns

    def zaptorture(self, *arguments: object) -> subprocess.Popen[str]:
        """Start the command in the background."""
        command = [sys.executable, "-m", "stress.cli", *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, text=True, env=self.environment, cwd=self.folder, **pipes)

    def campaign(self, file: Path, out: Path, *arguments: object) -> subprocess.Popen[str]:
        return self.zaptorture("campaign", file, "--out", out, "--scheduler", self.address, *arguments)


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def marked(mark: str) -> dict[int, str]:
    found = {}
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                found[process.pid] = " ".join(process.cmdline())
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code and output of a command that was started in the background."""
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


def kill_now(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()
