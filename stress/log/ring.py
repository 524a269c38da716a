# SPDX-License-Identifier: GPL-2.0-only
"""Reading the per-actor event rings in shared memory.

One actor writes a ring, one process reads it, and no lock stands between them:

| writer (model/trace.py)                  | reader (here)                            |
|------------------------------------------|------------------------------------------|
| store the record at `head & (slots - 1)` | load `head`                              |
| store `head + 1`                         | copy records below that `head`           |
|                                          | store `tail` (policies all and sampled)  |

The writer stores the head with release behind the record, the reader loads the head before the record, so a record
below the loaded head is whole. The reader's order is x86's, which keeps loads in order; a port to a weaker machine
needs an acquire in `recorded`.

Under the policies `all` and `sampled` the writer waits while `head - tail >= slots`, so an unread record is never
overwritten. Under `window` nobody stores a tail and the writer never waits: `last` then reads beside a writer that
overwrites, and throws away what may be torn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stress.log.naming import event_fields, kind_label, named_value
from stress.log.schema import NULL, RECORD_WORDS, WORD_GFN, WORD_KIND, WORD_TIME

if TYPE_CHECKING:
    from stress.log.events import Clock

__all__ = ["Rings", "decode"]

Words = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rings:
    """The rings of a run's actors, as views of shared memory.

    Attributes:
        ring: records, (rows, slots, 8).
        head: number of records that each actor ever wrote, (rows,); may be strided.
        tail: number of records that the drain has taken, (rows,); may be strided.
        names: the actors' names; an actor's index is its place in here.
        slots: records that one ring holds, a power of two.
        rows: each actor's row in the arrays, for arrays with rows that this run does not use (an index array in
            NumPy's brackets would copy them); empty: actor i has row i.
    """

    ring: Words
    head: Words
    tail: Words
    names: tuple[str, ...]
    slots: int
    rows: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.rows:
            object.__setattr__(self, "rows", tuple(range(len(self.names))))
        fits = self.ring.shape[1:] == (self.slots, RECORD_WORDS) and len(self.rows) == len(self.names)
        if not fits or not self.head.shape == self.tail.shape == self.ring.shape[:1]:
            raise ValueError(f"rings of shape {self.ring.shape} do not fit {len(self.names)} names, {self.slots} slots")
        if self.slots & (self.slots - 1):
            raise ValueError(f"{self.slots} slots: expected a power of two")

    def recorded(self, actor: int) -> int:
        """How many records the actor ever wrote."""
        return int(self.head[self.rows[actor]])

    def taken(self, actor: int) -> int:
        """How many of them the drain has taken."""
        return int(self.tail[self.rows[actor]])

    def take(self, actor: int, seq_end: int) -> None:
        """Give the slots of all records below `seq_end` back to the writer."""
        self.tail[self.rows[actor]] = seq_end

    def read_new(self, actor: int, limit: int) -> tuple[Words, int]:
        """Copy the oldest records that were not read yet.

        The caller gives them back with `take` after it has put them away.

        Args:
            actor: index of the actor.
            limit: most records to copy.

        Returns:
            The records, (n, 8), and the seq of the first. A seq above the tail means that the writer did not wait
            and the records between are lost.
        """
        tail, head = self.taken(actor), self.recorded(actor)
        oldest = max(tail, head - self.slots)
        records = self._copy(actor, oldest, min(head, oldest + limit))
        if self.recorded(actor) - tail <= self.slots:
            return records, oldest
        return self._untorn(actor, records, oldest)

    def last(self, actor: int, n: int) -> tuple[Words, int]:
        """Copy the newest records, while the writer may be running.

        A full ring gives one record less than it has slots: its oldest slot is the one that the writer may be filling
        just now, or was filling when it was killed.

        Args:
            actor: index of the actor.
            n: most records to copy.

        Returns:
            The records, (at most n, 8), and the seq of the first.
        """
        head = self.recorded(actor)
        first = max(0, head - min(n, self.slots))
        return self._untorn(actor, self._copy(actor, first, head), first)

    def _copy(self, actor: int, first: int, end: int) -> Words:
        ring = self.ring[self.rows[actor]]
        start, n = first & (self.slots - 1), end - first
        before_wrap = min(n, self.slots - start)
        records = np.empty((n, RECORD_WORDS), np.int64)
        records[:before_wrap] = ring[start : start + before_wrap]
        records[before_wrap:] = ring[: n - before_wrap]
        return records

    def _untorn(self, actor: int, records: Words, first: int) -> tuple[Words, int]:
        # The writer may be storing record `head` at this moment, over record `head - slots`.
        torn = self.recorded(actor) - self.slots + 1 - first
        torn = min(max(torn, 0), len(records))
        return records[torn:], first + torn


def decode(record: Words, clock: Clock | None = None) -> dict[str, Any]:
    """One record as a dict for people: the kind's label and its fields by name, as `stress/log/naming.py` gives them.

    A column that the kind does not define is shown under its own name when it is set, so that nothing is hidden.

    Args:
        record: the record, (8,).
        clock: turns the time into `time_ns`; without it the time stays `time_ticks`.
    """
    words = [int(word) for word in record]
    if clock is None:
        event: dict[str, Any] = {"time_ticks": words[WORD_TIME]}
    else:
        event = {"time_ns": int(clock.to_ns(record[WORD_TIME : WORD_TIME + 1])[0])}
    event["kind"] = kind_label(words[WORD_KIND])
    for field, word in zip(event_fields(words[WORD_KIND]), words[WORD_GFN:], strict=True):
        if word != NULL:
            event[field.name] = named_value(field, word)
    return event
