# SPDX-License-Identifier: GPL-2.0-only
"""What a worker of a cluster does for a campaign, in the worker's own process.

Runs come one at a time, whatever threads the worker has. Where the campaign's folder can be seen, a run writes its folder there;
elsewhere it writes to the worker's scratch space, and the run folder travels back with the result.
"""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from distributed import get_worker
from msgspec import Struct

from stress import __version__
from stress.campaign.executor import Ended
from stress.campaign.parcel import pack
from stress.engine.liveness import ending

if TYPE_CHECKING:
    from distributed import Worker

    from stress.campaign.executor import RunJob

__all__ = ["Delivery", "Identity", "carry_out", "identity", "stop_runs"]

LOOK_S = 0.5
PRINTED_BYTES_MAX = 1 << 16

_one_at_a_time = threading.Lock()
_processes: dict[str, subprocess.Popen[bytes]] = {}  # that look after runs, by the job's name


class Identity(Struct, frozen=True):
    """What must be the same wherever runs of one campaign are made.

    Attributes:
        version: of zaptorture.
        model_hash: of the sources of the model and the engine.
    """

    version: str
    model_hash: str

    def __str__(self) -> str:
        """Both, as they stand in messages."""
        return f"zaptorture {self.version}, model {self.model_hash}"


class Delivery(Struct, frozen=True):
    """What a worker answers.

    Attributes:
        ended: how the job ended.
        printed: the end of what it printed, which should be nothing.
        parcel: its run folder, packed; empty if it was written in place, or never made.
        usable: the worker may be given further runs.
    """

    ended: Ended
    printed: bytes = b""
    parcel: bytes = b""
    usable: bool = True


@functools.cache
def identity() -> Identity:
    """The identity of this installation.

    Raises:
        subprocess.CalledProcessError: it is broken.
    """
    # In a process of its own, since it brings the compiler along.
    command = [sys.executable, "-c", "from stress.engine.compiled import source_hash; print(source_hash())"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - this interpreter, fixed words
    return Identity(__version__, done.stdout.strip())


def carry_out(job: RunJob, probe: str, wanted: Identity) -> Delivery:
    """Execute a run.

    Args:
        job: the run; `out` lies in the campaign's folder.
        probe: file that is there if the campaign's folder can be seen from here.
        wanted: identity of the installation that the campaign runs in.

    Context: a task of a worker.
    """
    worker = get_worker()
    if identity() != wanted:
        return Delivery(Ended(job.name, 1, f"worker {worker.address} has {identity()}", lost=True), usable=False)
    with _one_at_a_time, tempfile.TemporaryDirectory(dir=worker.local_directory) as scratch:
        if not Path(probe).exists():
            there = msgspec.structs.replace(job, out=f"{scratch}/runs")
            ended, printed = _play(there, scratch, worker)
            folder = Path(there.out) / job.name
            return Delivery(ended, printed, pack(folder) if folder.exists() else b"")
        if (Path(job.out) / job.name).exists():  # a worker with this address began it and died; the scheduler knows no better
            return Delivery(Ended(job.name, 1, f"worker {worker.address} was lost", lost=True))
        return Delivery(*_play(job, scratch, worker))


def _play(job: RunJob, scratch: str, worker: Worker) -> tuple[Ended, bytes]:
    """Have a process look after the run; how it ended and what it printed."""
    job_file, output, ended_file = (Path(scratch) / name for name in ("job.json", "output.log", "ended.json"))
    job_file.write_bytes(msgspec.json.encode(job))
    argv = [sys.executable, "-m", "stress.campaign.remote", str(job_file), str(output), str(ended_file), str(os.getpid())]
    task = worker.get_current_task()
    with output.open("ab") as file:
        process = subprocess.Popen(  # noqa: S603 - this interpreter, files of our own
            argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    _processes[job.name] = process
    try:
        while not _has_ended(process):
            state = worker.state.tasks.get(task)
            if state is None or state.state != "executing":  # nobody waits for it any more
                process.send_signal(signal.SIGINT)
    finally:
        del _processes[job.name]
    printed = output.read_bytes()[-PRINTED_BYTES_MAX:]
    if not ended_file.exists():
        return Ended(job.name, 1, f"the process that looks after the run (pid {process.pid}) {ending(process.returncode)}"), printed
    return msgspec.json.decode(ended_file.read_bytes(), type=Ended), printed


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(LOOK_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def stop_runs(names: list[str], *, now: bool) -> None:
    """Ask runs to end; `now`: end them. Those that are not on here are none of ours."""
    for name in names:
        process = _processes.get(name)
        if process is not None:
            process.send_signal(signal.SIGINT if now else signal.SIGTERM)
