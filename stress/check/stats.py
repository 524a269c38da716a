# SPDX-License-Identifier: GPL-2.0-only
"""The statistics of a run folder: rates, durations and what overlapped what, in memory that does not grow with the log.

What a log does not hold is never made up: an incomplete log gives the statistics of what is there, and nothing is scaled. Rates
are over an actor's span, from its first event that is there to its last.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stress.check.durations import cross_edges, fill
from stress.check.series import (
    EDGE_CODES,
    EDGE_LOST,
    EDGES,
    FRONT_BEGINS,
    HALVES,
    HISTOGRAMS,
    INT64_MAX,
    MAX_EDGES,
    NEVER,
    NR_KINDS,
    OPERATIONS,
    PLACES,
    RESULTS,
    SERIES,
    bucket_bounds,
    drop_open,
    new_actor,
)
from stress.log.schema import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from stress.check.series import Records
    from stress.log.archive import Archive, Batch, Problem

__all__ = ["ActorRates", "Duration", "Overlaps", "Rate", "Stats", "Totals", "Unpaired", "Yields", "collect_stats"]

# All that the statistics look at; the other columns are not even read.
COLUMNS = ("time_ns", "kind", "arg0", "arg1")
CONTROLLER = "ctl"
NS_PER_S = 1e9

_VCPU = re.compile(r"vcpu\d+")
_NONE = np.empty(0, np.int64)
_EDGE_OF = np.full(NR_KINDS + 1, -1, np.int64)
for _kind, _edge in EDGE_CODES.items():
    _EDGE_OF[_kind] = _edge


@dataclass(frozen=True)
class Rate:
    """How often something happened.

    Attributes:
        count: how often, in the events that are there.
        per_s: a second of the span; None where the span is too short to say.
    """

    count: int
    per_s: float | None


@dataclass(frozen=True)
class ActorRates:
    """What one actor did.

    Attributes:
        actor: its name.
        role: its name without its number.
        events: all its events that are there.
        first_ns: time of its first one; None if there is none.
        last_ns: time of its last one.
        in_guest: part of the span that it was seen in the guest; None for an actor that is no vCPU.
        kinds: its events by kind.
        unknown_kinds: events of a kind that this version does not know.
        unknown_codes: events with a code that this version does not know, which are in no duration.
    """

    actor: str
    role: str
    events: Rate
    first_ns: int | None
    last_ns: int | None
    in_guest: float | None
    kinds: dict[str, Rate]
    unknown_kinds: int
    unknown_codes: int


@dataclass(frozen=True)
class Duration:
    """How long one thing took; quantiles are within 1/64 of the true ones, everything else is exact.

    Attributes:
        table: holds, waits, slots, zaps, requests, guest, faults or overlaps.
        name: what.
        role: whose.
        count: how often it was seen from its begin to its end.
    """

    table: str
    name: str
    role: str
    count: int
    min_ns: int
    median_ns: int
    p90_ns: int
    p99_ns: int
    p999_ns: int
    max_ns: int
    total_ns: int


@dataclass(frozen=True)
class Unpaired:
    """Begins without an end and ends without a begin: what the log's edges and gaps cut in two.

    Attributes:
        name: what.
        role: whose.
        begins: begins without an end.
        ends: ends without a begin.
    """

    name: str
    role: str
    begins: int
    ends: int


@dataclass(frozen=True)
class Yields:
    """How often a walk gave up mmu_lock.

    Attributes:
        half: which walk.
        count: all together.
        most: in one walk.
    """

    half: str
    count: int
    most: int


@dataclass(frozen=True)
class Overlaps:
    """What the vCPUs did while the controller zapped; latencies stand among the durations.

    Attributes:
        in_guest: number of front halves by the number of vCPUs that were in the guest when they began.
        not_known: front halves at which the log does not say it of every vCPU.
        yields: of the walks that drop mmu_lock.
    """

    in_guest: dict[int, int]
    not_known: int
    yields: tuple[Yields, ...]


@dataclass(frozen=True)
class Totals:
    """The whole run; rates are sums of the actors' rates.

    Attributes:
        events: all events that are there.
        guest_accesses: those that are there; a sample under the policy `sampled`.
        page_faults: page faults handled.
        operations: slot operations finished, by name.
        results: page faults by result.
        tlb_hit_ratio: of the guest accesses that are there; None without any.
    """

    events: Rate
    guest_accesses: Rate
    page_faults: Rate
    operations: dict[str, Rate]
    results: dict[str, Rate]
    tlb_hit_ratio: float | None


@dataclass(frozen=True)
class Stats:
    """Everything that `zaptorture stats` prints.

    Attributes:
        run: name of the run folder.
        policy: of the log.
        sample: one in so many guest_access and tlb_fill events was logged; None if all were, or if the config is lost.
        complete: the log holds every event of every actor.
        problems: what is missing or wrong.
        span_ns: from the first event to the last.
    """

    run: str
    policy: str
    sample: int | None
    complete: bool
    problems: tuple[Problem, ...]
    span_ns: int
    totals: Totals
    actors: tuple[ActorRates, ...]
    durations: tuple[Duration, ...]
    overlaps: Overlaps
    unpaired: tuple[Unpaired, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values under the names of the attributes."""
        return asdict(self)


