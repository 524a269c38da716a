# SPDX-License-Identifier: GPL-2.0-only
"""`zaptorture run` in a process of its own, and a look at what it left: output, run folder, processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 240  # of a whole command, a compilation included; no test waits for it
DEADLINE_S = 180.0  # of a condition that is near; a cold compilation may stand before it

# Two vCPUs on a static slot, one that comes and goes and one that moves as well: all of the protocol in a blink.
SMALL = """
[vm]
nr_vcpus = 2
levels = 2
bits_per_level = 4
tlb_entries = 64

[[slots]]
base_gfn = 0
npages = 32

[[slots]]
base_gfn = 64
npages = 32
ops = ["delete"]

[[slots]]
base_gfn = 128
npages = 32
ops = ["delete", "move"]
move_to = 192

[workload]
warmup_accesses = 200
dwell_ms_max = 5

[run]
duration = "500ms"
"""
NOISE = (
    "perturb.probability=0.002",
    "perturb.stall_probability=0.005",
    "perturb.stall_ms_max=2",
    "perturb.resched_probability=0.3",
)


def small(folder: Path, name: str = "small") -> Path:
    """The scenario SMALL as a file."""
    path = folder / f"{name}.toml"
    path.write_text(SMALL, encoding="utf-8")
    return path


@dataclass
class Outcome:
    """A command that has ended."""

    code: int
    lines: list[str]
    err: str

    @property
    def folder(self) -> Path:
        """The run folder that the first line names."""
        return Path(self.lines[0].rpartition(" run ")[2])

    @property
    def result(self) -> dict:
        """What verdict.json says."""
        return json.loads((self.folder / "verdict.json").read_text(encoding="utf-8"))

    def told(self) -> str:
        """All of it, for a failed assertion."""
        return "\n".join([f"exit code {self.code}", *self.lines, self.err])


def arguments(scenario: Path, out: Path, *options: str, sets: tuple[str, ...] = ()) -> list[str]:
    """The command line behind `zaptorture`."""
    return ["run", str(scenario), "--out", str(out), *options, *(word for value in sets for word in ("--set", value))]


def environment(**changes: str) -> dict[str, str]:
    """This process's environment; the command finds the sources that are under test."""
    return os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | changes


def run(
    scenario: Path, out: Path, *options: str, sets: tuple[str, ...] = (), env: dict[str, str] | None = None, **popen
) -> Outcome:
    """Run it to its end."""
    ended = subprocess.run(
        [sys.executable, "-m", "stress.cli", *arguments(scenario, out, *options, sets=sets)],
        env=env or environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        **popen,
    )
    return Outcome(ended.returncode, ended.stdout.splitlines(), ended.stderr)


def run_with(before: str, scenario: Path, out: Path, *options: str, sets: tuple[str, ...] = ()) -> Outcome:
    """Run it to its end in an interpreter that has executed the statements `before` first."""
    script = f"import sys\n{before}\nfrom stress.cli import main\nmain()\n"
    ended = subprocess.run(
        [sys.executable, "-c", script, *arguments(scenario, out, *options, sets=sets)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return Outcome(ended.returncode, ended.stdout.splitlines(), ended.stderr)


class Running:
    """A command under way, in a session of its own. Leaving the `with` block leaves none of its processes."""

    def __init__(self, scenario: Path, out: Path, *options: str, sets: tuple[str, ...] = (), env: dict[str, str] | None = None):
        command = [sys.executable, "-m", "stress.cli", *arguments(scenario, out, *options, sets=sets)]
        self.process = subprocess.Popen(
            command, env=env or environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self.lines: list[str] = []
        self.pids: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        # Its session holds no other processes; one that is gone holds none at all.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def children(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children()
        return []

    def read_line(self) -> str:
        line = self.process.stdout.readline().rstrip("\n")
        assert line, self.process.stderr.read()
        self.lines.append(line)
        return line

    def until_first_access(self) -> Path:
        """Wait until the guests run; fills `pids`."""
        folder = Path(self.read_line().rpartition(" run ")[2])
        wait_for(lambda: self.process.poll() is not None or "warmup_done" in events_of(folder), "the first guest access")
        self.pids = {line["actor"]: line["pid"] for line in control_of(folder) if line["event"] == "process_start"}
        return folder

    def end(self, timeout_s: float) -> Outcome:
        """Wait for its end, which must come in time."""
        out, err = self.process.communicate(timeout=timeout_s)
        return Outcome(self.process.returncode, [*self.lines, *out.splitlines()], err)


def wait_for(condition, what: str) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.005)


def control_of(folder: Path) -> list[dict]:
    """The whole lines of the control log so far."""
    path = folder / "control.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]


def events_of(folder: Path) -> set[str]:
    """Which events the control log holds."""
    return {line["event"] for line in control_of(folder)}


def logs_of(folder: Path) -> dict[str, pa.Table]:
    """Every actor's events; each file is read whole, its checksums verified."""
    tables: dict[str, list[pa.Table]] = {}
    for path in sorted((folder / "events").glob("*.parquet")):
        actor = path.name.rpartition("-")[0]
        tables.setdefault(actor, []).append(pq.read_table(path, page_checksum_verification=True))
    return {actor: pa.concat_tables(parts) for actor, parts in tables.items()}


def assert_valid(folder: Path) -> None:
    """What a run left can be read, however it ended: no torn line, no torn file, each actor's rows in order."""
    assert (folder / "control.jsonl").read_bytes().endswith(b"\n")
    assert control_of(folder)[0]["event"] == "run_start"
    for actor, table in logs_of(folder).items():
        seq = table["seq"].to_numpy()
        assert (np.diff(seq) == 1).all(), actor
        assert count(table, 0) == 0, actor


def count(table: pa.Table, kind: int) -> int:
    """How many events of a kind."""
    return int((table["kind"].to_numpy() == kind).sum())


def assert_gone(pids: dict[str, int]) -> None:
    """None of these processes is left; a zombie that nobody reaps holds nothing."""
    wait_for(lambda: not [name for name, pid in pids.items() if _is_there(pid)], f"the end of {pids}")


def _is_there(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False
