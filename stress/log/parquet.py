# SPDX-License-Identifier: GPL-2.0-only
"""Reading one actor's files into batches: columns without a copy, one row group in memory at a time.

What is trusted, and why: a page's bytes carry a checksum; page headers and the footer carry none. `footer.py` holds the
footer against what the writer leaves before pyarrow sees the file, and what is decoded is held against the statistics
of `seq` and `time_ns`. `seq` is decoded only where the statistics do not prove that it counts up by one: that saves a
tenth of the time.

pyarrow is asked for one row group at a time, without threads and without reading ahead, so that the memory is that of
one row group for each actor that is being read, however large the log is.
"""

from __future__ import annotations

import bisect
import itertools
from array import array
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stress.log.footer import DamageError, Footer, Group, footer_checksum
from stress.log.reading import reason
from stress.log.schema import COLUMNS, NULL, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

__all__ = ["EVENT_COLUMNS", "ActorFiles", "Batch", "LogFile", "Survey"]

EVENT_COLUMNS = tuple(name for name in COLUMNS if name != "seq")

_KIND_MAX = int(max(Kind))
_INT64_MIN = -(2**63)


class Batch(NamedTuple):
    """Events of one actor whose seqs count up by one.

    Attributes:
        actor: index into `Archive.actors`.
        file: the file, relative to the run folder.
        row: row of the first event in that file.
        first_seq: seq of the first event.
        columns: the columns asked for, as arrays of one length that cannot be written; kind is int16, all others are
            int64. An array keeps the memory of its row group alive.
    """

    actor: int
    file: str
    row: int
    first_seq: int
    columns: dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class LogFile:
    """One file as its footer describes it, in little memory.

    Attributes:
        name: relative to the run folder.
        number: its number in the actor's series.
        rows: its events.
        first_seq: lowest seq.
        last_seq: highest seq.
        first_ns: lowest time.
        last_ns: highest time.
        checksum: of the footer.
        groups: the row groups' numbers, one behind the other.
    """

    name: str
    number: int
    rows: int
    first_seq: int
    last_seq: int
    first_ns: int
    last_ns: int
    checksum: int
    groups: array[int]

    @classmethod
    def of(cls, footer: Footer, name: str, number: int) -> LogFile:
        """The file that has this footer."""
        groups = footer.groups
        return cls(
            name,
            number,
            sum(group.rows for group in groups),
            groups[0].first_seq,
            groups[-1].last_seq,
            min(group.first_ns for group in groups),
            max(group.last_ns for group in groups),
            footer.checksum,
            array("q", itertools.chain.from_iterable(groups)),
        )

    def row_groups(self) -> Iterator[Group]:
        """The row groups in the order of the file."""
        size = len(Group._fields)
        for start in range(0, len(self.groups), size):
            yield Group(*self.groups[start : start + size])


class Survey(NamedTuple):
    """What an actor's footers say about its events.

    Attributes:
        rows: events, those that are there twice counted once.
        problems: gaps and duplicates: code, place, text.
    """

    rows: int
    problems: list[tuple[str, str, str]]


