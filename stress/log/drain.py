# SPDX-License-Identifier: GPL-2.0-only
"""The drain: a process of its own that carries events from the rings to the columnar files.

| policy    | writer                         | drain                                                        |
|-----------|--------------------------------|--------------------------------------------------------------|
| `all`     | waits while its ring is full   | empties the rings all the time; nothing is lost              |
| `sampled` | the same, for the events kept  | the same; which events are kept is the writer's choice       |
| `window`  | never waits, overwrites        | sleeps until told to stop, then writes the last N per actor  |

The parent forks it and shares an int64 array with it, the status: a few words for the whole drain, then the number of
rows in closed files for each actor. A drain takes over what it finds: the files of one that was killed stay, and what that one had
read and not yet closed is missing between them. The parent learns from it whether the drain is alive (heartbeat), whether it ended
for want of disk space or crashed (errno, state), and how much of the log is safe whatever happens (`log_report`).
"""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from stress.log.events import ActorFile, Clock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stress.log.ring import Rings

__all__ = [
    "DRAIN_CLOSED",
    "DRAIN_EXIT_FAILED",
    "DRAIN_FAILED",
    "DRAIN_RUNNING",
    "DRAIN_STARTING",
    "STATUS_ERRNO",
    "STATUS_HEARTBEAT",
    "STATUS_LOST",
    "STATUS_ROWS",
    "STATUS_STATE",
    "LogReport",
    "Policy",
    "drain_main",
    "log_report",
    "status_words",
]

Policy = Literal["all", "window", "sampled"]
Words = npt.NDArray[np.int64]

# Words of the status; behind them one word per actor, its rows in closed files.
STATUS_STATE = 0
STATUS_ERRNO = 1  # of the OSError that ended the drain, else 0
STATUS_ROWS = 2  # rows in closed files, all actors
STATUS_LOST = 3  # records that were overwritten before the drain read them
STATUS_HEARTBEAT = 4  # passes of the loop
_STATUS_ACTORS = 8

DRAIN_STARTING = 0
DRAIN_RUNNING = 1
DRAIN_CLOSED = 2  # everything is in closed files
DRAIN_FAILED = 3  # STATUS_ERRNO says why; files closed so far are valid

DRAIN_EXIT_FAILED = 1

# One read of one ring; bounds the time until the next actor's turn.
READ_RECORDS_MAX = 1 << 14
# After a pass that found no ring filled to this part the drain sleeps, each time twice as long: small reads would cost
# the workers CPU and free few slots.
PASS_FILL_MIN = 1 / 8
PAUSE_S_MIN = 0.001
PAUSE_S_MAX = 0.016
KEEP_BLOCKS_BYTES = 1 << 24
# Under `window` there is nothing to do but to hear the stop.
WINDOW_PAUSE_S = 0.05

# A file is closed when its first row is older than this and than this part of the run: what a killed drain loses and
# what a reader of a live run waits for stay small, and three days make about 500 files per actor.
FILE_AGE_S_MIN = 2.0
FILE_AGE_PART_OF_RUN = 1 / 64


@dataclass(frozen=True)
class LogReport:
    """What is in the files, compared with what the actors recorded.

    Attributes:
        policy: the log's policy.
        recorded: records that each actor wrote into its ring.
        logged: rows of each actor in closed files.
    """

    policy: Policy
    recorded: dict[str, int]
    logged: dict[str, int]

    @property
    def complete(self) -> bool:
        """Whether the files hold every event of every actor; a sampled log never does."""
        return self.policy != "sampled" and self.recorded == self.logged

    @property
    def lost(self) -> int:
        """Records that should be in the files and are not; what a window leaves out is not lost."""
        return 0 if self.policy == "window" else sum(self.recorded.values()) - sum(self.logged.values())


def status_words(nr_actors: int) -> int:
    """How many int64 words the status takes."""
    return _STATUS_ACTORS + nr_actors


def log_report(rings: Rings, policy: Policy, status: Words) -> LogReport:
    """What the log holds; final once actors and drain have ended, whichever way.

    A drain that is killed between the renaming of a file and the store of its rows has one file more than this says.
    """
    return LogReport(
        policy,
        {name: rings.recorded(actor) for actor, name in enumerate(rings.names)},
        {name: int(status[_STATUS_ACTORS + actor]) for actor, name in enumerate(rings.names)},
    )