def collect_stats(archive: Archive) -> Stats:
    """Read a run folder's events once.

    Args:
        archive: the run; what goes wrong while it is read is added to its problems.
    """
    collection = _Collection(archive)
    collection.read()
    actors = tuple(collection.actor_rates(index) for index in range(len(archive.actors)))
    seen = [actor for actor in actors if actor.first_ns is not None]
    return Stats(
        run=archive.path.resolve().name,
        policy=archive.policy,
        sample=_sample(archive),
        complete=archive.complete,
        problems=tuple(archive.problems),
        span_ns=max((a.last_ns or 0 for a in seen), default=0) - min((a.first_ns or 0 for a in seen), default=0),
        totals=collection.totals(actors),
        actors=actors,
        durations=tuple(collection.durations()),
        overlaps=collection.overlaps(),
        unpaired=tuple(collection.unpaired()),
    )


class _Reader:
    """One actor's events, as far as they were read, and what came of them."""

    def __init__(self, archive: Archive, index: int, histograms: Records, *, edges_first: bool) -> None:
        self.state = new_actor(edges_first=edges_first)
        self.events = 0
        self.first_ns: int | None = None
        self.last_ns = NEVER
        self.lost_ns: int | None = None  # since when the events are missing that should stand before the current batch
        self.lost_at_end = False
        self.columns: tuple[npt.NDArray[Any], ...] = ()
        self._at = 0
        self._next_seq = 0
        self._batches = archive.batches(index, COLUMNS)
        self._recorded = archive.recorded.get(archive.actors[index])
        self._histograms = histograms
        self._edges_first = edges_first
        self._ended = False

    def read(self, edges: Records, until_ns: int = INT64_MAX) -> None:
        """Read on, and pass all the edges; after an event at `until_ns` come no more edges before it."""
        while self._at < self._size or self.next_batch(edges):
            times = self.columns[0]
            stop = int(np.searchsorted(times, until_ns, side="left" if self._edges_first else "right"))
            if until_ns == INT64_MAX:
                stop = self._size
            if stop > self._at:
                fill(self.state, self._histograms, edges, *(column[self._at : stop] for column in self.columns))
                self._at = stop
            if stop < self._size:
                break
        cross_edges(self.state, edges, INT64_MAX)
        self.state["cursor"] = 0

    def read_batch(self, edges: Records) -> None:
        """Read the current batch to its end."""
        fill(self.state, self._histograms, edges, *(column[self._at :] for column in self.columns))
        self._at = self._size

    def next_batch(self, edges: Records) -> bool:
        """Fetch the next batch; False if there is none."""
        batch: Batch | None = None if self._ended else next(self._batches, None)
        if batch is None:
            self._end(edges)
            return False
        self.lost_ns = None
        if batch.first_seq != self._next_seq:
            self._lose(edges)
        self.columns = tuple(batch.columns[name] for name in COLUMNS)
        self._at = 0
        self._next_seq = batch.first_seq + self._size
        self.events += self._size
        if self.first_ns is None:
            self.first_ns = int(self.columns[0][0])
        self.last_ns = int(self.columns[0][-1])
        return True

    @property
    def _size(self) -> int:
        return len(self.columns[0]) if self.columns else 0

    def _lose(self, edges: Records) -> None:
        # The edges up to here still met the actor in the state that its last event left.
        cross_edges(self.state, edges, self.last_ns)
        drop_open(self.state, lost=True)
        self.lost_ns = self.last_ns

    def _end(self, edges: Records) -> None:
        if self._ended:
            return
        self._ended = True
        self.lost_at_end = self._recorded != self._next_seq
        if self.lost_at_end:
            self._lose(edges)
        else:
            drop_open(self.state, lost=False)