class ActorFiles:
    """The files of one actor.

    Attributes:
        files: those that can be read, in the order of their seqs.
        unreadable: numbers of the others; they explain a gap at their place.
    """

    def __init__(self, folder: Path, index: int, actor: str, report: Callable[[str, str, str], None]) -> None:
        """No files yet.

        Args:
            folder: the run folder.
            index: the actor's index.
            actor: its name.
            report: takes the code, place and text of a problem.
        """
        self.files: list[LogFile] = []
        self.unreadable: list[int] = []
        self._folder = folder
        self._index = index
        self._actor = actor
        self._report = report

    def add(self, file: LogFile) -> None:
        """Take a file in, in the order of seqs; of two that begin with the same event the lower number is first."""
        bisect.insort(self.files, file, key=lambda file: (file.first_seq, file.number))

    def survey(self, *, from_start: bool) -> Survey:
        """Whether the files are contiguous, by their footers.

        Args:
            from_start: whether the first event should be there.
        """
        rows = 0
        problems = []
        next_seq, last_number = 0, -1
        for file in self.files:
            jumped = file.first_seq - next_seq
            if jumped > 0 and (rows or from_start) and not self._unreadable_between(last_number, file.number):
                problems.append(("gap", self._actor, f"{_events(next_seq, jumped)} not there, before {file.name}"))
            twice = min(max(0, -jumped), file.rows)
            if twice:
                what = f"{_events(file.first_seq, twice)} there already; the first ones count"
                problems.append(("duplicate-events", file.name, what))
            missing = file.last_seq - file.first_seq + 1 - file.rows
            if missing:
                seqs = f"{file.first_seq:,} to {file.last_seq:,}"
                problems.append(("gap", self._actor, f"{missing:,} of the events {seqs} are not there, in {file.name}"))
            rows += file.rows - twice
            if file.last_seq >= next_seq:
                next_seq, last_number = file.last_seq + 1, file.number
        return Survey(rows, problems)

    def _unreadable_between(self, low: int, high: int) -> bool:
        return any(low < number < high for number in self.unreadable)

    def batches(self, columns: Sequence[str], since_ns: int | None, from_seq: int) -> Iterator[Batch]:
        """The events; see `Archive.batches`."""
        progress = _Progress(self._actor, self._report)
        for file in tuple(self.files):
            if progress.passes_over(file, since_ns, from_seq):
                continue
            try:
                with _opened(self._folder / file.name, file.checksum) as parquet:
                    yield from self._row_groups(parquet, file, columns, since_ns, from_seq, progress)
            except DamageError as damage:
                self._report("file-damaged", file.name, str(damage))

    def _row_groups(
        self, parquet: Any, file: LogFile, columns: Sequence[str], since_ns: int | None, from_seq: int, progress: _Progress
    ) -> Iterator[Batch]:
        end = 0
        for number, group in enumerate(file.row_groups()):
            row, end = end, end + group.rows
            if progress.passes_over(group, since_ns, from_seq):
                continue
            try:
                read, seqs = _read(parquet, number, group, columns)
            except DamageError as damage:
                # The next row group stands on its own.
                self._report("file-damaged", file.name, f"rows {row} to {end - 1}: {damage}")
                continue
            twice = progress.rows_before(group, seqs)
            if twice:
                read = {name: column[twice:] for name, column in read.items()}
                seqs = None if seqs is None else seqs[twice:]
            progress.take(group, read)
            if "kind" in read:
                self._check_kinds(read["kind"])
            rows = group.rows - twice
            for start, stop, seq in _stretches(seqs, group.first_seq + twice, rows, from_seq):
                part = read if stop - start == rows else {name: column[start:stop] for name, column in read.items()}
                yield Batch(self._index, file.name, row + twice + start, seq, part)

    def _check_kinds(self, kinds: npt.NDArray[Any]) -> None:
        if int(kinds.min()) < 1 or int(kinds.max()) > _KIND_MAX:
            for kind in np.unique(kinds[(kinds < 1) | (kinds > _KIND_MAX)]).tolist():
                self._report("unknown-kind", self._actor, f"events of kind {kind}; this program knows 1 to {_KIND_MAX}")


class _Progress:
    """How far the reading of one actor is: events are given once, and their times never fall."""

    def __init__(self, actor: str, report: Callable[[str, str, str], None]) -> None:
        self._actor = actor
        self._report = report
        self._next_seq = 0
        self._last_ns = _INT64_MIN

    def passes_over(self, part: LogFile | Group, since_ns: int | None, from_seq: int) -> bool:
        """Whether nothing of a file or row group is to be read; takes note of its times then."""
        if part.last_seq < self._next_seq:
            return True
        if part.last_seq >= from_seq and (since_ns is None or max(part.last_ns, self._last_ns) >= since_ns):
            return False
        if part.first_ns < self._last_ns and part.first_seq >= self._next_seq:
            self._fell(part.first_ns)
        self._last_ns = max(self._last_ns, part.last_ns)
        self._next_seq = part.last_seq + 1
        return True

    def rows_before(self, group: Group, seqs: npt.NDArray[Any] | None) -> int:
        """How many rows of a row group there were before."""
        if seqs is None:
            return max(0, self._next_seq - group.first_seq)
        return int(np.searchsorted(seqs, self._next_seq))

    def take(self, group: Group, read: dict[str, npt.NDArray[Any]]) -> None:
        """Take note of events that are read; where their times fall they are replaced."""
        self._next_seq = group.last_seq + 1
        times = read.get("time_ns")
        if times is None:
            return
        if times[0] < self._last_ns or not (times[1:] >= times[:-1]).all():
            self._fell(int(times.min()))
            times = np.maximum.accumulate(times)
            np.maximum(times, self._last_ns, out=times)
            times.flags.writeable = False
            read["time_ns"] = times
        self._last_ns = int(times[-1])

    def _fell(self, time_ns: int) -> None:
        what = f"its clock goes backwards, to {time_ns / 1e9:.9f} s; read as the latest time so far"
        self._report("clock-backwards", self._actor, what)


