# SPDX-License-Identifier: GPL-2.0-only
"""The k-way merge of several actors' batches, by time, actor and seq, in bounded memory.

One batch of each actor is held. Each step looks a number of events ahead in every actor's batch; the earliest of these
events is the end of the step: of that actor all up to it, and of every other actor what stands before it. So a step takes
in no more than the events looked at, and each brings at least one actor on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from stress.log.parquet import Batch

__all__ = ["Merged", "merge"]

# Events of one step, all actors: of many actors' batches at once the merged copy would be as large again.
STEP_EVENTS = 1 << 17
KEEP_BLOCKS_BYTES = 1 << 24


class Merged(NamedTuple):
    """Events of several actors in order.

    Attributes:
        actor: index of each event's actor, int16.
        seq: each event's seq, int64.
        columns: the columns asked for.
    """

    actor: npt.NDArray[np.int16]
    seq: npt.NDArray[np.int64]
    columns: dict[str, npt.NDArray[Any]]


def merge(batches: Mapping[int, Iterator[Batch]], columns: Sequence[str]) -> Iterator[Merged]:
    """Merge by (time, actor, seq).

    Args:
        batches: each actor's batches, with `time_ns` that never falls.
        columns: the columns to return.
    """
    # Freeing one large block tells glibc to keep blocks of that size instead of returning each to the kernel: the page
    # faults of arrays that come and go would cost a third of the time.
    np.empty(KEEP_BLOCKS_BYTES, np.int8)
    heads: dict[int, _Head] = {}
    for actor in sorted(batches):
        _refill(heads, actor, batches[actor])
    while heads:
        ahead = max(1, STEP_EVENTS // len(heads))
        end_ns, end_actor = min((head.time_ns(ahead), actor) for actor, head in heads.items())
        parts = [head.take(end_ns, inclusive=actor <= end_actor) for actor, head in heads.items()]
        yield _interleave([part for part in parts if len(part.times)], columns)
        del parts
        # Before it, so that what is used up is free when the next batch comes.
        if heads[end_actor].empty:
            del heads[end_actor]
            _refill(heads, end_actor, batches[end_actor])
            heads = dict(sorted(heads.items()))


class _Part(NamedTuple):
    actor: int
    first_seq: int
    times: npt.NDArray[np.int64]
    columns: dict[str, npt.NDArray[Any]]


class _Head:
    """What is left of an actor's batch."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._times = batch.columns["time_ns"]
        self._start = 0

    @property
    def empty(self) -> bool:
        return self._start == len(self._times)

    def time_ns(self, ahead: int) -> int:
        """The time of the event that is the `ahead`th from here, or of the last one."""
        return int(self._times[min(self._start + ahead, len(self._times)) - 1])

    def take(self, end_ns: int, *, inclusive: bool) -> _Part:
        start = self._start
        self._start += int(np.searchsorted(self._times[start:], end_ns, side="right" if inclusive else "left"))
        taken = slice(start, self._start)
        columns = {name: column[taken] for name, column in self._batch.columns.items()}
        return _Part(self._batch.actor, self._batch.first_seq + start, self._times[taken], columns)


def _refill(heads: dict[int, _Head], actor: int, batches: Iterator[Batch]) -> None:
    batch = next(batches, None)
    if batch is not None:
        heads[actor] = _Head(batch)


def _interleave(parts: list[_Part], columns: Sequence[str]) -> Merged:
    # Stable, and the parts stand in the order of the actors: equal times keep it.
    actors = np.repeat(np.array([part.actor for part in parts], np.int16), [len(part.times) for part in parts])
    seqs = np.concatenate([np.arange(part.first_seq, part.first_seq + len(part.times)) for part in parts])
    if len(parts) == 1:
        return Merged(actors, seqs, {name: parts[0].columns[name] for name in columns})
    order = np.argsort(np.concatenate([part.times for part in parts]), kind="stable")
    return Merged(
        actors[order],
        seqs[order],
        {name: np.take(np.concatenate([part.columns[name] for part in parts]), order) for name in columns},
    )
