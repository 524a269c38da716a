# SPDX-License-Identifier: GPL-2.0-only
"""Rings in shared memory, writers for them and readers of the files, for the tests of the log."""

from __future__ import annotations

import mmap
import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from stress.log.drain import status_words
from stress.log.events import Clock
from stress.log.ring import Rings
from stress.log.schema import COLUMNS, RECORD_WORDS, WORD_KIND, WORD_TIME, Kind

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NS_CLOCK = Clock("test", 1_000_000_000, 0)
LINE_WORDS = 8
# A test that waits for another process gives up after this; no test asserts a time.
WAIT_S_MAX = 60


def shared_words(n: int) -> Any:
    """Zeroed int64 words that forked processes share."""
    return np.frombuffer(mmap.mmap(-1, n * 8), np.int64)


def shared_rings(slots: int, nr_actors: int = 1) -> Rings:
    """Empty rings in shared memory, heads and tails on cache lines of their own as in a run."""
    ring = shared_words(nr_actors * slots * RECORD_WORDS).reshape(nr_actors, slots, RECORD_WORDS)
    ends = shared_words(2 * nr_actors * LINE_WORDS).reshape(2, nr_actors, LINE_WORDS)
    return Rings(ring, ends[0, :, 0], ends[1, :, 0], tuple(f"vcpu{i}" for i in range(nr_actors)), slots)


def shared_status(rings: Rings) -> Any:
    return shared_words(status_words(len(rings.names)))


def numbered_records(first: int, n: int) -> Any:
    """Records that tell their own seq in every word but the kind, so that a torn one shows."""
    records = np.repeat(np.arange(first, first + n)[:, None], RECORD_WORDS, axis=1)
    records[:, WORD_KIND] = Kind.GUEST_ACCESS
    return records


def random_records(n: int) -> Any:
    """Records that no encoding makes small."""
    return np.random.default_rng(n).integers(0, 2**62, (n, RECORD_WORDS))


def record(rings: Rings, actor: int, records: Any) -> None:
    """What an actor does for each record, without ever waiting."""
    for one in records:
        head = int(rings.head[actor])
        rings.ring[actor, head & (rings.slots - 1)] = one
        rings.head[actor] = head + 1


def record_waiting(rings: Rings, actor: int, n: int) -> None:
    """An actor under the policy `all`: records `n` numbered records in bursts, waits while its ring is full."""
    done = 0
    while done < n:
        free = rings.slots - int(rings.head[actor] - rings.tail[actor])
        if free == 0:
            time.sleep(0)
            continue
        burst = min(free, n - done)
        rings.ring[actor, np.arange(done, done + burst) & (rings.slots - 1)] = numbered_records(done, burst)
        done += burst
        rings.head[actor] = done


def fork(body: Callable[[], int | None]) -> int:
    """Run a function in a forked process; its result is the exit code."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = body() or 0
        finally:
            os._exit(code)
    return pid


def exit_code(pid: int) -> int:
    """Wait for the process; minus the signal's number if one killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S_MAX
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0)


def read_rows(folder: Path, actor: str) -> dict[str, Any]:
    """All rows of an actor's closed files, column by column."""
    files = sorted(folder.glob(f"{actor}-*.parquet"))
    # Without threads, beside which later tests could not fork.
    tables = [pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False).read(use_threads=False) for file in files]
    return {name: np.concatenate([np.asarray(table[name]) for table in tables] or [np.empty(0, np.int64)]) for name in COLUMNS}


def assert_numbered(rows: dict[str, Any], first: int, n: int) -> None:
    """The rows are the numbered records `first` to `first + n - 1`, in order, each of them whole."""
    expected = numbered_records(first, n)
    assert rows["seq"].tolist() == list(range(first, first + n))
    assert np.array_equal(rows["time_ns"], expected[:, WORD_TIME])
    for name in tuple(COLUMNS)[3:]:
        assert np.array_equal(rows[name], expected[:, WORD_TIME]), name