class _Collection:
    """All actors of a run."""

    def __init__(self, archive: Archive) -> None:
        self._names = archive.actors
        self._roles = [re.sub(r"\d+$", "", name) for name in archive.actors]
        self._histograms = {role: np.zeros(1, HISTOGRAMS) for role in self._roles}
        self._controller = archive.actors.index(CONTROLLER) if CONTROLLER in archive.actors else None
        first = len(archive.actors) if self._controller is None else self._controller
        self._readers = [
            _Reader(archive, index, self._histograms[role], edges_first=first < index) for index, role in enumerate(self._roles)
        ]
        self._vcpus = [
            reader for name, reader in zip(archive.actors, self._readers, strict=True) if _VCPU.fullmatch(name) is not None
        ]
        self._in_guest: Counter[int] = Counter()
        self._not_known = 0

    def read(self) -> None:
        """Read everything; the controller and the vCPUs side by side."""
        edges = np.zeros(1, EDGES)
        for index, reader in enumerate(self._readers):
            if reader not in self._vcpus and index != self._controller:
                reader.read(edges)
        for until_ns in self._windows(edges):
            for vcpu in self._vcpus:
                vcpu.read(edges, until_ns)
            self._count_front_halves(edges[0])

    def _windows(self, edges: Records) -> Iterator[int]:
        """Fill in the controller's edges of one stretch of time after another; gives each stretch's end."""
        none = np.zeros(1, EDGES)
        lost_ns: int | None = NEVER
        if self._controller is not None:
            controller = self._readers[self._controller]
            while controller.next_batch(none):
                controller.read_batch(none)
                times, kinds = controller.columns[:2]
                codes = _EDGE_OF[np.where((kinds >= 0) & (kinds < NR_KINDS), kinds, NR_KINDS)]
                rows = np.flatnonzero(codes >= 0)
                yield from _stretches(edges, controller.lost_ns, times, rows, codes[rows])
            lost_ns = controller.last_ns if controller.lost_at_end else None
        _put(edges, lost_ns, _NONE, _NONE)
        yield INT64_MAX

    def _count_front_halves(self, edges: np.void) -> None:
        codes = edges["code"][: edges["count"]]
        for row in np.flatnonzero(codes == FRONT_BEGINS):
            if edges["unknown"][row]:
                self._not_known += 1
            else:
                self._in_guest[int(edges["in_guest"][row])] += 1

    # --- results

    def actor_rates(self, index: int) -> ActorRates:
        """What one actor did."""
        reader = self._readers[index]
        state = reader.state[0]
        span_ns = 0 if reader.first_ns is None else reader.last_ns - reader.first_ns
        counts = {kind.label: int(state["kinds"][kind]) for kind in Kind}
        return ActorRates(
            actor=self._names[index],
            role=self._roles[index],
            events=_rate(reader.events, span_ns),
            first_ns=reader.first_ns,
            last_ns=None if reader.first_ns is None else reader.last_ns,
            in_guest=int(state["guest_ns"]) / span_ns if reader in self._vcpus and span_ns else None,
            kinds={label: _rate(count, span_ns) for label, count in counts.items() if count},
            unknown_kinds=int(state["unknown_kinds"]) + int(state["kinds"].sum()) - sum(counts.values()),
            unknown_codes=int(state["unknown_codes"]),
        )

    def totals(self, actors: tuple[ActorRates, ...]) -> Totals:
        """The whole run."""
        none = Rate(0, None)
        states = [reader.state[0] for reader in self._readers]
        spans = [0 if a.first_ns is None or a.last_ns is None else a.last_ns - a.first_ns for a in actors]
        accesses = _sum([actor.kinds.get(Kind.GUEST_ACCESS.label, none) for actor in actors])
        hits = sum(int(state["tlb_hits"]) for state in states)
        return Totals(
            events=_sum([actor.events for actor in actors]),
            guest_accesses=accesses,
            page_faults=_sum([actor.kinds.get(Kind.KVM_PAGE_FAULT.label, none) for actor in actors]),
            operations={name: self._by_code("operations", code, spans) for code, name in OPERATIONS.items()},
            results={name: self._by_code("results", code, spans) for code, name in RESULTS.items()},
            tlb_hit_ratio=hits / accesses.count if accesses.count else None,
        )

    def durations(self) -> Iterator[Duration]:
        """Every series with something in it, of every role."""
        for index, series in enumerate(SERIES):
            for role, histograms in self._histograms.items():
                held = histograms[0]
                count = int(held["count"][index])
                if count:
                    low, high = int(held["min"][index]), int(held["max"][index])
                    median, p90, p99, p999 = _quantiles(held["buckets"][index], count, low, high)
                    total = int(held["total"][index])
                    yield Duration(series.table, series.name, role, count, low, median, p90, p99, p999, high, total)

    def unpaired(self) -> Iterator[Unpaired]:
        """What was cut in two, by role."""
        for place, name in enumerate(PLACES):
            for role in self._histograms:
                states = [reader.state[0] for reader, own in zip(self._readers, self._roles, strict=True) if own == role]
                begins = sum(int(state["unpaired_begins"][place]) for state in states)
                ends = sum(int(state["unpaired_ends"][place]) for state in states)
                if begins or ends:
                    yield Unpaired(name, role, begins, ends)

    def overlaps(self) -> Overlaps:
        """What the vCPUs did at the beginnings of front halves, and the yields."""
        states = [reader.state[0] for reader in self._readers]
        yields = (
            Yields(
                name,
                sum(int(state["yields"][code]) for state in states),
                max((int(state["yields_max"][code]) for state in states), default=0),
            )
            for code, name in HALVES.items()
        )
        return Overlaps(dict(sorted(self._in_guest.items())), self._not_known, tuple(yields))

    def _by_code(self, field: str, code: int, spans: list[int]) -> Rate:
        return _sum([_rate(int(reader.state[0][field][code]), span) for reader, span in zip(self._readers, spans, strict=True)])


