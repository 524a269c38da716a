# SPDX-License-Identifier: GPL-2.0-only
"""Runs on the workers of a `dask.distributed` cluster; commands on findings stay on this machine.

Each run is given to one worker that has none, and to that worker alone: when the worker is lost, so is this attempt at the run, and
whoever asked for it makes another one, under another name. So no run counts twice, whatever a worker that was thought dead still
writes. Workers may come and go at any time. A scheduler that is lost takes everything with it: the campaign ends, to be resumed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import secrets
import shutil
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from stress.campaign.executor import CommandJob, Ended, RunJob
from stress.campaign.local import LocalExecutor
from stress.campaign.parcel import unpack
from stress.errors import HarnessError, UsageError

try:
    import dask
    from distributed import CancelledError, Client, KilledWorker, Security, rpc
except ModuleNotFoundError as error:
    raise UsageError(f"--scheduler needs dask.distributed ({error}): pip install 'zaptorture[cluster]'") from None

from stress.campaign.worker import Delivery, Identity, carry_out, identity, stop_runs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from distributed import Future

    from stress.campaign.executor import Executor

__all__ = ["ClusterExecutor"]

CONNECT_S = 10.0
FOLDER = "cluster"  # in the campaign's folder, for as long as it runs: the probe, and parcels while they are unpacked


@dataclass
class _Sent:
    worker: str
    future: Future
    started: float = field(default_factory=time.monotonic)


class ClusterExecutor:
    """An executor of a cluster (stress/campaign/executor.py)."""

    def __init__(self, address: str, folder: Path, output: str, jobs: int | None) -> None:
        """Connect, and see that everybody there has the same zaptorture.

        Args:
            address: of the scheduler, such as tcp://host:8786.
            folder: of the campaign; nothing is written before the first job starts.
            output: file that takes what runs print.
            jobs: runs at once; None for as many as there are workers.

        Raises:
            UsageError: no scheduler answers at the address, or it or one of its workers has another version.
        """
        logging.disable(logging.CRITICAL)  # whatever distributed has to tell becomes one line of ours
        dask.config.set({"distributed.comm.timeouts.connect": f"{CONNECT_S} s"})
        self._address = address
        self._folder = folder.resolve()
        self._output = output
        self._jobs = jobs
        self._client = _connect(address)
        self._identity = self._same_everywhere()
        self._workers: set[str] = set()
        self._refused: set[str] = set()
        self._sent: dict[str, _Sent] = {}
        self._arrived: queue.SimpleQueue[tuple[_Sent, Ended]] = queue.SimpleQueue()
        self._probe = self._folder / FOLDER / secrets.token_hex(8)
        self._local = LocalExecutor([()], output)
        self._commands: list[CommandJob] = []  # that wait for their place
        self._count_workers()

    def _same_everywhere(self) -> Identity:
        wanted = identity()
        found = {f"worker {name}": theirs for name, theirs in self._client.run(identity, on_error="return").items()}
        try:
            found["the scheduler"] = self._client.run_on_scheduler(identity)
        except Exception as error:  # noqa: BLE001 - whatever it raised
            found["the scheduler"] = error
        for who, theirs in found.items():
            if isinstance(theirs, Exception):
                raise UsageError(f"--scheduler {self._address}: {who} cannot run zaptorture: {theirs}")
            if theirs != wanted:
                raise UsageError(f"--scheduler {self._address}: {who} has {theirs}; this is {wanted}.")
        return wanted

    def has_room(self, *, command: bool = False) -> bool:
        """May another run, or another command, be started? Commands have a place of their own, on this machine."""
        return command or ((self._jobs is None or len(self._sent) < self._jobs) and bool(self._idle()))

    def _idle(self) -> list[str]:
        return sorted(self._workers - self._refused - {sent.worker for sent in self._sent.values()})

    def start(self, job: RunJob | CommandJob) -> None:
        """Start a job; there must be room, unless it is a command."""
        if isinstance(job, RunJob):
            self._send(job)
        elif job.beside:
            self._local.start(job)
        else:
            self._commands.append(job)
            self._start_commands()

    def _start_commands(self) -> None:
        while self._commands and self._local.has_room():
            self._local.start(self._commands.pop(0))

    def _send(self, job: RunJob) -> None:
        if not self._probe.exists():
            shutil.rmtree(self._probe.parent, ignore_errors=True)
            self._probe.parent.mkdir()
            self._probe.touch()
        worker = self._idle()[0]
        future = self._client.submit(
            carry_out,
            job,
            str(self._probe),
            self._identity,
            key=f"{job.name}-{secrets.token_hex(8)}",
            workers=[worker],
            allow_other_workers=False,
            retries=0,
            pure=False,
        )
        sent = self._sent[job.name] = _Sent(worker, future)
        future.add_done_callback(partial(self._receive, job, sent))

    def _receive(self, job: RunJob, sent: _Sent, future: Future) -> None:
        """Take a result in. Context: the client's thread for callbacks, one at a time."""
        try:
            delivery = future.result()
            self._keep(job, sent, delivery)
            ended = delivery.ended
        except CancelledError:  # by this executor, or with the scheduler: poll() tells which
            return
        except KilledWorker:
            ended = Ended(job.name, 1, _lost(sent.worker), lost=True)
        except Exception as error:  # noqa: BLE001 - whatever a worker raised
            ended = Ended(job.name, 1, f"worker {sent.worker}: {type(error).__name__}: {error}")
        self._arrived.put((sent, ended))

    def _keep(self, job: RunJob, sent: _Sent, delivery: Delivery) -> None:
        if not delivery.usable:
            self._refused.add(sent.worker)
        if delivery.printed:
            with open(self._output, "ab") as file:  # noqa: PTH123 - a path as text, like every job's
                file.write(delivery.printed)
        if delivery.parcel:
            unpack(delivery.parcel, self._folder / "runs" / job.name, self._probe.parent)

    def poll(self, seconds: float) -> list[Ended]:
        """Wait until a job ends, but no longer than this; return those that have ended.

        Raises:
            HarnessError: the scheduler is gone.
        """
        ended = self._local.poll(0 if self._sent else seconds)
        self._start_commands()
        ended += self._taken(seconds if self._sent and not ended else 0)
        self._count_workers()
        for name, sent in list(self._sent.items()):
            if sent.future.cancelled():
                raise self._gone("it has dropped its tasks")
            if sent.worker not in self._workers and not sent.future.done():
                del self._sent[name]
                sent.future.cancel()
                ended.append(Ended(name, 1, _lost(sent.worker), lost=True))
        return ended

    def _taken(self, seconds: float) -> Iterator[Ended]:
        with contextlib.suppress(queue.Empty):
            while True:
                sent, ended = self._arrived.get(timeout=seconds)
                if self._sent.get(ended.name) is sent:  # else it was given up before
                    del self._sent[ended.name]
                    yield ended
                seconds = 0.0

    def _count_workers(self) -> None:
        if self._client.status != "running":
            raise self._gone("the connection is lost")
        try:
            self._workers = set(self._client.sync(self._client.scheduler.ncores, workers=None, callback_timeout=CONNECT_S))
        except (OSError, CancelledError) as error:
            raise self._gone(str(error)) from None

    def _gone(self, why: str) -> HarnessError:
        return HarnessError(
            f"the scheduler {self._address} is gone: {why}. Go on when it is back, or without it: "
            f"zaptorture campaign resume {self._folder}"
        )

    def running(self) -> dict[str, float]:
        """Jobs that have been started and have not ended, with their ages in seconds."""
        now = time.monotonic()
        waiting = {job.name: 0.0 for job in self._commands}
        return waiting | self._local.running() | {name: now - sent.started for name, sent in self._sent.items()}

    def stop(self, *, now: bool) -> None:
        """Ask all jobs to end; `now`: end them. They still come out of poll()."""
        self._commands.clear()
        self._local.stop(now=now)
        if self._sent:
            workers = sorted({sent.worker for sent in self._sent.values()})
            # Nobody waits for the answer: who was not reached is asked again, or is lost.
            self._client.loop.add_callback(self._ask, list(self._sent), workers, now=now)

    async def _ask(self, names: list[str], workers: list[str], *, now: bool) -> None:
        # The public run() waits for the answer.
        with contextlib.suppress(Exception):
            await self._client._run(stop_runs, names, now=now, workers=workers, on_error="ignore")  # noqa: SLF001

    def long_lived(self) -> dict[str, int]:
        """Process ids on this machine that live as long as the executor, by role."""
        return self._local.long_lived()

    def describe(self) -> str:
        """Where jobs go, in a few words."""
        return f"cluster {self._address}"

    def close(self) -> None:
        """End whatever is left; workers end runs that nobody waits for."""
        try:
            self._client.close(timeout=CONNECT_S)
        finally:
            self._local.close()
            shutil.rmtree(self._probe.parent, ignore_errors=True)


def _connect(address: str) -> Client:
    # A client that finds no scheduler goes on trying in the background, so ask without one first.
    try:
        found = asyncio.run(asyncio.wait_for(_kind(address), CONNECT_S))
    except TimeoutError:
        raise UsageError(f"--scheduler {address}: no scheduler answers there within {CONNECT_S:.0f} s.") from None
    except Exception as error:  # noqa: BLE001 - each kind of address has its own
        raise UsageError(f"--scheduler {address}: no address of a scheduler that can be reached: {error}.") from None
    if found != "Scheduler":
        raise UsageError(f"--scheduler {address}: expected a scheduler; a {found} answers there.")
    return Client(address, timeout=CONNECT_S, set_as_default=False)


async def _kind(address: str) -> str:
    async with rpc(address, connection_args=Security().get_connection_args("client")) as remote:
        return str((await remote.identity())["type"])


def _lost(worker: str) -> str:
    return f"worker {worker} was lost"


_: type[Executor] = ClusterExecutor