def drain_main(
    rings: Rings,
    folder: Path,
    *,
    policy: Policy,
    window_events: int,
    clock: Clock,
    status: Words,
    stop: Callable[[], bool],
) -> int:
    """Drain until told to stop, then write what is left and close the files.

    Args:
        rings: the actors' rings.
        folder: the run's `events` folder, which exists.
        policy: the log's policy.
        window_events: events per actor that are written under `window`.
        clock: converts the actors' ticks.
        status: shared memory, `status_words(actors)` words, zeroed before the first drain.
        stop: says whether to end. What the actors record after the drain heard it is not written, so that the drain
            ends even beside a running writer: stop the actors first.

    Returns:
        The exit code of the process: 0, or `DRAIN_EXIT_FAILED` when the system refused space or memory; the status
        then holds the errno. Any other exception is a bug and leaves with its traceback.

    Context:
        A process of its own, since it imports pyarrow and a write may take long. Signals are the caller's: Ctrl-C
        reaches the whole process group and should be ignored here.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415 - it starts threads: only in this process

        pa.set_cpu_count(1)
        pa.set_io_thread_count(1)
        # Freeing one large block tells glibc to keep blocks of that size instead of returning each to the kernel; the
        # page faults of buffers that come and go would cost a quarter of the throughput. Arrow uses glibc's pool too.
        np.empty(KEEP_BLOCKS_BYTES, np.int8)
        pa.set_memory_pool(pa.system_memory_pool())
        drain = _Drain(rings, [ActorFile(folder, name, clock) for name in rings.names], status)
        drain.take_over()
        status[STATUS_STATE] = DRAIN_RUNNING
        try:
            if policy == "window":
                drain.dump_at_stop(window_events, stop)
            else:
                drain.run(stop)
        finally:
            drain.close_files()
    except (OSError, MemoryError) as error:
        status[STATUS_ERRNO] = errno.ENOMEM if isinstance(error, MemoryError) else error.errno or errno.EIO
        status[STATUS_STATE] = DRAIN_FAILED
        return DRAIN_EXIT_FAILED
    status[STATUS_STATE] = DRAIN_CLOSED
    return 0


class _Drain:
    """The loops of the drain, over one file series per actor."""

    def __init__(self, rings: Rings, files: list[ActorFile], status: Words) -> None:
        self.rings = rings
        self.files = files
        self.status = status
        self.started_s = time.monotonic()
        self.opened_s = [self.started_s] * len(files)  # when the open file got its first row

    def take_over(self) -> None:
        """Go on where a drain before this one was killed; it may have died between closing a file and giving the slots back."""
        for actor in self._actors():
            self.rings.take(actor, max(self.rings.taken(actor), self.files[actor].seq_end))
            self._report(actor)

    def run(self, stop: Callable[[], bool]) -> None:
        pause_s = PAUSE_S_MIN
        while not stop():
            fill = max(self._drain_actor(actor, READ_RECORDS_MAX) for actor in self._actors()) / self.rings.slots
            self._close_old_files()
            self.status[STATUS_HEARTBEAT] += 1
            if fill >= PASS_FILL_MIN:
                pause_s = PAUSE_S_MIN
            else:
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_S_MAX)
        # Heads are read once, so that a writer that still runs cannot keep the drain from ending.
        for actor, end in enumerate([self.rings.recorded(actor) for actor in self._actors()]):
            while self.rings.taken(actor) < end:
                self._drain_actor(actor, min(READ_RECORDS_MAX, end - self.rings.taken(actor)))
                self.status[STATUS_HEARTBEAT] += 1

    def dump_at_stop(self, window_events: int, stop: Callable[[], bool]) -> None:
        while not stop():
            self.status[STATUS_HEARTBEAT] += 1
            time.sleep(WINDOW_PAUSE_S)
        for actor in self._actors():
            self.files[actor].append(*self.rings.last(actor, window_events))
            self.status[STATUS_HEARTBEAT] += 1

    def close_files(self) -> None:
        """Close every file that can be closed, also after a failure: a full disk may have room for small ones."""
        failure: OSError | None = None
        for actor in self._actors():
            try:
                self.files[actor].close()
            except OSError as error:
                failure = failure or error
            self._report(actor)
        if failure:
            raise failure

    def _actors(self) -> range:
        return range(len(self.files))

    def _drain_actor(self, actor: int, limit: int) -> int:
        """Carry over at most `limit` records; returns how many."""
        tail = self.rings.taken(actor)
        records, first_seq = self.rings.read_new(actor, limit)
        self.status[STATUS_LOST] += first_seq - tail
        file = self.files[actor]
        if len(records) and file.rows_open == 0:
            self.opened_s[actor] = time.monotonic()
        file.append(records, first_seq)
        self.rings.take(actor, first_seq + len(records))
        self._report(actor)
        return len(records)

    def _close_old_files(self) -> None:
        now_s = time.monotonic()
        age_s_max = max(FILE_AGE_S_MIN, FILE_AGE_PART_OF_RUN * (now_s - self.started_s))
        for actor in self._actors():
            if self.files[actor].rows_open and now_s - self.opened_s[actor] > age_s_max:
                self.files[actor].close()
                self._report(actor)

    def _report(self, actor: int) -> None:
        rows = self.files[actor].rows_closed
        self.status[STATUS_ROWS] += rows - self.status[_STATUS_ACTORS + actor]
        self.status[_STATUS_ACTORS + actor] = rows