def _stretches(
    edges: Records, lost_ns: int | None, times: npt.NDArray[Any], rows: npt.NDArray[Any], codes: npt.NDArray[Any]
) -> Iterator[int]:
    """A batch's edges, in as many stretches as they take; gives the end of each."""
    room = MAX_EDGES - 1
    for start in range(0, max(len(rows), 1), room):
        part = slice(start, start + room)
        _put(edges, lost_ns if start == 0 else None, times[rows[part]], codes[part])
        yield int(times[rows[part][-1]] if start + room < len(rows) else times[-1])


def _put(edges: Records, lost_ns: int | None, times: npt.NDArray[Any], codes: npt.NDArray[Any]) -> None:
    first = 0
    if lost_ns is not None:
        edges["ns"][0, 0] = lost_ns
        edges["code"][0, 0] = EDGE_LOST
        first = 1
    count = first + len(times)
    edges["ns"][0, first:count] = times
    edges["code"][0, first:count] = codes
    edges["in_guest"][0, :count] = 0
    edges["unknown"][0, :count] = 0
    edges["count"] = count


def _quantiles(buckets: npt.NDArray[np.int64], count: int, lowest: int, highest: int) -> Iterator[int]:
    """The smallest values that 50, 90, 99 and 99.9 percent do not exceed, as the middles of their buckets."""
    until = np.cumsum(buckets)
    for per_mille in (500, 900, 990, 999):
        rank = -(-count * per_mille // 1000)
        low, high = bucket_bounds(int(np.searchsorted(until, rank)))
        yield highest if rank == count else min(max(low + (high - low) // 2, lowest), highest)


def _rate(count: int, span_ns: int) -> Rate:
    return Rate(count, count * NS_PER_S / span_ns if span_ns > 0 else None)


def _sum(rates: list[Rate]) -> Rate:
    known = [rate.per_s for rate in rates if rate.per_s is not None]
    return Rate(sum(rate.count for rate in rates), sum(known) if known else None)


def _sample(archive: Archive) -> int | None:
    log = archive.config.get("log")
    sample = log.get("sample") if archive.policy == "sampled" and isinstance(log, dict) else None
    return sample if isinstance(sample, int) else None