def _events(first_seq: int, count: int) -> str:
    return f"events {first_seq:,} to {first_seq + count - 1:,} are" if count > 1 else f"event {first_seq:,} is"


def _stretches(seqs: npt.NDArray[Any] | None, first_seq: int, rows: int, from_seq: int) -> Iterator[tuple[int, int, int]]:
    """First row, row behind it and first seq of each part in which seq counts up by one, without those below `from_seq`."""
    cuts = [0, rows]
    if seqs is not None:
        cuts[1:1] = (np.flatnonzero(seqs[1:] != seqs[:-1] + 1) + 1).tolist()
    for start, stop in itertools.pairwise(cuts):
        seq = first_seq if seqs is None else int(seqs[start])
        skip = max(0, from_seq - seq)
        if start + skip < stop:
            yield start + skip, stop, seq + skip


@contextmanager
def _opened(path: Path, checksum: int) -> Iterator[Any]:
    """The file, if it is still the one whose footer was checked.

    Raises:
        DamageError: it is not, or cannot be opened.
    """
    # Not before somebody reads: pyarrow starts threads.
    import pyarrow.parquet as pq  # noqa: PLC0415

    if footer_checksum(path) != checksum:
        raise DamageError("it was changed while it was read")
    with _translated("cannot be opened: "):
        parquet = pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False)
    try:
        yield parquet
    finally:
        parquet.close()


@contextmanager
def _translated(prefix: str = "") -> Iterator[None]:
    """What pyarrow raises about a file becomes a DamageError."""
    import pyarrow as pa  # noqa: PLC0415 - as above

    try:
        yield
    # Names that are no UTF-8 and numbers that are no sizes leave pyarrow as Python's own exceptions.
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise DamageError(f"{prefix}{reason(error)}") from error


def _read(
    parquet: Any, number: int, group: Group, columns: Sequence[str]
) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[Any] | None]:
    """The columns of a row group, and seq where the statistics do not prove it.

    Raises:
        DamageError: it cannot be decoded, or is not what its statistics say.
    """
    proven = group.last_seq - group.first_seq + 1 == group.rows
    names = [*columns] if proven else [*columns, "seq"]
    with _translated():
        table = parquet.read_row_group(number, columns=names, use_threads=False)
        read = {name: _array(table.column(name)) for name in names}
    if any(len(values) != group.rows or values.dtype != _dtype(name) for name, values in read.items()):
        raise DamageError("its columns have other lengths or types than the footer says")
    seqs = None if proven else read.pop("seq")
    if seqs is not None and (seqs[0] != group.first_seq or seqs[-1] != group.last_seq or not (seqs[1:] > seqs[:-1]).all()):
        raise DamageError("its seqs are not what its statistics say")
    times = read.get("time_ns")
    # Where the clock never goes backwards the ends are the extremes; where it does, they must be looked for.
    if (
        times is not None
        and (times[0] != group.first_ns or times[-1] != group.last_ns)
        and (int(times.min()) != group.first_ns or int(times.max()) != group.last_ns)
    ):
        raise DamageError("its times are not what its statistics say")
    return read, seqs


def _array(column: Any) -> npt.NDArray[Any]:
    chunk = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if chunk.null_count:  # format version 1
        chunk = chunk.fill_null(NULL)
    values: npt.NDArray[Any] = chunk.to_numpy(zero_copy_only=True)
    return values


def _dtype(column: str) -> type[np.signedinteger[Any]]:
    return np.int16 if column == "kind" else np.int64
